"""Conversations with a language model, and its answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Conversation = list[dict[str, str]]
"""Messages with `role` and `content`, the question last."""


@dataclass(frozen=True)
class Answer:
    """An answer as it is kept on disk.

    finish: why the model stopped, `stop` and `length` as servers say it; `content_filter` and `refusal` are refusals,
    `too long` is a question that did not fit. tokens_in, tokens_out: of question and answer; None where the server
    gives none.
    """

    text: str | None
    finish: str
    tokens_in: int | None = 0
    tokens_out: int | None = 0


class LanguageModel(Protocol):
    """identity: names the model in the keys of kept answers. settings: of the answers, part of those keys too.
    failure: why the last question that stays open has no answer.
    """

    identity: str
    settings: dict[str, Any]
    failure: str

    def count(self, conversation: Conversation) -> int:
        """Tokens of a question."""

    def open(self) -> None:
        """Make ready to ask. Raises `UserError` where files, device, address or key are refused."""

    def ask(self, conversations: Sequence[Conversation], deliver: Callable[[int, Answer], None]) -> None:
        """Call `deliver(place, answer)` for each conversation, in any order. Raises `LimitReached` at a limit."""
