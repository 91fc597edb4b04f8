"""Serves the page until it is stopped: Werkzeug's threaded server, no debugger, no reloading."""

import ipaddress
import signal
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from werkzeug.serving import WSGIRequestHandler, make_server

from foundation.errors import UserError
from heads.contracts import Compute
from linking import finished
from pipeline.datasets.contracts import Limits
from report.contracts import ServeJob
from report.explore.app import Hosts, make
from report.explore.book import Book

if TYPE_CHECKING:
    from linking.linker import Linked, Linker

SILENCE = 60  # seconds after which a silent connection is closed


class _Handler(WSGIRequestHandler):
    timeout = SILENCE

    def log(self, type: str, message: str, *args: Any) -> None:
        """Log nothing: a request holds text that anybody may have written."""


class LazyLinker:
    """`Linker.link` of a run, loaded at the first call; calls wait for each other."""

    def __init__(self, run: Path, compute: Compute) -> None:
        self.run, self.compute, self.lock = run, compute, threading.Lock()
        self.linker: Linker | None = None

    def __call__(self, sentence: str, phrase: str, image: bytes | None) -> "Linked":
        """See `Linker.link`."""
        from linking.linker import Linker

        with self.lock:
            self.linker = self.linker or Linker.load(self.run, self.compute.device, self.compute.precision)
            return self.linker.link(sentence, phrase, image)


def serve(job: ServeJob) -> None:
    """Serve the page until a signal ends the process. Raises `UserError` where the address cannot be had."""
    run = finished.read(job.run)
    images = {side: job.source / folder for side, folder in run.images.items()}
    book = Book.read(run, images, job.split, Limits(**run.limits))
    names = {"127.0.0.1", "[::1]"}
    if not loopback(job.host):
        names = {job.host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}
    hosts = Hosts(frozenset({"localhost", *names}), addresses=not loopback(job.host))
    app = make(book, LazyLinker(job.run, job.compute), hosts)
    try:
        server = make_server(job.host, job.port, app, threaded=True, request_handler=_Handler)
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
