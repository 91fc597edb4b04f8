"""The layouts `ghmfc` and `wikidiverse` behind the commands: fingerprints, and their lists of candidates end to end."""

import json
import os
from pathlib import Path

import commands
import numpy as np
import pytest
from release_folders import WIKI, Ghmfc, Wikidiverse

from pipeline.datasets.fingerprint import fingerprint
from pipeline.datasets.layouts import layout


@pytest.mark.parametrize("kind", [Ghmfc, Wikidiverse])
def test_the_fingerprint_follows_every_text_and_picture(tmp_path, kind):
    root = tmp_path / "data"
    root.mkdir()
    kind(root).write()
    assert layout(root).__name__.endswith(kind.__name__.lower())
    first = fingerprint(root)
    (root / "notes.txt").write_text("irrelevant")
    assert fingerprint(root) == first
    for path in sorted(root.glob("*.json")):
        text = path.read_text()
        path.write_text(text + " ")
        assert fingerprint(root) != first, path.name
        path.write_text(text)
    assert fingerprint(root) == first
    picture = root / ("images" if kind is Ghmfc else "wikinewsImgs") / "a.jpg"
    picture.write_bytes(b"one")
    added = fingerprint(root)
    os.utime(picture, ns=(1, 1))
    assert len({first, added, fingerprint(root)}) == 3


def luigi(root: Path, *options: str) -> tuple[str, dict, Path]:
    """What BuildCandidates printed, its receipt's result, and its lists."""
    code, printed = commands.run(
        "BuildCandidates",
        "--work-dir",
        str(root / "work"),
        "--dataset",
        "toy",
        "--data-dir",
        str(root / "data"),
        *options,
    )
    assert code == 0, printed
    receipt = json.loads(max(root.glob("work/receipts/BuildCandidates-*.json"), key=os.path.getmtime).read_text())
    return printed, receipt["result"], root / "work" / receipt["result"]["file"]


TRUSTED = ("--given-order", "trusted", "--accept-gold-place")


def test_the_wikidiverse_protocol_end_to_end(tmp_path):
    (tmp_path / "data").mkdir()
    data = Wikidiverse(tmp_path / "data")
    data.desc["Lions Club"] = "A club."
    data.types["Organization"].append("Lions Club")
    data.splits["test"] = [data.mention(candidates=[WIKI + "Lion"], image=None), data.mention(entity="nil", image=None)]
    for split in ("train", "valid"):
        data.splits[split] = [data.mention(image=None)]
    data.write()
    printed, result, path = luigi(
        tmp_path, "--sources", "given,name-of-type", "--merge", "append", "--candidates", "3", *TRUSTED
    )
    entities = list(data.desc)
    with np.load(path) as lists:
        listed = [[entities[row] for row in row_list if row >= 0] for row_list in lists["ids"].tolist()]
    filled = [
        "Lion",
        "Detroit Lions",
        "Lions Club",
    ]  # two given, one left to fill; of the other types only what was given
    assert listed[0] == listed[1] == listed[3] == filled
    assert listed[2][0] == "Lion" and set(listed[2][1:]) == {"Lions Club", "Detroit Lions"}
    assert result["recall"]["given"]["test"] == {"n": 1, "1": 0.0, "3": 0.0}
    assert result["recall"]["merged"]["test"] == {"n": 1, "1": 0.0, "3": 1.0}
    for line in ("candidates that came with the data", "name-of-type:token_set_ratio", "layout wikidiverse"):
        assert line in printed
    assert next((tmp_path / "work" / "datasets").glob("toy-*/given.parquet")).exists()


def test_ghmfc_lists_end_to_end(tmp_path):
    (tmp_path / "data").mkdir()
    data = Ghmfc(tmp_path / "data")
    data.write()
    printed, result, path = luigi(tmp_path, "--sources", "given", "--candidates", "2", *TRUSTED)
    with np.load(path) as lists:
        assert lists["ids"].tolist() == [[2, 1]] * 6
    assert result["recall"]["given"]["test"] == {"n": 2, "1": 0.0, "2": 1.0} and "layout ghmfc" in printed
