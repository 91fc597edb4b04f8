"""The look at rows after extraction: what ends a run, what does not, and what it says."""

import json
import shutil
from pathlib import Path
from typing import ClassVar

import commands
import numpy as np
import pytest
import small_world
import torch
import yaml
from PIL import Image

import mel_cache
from cache.identity import Output, content_key
from cache.inputs import Want
from cache.store import Store
from foundation.errors import UserError
from foundation.paths import Paths
from pipeline.datasets.images import DEFAULT_LIMITS, image_key
from pipeline.extraction import base, guard
from pipeline.extraction.contracts import Extraction
from pipeline.extraction.units import Picture, UnitColumn, _column

WANT = Want(side="entity", feature="mine", view="name")


class Mine(base.TextExtractor):
    VERSION = 1
    limit = 100

    def __init__(self, output):
        super().__init__(base.Options(model="m"), None)
        self.output = output

    def possible(self):
        return {self.output.name: self.output}

    def labels(self):
        return {"gender": ["a", "b"]} if self.output.name == "gender" else {}

    def count(self, strings):
        return [1 for _ in strings]

    def load(self, device):
        raise NotImplementedError

    __call__ = load


def looked_at(tmp_path, rows, output=None, texts=None, extractor=None):
    """What the guard says of these rows, of as many texts."""
    output = output or Output("pooled", np.shape(rows)[1:], "float32")
    made = extractor or Mine(output)
    texts = texts or [f"text {number}" for number in range(len(rows))]
    keys = [content_key("text", text) for text in texts]
    store = Store.create(tmp_path, "mine", {"outputs": [output.to_json()], "rows": content_key("x", repr(rows)).hex()})
    distinct = dict(zip(keys, rows, strict=True))
    order = np.frombuffer(b"".join(distinct), np.uint8).reshape(-1, 16)
    if distinct:
        store.add(order, np.zeros(len(order), np.uint8), [""] * len(order), {output.name: list(distinct.values())})
    lines = guard.problems(WANT, _column(keys, list(texts)), store, made, DEFAULT_LIMITS)
    return [f"{line}; {guard.remedy(made)}" for line in lines]


def test_rows_that_differ_are_right_and_equal_zero_or_nearly_equal_ones_are_not(tmp_path):
    random = np.random.default_rng(0)
    rows = random.normal(size=(300, 32)).astype(np.float32)
    assert looked_at(tmp_path, rows) == []
    (line,) = looked_at(tmp_path, np.repeat(rows[:1], 300, 0))
    assert line == (
        "entity.mine.name, output pooled: all 256 rows are equal; look at the model's pooling, tokenizer and weights"
    )
    assert "all 20 rows are zero;" in looked_at(tmp_path, np.zeros((20, 32), np.float32))[0]
    # Variance as a share of the mean square is e² for rows v + e·n with |v|² = |n|² = 32 on average.
    base_row = rows[:1]
    square = float((base_row**2).mean())
    for share, wrong in ((1e-9, True), (5e-8, True), (5e-7, False), (1e-2, False)):
        near = base_row + np.sqrt(share * square) * random.normal(size=(200, 32))
        found = looked_at(tmp_path, near.astype(np.float32))
        assert bool(found) == wrong, share
        assert not wrong or "200 rows hardly differ (variance" in found[0]


def test_a_row_alone_few_rows_and_the_same_inputs_are_no_collapse(tmp_path):
    row = np.full((1, 32), 0.5, np.float32)
    assert looked_at(tmp_path, row) == [] and looked_at(tmp_path, 0 * row) == []
    assert looked_at(tmp_path, np.repeat(row, 5, 0), texts=["a"] * 5) == [], "one key"
    assert looked_at(tmp_path, np.repeat(row, 4, 0), texts=["Zoé", "zoe", " ZOE\n", "Zoe\u0301"]) == []
    assert looked_at(tmp_path, np.repeat(row, 2, 0), texts=["Zoé", "Zoo"]), "two inputs that differ"
    near = row + np.float32([[0], [1e-6]])
    assert looked_at(tmp_path, near) == [], "two rows that hardly differ may come of two inputs that hardly do"
    assert looked_at(tmp_path, row[:0]) == []


def test_small_outputs_and_probabilities_may_be_alike_in_a_few_rows_and_numbers_alone_always(tmp_path):
    sure = np.repeat(np.float32([[0, 1]]), 40, 0)
    gender = Output("gender", (2,), "float32")
    assert "all 40 rows are equal" in looked_at(tmp_path, sure, gender)[0]
    assert looked_at(tmp_path, sure[:15], gender) == []
    nearly = sure + np.linspace(0, 1e-6, 40, dtype=np.float32)[:, None] * np.float32([1, -1])
    assert looked_at(tmp_path, nearly, gender) == [], "a classifier may be sure of everyone"
    assert looked_at(tmp_path, np.ones(40, np.float32), Output("confidence", (), "float32")) == []
    assert looked_at(tmp_path, np.ones((40, 32), np.int32), Output("ids", (32,), "int32")) == []


