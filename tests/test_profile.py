"""Profiles and model references: what is refused, and with which line."""

import time

import pytest

from experiments import jobs
from foundation.errors import UserError
from pipeline.extractors import build, check_options
from pipeline.models import files as model_files
from pipeline.profiles import profile

GOOD = "features:\n  clip_text:\n    model: some/model\n"


def write(folder, text):
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", profile.names())
def test_every_shipped_profile_is_read_and_its_options_are_known(name):
    loaded = profile.load(name)
    for feature in loaded.features.values():
        check_options(feature, name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("features: [1", "mine.yaml:1:13: malformed YAML"),
        ("features: !!python/object/apply:os.system [echo]", "malformed YAML"),
        (
            GOOD + "features:\n  mine: {}\n",
            "mine.yaml:4:1: malformed YAML (the key 'features' is given twice in one mapping)",
        ),
        (
            "features:\n  clip_text: {model: a/b, model: a/c}\n",
            "mine.yaml:2:27: malformed YAML (the key 'model' is given twice",
        ),
        (GOOD + "threads: " + "9" * 5000, "malformed YAML (a value that cannot be read"),
        (GOOD + "threads: 2024-13-45", "malformed YAML (a value that cannot be read"),
        (GOOD + "threads: !!timestamp 2024-99-990.01", "malformed YAML (a value that cannot be read"),
        ("[" * 5000, "malformed YAML (nested too deeply)"),
        ("", "no features"),
        ("fetures:\n  a: {}", "unknown key 'fetures'; did you mean 'features'?"),
        ("features:\n  clip_text: 3\n", "expected a mapping"),
        ("features:\n  clip_text:\n    model: a/b\n    views: {mentoin: [x]}\n", "did you mean 'mention'?"),
        ("features:\n  clip_text:\n    model: a/b\n    by_default: maybe\n", "expected true or false"),
        (GOOD + "limits: {max_pixels: -1}\n", "limits.max_pixels = -1: expected more than 0"),
        (GOOD + "limits: {max_pixel: 1}\n", "did you mean 'max_pixels'?"),
        (GOOD + "threads: -1\n", "threads = -1: expected at least 0"),
        (GOOD + "threads: true\n", "threads = True (bool): expected a whole number"),
    ],
)
def test_a_bad_profile_is_one_line_that_names_the_place(tmp_path, text, message):
    with pytest.raises(UserError) as error:
        profile.load(write(tmp_path, text))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_what_a_merge_key_brings_may_be_overridden(tmp_path):
    base = "features:\n  a: &a {extractor: clip_text, views: &v {mention: [x]}, model: m}\n"
    loaded = profile.load(
        write(
            tmp_path,
            base
            + "  b: &b {<<: *a, model: n, views: {<<: *v, entity: [y]}}\n  c: {<<: [*b, *a], extractor: image_vgg}\n",
        )
    )
    assert {name: (loaded.features[name].extractor, loaded.features[name].options["model"]) for name in "abc"} == {
        "a": ("clip_text", "m"),
        "b": ("clip_text", "n"),
        "c": ("image_vgg", "n"),
    }
    assert loaded.features["c"].views == {"mention": ("x",), "entity": ("y",)}


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ("mimik: {}", "mine.yaml: heads.mimik: no such method; did you mean 'mimic'?"),
        ("mimic: {lrr: 3}", "mine.yaml: heads.mimic: unknown key 'lrr'; did you mean 'lr'?"),
        ("mimic: {lr: fast}", "mine.yaml: heads.mimic: lr = 'fast' (str): expected a number"),
        ("mimic: {lr: 0}", "mine.yaml: heads.mimic: lr = 0: expected more than 0"),
    ],
)
def test_bad_head_defaults_are_refused_whichever_head_is_asked_for(tmp_path, heads, message):
    loaded = profile.load(write(tmp_path, f"{GOOD}heads:\n  {heads}\n"))
    for method in ("mimic", "dwe"):
        with pytest.raises(UserError) as error:
            jobs.head_spec(method, "{}", loaded)
        assert message in str(error.value)


def test_an_output_that_a_head_reads_and_the_profile_leaves_out_is_named_before_anything_runs(tmp_path):
    features = "".join(
        f"  {name}: {{model: m{extra}}}\n" for name, extra in (("clip_text", ", outputs: [pooled]"), ("clip_image", ""))
    )
    loaded = profile.load(write(tmp_path, f"features:\n{features}"))
    with pytest.raises(
        UserError,
        match=r"mine.yaml: features.clip_text.outputs: mimic reads tokens too; add it, or leave `outputs` out",
    ):
        jobs.head_spec("mimic", "{}", loaded)
    assert jobs.head_spec("clip", "{}", loaded).wanted, "it reads the pooled vectors alone"


