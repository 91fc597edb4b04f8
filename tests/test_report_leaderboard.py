"""Leaderboards over runs written here, against figures computed by hand."""

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from foundation.checksums import read_sealed
from foundation.errors import UserError
from heads.metrics import figures
from heads.protocols import protocol_name
from report.averages import average
from report.compare import compare
from report.contracts import AverageJob, ComparisonJob, LeaderboardJob, NamedRun, TablesJob
from report.leaderboard import make_standings, write_leaderboard
from report.runs import read_experiment
from report.significance import holm, paired_bootstrap, paired_t_test

PROTOCOLS = ("full-kb", "candidates", "rerank")
GROUPS = np.array(["easy", "hard_&_odd"])[np.arange(60) % 2]


def write_run(folder, ranks, *, protocols=PROTOCOLS, ids=None, forced=False, **record):
    """A run's files: the same ranks (n,) under each protocol, on dev and test; candidate lists lack every tenth gold.

    forced: whether its lists came with the data and always hold the gold. record: entries of run.json.
    """
    n = len(ranks)
    listed = np.arange(n) % 10 != 9
    of = {"full-kb": ranks, "candidates": np.where(listed, ranks, 0), "rerank": ranks}
    parts = {"all": np.ones(n, bool), **{f"group: {name}": GROUPS[:n] == name for name in np.unique(GROUPS)}}
    by_part = {
        protocol_name(name, forced): {part: figures(of[name][mask], listed[mask]) for part, mask in parts.items()}
        | {"NIL": {"n": 1}}
        for name in protocols
    }
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"dev": by_part, "test": by_part}))
    cost = {"parameters": 1234567, "pairs_per_second": {"candidates": 1000.0}, "seconds": {"train": 12.0}, "epochs": 3}
    (folder / "run.json").write_text(json.dumps({"method": "mimic", "seed": 0, **cost, **record}))
    names = [f"m{number}" for number in range(n)] if ids is None else ids
    ranked = {f"rank_{name.replace('-', '_')}": of[name].tolist() for name in protocols}
    columns = {"id": names, "gold": [f"Q{number}" for number in range(n)], **ranked}
    outside = {"id": ["nil"], "gold": [None], **{name: [0] for name in ranked}}
    rows = {name: [*values, *outside[name]] * 2 for name, values in columns.items()}
    pq.write_table(pa.table({**rows, "split": ["dev"] * (n + 1) + ["test"] * (n + 1)}), folder / "predictions.parquet")
    return folder


def ranks_of(seed, hit):
    random = np.random.default_rng(seed)
    return np.where(random.random(60) < hit, 1, random.integers(2, 30, 60))


@pytest.fixture
def world(tmp_path):
    """Three methods: one with three seeds, one that scores lists alone, and a text-only run of the first."""
    folder = tmp_path / "runs" / "small"
    seeds = [
        write_run(folder / "mimic" / f"s{seed}", ranks_of(seed, 0.8), seed=seed, seconds={"train": 10.0 + seed})
        for seed in range(3)
    ]
    mean = folder / "mimic" / "mean-x"
    average(AverageJob(runs=tuple(seeds), seeds=(0, 1, 2), out=mean))
    other = write_run(folder / "dwe" / "s0", ranks_of(7, 0.4), method="dwe")
    lists = write_run(folder / "drin" / "s0", ranks_of(8, 0.6), method="drin", protocols=PROTOCOLS[1:])
    alone = [write_run(folder / "mimic" / f"t{seed}", ranks_of(seed + 20, 0.5), seed=seed) for seed in range(3)]
    text = folder / "mimic" / "mean-t"
    average(AverageJob(runs=tuple(alone), seeds=(0, 1, 2), out=text))
    return {"mimic": mean, "dwe": other, "drin": lists, "text": text, "seeds": seeds, "alone": alone, "root": tmp_path}


def job(world, *names, **more):
    runs = tuple(
        NamedRun(name=name, folder=world[name], settings=f"setting of {name}")
        for name in names or ("mimic", "dwe", "drin")
    )
    return LeaderboardJob(
        tables=TablesJob(dataset="small", runs=runs, **{"resamples": 400, **more}), out=world["root"] / "report"
    )


def written(world, *names, **more):
    """The text of a leaderboard."""
    return write_leaderboard(job(world, *names, **more)).text


