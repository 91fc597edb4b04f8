"""Static descriptions: the first paragraphs of each entity's page, from a local file or from a wiki."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from foundation.errors import PassingError, UserError
from foundation.progress import Bar
from pipeline.datasets.records import Entity
from pipeline.enhance import output, pagefile
from pipeline.enhance.contracts import DescriptionsReport, RunUsage, StaticEstimate, StaticJob, Wiki
from pipeline.enhance.mediawiki import EXTRACTS, ITEMS, STOPPED_AFTER, MediaWiki, batches, store_name
from pipeline.enhance.output import EntityText
from pipeline.enhance.patience import OutOfTries, Pace, TooLarge, check_address
from pipeline.enhance.store import AnswerStore, answer_store
from pipeline.enhance.text import opening
from pipeline.enhance.titles import page_key, possible, qid_of

FAILED = "not fetched"
AMBIGUOUS = "only under a name that several entities have"


def describe(job: StaticJob) -> DescriptionsReport:
    """Write the static descriptions of a prepared dataset.

    Raises `UserError` for what the user must mend, and `PassingError` where pages could not be had now: what was
    fetched is kept, and the same job goes on there.
    """
    entities = output.read_entities(job.dataset)
    fetcher = _Fetcher(dry=False)
    pages, usage = _pages(job, entities, fetcher)
    failed = sum(page.reason == FAILED for page in pages)
    if failed > job.max_failed:
        raise PassingError(
            f"{failed:,} of {len(pages):,} pages could not be fetched now: {fetcher.failure}; the same command asks "
            f"for these alone, and --max-failed {failed} goes on without them"
        )
    outcomes = [_shortened(page, job) for page in pages]
    return output.write(job.dataset, entities, outcomes, replace(output.report("static", outcomes), usage=usage))


def estimate(job: StaticJob) -> StaticEstimate:
    """How many requests the job would make. Asks nothing and writes nothing."""
    entities = output.read_entities(job.dataset)
    _, usage = _pages(job, entities, _Fetcher(dry=True))
    return StaticEstimate(entities=len(entities), requests=usage.requests, reused=usage.reused)


def _pages(job: StaticJob, entities: Sequence[Entity], fetcher: "_Fetcher") -> tuple[list[EntityText], RunUsage]:
    """The whole page of each entity, or why it has none."""
    if job.pages:
        return _from_file(entities, job.pages), RunUsage()
    if job.wiki:
        return _from_wiki(entities, job, job.wiki, fetcher)
    raise UserError(
        "EnhanceEntities --mode static: name a file with --pages, or a wiki with --wiki-api https://HOST/w/api.php"
    )


def _shortened(page: EntityText, job: StaticJob) -> EntityText:
    if not page.text:
        return page
    text = opening(page.text, job.paragraphs, job.max_chars)
    return EntityText(text, None) if text else EntityText(None, "page without text")


def _shared(entities: Sequence[Entity]) -> set[str]:
    """Page keys of the names that several entities have: such a name does not say whose page it is."""
    return {key for key, count in Counter(page_key(entity.name) for entity in entities).items() if count > 1}


def _from_file(entities: Sequence[Entity], path: Path) -> list[EntityText]:
    """Texts by the entity's id or, where no other entity has it, by its name."""
    shared = _shared(entities)
    keys = [(page_key(entity.id), page_key(entity.name)) for entity in entities]
    texts = pagefile.texts(path, {key for pair in keys for key in pair})
    pages = []
    for by_id, by_name in keys:
        text = texts.get(by_id) or (None if by_name in shared else texts.get(by_name))
        reason = AMBIGUOUS if by_name in texts else "not in the file"
        pages.append(EntityText(text, None if text else reason))
    return pages