def test_ragged_rows_count_by_the_mean_of_their_steps_and_empty_ones_do_not_count(tmp_path):
    step = np.random.default_rng(1).normal(size=(1, 16)).astype(np.float32)
    rows = [np.repeat(step, 1 + number % 4, 0) for number in range(40)]
    tokens = Output("tokens", (16,), "float32", ragged=True)
    assert (
        "all 40 rows are equal" in looked_at(tmp_path, rows, tokens)[0]
        or "hardly differ" in looked_at(tmp_path, rows, tokens)[0]
    )
    assert looked_at(tmp_path, [row[:0] for row in rows[:-1]] + rows[-1:], tokens) == []
    assert looked_at(tmp_path, [row * number for number, row in enumerate(rows)], tokens) == []


def test_numbers_that_are_not_finite_are_counted(tmp_path, monkeypatch):
    """The store refuses them, so they can only come from files that something else wrote."""
    rows = np.random.default_rng(0).normal(size=(30, 32)).astype(np.float32)
    original = guard.Table.gather

    def damaged(table, index):
        values = np.array(original(table, index))
        values[3, 5], values[7, 0] = np.nan, np.inf
        return values

    monkeypatch.setattr(guard.Table, "gather", damaged)
    (line,) = looked_at(tmp_path, rows)
    assert "2 of 30 rows hold NaN or infinity" in line


def test_pictures_of_the_same_pixels_are_the_same_input(tmp_path):
    class Seeing(base.ImageExtractor):
        VERSION = 1
        possible = load = __call__ = None
        writes: ClassVar = {"pooled": Output("pooled", (32,), "float32")}

        def prepare(self, image):
            return np.asarray(image.resize((4, 4)))

    pixels = np.random.default_rng(0).integers(0, 255, (30, 30, 3), dtype=np.uint8)
    files = [tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c.bmp", tmp_path / "other.png"]
    for number, file in enumerate(files[:3]):
        Image.fromarray(pixels).save(file, **({"compress_level": 9 * number} if file.suffix == ".png" else {}))
    Image.fromarray(255 - pixels).save(files[3])
    sources = [Picture(str(file), image_key(file.read_bytes())) for file in files]
    assert len({source.key for source in sources}) == 4
    output = Seeing.writes["pooled"]
    store = Store.create(tmp_path / "cache", "mine", {"outputs": [output.to_json()]})
    keys = np.frombuffer(b"".join(source.key for source in sources), np.uint8).reshape(-1, 16)
    store.add(keys, np.zeros(4, np.uint8), [""] * 4, {"pooled": np.ones((4, 32), np.float32)})
    seeing = Seeing(base.Options(model="m"), None)

    def column(*chosen) -> UnitColumn:
        return _column([sources[i].key for i in chosen], [sources[i] for i in chosen])

    assert guard.problems(WANT, column(0, 1, 2), store, seeing, DEFAULT_LIMITS) == []
    (line,) = guard.problems(WANT, column(0, 1, 2, 3), store, seeing, DEFAULT_LIMITS)
    assert line.endswith("all 4 rows are equal")
    assert guard.remedy(seeing) == "look at the model's preprocessing and weights"


# New rows, however few


def known_rows(tmp_path, rows, name="known"):
    output = Output("pooled", rows.shape[1:], "float32")
    keys = [content_key("text", f"{name} {number}") for number in range(len(rows))]
    store = Store.create(tmp_path, "mine", {"outputs": [output.to_json()]})
    store.add(
        np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16),
        np.zeros(len(rows), np.uint8),
        [""] * len(rows),
        {"pooled": rows},
    )
    return store, keys


def test_a_row_is_unlike_known_ones_where_it_is_zero_or_three_times_as_far_as_the_farthest(tmp_path):
    known = np.concatenate([np.eye(16), -np.eye(16)]).astype(np.float32)  # mean 0, all at distance 1
    store, keys = known_rows(tmp_path, known)
    (spread,) = guard.spreads(_column(keys, keys), store, store.outputs).values()
    assert not spread.mean.any() and spread.most == 1
    new = np.float32([[factor] + [0] * 15 for factor in (0.1, 1, 2.9, 3.1, 100, 0)])
    store, more = known_rows(tmp_path, new, "new")
    assert guard.unlike(_column(more, more), store, {"pooled": spread}).tolist() == [False] * 3 + [True] * 3
    several = _column(more, more, [2, 0, 2, 2])  # of records with several texts, one is enough
    assert guard.unlike(several, store, {"pooled": spread}).tolist() == [False, False, True, True]


def test_rows_elsewhere_are_not_unlike_known_ones_that_lie_close_together(tmp_path):
    """As those of a data set whose texts are all alike: 16 rows at 40 from zero, 1 from their mean."""
    store, keys = known_rows(tmp_path, 10 + np.eye(16, dtype=np.float32))
    known = guard.spreads(_column(keys, keys), store, store.outputs)
    new = np.float32([[10] * 16, [-10] * 16, [10, -10] * 8, [50] * 16])
    store, more = known_rows(tmp_path, new, "new")
    assert guard.unlike(_column(more, more), store, known).tolist() == [False, False, False, True]


