"""Dynamic descriptions: questions to a language model about each entity; where it does not know, once more with the
static text.
"""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from cache.identity import canonical_json
from foundation.errors import PassingError, UserError
from foundation.paths import descriptions
from foundation.progress import Bar
from pipeline.datasets.records import Entity
from pipeline.enhance import LOCAL, output, prompts
from pipeline.enhance.chat import Answer, Conversation, LanguageModel
from pipeline.enhance.contracts import DescriptionsReport, DynamicEstimate, DynamicJob, ModelOptions
from pipeline.enhance.local import LocalModel
from pipeline.enhance.output import EntityText
from pipeline.enhance.remote import RemoteModel
from pipeline.enhance.spending import LimitReached, Spending
from pipeline.servers.patience import OutOfTries
from pipeline.servers.store import AnswerStore, answer_store

NOT_YET = "no answer yet"
REASONS = {
    "unknown": "the model does not know",
    "refused": "refused",
    "empty": "empty answer",
    "cut": "cut by --max-answer before the description began",
    "too long": "question too long for the model",
    NOT_YET: NOT_YET,
}
UNANSWERED = Answer(None, NOT_YET)


def describe(job: DynamicJob) -> DescriptionsReport:
    """Write the dynamic descriptions of a prepared dataset; a second round reads its static descriptions.

    Raises `UserError` for what the user must mend and at a limit, `PassingError` where questions stay open; every
    answer is kept, and the same job goes on there.
    """
    entities = output.read_entities(job.dataset)
    statics = output.read_texts(job.dataset, "static") if job.rounds == 2 else {}
    spending = Spending(job.limits)
    with _interviewer(job.model, job.answers, spending, writable=True) as interviewer:
        first = [job.prompts.first(entity) for entity in entities]
        interviewer.hold(first, "first round")
        answers = [interviewer.answer(conversation) for conversation in first]
        second: list[Conversation | None] = []
        for entity, answer in zip(entities, answers, strict=True):
            static = statics.get(entity.id)
            if static and answer and _leaves_open(answer):
                second.append(job.prompts.second(entity, static, answer.text or ""))
            else:
                second.append(None)
        interviewer.hold([conversation for conversation in second if conversation], "second round")
        again = [interviewer.answer(turns) or UNANSWERED if turns else None for turns in second]
    rounds = [(answer or UNANSWERED, later) for answer, later in zip(answers, again, strict=True)]
    outcomes = [_outcome(later or answer, job.max_chars) for answer, later in rounds]
    failed = sum(outcome.reason == NOT_YET for outcome in outcomes)
    if failed > job.max_failed:
        raise PassingError(
            f"{failed:,} of {len(outcomes):,} entities have no answer yet{interviewer.failure}; the same command asks "
            f"for these alone, and --max-failed {failed} goes on without them"
        )
    folder = job.model.folder
    report = replace(
        output.report("dynamic", outcomes),
        model=job.model.name if folder is None else LOCAL + Path(folder).name,
        first_round=_kinds([answer for answer, _ in rounds]),
        second_round=_kinds([later for _, later in rounds if later]),
        usage=spending.usage(interviewer.reused),
    )
    return output.write(job.dataset, entities, outcomes, report)


def estimate(job: DynamicJob) -> DynamicEstimate:
    """How much the job would ask. Asks nothing, writes nothing, needs no key; the static texts may be missing still."""
    entities = output.read_entities(job.dataset)
    second = job.rounds == 2 and descriptions(job.dataset, "static").exists()
    statics = output.read_texts(job.dataset, "static") if second else {}
    with _interviewer(replace(job.model, memo=None), job.answers, Spending(), writable=False) as interviewer:
        return interviewer.estimate(entities, statics, job.prompts)


@contextlib.contextmanager
def _interviewer(options: ModelOptions, answers: Path, spending: Spending, writable: bool) -> Iterator["_Interviewer"]:
    if not options.name:
        raise UserError("--llm: name the model at OPENAI_BASE_URL (or set OPENAI_MODEL), or a folder as local:FOLDER")
    model: LanguageModel = RemoteModel(options, spending) if options.folder is None else LocalModel(options, spending)
    name = f"answers-{hashlib.sha256(model.identity.encode()).hexdigest()[:12]}.jsonl"
    with answer_store(answers / name, writable) as store:
        yield _Interviewer(model, store)


