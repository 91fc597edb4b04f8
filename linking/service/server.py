"""Runs an application until a signal ends the process: what is being answered is answered first."""

import asyncio
import contextlib
import logging
import signal
import socket
from asyncio import TimerHandle, Transport
from collections.abc import Iterator

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from foundation import logs
from foundation.errors import UserError

CONNECTIONS = 512  # at a time; requests on more are refused
SILENCE = 20  # seconds after which a connection without a whole request head is closed
STOPPING = 45  # seconds for what is being answered when the application is stopped
HEAD = 32 << 10  # bytes of a request's head


class _Protocol(H11Protocol):
    """Closes connections on which no head of a request comes, or none comes to its end."""

    _timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop()
        elif self._timer is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._timer = self.loop.call_later(SILENCE, self.transport.close)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Server(uvicorn.Server):
    """Ends when it is told to, and does not pass the signal on: the process has more to end than this."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle_exit)
        yield


def run(app: ASGIApp, listener: socket.socket, line: str) -> None:
    """Answer what comes at an address that `bound` gave, until SIGINT or SIGTERM. line: said once somebody listens."""
    for name in ("uvicorn", "python_multipart"):  # a line for each request that is none
        logging.getLogger(name).setLevel(logging.ERROR)
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        backlog=CONNECTIONS,
        h11_max_incomplete_event_size=HEAD,
        timeout_graceful_shutdown=STOPPING,
    )
    asyncio.run(_serve(_Server(config), listener, line))


async def _serve(server: uvicorn.Server, listener: socket.socket, line: str) -> None:
    listener.listen(CONNECTIONS)
    logs.say(line)
    await server.serve(sockets=[listener])


def address(host: str, port: int) -> str:
    """Of the first page."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def bound(host: str, port: int) -> socket.socket:
    """The address, reserved; connections are refused until somebody listens. Raises `UserError` where it cannot be
    had."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise UserError(
            f"--host {host} --port {port}: the address cannot be had ({error}); choose another --port"
        ) from error
    return listener
