"""Static descriptions: the first paragraphs of each entity's page, from a local file or from a wiki."""

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from foundation.errors import PassingError, UserError
from pipeline.datasets.records import Entity
from pipeline.enhance import output, pagefile
from pipeline.enhance.contracts import DescriptionsReport, RunUsage, StaticEstimate, StaticJob, Wiki
from pipeline.enhance.mediawiki import EXTRACTS, MediaWiki
from pipeline.enhance.output import EntityText
from pipeline.enhance.text import opening
from pipeline.servers.fetching import Fetcher
from pipeline.servers.mediawiki import ITEMS, store_name
from pipeline.servers.patience import NO_CONTACT, Pace, check_address
from pipeline.servers.store import AnswerStore, answer_store
from pipeline.servers.titles import page_key, possible, qid_of

FAILED = "not fetched"
AMBIGUOUS = "only under a name that several entities have"


def describe(job: StaticJob) -> DescriptionsReport:
    """Write the static descriptions of a prepared dataset.

    Raises `UserError` for what the user must mend, and `PassingError` where pages could not be had now: what was
    fetched is kept, and the same job goes on there.
    """
    entities = output.read_entities(job.dataset)
    fetcher = Fetcher(dry=False)
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
    _, usage = _pages(job, entities, Fetcher(dry=True))
    return StaticEstimate(entities=len(entities), requests=usage.requests, reused=usage.reused)


def _pages(job: StaticJob, entities: Sequence[Entity], fetcher: Fetcher) -> tuple[list[EntityText], RunUsage]:
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
    entities: Sequence[Entity], job: StaticJob, wiki: Wiki, fetcher: Fetcher
) -> tuple[list[EntityText], RunUsage]:
    if not wiki.contact.strip():
        raise UserError(NO_CONTACT)
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
