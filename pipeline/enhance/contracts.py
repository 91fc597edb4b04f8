"""Contracts of the room that writes entity descriptions: the jobs of both modes and the report. No torch."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from foundation.contracts import contract
from pipeline.enhance import LOCAL
from pipeline.enhance.prompts import Prompts
from pipeline.servers.contracts import Patience

MODEL_PATIENCE = Patience(timeout=120.0, bytes=4 << 20)
"""Of a language model's server: it thinks longer and writes less than a wiki."""


@contract
class Wiki:
    """A wiki to fetch pages from.

    api: address of its api.php. form: `extracts` (plain text of the TextExtracts extension) or `parse` (rendered HTML).
    contact: e-mail or web address of the user, sent with each request. rate: requests a second, 0: no limit.
    wikidata_api: api.php of a Wikidata that knows the titles behind QIDs; empty: pages are looked up by name.
    site: the wiki's name in Wikidata's sitelinks.
    """

    api: str
    form: str = "extracts"
    contact: str
    rate: float = 1.0
    wikidata_api: str = ""
    site: str = "enwiki"


@contract
class StaticJob:
    """Static descriptions to write: the first paragraphs of each entity's page.

    dataset: folder of the prepared dataset. answers: folder that keeps what was fetched.
    pages: file of texts, or wiki: where to fetch them; one of the two.
    paragraphs, max_chars: of a page, how much is taken. max_failed: entities that may stay without a page because the
    server failed.
    """

    dataset: Path
    answers: Path
    pages: Path | None = None
    wiki: Wiki | None = None
    paragraphs: int = 2
    max_chars: int = 2000
    max_failed: int = 0
    patience: Patience = Patience()


@contract
class ModelOptions:
    """A language model and its settings.

    name: `local:FOLDER` (a causal model of transformers), or the model's name at OPENAI_BASE_URL.
    max_answer: tokens of an answer. temperature, rate (calls a second, 0: no limit), patience: of a remote model.
    concurrency: calls at once; rows in a batch of a local model. device, precision: of a local model.
    memo: folder that remembers the hashes of weight files; None: they are hashed each time.
    """

    name: str
    max_answer: int = 300
    temperature: float = 0.0
    concurrency: int = 4
    rate: float = 0.0
    device: str = "auto"
    precision: str = "auto"
    memo: Path | None = None
    patience: Patience = MODEL_PATIENCE

    @property
    def folder(self) -> str | None:
        """Folder of a local model; None for a remote one."""
        return self.name.removeprefix(LOCAL) if self.name.startswith(LOCAL) else None


@contract
class SpendingLimits:
    """Most calls, tokens and money of one run, 0 for no limit. Prices are per million tokens, in any currency."""

    max_calls: int = 0
    max_tokens: int = 0
    max_cost: float = 0.0
    price_in: float = 0.0
    price_out: float = 0.0


NO_LIMITS = SpendingLimits()


@contract
class DynamicJob:
    """Dynamic descriptions to write: what a language model answers about each entity.

    dataset: folder of the prepared dataset. answers: folder that keeps every answer.
    rounds: 1, or 2 to ask again with the static text where the model does not know. max_chars: of a description.
    max_failed: entities that may stay without an answer because the server failed.
    """

    dataset: Path
    answers: Path
    model: ModelOptions
    prompts: Prompts = Prompts()
    rounds: int = 2
    max_chars: int = 2000
    limits: SpendingLimits = NO_LIMITS
    max_failed: int = 0


@contract
class RunUsage:
    """What one run of `EnhanceEntities` used; None: does not apply to its mode.

    reused: pages or answers that were kept from an earlier run. cost: in the currency of the prices.
    """

    requests: int | None = None
    reused: int | None = None
    calls: int | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost: float | None = None


@contract
class DescriptionsReport:
    """What is in the descriptions that were written.

    mode: static or dynamic. written: entities with a text. without: entities without one, by reason.
    characters: of all texts. model, first_round, second_round (answers by kind): of dynamic descriptions.
    """

    mode: str
    entities: int
    written: int
    without: dict[str, int]
    characters: int
    model: str | None = None
    first_round: dict[str, int] | None = None
    second_round: dict[str, int] | None = None
    usage: RunUsage = RunUsage()

    def result(self) -> dict[str, Any]:
        """What follows from data and answers, as descriptions-<mode>.json and the receipt hold it."""
        return {name: value for name, value in set_fields(self).items() if name != "usage"}


@contract
class StaticEstimate:
    """What `StaticJob` would do. requests, reused: None where pages come from a file."""

    entities: int
    requests: int | None = None
    reused: int | None = None


@contract
class DynamicEstimate:
    """What `DynamicJob` would ask: calls and tokens of the first round, and at most those of the second."""

    entities: int
    first_round_calls: int
    first_round_tokens_in: int
    first_round_tokens_out_at_most: int
    second_round_calls_at_most: int
    second_round_tokens_in_at_most: int
    second_round_tokens_out_at_most: int


def set_fields(value: Any) -> dict[str, Any]:
    """The fields of a contract that are not None, by name."""
    pairs = ((field.name, getattr(value, field.name)) for field in fields(value))
    return {name: item for name, item in pairs if item is not None}
