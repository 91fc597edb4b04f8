"""What a run has spent, and may still spend: calls, tokens, money."""

import threading
from dataclasses import dataclass, field

from pipeline.enhance.contracts import NO_LIMITS, RunUsage, SpendingLimits


class LimitReached(Exception):
    """A limit would be passed by one more call."""


@dataclass
class Spending:
    """A run's spending under its limits, for any number of threads.

    A call is admitted with an estimate of its tokens, so that a limit holds also while several calls are under way; its
    real use is booked afterwards.
    """

    limits: SpendingLimits = NO_LIMITS
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    _held: list[int] = field(default_factory=lambda: [0, 0])
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * self.limits.price_in + tokens_out * self.limits.price_out) / 1e6

    def admit(self, tokens_in: int, tokens_out: int) -> None:
        """Hold tokens for a call. Raises `LimitReached` naming the limit that it would pass."""
        limits = self.limits
        with self._guard:
            coming_in, coming_out = (
                self.tokens_in + self._held[0] + tokens_in,
                self.tokens_out + self._held[1] + tokens_out,
            )
            if limits.max_calls and self.calls + 1 > limits.max_calls:
                raise LimitReached(f"--max-calls {limits.max_calls}")
            if limits.max_tokens and coming_in + coming_out > limits.max_tokens:
                raise LimitReached(f"--max-tokens {limits.max_tokens}")
            if limits.max_cost and self.cost(coming_in, coming_out) > limits.max_cost:
                raise LimitReached(f"--max-cost {limits.max_cost:g}")
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

    def usage(self, reused: int) -> RunUsage:
        """What was spent; reused: answers that were kept from earlier runs."""
        priced = self.limits.price_in or self.limits.price_out
        return RunUsage(
            reused=reused,
            calls=self.calls,
            tokens_in=self.tokens_in,
            tokens_out=self.tokens_out,
            cost=round(self.cost(self.tokens_in, self.tokens_out), 4) if priced else None,
        )
