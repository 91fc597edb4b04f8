"""Serves the page until it is stopped: Werkzeug's threaded server, no debugger, no reloading."""

import functools
import ipaddress
import signal
import socket
import threading
from pathlib import Path
from typing import Any

from werkzeug.serving import WSGIRequestHandler, make_server

from foundation.errors import UserError
from linking import finished
from pipeline.datasets.images import Limits
from report.explore.app import make
from report.explore.book import Book

SILENCE = 60  # seconds after which a connection that says nothing is closed


class _Handler(WSGIRequestHandler):
    timeout = SILENCE

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """No line per request; what a request holds may be anyone's text."""


class Once:
    """`Linker.link` of a run, loaded at the first call; calls wait for each other."""

    def __init__(self, run: str, device: str, precision: str) -> None:
        self.load = functools.partial(self._load, run, device, precision)
        self.lock, self.linker = threading.Lock(), None

    @staticmethod
    def _load(run: str, device: str, precision: str) -> Any:
        from linking.linker import Linker

        return Linker.load(run, device, precision)

    def __call__(self, sentence: str, phrase: str, image: bytes | None) -> Any:
        """See `Linker.link`."""
        with self.lock:
            self.linker = self.linker or self.load()
            return self.linker.link(sentence, phrase, image)


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Serve `job["run"]` at `job["host"]`, `job["port"]` (0: a free one) until a signal ends it.

    job: also source (the dataset's own folder), split, device, precision. Raises `UserError` where the address cannot be had.
    """
    run = finished.read(Path(job["run"]))
    profile = next((one.profile for one in run.tree() if one.profile), None)
    limits = Limits(**profile.limits) if profile else Limits()
    book = Book.read(
        run, {side: Path(job["source"]) / folder for side, folder in run.images.items()}, job["split"], limits
    )
    host, local = job["host"], loopback(job["host"])
    hosts = (
        {"localhost", "127.0.0.1", "[::1]"}
        if local
        else {"localhost", host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}
    )
    app = make(book, Once(job["run"], job["device"], job["precision"]), hosts, local)
    try:
        server = make_server(host, job["port"], app, threaded=True, request_handler=_Handler)
    except (OSError, SystemExit, OverflowError) as error:
        raise UserError(
            f"--host {host} --port {job['port']}: the address cannot be had ({error}); choose another --port"
        ) from error
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown, daemon=True).start())
    print(
        f"{len(book.rows):,} mentions of {job['split']} by {book.name}{announced(host, server.server_port)}", flush=True
    )
    server.serve_forever(poll_interval=0.2)
    server.server_close()
    return {}


def announced(host: str, port: int) -> str:
    """Where the page is, and who else gets to see it."""
    shown = f": http://{f'[{host}]' if ':' in host else host}:{port}/ (Ctrl-C stops it)"
    if loopback(host):
        return shown
    return (
        f"{shown}\nlistening on {host}, not for this machine alone: whoever reaches this port sees the dataset and uses the models, without a password; "
        "leave --host out to keep it here"
    )


def loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
