"""Texts of entities: page files, questions, kept answers, and what wikis and language models reply."""

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import loopback
from enhance_world import QUICK
from hypothesis import strategies as st

from foundation.contracts import from_json, to_json
from fuzz.odd import TEXTS, as_json, bytes_of, file_of, json_of, texts
from fuzz.target import Target
from pipeline.datasets.records import Entity
from pipeline.enhance import pagefile, prompts
from pipeline.enhance.contracts import NO_LIMITS, ModelOptions
from pipeline.enhance.mediawiki import MediaWiki
from pipeline.enhance.remote import RemoteModel
from pipeline.enhance.spending import Spending
from pipeline.enhance.text import html_text
from pipeline.servers.patience import Again, Pace, TooLarge, retry_after
from pipeline.servers.store import answer_store

PAGES = {
    "pages.jsonl": b'{"id": "Q1", "text": "Ann is a singer."}\n{"title": "Bob", "extract": "Bob."}\n',
    "pages.json": b'{"Q1": "Ann is a singer.", "Bob": {"text": "Bob."}}',
    "pages.tsv": b"qid\ttext\nQ1\tAnn is a singer.\nQ2\tBob.\n",
    "pages.txt": b"Q1@@@@Ann is a singer.\nand more\nQ2@@@@Bob.\n",
}
ANN = Entity(id="Q1", name="Ann", type="person", attributes="Sex: female.")


def _pages(value: tuple[str, bytes | None], folder: Path) -> None:
    name, content = value
    path = folder / name
    path.mkdir() if content is None else path.write_bytes(content)
    pagefile.texts(path, {"Q1", "Q2", "Bob"})


def _all_pages(value: tuple[str, bytes | None], folder: Path) -> None:
    if value == ("all", None):
        for name, content in PAGES.items():
            _pages((name, content), folder)
    else:
        _pages(value, folder)


def _odd_pages() -> st.SearchStrategy[tuple[str, bytes | None]]:
    return st.sampled_from(sorted(PAGES)).flatmap(lambda name: st.tuples(st.just(name), file_of(name, PAGES[name])))


QUESTIONS = to_json(prompts.Prompts())


def _questions(value: str, folder: Path) -> None:
    """Questions as their options give them, filled in, and an answer judged."""
    asked = from_json(prompts.Prompts, json.loads(value))
    asked.first(ANN)
    asked.second(ANN, "A text.", value)
    prompts.kind(value, "stop")
    prompts.description(value, 200)
    html_text(value)


@st.composite
def _odd_questions(draw: st.DrawFn) -> str:
    changed = dict(QUESTIONS)
    name = draw(st.sampled_from(sorted(changed)))
    odd = draw(
        st.one_of(texts, st.sampled_from(["{", "{name", "{name}}", "{name!r}", "{static}", "{0}", "{}", "{name:9}"]))
    )
    changed[name] = draw(st.sampled_from([odd, f"{odd}{{name}}", f"{{name}}{odd}"]))
    return json.dumps(changed)


STORE = b'{"key": "a", "value": {"text": "A."}}\n{"key": "b", "value": null}\n{"key": "c", "val'


def _answers(content: bytes, folder: Path) -> None:
    path = folder / "answers.jsonl"
    path.write_bytes(content)
    for writable in (False, True):
        with answer_store(path, writable) as store:
            for key in ("a", "b", "c"):
                store.get(key)
            if writable:
                store.put("d", {"text": "D."})
    with answer_store(path, writable=False) as store:
        assert store.get("d") is not None


# Servers


Sent = tuple[int, str, bytes]
"""Status, `Retry-After` and body of an answer."""


@functools.cache
def _server() -> tuple[loopback.Server, list[Sent]]:
    """A server that answers with what stands last in the list."""
    sent: list[Sent] = []

    def answer(_: loopback.Seen) -> loopback.Reply:
        status, after, body = sent[-1]
        headers = {"Retry-After": after} if after else {}
        return loopback.Reply(body, status, headers)

    server = loopback.Server(answer)
    server.http.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that hang up
    return server, sent


PAGE = {
    "query": {
        "normalized": [{"from": "ann", "to": "Ann"}],
        "redirects": [{"from": "Ann", "to": "Ann Lee", "tofragment": "Life"}],
        "pages": [{"pageid": 1, "title": "Ann Lee", "extract": "Ann.", "pageprops": {"wikibase_item": "Q1"}}],
    },
    "parse": {"title": "Ann", "redirects": [], "text": "<p>Ann<sup>1</sup></p>", "properties": {"wikibase_item": "Q1"}},
    "entities": {"Q1": {"id": "Q1", "sitelinks": {"enwiki": {"site": "enwiki", "title": "Ann"}}}},
    "continue": {"excontinue": 1},
    "warnings": {"extracts": {"warnings": "none"}},
    "success": 1,
}
COMPLETION = loopback.completion("Ann is a singer.")
STATUSES = [200] * 12 + [201, 204, 301, 400, 401, 404, 413, 429, 500, 503, 599]
AFTER = ["", "", "", "0", "-1", "1e400", "nan", "9" * 400, "Wed, 21 Oct 9999 07:28:00 GMT", "\u0661", "soon", "0.5"]
ERROR = {"error": {"code": "maxlag", "message": "no", "type": "x", "param": "max_tokens", "info": "y"}}
ONCE = QUICK.__class__(tries=1, first=0.0, most=0.0, longest=0.0, timeout=5.0, whole=10.0, bytes=200_000)


