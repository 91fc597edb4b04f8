"""Which entities a KB takes: `P31=Q5 and (P106=Q33999 or not P570) and sitelinks>=3`."""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from foundation.errors import UserError

_TOKEN = re.compile(
    r"\s*(?:(\(|\)|and\b|or\b|not\b)|(P[1-9]\d*)(?:\s*=\s*(Q[1-9]\d*))?|sitelinks\s*(>=|<=|=|>|<)\s*(\d+))", re.I
)
_COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
}
_DEEPEST = 50


class Facts(Protocol):
    """What a condition asks of an entity."""

    def items(self, property: str) -> set[str]:
        """QIDs that the property's statements hold."""

    def has(self, property: str) -> bool: ...

    @property
    def links(self) -> int:
        """How many wikis have a page."""


class Condition:
    """Of one kind or another; this one holds for every entity."""

    def holds(self, facts: Facts) -> bool:
        return True

    def may_hold(self, line: bytes) -> bool:
        """Whether it can hold for the entity in a dump's line, of which only the bytes are looked at: what needs an
        item that is not named there cannot. Dumps never escape letters or digits."""
        return True


@dataclass(frozen=True)
class _Statement(Condition):
    property: str
    item: str | None

    def holds(self, facts: Facts) -> bool:
        return facts.has(self.property) if self.item is None else self.item in facts.items(self.property)

    def may_hold(self, line: bytes) -> bool:
        return self.item is None or f'"{self.item}"'.encode() in line


@dataclass(frozen=True)
class _Sitelinks(Condition):
    comparison: str
    number: int

    def holds(self, facts: Facts) -> bool:
        return _COMPARISONS[self.comparison](facts.links, self.number)


@dataclass(frozen=True)
class _Not(Condition):
    part: Condition

    def holds(self, facts: Facts) -> bool:
        return not self.part.holds(facts)


@dataclass(frozen=True)
class _All(Condition):
    parts: tuple[Condition, ...]

    def holds(self, facts: Facts) -> bool:
        return all(part.holds(facts) for part in self.parts)

    def may_hold(self, line: bytes) -> bool:
        return all(part.may_hold(line) for part in self.parts)


@dataclass(frozen=True)
class _Any(Condition):
    parts: tuple[Condition, ...]

    def holds(self, facts: Facts) -> bool:
        return any(part.holds(facts) for part in self.parts)

    def may_hold(self, line: bytes) -> bool:
        return any(part.may_hold(line) for part in self.parts)


def condition(text: str) -> Condition:
    """The condition that a text says; an empty one holds for all. Raises `UserError` with the place."""
    return _Reader(text).whole() if text.strip() else Condition()


class _Reader:
    """Reads `or` of `and` of `not` of statements, numbers of sitelinks and brackets."""

    def __init__(self, text: str) -> None:
        self.text, self.place, self.depth = text, 0, 0

    def whole(self) -> Condition:
        found = self._any()
        if self.text[self.place :].strip():
            raise self._refusal()
        return found

    def _any(self) -> Condition:
        parts = [self._all()]
        while self._took("or"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else _Any(tuple(parts))

    def _all(self) -> Condition:
        parts = [self._one()]
        while self._took("and"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else _All(tuple(parts))

    def _one(self) -> Condition:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise UserError(f"--where: more than {_DEEPEST} brackets or `not` in one another; write it more plainly")
        try:
            if self._took("not"):
                return _Not(self._one())
            if self._took("("):
                inside = self._any()
                if not self._took(")"):
                    raise self._refusal()
                return inside
            match = _TOKEN.match(self.text, self.place)
            if not match or match[1]:
                raise self._refusal()
            self.place = match.end()
            if match[4]:
                return _Sitelinks(match[4], int(match[5][:18]))
            return _Statement(match[2].upper(), match[3].upper() if match[3] else None)
        finally:
            self.depth -= 1

    def _took(self, word: str) -> bool:
        match = _TOKEN.match(self.text, self.place)
        if match and match[1] and match[1].lower() == word:
            self.place = match.end()
            return True
        return False

    def _refusal(self) -> UserError:
        rest = self.text[self.place :].strip()
        return UserError(
            f"--where {self.text!r:.200}: cannot be read at {rest[:40] or 'its end'!r}; expected conditions like "
            "P31=Q5, P18 or sitelinks>=3, joined by and, or, not and brackets"
        )
