"""KBs that are not the one a run was trained on: another prepared dataset, and entities that come, change and go."""

import json
import re
import shlex
import shutil
from pathlib import Path

import commands
import linking_world
import luigi
import pytest
import small_world

from foundation import child
from foundation.errors import UserError
from linking import Linker, by_heart, finished, incoming_entities

METHODS = ("mimic", "dsmip", "fused", "ranker", "bert", "indexed")
GONE = "Q7"
CHANGED = {"id": "Q2", "name": "Cleo Corsen", "attributes": "number 2. a harbour of the green city."}
NEW = [
    {"id": "N1", "name": "Old Powers", "attributes": "number 5. seen in the green city.", "images": ["new/1.png"]},
    {"id": "N2", "name": "Mia Lang", "aliases": ["Añcient Powers"], "attributes": "a singer of the red city."},
    {"id": "N3", "name": "Blue Harrison", "images": ["new/2.png", "new/1.png"], "description": "Born in 1950."},
]
MENTIONS = [
    ("Old Powers was seen in the green city, as number 5 says.", "Old Powers"),
    ("Nobody saw Harrison in the green city.", "Harrison"),
    ("Cleo Corsen was seen in the harbour.", "Corsen"),
    ("The ancient Powers came in 1950.", "Powers"),
    ("Old Ship was seen in the green city, as number 7 says.", "Old Ship"),
    ("Mia Lang sings.", "Lang"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Folder of the data, and the runs by name: `indexed` has candidates from indexes, of a run's vectors too."""
    root = tmp_path_factory.mktemp("growing")
    linking_world.write(root)
    runs: dict[str, Path] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(child, "run", commands.call)
        for name in METHODS:
            task = linking_world.task(root, {"indexed": "clip_text"}.get(name, name))
            if name == "fused":
                task = task.clone(params='{"heads": ["mimic", "dsmip"]}')
            if name == "indexed":
                task = task.clone(sources=f"name-index,dense-index:clip_text,dense-index:{runs['bert']}")
            assert luigi.build([task], local_scheduler=True, log_level="ERROR", workers=1)
            runs[name] = root / "work" / task.resolved()["run"]
    for number in (1, 2):
        small_world.picture(root / "data" / f"new/{number}.png", seed=100 + number)
    return root, runs


@pytest.fixture(scope="module")
def rebuilt(world):
    """The KB as it is when the changes are made in its file, as a dataset without mentions."""
    root, _ = world
    folder = root / "rebuilt"
    shutil.copytree(root / "data", folder, ignore=shutil.ignore_patterns("*.jsonl"))
    lines = [json.loads(line) for line in (root / "data" / "entities.jsonl").read_text().splitlines()]
    kept = [line for line in lines if line["id"] not in (GONE, CHANGED["id"])]
    (folder / "entities.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*kept, CHANGED, *NEW]))
    code, said = commands.run("PrepareDataset", *places(root, folder))
    assert code == 0 and "a knowledge base alone" in said
    return folder


def places(root: Path, folder: Path) -> list[str]:
    words = ["--dataset", "rebuilt", "--data-dir", str(folder), "--work-dir", str(root / "work"), "--local-scheduler"]
    return [*words, "--profile", str(root / "small.yaml")]


def linked_against(run: Path, root: Path, rebuilt: Path) -> Linker:
    """A linker over the rebuilt KB; the commands that the error names are run before."""
    try:
        return Linker.load(run).against("rebuilt")
    except UserError as error:
        listed = re.findall("`luigi --module tasks ([^`]*)`", str(error))
        assert listed
        for command in listed:
            words = [str(rebuilt) if word == "PATH" else word for word in shlex.split(command)]
            assert words[0] == "ExtractFeatures"
            code, said = commands.run(*words, "--work-dir", str(root / "work"), "--local-scheduler")
            assert code == 0, said
        return Linker.load(run).against("rebuilt")


def changes(root: Path, linker: Linker):
    return linker.add([CHANGED, *NEW], root / "data", remove=[GONE])


@pytest.mark.parametrize("method", METHODS)
def test_answers_over_a_changed_kb_are_those_over_the_kb_rebuilt_with_the_changes(world, rebuilt, method):
    root, runs = world
    grown = Linker.load(runs[method])
    before = [grown.link(*mention, top_k=20) for mention in MENTIONS]  # so that all that is kept is there and must grow
    added = changes(root, grown)
    assert (added.new, added.changed, added.removed) == (3, 1, 1)
    over = linked_against(runs[method], root, rebuilt)
    pictured = [root / "data" / "new" / "1.png", None]
    for mention in MENTIONS:
        for picture in pictured:
            answers = [linker.link(*mention, picture, top_k=20) for linker in (grown, over)]
            assert [entity.id for entity in answers[0].entities] == [entity.id for entity in answers[1].entities]
            scores = [[entity.score for entity in answer.entities] for answer in answers]
            assert scores[0] == pytest.approx(scores[1], abs=1e-5)
            assert answers[0].confidence == pytest.approx(answers[1].confidence, abs=1e-5)
            assert answers[0].nil == answers[1].nil
            assert GONE not in {entity.id for entity in answers[0].entities}
    after = [grown.link(*mention, top_k=20) for mention in MENTIONS]
    names = {entity.id: entity.name for answer in after for entity in answer.entities}
    assert {"N1", "N2", "N3"} <= names.keys() and names["Q2"] == "Cleo Corsen"
    assert any(GONE in {entity.id for entity in answer.entities} for answer in before), "the removed one was an answer"


def test_a_second_change_and_a_removal_alone_are_those_of_the_kb_rebuilt(world, rebuilt):
    root, runs = world
    grown = Linker.load(runs["fused"])
    grown.add([*NEW, {**CHANGED, "name": "Nobody"}, {"id": "N9", "name": "Powers Ship"}], root / "data")
    grown.link(*MENTIONS[0])
    grown.add([CHANGED], root / "data")
    grown.link(*MENTIONS[0])
    grown.add([], remove=[GONE, "N9"])
    order = [json.loads(line)["id"] for line in (rebuilt / "entities.jsonl").read_text().splitlines()]
    assert sorted(grown.kb.table["id"]) == sorted(order)
    over = linked_against(runs["fused"], root, rebuilt)
    for mention in MENTIONS:
        ours, theirs = (linker.link(*mention, top_k=20).entities for linker in (grown, over))
        assert [entity.id for entity in ours] == [entity.id for entity in theirs]
        assert [entity.score for entity in ours] == pytest.approx([entity.score for entity in theirs], abs=1e-5)


def test_indexes_are_not_built_again_and_features_of_entities_stay(world):
    root, runs = world
    folder = Path(next((root / "work" / "datasets").glob("small-*")))
    linker = Linker.load(runs["indexed"], cache=False)
    linker.link(*MENTIONS[0])
    indexes = {path.name: path.stat().st_mtime_ns for path in folder.glob("[a-z]*-index-*")}
    assert len(indexes) == 3
    changes(root, linker)
    first, again = linker.link(*MENTIONS[0]), linker.link(*MENTIONS[0])
    assert first == again, "features of entities stay when those of mentions are forgotten"
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("[a-z]*-index-*")} == indexes


def test_the_command_takes_entities_from_a_file_and_says_what_it_did(world, tmp_path):
    root, runs = world
    extra = root / "data" / "extra.jsonl"
    lines = [*NEW, CHANGED, {"id": GONE, "removed": True}]
    extra.write_text("".join(json.dumps(line) + "\n" for line in lines))
    new = [{"sentence": sentence, "mention": phrase} for sentence, phrase in MENTIONS]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(line) + "\n" for line in new))
    files = ["--input", str(tmp_path / "new.jsonl"), "--output", str(tmp_path / "linked.jsonl")]
    run = ["--run", str(runs["mimic"]), "--work-dir", str(root / "work"), "--local-scheduler"]
    code, said = commands.run("LinkMentions", *run, *files, "--kb-extra", str(extra))
    assert code == 0 and "KB: 3 entities new, 1 changed, 1 removed" in said
    linker = Linker.load(runs["mimic"])
    changes(root, linker)
    for line, mention in zip((tmp_path / "linked.jsonl").read_text().splitlines(), MENTIONS, strict=True):
        assert [entity["id"] for entity in json.loads(line)["entities"]] == [
            entity.id for entity in linker.link(*mention).entities
        ]
    summary = json.loads((tmp_path / "linked.jsonl.summary.json").read_text())
    assert (summary["kb"], summary["kb_changes"]["removed"]) == (None, 1)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([{"id": "N1"}], "extra.jsonl:1: field 'name' is missing"),
        ([{"id": "N1", "name": "A"}, {"id": "N1", "name": "B"}], "'N1' was already given"),
        ([{"id": "N1", "name": "A", "images": ["../a.png"]}], "leaves the folder"),
        ([{"id": "nobody", "removed": True}], "'nobody' is to go, but is not in the KB"),
        ([{"id": "Q1", "removed": False}], "extra.jsonl:1"),
        ([{"id": "N1", "name": "A", "colour": "red"}], "unknown field 'colour'"),
        ([], "holds no entity"),
    ],
)
def test_entities_that_cannot_be_used_end_in_one_line_and_change_nothing(world, tmp_path, lines, reason):
    path = tmp_path / "extra.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match=re.escape(reason)) as refused:
        incoming_entities.read(path).check({"Q1"})
    assert "\n" not in str(refused.value)


def test_another_kb_that_is_not_there_or_not_extracted_is_named_with_the_command(world):
    runs = world[1]
    with pytest.raises(UserError, match=r"no prepared dataset of this label .*small.*PrepareDataset --dataset nobody"):
        Linker.load(runs["bert"]).against("nobody")


def test_a_run_that_is_right_for_known_golds_alone_is_said_to_remember_them(world, monkeypatch):
    run = finished.read(world[1]["ranker"])
    assert any("frequency" in line for line in by_heart.notes(run, "other"))
    parts = {"gold in train: yes": {"n": 90, "H@1": 0.8}, "gold in train: no": {"n": 30, "H@1": 0.3}}
    for protocol, gap in (("full-kb", True), ("rerank", True), ("candidates", False)):
        monkeypatch.setattr(by_heart, "read_json", lambda path, name=protocol: {"test": {name: parts}})
        assert any("80%" in line and "30%" in line for line in by_heart.notes(run, "other")) == gap
