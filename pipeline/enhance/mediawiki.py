"""A MediaWiki client: the introduction of pages by title, and the titles behind QIDs."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from foundation import extras
from foundation.errors import UserError
from pipeline.enhance.patience import PASSING, Again, Pace, Patience, brief, persist, read, retry_after
from pipeline.enhance.text import LONGEST, html_text

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
    """File name for what a server said under these settings."""
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
                    raise UserError(
                        f"{self.address} redirects to {brief(answer.headers.get('location', 'nowhere'))}; give the final address"
                    )
                if status in PASSING:
                    raise Again(f"{self.address} answers {status}", after)
                if status != 200:
                    raise UserError(
                        f"{self.address} answers {status}; check the address (it must be the wiki's api.php) and --wiki-contact"
                    )
                body = read(answer.iter_bytes(), self.patience, started)
        except httpx.HTTPError as error:
            raise Again(f"{self.address}: {type(error).__name__} {brief(error)}".rstrip()) from None
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            raise Again(f"{self.address} answers with something that is not JSON", after) from None
        if not isinstance(content, dict):
            raise Again(f"{self.address} answers with JSON that is no object", after)
        error = content.get("error")
        if isinstance(error, dict) and error.get("code") in _PASSING_CODES:
            raise Again(f"{self.address}: {brief(error.get('code'))}", after)
        return content

    def ask(self, parameters: Mapping[str, str]) -> dict[str, Any]:
        """One request, tried again where that may help. Raises `GivenUp`, `TooLarge`, or `UserError` for what the user
        must mend.
        """
        return persist(lambda: self._once(parameters), self.pace, self.patience)

    def _checked(self, parameters: Mapping[str, str]) -> dict[str, Any]:
        content = self.ask(parameters)
        if "error" in content:
            error = content["error"] if isinstance(content["error"], dict) else {}
            raise UserError(
                f"{self.address} refuses {parameters.get('action')}: {brief(error.get('code'))}: {brief(error.get('info'))}"
            )
        return content

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
            if "extracts" in brief(content.get("warnings", ""), 2000) and "nrecognized" in brief(
                content.get("warnings", ""), 2000
            ):
                raise UserError(f"{self.address} has no TextExtracts extension; use --wiki-text parse")
            query = content.get("query") if isinstance(content.get("query"), dict) else {}
            for hop in [*_records(query, "normalized"), *_records(query, "redirects")]:
                names[str(hop.get("from"))] = str(hop.get("to"))
                sections |= {str(hop.get("from"))} if hop.get("tofragment") else set()
            for page in _records(query, "pages"):
                pages.setdefault(str(page.get("title")), {}).update(
                    {key: value for key, value in page.items() if value is not None}
                )
            more = (
                {str(key): str(value) for key, value in content["continue"].items()}
                if isinstance(content.get("continue"), dict)
                else {}
            )
            if not more:
                break
        return {title: self._verdict(*_followed(title, names), pages, sections) for title in titles}

    @staticmethod
    def _verdict(page: str, hops: list[str], pages: Mapping[str, dict[str, Any]], sections: set[str]) -> dict[str, Any]:
        found = pages.get(page, {})
        properties = found.get("pageprops") if isinstance(found.get("pageprops"), dict) else {}
        if not found or "missing" in found and found["missing"] is not False or found.get("invalid"):
            return {"none": "no page"}
        if "disambiguation" in properties:
            return {"none": "disambiguation page"}
        if sections & {page, *hops}:
            return {"none": "section of another page"}
        text = found.get("extract")
        item = properties.get("wikibase_item")
        if not isinstance(text, str) or not text.strip():
            return {"none": "page without text"}
        return {"text": text[:LONGEST], "item": item if isinstance(item, str) else None}

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
        if "error" in content:
            error = content["error"] if isinstance(content["error"], dict) else {}
            if error.get("code") in ("missingtitle", "invalidtitle", "pagecannotexist"):
                return {"none": "no page"}
            raise UserError(f"{self.address} refuses parse: {brief(error.get('code'))}: {brief(error.get('info'))}")
        parse = content.get("parse") if isinstance(content.get("parse"), dict) else {}
        properties = parse.get("properties") if isinstance(parse.get("properties"), dict) else {}
        if any(hop.get("tofragment") for hop in _records(parse, "redirects")):
            return {"none": "section of another page"}
        if "disambiguation" in properties:
            return {"none": "disambiguation page"}
        text = html_text(parse["text"]) if isinstance(parse.get("text"), str) else ""
        item = properties.get("wikibase_item")
        return (
            {"text": text[:LONGEST], "item": item if isinstance(item, str) else None}
            if text
            else {"none": "page without text"}
        )

    # Titles behind QIDs

    def sitelinks(self, qids: Sequence[str], site: str) -> dict[str, str | None]:
        """QID → title of its page on `site` (e.g. `enwiki`), None where it has none."""
        left, found = list(qids), dict.fromkeys(qids)
        while left:
            content = self.ask(
                {"action": "wbgetentities", "ids": "|".join(left), "props": "sitelinks", "sitefilter": site}
            )
            error = content.get("error")
            if isinstance(error, dict):
                if error.get("code") == "no-such-entity" and error.get("id") in left:
                    left.remove(error["id"])  # one unknown id fails the whole request
                    continue
                raise UserError(
                    f"{self.address} refuses wbgetentities: {brief(error.get('code'))}: {brief(error.get('info'))}"
                )
            entities = content.get("entities") if isinstance(content.get("entities"), dict) else {}
            for qid, entity in entities.items():
                entity = entity if isinstance(entity, dict) else {}
                links = entity.get("sitelinks") if isinstance(entity.get("sitelinks"), dict) else {}
                title = links[site].get("title") if isinstance(links.get(site), dict) else None
                moved = entity.get("redirects") if isinstance(entity.get("redirects"), dict) else {}
                for name in {qid, moved.get("from")} & set(left):
                    found[name] = title if isinstance(title, str) else None
            break
        return found


def _records(value: Any, name: str) -> list[dict[str, Any]]:
    """The objects of a list in an answer, whatever else may stand there."""
    listed = value.get(name) if isinstance(value, dict) else None
    if isinstance(listed, dict):  # formatversion 1 keys pages by number
        listed = list(listed.values())
    return [record for record in listed if isinstance(record, dict)] if isinstance(listed, list) else []


def _followed(title: str, names: Mapping[str, str]) -> tuple[str, list[str]]:
    """The page that a title leads to, and what it led through."""
    hops = []
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