def _odd_replies(value: Any) -> st.SearchStrategy[Sent]:
    bodies = st.one_of(
        json_of(value).map(as_json),
        json_of(value).map(as_json),
        json_of(ERROR).map(as_json),
        bytes_of(json.dumps(value).encode()),
        st.sampled_from([b"", b"<html>", b"\xff", b"[" * 100_000, b"x" * 300_000]),
    )
    return st.tuples(st.sampled_from(STATUSES), st.sampled_from(AFTER), bodies)


def _wiki(value: Sent, folder: Path) -> None:
    server, sent = _server()
    sent.append(value)
    retry_after({"retry-after": value[1]})
    for form, ask in _WIKI_CALLS:
        wiki = MediaWiki(f"{server.address}/w/api.php", "a@b.org", Pace(0), ONCE, form)
        try:
            ask(wiki)
        finally:
            wiki.close()


_WIKI_CALLS: tuple[tuple[str, Callable[[MediaWiki], object]], ...] = (
    ("extracts", lambda wiki: wiki.introductions(["Ann", "ann"])),
    ("parse", lambda wiki: wiki.introductions(["Ann"])),
    ("extracts", lambda wiki: wiki.sitelinks(["Q1"], "enwiki")),
)


def _model(value: Sent, folder: Path) -> None:
    server, sent = _server()
    sent.append(value)
    os.environ |= {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": f"{server.address}/v1"}
    try:
        model = RemoteModel(ModelOptions(name="m", concurrency=1, patience=ONCE), Spending(NO_LIMITS))
        model.open()
        answer = model._answer([{"role": "user", "content": "Who is Ann?"}], _never())
        prompts.kind(answer.text, answer.finish)
        model.client.close()
    finally:
        del os.environ["OPENAI_API_KEY"], os.environ["OPENAI_BASE_URL"]


def _never() -> Any:
    import threading

    return threading.Event()


ENHANCE = "pipeline.enhance"
TARGETS = (
    Target(
        kind="page files",
        readers=(f"{ENHANCE}.pagefile:_lines", f"{ENHANCE}.pagefile:_json_lines", f"{ENHANCE}.pagefile:_json"),
        valid=lambda: ("all", None),
        odd=_odd_pages,
        read=_all_pages,
        hard=lambda: (("pages.json", b"[" * 100_000), ("pages.jsonl", b"x" * 1000)),
    ),
    Target(
        kind="questions and answers",
        readers=(f"{ENHANCE}.prompts:Prompts.first", f"{ENHANCE}.text:html_text"),
        valid=lambda: json.dumps(QUESTIONS),
        odd=_odd_questions,
        read=_questions,
        hard=lambda: tuple(json.dumps({**QUESTIONS, "again": text + "{name}"}) for text in TEXTS),
    ),
    Target(
        kind="kept answers",
        readers=(
            "pipeline.servers.store:AnswerStore.__init__",
            "pipeline.servers.store:AnswerStore._read",
            "pipeline.servers.store:AnswerStore.get",
        ),
        valid=lambda: STORE,
        odd=lambda: st.one_of(
            bytes_of(STORE),
            json_of({"key": "a", "value": {"text": "A."}}).map(lambda line: as_json(line) + b"\n" + STORE),
        ),
        read=_answers,
    ),
    Target(
        kind="replies of a wiki",
        readers=("pipeline.servers.mediawiki:Api._once",),
        valid=lambda: (200, "", json.dumps({**PAGE, "continue": {}}).encode()),
        odd=lambda: _odd_replies(PAGE),
        read=_wiki,
        refusals=(TooLarge, Again),
        share=2,
    ),
    Target(
        kind="replies of a language model",
        readers=(f"{ENHANCE}.remote:RemoteModel._parsed",),
        valid=lambda: (200, "", json.dumps(COMPLETION).encode()),
        odd=lambda: _odd_replies(COMPLETION),
        read=_model,
        share=2,
    ),
    Target(
        kind="errors of a language model's server",
        readers=(f"{ENHANCE}.remote:_Status.__init__",),
        valid=lambda: (400, "", json.dumps({"error": {"code": "content_filter"}}).encode()),
        odd=lambda: _odd_replies(ERROR),
        read=_model,
        share=2,
    ),
)