def rows_of(text, title):
    """Rows of the table whose title starts so, split at two spaces."""
    block = next(block for block in text.split("\n\n") if block.startswith(title))
    lines = [line for line in block.splitlines()[2:] if not line.startswith("  ")]
    return {line.split("  ")[0]: [cell.strip() for cell in line.split("  ") if cell.strip()][1:] for line in lines}


def test_the_mean_over_seeds_is_the_mean_and_the_sample_deviation(world):
    mean = read_sealed(world["mimic"] / "metrics-mean.json")
    values = [json.loads((run / "metrics.json").read_text())["test"]["full-kb"]["all"]["H@1"] for run in world["seeds"]]
    found = mean["metrics"]["test"]["full-kb"]["all"]
    assert found["n"] == 60 and found["H@1"] == {
        "mean": pytest.approx(np.mean(values)),
        "deviation": pytest.approx(np.std(values, ddof=1)),
    }
    assert mean["seeds"] == [0, 1, 2] and len(read_experiment("mimic", world["mimic"]).runs) == 3
    text = (world["mimic"] / "metrics-mean.txt").read_text()
    assert (
        f"{np.mean(values):.2%} ± {np.std(values, ddof=1):.2%}".replace("%", "") in text and "3 seeds (0, 1, 2)" in text
    )


def test_a_folder_of_runs_may_be_moved(world):
    world["root"].joinpath("runs").rename(world["root"] / "elsewhere")
    moved = world["root"] / "elsewhere" / "small" / "mimic" / "mean-x"
    assert len(read_experiment("mimic", moved).runs) == 3


def test_every_figure_stands_under_every_protocol_with_the_best_marked(world):
    text = written(world)
    full, lists = rows_of(text, "test, full-kb (60 mentions)"), rows_of(text, "test, candidates")
    assert list(full) == ["mimic", "dwe"] and list(lists) == ["mimic", "dwe", "drin"]
    values = [json.loads((run / "metrics.json").read_text())["test"]["full-kb"]["all"]["H@1"] for run in world["seeds"]]
    assert (
        full["mimic"][0] == f"{100 * np.mean(values):.2f} ± {100 * np.std(values, ddof=1):.2f}*"
        and "*" not in full["dwe"][0]
    )
    assert full["dwe"][6].rstrip("*") == f"{ranks_of(7, 0.4).mean():.1f}" and full["mimic"][6].endswith("*"), (
        "of MR the smallest is best"
    )
    assert lists["drin"][7] == "90.00", "candidate recall, the best of it not marked"
    assert "No such figures: drin" in text
    assert "PUBLISHED figures" in text and text.index("Cost and settings") < text.index("PUBLISHED")


def test_significance_is_against_the_best_over_the_mentions_means(world):
    text = written(world)
    found = rows_of(text, "test, rerank")
    hits = {
        "mimic": np.mean([ranks_of(seed, 0.8) == 1 for seed in range(3)], axis=0),
        "dwe": ranks_of(7, 0.4) == 1,
        "drin": ranks_of(8, 0.6) == 1,
    }
    order = np.argsort([f"m{number}" for number in range(60)], kind="stable")
    tested = paired_bootstrap(np.stack([hits["dwe"], hits["drin"]])[:, order], hits["mimic"][order], resamples=400)
    expected = holm([one.p for one in tested])
    assert [found[name][8] for name in ("mimic", "dwe", "drin")] == ["best", *(f"{p:.3f}" for p in expected)]


def test_protocols_under_which_all_figures_are_the_same_have_one_table(world):
    for name in ("dwe", "drin"):
        path = world[name] / "metrics.json"
        metrics = json.loads(path.read_text())
        path.write_text(json.dumps({split: {**of, "candidates": of["rerank"]} for split, of in metrics.items()}))
        table = pq.read_table(world[name] / "predictions.parquet").to_pydict()
        pq.write_table(
            pa.table({**table, "rank_candidates": table["rank_rerank"]}), world[name] / "predictions.parquet"
        )
    text = written(world, "dwe", "drin")
    titles = [line for line in text.splitlines() if line.startswith("test, ") and "mentions)" in line]
    assert titles == ["test, full-kb (60 mentions)", "test, candidates and rerank (60 mentions)"]
    assert "test, candidates (60 mentions)" in written(world), "those of mimic differ"


