"""Serves the page until it is stopped; the models are loaded for the first mention that is linked."""

from foundation import logs
from linking import finished
from linking.linker import Linker
from linking.service import server
from linking.service.access import access, loopback
from linking.service.desk import Desk
from pipeline.datasets.contracts import Limits
from report.contracts import DETECTIONS, ServeJob
from report.explore.app import make
from report.explore.book import Book
from report.explore.pictures import Pictures

FORMS = 8
"""Mentions that wait to be linked; and those that are linked at once."""


def serve(job: ServeJob) -> None:
    """Serve the page until SIGINT or SIGTERM.

    Raises `UserError` where the address cannot be had, others could reach the page without a token, or the run has no
    predictions.
    """
    allowed = access(job.host, job.token_file, ())
    with server.bound(job.host, job.port) as listener:
        run = finished.read(job.run)
        images = {side: job.source / folder for side, folder in run.images.items()}
        limits = Limits(**run.limits)
        book = Book.read(run, images, job.split, Pictures(limits))
        desk = Desk(lambda: _loaded(job), limits, FORMS, FORMS)
        desk.detections = DETECTIONS
        line = f"{len(book.mentions):,} mentions of {job.split} by {book.name}: "
        server.run(make(book, desk, allowed), listener, line + address_line(job.host, listener.getsockname()[1]))


def _loaded(job: ServeJob) -> Linker:
    linker = Linker.load(job.run, job.compute.device, job.compute.precision)
    for note in linker.notes:
        logs.notice(note)
    return linker


def address_line(host: str, port: int) -> str:
    """The page's address, and who can reach it."""
    who = "for this machine alone" if loopback(host) else "for whoever has the token, which is the password"
    return f"{server.address(host, port)} {who} (Ctrl-C stops it)"
