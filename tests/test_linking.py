"""New mentions through a finished run: the run's own answers, features of new mentions, confidence, refusals."""

import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import checkpoints
import commands
import linking_world
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cache import fresh
from cache.store import Store
from foundation.checksums import checksums, entry, read_sealed, write_sealed
from foundation.contracts import from_json
from foundation.errors import UserError
from linking import Hints, Linker, answers, calibration, incoming, mentions
from linking.contracts import Calibration, Fit, LinkJob
from linking.linker import NOTES, UNLIKE
from pipeline.candidates import name_ranking
from pipeline.candidates.contracts import GivenSource, NameSource, TypedNameSource
from pipeline.candidates.registry import source
from pipeline.datasets.arrow_columns import ArrowColumn

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Folder of the data and the runs by method."""
    root = tmp_path_factory.mktemp("linking")
    with pytest.MonkeyPatch.context() as patch:
        runs = linking_world.train(root, patch)
    return root, runs


@pytest.fixture(scope="module")
def linker(world):
    return Linker.load(world[1]["mimic"])


def picture(seed=0, size=(48, 40)):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(
        buffer, "PNG"
    )
    return buffer.getvalue()


def link(world, folder, lines, method="mimic", **options):
    """Answers and refusals of a file with these lines (records, or bytes as they are), and the result."""
    data = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    (folder / "new.jsonl").write_bytes(b"\n".join(data) + b"\n")
    named = {"run": world[1][method], "input": folder / "new.jsonl", "output": folder / "linked.jsonl", "chunk": 16}
    result = mentions.link(LinkJob(**{**named, **options}))
    answers, refusals = (
        [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        for path in (folder / "linked.jsonl", folder / "linked.jsonl.rejects.jsonl")
    )
    return answers, refusals, result


@pytest.mark.parametrize("method", linking_world.METHODS)
def test_a_runs_own_test_mentions_get_the_answers_of_its_predictions(world, tmp_path, method):
    root, runs = world
    own = [
        line
        for line in (root / "data" / "mentions.jsonl").read_text().splitlines()
        if json.loads(line)["split"] == "test"
    ]
    assert len(own) == 25
    answers, refused, result = link(world, tmp_path, [line.encode() for line in own], method, images=root / "data")
    predicted = pq.read_table(runs[method] / "predictions.parquet").to_pydict()
    expected = {
        name: (top, scores)
        for name, top, scores in zip(predicted["id"], predicted["top"], predicted["top_score"], strict=True)
    }
    assert not refused and result.counts.mentions == 25 and [answer["line"] for answer in answers] == list(range(1, 26))
    for answer, line in zip(answers, own, strict=True):
        top, scores = expected[json.loads(line)["id"]]
        assert answer["entities"][0]["id"] == top[0]
        assert [entity["score"] for entity in answer["entities"]] == pytest.approx(scores[:5], abs=1e-4)


def opened(world) -> dict[str, Store]:
    """The stores of the work folder, by feature, as they are on disk."""
    folders = (world[0] / "work" / "cache").iterdir()
    return {folder.name.rpartition("-")[0]: Store.open(folder) for folder in folders}


def test_new_mentions_are_extracted_into_the_runs_cache_once(world):
    before = {name: store.rows for name, store in opened(world).items()}
    with Linker.load(world[1]["mimic"]) as linker:
        first = linker.link("A sentence that nobody has seen, about Powers.", "Powers", picture(7))
        assert {name: store.rows for name, store in opened(world).items()} == before, "in memory so far"
        assert linker.link("A sentence that nobody has seen, about Powers.", "Powers", picture(7)) == first
    added = {name: store.rows - before[name] for name, store in opened(world).items()}
    assert added["clip_text"] == added["clip_image"] == 1 and added["text_tokens"] == 0, (
        "what mimic reads of this profile, no more"
    )
    assert linker.link("A sentence that nobody has seen, about Powers.", "Powers", picture(7)) == first
    linker.close()
    assert {name: store.rows - before[name] for name, store in opened(world).items()} == added


@pytest.mark.parametrize("method", ["mimic", "dsmip"])
def test_mentions_one_by_one_leave_a_shard_for_many_and_none_without_a_cache(world, monkeypatch, method):
    monkeypatch.setattr(fresh, "ROWS", 4)
    folders = [*(world[0] / "work" / "cache").iterdir(), *world[1].values()]

    def shards() -> int:
        return sum(len(list(folder.rglob("*.h5"))) for folder in folders)

    first, answers_of = shards(), []
    for cache in (False, True):
        linker = Linker.load(world[1][method], cache=cache)
        features = sum(store.held >= 0 for store in linker.stores.opened)
        answers_of.append([linker.link(f"Sentence {n} of {method} about Powers.", "Powers") for n in range(9)])
        held = [store.held for store in linker.stores.opened]
        if cache:
            assert 0 < max(held) < 4 and 2 <= shards() - first <= 3 * features, "9 sentences, 4 rows a shard"
            linker.close()
            assert not any(store.held for store in linker.stores.opened)
        else:
            assert not any(held) and shards() == first
    assert answers_of[0] == answers_of[1]


def test_a_full_disk_ends_the_keeping_of_rows_and_not_the_linking(world, monkeypatch, capsys):
    monkeypatch.setattr(fresh, "ROWS", 4)
    before = {name: store.rows for name, store in opened(world).items()}
    asked = [(f"Sentence {n} on a full disk about Powers.", "Powers", picture(40 + n)) for n in range(6)]
    linker = Linker.load(world[1]["mimic"], cache=False)
    wanted = [linker.link(*each) for each in asked]
    capsys.readouterr()
    with monkeypatch.context() as patch, Linker.load(world[1]["mimic"]) as linker:
        patch.setattr("cache.layout.free_bytes", lambda path: 0)
        assert [linker.link(*each) for each in asked] == wanted
        assert not any(store.held for store in linker.stores.opened)
    out, said = capsys.readouterr()
    assert re.fullmatch(
        r"cannot write .*/clip_\w+-\w+/\w+\.h5: no space left; free some .*; linking goes on .*\n", said
    )
    assert not out and {name: store.rows for name, store in opened(world).items()} == before


def test_a_run_whose_folder_is_full_is_linked_with(world, monkeypatch):
    run = world[1]["mimic"]
    calm = Linker.load(run)
    (run / "calibration.npz").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("foundation.files.os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "full")))
        linker = Linker.load(run)
    assert linker.calibration == calm.calibration
    line = linker.notes[-1]
    assert line.startswith(f"cannot write {run / 'calibration.npz'}: no space left") and line.endswith(
        "at the next start"
    )
    Linker.load(run)
    assert (run / "calibration.npz").exists() and Linker.load(run).notes == []


def test_what_is_in_memory_is_written_when_python_ends_and_not_without_a_cache(world, tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from linking import Linker
linker = Linker.load(sys.argv[1], cache=sys.argv[2] == "True")
linker.link("The sentence of a process that ends, about Powers.", "Powers")
"""
    before = {name: store.rows for name, store in opened(world).items()}
    for cache, rows in ((False, 0), (True, 1)):
        command = [sys.executable, "-c", code, str(world[1]["mimic"]), str(cache)]
        subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
        assert opened(world)["clip_text"].rows - before["clip_text"] == rows


