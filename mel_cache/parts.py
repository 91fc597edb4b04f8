"""Extraction in parts, for batch systems: each of n commands computes its share of the chunks of every group."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from foundation.errors import UserError
from foundation.tables import as_text, text_table
from mel_cache import steps
from mel_cache.steps import Done, Prepared, Run, Setup
from pipeline.extraction import wants
from pipeline.extraction.contracts import Extraction, PartJob, PartResult, Plan


@dataclass(frozen=True)
class Part:
    """The `number`-th of `of` parts, from 1."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        """`2/8`. Raises `UserError`."""
        found = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", text)
        part = cls(int(found[1]), int(found[2])) if found else None
        if part is None or part.number > part.of:
            raise UserError(f"--part {text!r:.40}: expected i/n with i from 1 to n, like 1/4")
        return part

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


@dataclass(frozen=True)
class GroupPart:
    """What a part did of one group. result: None where the group waits for others."""

    features: tuple[str, ...]
    result: PartResult | None


def extract_part(setup: Setup, dataset: Prepared, plans: Sequence[Plan], part: Part, run: Run) -> list[GroupPart]:
    """Compute this part of every group whose inputs are all in the cache, and finish the groups that are whole by then.

    A group that is made from the rows of another waits until that is whole: until its parts were merged, or other
    processes have done theirs in a shared work folder. Raises `UserError`.
    """
    beside = tuple(wants.features_of(want for plan in plans for want in plan.wants))
    done: dict[tuple[str, ...], Done[Extraction] | None] = {}
    parts: list[GroupPart] = []
    for plan in _in_order(plans):
        features = tuple(wants.features_of(plan.wants))
        above = [done[_name(before)] for before in plan.after]
        ready = [one for one in above if one is not None]
        if len(ready) < len(above):
            done[_name(plan)] = None
            parts.append(GroupPart(features, None))
            continue
        group = steps.Group(plan, ready, beside)
        step = steps.extract_group(setup, dataset, group)
        read = partial(_ensured, step, setup, run)
        if wants.imported(setup.profile, plan.wants):
            done[_name(plan)] = Done(step.digest, read)
            continue
        job = steps.extraction_job(setup, dataset, group)
        result = run(
            "pipeline.extraction.stage:extract_part",
            PartJob(extraction=job, part=part.number, parts=part.of),
            PartResult,
        )
        done[_name(plan)] = None if result.left else Done(step.digest, read)
        if not result.left:
            read()
        parts.append(GroupPart(features, result))
    return parts


def describe(parts: Sequence[GroupPart], part: Part) -> str:
    """A line for each group, and what is left to be done."""
    rows = []
    for one in parts:
        if one.result is None:
            rows.append([", ".join(one.features), "-", "-", "waits for what it is made from"])
            continue
        added = ", ".join(f"{rows:,}" for rows in one.result.account.rows.values())
        rows.append(
            [
                ", ".join(one.features),
                f"{one.result.chunks:,} of {one.result.all_chunks:,}",
                added,
                "other parts lack" if one.result.left else "whole",
            ]
        )
    lines = [as_text(text_table(["features", f"chunks of part {part}", "rows added", "state"], rows))]
    if any(one.result is None or one.result.left for one in parts):
        lines.append(
            "when all parts have ended: MergeCache where they have work folders of their own, then ExtractPart again "
            "for what waits, or ExtractFeatures for all that is left"
        )
    return "\n".join(lines)


def _ensured(step: steps.Step, setup: Setup, run: Run) -> Extraction:
    return Extraction.of_receipt(step.ensure(setup.paths, run))


def _name(plan: Plan) -> tuple[str, ...]:
    return tuple(sorted(want.column for want in plan.wants))


def _in_order(plans: Sequence[Plan]) -> Iterator[Plan]:
    """Each plan once, those before it that it reads."""
    seen: set[tuple[str, ...]] = set()

    def walk(plan: Plan) -> Iterator[Plan]:
        for before in plan.after:
            yield from walk(before)
        if _name(plan) not in seen:
            seen.add(_name(plan))
            yield plan

    for plan in plans:
        yield from walk(plan)
