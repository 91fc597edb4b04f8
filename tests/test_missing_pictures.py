"""Pictures of mentions masked at evaluation: the curve's ends, its middle, what is masked, table and picture."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import report_world
import torch
from heads_world import job_for
from matplotlib.image import imread
from test_picture_dropout import FOR_PAIRS, OPTIONS, SMALL, world

from foundation.errors import UserError
from heads import fusion, masking, training
from heads.contracts import MASKED, MaskingJob
from heads.data import Side
from heads.evaluation import SPLITS, measure
from heads.pictures import masked_rows
from heads.runs import list_scores, load_run
from heads.scoring import Scoring
from report.averages import Average
from report.contracts import LeaderboardJob
from report.leaderboard import make_standings, write_leaderboard
from report.missing import MissingPictures, _draw, curve, masked_mentions, missing_table, picture
from report.runs import read_experiment

SHARES = (0.25, 0.5, 1.0)
RANKS = ("rank_candidates", "rank_rerank")


def ranked(path):
    """id -> ranks in lists and in lists with the rest behind, of a file of predictions."""
    rows = pq.read_table(path, columns=["id", *RANKS]).to_pylist()
    return {row["id"]: tuple(row[name] for name in RANKS) for row in rows}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """method -> the job of a run that is trained and was measured without pictures."""
    folder = tmp_path_factory.mktemp("runs")
    base, jobs = world(folder / "world"), {}
    for method in ("mimic", "drin"):
        beside = FOR_PAIRS if method == "drin" else ()
        jobs[method] = job_for(base, method, {**SMALL, **OPTIONS[method]}, folder / method, beside)
        training.train(jobs[method])
    config = {"heads": ["mimic"], "pair_features": [], "frequency": True, "epochs": 2}
    fused = replace(job_for(base, "fused", config, folder / "fused"), heads={"mimic": jobs["mimic"]})
    jobs["fused"] = fused
    fusion.train(fused)
    for job in jobs.values():
        masking.write(MaskingJob(run=job, file=job.out / MASKED))
    return jobs


@pytest.mark.parametrize("method", ["mimic", "drin", "fused"])
def test_mentions_with_a_picture_rank_as_in_a_bundle_without_and_the_others_as_always(trained, method):
    job = trained[method]
    usual, masked = ranked(job.out / "predictions.parquet"), ranked(job.out / MASKED)
    read = pq.read_table(job.out / MASKED, columns=["id", "picture"]).to_pylist()
    pictured = {row["id"] for row in read if row["picture"]}
    table = pq.read_table(job.dataset / "mentions.parquet", columns=["id", "split", "image_status"]).to_pylist()
    assert pictured == {row["id"] for row in table if row["split"] != "train" and row["image_status"] == "ok"}
    assert all(masked[one] == usual[one] for one in usual if one not in pictured)
    assert any(masked[one] != usual[one] for one in pictured)
    if method != "fused":
        head, bundle = load_run(job)
        direct = measure(head, bundle.without_pictures({"mention"})).predictions
        expected = {one: tuple(direct[name][row] for name in RANKS) for row, one in enumerate(direct["id"])}
        assert masked == expected


def test_a_combination_reads_what_its_heads_score_without_the_pictures(trained):
    job = trained["fused"]
    _, bundle = fusion.without_pictures(job, SPLITS, ("mention",))
    head, of_part = load_run(trained["mimic"])
    here = np.isin(of_part.table["split"], SPLITS)
    masked = fusion.scores_of(head, of_part.without_pictures({"mention"}), SPLITS)
    np.testing.assert_array_equal(bundle.pairs["mimic"][here], masked[here])
    usual = list_scores(trained["mimic"], SPLITS)
    assert not np.array_equal(usual[here], masked[here], equal_nan=True)
    _, plain = load_run(fusion.with_parts(job, SPLITS))
    np.testing.assert_array_equal(bundle.pairs["frequency"], plain.pairs["frequency"])


def test_pair_features_of_the_mentions_pictures_go_and_those_of_texts_and_entities_stay(trained):
    _, bundle = fusion.without_pictures(trained["drin"], SPLITS, ("mention",))
    _, usual = load_run(trained["drin"])
    for name, values in bundle.pairs.items():
        gone = "mention" in usual.made_from.sides(name)
        assert np.isnan(values).all() if gone else np.array_equal(values, usual.pairs[name], equal_nan=True)
    assert {"mention" in usual.made_from.sides(name) for name in bundle.pairs} == {True, False}


@pytest.mark.parametrize("method", ["mimic", "drin", "fused"])
def test_the_curve_begins_with_the_usual_figures_and_its_middle_is_that_of_masked_mentions(trained, method):
    job = trained[method]
    experiment = read_experiment(method, job.out)
    protocol = "rerank"
    found = curve(experiment, "test", protocol, SHARES)
    usual = experiment.runs[0].metrics["test"][protocol]["all"]
    assert found["H@1"][0.0].mean == pytest.approx(usual["H@1"]) and found["MRR"][0.0].mean == pytest.approx(
        usual["MRR"]
    )
    before, after = ranked(job.out / "predictions.parquet"), ranked(job.out / MASKED)
    rows = pq.read_table(job.out / MASKED, columns=["id", "split", "picture", "rank_rerank"]).to_pylist()
    known = [row["id"] for row in rows if row["split"] == "test" and row["rank_rerank"]]
    pictured = [row["id"] for row in rows if row["id"] in known and row["picture"]]
    for share in SHARES:
        gone = masked_mentions(pictured, share)
        assert len(gone) == round(share * len(pictured))
        ranks = np.array([(after if one in gone else before)[one][1] for one in known])
        assert found["H@1"][share].mean == pytest.approx((ranks == 1).mean())
        assert found["MRR"][share].mean == pytest.approx((1 / ranks).mean())
    head, bundle = fusion.without_pictures(job, SPLITS, ("mention",))
    whole = measure(head, bundle).metrics["test"][protocol]["all"]
    assert found["MRR"][1.0].mean == pytest.approx(whole["MRR"])


class SomeMasked(Side):
    """Mentions of which those of the rows `chosen` read as if they had no picture."""

    chosen: np.ndarray

    def rows(self, index, random=None):
        return masked_rows(super().rows(index, random), self.pictured, torch.from_numpy(np.isin(index, self.chosen)))


def test_masking_some_mentions_is_masking_all_and_reading_those_alone(trained):
    head, bundle = load_run(trained["mimic"])
    pictured = bundle.table["image_status"] == "ok"
    rows = np.flatnonzero((bundle.table["split"] == "test") & pictured)[:12]
    half = SomeMasked(**vars(bundle.mentions))
    half.chosen = rows[:6]
    usual, mixed, masked = (
        Scoring(head, mentions, bundle.entities).lists(rows, bundle.candidates[rows])["score"]
        for mentions in (bundle.mentions, half, bundle.without_pictures({"mention"}).mentions)
    )
    np.testing.assert_allclose(mixed, np.concatenate([masked[:6], usual[6:]]), atol=1e-6, rtol=1e-6)
    changed = (np.abs(np.where(np.isfinite(usual), usual - masked, 0)) > 1e-3).any(1)
    assert len(rows) == 12 and changed.all(), "a picture decides something of every mention"


def test_shares_are_nested_and_follow_from_the_ids_alone():
    ids = [f"m{number}" for number in range(1000)]
    chosen = {share: masked_mentions(ids, share) for share in (0.1, 0.25, 0.5, 0.75, 1)}
    for smaller, larger in zip(chosen, list(chosen)[1:], strict=False):
        assert chosen[smaller] < chosen[larger]
    assert {share: len(names) for share, names in chosen.items()} == {0.1: 100, 0.25: 250, 0.5: 500, 0.75: 750, 1: 1000}
    assert masked_mentions(ids[::-1], 0.5) == chosen[0.5]
    halves = [len(chosen[0.5] & set(ids[start : start + 500])) for start in (0, 500)]
    assert min(halves) > 200, "drawn by hash, not by place"


def lists_missing(lists_stay=False):
    def levels(first):
        return {share: Average(first - 0.2 * share, 0.01) for share in (0.0, *SHARES)}

    curves = {name: {"H@1": levels(0.7 + add), "MRR": levels(0.8 + add)} for name, add in (("mimic", 0), ("dwe", 0.1))}
    level = {"mimic": {"H@1": Average(0.55, None), "MRR": Average(0.65, None)}}
    return MissingPictures("test", "full-kb", 620, 512, curves, level, lists_stay)


def test_the_table_has_a_row_for_each_method_and_figure_and_says_what_stays():
    table = missing_table(lists_missing())
    assert table.header == ("", "", "0%", "25%", "50%", "100%", "text only")
    cells = [[cell.text for cell in row] for row in table.rows]
    assert cells[0] == ["mimic", "H@1", "70.00 ± 1.00", "65.00 ± 1.00", "60.00 ± 1.00", "50.00 ± 1.00", "55.00"]
    assert [row[:2] for row in cells] == [["mimic", "H@1"], ["dwe", "H@1"], ["mimic", "MRR"], ["dwe", "MRR"]]
    assert all(cell.best for cell in table.rows[1][2:6]) and not any(cell.best for cell in table.rows[0])
    assert "512 of 620" in table.title
    assert not any("lists stay" in note for note in table.notes)
    assert any("lists stay" in note for note in missing_table(lists_missing(lists_stay=True)).notes)


def test_the_picture_is_a_png_with_a_line_for_each_method(tmp_path):
    (tmp_path / "a.png").write_bytes(picture(lists_missing()))
    drawn = imread(tmp_path / "a.png")[..., :3]
    for colour in ((31, 119, 180), (255, 127, 14)):  # matplotlib's first two
        near = np.abs(drawn - np.array(colour) / 255).max(-1) < 0.02
        left, right = near[:, : drawn.shape[1] // 2], near[:, drawn.shape[1] // 2 :]
        assert left.sum() > 300 and right.sum() > 300


def test_more_methods_than_there_are_colours_are_told_apart_by_their_lines():
    from matplotlib.figure import Figure

    levels = {figure: {0.0: Average(0.5, None), 1.0: Average(0.4, None)} for figure in ("H@1", "MRR")}
    axis = Figure().subplots()
    _draw(axis, MissingPictures("test", "rerank", 10, 8, {f"m{n}": levels for n in range(25)}, {}, False), "H@1")
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in axis.lines}
    assert len(axis.lines) == len(looks) == 25


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A report's job whose runs were also ranked without pictures: each mention with a picture one place lower."""
    job = report_world.job(tmp_path_factory.mktemp("report"))
    table = pq.read_table(job.cases.prepared / "mentions.parquet", columns=["id", "image_status"])
    pictured = dict(zip(table["id"].to_pylist(), table["image_status"].to_pylist(), strict=True))
    for run in job.tables.runs:
        read = pq.read_table(run.folder / "predictions.parquet")
        has = np.array([pictured[one] == "ok" for one in read["id"].to_pylist()])
        for name in ("rank_full_kb", "rank_candidates", "rank_rerank"):
            rank = read[name].to_numpy()
            place = read.column_names.index(name)
            read = read.set_column(place, name, pa.array((rank + (has & (rank > 0))).astype(np.int32)))
        pq.write_table(read.append_column("picture", pa.array(has)), run.folder / MASKED)
    return replace(job, tables=replace(job.tables, drop_pictures=SHARES))


