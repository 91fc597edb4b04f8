"""The page's routes and guards: only its own host names, a token in every form, limited uploads, no scripts."""

import hmac
import ipaddress
import secrets
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from flask import Flask, Request, Response, abort, render_template, request
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import ClientDisconnected, HTTPException, RequestEntityTooLarge
from werkzeug.formparser import FormDataParser

from foundation.confined import Busy
from foundation.errors import PassingError, UserError
from report.explore.book import OUTCOMES, Book, Query

UPLOAD = 20_000_000  # bytes of a picture
FORM = 200_000  # bytes of all else in a form
PARTS = 16  # of a form
DRAINED = (
    1 << 30
)  # bytes of a refused upload that are read and dropped: a browser shows no answer before it has sent all
FORMS = 8  # that are answered or wait for it, each with its picture in memory; others are refused
SENTENCE, PHRASE = 10_000, 500  # characters
PAGE = 50  # mentions on a page of the search
LOOK = Path(__file__).parents[1] / "page" / "page.css"
"""The style that this page has in common with those of Report."""
POLICY = (
    "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)


@dataclass(frozen=True)
class Hosts:
    """Host names under which the page answers. names: in small letters, without port. addresses: whether it also
    answers under any IP address (nobody else can own one as a name)."""

    names: frozenset[str]
    addresses: bool = False

    def known(self, host: str) -> bool:
        """Whether a request with this Host header is answered."""
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.endswith("]") else host
        if name.lower() in self.names:
            return True
        if not self.addresses:
            return False
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True


@dataclass(frozen=True)
class LinkForm:
    """The fields of the form that links a mention."""

    sentence: str = ""
    phrase: str = ""

    def problem(self) -> str:
        """Why these fields cannot be linked; empty where they can."""
        if not self.sentence or not self.phrase:
            return "A sentence and a phrase are needed."
        if len(self.sentence) > SENTENCE or len(self.phrase) > PHRASE:
            return f"A sentence has at most {SENTENCE:,} characters here, a phrase {PHRASE}."
        return ""


class _WholeForms(FormDataParser):
    """Raises `ValueError` for a form that cannot be read to its end, where Werkzeug takes it for an empty one."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **{**named, "silent": False})


class _Request(Request):
    form_data_parser_class = _WholeForms


def make(book: Book, link: Callable[..., Any], hosts: Hosts) -> Flask:
    """The application. link: as `Linker.link`, called with sentence, phrase and a picture's bytes or None."""
    app = Flask(__name__, static_folder=None, template_folder="pages")
    app.config |= {"MAX_CONTENT_LENGTH": UPLOAD + FORM, "MAX_FORM_MEMORY_SIZE": FORM, "MAX_FORM_PARTS": PARTS}
    app.jinja_options = {"autoescape": True}
    app.request_class = _Request
    token = secrets.token_urlsafe(32)
    places = threading.BoundedSemaphore(FORMS)
    app.jinja_env.globals |= {"token": token, "outcomes": OUTCOMES, "run": book.name, "megabytes": UPLOAD // 1_000_000}

    @app.before_request
    def guard() -> None:
        """Refuse requests under a foreign host name (DNS rebinding) and forms of other pages (request forgery)."""
        if not hosts.known(request.host):
            abort(403, "this host name is not one of this page's; open the address that the command printed")
        own = f"http://{request.host}"
        if request.method == "POST" and request.headers.get("Origin", own) != own:
            abort(403, "the form comes from another page")

    @app.after_request
    def add_headers(response: Response) -> Response:
        response.headers.update(
            {
                "Content-Security-Policy": POLICY,
                "X-Content-Type-Options": "nosniff",
                "Referrer-Policy": "same-origin",
                "Cache-Control": "no-store",
                "Cross-Origin-Resource-Policy": "same-origin",
                "X-Frame-Options": "DENY",
            }
        )
        return response

    @app.errorhandler(HTTPException)
    def error_page(error: HTTPException) -> tuple[str, int]:
        if isinstance(error, RequestEntityTooLarge):
            if (request.content_length or 0) > UPLOAD + FORM:
                _drain(request.environ)
            return render_template(
                "message.html",
                message=f"The upload is too large: a picture may have {UPLOAD // 1_000_000} MB, all else in the form "
                f"{FORM // 1000} kB in {PARTS} parts. Choose a smaller one.",
            ), 413
        return render_template("message.html", message=f"{error.name}: {error.description}"), error.code or 500

    @app.get("/")
    def search() -> str:
        query = Query(**{one.name: request.args.get(one.name, "")[:PHRASE] for one in fields(Query)})
        if query.outcome not in ("", *OUTCOMES):
            abort(400, "no such outcome")
        fitting = book.search(query)
        pages = max(1, -(-len(fitting) // PAGE))
        page = min(max(1, request.args.get("page", 1, type=int)), pages)
        return render_template(
            "search.html",
            query=asdict(query),
            lines=[book.line(at) for at in fitting[(page - 1) * PAGE :][:PAGE]],
            fitting=len(fitting),
            of=len(book.mentions),
            page=page,
            pages=pages,
        )

    @app.get("/case/<int:at>")
    def case(at: int) -> str:
        if at >= len(book.mentions):
            abort(404, f"there are {len(book.mentions)} cases")
        case_data, cards = book.case(at)
        (answer,) = case_data["methods"].values()
        return render_template(
            "case.html",
            at=at,
            last=len(book.mentions) - 1,
            case=case_data,
            answer=answer,
            entities=cards.entities,
            pictures=cards.pictures,
            outcome=book.mentions[at].outcome,
        )

    @app.get("/link")
    def empty_form() -> str:
        return render_template("link.html", form=LinkForm())

    @app.post("/link")
    def answer() -> Any:
        try:
            upload = request.files.get("picture")
        except (ClientDisconnected, ValueError):
            abort(400, "the upload is not whole: its end is missing; send the form again")
        if not hmac.compare_digest(request.form.get("token", "").encode(), token.encode()):
            abort(403, "this form is of an earlier start of the page; load it anew")
        form = LinkForm(**{one.name: request.form.get(one.name, "").strip() for one in fields(LinkForm)})
        if not places.acquire(blocking=False):
            return render_template("link.html", form=form, message="Busy: other forms wait; send it again."), 503
        try:
            return linked_page(form, upload)
        finally:
            places.release()

    def linked_page(form: LinkForm, upload: FileStorage | None) -> Any:
        message = form.problem()
        picture = upload.stream.read(UPLOAD + 1) if upload and upload.filename else None
        if picture is not None and len(picture) > UPLOAD:
            raise RequestEntityTooLarge
        if message:
            return render_template("link.html", form=form, message=message), 400
        try:
            problem = book.pictures.problem(picture) if picture is not None else None
            linked = link(form.sentence, form.phrase, None if problem else picture)
        except Busy as error:
            return render_template("link.html", form=form, message=f"Busy: {error}."), 503
        except (UserError, PassingError) as error:
            return render_template("link.html", form=form, message=str(error)), 400
        if problem:
            linked = replace(linked, picture=problem)
        if linked.picture not in ("ok", "none"):
            message = f"The uploaded file cannot be used as a picture ({linked.picture}). Linked without it."
        cards = book.cards([entity.id for entity in linked.entities])
        return render_template(
            "link.html", form=form, message=message, linked=linked, entities=cards.entities, pictures=cards.pictures
        )

    @app.get("/explore.css")
    def style() -> Response:
        return Response(
            LOOK.read_text("utf-8") + (Path(__file__).parent / "pages" / "explore.css").read_text("utf-8"),
            mimetype="text/css",
        )

    return app


def _drain(environ: dict[str, Any]) -> None:
    """Read a request's body, `DRAINED` bytes at most, and keep nothing of it."""
    stream, left = environ.get("wsgi.input"), min(int(environ.get("CONTENT_LENGTH") or 0), DRAINED)
    while stream is not None and left > 0:
        block = stream.read(min(left, 1 << 16))
        if not block:
            return
        left -= len(block)
