"""EnhanceEntities: a text per entity, from its page or from a language model."""

import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import luigi

from foundation import child, logs
from foundation import device as devices
from foundation.checksums import content
from foundation.errors import UserError
from foundation.paths import descriptions
from mel_cache.commands.dataset import OnDataset, PrepareDataset
from mel_cache.commands.parameters import DEVICE, PRECISION, Number, Whole
from mel_cache.commands.task import ON_DEVICE, Task, setting
from mel_cache.steps import Outcome
from pipeline.enhance import LOCAL, output, pagefile, prompts
from pipeline.enhance.contracts import (
    MODEL_PATIENCE,
    DescriptionsReport,
    DynamicEstimate,
    DynamicJob,
    ModelOptions,
    RunUsage,
    SpendingLimits,
    StaticEstimate,
    StaticJob,
    Wiki,
    set_fields,
)
from pipeline.extraction.views import ENHANCED
from pipeline.models import files as model_files
from pipeline.servers.contracts import Patience

_TEXT_OPTIONS = ("paragraphs", "page_chars", "max_failed")
_WIKI_OPTIONS = ("wiki_api", "wiki_text", "wikidata_api", "wiki_site")
_MODEL_OPTIONS = ("llm", "rounds", "max_answer", "temperature", "answer_chars", "max_failed")
_PROMPT_OPTIONS = ("instruction", "question", "question_again")


