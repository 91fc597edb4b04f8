"""Two runs against each other: McNemar's test and the paired bootstrap, mention by mention."""

from collections.abc import Sequence

from foundation.errors import UserError
from foundation.tables import as_text, text_table
from heads.protocols import protocol_of
from report.averages import MAIN
from report.contracts import ComparisonJob, ComparisonResult, Difference, McNemar
from report.runs import Experiment, Ranks, paired, read_experiment, shared_protocol
from report.significance import mcnemar, p_text, paired_bootstrap, paired_t_test


def compare(job: ComparisonJob) -> ComparisonResult:
    """Test whether two runs, or two means over seeds, differ on the same mentions.

    Raises `UserError` where they were not measured on the same mentions, or not under a common protocol.
    """
    experiments = first, second = [read_experiment(run.name, run.folder) for run in (job.first, job.second)]
    protocol = _protocol(job, experiments)
    of_first, of_second = paired(first, second, job.split, protocol)
    mentions = len(of_first.ids)
    if not mentions:
        raise UserError(f"no mention of {job.split} has its gold in the KB; name another with --split")
    tested = paired_bootstrap(of_first.measures(), of_second.measures(), resamples=job.resamples, seed=job.seed)
    rows = [
        [
            figure,
            *(f"{one.measures()[place].mean():.2%}" for one in (of_first, of_second)),
            *_difference_cells(tested[place]),
        ]
        for place, figure in enumerate(MAIN)
    ]
    means = [
        f"{name}: the mean over {len(experiment.runs)} seeds."
        for name, experiment in zip("ab", experiments, strict=True)
        if len(experiment.runs) > 1
    ]
    by_seed = _mcnemar_by_seed(of_first, of_second)
    table = text_table(
        ["", "a", "b", "difference", "95 % interval", "p"],
        rows,
        f"{job.split}, {protocol}: a minus b over {mentions} mentions",
        ["Paired bootstrap over mentions, two-sided.", *means],
    )
    t_tests, seeds = _t_tests(first, second, job.split, protocol)
    blocks = [f"a: {_described(first)}\nb: {_described(second)}", as_text(table)]
    if t_tests:
        rows = [[figure, p_text(p)] for figure, p in t_tests.items()]
        blocks.append(as_text(text_table(["", "p"], rows, f"Paired t-test over {seeds} seeds", ["Two-sided."])))
    blocks.append(_mcnemar_text(first, second, by_seed))
    return ComparisonResult(
        protocol=protocol,
        mentions=mentions,
        differences=dict(zip(MAIN, tested, strict=True)),
        mcnemar=tuple(by_seed),
        text="\n\n".join(blocks),
        t_tests=t_tests,
    )


def _protocol(job: ComparisonJob, experiments: Sequence[Experiment]) -> str:
    """The name of the job's protocol, as both runs have it. Raises `UserError` where they do not share it."""
    if not job.protocol:
        return shared_protocol(experiments, job.split)
    names = [
        next((name for name in one.protocols(job.split) if job.protocol in (name, protocol_of(name))), job.protocol)
        for one in experiments
    ]
    if len(set(names)) == 1:
        return names[0]
    raise UserError(f"--protocol {job.protocol}: a is measured under {names[0]}, b under {names[1]}: other lists")


def _t_tests(first: Experiment, second: Experiment, split: str, protocol: str) -> tuple[dict[str, float], int]:
    """figure -> p of a paired t-test over the seeds that both have, and how many those are."""
    found, shared = {}, []
    for figure in MAIN:
        one, other = (experiment.by_seed(split, protocol, figure) for experiment in (first, second))
        shared = sorted(seed for seed in one.keys() & other.keys() if seed is not None)
        p = paired_t_test([one[seed] for seed in shared], [other[seed] for seed in shared])
        if p is not None:
            found[figure] = p
    return found, len(shared)


def _described(experiment: Experiment) -> str:
    seeds = ", ".join(_seed(run.record.seed) for run in experiment.runs)
    return f"{experiment.record.method or '?'}, seed {seeds}: {experiment.name}"


def _seed(seed: int | None) -> str:
    return "?" if seed is None else str(seed)


def _difference_cells(tested: Difference) -> list[str]:
    return [f"{tested.mean * 100:+.2f}", f"{tested.low * 100:+.2f} to {tested.high * 100:+.2f}", p_text(tested.p)]


def _mcnemar_by_seed(first: Ranks, second: Ranks) -> list[McNemar]:
    """A test for each pair of seeds; none where one has more seeds than the other."""
    if len(first.hits) != len(second.hits):
        return []
    return [mcnemar(hits, others) for hits, others in zip(first.hits, second.hits, strict=True)]


def _mcnemar_text(first: Experiment, second: Experiment, tests: list[McNemar]) -> str:
    if not tests:
        return (
            "McNemar's test compares one run with one: a and b have different numbers of seeds; "
            "name single runs for it."
        )
    rows = [
        [
            f"seed {_seed(run.record.seed)} against {_seed(other.record.seed)}",
            *map(str, (test.both, test.first, test.second, test.neither)),
            p_text(test.p),
        ]
        for run, other, test in zip(first.runs, second.runs, tests, strict=True)
    ]
    header = ["", "both right", "a alone", "b alone", "both wrong", "p"]
    return as_text(text_table(header, rows, "McNemar's exact test of H@1 (mentions)", ["Two-sided."]))
