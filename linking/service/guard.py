"""What stands before every request: who may ask, how much is read of it and for how long, and what no answer lacks."""

import asyncio
import contextlib
import json
import re
import secrets
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from foundation import logs
from linking.service.access import Access
from linking.service.meter import Meter
from linking.service.models import BODY

POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
}
"""Of every answer that does not say otherwise."""
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def as_json(status: int, reason: str, name: str) -> tuple[str, bytes]:
    """A refusal for a program, see `Manner.refusal`."""
    return "application/json", json.dumps({"error": reason, "request_id": name}).encode()


@dataclass(frozen=True)
class Manner:
    """What an application takes, and how it refuses.

    body: bytes of a request at most. drained: bytes of a larger one that are read and dropped before it is refused,
    because a browser shows no answer before it has sent all. seconds: for a request's body to come. requests: that are
    answered or read at once; one more is refused. headers: of every answer that does not say otherwise. refusal: kind
    and text of an answer, of its status, the reason and the request's id. open: how paths begin that need no token,
    because they say nothing of the run. challenge, token_lacks: header and reason of a refusal for want of the token.
    """

    body: int = BODY
    drained: int = 0
    seconds: float = 60.0
    requests: int = 128
    headers: Mapping[str, str] = field(default_factory=lambda: HEADERS)
    refusal: Callable[[int, str, str], tuple[str, bytes]] = as_json
    open: tuple[str, ...] = ("/health", "/docs", "/openapi.json", "/assets/")
    challenge: str = "Bearer"
    token_lacks: str = "the token lacks or is wrong: Authorization: Bearer TOKEN"


OF_PROGRAMS = Manner()
"""The manner of an application that programs ask."""


class Refused(Exception):
    """A request that is not answered. status: of HTTP. headers: further ones."""

    def __init__(self, status: int, reason: str, **headers: str) -> None:
        super().__init__(reason)
        self.status, self.headers = status, headers


class Guard:
    """An ASGI application around another. Every answer has an `X-Request-ID`, the request's own where it brings one.

    An error of the application ends as an answer 500 with the request's id, under which its traceback is on stderr.
    """

    def __init__(self, app: ASGIApp, access: Access, meter: Meter, manner: Manner = OF_PROGRAMS) -> None:
        self.app, self.access, self.meter, self.manner, self.active = app, access, meter, manner, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers, begun = Headers(scope=scope), time.monotonic()
        given = headers.get("x-request-id", "")
        name = given if _ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = name
        answer = _Answer(send, name, self.manner)
        self.active += 1
        try:
            self._check(scope, headers)
            body = await _body(headers, receive, self.manner)
            await self.app(scope, _Replay(body, receive), answer)
        except Refused as refused:
            await answer.refuse(refused)
        except Exception as error:
            logs.notice(f"request {name}: {''.join(traceback.format_exception(error))}", event="request-failed")
            with contextlib.suppress(Exception):
                await answer.refuse(Refused(500, "an error of the service; its log has it under the request's id"))
        finally:
            self.active -= 1
            route = scope.get("route")
            self.meter.request(getattr(route, "path", "other"), answer.status, time.monotonic() - begun)

    def _check(self, scope: Scope, headers: Headers) -> None:
        """Raises `Refused`."""
        host, path, manner = headers.get("host", ""), scope["path"], self.manner
        if not self.access.knows(host):
            raise Refused(403, "this host name is not one of the service's")
        if self.access.refuses_page(headers, f"{scope['scheme']}://{host}"):
            remedy = "; --allow-origins lets it in" if self.access.origins else ""
            raise Refused(403, f"the request comes from another server's page{remedy}")
        preflight = scope["method"] == "OPTIONS" and "access-control-request-method" in headers
        is_open = preflight or (bool(manner.open) and path.startswith(manner.open))
        if not is_open and not self.access.admits(headers.get("authorization", "")):
            raise Refused(401, manner.token_lacks, www_authenticate=manner.challenge)
        if self.active > manner.requests:
            raise Refused(503, f"{manner.requests} requests are being answered already", retry_after="1")


class _Answer:
    """Sends an answer, with the headers of every answer. status: 0 until it begins."""

    def __init__(self, send: Send, name: str, manner: Manner) -> None:
        self.send, self.name, self.manner, self.status = send, name, manner, 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for key, value in {**self.manner.headers, "x-request-id": self.name}.items():
                headers.setdefault(key, value)
        await self.send(message)

    async def refuse(self, refused: Refused) -> None:
        """Nothing where the answer has begun: its client sees that it is not whole."""
        if self.status:
            return
        kind, body = self.manner.refusal(refused.status, str(refused), self.name)
        headers = {
            "content-type": kind,
            "content-length": str(len(body)),
            "connection": "close",  # the rest of the request is not read
            **{name.replace("_", "-"): value for name, value in refused.headers.items()},
        }
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self({"type": "http.response.start", "status": refused.status, "headers": raw})
        await self({"type": "http.response.body", "body": body})


class _Replay:
    """Gives the application a body that was read already, then what else comes."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self.message: Message | None = {"type": "http.request", "body": body, "more_body": False}
        self.receive = receive

    async def __call__(self) -> Message:
        if self.message is not None:
            message, self.message = self.message, None
            return message
        return await self.receive()


async def _body(headers: Headers, receive: Receive, manner: Manner) -> bytes:
    """The whole body. Raises `Refused` for one that is too large, too slow, or not whole."""
    too_large = Refused(413, f"the request is larger than {manner.body:,} bytes")
    given = headers.get("content-length", "0")
    length = int(given[:20]) if given.isdecimal() else 0
    most = max(manner.body, manner.drained)
    if length > most:
        raise too_large
    body, came, is_small = bytearray(), 0, length <= manner.body
    try:
        async with asyncio.timeout(manner.seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refused(400, "the request is not whole") if is_small else too_large
                part = message.get("body", b"")
                came += len(part)
                if came > most:
                    raise too_large
                is_small = is_small and came <= manner.body
                if is_small:
                    body += part
                else:
                    body.clear()
                if message.get("more_body"):
                    continue
                if not is_small:
                    raise too_large
                return bytes(body)
    except TimeoutError:
        raise Refused(408, f"the request has not come whole within {manner.seconds:g} s") from None