def test_a_file_is_linked_without_a_trace_in_the_cache(world, tmp_path):
    lines = [{"id": "a", "sentence": "A line about Powers, once.", "mention": "Powers"}]
    before = {name: store.rows for name, store in opened(world).items()}
    without = link(world, tmp_path, lines, cache=False)[0]
    assert {name: store.rows for name, store in opened(world).items()} == before
    assert link(world, tmp_path, lines)[0] == without
    assert opened(world)["clip_text"].rows == before["clip_text"] + 1


@pytest.mark.parametrize("method", ["dsmip", "fused"])
def test_new_mentions_with_and_without_pictures_go_through_every_part(world, method):
    linker = Linker.load(world[1][method])
    found = linker.link("Powers sails the Blue Ship to a place that is new.", "Blue Ship", picture(3))
    assert found.picture == "ok" and found.entities and 0 <= found.confidence <= 1
    alone = linker.link("Powers sails the Blue Ship to a place that is new.", "Blue Ship")
    assert alone.picture == "none" and {entity.id for entity in alone.entities} <= {f"Q{n}" for n in range(12)}
    if method == "fused":  # a gate may choose an expert that reads no picture
        assert [entity.score for entity in alone.entities] != [entity.score for entity in found.entities], (
            "the picture is read"
        )


def test_confidence_does_not_depend_on_how_many_are_asked_for(world):
    linker = Linker.load(world[1]["mimic"])
    of_softmax = Fit(mean=(0, 0, 0), deviation=(1, 1, 1), weights=(0, 0, 1), bias=0)
    linker.calibration = dataclasses.replace(
        linker.calibration, confidence=True, right=of_softmax, known=None, threshold=0.5
    )
    answers = {
        top_k: linker.link("Sight of the Old Ship and of Ann Powers.", "Powers", top_k=top_k) for top_k in (1, 2, 5, 12)
    }
    assert len({(answer.confidence, answer.nil, answer.entities[0]) for answer in answers.values()}) == 1
    assert [len(answer.entities) for answer in answers.values()] == [1, 2, 5, 12] and 0 < answers[5].confidence < 1