class EnhanceEntities(OnDataset):
    """Writes a text per entity (--mode static: from its page; dynamic: by a language model), for the text views of that
    name.

    Leaves descriptions-<mode>.parquet, a report and the list of entities without a text beside the prepared dataset's
    tables.
    """

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
        "2: where the model does not know, a second question with the static text; 1: none",
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
    price_in = setting(
        "price_in", 0.0, "price of a million tokens of the questions", Number, least=0, significant=False
    )
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

    profile = PrepareDataset.profile
    device = DEVICE
    precision = PRECISION

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        devices.check(self.device, self.precision)
        self.check()

    def check(self) -> None:
        """Raises `UserError` for options that contradict each other or name files that are not there; reads no file."""
        if self.mode not in ENHANCED:
            raise UserError(f"--mode {self.mode!r}: expected {' or '.join(ENHANCED)}")
        if self.wiki_text not in ("extracts", "parse"):
            raise UserError(f"--wiki-text {self.wiki_text!r}: expected extracts or parse")
        if self.max_cost and not (self.price_in or self.price_out):
            raise UserError(
                "--max-cost: without --price-in and --price-out nothing costs anything; give the prices of a million "
                "tokens"
            )
        if self.pages and self.wiki_api:
            raise UserError("--pages and --wiki-api: give one of them")
        if self.pages:
            pagefile.check(Path(self.pages).expanduser())
        elif self.mode == "static" and not self.wiki_api:
            raise UserError(
                "EnhanceEntities --mode static: name a file with --pages, or a wiki with --wiki-api https://HOST/w/api.php"
            )
        if self.mode == "dynamic":
            self.questions()
            if not self.llm:
                raise UserError(
                    "EnhanceEntities --mode dynamic: name the model with --llm or OPENAI_MODEL, or a folder as "
                    "--llm local:FOLDER"
                )

    @property
    def resources(self) -> dict[str, int]:  # type: ignore[override]  # Luigi only reads it
        return ON_DEVICE if self.mode == "dynamic" and self.llm.startswith(LOCAL) else {}

    def needs(self) -> list[Task]:
        """The dataset; for a second round, the static texts where options say how to write them (else those that are
        there are used).
        """
        first = self.mode == "dynamic" and self.rounds == 2 and (self.pages or self.wiki_api)
        return [self.clone(PrepareDataset), *([self.clone(EnhanceEntities, mode="static")] if first else [])]

    def brief(self) -> str:
        return f" {self.mode}"

    # What the result depends on

    def request(self) -> dict[str, Any] | None:
        content = self.clone(PrepareDataset).content()
        if content is None:
            return None
        common = {"dataset": content, "mode": self.mode}
        if self.mode == "static":
            return {**common, **self.options(_TEXT_OPTIONS), **self.source_of_pages()}
        own = {**common, **self.options((*_MODEL_OPTIONS, *_PROMPT_OPTIONS)), **self.local_model()}
        if self.rounds == 1:
            return own
        static = descriptions(self.prepared(), "static")
        if len(self.needs()) == 2 and not static.exists():
            return None
        return {**own, "static": output.stamp(static, "static")}

    def options(self, names: tuple[str, ...]) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names}

    def source_of_pages(self) -> dict[str, Any]:
        return {"pages": content(self.page_file())} if self.pages else self.options(_WIKI_OPTIONS)

    def page_file(self) -> Path:
        return Path(self.pages).expanduser().absolute()

    def local_model(self) -> dict[str, Any]:
        """A local model's name and weights, in place of its folder; nothing for a remote model."""
        folder = self.model().folder
        if folder is None:
            return {}
        return {"llm": LOCAL + Path(folder).name, "weights": model_files.stamp(folder, Path.cwd(), None)[1:]}

    # The job

    def questions(self) -> prompts.Prompts:
        return prompts.Prompts(instruction=self.instruction, question=self.question, again=self.question_again)

    def patience(self, usual: Patience) -> Patience:
        return replace(usual, tries=self.tries, timeout=self.server_timeout or usual.timeout)

    def model(self) -> ModelOptions:
        local = self.llm.startswith(LOCAL)
        return ModelOptions(
            name=LOCAL + str(Path(self.llm.removeprefix(LOCAL)).expanduser().absolute()) if local else self.llm,
            max_answer=self.max_answer,
            temperature=self.temperature,
            concurrency=self.concurrency,
            rate=self.calls_per_minute / 60,
            device=self.device,
            precision=self.precision,
            memo=self.paths.memo,
            patience=self.patience(MODEL_PATIENCE),
        )

    def prepared(self) -> Path:
        """Folder of the prepared dataset."""
        return self.folder(self.clone(PrepareDataset).resolved()["folder"])

    def static_job(self) -> StaticJob:
        wiki = Wiki(
            api=self.wiki_api,
            form=self.wiki_text,
            contact=self.wiki_contact,
            rate=self.wiki_rate,
            wikidata_api=self.wikidata_api,
            site=self.wiki_site,
        )
        return StaticJob(
            dataset=self.prepared(),
            answers=self.paths.answers,
            pages=self.page_file() if self.pages else None,
            wiki=wiki if self.wiki_api else None,
            paragraphs=self.paragraphs,
            max_chars=self.page_chars,
            max_failed=self.max_failed,
            patience=self.patience(Patience()),
        )

    def dynamic_job(self) -> DynamicJob:
        return DynamicJob(
            dataset=self.prepared(),
            answers=self.paths.answers,
            model=self.model(),
            prompts=self.questions(),
            rounds=self.rounds,
            max_chars=self.answer_chars,
            limits=SpendingLimits(**self.options(tuple(field.name for field in fields(SpendingLimits)))),
            max_failed=self.max_failed,
        )

    def describe(self) -> DescriptionsReport:
        if self.mode == "static":
            return child.run("pipeline.enhance.static:describe", self.static_job(), DescriptionsReport)
        return child.run("pipeline.enhance.dynamic:describe", self.dynamic_job(), DescriptionsReport)

    def estimate(self) -> StaticEstimate | DynamicEstimate:
        if self.mode == "static":
            return child.run("pipeline.enhance.static:estimate", self.static_job(), StaticEstimate)
        return child.run("pipeline.enhance.dynamic:estimate", self.dynamic_job(), DynamicEstimate)

    # The result

    def make(self) -> Outcome:
        report = self.describe()
        file = descriptions(self.prepared(), self.mode)
        return Outcome(
            {**report.result(), "file": self.paths.relative(file), "sha256": content(file)},
            [file, file.with_suffix(".json"), file.with_name(f"{file.stem}-without.tsv")],
            set_fields(report.usage),
        )

    def receipt(self) -> dict[str, Any] | None:
        """The standing receipt, unless other options have written the file since."""
        receipt = super().receipt()
        if receipt is None:
            return None
        result = receipt["result"]
        return receipt if content(self.folder(result["file"])) == result["sha256"] else None

    def run(self) -> None:
        super().run()
        if self.dry_run and not self.done():
            ready = self.clone(PrepareDataset).done()
            unknown = "how much it would ask is known once PrepareDataset is done"
            logs.say(output.outlook(self.mode, self.estimate()) if ready else unknown)

    def summary(self, receipt: dict[str, Any]) -> str:
        own = {name: value for name, value in receipt["result"].items() if name not in ("file", "sha256")}
        usage = {name: value for name, value in receipt["run"].items() if name not in ("seconds", "command")}
        report = DescriptionsReport(**own, usage=RunUsage(**usage))
        return f"{output.summary(report)}\n{self.folder(receipt['result']['file'])}"