def test_a_t_test_over_the_seeds_that_both_have_stands_beside_the_bootstrap_over_mentions(world):
    world["other"] = world["text"]
    text = written(world, "mimic", "other", "dwe")
    found = rows_of(text, "test, full-kb")
    of_seeds = [
        [(ranks_of(seed + shift, hit) == 1).mean() for seed in range(3)] for shift, hit in ((0, 0.8), (20, 0.5))
    ]
    p = paired_t_test(*of_seeds)
    assert found["other"][10] == ("< 0.001" if p < 0.001 else f"{p:.3f}") and found["mimic"][10] == "best"
    assert found["dwe"][10] == "–", "it has one seed"
    assert "paired t-test over the seeds" in " ".join(text.split()) and "paired bootstrap over mentions" in text
    assert "t-test" not in written(world, "mimic", "dwe"), "no two seeds in common"
    runs = [NamedRun(name=name, folder=world[name]) for name in ("mimic", "text")]
    compared = compare(ComparisonJob(first=runs[0], second=runs[1], protocol="full-kb", resamples=100))
    assert compared.t_tests["H@1"] == pytest.approx(p) and "Paired t-test over 3 seeds" in compared.text


def test_a_combination_behind_its_best_part_is_explained_by_its_figures(world):
    fused = write_run(
        world["root"] / "fused", ranks_of(3, 0.5), method="fused", parameters=2104, counts={"trained on": 186}
    )
    metrics = json.loads((fused / "metrics.json").read_text())
    metrics["dev"]["rerank"]["half: calibrate"] = {"n": 30, "H@1": 0.99, "MRR": 0.99}
    (fused / "metrics.json").write_text(json.dumps(metrics))

    def split(dev, test):
        return {"dev": {"H@1": dev, "MRR": dev}, "test": {"H@1": test, "MRR": test}}

    parts = {"all": split(0.97, 0.5), "only drin": split(0.6, 0.9), "only ranker": split(0.98, 0.55)}
    (fused / "parts.json").write_text(json.dumps({**parts, "without ranker": split(1.0, 1.0)}))
    world["fused"] = fused
    text = " ".join(written(world, "mimic", "fused").split())
    assert (
        "fused is behind ranker, one of its 2 parts: H@1 50.00 against 55.00. It weighs its parts by 2,104 parameters "
        "learned from 186 mentions, one half of dev. H@1 is 99.00 there and 97.00 on the other half, where ranker "
        "alone has 98.00" in text
    ), "the best part is chosen on dev"
    (fused / "parts.json").write_text(json.dumps({**parts, "all": split(0.97, 0.6)}))
    assert "is behind" not in written(world, "mimic", "fused")


def test_cost_shows_parameters_times_and_settings(world):
    cost = rows_of(written(world), "Cost and settings")
    assert (
        cost["mimic"][:3] == ["3", "1,234,567", "11.0 ± 1.0"]
        and cost["mimic"][-1] == "setting of mimic"
        and "1,000 ± 0" in cost["mimic"]
    )
    assert cost["dwe"][:3] == ["1", "1,234,567", "12.0"]


def test_a_run_of_before_costs_were_recorded_is_shown_without_them(world):
    (world["dwe"] / "run.json").write_text(json.dumps({"method": "dwe", "seed": 0}))
    assert rows_of(written(world), "Cost and settings")["dwe"][1:3] == ["–", "–"]


def test_what_pictures_add_is_shown_by_group_seed_by_seed(world):
    alone = (NamedRun(name="mimic", folder=world["text"]),)
    text = written(world, text_only=alone)
    block = next(block for block in text.split("\n\n") if "text-only ablation" in block)
    lines = {line.split()[1]: line for line in block.splitlines()[2:-1]}
    assert set(lines) == {"all", "easy", "hard_&_odd"}
    for name, mask in (("all", np.ones(60, bool)), ("easy", GROUPS == "easy")):
        gains = [
            100 * ((ranks_of(seed, 0.8) == 1)[mask].mean() - (ranks_of(seed + 20, 0.5) == 1)[mask].mean())
            for seed in range(3)
        ]
        assert lines[name].rstrip().endswith(f"{np.mean(gains):+.2f} ± {np.std(gains, ddof=1):.2f}")
    by_part = rows_of(text, "test, rerank, H@1 by part")
    assert by_part["group: easy"][0] == "30" and by_part["all"][1].endswith("*") and "score lists alone" in text


