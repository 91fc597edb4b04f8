"""The parameters of `EnhanceEntities`, and the jobs that they make. No torch."""

import os
from pathlib import Path
from typing import Any

import luigi

from foundation.errors import UserError
from mel_cache.commands.parameters import Number, Whole
from mel_cache.commands.task import setting
from pipeline.enhance import LOCAL, output, pagefile, prompts
from pipeline.extraction.views import ENHANCED
from pipeline.models import references


class Options:
    """What `EnhanceEntities` can be told. Settings: also `MEL_<NAME>` in the environment or section `[mel]` of luigi.cfg."""

    mode = luigi.Parameter(
        default="",
        description="static: first paragraphs of the entity's page; dynamic: what a language model says of it",
    )
    max_failed = Whole(
        least=0, default=0, description="entities that may stay without a page or answer because the server failed"
    )

    pages = setting(
        "pages",
        "",
        "file of QID or title → text: .jsonl, .json, .tsv, or the WikiDiverse release's @@@@-separated lines",
    )
    wiki_api = setting(
        "wiki_api", "", "a MediaWiki's api.php in place of --pages, e.g. https://en.wikipedia.org/w/api.php"
    )
    wiki_text = setting(
        "wiki_text", "extracts", "extracts (the TextExtracts extension) or parse (rendered pages, one request each)"
    )
    wikidata_api = setting(
        "wikidata_api",
        "",
        "a Wikidata's api.php that knows the titles behind QIDs, e.g. https://www.wikidata.org/w/api.php",
    )
    wiki_site = setting("wiki_site", "enwiki", "the wiki's name in Wikidata's sitelinks")
    wiki_contact = setting(
        "wiki_contact",
        "",
        "your e-mail or web address: wikis ask programs to say whom they belong to",
        significant=False,
    )
    wiki_rate = setting("wiki_rate", 1.0, "requests a second to a wiki", Number, least=0, significant=False)
    page_chars = setting("page_chars", 2000, "most characters of a static text; it ends at a sentence", Whole, least=1)
    paragraphs = setting("paragraphs", 2, "paragraphs taken of a page", Whole, least=1)

    llm = setting(
        "llm",
        os.environ.get("OPENAI_MODEL", ""),
        "model at OPENAI_BASE_URL (also OPENAI_MODEL), or local:FOLDER: a causal model of transformers",
    )
    rounds = setting(
        "rounds",
        2,
        "2: where the model does not know, it is asked again with the static text; 1: it is not",
        Whole,
        least=1,
        most=2,
    )
    instruction = setting("instruction", prompts.INSTRUCTION, "system message")
    question = setting(
        "question", prompts.QUESTION, "first question; {name}, {type} and {attributes} stand for the entity's"
    )
    question_again = setting("question_again", prompts.AGAIN, "second question; {static} stands for the static text")
    max_answer = setting("max_answer", 300, "most tokens of an answer", Whole, least=1)
    answer_chars = setting(
        "answer_chars", 2000, "most characters of a dynamic text; it ends at a sentence", Whole, least=1
    )
    temperature = setting("temperature", 0.0, "sampling temperature of a remote model", Number, least=0)
    concurrency = setting(
        "concurrency", 4, "calls at once; rows in a batch of a local model", Whole, least=1, significant=False
    )
    calls_per_minute = setting(
        "calls_per_minute", 0.0, "most calls a minute, 0: no limit", Number, least=0, significant=False
    )
    max_calls = Whole(least=0, default=0, significant=False, description="most calls of this run, 0: no limit")
    max_tokens = Whole(
        least=0, default=0, significant=False, description="most tokens of this run, questions and answers, 0: no limit"
    )
    max_cost = Number(
        least=0,
        default=0.0,
        significant=False,
        description="most money of this run, by --price-in and --price-out, 0: no limit",
    )
    price_in = setting("price_in", 0.0, "price of a million tokens asked", Number, least=0, significant=False)
    price_out = setting("price_out", 0.0, "price of a million tokens answered", Number, least=0, significant=False)
    server_timeout = setting(
        "server_timeout",
        0.0,
        "seconds a server may be silent; 0: 30, a model's 120",
        Number,
        least=0,
        significant=False,
    )
    tries = setting("tries", 5, "tries of one request", Whole, least=1, significant=False)


