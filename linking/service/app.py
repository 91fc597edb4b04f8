"""The application: routes for linking, entities, health and metrics; reconciliation beside them."""

import base64
import hashlib
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from foundation import extras
from foundation.errors import PassingError, UserError
from linking.service.access import Access
from linking.service.batching import Full
from linking.service.desk import Desk
from linking.service.guard import Guard
from linking.service.models import (
    MOST,
    PHRASE,
    Answer,
    Answers,
    EntityRecord,
    ExplainedAnswer,
    FoundEntities,
    Health,
    ManyMentions,
    OneMention,
    Problem,
)
from linking.service.reconcile import Reconciliation

DESCRIPTION = (
    "Links mentions of entities in text and pictures against the KB of a finished run. "
    "[OpenRefine](https://openrefine.org) and its kin find the same run at `/reconcile`."
)
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": why}
    for status, why in {
        400: "a value cannot be used",
        401: "the token lacks",
        403: "from a page of another server",
        413: "too large",
        422: "a field lacks or is of another kind",
        503: "no room; Retry-After says when to ask again",
    }.items()
}


def make(desk: Desk, access: Access, reconciliation: Reconciliation) -> ASGIApp:
    """The application over a desk, which it closes when it ends."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        desk.close()

    guards = [Depends(HTTPBearer(auto_error=False))] if access.token else []
    app = FastAPI(
        title="mel-cache",
        description=DESCRIPTION,
        version=extras.version(),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        dependencies=guards,
        responses=_PROBLEMS,
    )
    app.add_middleware(
        CORSMiddleware,
        allow_origins=sorted(access.origins),
        allow_methods=["GET", "POST"],
        allow_headers=["authorization", "content-type", "x-request-id"],
        expose_headers=["retry-after", "x-request-id"],
    )
    _answer_errors(app)
    _add_linking(app, desk)
    _add_entities(app, desk)
    _say_what_they_do(reconciliation.router.routes)
    app.include_router(reconciliation.router)
    _add_pages(app)

    @app.get("/health")
    async def health() -> Health:
        """Whether requests are answered."""
        run = desk.linker.run
        return Health(
            status="ok",
            run=f"{run.label}/{run.method}/{run.folder.name}",
            entities=len(desk.entities),
            waiting=len(desk.batcher),
        )

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Counts and durations, as Prometheus reads them."""
        return Response(desk.meter.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    _say_what_they_do(app.routes)
    return Guard(app, access, desk.meter)


def _say_what_they_do(routes: Iterable[BaseRoute]) -> None:
    """On the page of the schema each route has the first sentence of its description beside it."""
    for route in routes:
        if isinstance(route, APIRoute) and route.description:
            route.summary = route.description.partition(".")[0].replace("\n", " ")


def _add_linking(app: FastAPI, desk: Desk) -> None:
    @app.post("/link", tags=["link"])
    async def link(mention: OneMention) -> Answer:
        """Link one mention."""
        (linked,) = await desk.link([mention.asked(mention.top_k, "body")])
        return Answer.of(linked)

    @app.post("/explain", tags=["link"], response_model_exclude_unset=True)
    async def explain(mention: OneMention) -> ExplainedAnswer:
        """Link one mention, and say how the head came to the answer: for each entity what Explain writes."""
        (explained,) = await desk.explain([mention.asked(mention.top_k, "body")])
        return ExplainedAnswer.model_validate(explained.to_json())

    @app.post("/link/many", tags=["link"])
    async def link_many(request: ManyMentions) -> Answers:
        """Link several mentions; all of them, or none."""
        asked = [mention.asked(request.top_k, f"mentions.{number}") for number, mention in enumerate(request.mentions)]
        return Answers(answers=[Answer.of(linked) for linked in await desk.link(asked)])


def _add_entities(app: FastAPI, desk: Desk) -> None:
    entities = desk.entities

    @app.get("/entities", tags=["entities"])
    def search(
        name: Annotated[str, Query(min_length=1, max_length=PHRASE)], limit: Annotated[int, Query(ge=1, le=MOST)] = 10
    ) -> FoundEntities:
        """The entities with the most similar names."""
        found = entities.similar(name, limit)
        return FoundEntities(entities=[EntityRecord.of(one, similarity) for one, similarity in found])

    @app.get("/entities/{id:path}", tags=["entities"], responses={404: {"model": Problem}})
    def entity(id: str) -> EntityRecord:
        """One entity by its id."""
        known = entities.find(id)
        if known is None:
            raise HTTPException(404, "the KB has no entity with this id")
        return EntityRecord.of(known)


def _add_pages(app: FastAPI) -> None:
    """The page of the schema. Its script and style come with the package fastapi-offline, none from elsewhere."""
    folder = Path(str(resources.files("fastapi_offline") / "static"))
    app.mount("/assets", StaticFiles(directory=folder), name="assets")
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="mel-cache",
        swagger_js_url="/assets/swagger-ui-bundle.js",
        swagger_css_url="/assets/swagger-ui.css",
        swagger_favicon_url="/assets/favicon.png",
    )
    text = bytes(page.body).decode()
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in scripts)
    policy = (
        f"default-src 'none'; script-src 'self' {hashes}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'"
    )

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(text, headers={"content-security-policy": policy})

    @app.get("/", include_in_schema=False)
    async def home() -> RedirectResponse:
        return RedirectResponse("/docs")


def _answer_errors(app: FastAPI) -> None:
    """Every error is a `Problem`, and says nothing of the program."""

    def problem(request: Request, status: int, reason: str, **headers: str) -> JSONResponse:
        content = Problem(error=reason, request_id=request.state.request_id)
        return JSONResponse(content.model_dump(), status, headers=headers)

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> JSONResponse:
        return problem(request, error.status_code, str(error.detail), **dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def of_fields(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))[:200]
        return problem(request, 422, f"{place}: {first['msg'][:300]}")

    @app.exception_handler(UserError)
    async def of_values(request: Request, error: UserError) -> JSONResponse:
        return problem(request, 400, str(error))

    @app.exception_handler(PassingError)
    async def of_now(request: Request, error: PassingError) -> JSONResponse:
        seconds = error.seconds if isinstance(error, Full) else 1
        return problem(request, 503, str(error), **{"retry-after": str(seconds)})
