"""Serves the page until it is stopped: Werkzeug's threaded server, no debugger, no reloading."""

import contextlib
import ipaddress
import signal
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from foundation.confined import Busy
from foundation.errors import UserError
from heads.contracts import Compute
from linking import finished
from pipeline.datasets.contracts import Limits
from report.contracts import ServeJob
from report.explore.app import Hosts, make
from report.explore.book import Book
from report.explore.pictures import Pictures

if TYPE_CHECKING:
    from linking.linker import Linked, Linker

SILENCE = 60  # seconds after which a silent connection is closed
RECEIVE = 300  # seconds after which no more of a request is read
CONNECTIONS = 256  # at a time; one more is refused
QUEUE = 30  # seconds that a mention waits for those that are linked before it
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Type: text/plain\r\n\r\nBusy: try again.\n"


class _Handler(WSGIRequestHandler):
    timeout = SILENCE

    def log(self, type: str, message: str, *args: Any) -> None:
        """Log nothing: a request holds text that anybody may have written."""


class Server(ThreadedWSGIServer):
    """Answers each request in a thread of its own, of a bounded number, and reads none of them for ever."""

    daemon_threads = True

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._begun: dict[socket.socket, float] = {}

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin a thread, or refuse."""
        if len(self._begun) >= CONNECTIONS:
            request.settimeout(0)
            with contextlib.suppress(OSError):
                request.send(BUSY)
            self.shutdown_request(request)
            return
        self._begun[request] = time.monotonic()
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._begun.pop(request, None)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """In the thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._begun.pop(request, None)

    def service_actions(self) -> None:
        """Now and then: what has been read for too long ends there, and is answered as it is."""
        for request, begun in list(self._begun.items()):
            if time.monotonic() - begun > RECEIVE:
                with contextlib.suppress(OSError):
                    request.shutdown(socket.SHUT_RD)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A request that was no HTTP: nothing is printed of it."""


class LazyLinker:
    """`Linker.link` of a run, loaded at the first call; calls wait for each other, for a time."""

    def __init__(self, run: Path, compute: Compute) -> None:
        self.run, self.compute, self.lock = run, compute, threading.Lock()
        self.linker: Linker | None = None

    def __call__(self, sentence: str, phrase: str, image: bytes | None) -> "Linked":
        """See `Linker.link`. Raises `Busy` where the models are being loaded, or others linked, for too long."""
        from linking.linker import Linker

        if not self.lock.acquire(timeout=QUEUE):
            raise Busy("other mentions are being linked, or the models loaded; send the form again in a while")
        try:
            self.linker = self.linker or Linker.load(self.run, self.compute.device, self.compute.precision)
            return self.linker.link(sentence, phrase, image)
        finally:
            self.lock.release()


def serve(job: ServeJob) -> None:
    """Serve the page until a signal ends the process. Raises `UserError` where the address cannot be had."""
    run = finished.read(job.run)
    images = {side: job.source / folder for side, folder in run.images.items()}
    pictures = Pictures(Limits(**run.limits))
    book = Book.read(run, images, job.split, pictures)
    names = {"127.0.0.1", "[::1]"}
    if not loopback(job.host):
        names = {job.host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}
    hosts = Hosts(frozenset({"localhost", *names}), addresses=not loopback(job.host))
    app = make(book, LazyLinker(job.run, job.compute), hosts)
    try:
        server = Server(job.host, job.port, app, _Handler)
    except (OSError, SystemExit, OverflowError) as error:
        raise UserError(
            f"--host {job.host} --port {job.port}: the address cannot be had ({error}); choose another --port"
        ) from error
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown, daemon=True).start())
    where = address_line(job.host, server.server_port)
    print(f"{len(book.mentions):,} mentions of {job.split} by {book.name}{where}", flush=True)
    server.serve_forever(poll_interval=0.2)
    server.server_close()
    pictures.close()


def address_line(host: str, port: int) -> str:
    """The page's address, and a warning where others can reach it."""
    address = f": http://{f'[{host}]' if ':' in host else host}:{port}/ (Ctrl-C stops it)"
    if loopback(host):
        return address
    return (
        f"{address}\nlistening on {host}, not for this machine alone: whoever reaches this port sees the dataset and "
        "uses the models, without a password; leave --host out to keep it here"
    )


def loopback(host: str) -> bool:
    """Whether only this machine can reach what listens at `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
