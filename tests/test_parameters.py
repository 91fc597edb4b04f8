"""Parameters of every command: a value that cannot be meant ends it with one line that names the option."""

import commands
import luigi
import pytest

import tasks
from mel_cache.commands.parameters import Choice, Number, TrueOrFalse, Whole

KINDS = {luigi.IntParameter: Whole, luigi.FloatParameter: Number, luigi.ChoiceParameter: Choice}
FOUND = {
    name: (command, parameter) for command in tasks.__all__ for name, parameter in getattr(tasks, command).get_params()
}


def checked_kind(parameter: luigi.Parameter) -> type | None:
    """The kind that a parameter must be of, None where any text may stand."""
    if isinstance(parameter, luigi.BoolParameter):
        return TrueOrFalse if parameter.parsing == luigi.BoolParameter.EXPLICIT_PARSING else None
    return next((checked for kind, checked in KINDS.items() if isinstance(parameter, kind)), None)


TYPED = {name: checked_kind(parameter) for name, (_, parameter) in FOUND.items() if checked_kind(parameter)}


@pytest.mark.parametrize("name", TYPED)
def test_what_is_no_value_of_its_kind_is_refused_by_the_options_name(name):
    command, parameter = FOUND[name]
    assert isinstance(parameter, TYPED[name])
    option = f"--{name.replace('_', '-')}"
    code, output = commands.run(command, option, "a\nb")
    assert code == 2 and output == f"error: {option} a\\nb: expected {parameter.expected}\n"


@pytest.mark.parametrize(
    ("command", "option", "value", "expected"),
    [
        ("PrepareDataset", "--max-bad-images", "-1", "-1.0: expected a number, at least 0, at most 1"),
        ("PrepareDataset", "--max-bad-images", "1.01", "expected a number, at least 0, at most 1"),
        ("PrepareDataset", "--max-bad-images", "nan", "expected a number"),
        ("EnhanceEntities", "--max-cost", "inf", "expected a number, at least 0"),
        ("BuildCandidates", "--candidates", "0", "expected a whole number, at least 1"),
        ("BuildCandidates", "--candidates", "9" * 5000, "expected a whole number, at least 1"),
        (
            "BuildCandidates",
            "--sources",
            "name,names",
            "'names': expected `name`, `name-exact`, `name-index`, `name-of-type`, `given` or `dense:",
        ),
        ("TrainHead", "--scorer", "token_set", "'token_set' is unknown; did you mean 'token_set_ratio'?"),
        ("CompareHeads", "--merge", "appended", "'appended' is unknown; did you mean 'append'?"),
        ("ExtractFeatures", "--extract-batch", "-5", "expected a whole number, at least 0"),
        ("ExtractFeatures", "--shard-rows", "0", "expected a whole number, at least 1"),
        ("ExtractFeatures", "--shard-rows", "-3", "expected a whole number, at least 1"),
        ("BuildCandidates", "--candidates", "2000000000", "expected a whole number, at least 1, at most 100000"),
        ("TrainHead", "--seeds", "2147483648", "expected a whole number, at least 1, at most 1000"),
        ("CompareRuns", "--resamples", "1" + "0" * 300, "expected a whole number, at least 1, at most 1000000"),
        ("TrainHead", "--train-fraction", "0", "expected a number, more than 0, at most 1"),
        ("TrainHead", "--seed", "-1", "expected a whole number, at least 0"),
        ("PrepareDataset", "--dataset", "x" * 101, "use at most 100 bytes"),
    ],
)
def test_what_lies_out_of_bounds_is_refused_in_one_line(command, option, value, expected):
    code, output = commands.run(command, *(["--data-dir", "nowhere"] if option == "--dataset" else []), option, value)
    assert code == 2 and output.startswith(f"error: {option} ") and expected in output
    assert len(output) < 200 and output.count("\n") == 1


@pytest.mark.parametrize("name", [name for name, kind in TYPED.items() if kind is Whole])
def test_every_whole_number_has_a_bound(name):
    command, _ = FOUND[name]
    code, output = commands.run(command, f"--{name.replace('_', '-')}", "9" * 400)
    assert code == 2 and output.startswith(f"error: --{name.replace('_', '-')} 9") and "a whole number" in output


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--max-bad-images", "0"),
        ("--max-bad-images", "1"),
        ("--extract-batch", "0"),
        ("--shard-rows", "1"),
        ("--seed", "0"),
    ],
)
def test_the_bounds_themselves_are_allowed(option, value, tmp_path):
    code, output = commands.run("TrainHead", "--dry-run", "--work-dir", str(tmp_path / "work"), option, value)
    assert code == 0 and "would run TrainHead" in output
