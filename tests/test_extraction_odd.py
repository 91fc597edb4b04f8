"""Odd inputs of an extraction whose right answer is known, as docs/models.md lists them under "Odd inputs"."""

import json
import shutil

import checkpoints
import numpy as np
import pytest
import small_world
import yaml
from PIL import Image

import mel_cache
from cache.keys import KeyColumn
from cache.store import Store
from foundation.errors import UserError
from foundation.paths import Paths
from pipeline.extraction import wants
from pipeline.extractors import build
from pipeline.profiles.profile import Feature


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Twelve entities: one long word, blank attributes, other scripts, files of the same pixels, pictures of one pixel
    and of a strip."""
    root = tmp_path_factory.mktemp("odd")
    data = small_world.write(root / "data")
    records = [json.loads(line) for line in (data / "entities.jsonl").read_text().splitlines()]
    for number, attributes in enumerate(["x" * 500, "   ", "nul \x00 here", "", "مرحبا 👩‍👩‍👧 क्षि"]):
        records[number]["attributes"] = attributes
    pixels = Image.open(data / "kb" / "e0.png").convert("RGB")
    pixels.save(data / "kb" / "e1.png", compress_level=0)
    pixels.save(data / "kb" / "e2.png", compress_level=9)
    Image.new("RGB", (1, 1), (9, 90, 200)).save(data / "kb" / "e4.png")
    strip = np.random.default_rng(0).integers(0, 255, (1, 4000, 3), dtype=np.uint8)
    Image.fromarray(strip).save(data / "kb" / "e5.png")
    (data / "entities.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return root, small_world.profile(root)


def extract(root, profile, *features, **changes):
    """The extraction of these features. changes: by feature, in its part of the profile."""
    content = yaml.safe_load(profile.read_text())
    for name, options in changes.items():
        content["features"][name] = {**content["features"].get(name, {}), **options}
    path = root / f"profile-{len(list(root.glob('profile-*')))}.yaml"
    path.write_text(yaml.safe_dump(content))
    job = mel_cache.DatasetJob(name="small", data_dir=root / "data", work_dir=root / "work", profile=str(path))
    return mel_cache.extract(mel_cache.FeaturesJob(dataset=mel_cache.prepare(job), features=features)).extraction


def rows(root, extraction, column, output):
    """The rows behind a key column, and which records have one."""
    paths = Paths(root / "work")
    feature = column.split(".")[1]
    keys = KeyColumn.load(paths.root / extraction.columns[column])
    table = keys.table(Store.open(paths.cache / extraction.features[feature].store), output)
    return table.gather(np.arange(len(table))), table.ok


def scaled(root, factor):
    """A BERT whose last LayerNorm multiplies by `factor`."""
    from safetensors.torch import load_file, save_file

    folder = root / f"bert-{factor:g}"
    shutil.copytree(root / "bert", folder)
    state = load_file(folder / "model.safetensors")
    for name in state:
        if ".layer.1.output.LayerNorm" in name:
            state[name] *= factor
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return folder.name


def test_numbers_beyond_half_precision_are_refused_and_those_that_vanish_in_it_are_noticed(world):
    root, profile = world
    beyond = r"text_tokens, output tokens: row \w+ holds a value beyond the range of float16"
    with pytest.raises(UserError, match=beyond):
        extract(root, profile, "text_tokens", text_tokens={"model": scaled(root, 1e7)})
    with pytest.raises(UserError, match=r"text_tokens.\w+, output pooled: all 12 rows are zero"):
        extract(root, profile, "text_tokens", text_tokens={"model": scaled(root, 1e-10)})


def test_one_long_word_is_left_out_and_counted_and_blank_or_foreign_texts_are_rows(world):
    root, profile = world
    column = "entity.clip_text.name_sep_attributes"
    made = extract(root, profile, "clip_text")
    (values, lengths), ok = rows(root, made, column, "tokens")
    assert ok.all() and np.isfinite(values).all() and lengths.max() <= 32
    tokenizer = build(Feature("t", "clip_text", {"model": str(root / "open_clip_model")}, {}, True), root, None)
    name = small_world.entity(0)["name"]
    whole, kept = tokenizer.count([f"{name} [SEP] {'x' * 500}", f"{name} [SEP]"])
    assert lengths[0] == kept and whole > 100
    assert made.texts[column].cut == 1 and made.texts[column].lost == whole - lengths[0]


def test_a_limit_above_the_model_s_own_is_the_model_s_and_an_output_named_twice_is_written_once(world):
    root, profile = world
    made = extract(root, profile, "clip_text", clip_text={"max_tokens": 5000, "outputs": ["pooled", "pooled"]})
    assert {texts.limit for texts in made.texts.values()} == {32}
    store = Store.open(Paths(root / "work").cache / made.features["clip_text"].store)
    assert list(store.outputs) == ["pooled"] and store.spec["outputs"] == [store.outputs["pooled"].to_json()]


def test_files_of_the_same_pixels_are_rows_of_their_own_with_the_same_numbers(world):
    root, profile = world
    made = extract(root, profile, "clip_image")
    values, ok = rows(root, made, "entity.clip_image.image", "pooled")
    assert ok[[0, 1, 2]].all()
    np.testing.assert_array_equal(values[1], values[0])
    np.testing.assert_array_equal(values[2], values[0])
    entity = KeyColumn.load(root / "work" / made.columns["entity.clip_image.image"])
    assert len({bytes(key) for key in entity.keys[:3]}) == 3


def test_a_picture_of_one_pixel_and_a_strip_have_finite_rows(world):
    root, profile = world
    values, ok = rows(root, extract(root, profile, "clip_image"), "entity.clip_image.image", "pooled")
    assert ok[[4, 5]].all() and np.isfinite(values[[4, 5]]).all() and values[[4, 5]].any(1).all()
    flat = build(Feature("i", "clip_image", {"model": str(root / "open_clip_model")}, {}, True), root, None)
    seen = flat.prepare(Image.new("RGB", (1, 1), (9, 90, 200)))
    assert (seen == np.array([9, 90, 200])).all(), "one pixel fills the picture"


def test_a_detector_that_finds_nothing_at_all_is_said(world):
    root, profile = world
    checkpoints.yolo(root / "yolo")
    made = extract(root, profile, "objects", objects={"model": "yolo", "min_confidence": 1.0})
    pictures = made.features["objects"].rows
    assert made.features["objects"].empty == pictures > 20
    assert f"objects found nothing in any of {pictures} pictures" in wants.describe(made).splitlines()


def test_a_kb_of_one_entity_is_a_feature_of_one_row(tmp_path):
    data = small_world.write(tmp_path / "data", mentions=8, entities=1)
    lines = [json.loads(line) for line in (data / "mentions.jsonl").read_text().splitlines()]
    records = [{**record, "gold": "Q0"} for record in lines]
    (data / "mentions.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    checkpoints.bert(tmp_path / "bert")
    made = extract(tmp_path, small_world.profile(tmp_path), "clip_text", "clip_image")
    for column in ("entity.clip_text.name_sep_attributes", "entity.clip_image.image"):
        values, ok = rows(tmp_path, made, column, "pooled")
        assert ok.tolist() == [True] and np.isfinite(values).all() and values.any()


def test_states_between_blocks_of_any_encoder_go_on_to_what_the_encoder_gives(world):
    """`text_tokens@1`: the profile names the encoder once; what stands above block 1 gives its rows."""
    import torch

    from pipeline.models import live
    from pipeline.profiles.profile import load

    root, profile = world
    made = extract(root, profile, "text_tokens", "text_tokens@1", "clip_image@1")
    view = "entity.{}.name_sep_attributes"
    (states, ends), ok = rows(root, made, view.format("text_tokens@1"), "states")
    (whole, _), also = rows(root, made, view.format("text_tokens"), "tokens")
    pooled, _ = rows(root, made, view.format("text_tokens"), "pooled")
    assert ok.any() and (ok == also).all()
    encoder = build(load(str(profile)).feature("text_tokens"), root, None)
    encoder.load("cpu")
    there = np.flatnonzero(ok).tolist()
    cached = [torch.from_numpy(states[row, : ends[row]]).float() for row in there]
    with torch.inference_mode():
        read = live.Live(encoder, 1)(
            torch.nn.utils.rnn.pad_sequence(cached, batch_first=True), [len(row) for row in cached]
        )
    for place, row in enumerate(there):
        np.testing.assert_allclose(read["tokens"][place, : ends[row]], whole[row, : ends[row]], atol=5e-3)
        np.testing.assert_allclose(read["pooled"][place], pooled[row], atol=5e-3)
    pictures, _ = rows(root, made, "entity.clip_image@1.image", "states")
    assert pictures.ndim == 3
    with pytest.raises(UserError, match=r"^profile .* no feature 'text_token@1'; did you mean 'text_tokens'"):
        extract(root, profile, "text_token@1")
    for name, problem in (
        ("text_tokens@x", "no number of a block"),
        ("text_tokens@01", "no number of a block"),
        ("image_pooled@1", "states between blocks"),
    ):
        with pytest.raises(UserError, match=problem):
            extract(root, profile, name)