def test_runs_of_one_group_are_compared_with_each_other_alone(world):
    runs = [("mimic", "static"), ("dwe", "static"), ("drin", "dynamic"), ("text", "dynamic")]
    tables = TablesJob(
        dataset="small",
        runs=tuple(
            NamedRun(name=f"{name} ({group})", folder=world[name], group=f"entity text: {group}")
            for name, group in runs
        ),
        entity_texts=True,
        resamples=400,
    )
    text = write_leaderboard(LeaderboardJob(tables=tables, out=world["root"] / "grouped")).text
    static, dynamic = (rows_of(text, f"test, candidates, entity text: {kind}") for kind in ("static", "dynamic"))
    assert list(static) == ["mimic (static)", "dwe (static)"] and list(dynamic) == ["drin (dynamic)", "text (dynamic)"]
    for rows in (static, dynamic):
        best = max(rows, key=lambda name: float(rows[name][0].split()[0].rstrip("*")))
        assert rows[best][8] == "best" and [name for name in rows if "*" in rows[name][0]] == [best]
    assert "test, full-kb, entity text: static, H@1 by part" in text
    assert "test, rerank, entity text: dynamic, H@1 by part" in text
    published = text.partition("PUBLISHED by DWE+")[2]
    assert "static (Table 6)" in published and "73.0 / 97.4 / 98.9 / 99.7" in published


def test_ablations_are_set_against_the_full_method_on_dev_and_test(world):
    text = written(world, "mimic", "dwe", reference="mimic", splits=("dev", "test"))
    found = rows_of(text, "dev, full-kb")
    before, now = (
        100 * np.mean([(ranks_of(seed, hit) == 1).mean() for seed in seeds])
        for seeds, hit in (((0, 1, 2), 0.8), ((7,), 0.4))
    )
    assert found["dwe"][8:10] == [f"{now - before:+.2f}", f"{100 * (now / before - 1):+.1f}%"] and found["mimic"][
        8:
    ] == ["ref.", "ref."]
    assert "PUBLISHED" not in text and rows_of(text, "test, full-kb")


def test_all_four_files_are_written_with_what_was_left_out_named(world):
    result = write_leaderboard(job(world, skipped={"dsmip": "the profile lacks 50% & more"}))
    out = job(world).out
    assert (out / "leaderboard.txt").read_text() == result.text + "\n" and "\x1b[1m" in (
        out / "leaderboard.ansi"
    ).read_text()
    assert "not here: dsmip: the profile lacks 50% & more" in result.text
    markdown, latex = (out / "leaderboard.md").read_text(), (out / "leaderboard.tex").read_text()
    assert "**" in markdown and "group: hard\\_&amp;\\_odd" in markdown
    assert (
        r"group: hard\_\&\_odd" in latex
        and r"lacks 50\% \& more" in latex
        and latex.count(r"\begin{table}") == latex.count(r"\end{table}") > 5
    )
    rows = list(csv.DictReader((out / "leaderboard.csv").open()))
    where = {
        "source": "measured",
        "method": "dwe",
        "split": "test",
        "protocol": "full-kb",
        "part": "all",
        "figure": "H@1",
    }
    one = next(row for row in rows if where.items() <= row.items())
    assert float(one["mean"]) == pytest.approx((ranks_of(7, 0.4) == 1).mean()) and (one["deviation"], one["n"]) == (
        "",
        "60",
    )
    published = [row for row in rows if row["source"] == "published"]
    assert len(published) == 28 and {row["dataset"] for row in published} == {"WikiMEL", "RichpediaMEL", "WikiDiverse"}
    assert (
        next(
            row["mean"]
            for row in published
            if (row["method"], row["figure"], row["dataset"]) == ("MIMIC", "MRR", "WikiMEL")
        )
        == "0.9182"
    )


def compared(first, second, **more):
    """The result of a comparison of two runs' folders."""
    first, second = (NamedRun(name=str(folder), folder=folder) for folder in (first, second))
    return compare(ComparisonJob(first=first, second=second, **{"resamples": 400, **more}))


