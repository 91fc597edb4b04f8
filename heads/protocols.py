"""The protocols that figures are given under, and the label of lists that say too much. No torch."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")
FULL_KB, CANDIDATES, RERANK = "full-kb", "candidates", "rerank"
PROTOCOLS = (FULL_KB, CANDIDATES, RERANK)
FORCED = "given, gold forced in"
"""Label of figures over lists that came with the data and always hold the gold."""


def protocol_name(protocol: str, forced: bool, sample: int | None = None) -> str:
    """What metrics call one of `PROTOCOLS`: `candidates (given, gold forced in)` where it ranks such lists, and
    `full-kb (sample of 20,000)` where so many entities stand for the KB, beside golds and candidates."""
    if protocol_of(protocol) == FULL_KB:
        return f"{protocol} (sample of {sample:,})" if sample else protocol
    return f"{protocol} ({FORCED})" if forced else protocol


def protocol_of(name: str) -> str:
    """The one of `PROTOCOLS` that a name of `protocol_name` stands for."""
    return name.partition(" (")[0]


def ordered(names: Iterable[str]) -> list[str]:
    """Names of protocols in the order of `PROTOCOLS`, of each the one without a label first."""
    known = {name for name in names if protocol_of(name) in PROTOCOLS}
    return sorted(known, key=lambda name: (PROTOCOLS.index(protocol_of(name)), name))


def under(protocols: Mapping[str, T], protocol: str) -> T | None:
    """The value of one of `PROTOCOLS`, whatever label it has; None where there is none."""
    return next((value for name, value in protocols.items() if protocol_of(name) == protocol), None)
