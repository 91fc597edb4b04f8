"""The reconciliation API, version 0.2: what OpenRefine and its kin ask, answered by the same linker.

https://reconciliation-api.github.io/specs/0.2/
"""

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse
from jinja2 import Environment, PackageLoader
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from foundation import extras
from foundation.contracts import message
from foundation.errors import UserError
from foundation.files import parse_json
from linking.linker import Linked
from linking.service.desk import Asked, Desk
from linking.service.entities import ENTITY, Entities, Known
from linking.service.models import LABEL, MOST, PHRASE, SENTENCE
from pipeline.datasets.records import Mention
from pipeline.datasets.spans import find_span

PATH = "/reconcile"
SENTENCE_PROPERTY = "sentence"
"""The property whose value is the text around the mention. The others are added to it."""
WIDTH, HEIGHT = 400, 200  # pixels of a preview
WIKIDATA = "http://www.wikidata.org/entity/", "http://www.wikidata.org/prop/direct/"
SURE = 0.9
"""The confidence from which a candidate is a match."""
_FEW = 20  # of a suggestion
_STYLE = "body{font:14px/1.4 sans-serif;margin:8px}p{margin:0 0 4px}small{color:#555}"

_Text = Annotated[str, Field(max_length=SENTENCE)]


class _OfEntity(BaseModel):
    model_config = ConfigDict(strict=True)

    id: _Text
    name: _Text = ""


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


class Property(BaseModel):
    """A property of the entity that is looked for, and its values."""

    model_config = ConfigDict(strict=True)

    pid: Annotated[str, Field(max_length=LABEL)]
    v: Annotated[list[_Text | bool | int | float | _OfEntity], BeforeValidator(_listed), Field(max_length=MOST)]

    @property
    def texts(self) -> list[str]:
        """Its values in words."""
        words = [(one.name or one.id) if isinstance(one, _OfEntity) else str(one) for one in self.v]
        return [text.strip() for text in words if text.strip()]


class EntityQuery(BaseModel):
    """What is known of an entity that is looked for. Fields that the specification does not have are refused."""

    model_config = ConfigDict(strict=True, extra="forbid")

    query: Annotated[str, Field(max_length=PHRASE)] = ""
    type: Annotated[list[Annotated[str, Field(max_length=LABEL)]], BeforeValidator(_listed), Field(max_length=MOST)] = (
        Field(default=[])
    )
    limit: float = 5
    properties: Annotated[list[Property], Field(max_length=MOST)] = Field(default=[])
    type_strict: Literal["any", "all", "should"] = "any"

    @property
    def most(self) -> int:
        """Candidates that are listed at most."""
        return min(MOST, max(1, math.floor(self.limit))) if math.isfinite(self.limit) else MOST

    @property
    def types(self) -> set[str]:
        """Those that are asked for; empty where any will do."""
        return set(self.type) - {ENTITY, ""}

    def sentence(self) -> str:
        """The text around the phrase: the property `sentence`, the phrase itself where it is not in it, and the other
        properties as `name: values.`"""
        parts = [" ".join(one.texts) for one in self.properties if one.pid == SENTENCE_PROPERTY]
        if find_span(" ".join(parts), self.query) is None:
            parts = [self.query, *parts]
        others = [one for one in self.properties if one.pid != SENTENCE_PROPERTY and one.texts]
        return " ".join([*filter(None, parts), *(f"{one.pid}: {', '.join(one.texts)}." for one in others)])[:SENTENCE]

    def asked(self) -> Asked:
        """As a mention. More is asked for than is listed where only some types will do."""
        sentence = self.sentence()
        mention = Mention(
            id="new",
            sentence=sentence,
            phrase=self.query,
            split="test",
            span=find_span(sentence, self.query),
            type=next(iter(self.types)) if len(self.types) == 1 else None,
        )
        return Asked(mention, top_k=MOST if self.types else max(5, self.most))


