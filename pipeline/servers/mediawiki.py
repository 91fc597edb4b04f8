"""A client of a MediaWiki's api.php: one request at a time, at a pace, tried again where that may help."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx

from foundation import extras
from foundation.errors import UserError
from pipeline.servers.contracts import Patience
from pipeline.servers.patience import PASSING, Again, Pace, brief, opening_of, persist, read, retry_after

ITEMS = 50
"""QIDs or titles in one request, the API's own limit."""
URL_BYTES = 6000
_PASSING_CODES = {
    "maxlag",
    "ratelimited",
    "readonly",
    "internal_api_error_DBQueryError",
    "internal_api_error_DBConnectionError",
}


def store_name(kind: str, *settings: str) -> str:
    """File name for the answers of a server under these settings."""
    return f"{kind}-{hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]}.jsonl"


def user_agent(purpose: str, contact: str) -> str:
    """What a program says of itself to a server: its name and version, what it does, and how to reach its user."""
    return f"{extras.DISTRIBUTION}/{extras.version()} ({purpose}; {contact}) httpx/{httpx.__version__}"


class Api:
    """One API address. requests: how many were made."""

    def __init__(self, address: str, agent: str, pace: Pace, patience: Patience) -> None:
        """agent: see `user_agent`."""
        self.address, self.pace, self.patience, self.requests = address, pace, patience, 0
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
        code = part(content, "error").get("code")
        if code in _PASSING_CODES:
            raise Again(f"{self.address}: {brief(code)}", after)
        return content

    def ask(
        self, parameters: Mapping[str, str], lacks: Callable[[dict[str, Any]], str | None] = lambda _: None
    ) -> dict[str, Any]:
        """One request, tried again where that may help. lacks: what an answer lacks to be one; it is asked for again.

        Raises `OutOfTries`, `TooLarge`, or `UserError` for what the user must mend.
        """

        def once() -> dict[str, Any]:
            content = self._once(parameters)
            lacking = None if "error" in content else lacks(content)
            if lacking:
                raise Again(f"{self.address} answers without {lacking}")
            return content

        return persist(once, self.pace, self.patience)

    def checked(
        self, parameters: Mapping[str, str], lacks: Callable[[dict[str, Any]], str | None] = lambda _: None
    ) -> dict[str, Any]:
        """As `ask`; an error that the server names is a `UserError`."""
        content = self.ask(parameters, lacks)
        if "error" in content:
            raise self.refusal(parameters["action"], content)
        return content

    def refusal(self, action: str, content: dict[str, Any]) -> UserError:
        error = part(content, "error")
        return UserError(f"{self.address} refuses {action}: {brief(error.get('code'))}: {brief(error.get('info'))}")


def part(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The object under `name`; empty where none or something else stands there."""
    part = value.get(name)
    return part if isinstance(part, dict) else {}


def records(value: Any, name: str) -> list[dict[str, Any]]:
    """The objects of a list in an answer, whatever else may stand there."""
    listed = value.get(name) if isinstance(value, dict) else None
    if isinstance(listed, dict):  # formatversion 1 keys pages by number
        listed = list(listed.values())
    return [record for record in listed if isinstance(record, dict)] if isinstance(listed, list) else []


def lacks_pages(content: Mapping[str, Any]) -> str | None:
    """What an answer about titles lacks: a server says of each that it is there, missing, or another wiki's."""
    query = content.get("query")
    return None if records(query, "pages") or records(query, "interwiki") else "pages"


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
