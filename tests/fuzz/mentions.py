"""Mentions to link: lines of a file, and what is given to `Linker`; and requests to the page over a run."""

import contextlib
import functools
import io
import json
import re
from pathlib import Path
from typing import Any

import linking_world
import pytest
from fastapi.testclient import TestClient
from fissfuse_folder import picture
from hypothesis import strategies as st

from foundation.errors import UserError
from fuzz.odd import as_json, bytes_of, lines_of, texts
from fuzz.target import Target, built
from linking import Hints, Linker, finished, incoming, incoming_entities, mentions
from linking.contracts import LinkJob
from linking.service.access import Access, access
from linking.service.desk import Desk
from linking.service.reconcile import parsed
from pipeline.datasets.contracts import Limits
from report.explore.app import make
from report.explore.book import Book
from report.explore.pictures import Pictures
from report.explore.serve import FORMS

LINES = "".join(
    json.dumps(line) + "\n"
    for line in (
        {
            "id": "m1",
            "sentence": "Ann Powers met Ben Powers.",
            "mention": "Powers",
            "start": 4,
            "end": 10,
            "image": "picture.png",
            "type": "person",
            "candidates": ["Q1", "Q2"],
        },
        {"sentence": "Ann Powers sings.", "mention": "Ann Powers", "gold": None, "split": "test", "group": "g"},
    )
).encode()

ENTITIES = "".join(
    json.dumps(line) + "\n"
    for line in (
        {
            "id": "N1",
            "name": "Ann Powers",
            "attributes": {"Occupation": ["singer", "actor"]},
            "description": "A singer.",
            "images": ["picture.png"],
            "type": "person",
            "aliases": ["Annie"],
            "static": "Ann Powers sings.",
        },
        {"id": "Q2", "removed": True},
    )
).encode()


@st.composite
def _odd_lines(draw: st.DrawFn) -> bytes:
    kind = draw(st.integers(0, 5))
    if kind == 0:
        return draw(bytes_of(LINES))
    if kind == 1:
        wide = LINES.decode().encode("utf-16")
        return draw(st.sampled_from([b"", b"\n\n", b"\xef\xbb\xbf" + LINES, wide, b"x" * 99]))
    return draw(lines_of(LINES))


def _lines(content: bytes, folder: Path) -> None:
    """Every line is a mention or is refused alone, with its number."""
    path = folder / "new.jsonl"
    path.write_bytes(content)
    (folder / "picture.png").write_bytes(picture(1))
    lines = list(incoming.read(path, folder, ("note",)))
    for line in lines:
        assert (line.value is None) == bool(line.reason) and "\n" not in line.reason
    refused = [line.reason for line in lines if line.value is None]
    if refused:
        raise UserError(refused[0])


@st.composite
def _odd_entities(draw: st.DrawFn) -> bytes:
    return draw(st.one_of(bytes_of(ENTITIES), lines_of(ENTITIES), st.sampled_from([b"", b"\n\n", b"\xef\xbb\xbf[]"])))


def _entities(content: bytes, folder: Path) -> None:
    """All are taken, or none: with the line and the reason."""
    path = folder / "extra.jsonl"
    path.write_bytes(content)
    (folder / "picture.png").write_bytes(picture(1))
    incoming = incoming_entities.read(path)
    incoming.check({"Q2"})
    incoming.table(Limits())


