"""Static descriptions: the first paragraphs of each entity's page, from a local file or from a wiki."""

from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from foundation.errors import PassingError, UserError
from foundation.progress import Bar
from pipeline.enhance import output, pagefile
from pipeline.enhance.mediawiki import EXTRACTS, ITEMS, STOPPED_AFTER, MediaWiki, batches, store_name
from pipeline.enhance.patience import GivenUp, Pace, Patience, TooLarge, check_address
from pipeline.enhance.store import Kept, opened
from pipeline.enhance.text import describe
from pipeline.enhance.titles import QID, page_key, possible

FAILED = "not fetched"


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Write the static descriptions of a prepared dataset.

    job: dataset (prepared folder), pages (file) or wiki_api with wiki_text (extracts, parse), wiki_contact, wiki_rate (requests a second),
    wikidata_api (optional) with wiki_site; paragraphs, max_chars; kept (folder of what was fetched); max_failed (entities that may stay unfetched);
    patience (fields of `Patience`); dry (count only, write nothing). Returns the report. Raises `UserError`, and `PassingError` where pages could
    not be had now; what was fetched is kept, and the same job goes on.
    """
    entities = output.read_entities(Path(job["dataset"]))
    if job.get("pages"):
        raw, reasons, counts = _from_file(entities, Path(job["pages"]))
    elif job.get("wiki_api"):
        raw, reasons, counts = _from_wiki(entities, job)
    else:
        raise UserError(
            "EnhanceEntities --mode static: name a file with --pages, or a wiki with --wiki-api https://HOST/w/api.php"
        )
    if job.get("dry"):
        return {"mode": "static", "entities": len(raw), **counts}
    failed = reasons.count(FAILED)
    if failed > job.get("max_failed", 0):
        raise PassingError(
            f"{failed:,} of {len(raw):,} pages could not be fetched now; the same command asks for these alone, and --max-failed {failed} goes on "
            "without them"
        )
    texts: list[str | None] = []
    for row, page in enumerate(raw):
        text = describe(page, job["paragraphs"], job["max_chars"]) if page else ""
        texts.append(text or None)
        if page and not text:
            reasons[row] = "page without text"
    return output.write(Path(job["dataset"]), "static", entities, texts, reasons, {}, counts)


def _shared(entities: dict[str, list[Any]]) -> set[str]:
    """Page keys of the names that several entities have: such a name does not say whose page it is."""
    return {key for key, count in Counter(page_key(name) for name in entities["name"]).items() if count > 1}


def _from_file(entities: dict[str, list[Any]], path: Path) -> tuple[list[str | None], list[str | None], dict[str, Any]]:
    """Texts by the entity's id or, where no other entity has it, by its name."""
    shared = _shared(entities)
    keys = [(page_key(name), page_key(label)) for name, label in zip(entities["id"], entities["name"], strict=True)]
    found = pagefile.texts(path, {key for pair in keys for key in pair})
    raw: list[str | None] = []
    reasons: list[str | None] = []
    for by_id, by_name in keys:
        text = found.get(by_id) or (None if by_name in shared else found.get(by_name))
        raw.append(text)
        reasons.append(
            None if text else "only under a name that several entities have" if by_name in found else "not in the file"
        )
    return raw, reasons, {}


def _from_wiki(
    entities: dict[str, list[Any]], job: dict[str, Any]
) -> tuple[list[str | None], list[str | None], dict[str, Any]]:
    if not job["wiki_contact"].strip():
        raise UserError(
            "--wiki-contact: give an e-mail or web address; wikis ask that programs say whom they belong to"
        )
    api, writable = check_address("--wiki-api", job["wiki_api"]), not job.get("dry")
    pace, patience, kept = Pace(job["wiki_rate"]), Patience(**job.get("patience") or {}), Path(job["kept"])
    ids, counts = entities["id"], {"requests": 0, "reused": 0}
    titles: list[str | None] = [page_key(name) for name in entities["name"]]
    linked: set[int] = set()
    unfetched: set[int] = set()
    if job.get("wikidata_api"):
        address = check_address("--wikidata-api", job["wikidata_api"])
        qids = sorted({name for name in ids if QID.fullmatch(name)})
        place = kept / store_name("sitelinks", address, job["wiki_site"])
        with opened(place, writable) as links, closing(MediaWiki(address, job["wiki_contact"], pace, patience)) as wiki:
            _fill(
                links, qids, ITEMS, lambda group: _titled(wiki.sitelinks(group, job["wiki_site"])), "QIDs", job, counts
            )
            counts["requests"] += wiki.requests
            for row, name in enumerate(ids):
                if name in links:
                    titles[row] = links.get(name).get("title")
                    linked.add(row)
                elif QID.fullmatch(name) and writable:
                    unfetched.add(row)
    place = kept / store_name("pages", api, job["wiki_text"])
    with (
        opened(place, writable) as pages,
        closing(MediaWiki(api, job["wiki_contact"], pace, patience, job["wiki_text"])) as wiki,
    ):
        wanted = sorted(
            {title for row, title in enumerate(titles) if title and row not in unfetched and possible(title)}
        )
        _fill(
            pages, wanted, EXTRACTS if job["wiki_text"] == "extracts" else 1, wiki.introductions, "pages", job, counts
        )
        counts["requests"] += wiki.requests
        shared = _shared(entities)
        rows = [
            (None, FAILED) if row in unfetched else _page(ids[row], title, row in linked, shared, pages)
            for row, title in enumerate(titles)
        ]
    return [text for text, _ in rows], [reason for _, reason in rows], counts


def _titled(links: dict[str, str | None]) -> dict[str, dict[str, Any]]:
    return {qid: {"title": title} for qid, title in links.items()}


def _page(name: str, title: str | None, by_link: bool, shared: set[str], pages: Kept) -> tuple[str | None, str | None]:
    """(text, why there is none) of one entity."""
    if title is None:
        return None, "no page on this wiki"
    if not possible(title):
        return None, "name that no page can have"
    page = pages.get(title)
    if page is None:
        return None, FAILED
    if "none" in page:
        return None, page["none"]
    if not by_link:
        if QID.fullmatch(name) and page["item"]:
            if page["item"] != name:
                return None, "page of another entity"
        elif page_key(title) in shared:
            return None, "only under a name that several entities have"
    return page["text"], None


def _fill(
    kept: Kept, wanted: list[str], size: int, fetch: Any, what: str, job: dict[str, Any], counts: dict[str, Any]
) -> None:
    """Fetch what is not kept yet, in batches; a batch that is too large is halved, one that fails is left for the next run."""
    missing = [key for key in wanted if key not in kept]
    counts["reused"] += len(wanted) - len(missing)
    waiting = batches(missing, size)
    if job.get("dry"):
        counts["requests"] += len(waiting)
        return
    in_a_row = 0
    with Bar(len(missing), what, "page") as bar:
        waiting.reverse()
        while waiting:
            group = waiting.pop()
            try:
                found = fetch(group)
            except TooLarge:
                if len(group) > 1:
                    middle = len(group) // 2
                    waiting += [group[middle:], group[:middle]]
                    continue
                found = {group[0]: {"none": "page too large", "title": None}}
            except GivenUp as error:
                in_a_row += 1
                if in_a_row == STOPPED_AFTER:
                    left = f"{len(missing) - bar.done:,} of {len(wanted):,} {what} are still to fetch"
                    raise PassingError(f"{error}; {left}; the same command goes on there") from None
                continue
            in_a_row = 0
            kept.put_all({key: found[key] for key in group})
            bar.update(len(group))