def laughs(levels: int, form: str) -> str:
    """A YAML file of a few lines whose aliases expand to 9 to the power of `levels` values."""
    lines = [form.format(name="a0", parts=", ".join(["x"] * 9 if "[" in form else ["k: 1"]))]
    for level in range(1, levels):
        parts = [f"*a{level - 1}"] * 9 if "[" in form else [f"<<: [{', '.join([f'*a{level - 1}'] * 9)}]"]
        lines.append(form.format(name=f"a{level}", parts=", ".join(parts)))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        laughs(9, "{name}: &{name} [{parts}]"),
        laughs(9, "{name}: &{name} {{{parts}}}"),
        "a: &a [*a]\n",
        "features: " + "x" * 140_000,
    ],
    ids=["lists", "merge keys", "itself", "length"],
)
def test_a_file_that_expands_without_measure_is_refused_at_once(tmp_path, text):
    started = time.process_time()
    with pytest.raises(UserError, match=r"mine.yaml.*malformed YAML .*more than"):
        profile.load(write(tmp_path, text))
    assert time.process_time() - started < 20  # 9 to the power of 9 values would take minutes


def test_aliases_that_expand_within_measure_are_read():
    assert profile.plain_yaml("a: &a [1, 2]\nb: [*a, *a]\n")["b"] == [[1, 2], [1, 2]]


def test_an_unknown_profile_names_the_shipped_ones():
    with pytest.raises(UserError, match=r"did you mean 'paper'.*demo, faces, minilm, paper"):
        profile.load("papr")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("features:\n  clip_text: {}\n", "`model` is missing"),
        ("features:\n  clip_text: {model: a/b, max_token: 9}\n", "did you mean 'max_tokens'?"),
        ("features:\n  clip_text: {model: a/b, max_tokens: 3}\n", "at least 16"),
        ("features:\n  text_tokens: {model: a/b, pooling: middle}\n", "'mean'"),
        ("features:\n  mine: {extractor: clip_txt, model: a/b}\n", "did you mean 'clip_text'?"),
    ],
)
def test_bad_extractor_options_name_the_feature_and_the_right_key(tmp_path, text, message):
    loaded = profile.load(write(tmp_path, text))
    with pytest.raises(UserError) as error:
        check_options(next(iter(loaded.features.values())), "here")
    assert message in str(error.value)


def test_a_model_that_cannot_be_had_says_which_and_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    loaded = profile.load(write(tmp_path, GOOD.replace("some/model", "no-such-owner/no-such-model")))
    with pytest.raises(UserError) as error:
        build(loaded.feature("clip_text"), loaded.source, None)
    assert "'no-such-owner/no-such-model'" in str(error.value) and "hf download no-such-owner/no-such-model" in str(
        error.value
    )
    assert model_files.stamp("no-such-owner/no-such-model", tmp_path, None) == ["no-such-owner/no-such-model"]


@pytest.mark.parametrize(
    "reference", ["package:no_such_package/model", "package:json/../../x", "demo:../x", "./nowhere", "nowhere", "a/b/c"]
)
def test_a_reference_that_leads_nowhere_or_out_is_refused(tmp_path, reference):
    with pytest.raises(UserError) as error:
        model_files.locate(reference, tmp_path, tmp_path)
    assert "\n" not in str(error.value)


def test_a_bare_weight_file_is_found_by_its_own_name_or_alone_in_its_folder(tmp_path):
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "net.onnx").write_bytes(b"1")
    for reference in ("faces/net.onnx", "faces", str(tmp_path / "faces" / "net.onnx")):
        assert model_files.find_file(reference, tmp_path, None, "onnx", (".onnx",)).weights == (
            tmp_path / "faces" / "net.onnx",
        )
    with pytest.raises(UserError, match=r"no .pt file"):
        model_files.find_file("faces/net.onnx", tmp_path, None, "torch", (".pt",))
    with pytest.raises(UserError, match=r"no such file .*other.onnx|other.onnx.*no such file"):
        model_files.find_file("other.onnx", tmp_path, None, "onnx", (".onnx",))
    with pytest.raises(UserError, match="is a file; expected the model's folder"):
        model_files.find("faces/net.onnx", tmp_path, None)
    before = model_files.stamp("faces/net.onnx", tmp_path, None)
    (tmp_path / "faces" / "net.onnx").write_bytes(b"22")
    assert model_files.stamp("faces/net.onnx", tmp_path, None) != before
    (tmp_path / "faces" / "second.onnx").write_bytes(b"1")
    with pytest.raises(UserError, match="holds 2"):
        model_files.find_file("faces", tmp_path, None, "onnx", (".onnx",))


def test_in_the_paper_profile_only_mimic_s_texts_are_cut_to_its_40_tokens():
    from experiments.jobs import head_spec, pair_wants

    loaded = profile.load("paper")
    limits = {name: feature.options.get("max_tokens") for name, feature in loaded.features.items()}
    assert (limits["clip_text"], limits["clip_text_40"]) == (77, 40)
    # clip_layers_text has no option of its own: clip_text's default, CLIP's 77, holds.
    expected = {
        "mimic": {"clip_text_40"},
        "drin": {"clip_text", "text_tokens"},
        "dwe": {"clip_text"},
        "dsmip": {"clip_text", "clip_layers_text"},
        "clip": {"clip_text"},
        "clip_text": {"clip_text"},
    }
    for method, texts in expected.items():
        spec = head_spec(method, "{}", loaded)
        pairs = [want for pair in spec.pairs for want in pair_wants(pair, loaded)]
        read = {want.feature for want in [*spec.extracted, *spec.wants, *pairs]}
        assert {name for name in read if "text" in name} == texts, method
