"""The page's routes and guards: own host names alone, a token in every form, uploads cut off at their limit, no scripts."""

import hmac
import ipaddress
import secrets
from collections.abc import Callable
from typing import Any

from flask import Flask, Response, abort, render_template, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from foundation.errors import PassingError, UserError
from report.explore.book import OUTCOMES, Book

UPLOAD = 20_000_000  # bytes of a picture
BESIDE = 200_000  # bytes of the form's other fields, and of what stands between them
DRAINED = 1 << 30  # bytes of a larger upload that are read away, so that its sender gets to read why it is refused
SENTENCE, PHRASE = 10_000, 500  # characters
PAGE = 50
POLICY = (
    "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)


def make(book: Book, link: Callable[..., Any], hosts: set[str], local: bool = True) -> Flask:
    """The application. link: as `Linker.link`; hosts: names by which it may be asked for, without port; local: no others, not even addresses."""
    app = Flask(__name__, static_folder=None, template_folder="pages")
    app.config |= {"MAX_CONTENT_LENGTH": UPLOAD + BESIDE, "MAX_FORM_MEMORY_SIZE": BESIDE, "MAX_FORM_PARTS": 16}
    app.jinja_options = {"autoescape": True}
    token = secrets.token_urlsafe(32)
    app.jinja_env.globals |= {"token": token, "outcomes": OUTCOMES, "run": book.name, "megabytes": UPLOAD // 1_000_000}

    @app.before_request
    def guard() -> None:
        """A page elsewhere whose name was pointed at this machine sends its own name; one that posts a form here does not know the token."""
        if not _known(request.host, hosts, local):
            abort(403, "this host name is not one of this page's; open the address that the command printed")
        if (
            request.method == "POST"
            and request.headers.get("Origin", f"http://{request.host}") != f"http://{request.host}"
        ):
            abort(403, "the form comes from another page")

    @app.after_request
    def close(response: Response) -> Response:
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
    def refused(error: HTTPException) -> tuple[str, int]:
        if isinstance(error, RequestEntityTooLarge):
            if (request.content_length or 0) > UPLOAD + BESIDE:
                _drain(request.environ)
            return render_template(
                "message.html",
                message=f"The upload is too large: a picture may have {UPLOAD // 1_000_000} MB. Choose a smaller one.",
            ), 413
        return render_template("message.html", message=f"{error.name}: {error.description}"), error.code or 500

    @app.get("/")
    def search() -> str:
        asked = {name: request.args.get(name, "")[:PHRASE] for name in ("phrase", "sentence", "entity", "outcome")}
        if asked["outcome"] not in ("", *OUTCOMES):
            abort(400, "no such outcome")
        found, page = book.search(**asked), max(1, request.args.get("page", 1, type=int))
        pages = max(1, -(-len(found) // PAGE))
        shown = [book.line(at) for at in found[(min(page, pages) - 1) * PAGE :][:PAGE]]
        return render_template(
            "search.html",
            asked=asked,
            lines=shown,
            found=len(found),
            of=len(book.rows),
            page=min(page, pages),
            pages=pages,
        )

    @app.get("/case/<int:at>")
    def case(at: int) -> str:
        if at >= len(book.rows):
            abort(404, f"there are {len(book.rows)} cases")
        made, entities, pictures = book.case(at)
        (answer,) = made["methods"].values()
        return render_template(
            "case.html",
            at=at,
            last=len(book.rows) - 1,
            case=made,
            answer=answer,
            entities=entities,
            pictures=pictures,
            outcome=book.outcome[at],
        )

    @app.get("/link")
    def form() -> str:
        return render_template("link.html", given={})

    @app.post("/link")
    def answer() -> Any:
        upload = request.files.get("picture")
        if not hmac.compare_digest(request.form.get("token", "").encode(), token.encode()):
            abort(403, "this form is of an earlier start of the page; load it anew")
        given = {"sentence": request.form.get("sentence", "").strip(), "phrase": request.form.get("phrase", "").strip()}
        message = _unfit(given)
        picture = upload.stream.read(UPLOAD + 1) if upload and upload.filename else None
        if picture is not None and len(picture) > UPLOAD:
            raise RequestEntityTooLarge
        if message:
            return render_template("link.html", given=given, message=message), 400
        try:
            found = link(given["sentence"], given["phrase"], picture)
        except (UserError, PassingError) as error:
            return render_template("link.html", given=given, message=str(error)), 400
        if found.picture not in ("ok", "none"):
            message = f"The uploaded file cannot be used as a picture ({found.picture}). Linked without it."
        entities, pictures = book.shown([entity.id for entity in found.entities])
        return render_template(
            "link.html", given=given, message=message, found=found, entities=entities, pictures=pictures
        )

    @app.get("/explore.css")
    def style() -> Response:
        return Response(app.open_resource("pages/explore.css").read(), mimetype="text/css")

    return app


def _unfit(given: dict[str, str]) -> str:
    """Why these fields cannot be linked; empty where they can."""
    if not given["sentence"] or not given["phrase"]:
        return "A sentence and a phrase are needed."
    if len(given["sentence"]) > SENTENCE or len(given["phrase"]) > PHRASE:
        return f"A sentence has at most {SENTENCE:,} characters here, a phrase {PHRASE}."
    return ""


def _known(host: str, hosts: set[str], local: bool) -> bool:
    """Whether the page may be asked for under this name. A name that someone else owns is never an address."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.endswith("]") else host
    if name.lower() in hosts:
        return True
    if local:
        return False
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _drain(environ: dict[str, Any]) -> None:
    """Read a body that was refused by its announced size, and keep nothing of it."""
    stream, left = environ.get("wsgi.input"), min(int(environ.get("CONTENT_LENGTH") or 0), DRAINED)
    while stream is not None and left > 0:
        block = stream.read(min(left, 1 << 16))
        if not block:
            return
        left -= len(block)
