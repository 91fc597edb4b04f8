"""A run is linkable however its features came to be: extracted by several profiles, before it was trained."""

import json
import shutil

import commands
import linking_world
import pytest
import yaml

from foundation.checksums import read_sealed, write_sealed
from foundation.errors import UserError
from linking import Linker, finished
from pipeline.datasets.contracts import Limits
from report.explore.book import Book

OPTIONS = ("--candidates", "8", "--sources", "name,dense:clip_text")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Data, a work folder, and profiles: `small.yaml` with all features, others with some of them."""
    root = tmp_path_factory.mktemp("profiles")
    content = yaml.safe_load(linking_world.write(root).read_text())
    for name, features in (("one", ["clip_text"]), ("texts", ["clip_text", "text_tokens"])):
        chosen = {feature: content["features"][feature] for feature in features}
        (root / f"{name}.yaml").write_text(yaml.safe_dump({**content, "features": chosen}))
    run(root, "ExtractFeatures", root / "one.yaml", "--features", "clip_text")
    run(root, "ExtractFeatures", root / "texts.yaml", "--features", "text_tokens")
    run(root, "TrainHead", root / "small.yaml", "--method", "fused", *OPTIONS)
    return root


def run(root, command, profile, *options):
    """The command over this data with a profile; its output."""
    places = ("--dataset", "small", "--data-dir", str(root / "data"), "--work-dir", str(root / "work"))
    code, printed = commands.run(command, *places, "--profile", str(profile), *options)
    assert code == 0, printed
    return printed


def runs_of(root, method):
    """Folders of the method's runs, the newest first."""
    listed = (root / "work" / "runs" / "small" / method).glob("[0-9a-f]*")
    return sorted(listed, key=lambda path: -path.stat().st_mtime_ns)


@pytest.mark.parametrize("method", ["mimic", "drin", "dwe", "dsmip", "fused"])
def test_features_of_several_profiles(root, method):
    whole = [path for path in runs_of(root, method) if '"stage"' not in (text := config(path)) or '"gate"' in text]
    linker = Linker.load(whole[0])
    named = {reference for run in linker.run.tree() for each in run.references.values() for reference in each}
    if method in ("mimic", "fused"):  # their texts are under the views that were extracted first
        assert str(root / "one.yaml") in named and str(root / "small.yaml") in named
    found = linker.link("A sentence that is new, about Ann Powers.", "Ann Powers")
    assert found.entities and found.span == (30, 40)


def config(folder):
    return (folder / "config.json").read_text()


def test_the_page_opens_over_such_a_run(root):
    run_of = finished.read(runs_of(root, "fused")[0])
    images = {side: root / "data" / folder for side, folder in run_of.images.items()}
    assert Book.read(run_of, images, "test", Limits(**run_of.limits)).mentions


@pytest.mark.parametrize("change", ["deleted", "other model", "feature gone"])
def test_a_profile_that_was_changed_since_is_not_needed_where_another_gives_the_same(root, tmp_path, change):
    shutil.copytree(root, tmp_path / "world")
    moved = tmp_path / "world"
    for receipt in (moved / "work" / "receipts").glob("*.json"):
        write_sealed(receipt, json.loads(json.dumps(read_sealed(receipt)).replace(str(root), str(moved))))
    one = moved / "one.yaml"
    content = yaml.safe_load(one.read_text())
    if change == "deleted":
        one.unlink()
    elif change == "other model":
        content["features"]["clip_text"]["max_tokens"] = 16
        one.write_text(yaml.safe_dump(content))
    else:
        one.write_text(yaml.safe_dump({"features": {"text_tokens": content["features"]["clip_text"]}}))
    folder = moved / "work" / runs_of(root, "mimic")[0].relative_to(root / "work")
    assert Linker.load(folder).link("About Ann Powers.", "Ann Powers").entities
    for path in [one, moved / "small.yaml", moved / "texts.yaml"]:
        path.unlink(missing_ok=True)
    with pytest.raises(UserError, match="no such profile file"):
        Linker.load(folder)


def test_what_a_wider_profile_has_besides_does_not_change_what_a_run_reads(root):
    """The run knew of texts alone; its feature was extracted by a profile that has pictures as well."""
    narrow = root / "texts.yaml"
    run(root, "TrainHead", narrow, "--method", "mimic", *OPTIONS)
    folder = runs_of(root, "mimic")[0]
    read = finished.read(folder)
    assert "clip_image" not in read.extraction.features
    linker = Linker.load(folder)
    linker.run.references["clip_text"] = (str(root / "small.yaml"),)
    alone, pictured = (linker.link("About Ann Powers.", "Ann Powers", image) for image in (None, root / "none.png"))
    assert alone.entities == pictured.entities and {one.side for one in linker.scorer.inputs} == {"mention", "entity"}
    assert {one.feature for one in linker.scorer.inputs} == {"clip_text"}
