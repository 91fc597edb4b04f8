"""The page's routes: a search, cases, a form that links a mention; on the service's application, without scripts."""

import asyncio
import contextlib
import functools
import hmac
import secrets
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import ASGIApp

from foundation.errors import PassingError, UserError
from linking.service.access import Access
from linking.service.desk import Asked, Desk
from linking.service.guard import Guard, Manner
from linking.service.models import PHRASE, SENTENCE
from pipeline.datasets.records import Mention
from pipeline.datasets.spans import find_span
from report.explore.book import OUTCOMES, Book, Query
from report.explore.telling import telling

T = TypeVar("T")
UPLOAD = 20_000_000  # bytes of a picture
FORM = 200_000  # bytes of all else in a form
PARTS = 16  # of a form
DRAINED = 1 << 30  # bytes of a refused upload that are read and dropped
REQUESTS = 64  # at once, each with a form of `UPLOAD` bytes in memory at most
PICTURED = 16  # pages with pictures that are made at once; the others go on
RECEIVE = 300.0  # seconds for a form to come
PAGE = 50  # mentions on a page of the search
DIGITS = 9  # of a number in an address
LOOK = Path(__file__).parents[1] / "page" / "page.css"
"""The style that this page has in common with those of Report."""
POLICY = (
    "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
}
TOO_LARGE = (
    f"The upload is too large: a picture may have {UPLOAD // 1_000_000} MB, all else in the form {FORM // 1000} kB in "
    f"{PARTS} parts. Choose a smaller one."
)


@dataclass(frozen=True)
class LinkForm:
    """The fields of the form that links a mention."""

    sentence: str = ""
    phrase: str = ""
    explain: str = ""

    def problem(self) -> str:
        """Why these fields cannot be linked; empty where they can."""
        if not self.sentence or not self.phrase:
            return "A sentence and a phrase are needed."
        if len(self.sentence) > SENTENCE or len(self.phrase) > PHRASE:
            return f"A sentence has at most {SENTENCE:,} characters here, a phrase {PHRASE}."
        return ""

    def asked(self, picture: bytes | None) -> Asked:
        """As the service links it."""
        span = find_span(self.sentence, self.phrase)
        mention = Mention(id="new", sentence=self.sentence, phrase=self.phrase, split="test", span=span)
        return Asked(mention, picture, explained=bool(self.explain))


class _WholeForm(MultiPartParser):
    """Knows whether the end of the form has come."""

    is_whole = False

    def on_end(self) -> None:
        self.is_whole = True


class _Pages:
    """The templates. token: of every form that this start of the page has sent."""

    def __init__(self, run: str) -> None:
        self.token = secrets.token_urlsafe(32)
        self.environment = Environment(loader=PackageLoader("report.explore", "pages"), autoescape=True)
        self.environment.globals |= {
            "token": self.token,
            "outcomes": OUTCOMES,
            "run": run,
            "megabytes": UPLOAD // 1_000_000,
        }

    def text(self, name: str, **values: Any) -> str:
        """A page as text."""
        return self.environment.get_template(name).render(**values)

    def page(self, name: str, status: int = 200, **values: Any) -> HTMLResponse:
        """A page as an answer."""
        return HTMLResponse(self.text(name, **values), status)

    def message(self, status: int, reason: str) -> HTMLResponse:
        """A page that says why there is none."""
        return self.page("message.html", status, message=f"{HTTPStatus(status).phrase}: {reason}")

    def refusal(self, status: int, reason: str, name: str) -> tuple[str, bytes]:
        """See `linking.service.guard.Manner.refusal`."""
        text = f"{HTTPStatus(status).phrase}: {reason} (request {name})"
        page = self.text("message.html", message=TOO_LARGE if status == 413 else text)
        return "text/html; charset=utf-8", page.encode()