def test_leaderboard_csv_and_picture_have_the_curve(reported, tmp_path):
    result = write_leaderboard(LeaderboardJob(tables=reported.tables, out=tmp_path))
    (missing,) = make_standings(reported.tables).missing
    last = missing.curves["mimic"]["H@1"]
    assert last[0.0].mean > last[1.0].mean and "pictures masked" in result.text
    lines = (tmp_path / "leaderboard.csv").read_text().splitlines()
    (of_whole,) = [line for line in lines if "pictures masked: 100%,mimic,H@1" in line]
    assert float(of_whole.split(",")[-2]) == pytest.approx(last[1.0].mean)
    assert (tmp_path / "missing-pictures.png") in result.files
    assert (tmp_path / "missing-pictures.png").read_bytes().startswith(b"\x89PNG")
    plain = write_leaderboard(LeaderboardJob(tables=replace(reported.tables, drop_pictures=()), out=tmp_path / "plain"))
    assert "pictures masked" not in plain.text and not any(path.suffix == ".png" for path in plain.files)


def test_predictions_of_other_mentions_are_one_line(reported, tmp_path):
    run = reported.tables.runs[0]
    path = run.folder / MASKED
    whole = path.read_bytes()
    try:
        pq.write_table(pq.read_table(path).slice(0, 20), path)
        with pytest.raises(UserError, match=r"of other mentions; delete .* and run"):
            make_standings(reported.tables)
        pq.write_table(pq.read_table(run.folder / "predictions.parquet"), path)
        with pytest.raises(UserError, match="no column `picture`"):
            make_standings(reported.tables)
    finally:
        path.write_bytes(whole)
