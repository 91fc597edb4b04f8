"""A MediaWiki client: the introduction of pages by title, and the titles behind QIDs."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from foundation import extras
from foundation.errors import UserError
from pipeline.enhance.patience import PASSING, Again, Pace, Patience, brief, opening_of, persist, read, retry_after
from pipeline.enhance.text import LONGEST, html_text, whole

EXTRACTS = 20  # introductions in one answer, the API's own limit
ITEMS = 50  # QIDs in one request
URL_BYTES = 6000
_PASSING_CODES = {
    "maxlag",
    "ratelimited",
    "readonly",
    "internal_api_error_DBQueryError",
    "internal_api_error_DBConnectionError",
}
STOPPED_AFTER = 3  # requests in a row that failed for good: the server is not there


def store_name(kind: str, *settings: str) -> str:
    """File name for the answers of a server under these settings."""
    return f"{kind}-{hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]}.jsonl"


class MediaWiki:
    """One API address. `form`: `extracts` (the TextExtracts extension's plain text) or `parse` (rendered HTML, for
    wikis without it).
    """

    def __init__(self, address: str, contact: str, pace: Pace, patience: Patience, form: str = "extracts") -> None:
        self.address, self.pace, self.patience, self.form, self.requests = address, pace, patience, form, 0
        purpose = f"(entity descriptions for entity linking; {contact})"
        agent = f"{extras.DISTRIBUTION}/{extras.version()} {purpose} httpx/{httpx.__version__}"
        timeout = httpx.Timeout(patience.timeout)
        self.client = httpx.Client(
            headers={"User-Agent": agent, "Accept-Encoding": "gzip"}, timeout=timeout, follow_redirects=False
        )

    def close(self) -> None:
        self.client.close()

    def _once(self, parameters: Mapping[str, str]) -> dict[str, Any]:
        started = time.monotonic()
        self.requests += 1
        try:
            with self.client.stream(
                "GET", self.address, params={**parameters, "format": "json", "formatversion": "2", "maxlag": "5"}
            ) as answer:
                status, after = answer.status_code, retry_after(answer.headers)
                if answer.is_redirect:
                    target = brief(answer.headers.get("location", "nowhere"))
                    raise UserError(f"{self.address} redirects to {target}; give the final address")
                if status in PASSING:
                    raise Again(f"{self.address} answers {status}", after)
                if status != 200:
                    raise UserError(
                        f"{self.address} answers {status}; check the address (it must be the wiki's api.php) and "
                        "--wiki-contact"
                    )
                body = read(answer.iter_bytes(), self.patience, started)
        except httpx.HTTPError as error:
            raise Again(f"{self.address}: {type(error).__name__} {brief(error)}".rstrip()) from None
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            raise Again(f"{self.address} answers with something that is not JSON: {opening_of(body)}", after) from None
        if not isinstance(content, dict):
            raise Again(f"{self.address} answers with JSON that is no object", after)
        code = _part(content, "error").get("code")
        if code in _PASSING_CODES:
            raise Again(f"{self.address}: {brief(code)}", after)
        return content

    def ask(self, parameters: Mapping[str, str]) -> dict[str, Any]:
        """One request, tried again where that may help.

        Raises `OutOfTries`, `TooLarge`, or `UserError` for what the user must mend.
        """
        return persist(lambda: self._once(parameters), self.pace, self.patience)

    def _checked(self, parameters: Mapping[str, str]) -> dict[str, Any]:
        content = self.ask(parameters)
        if "error" in content:
            raise self._refusal(parameters["action"], content)
        return content

    def _refusal(self, action: str, content: dict[str, Any]) -> UserError:
        error = _part(content, "error")
        return UserError(f"{self.address} refuses {action}: {brief(error.get('code'))}: {brief(error.get('info'))}")

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
            content = self._checked({**parameters, **more})
            warnings = brief(content.get("warnings", ""), 2000)
            if "extracts" in warnings and "nrecognized" in warnings:
                raise UserError(f"{self.address} has no TextExtracts extension; use --wiki-text parse")
            query = _part(content, "query")
            for hop in [*_records(query, "normalized"), *_records(query, "redirects")]:
                names[str(hop.get("from"))] = str(hop.get("to"))
                sections |= {str(hop.get("from"))} if hop.get("tofragment") else set()
            for page in _records(query, "pages"):
                pages.setdefault(str(page.get("title")), {}).update(
                    {key: value for key, value in page.items() if value is not None}
                )
            more = {str(key): str(value) for key, value in _part(content, "continue").items()}
            if not more:
                break
        return {title: self._verdict(*_followed(title, names), pages, sections) for title in titles}

    @staticmethod
    def _verdict(page: str, hops: list[str], pages: Mapping[str, dict[str, Any]], sections: set[str]) -> dict[str, Any]:
        record = pages.get(page, {})
        properties = _part(record, "pageprops")
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
        content = self.ask(parameters)
        if _part(content, "error").get("code") in ("missingtitle", "invalidtitle", "pagecannotexist"):
            return {"none": "no page"}
        if "error" in content:
            raise self._refusal("parse", content)
        parse = _part(content, "parse")
        properties = _part(parse, "properties")
        if any(hop.get("tofragment") for hop in _records(parse, "redirects")):
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
        left = list(qids)
        titles: dict[str, str | None] = dict.fromkeys(qids)
        while left:
            content = self.ask(
                {"action": "wbgetentities", "ids": "|".join(left), "props": "sitelinks", "sitefilter": site}
            )
            error = _part(content, "error")
            if error.get("code") == "no-such-entity" and error.get("id") in left:
                left.remove(error["id"])  # one unknown id fails the whole request
                continue
            if error:
                raise self._refusal("wbgetentities", content)
            entities = _part(content, "entities")
            for qid in entities:
                entity = _part(entities, qid)
                title = _part(_part(entity, "sitelinks"), site).get("title")
                for name in {qid, str(_part(entity, "redirects").get("from"))} & set(left):
                    titles[name] = whole(title) if isinstance(title, str) else None
            break
        return titles


def _part(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The object under `name`; empty where none or something else stands there."""
    part = value.get(name)
    return part if isinstance(part, dict) else {}


def _records(value: Any, name: str) -> list[dict[str, Any]]:
    """The objects of a list in an answer, whatever else may stand there."""
    listed = value.get(name) if isinstance(value, dict) else None
    if isinstance(listed, dict):  # formatversion 1 keys pages by number
        listed = list(listed.values())
    return [record for record in listed if isinstance(record, dict)] if isinstance(listed, list) else []


def _followed(title: str, names: Mapping[str, str]) -> tuple[str, list[str]]:
    """The page that a title leads to, and what it led through."""
    hops: list[str] = []
    while title in names and title not in hops and len(hops) < 10:
        hops.append(title)
        title = names[title]
    return title, hops


def batches(titles: Sequence[str], size: int) -> list[list[str]]:
    """Titles in groups of at most `size` whose address stays short enough for any server."""
    groups: list[list[str]] = []
    length = 0
    for title in titles:
        cost = 3 * len(title.encode()) + 3
        if not groups or len(groups[-1]) == size or length + cost > URL_BYTES:
            groups.append([])
            length = 0
        groups[-1].append(title)
        length += cost
    return groups
