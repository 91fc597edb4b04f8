"""What stands before every request: who may ask, how much is read of it and for how long, and what no answer lacks."""

import asyncio
import contextlib
import json
import re
import secrets
import time
import traceback

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from foundation import logs
from linking.service.access import Access
from linking.service.meter import Meter
from linking.service.models import BODY

REQUESTS = 128  # that are answered or read at once; one more is refused
RECEIVE = 60.0  # seconds for a request's body to come
OPEN = ("/health", "/docs", "/openapi.json", "/assets/")
"""Paths that need no token: they say nothing of the run."""
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


class Refused(Exception):
    """A request that is not answered. status: of HTTP. headers: further ones."""

    def __init__(self, status: int, reason: str, **headers: str) -> None:
        super().__init__(reason)
        self.status, self.headers = status, headers


class Guard:
    """An ASGI application around another. Every answer has an `X-Request-ID`, the request's own where it brings one.

    An error of the application ends as an answer 500 with the request's id, under which its traceback is on stderr.
    """

    def __init__(self, app: ASGIApp, access: Access, meter: Meter) -> None:
        self.app, self.access, self.meter, self.active = app, access, meter, 0

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
        answer = _Answer(send, name)
        self.active += 1
        try:
            self._check(scope, headers)
            body = await _body(headers, receive)
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
        host, path = headers.get("host", ""), scope["path"]
        if not self.access.knows(host):
            raise Refused(403, "this host name is not one of the service's")
        if self.access.refuses_page(headers, f"{scope['scheme']}://{host}"):
            raise Refused(403, "the request comes from another server's page; --allow-origins lets it in")
        preflight = scope["method"] == "OPTIONS" and "access-control-request-method" in headers
        if not (preflight or path.startswith(OPEN)) and not self.access.admits(headers.get("authorization", "")):
            raise Refused(401, "the token lacks or is wrong: Authorization: Bearer TOKEN", www_authenticate="Bearer")
        if self.active > REQUESTS:
            raise Refused(503, f"{REQUESTS} requests are being answered already", retry_after="1")


class _Answer:
    """Sends an answer, with the headers of every answer. status: 0 until it begins."""

    def __init__(self, send: Send, name: str) -> None:
        self.send, self.name, self.status = send, name, 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for key, value in {**HEADERS, "x-request-id": self.name}.items():
                headers.setdefault(key, value)
        await self.send(message)

    async def refuse(self, refused: Refused) -> None:
        """Nothing where the answer has begun: its client sees that it is not whole."""
        if self.status:
            return
        body = json.dumps({"error": str(refused), "request_id": self.name}).encode()
        headers = {
            "content-type": "application/json",
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


async def _body(headers: Headers, receive: Receive) -> bytes:
    """The whole body. Raises `Refused` for one that is too large, too slow, or not whole."""
    too_large = Refused(413, f"the request is larger than {BODY:,} bytes")
    length = headers.get("content-length", "0")
    if length.isdecimal() and int(length[:20]) > BODY:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(RECEIVE):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refused(400, "the request is not whole")
                body += message.get("body", b"")
                if len(body) > BODY:
                    raise too_large
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        raise Refused(408, f"the request has not come whole within {RECEIVE:g} s") from None