def test_two_runs_are_compared_mention_by_mention(world):
    result = compared(world["dwe"], world["seeds"][0])
    a, b = ranks_of(7, 0.4) == 1, ranks_of(0, 0.8) == 1
    alone = [(a & b).sum(), (a & ~b).sum(), (~a & b).sum(), (~a & ~b).sum()]
    row = rows_of(result.text, "McNemar")["seed 0 against 0"]
    assert list(map(int, row[:4])) == alone
    difference = a.mean() - b.mean()
    shares = [f"{a.mean():.2%}", f"{b.mean():.2%}", f"{100 * difference:+.2f}"]
    assert rows_of(result.text, "test, full-kb")["H@1"][:3] == shares
    assert f"a: dwe, seed 0: {world['dwe']}" in result.text
    (test,) = result.mcnemar
    assert [test.both, test.first, test.second, test.neither] == alone and (row[-1] == "< 0.001") == (test.p < 0.001)
    assert (result.protocol, result.mentions) == ("full-kb", 60) and list(result.differences) == ["H@1", "MRR"]
    assert result.differences["H@1"].mean == pytest.approx(difference)


def test_a_run_and_itself_differ_in_nothing_and_order_of_mentions_does_not_matter(world):
    same = rows_of(compared(world["dwe"], world["dwe"]).text, "test, full-kb")
    assert {row[-1] for row in same.values()} == {"1.000"}
    shuffled = np.random.default_rng(0).permutation(60)
    write_run(world["root"] / "shuffled", ranks_of(7, 0.4)[shuffled], ids=[f"m{number}" for number in shuffled])
    table = pq.read_table(world["root"] / "shuffled" / "predictions.parquet").to_pydict()
    table["gold"] = [
        name if name is None else f"Q{place[1:]}" for name, place in zip(table["gold"], table["id"], strict=True)
    ]
    pq.write_table(pa.table(table), world["root"] / "shuffled" / "predictions.parquet")
    same = rows_of(compared(world["dwe"], world["root"] / "shuffled").text, "test, full-kb")
    assert {row[-1] for row in same.values()} == {"1.000"}


def test_a_run_that_scores_lists_alone_is_compared_on_reranked_lists(world):
    assert "test, rerank: a minus b" in compared(world["drin"], world["dwe"]).text


def test_seeds_are_compared_by_their_means_and_one_by_one(world):
    text = compared(world["mimic"], world["text"]).text
    assert "a: the mean over 3 seeds." in text and set(rows_of(text, "McNemar")) == {
        f"seed {seed} against {seed}" for seed in range(3)
    }
    assert "different numbers of seeds" in compared(world["mimic"], world["dwe"]).text


