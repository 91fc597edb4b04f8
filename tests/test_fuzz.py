"""Odd inputs end in a value or in one line, whichever reader they meet; `make fuzz` runs the long campaign."""

import pytest
from fuzz import readers
from fuzz.target import Target, answer, empty_folder
from fuzz.targets import LONG, TARGETS
from hypothesis import HealthCheck, Phase, given, settings

EACH = 5
"""Inputs of a target here."""


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.kind)
def test_what_cannot_be_meant_ends_in_one_line(target: Target) -> None:
    def one(value: object) -> None:
        with empty_folder() as folder:
            outcome = answer(target, value, folder)
        assert outcome.verdict in ("accepted", "refused"), f"{outcome.message} of {value!r:.500}"

    for value in target.hard():
        one(value)
    few = settings(
        max_examples=EACH,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    few(given(target.inputs)(one))()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.kind)
def test_a_target_reaches_the_readers_that_it_names(target: Target) -> None:
    with empty_folder() as folder:
        passed = readers.passed_through(lambda: target.read(target.valid(), folder))
    assert set(target.readers) <= passed


def test_every_reader_has_a_target() -> None:
    found = readers.readers()
    with_target = {name for target in LONG for name in target.readers}
    assert found - with_target - readers.SHARED - readers.NO_TARGET.keys() == set()
    assert not with_target & readers.NO_TARGET.keys()


def test_every_reader_without_a_target_is_still_there() -> None:
    assert (readers.SHARED | readers.NO_TARGET.keys()) - readers.readers() == set()
