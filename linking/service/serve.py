"""Serves the application until a signal ends the process: what is being answered is answered first."""

import asyncio
import contextlib
import signal
import socket
from asyncio import TimerHandle, Transport
from collections.abc import Iterator

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from foundation import logs
from foundation.errors import UserError
from linking.linker import Linker
from linking.service.access import access, loopback
from linking.service.app import make
from linking.service.contracts import ServiceJob
from linking.service.desk import Desk
from linking.service.reconcile import Reconciliation

CONNECTIONS = 512  # at a time; requests on more are refused
SILENCE = 20  # seconds after which a connection without a whole request head is closed
STOPPING = 45  # seconds for what is being answered when the service is stopped
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


def serve(job: ServiceJob) -> None:
    """Serve a run until SIGINT or SIGTERM.

    Raises `UserError` where the address cannot be had, others could reach the service without a token, or the run
    cannot be linked with.
    """
    allowed = access(job.host, job.token_file, job.origins)
    with _bound(job.host, job.port) as listener:
        linker = Linker.load(job.run, job.compute.device, job.compute.precision, job.nil_share, job.cache)
        if job.kb:
            linker.against(job.kb)
        if job.joint_below is not None:
            linker.ask_joint_below(job.joint_below)
        desk = Desk(linker, job.queue, job.batch)
        app = make(desk, allowed, Reconciliation(desk, job.wikidata, job.origins))
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
        for note in linker.notes:
            logs.notice(note)
        asyncio.run(_serve(_Server(config), listener, job))


async def _serve(server: uvicorn.Server, listener: socket.socket, job: ServiceJob) -> None:
    listener.listen(CONNECTIONS)
    logs.say(address_line(job.host, listener.getsockname()[1]))
    await server.serve(sockets=[listener])


def address_line(host: str, port: int) -> str:
    """Where the service is, and who can reach it."""
    shown = f"[{host}]" if ":" in host else host
    who = "this machine alone" if loopback(host) else "whoever has the token"
    return f"http://{shown}:{port}/ for {who}; schema at /docs, OpenRefine at /reconcile (Ctrl-C stops it)"


def _bound(host: str, port: int) -> socket.socket:
    """The address, reserved; connections are refused until the run is loaded and somebody listens."""
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
