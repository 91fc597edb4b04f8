"""From nothing to links, without one labelled mention: the walk of docs/building-a-kb.md, its commands as they stand
there, over servers on loopback and a run that was trained on another dataset."""

import json
import shlex
from pathlib import Path

import commands
import linking_world
import pytest
from documents import ROOT, blocks
from loopback import serving
from test_kb_api import Wikidata
from test_kb_pictures import Commons, picture, table
from wikidata_world import by_id, lines

from foundation import parquet

PAGE, HEADING = ROOT / "docs" / "building-a-kb.md", "## From nothing to links"
CAPTIONS = [
    {"id": "first", "text": "Acme was sold. In 1970 ANN LEE played in Rome.", "image": "photo.png"},
    {"text": "Nobody is named."},
]


def walk():
    """The blocks below the heading, in order: each the words of its commands, or a program."""
    text = PAGE.read_text("utf-8")
    begin = text[: text.index(HEADING)].count("\n") + 1
    end = begin + text[text.index(HEADING) :].partition("\n## ")[0].count("\n")
    for block in blocks(PAGE):
        if begin < block.line <= end:
            yield block.text if block.language == "python" else [shlex.split(line) for line in block.text.splitlines()]


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """A run over a dataset that has nothing to do with the new KB."""
    return linking_world.train(tmp_path, monkeypatch, "mimic")["mimic"]


def test_the_documented_walk_goes_from_qids_to_links_into_the_new_kb(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    Path("qids.txt").write_text("Q101\nQ102\n")
    Path("captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in CAPTIONS))
    with serving(Wikidata()) as wikidata, serving(Commons({"Ann Lee 1970.jpg": "cc-by-4.0"})) as commons:
        Path("photo.png").write_bytes(picture())
        here = {
            "https://www.wikidata.org": wikidata.address,
            "https://commons.wikimedia.org": commons.address,
            "RUN": str(run),
            "PROFILE": "small.yaml",
        }
        more = {
            "BuildKB": ["--wiki-rate", "0", "--processes", "1"],
            "FetchImages": ["--image-rate", "0", "--wiki-rate", "0", "--allow-private", "127.0.0.1"],
            "PrepareDataset": [],
            "ExtractFeatures": [],
            "LinkText": [],
        }
        done = []
        for block in walk():
            if isinstance(block, str):
                exec(compile(block, str(PAGE), "exec"), {})
                continue
            for luigi, module, tasks, name, *options in block:
                assert [luigi, module, tasks] == ["luigi", "--module", "tasks"]
                for theirs, ours in here.items():
                    options = [option.replace(theirs, ours) for option in options]
                code, said = commands.run(name, *options, *more[name], "--work-dir", "work", "--local-scheduler")
                assert code == 0, said
                done.append(name)
        assert done == list(more)
    assert by_id(Path("kb"))["Q101"]["attributes"]["Occupation"] == ["actor"]
    assert table(Path("kb"))["Ann Lee 1970.jpg"]["licence"] == "CC-BY-4.0"
    (prepared,) = Path("work", "datasets").glob("people-*")
    rows = {row["id"]: row for row in parquet.read(prepared / "entities.parquet").to_pylist()}
    assert set(rows) == {"Q101", "Q102"} and "Occupation: actor." in rows["Q101"]["attributes"]
    first, second = lines(Path("linked.jsonl"))
    assert [(one["start"], one["end"], one["mention"]) for one in first["mentions"]] == [
        (0, 4, "Acme"),
        (23, 30, "ANN LEE"),
    ]
    assert first["id"] == "first" and second["mentions"] == []
    for one, gold in zip(first["mentions"], ("Q102", "Q101"), strict=True):
        assert gold in {entity["id"] for entity in one["entities"]} <= {"Q101", "Q102"}
        assert 0 <= one["confidence"] <= 1 and isinstance(one["nil"], bool) and one["picture"] == "ok"