def check(task: Options) -> None:
    """Raises `UserError` for options that cannot be meant; nothing is read but whether files are there."""
    if task.mode not in ENHANCED:
        raise UserError(f"--mode {task.mode!r}: expected {' or '.join(ENHANCED)}")
    if task.wiki_text not in ("extracts", "parse"):
        raise UserError(f"--wiki-text {task.wiki_text!r}: expected extracts or parse")
    if task.max_cost and not (task.price_in or task.price_out):
        raise UserError(
            "--max-cost: without --price-in and --price-out nothing costs anything; give the prices of a million tokens"
        )
    if task.pages and task.wiki_api:
        raise UserError("--pages and --wiki-api: give one of them")
    if task.pages:
        pagefile.check(Path(task.pages).expanduser())
    elif task.mode == "static" and not task.wiki_api:
        raise UserError(
            "EnhanceEntities --mode static: name a file with --pages, or a wiki with --wiki-api https://HOST/w/api.php"
        )
    if task.mode == "dynamic":
        prompts.Prompts(task.instruction, task.question, task.question_again)
        if not task.llm:
            raise UserError(
                "EnhanceEntities --mode dynamic: name the model with --llm or OPENAI_MODEL, or a folder as --llm local:FOLDER"
            )


def _patience(task: Options) -> dict[str, Any]:
    return {"tries": task.tries, **({"timeout": task.server_timeout} if task.server_timeout else {})}


def static_request(task: Options) -> dict[str, Any]:
    """What decides the static texts."""
    taken = {"paragraphs": task.paragraphs, "page_chars": task.page_chars, "max_failed": task.max_failed}
    if task.pages:
        return {**taken, "pages": output.content(Path(task.pages).expanduser().absolute())}
    return {**taken, **{name: getattr(task, name) for name in ("wiki_api", "wiki_text", "wikidata_api", "wiki_site")}}


def static_job(task: Options, answers: Path) -> dict[str, Any]:
    """The job of `pipeline.enhance.static.main`, but for the dataset."""
    same = (
        "wiki_api",
        "wiki_text",
        "wiki_contact",
        "wiki_rate",
        "wikidata_api",
        "wiki_site",
        "paragraphs",
        "max_failed",
    )
    pages = str(Path(task.pages).expanduser().absolute()) if task.pages else ""
    named = {name: getattr(task, name) for name in same}
    return {**named, "pages": pages, "max_chars": task.page_chars, "kept": str(answers), "patience": _patience(task)}


def dynamic_request(task: Options) -> dict[str, Any]:
    """What decides the dynamic texts, but for the static ones that are asked with. Never an address, never a key."""
    same = (
        "llm",
        "rounds",
        "instruction",
        "question",
        "question_again",
        "max_answer",
        "temperature",
        "answer_chars",
        "max_failed",
    )
    asked = {name: getattr(task, name) for name in same}
    if task.llm.startswith(LOCAL):
        folder = Path(task.llm[len(LOCAL) :]).expanduser().absolute()
        asked |= {"llm": LOCAL + folder.name, "weights": references.stamp(str(folder), Path.cwd(), None)[1:]}
    return asked


def dynamic_job(task: Options, answers: Path, memo: Path, device: str, precision: str) -> dict[str, Any]:
    """The job of `pipeline.enhance.dynamic.main`, but for the dataset."""
    same = ("rounds", "instruction", "question", "max_answer", "temperature", "concurrency", "max_failed")
    llm = LOCAL + str(Path(task.llm[len(LOCAL) :]).expanduser().absolute()) if task.llm.startswith(LOCAL) else task.llm
    limits = {name: getattr(task, name) for name in ("max_calls", "max_tokens", "max_cost", "price_in", "price_out")}
    return {
        **{name: getattr(task, name) for name in same},
        "llm": llm,
        "again": task.question_again,
        "max_chars": task.answer_chars,
        "rate": task.calls_per_minute / 60,
        "limits": limits,
        "kept": str(answers),
        "memo": str(memo),
        "device": device,
        "precision": precision,
        "patience": _patience(task),
    }