def _from_wiki(
    entities: Sequence[Entity], job: StaticJob, wiki: Wiki, fetcher: "_Fetcher"
) -> tuple[list[EntityText], RunUsage]:
    if not wiki.contact.strip():
        raise UserError(
            "--wiki-contact: give an e-mail or web address; wikis ask that programs say whom they belong to"
        )
    api, pace, dry = check_address("--wiki-api", wiki.api), Pace(wiki.rate), fetcher.dry
    titles: list[str | None] = [page_key(entity.name) for entity in entities]
    linked: set[int] = set()
    unfetched: set[int] = set()
    if wiki.wikidata_api:
        address = check_address("--wikidata-api", wiki.wikidata_api)
        qids = [qid_of(entity.id) for entity in entities]
        place = job.answers / store_name("sitelinks", address, wiki.site)
        with (
            answer_store(place, not dry) as links,
            closing(MediaWiki(address, wiki.contact, pace, job.patience)) as wikidata,
        ):

            def titles_behind(group: list[str]) -> dict[str, dict[str, Any]]:
                return {qid: {"title": title} for qid, title in wikidata.sitelinks(group, wiki.site).items()}

            fetcher.fill(links, sorted(filter(None, set(qids))), ITEMS, titles_behind, "QIDs")
            fetcher.requests += wikidata.requests
            for row, qid in enumerate(qids):
                if qid and qid in links:
                    titles[row] = links.get(qid).get("title")
                    linked.add(row)
                elif qid and not dry:
                    unfetched.add(row)
    place = job.answers / store_name("pages", api, wiki.form)
    client = MediaWiki(api, wiki.contact, pace, job.patience, wiki.form)
    with answer_store(place, not dry) as pages, closing(client):
        names = {title for row, title in enumerate(titles) if title and row not in unfetched and possible(title)}
        size = EXTRACTS if wiki.form == "extracts" else 1
        fetcher.fill(pages, sorted(names), size, client.introductions, "pages")
        fetcher.requests += client.requests
        shared = _shared(entities)
        outcomes = [
            EntityText(None, FAILED)
            if row in unfetched
            else _page(entities[row].id, title, row in linked, shared, pages)
            for row, title in enumerate(titles)
        ]
    return outcomes, RunUsage(requests=fetcher.requests, reused=fetcher.reused)


def _page(name: str, title: str | None, by_link: bool, shared: set[str], pages: AnswerStore) -> EntityText:
    """The page of one entity. name: its id; by_link: whether Wikidata gave the title."""
    if title is None:
        return EntityText(None, "no page on this wiki")
    if not possible(title):
        return EntityText(None, "name that no page can have")
    page = pages.get(title)
    if page is None:
        return EntityText(None, FAILED)
    if "none" in page:
        return EntityText(None, page["none"])
    if not by_link:
        qid = qid_of(name)
        if qid and page["item"]:
            if page["item"] != qid:
                return EntityText(None, "page of another entity")
        elif page_key(title) in shared:
            return EntityText(None, AMBIGUOUS)
    return EntityText(page["text"], None)


class _Fetcher:
    """Fetches what the store lacks; counts requests and what the store has. dry: requests are counted, none is made.
    failure: what went wrong with the last request that failed.
    """

    def __init__(self, dry: bool) -> None:
        self.dry, self.requests, self.reused, self.failure = dry, 0, 0, ""

    def fill(
        self,
        store: AnswerStore,
        keys: Sequence[str],
        size: int,
        fetch: Callable[[list[str]], Mapping[str, Any]],
        unit: str,
    ) -> None:
        """Fetch `keys` in batches of at most `size`; one that is too large is halved, one that fails is left for the
        next run.

        Raises `PassingError` after `STOPPED_AFTER` failures in a row.
        """
        missing = [key for key in keys if key not in store]
        self.reused += len(keys) - len(missing)
        waiting = batches(missing, size)
        if self.dry:
            self.requests += len(waiting)
            return
        failures = 0
        with Bar(len(missing), unit, "page") as bar:
            waiting.reverse()
            while waiting:
                group = waiting.pop()
                try:
                    values = fetch(group)
                except TooLarge:
                    if len(group) > 1:
                        middle = len(group) // 2
                        waiting += [group[middle:], group[:middle]]
                        continue
                    values = {group[0]: {"none": "page too large", "title": None}}
                except OutOfTries as error:
                    failures, self.failure = failures + 1, str(error)
                    if failures == STOPPED_AFTER:
                        left = f"{len(missing) - bar.done:,} of {len(keys):,} {unit} are still to fetch"
                        raise PassingError(f"{error}; {left}; the same command goes on there") from None
                    continue
                failures = 0
                store.put_all({key: values[key] for key in group})
                bar.update(len(group))