class Reconciliation:
    """The routes. wikidata: whether the KB's ids are Wikidata's. origins: pages that may show a preview."""

    def __init__(self, desk: Desk, wikidata: bool, origins: Sequence[str]) -> None:
        self.desk, self.entities, self.wikidata, self.origins = desk, desk.entities, wikidata, origins
        self.router = APIRouter(prefix=PATH, tags=["reconcile"])
        environment = Environment(loader=PackageLoader("linking.service", "pages"), autoescape=True)
        self.template = environment.get_template("preview.html")
        add = self.router.add_api_route
        add("", self.ask, methods=["GET"], response_class=JSONResponse)
        add("", self.ask_form, methods=["POST"], response_class=JSONResponse)
        add("/preview", self.preview, methods=["GET"], response_class=HTMLResponse)
        add("/suggest/entity", self.suggest_entity, methods=["GET"])
        add("/suggest/type", self.suggest_type, methods=["GET"])
        add("/suggest/property", self.suggest_property, methods=["GET"])

    async def ask(self, request: Request, queries: str | None = None) -> Any:
        """The service's manifest; with `queries`, the candidates of a batch of queries."""
        return self.manifest(str(request.base_url)) if queries is None else await self.answer(queries)

    async def ask_form(self, request: Request) -> Any:
        """The candidates of a batch of queries, in the form field `queries`."""
        async with request.form(max_files=0, max_fields=4, max_part_size=1 << 20) as form:
            queries = form.get("queries")
        if queries is None or isinstance(queries, UploadFile):
            return self.manifest(str(request.base_url))
        return await self.answer(queries)

    def manifest(self, base: str) -> dict[str, Any]:
        """What the service is and has. base: its address."""
        own = base.rstrip("/") + PATH
        run = self.desk.linker.run
        spaces = WIKIDATA if self.wikidata else (f"{base}entities/", f"{own}/suggest/property")
        page = "https://www.wikidata.org/wiki/{{id}}" if self.wikidata else own + "/preview?id={{id}}"
        return {
            "versions": ["0.2"],
            "name": f"mel-cache: {run.label}, {run.method}",
            "identifierSpace": spaces[0],
            "schemaSpace": spaces[1],
            "documentation": f"{base}docs",
            "serviceVersion": extras.version(),
            "defaultTypes": [_type(name) for name in [ENTITY, *list(self.entities.types)[:_FEW]]],
            "view": {"url": page},
            "preview": {"url": own + "/preview?id={{id}}", "width": WIDTH, "height": HEIGHT},
            "suggest": {
                kind: {"service_url": own, "service_path": f"/suggest/{kind}"}
                for kind in ("entity", "type", "property")
            },
        }

    async def answer(self, text: str) -> dict[str, Any]:
        """The candidates of every query of a batch. Raises `UserError` for what is no batch."""
        queries = parsed(text)
        known = {name: self.entities.find(query.query.strip()) for name, query in queries.items()}
        linked = [
            name for name, query in queries.items() if query.query.strip() and (known[name] is None or query.types)
        ]
        answers = dict(
            zip(linked, await self.desk.link([queries[name].asked() for name in linked]), strict=True) if linked else ()
        )
        return {
            name: {"result": self._result(query, answers.get(name), known[name])} for name, query in queries.items()
        }

    def _result(self, query: EntityQuery, linked: Linked | None, named: Known | None) -> list[dict[str, Any]]:
        """The candidates, best first. named: the entity whose id the query is."""
        if linked is None:
            return [self._candidate(named, 100.0, True)] if named else []
        found = []
        for place, (known, score) in enumerate(_scored(linked, self.entities)):
            fits = _fits(known, query)
            if fits or query.type_strict == "should":
                found.append((fits, self._candidate(known, score, place == 0 and fits and _is_sure(linked))))
        found.sort(key=lambda one: not one[0])  # stable: by score within
        return [candidate for _, candidate in found][: query.most]

    def _candidate(self, known: Known, score: float, match: bool) -> dict[str, Any]:
        return {
            "id": known.id,
            "name": known.name,
            "description": known.summary,
            "type": [_type(name) for name in known.types or (ENTITY,)],
            "score": round(score, 3),
            "match": match,
        }

    def suggest_entity(
        self, prefix: Annotated[str, Query(max_length=PHRASE)] = "", cursor: Annotated[int, Query(ge=0)] = 0
    ) -> dict[str, Any]:
        """Entities whose name begins so, then similar ones."""
        wanted = self.entities.beginning(prefix, min(cursor, 1000) + _FEW) if prefix.strip() else []
        return {
            "result": [
                {
                    "id": one.id,
                    "name": one.name,
                    "description": one.summary,
                    "notable": [_type(name) for name in one.types or (ENTITY,)],
                }
                for one in wanted[cursor:]
            ]
        }

    def suggest_type(
        self, prefix: Annotated[str, Query(max_length=PHRASE)] = "", cursor: Annotated[int, Query(ge=0)] = 0
    ) -> dict[str, Any]:
        """Types of the KB, the most frequent first."""
        counts = {ENTITY: len(self.entities), **self.entities.types}
        fitting = [name for name in counts if name.casefold().startswith(prefix.strip().casefold())]
        listed = fitting[cursor:][:_FEW]
        return {"result": [{**_type(name), "description": f"{counts[name]:,} entities"} for name in listed]}

    def suggest_property(
        self, prefix: Annotated[str, Query(max_length=PHRASE)] = "", cursor: Annotated[int, Query(ge=0)] = 0
    ) -> dict[str, Any]:
        """`sentence`; and the prefix itself, because any property may be named."""
        wanted = prefix.strip()
        text = {"id": SENTENCE_PROPERTY, "name": "sentence", "description": "the text around the name"}
        own = {"id": wanted, "name": wanted, "description": f"added to the text as “{wanted}: value.”"}
        is_text = SENTENCE_PROPERTY.startswith(wanted.casefold())
        listed = [*([text] if is_text else []), *([own] if wanted and wanted != SENTENCE_PROPERTY else [])]
        return {"result": listed[cursor:]}

    def preview(self, id: Annotated[str, Query(max_length=LABEL)]) -> HTMLResponse:
        """An entity as a small page, for a frame."""
        known = self.entities.find(id)
        if known is None:
            raise HTTPException(404, "the KB has no entity with this id")
        style = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
        self_ = "'self'"
        policy = (
            f"default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; "
            f"frame-ancestors {' '.join([self_, *self.origins])}"
        )
        headers = {"content-security-policy": policy, "cross-origin-resource-policy": "cross-origin"}
        return HTMLResponse(self.template.render(entity=known, style=_STYLE), headers=headers)


