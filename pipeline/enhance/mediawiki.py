"""A MediaWiki client: the introduction of pages by title, and the titles behind QIDs."""

from collections.abc import Mapping, Sequence
from typing import Any

from foundation.errors import UserError
from pipeline.enhance.text import LONGEST, html_text, whole
from pipeline.servers.contracts import Patience
from pipeline.servers.mediawiki import Api, lacks_pages, part, records, user_agent
from pipeline.servers.patience import Pace, brief
from pipeline.servers.wikidata import entities

EXTRACTS = 20  # introductions in one answer, the API's own limit


class MediaWiki(Api):
    """`form`: `extracts` (the TextExtracts extension's plain text) or `parse` (rendered HTML, for wikis without it)."""

    def __init__(self, address: str, contact: str, pace: Pace, patience: Patience, form: str = "extracts") -> None:
        super().__init__(address, user_agent("entity descriptions for entity linking", contact), pace, patience)
        self.form = form

    # Introductions

    def introductions(self, titles: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Title → {`text`, `item` (the page's QID or None)} or {`none`: why there is no page of its own}."""
        return self._extracts(titles) if self.form == "extracts" else {title: self._parsed(title) for title in titles}

    def _extracts(self, titles: Sequence[str]) -> dict[str, dict[str, Any]]:
        parameters = {
            "action": "query",
            "prop": "extracts|pageprops",
            "ppprop": "disambiguation|wikibase_item",
            "exintro": "1",
            "explaintext": "1",
            "exlimit": "max",
            "redirects": "1",
            "titles": "|".join(titles),
        }
        names: dict[str, str] = {}
        sections: set[str] = set()
        pages: dict[str, dict[str, Any]] = {}
        more: dict[str, str] = {}
        for _ in range(2 + len(titles)):
            content = self.checked({**parameters, **more}, _lacks)
            warnings = brief(content.get("warnings", ""), 2000)
            if "extracts" in warnings and "nrecognized" in warnings:
                raise UserError(f"{self.address} has no TextExtracts extension; use --wiki-text parse")
            query = part(content, "query")
            for hop in [*records(query, "normalized"), *records(query, "redirects")]:
                names[str(hop.get("from"))] = str(hop.get("to"))
                sections |= {str(hop.get("from"))} if hop.get("tofragment") else set()
            for page in records(query, "pages"):
                pages.setdefault(str(page.get("title")), {}).update(
                    {key: value for key, value in page.items() if value is not None}
                )
            more = {str(key): str(value) for key, value in part(content, "continue").items()}
            if not more:
                break
        return {title: self._verdict(*_followed(title, names), pages, sections) for title in titles}

    @staticmethod
    def _verdict(page: str, hops: list[str], pages: Mapping[str, dict[str, Any]], sections: set[str]) -> dict[str, Any]:
        record = pages.get(page, {})
        properties = part(record, "pageprops")
        if not record or record.get("missing", False) is not False or record.get("invalid"):
            return {"none": "no page"}
        if "disambiguation" in properties:
            return {"none": "disambiguation page"}
        if sections & {page, *hops}:
            return {"none": "section of another page"}
        text = record.get("extract")
        item = properties.get("wikibase_item")
        if not isinstance(text, str) or not text.strip():
            return {"none": "page without text"}
        return {"text": whole(text[:LONGEST]), "item": item if isinstance(item, str) else None}

    def _parsed(self, title: str) -> dict[str, Any]:
        parameters = {
            "action": "parse",
            "page": title,
            "prop": "text|properties",
            "section": "0",
            "redirects": "1",
            "disableeditsection": "1",
            "disabletoc": "1",
        }
        content = self.ask(parameters, lambda answer: None if part(answer, "parse") else "parse")
        if part(content, "error").get("code") in ("missingtitle", "invalidtitle", "pagecannotexist"):
            return {"none": "no page"}
        if "error" in content:
            raise self.refusal("parse", content)
        parse = part(content, "parse")
        properties = part(parse, "properties")
        if any(hop.get("tofragment") for hop in records(parse, "redirects")):
            return {"none": "section of another page"}
        if "disambiguation" in properties:
            return {"none": "disambiguation page"}
        text = html_text(parse["text"]) if isinstance(parse.get("text"), str) else ""
        item = properties.get("wikibase_item")
        if not text:
            return {"none": "page without text"}
        return {"text": whole(text[:LONGEST]), "item": item if isinstance(item, str) else None}

    # Titles behind QIDs

    def sitelinks(self, qids: Sequence[str], site: str) -> dict[str, str | None]:
        """QID → title of its page on `site` (e.g. `enwiki`), None where it has none."""
        titles: dict[str, str | None] = {}
        for qid, entity in entities(self, qids, {"props": "sitelinks", "sitefilter": site}).items():
            title = part(part(entity or {}, "sitelinks"), site).get("title")
            titles[qid] = whole(title) if isinstance(title, str) else None
        return titles


def _lacks(content: Mapping[str, Any]) -> str | None:
    """What an answer about introductions lacks; one that warns says what is wrong with the question."""
    return None if "warnings" in content else lacks_pages(content)


def _followed(title: str, names: Mapping[str, str]) -> tuple[str, list[str]]:
    """The page that a title leads to, and what it led through."""
    hops: list[str] = []
    while title in names and title not in hops and len(hops) < 10:
        hops.append(title)
        title = names[title]
    return title, hops