def make(book: Book, desk: Desk, access: Access) -> ASGIApp:
    """The application over a book and a desk, which it closes when it ends."""
    pages = _Pages(book.name)
    pool = ThreadPoolExecutor(PICTURED, "pictured")

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        desk.close()
        pool.shutdown()
        book.pictures.close()

    async def pictured(function: Callable[..., T], *arguments: Any) -> T:
        """Called in a thread of those that may wait for pictures."""
        return await asyncio.get_running_loop().run_in_executor(pool, functools.partial(function, *arguments))

    app = FastAPI(lifespan=lifespan, openapi_url=None, redirect_slashes=False)
    _answer_errors(app, pages)
    _add_mentions(app, pages, book, pictured)

    @app.get("/link")
    async def empty_form() -> HTMLResponse:
        return pages.page("link.html", form=LinkForm())

    @app.post("/link")
    async def answer(request: Request) -> HTMLResponse:
        async with contextlib.AsyncExitStack() as held:
            sent = await _form(request)
            held.push_async_callback(sent.close)
            if not hmac.compare_digest(_field(sent, "token").encode("utf-8", "replace"), pages.token.encode()):
                raise HTTPException(403, "this form is of an earlier start of the page; load it anew")
            form = LinkForm(**{one.name: _field(sent, one.name).strip() for one in fields(LinkForm)})
            picture = await _picture(sent)
        message = form.problem()
        if message:
            return pages.page("link.html", 400, form=form, message=message)
        try:
            (explained,) = await desk.answer([form.asked(picture)])
        except UserError as error:
            return pages.page("link.html", 400, form=form, message=str(error))
        except PassingError as error:
            return pages.page("link.html", 503, form=form, message=f"Busy: {error}. Send the form again in a while.")
        linked = explained.linked
        if linked.picture not in ("ok", "none"):
            message = f"The uploaded file cannot be used as a picture ({linked.picture}). Linked without it."
        cards = await pictured(book.cards, [entity.id for entity in linked.entities])
        return pages.page(
            "link.html",
            form=form,
            message=message,
            linked=linked,
            told=telling(explained) if form.explain else None,
            entities=cards.entities,
            pictures=cards.pictures,
        )

    manner = Manner(
        body=UPLOAD + FORM,
        drained=DRAINED,
        seconds=RECEIVE,
        requests=REQUESTS,
        headers=HEADERS,
        refusal=pages.refusal,
        open=(),
        challenge='Basic realm="mel-cache", charset="UTF-8"',
        token_lacks="the token lacks or is wrong; give it as the password, with any name",
    )
    return Guard(app, access, desk.meter, manner)


def _add_mentions(app: FastAPI, pages: _Pages, book: Book, pictured: Callable[..., Any]) -> None:
    """The pages of the run's own mentions, and their style."""

    @app.get("/")
    def search(request: Request) -> HTMLResponse:
        given = request.query_params
        query = Query(**{one.name: given.get(one.name, "")[:PHRASE] for one in fields(Query)})
        if query.outcome not in ("", *OUTCOMES):
            raise HTTPException(400, "no such outcome")
        fitting = book.search(query)
        last = max(1, -(-len(fitting) // PAGE))
        page = min(max(1, _number(given.get("page", "")) or 1), last)
        return pages.page(
            "search.html",
            query=asdict(query),
            lines=[book.line(at) for at in fitting[(page - 1) * PAGE :][:PAGE]],
            fitting=len(fitting),
            of=len(book.mentions),
            page=page,
            pages=last,
        )

    @app.get("/case/{name}")
    async def case(name: str) -> HTMLResponse:
        at = _number(name)
        if at is None or at >= len(book.mentions):
            raise HTTPException(404, f"there are {len(book.mentions)} cases")
        case_data, cards = await pictured(book.case, at)
        (answer,) = case_data["methods"].values()
        return pages.page(
            "case.html",
            at=at,
            last=len(book.mentions) - 1,
            case=case_data,
            answer=answer,
            entities=cards.entities,
            pictures=cards.pictures,
            outcome=book.mentions[at].outcome,
        )

    @app.get("/explore.css")
    def style() -> Response:
        own = (Path(__file__).parent / "pages" / "explore.css").read_text("utf-8")
        return Response(LOOK.read_text("utf-8") + own, media_type="text/css")


def _number(text: str) -> int | None:
    """A number of an address; None for anything else."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= DIGITS else None


async def _form(request: Request) -> FormData:
    """What a form holds. Raises `HTTPException` for one that is too large or not whole."""
    parser = _WholeForm(request.headers, request.stream(), max_files=1, max_fields=PARTS, max_part_size=FORM)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith(("Too many", "Part exceeded")):
            raise HTTPException(413, TOO_LARGE) from None
        parser.is_whole = False
    except KeyError:  # no Content-Type
        parser.is_whole = False
    if not parser.is_whole:
        raise HTTPException(400, "the upload is not whole: its end is missing; send the form again")
    return form


def _field(form: FormData, name: str) -> str:
    value = form.get(name, "")
    return value if isinstance(value, str) else ""


async def _picture(form: FormData) -> bytes | None:
    """The bytes of the uploaded file; None where none was chosen."""
    upload = form.get("picture")
    if not isinstance(upload, UploadFile) or not upload.filename:
        return None
    data = await upload.read()
    if len(data) > UPLOAD:
        raise HTTPException(413, TOO_LARGE)
    return data


def _answer_errors(app: FastAPI, pages: _Pages) -> None:
    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> HTMLResponse:
        if error.status_code == 413:
            return pages.page("message.html", 413, message=str(error.detail))
        return pages.message(error.status_code, str(error.detail))