def parsed(text: str) -> Mapping[str, EntityQuery]:
    """The queries of a batch by key. Raises `UserError`."""
    try:
        value = parse_json(text, unique=True)
    except json.JSONDecodeError as error:
        raise UserError(f"queries: malformed JSON at column {error.colno} ({error.msg})") from error
    if not isinstance(value, dict) or len(value) > MOST:
        raise UserError(f"queries: expected an object of at most {MOST} queries by key")
    queries = {}
    for name, query in value.items():
        try:
            queries[name] = EntityQuery.model_validate(query)
        except ValidationError as error:
            raise UserError(message(error, f"queries.{name:.60}", EntityQuery)) from None
        if not queries[name].query.strip() and not queries[name].properties:
            raise UserError(f"queries.{name:.60}: expected `query`, or `properties`")
    return queries


def _type(name: str) -> dict[str, str]:
    return {"id": name, "name": name}


def _fits(known: Known, query: EntityQuery) -> bool:
    if not query.types:
        return True
    own = set(known.types)
    return query.types <= own if query.type_strict == "all" else bool(query.types & own)


def _scored(linked: Linked, entities: Entities) -> list[tuple[Known, float]]:
    """The entities with their chances in percent: the confidence for the first, less for the others by their scores'
    distance from it (softmax). Without a confidence, the softmax itself."""
    if not linked.entities:
        return []
    best = linked.entities[0].score
    ratios = [math.exp(min(0.0, entity.score - best)) for entity in linked.entities]
    chance = 1 / sum(ratios) if linked.confidence is None else linked.confidence
    found = []
    for entity, ratio in zip(linked.entities, ratios, strict=True):
        known = entities.find(entity.id)
        if known is not None:
            found.append((known, 100 * chance * ratio))
    return found


def _is_sure(linked: Linked) -> bool:
    """Whether the first entity may be taken without anybody looking at it."""
    return not linked.nil and linked.confidence is not None and linked.confidence >= SURE