def test_what_stands_beside_a_mention_does_not_change_its_answer(world, tmp_path):
    lines = [
        {
            "id": n,
            "sentence": f"Sight number {n} of the Old Ship and of Ann Powers.",
            "mention": ("Old Ship", "Ann Powers")[n % 2],
        }
        for n in range(9)
    ]
    by_one, _, _ = link(world, tmp_path, lines, "drin", chunk=1)
    together, _, _ = link(world, tmp_path, lines, "drin", chunk=64)
    assert [answer["entities"][0]["id"] for answer in by_one] == [answer["entities"][0]["id"] for answer in together]
    scores = [
        [[entity["score"] for entity in answer["entities"]] for answer in answers] for answers in (by_one, together)
    ]
    assert np.allclose(*scores, atol=1e-4)


@pytest.mark.parametrize("kind", ["name", "name-index"])
@pytest.mark.parametrize("phrase", ["ancient ship", "The Harbour Powers", "Old Ship"])
def test_an_entity_is_found_by_any_of_its_names(world, phrase, kind):
    if kind == "name-index":
        pytest.importorskip("tantivy")
    linker = Linker.load(world[1]["drin"])
    scorer = linker.scorer
    scorer.sources = [source(NameSource(kind=kind))]
    scorer.run = dataclasses.replace(scorer.run, options=dataclasses.replace(scorer.run.options, k=1))
    expected = "Q7" if phrase == "Old Ship" else "Q6"
    assert [entity.id for entity in linker.link(f"Then {phrase} was seen.", phrase).entities] == [expected]


def test_candidates_that_come_with_a_mention_and_those_of_its_type_are_taken_where_the_run_takes_them(world):
    linker = Linker.load(world[1]["drin"])
    linker.scorer.sources = [source(GivenSource())]
    found = linker.link("Ann Powers was seen.", "Ann Powers", hints=Hints(candidates=["Q5", "nobody", "Q2"]))
    assert {entity.id for entity in found.entities} == {"Q5", "Q2"}
    alone = linker.link("Ann Powers was seen.", "Ann Powers")
    assert alone.entities == () and alone.nil and alone.confidence == 0, "no candidate at all"
    linker.scorer.sources = [source(TypedNameSource())]
    of_type = ArrowColumn.of(["person" if row < 4 else "place" for row in range(12)], pa.string())
    linker.kb.then = linker.kb.table = {**linker.kb.table, "type": of_type}
    of_type = linker.link("Ann Powers was seen.", "Ann Powers", hints=Hints(type="person"))
    assert {entity.id for entity in of_type.entities} <= {"Q0", "Q1", "Q2", "Q3"}
    assert linker.link("Ann Powers was seen.", "Ann Powers").entities[0].id in {f"Q{row}" for row in range(12)}


