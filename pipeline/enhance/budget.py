"""Limits on what a run may spend, and what it has spent: calls, tokens, money."""

import threading
from dataclasses import dataclass, field
from typing import Any


class Spent(Exception):
    """A limit would be passed by one more call."""


@dataclass
class Budget:
    """max_calls, max_tokens, max_cost: of this run, 0 for no limit. price_in, price_out: per million tokens, in any currency.

    A call is admitted with an estimate of its tokens, so that a limit holds also while several calls are under way; its real use is booked after.
    """

    max_calls: int = 0
    max_tokens: int = 0
    max_cost: float = 0.0
    price_in: float = 0.0
    price_out: float = 0.0
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    _held: list[int] = field(default_factory=lambda: [0, 0])
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6

    def admit(self, tokens_in: int, tokens_out: int) -> None:
        """Hold tokens for a call. Raises `Spent` naming the limit that it would pass."""
        with self._guard:
            coming_in, coming_out = (
                self.tokens_in + self._held[0] + tokens_in,
                self.tokens_out + self._held[1] + tokens_out,
            )
            if self.max_calls and self.calls + 1 > self.max_calls:
                raise Spent(f"--max-calls {self.max_calls}")
            if self.max_tokens and coming_in + coming_out > self.max_tokens:
                raise Spent(f"--max-tokens {self.max_tokens}")
            if self.max_cost and self.cost(coming_in, coming_out) > self.max_cost:
                raise Spent(f"--max-cost {self.max_cost:g}")
            self.calls += 1
            self._held[0] += tokens_in
            self._held[1] += tokens_out

    def settle(self, held: tuple[int, int], used: tuple[int, int]) -> None:
        """Book what a call really used in place of what was held for it; (0, 0) where it failed."""
        with self._guard:
            self._held[0] -= held[0]
            self._held[1] -= held[1]
            self.tokens_in += used[0]
            self.tokens_out += used[1]

    def report(self) -> dict[str, Any]:
        spent = {"calls": self.calls, "tokens_in": self.tokens_in, "tokens_out": self.tokens_out}
        return (
            {**spent, "cost": round(self.cost(self.tokens_in, self.tokens_out), 4)}
            if self.price_in or self.price_out
            else spent
        )