def trained(folder: Path) -> Path:
    """A small run, and the folder that the linker's files go to."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        return linking_world.train(folder, patch, "mimic")["mimic"]


@functools.cache
def linker() -> Linker:
    return Linker.load(built(trained))


def _link_file(content: bytes, folder: Path) -> None:
    path = folder / "new.jsonl"
    path.write_bytes(content)
    (folder / "picture.png").write_bytes(picture(1))
    result = mentions.link(LinkJob(run=built(trained), input=path, output=folder / "out.jsonl", chunk=4))
    if result.counts.refused:
        raise UserError(json.loads((folder / "out.jsonl.rejects.jsonl").read_text().splitlines()[0])["reason"])


Call = tuple[Any, Any, Any, Any, Any]
"""Sentence, phrase, picture, and the hints span and candidates."""
_NO_TEXTS: list[Any] = [None, 1, float("nan"), b"x", [], "\ud800", "Ann" * 2000]
_ANY: st.SearchStrategy[Any] = st.one_of(texts, st.sampled_from(_NO_TEXTS))


def _odd_calls() -> st.SearchStrategy[Call]:
    numbers = st.tuples(st.integers(-2, 40), st.integers(-2, 40))
    spans = st.one_of(st.none(), numbers, st.sampled_from([(0, 2**70), "ab", 1]))
    given = st.one_of(st.none(), st.lists(texts, max_size=3), st.sampled_from([["Q1"], 1, "Q1", [None], [1]]))
    images = st.one_of(st.none(), bytes_of(picture(1)), st.sampled_from([b"", "nowhere.png", 1, Path("/"), picture(1)]))
    sentences = st.one_of(st.just("Ann Powers sings."), _ANY)
    return st.tuples(sentences, st.one_of(st.just("Ann Powers"), _ANY), images, spans, given)


def _link(value: Call, folder: Path) -> None:
    sentence, phrase, image, span, candidates = value
    linked = linker().link(sentence, phrase, image, hints=Hints(span=span, candidates=candidates))
    json.dumps(linked.to_json(), allow_nan=False)


# The service

QUERIES = (
    b'{"q0": {"query": "Ann Powers", "type": ["person"], "type_strict": "should", "limit": 3, "properties": '
    b'[{"pid": "sentence", "v": "Ann sings."}, {"pid": "Born", "v": [1942, true, {"id": "Q1", "name": "x"}]}]}}\n'
)


def _queries(content: bytes, folder: Path) -> None:
    for query in parsed(content.decode("utf-8", "replace")).values():
        assert 1 <= query.most <= 100 and 1 <= query.asked().top_k <= 100


def _token(content: bytes, folder: Path) -> None:
    (folder / "token").write_bytes(content)
    assert access("0.0.0.0", folder / "token", ()).token


# The page over a run

Request = tuple[str, dict[str, str], dict[str, Any] | bytes | None, dict[str, str]]
"""Path, query, form (or the bytes of a body) and headers."""


@functools.cache
def _client() -> Any:
    run = finished.read(built(trained))
    images = dict.fromkeys(run.images, run.paths.root.parent / "data")
    limits = Limits(**run.limits)
    book = Book.read(run, images, "test", Pictures(limits))
    application = make(book, Desk(linker, limits, FORMS, FORMS), Access(None, frozenset(), any_host=False))
    return TestClient(application, base_url="http://localhost", raise_server_exceptions=False)


def _ask(value: Request, folder: Path) -> None:
    path, query, form, headers = value
    client = _client()
    if form is None:
        answer = client.get(path, params=query, headers=headers)
    elif isinstance(form, dict):
        token = re.search(r'name="token" value="([^"]+)"', client.get("/link").text)
        form = {"token": token[1] if token else "", **form}
        texts_of = {name: item for name, item in form.items() if not isinstance(item, bytes)}
        files = {name: ("p.png", item) for name, item in form.items() if isinstance(item, bytes)}
        answer = client.post("/link", data=texts_of, files=files or {"x": ("", b"")}, headers=headers)
    else:
        answer = client.post("/link", content=form, headers=headers)
    assert answer.status_code < 500, answer.text[:300]
    if answer.status_code >= 400:
        raise UserError(f"{answer.status_code} {answer.text[-100:]}".replace("\n", " "))


def _odd_requests() -> st.SearchStrategy[Request]:
    plain = texts.map(lambda text: text.encode("utf-8", "replace").decode())
    names = st.one_of(st.sampled_from(["phrase", "sentence", "entity", "outcome", "page"]), plain)
    paths = st.sampled_from(["/", "/", "/", "/case/0", "/case/-1", f"/case/{10**400}", "/case/x", "/link", "/no"])
    headers = st.dictionaries(
        st.sampled_from(["Host", "Origin", "Content-Length", "Content-Type", "X"]),
        st.sampled_from(["", "localhost", "evil", "127.0.0.1:x", "-1", "9" * 400, "multipart/form-data", "[::1"]),
        max_size=1,
    )
    fields = st.fixed_dictionaries(
        {"sentence": plain, "phrase": plain}, optional={"picture": bytes_of(picture(1)), "token": plain, "x": plain}
    )
    forms: st.SearchStrategy[Any] = st.one_of(st.none(), st.none(), fields, st.binary(max_size=60))
    return st.tuples(paths, st.dictionaries(names, plain, max_size=3), forms, headers)


TARGETS = (
    Target(
        kind="lines to link",
        readers=("linking.incoming:lines", "linking.incoming:_json"),
        valid=lambda: LINES,
        odd=_odd_lines,
        read=_lines,
        hard=lambda: (as_json('{"sentence": "a", "mention": "a", "\\ud800": 1}\n') + LINES, b"[" * 100_000),
        share=16,
    ),
    Target(
        kind="reconciliation queries",
        readers=("linking.service.reconcile:parsed",),
        valid=lambda: QUERIES,
        odd=lambda: lines_of(QUERIES),
        read=_queries,
        hard=lambda: (b'{"q": ' + b"[" * 100_000, b'{"q": {"query": "x", "limit": 1e999}}'),
    ),
    Target(
        kind="a token's file",
        readers=("linking.service.access:_read",),
        valid=lambda: b"0123456789abcdef",
        odd=lambda: bytes_of(b"0123456789abcdef\n"),
        read=_token,
        share=1,
    ),
    Target(
        kind="entities that come to a KB",
        readers=("pipeline.datasets.fields:json_lines",),
        valid=lambda: ENTITIES,
        odd=_odd_entities,
        read=_entities,
        share=4,
    ),
)
OVER_A_RUN = (
    Target(
        kind="a file to link, with a run",
        readers=("linking.mentions:link",),
        valid=lambda: LINES,
        odd=_odd_lines,
        read=_link_file,
        share=1,
    ),
    Target(
        kind="calls of Linker",
        readers=("linking.linker:Linker.link",),
        valid=lambda: ("Ann Powers sings.", "Ann Powers", None, None, None),
        odd=_odd_calls,
        read=_link,
        share=2,
    ),
    Target(
        kind="requests to Explore",
        readers=("report.explore.app:_add_mentions.search",),
        valid=lambda: ("/", {"phrase": "ann"}, None, {}),
        odd=_odd_requests,
        read=_ask,
        share=2,
    ),
)
"""Targets over a trained run, which takes half a minute to make: of the long campaign alone."""