def test_broken_lines_go_to_the_rejects_with_number_and_reason_and_the_rest_is_linked(world, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.png").write_bytes(picture())
    (tmp_path / "in" / "good.png").write_bytes(picture())
    (tmp_path / "in" / "cut.png").write_bytes(picture()[:200])
    (tmp_path / "in" / "text.png").write_text("no picture")
    good = {"sentence": "Ann Powers again", "mention": "Ann Powers"}
    lines = [
        good,
        b"{not json",
        {**good, "colour": "red"},
        b"",
        {**good, "mention": "  "},
        {**good, "image": "../secret.png"},
        {**good, "image": "good.png", "id": "with"},
        {**good, "image": "cut.png"},
        {**good, "image": "text.png"},
        {**good, "image": "away.png"},
        {**good, "sentence": "x" * incoming.MAX_LINE},
        {**good, "start": 2, "end": 99},
        b"[1]",
        b'{"sentence": "\xff", "mention": "a"}',
        {"sentence": "no mention"},
        b"[" * 100000,
        {**good, "sentence": None},
        good,
        b'{"sentence": "a", "sentence": "b", "mention": "a"}',
        b'{"id": ' + b"9" * 5000 + b"}",
    ]
    answers, refused, result = link(world, tmp_path / "in", lines)
    reasons = {entry["line"]: entry["reason"] for entry in refused}
    expected = {
        2: "malformed JSON",
        3: "unknown field 'colour'",
        5: "empty",
        6: "..",
        11: "longer than",
        12: "outside the sentence",
        13: "expected an object",
        14: "not UTF-8",
        15: "'mention' is missing",
        16: "nested",
        19: "key 'sentence' is given twice",
        20: "more than 4,300 digits",
    }
    assert reasons.keys() == expected.keys()
    for line, words in expected.items():
        assert words in reasons[line] and f"line {line}" not in reasons[line], reasons[line]
        assert f"line {line}: " in result.text or line > 11, "the first are named"
    assert all(len(entry["begins"]) <= incoming.SHOWN for entry in refused) and "12 refused lines" in result.text
    pictures = {answer["line"]: answer["picture"] for answer in answers}
    assert pictures == {
        1: "none",
        7: "ok",
        8: "broken: truncated",
        9: "broken: not an image",
        10: "missing: no such file",
        17: "none",
        18: "none",
    }
    assert [answer["id"] for answer in answers] == ["1", "with", "8", "9", "10", "17", "18"]
    link(world, tmp_path / "in", [good])
    assert not (tmp_path / "in" / "linked.jsonl.rejects.jsonl").exists(), (
        "no refusals of an earlier file beside the answers of this one"
    )


def test_a_failed_command_leaves_the_old_output_and_no_other_files(world, tmp_path, monkeypatch):
    link(world, tmp_path, [{"sentence": "Ann Powers", "mention": "Ann Powers"}])
    before = (tmp_path / "linked.jsonl").read_bytes()
    monkeypatch.setattr(Linker, "link_all", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        link(world, tmp_path, [{"sentence": "Ben Powers", "mention": "Ben Powers"}])
    assert (tmp_path / "linked.jsonl").read_bytes() == before and {path.name for path in tmp_path.iterdir()} == {
        "linked.jsonl",
        "linked.jsonl.summary.json",
        "new.jsonl",
    }


@pytest.mark.parametrize(
    "options, words",
    [
        ({"input": Path("nowhere.jsonl")}, "no such file"),
        ({"images": Path("/nowhere/at/all")}, "--images-dir"),
        ({"top_k": 0}, "--top-k 0"),
        ({"output": Path("/nowhere/x.jsonl")}, "--output"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line_that_names_it(world, tmp_path, options, words):
    options = {name: tmp_path / value if name == "input" else value for name, value in options.items()}
    with pytest.raises(UserError, match=words) as error:
        link(world, tmp_path, [], **options)
    assert "\n" not in str(error.value)


def test_a_head_that_was_trained_on_other_features_is_refused_with_both_identities(world, tmp_path):
    root, runs = world
    from heads.checkpoint import read_tensors, write_tensors

    shutil.copytree(root, tmp_path / "copy", ignore=shutil.ignore_patterns("runs/small/fused"))
    path = tmp_path / "copy" / runs["mimic"].relative_to(root) / "model.safetensors"
    tensors, said = read_tensors(path)
    trained = said["features"]["mention text"]
    said["features"]["mention text"] = "f" * len(trained)
    write_tensors(path, tensors, said)
    with pytest.raises(UserError, match="has other bytes than were written"):
        Linker.load(path.parent)
    record = read_sealed(path.parent / "run.json")
    record["sha256"] |= checksums(path.parent, [path.name])
    write_sealed(path.parent / "run.json", record)
    for changed in (path, path.parent / "run.json"):
        _stamp(tmp_path / "copy" / "work", changed)
    with pytest.raises(UserError, match="f" * 16) as told:
        Linker.load(path.parent)
    assert trained[:16] in str(told.value)


def test_models_that_were_replaced_since_are_refused_with_both_identities(world, tmp_path):
    root, runs = world
    shutil.copytree(root / "work", tmp_path / "work")
    import yaml

    profile = yaml.safe_load((root / "small.yaml").read_text())
    receipts = [json.loads(path.read_text()) for path in (tmp_path / "work" / "receipts").glob("ExtractGroup-*.json")]
    known = next(
        receipt["result"]["features"]["clip_text"]["identity"]
        for receipt in receipts
        if "clip_text" in receipt["result"]["features"]
    )
    profile["features"]["clip_text"]["model"] = str(checkpoints.open_clip_model(tmp_path / "other", seed=1))
    changed = {
        name: {**feature, **({"model": str(root / feature["model"])})} for name, feature in profile["features"].items()
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({**profile, "features": changed}))
    for path in (tmp_path / "work" / "receipts").glob("ExtractGroup-*.json"):
        receipt = read_sealed(path)
        receipt["result"]["profile"] = str(tmp_path / "small.yaml")
        write_sealed(path, receipt)
    with pytest.raises(UserError, match="feature clip_text") as told:
        Linker.load(tmp_path / "work" / runs["mimic"].relative_to(root / "work"))
    assert known[:16] in str(told.value) and "now gives" in str(told.value)


def test_folders_that_are_no_run_of_a_work_folder_are_told_apart(world, tmp_path):
    runs = world[1]
    with pytest.raises(UserError, match="no trained head"):
        Linker.load(tmp_path)
    shutil.copytree(runs["mimic"], tmp_path / "alone")
    with pytest.raises(UserError, match="no receipts"):
        Linker.load(tmp_path / "alone")
    stages = [
        path.parent
        for path in runs["dsmip"].parent.glob("*/run.json")
        if json.loads(path.read_text())["config"]["stage"] != "gate"
    ]
    assert len(stages) == 2
    for stage in stages:
        with pytest.raises(UserError, match="prepares another run"):
            Linker.load(stage)


def test_calibration_is_kept_with_the_run_and_measured_on_the_half_of_dev_that_chose_nothing(world, linker):
    kept = from_json(Calibration, read_sealed(world[1]["mimic"] / "calibration.json"))
    assert kept.part == "dev, half: calibrate" and kept.nil["own"] == 0 and kept.nil["hidden entities"] > 0
    assert 0 < kept.counts["NIL"] < kept.counts["mentions"] < 61, "hidden golds, in a half of dev"
    assert linker.calibration == kept and kept.nil_share == 0, "dev has no mention that is NIL"
    fused = Linker.load(world[1]["fused"]).calibration
    assert fused.part == "dev, half: choose", "the other half has taught it its weights"


def test_predictions_on_test_do_not_change_the_calibration(world, tmp_path):
    """Golds of test are replaced by others, and the calibration comes out the same."""
    root, runs = world
    shutil.copytree(root / "work", tmp_path / "work")
    run = tmp_path / "work" / runs["mimic"].relative_to(root / "work")
    first = Linker.load(run).calibration
    (run / "calibration.json").unlink()
    (run / "calibration.npz").unlink()
    for path in (tmp_path / "work" / "datasets").glob("*/mentions.parquet"):
        table = pq.read_table(path)
        split = table["split"].to_pylist()
        gold = [0 if where == "test" else row for where, row in zip(split, table["gold"].to_pylist(), strict=True)]
        import pyarrow as pa

        pq.write_table(
            table.set_column(table.schema.get_field_index("gold"), "gold", pa.array(gold, table["gold"].type)), path
        )
        _stamp(tmp_path / "work", path)
    assert Linker.load(run).calibration == first


def test_answers_for_dev_are_computed_once_for_every_share_and_anew_for_other_weights(world, tmp_path, monkeypatch):
    shutil.copytree(world[0] / "work", tmp_path / "work")
    run = tmp_path / "work" / world[1]["mimic"].relative_to(world[0] / "work")
    own = Linker.load(run).calibration
    kept, measured, real = (run / "calibration.json").read_bytes(), [], answers.measure
    monkeypatch.setattr(answers, "measure", lambda *arguments: measured.append(1) or real(*arguments))
    asked = Linker.load(run, nil_share=0.3).calibration
    assert not measured and asked.nil_share == 0.3 and asked != own
    assert (run / "calibration.json").read_bytes() == kept, "the file keeps dev's own share"
    damaged = (run / "calibration.npz").read_bytes()
    (run / "calibration.npz").write_bytes(damaged[:200] + bytes([damaged[200] ^ 1]) + damaged[201:])
    assert Linker.load(run).calibration == own and len(measured) == 1
    (run / "calibration.json").write_text('{"version": 1, "fit": null}')
    (run / "calibration.npz").unlink()
    again = Linker.load(run)
    assert again.calibration == own and len(measured) == 2
    assert "fitted again" in again.notes[0] and json.loads((run / "calibration.json").read_text())["version"] == 2


@pytest.mark.parametrize("share", [-0.1, 1, float("nan")])
def test_a_share_that_cannot_be_is_refused(world, share):
    with pytest.raises(UserError, match="from 0 to below 1"):
        Linker.load(world[1]["mimic"], nil_share=share)


def _stamp(work, path):
    """Receipts that list a file that was changed on purpose still stand."""
    for receipt in (work / "receipts").glob("*.json"):
        said = read_sealed(receipt)
        said["files"] = [entry(work, path) if work / one["path"] == path else one for one in said["files"]]
        write_sealed(receipt, said)


def test_names_of_the_kb_are_prepared_once_for_all_chunks(world, tmp_path, monkeypatch):
    prepared, real = [], name_ranking._Postings.__init__

    def counted(self, names):
        prepared.append(len(names))
        real(self, names)

    monkeypatch.setattr(name_ranking._Postings, "__init__", counted)
    lines = [{"sentence": f"Sight {n} of Ann Powers.", "mention": "Ann Powers"} for n in range(8)]
    link(world, tmp_path, lines, "drin", chunk=2)
    assert len(prepared) == 1


def test_lines_as_other_programs_write_them_keep_their_numbers(world, tmp_path):
    one = json.dumps({"sentence": "Ann Powers", "mention": "Ann Powers"}).encode()
    data = b"\xef\xbb\xbf" + one + b"\r\n\r\n  \n" + one + b"\n" + one.replace(b"Ann", b"\\u0041nn")
    (tmp_path / "new.jsonl").write_bytes(data)
    job = LinkJob(run=world[1]["mimic"], input=tmp_path / "new.jsonl", output=tmp_path / "linked.jsonl")
    mentions.link(job)
    found = [json.loads(line) for line in (tmp_path / "linked.jsonl").read_text().splitlines()]
    assert [answer["line"] for answer in found] == [1, 4, 5] and [answer["id"] for answer in found] == ["1", "4", "5"]
    assert len({json.dumps(answer["entities"]) for answer in found}) == 1


@pytest.mark.parametrize(
    "sentence, phrase, given, span",
    [
        ("Powers met Powers.", "Powers", None, [0, 6]),
        ("Powers met Powers.", "Powers", (11, 17), [11, 17]),
        ("Old Ship", "Old Ship", None, [0, 8]),
        ("Seen: \U0001f6a2 Old Ship", "Old Ship", None, [8, 16]),  # characters, not UTF-16 units
        ("Seen: \u00c9mile", "E\u0301mile", None, [6, 11]),
        ("Nothing of it.", "Old Ship", None, None),
    ],
)
def test_the_span_counts_characters_from_the_first_place_of_the_phrase(world, tmp_path, sentence, phrase, given, span):
    line = {"sentence": sentence, "mention": phrase}
    found, refused, _ = link(world, tmp_path, [line if given is None else {**line, "start": given[0], "end": given[1]}])
    assert not refused and found[0]["span"] == span
    assert found[0]["notes"] == ([] if span else ["phrase not in the sentence"])


def test_neither_the_order_of_lines_nor_an_id_given_twice_changes_an_answer(world, tmp_path):
    lines = [
        {"id": n % 4, "sentence": f"Sight {n % 4} of the Old Ship.", "mention": ("Old Ship", "Ship")[n % 2]}
        for n in range(8)
    ]
    forward, _, _ = link(world, tmp_path, lines, chunk=3)
    backward, _, _ = link(world, tmp_path, lines[::-1], chunk=5)
    assert [answer["id"] for answer in forward] == [str(n % 4) for n in range(8)]
    for one, other in zip(forward, backward[::-1], strict=True):
        assert [entity["id"] for entity in one["entities"]] == [entity["id"] for entity in other["entities"]]
        assert one["confidence"] == pytest.approx(other["confidence"], abs=1e-5)


def test_more_entities_than_there_are_gives_each_once_best_first(world, tmp_path):
    ((answer,), _, _) = link(world, tmp_path, [{"sentence": "Ann Powers", "mention": "Ann Powers"}], top_k=10_000)
    scores = [entity["score"] for entity in answer["entities"]]
    assert sorted(entity["id"] for entity in answer["entities"]) == sorted(f"Q{n}" for n in range(12))
    assert scores == sorted(scores, reverse=True)


def test_the_confidence_at_a_share_is_that_at_share_0_times_the_chance_that_the_entity_is_known(world):
    at = {share: Linker.load(world[1]["mimic"], nil_share=share) for share in (0, 0.4)}
    first, second = (linker.link("Sight of Ann Powers.", "Powers") for linker in at.values())
    fitted = at[0.4].calibration
    mention = incoming.Mention("a", "Sight of Ann Powers.", "Powers", "test", (13, 19))
    scores = at[0.4]._ranked([mention], Path(), 10).scores
    values, softmax = calibration.evidence(scores)
    known = calibration.probability(fitted.known, values)[0] if fitted.known else 1.0
    right = calibration.confidence(fitted.right, None, values, softmax)[0]
    assert second.confidence == pytest.approx(right * known, abs=1e-6) and len(scores) == 1
    if fitted.right == at[0].calibration.right:
        assert first.confidence == pytest.approx(right, abs=1e-6)
    assert not first.nil, "a share of 0"


def test_a_file_is_linked_chunk_by_chunk(world, tmp_path, monkeypatch):
    held, real = [], Linker.link_all

    def counted(self, chunk, *rest):
        held.append(len(chunk))
        return real(self, chunk, *rest)

    monkeypatch.setattr(Linker, "link_all", counted)
    answers, _, _ = link(world, tmp_path, [{"sentence": "Ann Powers", "mention": "Ann Powers"}] * 7, chunk=3)
    assert held == [3, 3, 1] and len(answers) == 7


def test_an_answer_says_what_it_had_to_do_without(world, tmp_path, monkeypatch):
    (tmp_path / "good.png").write_bytes(picture())
    (tmp_path / "away.png").write_bytes(picture(1))

    def failing(path, *rest):
        if path == str(tmp_path / "away.png"):
            raise OSError(5, "Input/output error", path)
        return open(path, *rest)

    monkeypatch.setattr("pipeline.datasets.images.open", lambda path, mode: failing(str(path), mode), raising=False)
    linker = Linker.load(world[1]["drin"])
    linker.scorer.sources, linker.takes_given = [source(GivenSource())], True
    monkeypatch.setattr(mentions.Linker, "load", lambda *arguments: linker)
    there = {"sentence": "Ann Powers again", "mention": "Ann Powers", "candidates": ["Q5", "Q2"]}
    lines = [
        there,
        {**there, "mention": "Nobody Else"},
        {**there, "image": "gone.png"},
        {**there, "image": "away.png"},
        {**there, "image": "good.png"},
        {**there, "candidates": ["Q5", "nobody"]},
        {**there, "candidates": ["nobody"], "mention": "Nobody Else"},
    ]
    found, refused, result = link(world, tmp_path, lines, "drin")
    assert not refused and [answer["notes"] for answer in found] == [
        [],
        ["phrase not in the sentence"],
        ["picture not used"],
        ["picture not used"],
        [],
        ["candidates not in the KB"],
        ["phrase not in the sentence", "candidates not in the KB", "no candidates"],
    ]
    assert [answer["span"] for answer in found[:2]] == [[0, 10], None]
    pictures = [answer["picture"] for answer in found[2:5]]
    assert pictures == ["missing: no such file", "not readable now: Input/output error", "ok"]
    assert found[6]["nil"] and found[6]["entities"] == [] and found[0]["entities"]
    counts = result.counts
    assert (counts.phrases_not_found, counts.without_candidates, counts.pictures_left_out) == (2, 1, 2)
    summary = json.loads((tmp_path / "linked.jsonl.summary.json").read_text())
    assert summary["counts"]["phrases_not_found"] == 2 and summary["run"] == str(world[1]["drin"])
    assert {note for answer in found for note in answer["notes"]} == set(NOTES) - {UNLIKE}


def changed(monkeypatch, linker, feature, change):
    """The run's model of a feature gives other rows from now on."""
    kind = type(linker.extractor.extractors[feature])
    whole = kind.__call__

    def outputs(self, batch):
        rows = whole(self, batch)
        return {name: [change(np.asarray(row, np.float32)) for row in values] for name, values in rows.items()}

    monkeypatch.setattr(kind, "__call__", outputs)


@pytest.mark.parametrize(
    ("change", "unlike"),
    [(lambda row: row * 0, True), (lambda row: row * 50, True), (lambda row: row + 0.001, False)],
    ids=["zero", "far away", "a little beside"],
)
def test_a_mention_whose_features_are_unlike_the_runs_is_told_so(world, monkeypatch, change, unlike):
    """Of one mention there is no variance: its rows are compared with those of the run."""
    linker = Linker.load(world[1]["mimic"])
    sentence = f"The {change(np.float32(1))} Powers {unlike} once more."
    assert UNLIKE not in linker.link(f"{sentence} Before.", "Powers").notes
    changed(monkeypatch, linker, "clip_text", change)
    assert (UNLIKE in linker.link(sentence, "Powers").notes) == unlike
    picture_alone = linker.link(f"{sentence} Before.", "Powers", picture(17))
    assert UNLIKE not in picture_alone.notes, "its text is in the cache, and the pictures' model is as it was"


def test_new_mentions_that_all_have_the_same_features_end_the_command(world, tmp_path, monkeypatch):
    linker = Linker.load(world[1]["mimic"])
    linker.link("The model is loaded, and gives what it gave.", "model")
    changed(monkeypatch, linker, "clip_text", lambda row: np.ones_like(row))
    monkeypatch.setattr(mentions.Linker, "load", lambda *arguments: linker)
    lines = [{"sentence": f"Constant Powers, number {number}", "mention": "Powers"} for number in range(16)]
    with pytest.raises(UserError) as error:
        link(world, tmp_path, lines)
    first = str(error.value).splitlines()[0]
    assert first.startswith(
        "mention.clip_text.mention_sep_sentence, output tokens: all 16 rows are equal; the run's own"
    )
    assert "run `luigi --module tasks Doctor`" in first and not (tmp_path / "linked.jsonl").exists()
    found, _, _ = link(world, tmp_path, [{**line, "sentence": line["sentence"][:20]} for line in lines])
    assert len(found) == 16, "fewer than 16 different texts prove nothing"
    linker.extractor.known = dataclasses.replace(
        linker.extractor.known, accepted={"mention.clip_text.mention_sep_sentence"}
    )
    assert len(link(world, tmp_path, lines)[0]) == 16, "the run's own rows were accepted like that"


def test_prompted_features_of_new_mentions_are_looked_at_too(world, monkeypatch):
    linker = Linker.load(world[1]["dsmip"])
    head = next(iter(linker.scorer.learned.remade.values())).learned.head
    whole = head.prompted_text

    def silent(inputs, side):
        rows = whole(inputs, side)
        return type(rows)({**rows, "pooled": rows["pooled"] * 0})

    assert UNLIKE not in linker.link("Prompted Powers, a text like the others.", "Powers").notes
    monkeypatch.setattr(head, "prompted_text", silent)
    assert UNLIKE in linker.link("Prompted Powers, and prompts that give nothing.", "Powers").notes
    new = [
        incoming.Mention(id=str(number), sentence=f"Silent Powers {number}", phrase="Powers", split="test")
        for number in range(20)
    ]
    with pytest.raises(
        UserError, match=r"mention\.prompted_text\.\w+, output pooled: all 20 rows are zero; the run's own"
    ):
        linker.link_all(new, Path())


def test_the_share_of_nil_mentions_is_said_and_followed(world, tmp_path):
    (tmp_path / "new.jsonl").write_text(json.dumps({"sentence": "Ann Powers", "mention": "Ann Powers"}))
    named = ("--run", str(world[1]["mimic"]), "--work-dir", str(world[0] / "work"))
    files = ("--input", str(tmp_path / "new.jsonl"), "--output", str(tmp_path / "linked.jsonl"))
    for options, share, source_of in (((), 0, "dev"), (("--nil-share", "0.25"), 0.25, "--nil-share")):
        code, printed = commands.run("LinkMentions", *named, *files, *options)
        assert code == 0 and f"share of NIL mentions: {100 * share:.1f} % ({source_of})" in printed, printed
        summary = json.loads((tmp_path / "linked.jsonl.summary.json").read_text())
        assert (summary["nil_share"], summary["nil_share_of"]) == (share, source_of)
        assert all(note in printed for note in summary["notes"])
    code, printed = commands.run("LinkMentions", *named, *files, "--nil-share", "1")
    assert code == 2 and "--nil-share 1: expected a number from 0 to below 1, or dev" in printed


def test_a_file_whose_lines_are_all_refused_is_not_a_success(world, tmp_path):
    (tmp_path / "new.jsonl").write_text("{broken\n[]\n")
    named = ("--run", str(world[1]["mimic"]), "--work-dir", str(world[0] / "work"))
    files = ("--input", str(tmp_path / "new.jsonl"), "--output", str(tmp_path / "linked.jsonl"))
    code, printed = commands.run("LinkMentions", *named, *files)
    assert code != 0 and "line 1: malformed JSON" in printed, printed
    assert "every line was refused" in printed and "linked.jsonl.rejects.jsonl" in printed


def test_the_command_as_it_is_typed_begins_anew_after_a_kill(world, tmp_path):
    (tmp_path / "new.jsonl").write_text(
        json.dumps({"sentence": "Ann Powers", "mention": "Ann Powers"})
        + "\n{broken\n"
        + json.dumps({"sentence": "Old Ship", "mention": "Ship"})
    )
    command = [
        sys.executable,
        "-m",
        "luigi",
        "--module",
        "tasks",
        "LinkMentions",
        "--run",
        str(world[1]["mimic"]),
        "--input",
        str(tmp_path / "new.jsonl"),
    ]
    command += [
        "--output",
        str(tmp_path / "linked.jsonl"),
        "--chunk",
        "2",
        "--top-k",
        "2",
        "--work-dir",
        str(world[0] / "work"),
    ]

    def typed(**more):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **more}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        return done.returncode, done.stdout + done.stderr

    code, said = typed(MEL_FAULT="linked-chunk")
    assert code != 0 and "signal 9" in said and "Traceback" not in said and not (tmp_path / "linked.jsonl").exists()
    code, said = typed()
    assert code == 0 and "2 mentions" in said and "line 2: malformed JSON" in said, said
    assert [len(json.loads(line)["entities"]) for line in (tmp_path / "linked.jsonl").read_text().splitlines()] == [
        2,
        2,
    ]
    assert {path.name for path in tmp_path.iterdir()} == {
        "new.jsonl",
        "linked.jsonl",
        "linked.jsonl.rejects.jsonl",
        "linked.jsonl.summary.json",
    }
