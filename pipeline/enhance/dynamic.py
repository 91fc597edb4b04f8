"""Dynamic descriptions: a language model is asked about each entity, and once more with the static text where it does not know."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cache.identity import canonical_json
from foundation.errors import PassingError, UserError
from foundation.paths import descriptions
from foundation.progress import Bar
from pipeline.enhance import LOCAL, output, prompts
from pipeline.enhance.budget import Budget, Spent
from pipeline.enhance.local import LocalModel
from pipeline.enhance.patience import GivenUp, Pace, Patience
from pipeline.enhance.remote import RemoteModel
from pipeline.enhance.store import Kept, opened

NOT_YET = "no answer yet"
REASONS = {
    "unknown": "the model does not know",
    "refused": "refused",
    "empty": "empty answer",
    "too long": "question too long for the model",
    NOT_YET: NOT_YET,
}
UNANSWERED = {"text": None, "finish": NOT_YET}
Conversation = list[dict[str, str]]


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Write the dynamic descriptions of a prepared dataset.

    job: dataset (prepared folder); llm (`local:FOLDER`, or a model's name at OPENAI_BASE_URL); instruction, question, again; rounds (1 or 2; the
    second needs the static descriptions); max_answer (tokens), temperature, max_chars; concurrency (calls or, local, rows at once), rate (calls
    a second, 0: no limit); limits (fields of `Budget`); max_failed; kept (folder of the answers), memo, device, precision; patience (fields of
    `Patience`); dry (count only, write nothing).
    Returns the report. Raises `UserError`, and `PassingError` where questions stay open; every answer is kept, and the same job goes on.
    """
    entities = output.read_entities(Path(job["dataset"]))
    asked = prompts.Prompts(job["instruction"], job["question"], job["again"])
    dry = bool(job.get("dry"))
    later = (
        dry and not descriptions(Path(job["dataset"]), "static").exists()
    )  # a dry run may come before the static texts
    statics = output.read_texts(Path(job["dataset"]), "static") if job["rounds"] == 2 and not later else {}
    budget = Budget(**job.get("limits") or {})
    model = _model(job, budget)
    records = [
        {"name": name, "type": kind or "", "attributes": attributes or "", "static": statics.get(key, "")}
        for key, name, kind, attributes in zip(
            *(entities[column] for column in ("id", "name", "type", "attributes")), strict=True
        )
    ]
    place = Path(job["kept"]) / f"answers-{hashlib.sha256(model.identity.encode()).hexdigest()[:12]}.jsonl"
    with opened(place, writable=not dry) as kept:
        talk = _Talk(model, kept, job)
        first = [asked.first(record) for record in records]
        if dry:
            return {"mode": "dynamic", "entities": len(records), **talk.estimate(first, records, asked)}
        talk.hold(first, "first round")
        answers = [talk.answer(conversation) for conversation in first]
        second = [
            asked.second(record, answer["text"] or "") if record["static"] and answer and _open(answer) else None
            for record, answer in zip(records, answers, strict=True)
        ]
        talk.hold([conversation for conversation in second if conversation], "second round")
        again = [None if conversation is None else talk.answer(conversation) or UNANSWERED for conversation in second]
        texts, reasons, counts = _results([answer or UNANSWERED for answer in answers], again, job["max_chars"])
        failed = reasons.count(NOT_YET)
        if failed > job.get("max_failed", 0):
            raise PassingError(
                f"{failed:,} of {len(texts):,} entities have no answer yet; the same command asks for these alone, and --max-failed {failed} goes on "
                "without them"
            )
    named = LOCAL + Path(job["llm"][len(LOCAL) :]).name if job["llm"].startswith(LOCAL) else job["llm"]
    run = {"reused": talk.reused, **budget.report()}
    return output.write(Path(job["dataset"]), "dynamic", entities, texts, reasons, {"model": named, **counts}, run)


def _model(job: dict[str, Any], budget: Budget) -> RemoteModel | LocalModel:
    if job["llm"].startswith(LOCAL):
        memo = Path(job["memo"]) / "weights.json" if job.get("memo") and not job.get("dry") else None
        return LocalModel(
            job["llm"][len(LOCAL) :],
            job["max_answer"],
            job["concurrency"],
            job["device"],
            job["precision"],
            memo,
            budget,
        )
    if not job["llm"]:
        raise UserError("--llm: name the model at OPENAI_BASE_URL (or set OPENAI_MODEL), or a folder as local:FOLDER")
    pace, patience = Pace(job["rate"]), Patience(**{"timeout": 120.0, "bytes": 4 << 20, **(job.get("patience") or {})})
    return RemoteModel(job["llm"], job["max_answer"], job["temperature"], job["concurrency"], pace, patience, budget)