@pytest.mark.parametrize(
    ("second", "more", "message"),
    [
        (".", {}, "no finished run there"),
        (
            "drin",
            {"protocol": "full-kb"},
            "not measured on test under full-kb; its protocols there: candidates, rerank",
        ),
        ("dwe", {"split": "train"}, "no protocol that all of"),
        ("short", {}, "60 mentions and 50, 50 in common"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(world, second, more, message):
    write_run(world["root"] / "short", ranks_of(1, 0.5)[:50])
    place = {"drin": world["drin"], "dwe": world["dwe"], "short": world["root"] / "short", ".": world["root"]}[second]
    with pytest.raises(UserError) as error:
        compared(world["dwe"], place, **more)
    assert message in str(error.value).replace(str(world["root"] / "short") + " ", "") and "\n" not in str(error.value)


FORCED = "(given, gold forced in)"


@pytest.fixture
def mixed(world):
    """`world`, with two methods over lists that always hold the gold: one that ranks the KB, one that does not."""
    folder = world["root"] / "runs" / "small"
    ranked = write_run(folder / "mimic" / "given", ranks_of(3, 0.9), forced=True)
    lists = write_run(folder / "drin" / "given", ranks_of(4, 0.9), forced=True, protocols=PROTOCOLS[1:])
    text = write_run(folder / "drin" / "given-text", ranks_of(5, 0.9), forced=True, protocols=PROTOCOLS[1:])
    return {**world, "given": ranked, "given lists": lists, "given text": text}


def test_lists_that_always_hold_the_gold_have_tables_of_their_own(mixed):
    text = written(mixed, "dwe", "drin", "given", "given lists")
    tables = {block.splitlines()[0]: block for block in text.split("\n\n")}
    (kb,) = [title for title in tables if title.startswith("test, full-kb")]
    assert list(rows_of(text, kb)) == ["dwe", "given"], "the KB is the same for all"
    for protocol in ("candidates", "rerank"):
        honest = rows_of(text, f"test, {protocol} (60")
        forced = rows_of(text, f"test, {protocol} {FORCED} (60")
        assert (list(honest), list(forced)) == (["dwe", "drin"], ["given", "given lists"])
    by_part = [title for title in tables if "H@1 by part" in title]
    assert by_part == ["test, rerank, H@1 by part", f"test, rerank {FORCED}, H@1 by part"]
    lines = list(csv.DictReader((mixed["root"] / "report" / "leaderboard.csv").read_text().splitlines()))
    assert {line["method"] for line in lines if FORCED in line["protocol"]} == {"given", "given lists"}


def test_a_gain_over_text_on_such_lists_stands_apart(mixed):
    runs = tuple(NamedRun(name=name, folder=mixed[name]) for name in ("mimic", "given lists"))
    alone = (NamedRun(name="mimic", folder=mixed["text"]), NamedRun(name="given lists", folder=mixed["given text"]))
    tables = make_standings(TablesJob(dataset="small", runs=runs, text_only=alone, resamples=400)).against_text
    assert [{row[0].text for row in table.rows} for table in tables] == [{"mimic"}, {"given lists"}]


def test_runs_over_such_lists_and_others_are_compared_over_the_kb_alone(mixed):
    assert compared(mixed["dwe"], mixed["given"]).protocol == "full-kb"
    both = compared(mixed["given"], mixed["given lists"], protocol="rerank")
    assert both.protocol == f"rerank {FORCED}" and both.protocol in both.text
    with pytest.raises(UserError, match=r"--protocol rerank: a is measured under rerank, b under rerank \(given, gold"):
        compared(mixed["dwe"], mixed["given"], protocol="rerank")
    with pytest.raises(UserError, match=r"no protocol that all of .* theirs: candidates, rerank; candidates \(given"):
        compared(mixed["drin"], mixed["given lists"])


def test_a_run_of_before_gets_the_label_from_the_receipt_of_its_lists(world):
    run = write_run(world["root"] / "work" / "runs" / "small" / "mimic" / "s", ranks_of(1, 0.5))
    (run / "config.json").write_text(json.dumps({"candidates": "ab" * 32}))
    receipt = world["root"] / "work" / "receipts" / f"BuildCandidates-{'ab' * 8}.json"
    receipt.parent.mkdir()
    shares = {"dev": {"n": 9, "1": 0.5, "10": 0.9}, "test": {"n": 9, "1": 1.0, "10": 1.0}}
    receipt.write_text(json.dumps({"result": {"recall": {"given": shares, "name": {"test": {"n": 9, "10": 1.0}}}}}))
    metrics = read_experiment("old", run).runs[0].metrics
    assert list(metrics["dev"]) == list(PROTOCOLS)
    assert list(metrics["test"]) == ["full-kb", f"candidates {FORCED}", f"rerank {FORCED}"]
    receipt.unlink()
    assert list(read_experiment("old", run).runs[0].metrics["test"]) == list(PROTOCOLS)


def test_how_often_a_gate_takes_each_expert_is_shown_over_all_and_by_group(world):
    folders = []
    for seed, share in enumerate((0.2, 0.4)):
        folder = write_run(world["root"] / f"gate-{seed}", ranks_of(seed, 0.7), method="dsmip", seed=seed)
        metrics = json.loads((folder / "metrics.json").read_text())
        for name, figures_of_part in metrics["test"]["full-kb"].items():
            if name != "NIL":
                figures_of_part |= {"takes text": share, "takes visual": 1 - share}
        (folder / "metrics.json").write_text(json.dumps(metrics))
        folders.append(folder)
    mean = world["root"] / "mean-gate"
    average(AverageJob(runs=tuple(folders), seeds=(0, 1), out=mean))
    text = written({**world, "full": mean}, "full", "mimic", reference="full")
    taken = rows_of(text, "test, experts taken")
    deviation = np.std([20, 40], ddof=1)
    assert taken["full, all"] == ["60", f"30.00 ± {deviation:.2f}", f"70.00 ± {deviation:.2f}"]
    assert set(taken) == {"full, all", "full, easy", "full, hard_&_odd"}
    assert "experts taken" not in written(world)