def test_nothing_is_unlike_rows_that_are_few_or_equal_or_of_which_one_is_zero(tmp_path):
    rows = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    for number, known in enumerate((rows[:15], np.ones_like(rows), np.concatenate([rows, 0 * rows[:1]]))):
        store, keys = known_rows(tmp_path / str(number), known)
        assert guard.spreads(_column(keys, keys), store, store.outputs) == {}
    tokens = Output("tokens", (16,), "float32", ragged=True)
    assert guard.spreads(_column(keys, keys), store, {"tokens": tokens, "small": Output("small", (3,))}) == {}


def test_what_earlier_versions_accepted_is_read():
    line = "entity.mine.name, output pooled: all 20 rows are equal; look at the model's weights, or keep the rows"
    result = {**Extraction().to_receipt(), "accepted": [line, line.replace("pooled", "tokens")]}
    kept = {"entity.mine.name": tuple(part.partition("; ")[0] for part in result["accepted"])}
    assert Extraction.of_receipt(result).accepted == kept
    again = Extraction.of_receipt(Extraction.of_receipt(result).to_receipt())
    assert again.accepted == kept


# With a real model


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A dataset, and a CLIP whose last LayerNorm of texts forgets what it reads: its bias is all that is left."""
    root = tmp_path_factory.mktemp("guard")
    small_world.write(root / "data")
    profile = small_world.profile(root)
    constant = shutil.copytree(root / "open_clip_model", root / "constant")
    from safetensors.torch import load_file, save_file

    (file,) = constant.glob("*.safetensors")
    state = load_file(file)
    state["ln_final.weight"].zero_()
    state["ln_final.bias"].copy_(torch.arange(1, 1 + len(state["ln_final.bias"])) / 10)
    save_file(state, file)
    content = yaml.safe_load(profile.read_text())
    content["features"]["clip_text"]["model"] = "constant"
    profile.write_text(yaml.safe_dump(content))
    return mel_cache.DatasetJob(name="small", data_dir=root / "data", work_dir=root / "work", profile=str(profile))


def extract(job, *features, accept=()):
    job = mel_cache.DatasetJob(**{**vars(job), "runtime": mel_cache.Runtime(accept=accept)})
    return mel_cache.extract(mel_cache.FeaturesJob(dataset=mel_cache.prepare(job), features=features))


def test_a_model_that_gives_one_row_ends_the_extraction_and_its_rows_stay_unless_accepted(job):
    with pytest.raises(UserError) as error:
        extract(job, "clip_text", "text_tokens")
    lines = str(error.value).splitlines()
    assert len(lines) == 4 and all("clip_text" in line and "--accept clip_text" in line for line in lines)
    assert lines[0].startswith("entity.clip_text.name_sep_attributes, output tokens: all 12 rows are equal; ")
    assert not list((job.work_dir / "receipts").glob("ExtractFeatures-*"))
    (store,) = (Store.open(path) for path in (job.work_dir / "cache").glob("clip_text-*"))
    rows = store.rows
    assert rows > 40
    found = extract(job, "clip_text", "text_tokens", accept=("clip_text",))
    assert found.extraction.features["clip_text"].extracted == 0, "what was extracted is used"
    assert "kept although mention.clip_text.mention_sep_sentence, output pooled: all 40 rows are equal" in found.text
    assert "text_tokens.name" not in found.text.replace("\n", " ").partition("kept")[2]
    again = extract(job, "clip_text", "text_tokens")
    assert again.text == found.text, "accepted once, for this receipt"


def test_rows_stored_earlier_are_looked_at_too(job):
    extract(job, "clip_text", accept=("clip_text",))
    for path in Paths(job.work_dir).receipts.glob("Extract*"):
        path.unlink()
    with pytest.raises(UserError, match="all 40 rows are equal"):
        extract(job, "clip_text")


def test_an_accepted_feature_that_the_profile_lacks_is_refused(job):
    with pytest.raises(UserError, match=r"no feature 'clip_txt'; did you mean 'clip_text'"):
        extract(job, "text_tokens", accept=("clip_txt",))


def test_the_command_takes_the_same_option(job):
    arguments = ["--features", "clip_text", "--work-dir", str(job.work_dir / "command"), "--dataset", "small"]
    arguments += ["--data-dir", str(job.data_dir), "--profile", job.profile]
    code, said = commands.run("ExtractFeatures", *arguments)
    assert code != 0 and "output pooled: all 40 rows are equal" in said and "Traceback" not in said
    code, said = commands.run("ExtractFeatures", *arguments, "--accept", "clip_text")
    assert code == 0 and "kept although mention.clip_text" in said, said
    receipts = list((job.work_dir / "command" / "receipts").glob("ExtractGroup-*"))
    assert json.loads(Path(receipts[0]).read_text())["result"]["accepted"]