def _open(answer: dict[str, Any]) -> bool:
    """Whether the second round is due: the model said that it does not know, or nothing, or declined for want of knowing."""
    return prompts.kind(answer["text"], answer["finish"]) in ("unknown", "refused", "empty") and answer[
        "finish"
    ] not in ("content_filter", "refusal")


def _results(
    first: Sequence[dict], second: Sequence[dict | None], max_chars: int
) -> tuple[list[str | None], list[str | None], dict[str, Any]]:
    """Texts, reasons where there is none, and the counts of both rounds. second: None where no second round was held."""
    rounds: tuple[Counter, Counter] = (Counter(), Counter())
    texts: list[str | None] = []
    reasons: list[str | None] = []
    for answers in zip(first, second, strict=True):
        kinds = [answer and prompts.kind(answer["text"], answer["finish"]) for answer in answers]
        for number, kind in enumerate(kinds):
            rounds[number].update([kind] if kind else [])
        last, kind = (answers[0], kinds[0]) if answers[1] is None else (answers[1], kinds[1])
        text = prompts.taken(last["text"], max_chars) if kind == "described" else ""
        texts.append(text or None)
        reasons.append(None if text else REASONS.get(kind, REASONS["empty"]))
    return (
        texts,
        reasons,
        {"first_round": dict(sorted(rounds[0].items())), "second_round": dict(sorted(rounds[1].items()))},
    )


class _Talk:
    """Conversations with one model: each is held once, ever."""

    def __init__(self, model: RemoteModel | LocalModel, kept: Kept, job: dict[str, Any]) -> None:
        self.model, self.kept, self.job, self.reused, self.opened = model, kept, job, 0, False

    def key(self, conversation: Conversation) -> str:
        """Hash of model, settings and question."""
        return hashlib.sha256(
            canonical_json([self.model.identity, self.model.settings, conversation]).encode()
        ).hexdigest()[:32]

    def answer(self, conversation: Conversation) -> dict[str, Any] | None:
        return self.kept.get(self.key(conversation))

    def missing(self, conversations: Sequence[Conversation]) -> dict[str, Conversation]:
        """The distinct conversations that were not held yet."""
        by_key = {self.key(conversation): conversation for conversation in conversations}
        return {key: conversation for key, conversation in by_key.items() if key not in self.kept}

    def hold(self, conversations: Sequence[Conversation], what: str) -> None:
        """Ask what was not asked before; answers are kept as they come. Raises `UserError` at a limit, `PassingError` where the server is gone."""
        waiting = self.missing(conversations)
        self.reused += len({self.key(conversation) for conversation in conversations}) - len(waiting)
        if not waiting:
            return
        if not self.opened:
            self.model.open()
            self.opened = True
        keys = list(waiting)
        with Bar(len(keys), what, "answer") as bar:

            def deliver(number: int, answer: dict[str, Any]) -> None:
                self.kept.put(keys[number], answer)
                bar.update()

            try:
                self.model.ask(list(waiting.values()), deliver)
            except Spent as limit:
                left = len(self.missing(conversations))
                raise UserError(
                    f"{limit} reached in the {what}: {len(keys) - left:,} answered, {left:,} still open; the same command goes on there"
                ) from None
            except GivenUp as error:
                left = len(self.missing(conversations))
                raise PassingError(
                    f"{error}; {left:,} questions of the {what} are still open; the same command goes on there"
                ) from None

    def estimate(
        self, first: Sequence[Conversation], records: Sequence[dict[str, str]], asked: prompts.Prompts
    ) -> dict[str, Any]:
        """Calls and tokens to come: those of the first round, and at most those of the second."""
        waiting = list(self.missing(first).values())
        longest = self.model.settings["max_tokens"]
        tokens = [self.model.count(conversation) for conversation in waiting]
        again: list[Conversation] = []
        unknown = 0
        for record, conversation in zip(records, first, strict=True):
            answer = self.answer(conversation)
            if record["static"] and (answer is None or _open(answer)):
                again.append(asked.second(record, (answer or {}).get("text") or ""))
                unknown += answer is None
        again = list(self.missing(again).values())
        return {
            "first_round_calls": len(waiting),
            "first_round_tokens_in": sum(tokens),
            "first_round_tokens_out_at_most": longest * len(waiting),
            "second_round_calls_at_most": len(again),
            "second_round_tokens_in_at_most": sum(map(self.model.count, again)) + longest * unknown,
            "second_round_tokens_out_at_most": longest * len(again),
        }