def _kind(answer: Answer) -> str:
    return prompts.kind(answer.text, answer.finish)


def _kinds(answers: Sequence[Answer]) -> dict[str, int]:
    return dict(sorted(Counter(map(_kind, answers)).items()))


def _leaves_open(answer: Answer) -> bool:
    """Whether the second round is due: the model does not know, says nothing, or declines for want of knowing."""
    return _kind(answer) in ("unknown", "refused", "empty") and answer.finish not in ("content_filter", "refusal")


def _outcome(answer: Answer, max_chars: int) -> EntityText:
    kind = _kind(answer)
    text = prompts.description(answer.text or "", max_chars) if kind == "described" else ""
    return EntityText(text, None) if text else EntityText(None, REASONS.get(kind, REASONS["empty"]))


class _Interviewer:
    """Holds conversations with one model, each once ever. reused: conversations that were held in earlier runs."""

    def __init__(self, model: LanguageModel, store: AnswerStore) -> None:
        self.model, self.store, self.reused, self.opened = model, store, 0, False

    def key(self, conversation: Conversation) -> str:
        """Hash of model, settings and question."""
        content = canonical_json([self.model.identity, self.model.settings, conversation])
        return hashlib.sha256(content.encode()).hexdigest()[:32]

    @property
    def failure(self) -> str:
        """`: why`, of the last question that the model's server left open; empty where it left none."""
        return f": {self.model.failure}" if self.model.failure else ""

    def answer(self, conversation: Conversation) -> Answer | None:
        value = self.store.get(self.key(conversation))
        return None if value is None else Answer(**value)

    def missing(self, conversations: Sequence[Conversation]) -> dict[str, Conversation]:
        """The distinct conversations that were not held yet, by key."""
        by_key = {self.key(conversation): conversation for conversation in conversations}
        return {key: conversation for key, conversation in by_key.items() if key not in self.store}

    def hold(self, conversations: Sequence[Conversation], unit: str) -> None:
        """Hold the conversations that are new, and store each answer as it comes. unit: names the round in messages.

        Raises `UserError` at a limit, `PassingError` where the server is gone.
        """
        waiting = self.missing(conversations)
        self.reused += len({self.key(conversation) for conversation in conversations}) - len(waiting)
        if not waiting:
            return
        if not self.opened:
            self.model.open()
            self.opened = True
        keys = list(waiting)
        with Bar(len(keys), unit, "answer") as bar:

            def deliver(place: int, answer: Answer) -> None:
                self.store.put(keys[place], asdict(answer))
                bar.update()

            try:
                self.model.ask(list(waiting.values()), deliver)
            except LimitReached as limit:
                left = len(self.missing(conversations))
                raise UserError(
                    f"{limit} reached in the {unit}: {len(keys) - left:,} answered, {left:,} still open; "
                    "the same command goes on there"
                ) from None
            except OutOfTries as error:
                left = len(self.missing(conversations))
                raise PassingError(
                    f"{error}; {left:,} questions of the {unit} are still open; the same command goes on there"
                ) from None

    def estimate(
        self, entities: Sequence[Entity], statics: Mapping[str, str], questions: prompts.Prompts
    ) -> DynamicEstimate:
        """Calls and tokens to come. statics: static text by entity id, for the second round."""
        first = [questions.first(entity) for entity in entities]
        waiting = list(self.missing(first).values())
        longest = self.model.settings["max_tokens"]
        later: list[Conversation] = []
        unknown = 0
        for entity, conversation in zip(entities, first, strict=True):
            answer, static = self.answer(conversation), statics.get(entity.id)
            if static and (answer is None or _leaves_open(answer)):
                later.append(questions.second(entity, static, (answer and answer.text) or ""))
                unknown += answer is None
        later = list(self.missing(later).values())
        return DynamicEstimate(
            entities=len(entities),
            first_round_calls=len(waiting),
            first_round_tokens_in=sum(map(self.model.count, waiting)),
            first_round_tokens_out_at_most=longest * len(waiting),
            second_round_calls_at_most=len(later),
            second_round_tokens_in_at_most=sum(map(self.model.count, later)) + longest * unknown,
            second_round_tokens_out_at_most=longest * len(later),
        )
