"""Values of Wikidata's statements as readable text; values that are items wait for their labels."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from pipeline.kb.contracts import LONGEST_NAME

Value = str | list[str]
"""A text; or, as `[amount…, QID]`, the label of an item with what stands before it: `["1.85", "Q11573"]`."""

_TIME = re.compile(r"([+-])0*(\d{1,12})-(\d\d)-(\d\d)T")
_ITEM = re.compile(r"[QP][1-9]\d{0,8}")
_UNIT = re.compile(r"https?://[^/]+/entity/(Q[1-9]\d{0,8})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


def clean(text: str) -> str:
    """One line without control characters and spare blanks."""
    if not text.isprintable():
        text = _CONTROL.sub(" ", text)
    return " ".join(text.split())


def is_id(text: Any) -> bool:
    """Whether a text is a QID or a property's id of at most nine digits; Wikidata's have reached nine."""
    return isinstance(text, str) and _ITEM.fullmatch(text) is not None


def value(datavalue: Any, languages: Collection[str]) -> Value | None:
    """What a statement's `datavalue` says; None for a text in another language and for what cannot be read."""
    if not isinstance(datavalue, Mapping):
        return None
    kind, held = datavalue.get("type"), datavalue.get("value")
    if isinstance(held, str):
        return clean(held)[:LONGEST_NAME] or None
    if not isinstance(held, Mapping):
        return None
    if kind == "wikibase-entityid":
        return [held["id"]] if is_id(held.get("id")) else None
    if kind == "time":
        return _time(held.get("time"), held.get("precision"))
    if kind == "quantity":
        return _quantity(held.get("amount"), held.get("unit"))
    if kind == "monolingualtext" and isinstance(held.get("text"), str):
        return clean(held["text"])[:LONGEST_NAME] or None if held.get("language") in languages else None
    if kind == "globecoordinate":
        place = held.get("latitude"), held.get("longitude")
        return ", ".join(f"{number:.4f}" for number in place) if all(type(n) in (int, float) for n in place) else None
    return None


def _time(text: Any, precision: Any) -> str | None:
    """A date as far as it is known: `1942-03-11`, `1942-03`, `1942`, `1940s`, `19th century`, `44 BCE`."""
    match = _TIME.match(text) if isinstance(text, str) else None
    if not match or not isinstance(precision, int):
        return None
    year, month, day = int(match[2]), match[3], match[4]
    era = " BCE" if match[1] == "-" else ""
    if precision <= 5:
        return f"{year}{era}"
    if precision <= 7:
        span = 1000 if precision == 6 else 100
        return f"{_ordinal(-(-year // span))} {'millennium' if precision == 6 else 'century'}{era}"
    if precision == 8:
        return f"{year // 10 * 10}s{era}"
    if precision == 9 or era or month == "00":
        return f"{year}{era}"
    return f"{year}-{month}" if precision == 10 or day == "00" else f"{year}-{month}-{day}"


def _ordinal(number: int) -> str:
    last = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if number % 100 in (11, 12, 13) else last}"


def _quantity(amount: Any, unit: Any) -> Value | None:
    if not isinstance(amount, str) or not re.fullmatch(r"[+-]?\d{1,40}(\.\d{1,40})?", amount):
        return None
    number = amount.removeprefix("+")
    match = _UNIT.fullmatch(unit) if isinstance(unit, str) else None
    return [number, match[1]] if match else number
