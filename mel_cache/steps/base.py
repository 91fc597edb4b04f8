"""What every step is: a request that names a receipt, and work that is done where no receipt stands."""

import hashlib
import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from cache.identity import canonical_json
from foundation import logs, receipts
from foundation.checksums import entry
from foundation.paths import Paths
from heads.contracts import Compute
from pipeline.extraction.contracts import Runtime
from pipeline.profiles.profile import Profile

T = TypeVar("T")
Run = Callable[[str, Any, type[Any]], Any]
"""How a heavy function is called: its name as `package.module:function`, its job, and the type of its result."""


def in_process(target: str, job: Any, result: type[T]) -> T:
    """Call the function that `target` names in this process."""
    module, _, name = target.partition(":")
    value: T = getattr(importlib.import_module(module), name)(job)
    return value


def digest(command: str, request: Mapping[str, Any]) -> str:
    """SHA-256 (hex) that names a command's receipt."""
    return hashlib.sha256(canonical_json([command, request]).encode()).hexdigest()


@dataclass(frozen=True)
class Outcome:
    """What a step leaves for its receipt.

    result: JSON, paths relative to the work folder. files: what must stay there. run: device, rows, seconds and such.
    """

    result: dict[str, Any]
    files: Sequence[Path] = ()
    run: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """Work whose receipt is named by the command that does it and its request, JSON of all that decides the result."""

    command: str
    request: Mapping[str, Any]
    work: Callable[[Run], Outcome]

    @cached_property
    def digest(self) -> str:
        """See `digest`."""
        return digest(self.command, self.request)

    def ensure(self, paths: Paths, run: Run) -> dict[str, Any]:
        """The result in the step's receipt; the work is done first where no receipt stands.

        The content of all files that a receipt lists is compared, of large ones too: what comes next reads them.
        """
        found = receipts.examine(paths.root, paths.receipt(self.command, self.digest), most=None)
        if found.receipt is not None and found.fault is None:
            return dict(found.receipt["result"])
        if found.fault:
            logs.notice(again(self.command, found.fault))
        started = time.monotonic()
        outcome = self.work(run)
        keep(paths, self.command, self.request, outcome, time.monotonic() - started)
        return outcome.result


def keep(paths: Paths, command: str, request: Mapping[str, Any], outcome: Outcome, seconds: float) -> dict[str, Any]:
    """Write the receipt of work that is done; returns what it says of the run."""
    receipt = receipts.Receipt(
        task=command,
        request=request,
        result=outcome.result,
        files=[entry(paths.root, path) for path in sorted({Path(path) for path in outcome.files})],
        run={"seconds": round(seconds, 3), **outcome.run},
    )
    receipts.write(paths.receipt(command, digest(command, request)), receipt)
    return dict(receipt.run)


def again(command: str, fault: str) -> str:
    """What is said before finished work is done again. fault: what is wrong with what it left."""
    return f"{fault}; {command} makes it again"


@dataclass(frozen=True)
class Done(Generic[T]):
    """A finished step: the digest of its request, and how its result is read; `result` reads it once."""

    digest: str
    read: Callable[[], T]

    @cached_property
    def result(self) -> T:
        """What the step left."""
        return self.read()


@dataclass(frozen=True)
class Setup:
    """Where steps work and with which models.

    reference: the profile's name or file, as the user gave it. demo: folder of the demo's encoders, whether or not
    they are there.
    """

    paths: Paths
    reference: str
    profile: Profile
    demo: Path
    runtime: Runtime = field(default_factory=Runtime)

    @property
    def uses_demo(self) -> bool:
        """Whether a model of the profile is one of the demo's."""
        return any(
            str(feature.options.get("model", "")).startswith("demo:") for feature in self.profile.features.values()
        )

    @property
    def compute(self) -> Compute:
        """Device and precision of heads."""
        return Compute(device=self.runtime.device, precision=self.runtime.precision)


def say_again(paths: Paths, command: str, before: Mapping[str, Any], why: str) -> None:
    """One line of output where the work folder holds the result of an earlier version's request."""
    if receipts.standing(paths.root, paths.receipt(command, digest(command, before))):
        logs.notice(f"{why} (CHANGELOG.md)")
