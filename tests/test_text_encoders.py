"""Text encoders read as their authors read them: decoders, sentence-transformers folders, prompts; each against its own
library."""

import json
import re
import shutil
from pathlib import Path

import checkpoints
import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Dropout, LayerNorm, Normalize, Pooling
from test_extractors import TEXTS, call, extractor, loaded

from cache.identity import content_key
from foundation.errors import UserError
from pipeline.extraction import units
from pipeline.models import files as model_files
from pipeline.models import sentence
from pipeline.profiles import profile

LIMITS = {"max_pixels": 1, "max_bytes": 1}
DECODERS = ("Qwen3", "Llama", "GPT2", "Mistral", "Gemma2", "GPTNeoX", "Phi3", "OPT")


def pooling(mode, **options):
    return lambda width: Pooling(width, mode, **options)


def dense(width):
    return Dense(width, 24)


def normalise(width):
    return Normalize()


@pytest.fixture
def bert(saved):
    return saved(checkpoints.bert)


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("first", [None, "<bos>"])
def test_a_decoders_vector_is_the_state_of_its_last_real_token(tmp_path, family, first):
    from transformers import AutoModel, AutoTokenizer

    folder = checkpoints.decoder(tmp_path, family=family, first=first)
    made = loaded("text_tokens", folder)
    assert made.preprocessing() == {"pooling": "last"} and made.limit == 64
    rows = call(made, TEXTS)
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    for row, text in enumerate(TEXTS):
        with torch.inference_mode():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].numpy()
        np.testing.assert_allclose(rows["tokens"][row], states, atol=1e-5)
        np.testing.assert_allclose(rows["pooled"][row], states[-1], atol=1e-5)
    assert len({row.tobytes() for row in rows["pooled"]}) == len(TEXTS)


@pytest.mark.parametrize("family", DECODERS)
def test_a_decoders_first_state_is_refused_in_one_line(tmp_path, family):
    folder = checkpoints.decoder(tmp_path, family=family, first="<bos>")
    with pytest.raises(
        UserError, match=r"`pooling: cls` takes a decoder's first state.*the same for every text"
    ) as error:
        extractor("text_tokens", folder, pooling="cls")
    assert "\n" not in str(error.value)
    assert extractor("text_tokens", folder, pooling="mean").preprocessing() == {"pooling": "mean"}


def test_a_blind_first_state_is_refused_also_where_the_configuration_does_not_tell(tmp_path):
    """A folder of sentence-transformers that pools a decoder by its first token."""
    decoder = checkpoints.decoder(tmp_path / "decoder", first="<bos>", pad=True)
    folder = checkpoints.sentence_model(tmp_path / "sentence", decoder, pooling("cls"))
    with pytest.raises(UserError, match=r"first state sees no other token.*set `pooling: last`") as error:
        loaded("text_tokens", folder)
    assert "\n" not in str(error.value)


def test_an_encoder_built_from_a_decoders_blocks_may_be_read_by_its_first_state(tmp_path):
    """Gemma 3 as an encoder (EmbeddingGemma): its configuration says that attention goes both ways."""
    from transformers import Gemma3TextConfig, Gemma3TextModel

    size = len(checkpoints.letters_tokenizer(tmp_path, first="<bos>"))
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Gemma3TextConfig(
        vocab_size=size, num_key_value_heads=2, head_dim=16, use_bidirectional_attention=True, **sizes
    )
    Gemma3TextModel(config).eval().save_pretrained(tmp_path)
    made = loaded("text_tokens", tmp_path)
    assert made.preprocessing() == {"pooling": "cls"}
    assert len({row.tobytes() for row in call(made, TEXTS)["pooled"]}) == len(TEXTS)


def test_bidirectional_families_with_a_head_for_causal_language_models_are_no_decoders(bert, tmp_path):
    assert extractor("text_tokens", bert).preprocessing() == {"pooling": "cls"}
    for family in ("roberta", "xlm-roberta", "electra", "modernbert", "bert-generation", "t5", "bart", "distilbert"):
        both = {"is_encoder_decoder": family in ("t5", "bart")}
        files = model_files.ModelFiles("m", tmp_path, "transformers", {"model_type": family, **both}, (), ())
        assert not sentence.is_decoder(files), family
    files = model_files.ModelFiles("m", tmp_path, "transformers", {"model_type": "bert", "is_decoder": True}, (), ())
    assert sentence.is_decoder(files)


@pytest.mark.parametrize("mode", ["cls", "mean", "max", "lasttoken", "weightedmean", "mean_sqrt_len_tokens"])
@pytest.mark.parametrize("after", [(), (normalise,), (dense,), (dense, normalise)])
def test_a_sentence_transformers_folder_is_read_as_its_library_reads_it(bert, tmp_path, mode, after):
    folder = checkpoints.sentence_model(tmp_path, bert, pooling(mode), *after)
    made = loaded("text_tokens", folder)
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    rows = call(made, TEXTS)
    np.testing.assert_allclose(rows["pooled"], expected, atol=1e-5)
    assert made.writes["pooled"].shape == expected.shape[1:]
    assert rows["tokens"][0].shape[-1] == 32, "token states stay the transformer's"


def test_several_poolings_are_joined_and_other_modules_are_applied(bert, tmp_path):
    folder = checkpoints.sentence_model(
        tmp_path,
        bert,
        pooling(("mean", "max", "cls")),
        lambda width: LayerNorm(width),
        lambda width: Dropout(0.1),
        dense,
    )
    with torch.no_grad():  # a LayerNorm that is not the identity
        from safetensors.torch import load_file, save_file

        weights = folder / "2_LayerNorm" / "model.safetensors"
        save_file({name: torch.rand_like(value) for name, value in load_file(weights).items()}, weights)
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    made = loaded("text_tokens", folder)
    np.testing.assert_allclose(call(made, TEXTS)["pooled"], expected, atol=1e-5)
    assert made.preprocessing()["pooling"] == ["mean", "max", "cls"]


def test_a_decoder_with_its_own_pooling_is_read_as_its_library_reads_it(tmp_path):
    """As Qwen3-Embedding is saved: the last token, length 1, an instruction before queries."""
    decoder = checkpoints.decoder(tmp_path / "decoder", pad=True)
    prompts = {"query": "Instruct: link\nQuery:", "document": ""}
    folder = checkpoints.sentence_model(tmp_path / "model", decoder, pooling("lasttoken"), normalise, prompts=prompts)
    made, model = loaded("text_tokens", folder), SentenceTransformer(str(folder), device="cpu")
    for side, encode in (("mention", model.encode_query), ("entity", model.encode_document)):
        texts = [made.prompt(side) + text for text in TEXTS]
        np.testing.assert_allclose(call(made, texts)["pooled"], encode(TEXTS), atol=1e-5)
    assert made.prompt("mention") == prompts["query"] and made.prompt("entity") == ""


def older(folder: Path, **switches) -> Path:
    """The folder as sentence-transformers 2 wrote it: pooling by switches, other names of the modules, no task."""
    modules = json.loads((folder / "modules.json").read_text())
    for module in modules:
        module["type"] = f"sentence_transformers.models.{module['type'].rpartition('.')[2]}"
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **switches}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 24, "do_lower_case": True}))
    return folder


def test_an_older_folder_is_read_as_its_library_reads_it(tmp_path):
    """Switches for the pooling, texts lower-cased, a longest text, the transformer in a folder of its own."""
    cased = checkpoints.bert(tmp_path / "cased")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        text = re.sub(r'("(?:lowercase|do_lower_case)"): ?true', r"\1: false", (cased / file).read_text())
        (cased / file).write_text(text)
    capitals, small = call(loaded("text_tokens", cased), ["A SHIP", "a ship"])["pooled"]
    assert not np.allclose(capitals, small), "its tokenizer itself keeps capitals"
    folder = older(
        checkpoints.sentence_model(tmp_path / "model", cased, pooling("mean")),
        pooling_mode_mean_tokens=True,
        pooling_mode_cls_token=True,
    )
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS[1:2])
    made = loaded("text_tokens", folder)
    assert made.limit == 24 and made.preprocessing() == {"pooling": ["cls", "mean"], "lower_case": True}
    np.testing.assert_allclose(call(made, TEXTS[1:2])["pooled"], expected, atol=1e-5)
    upper = call(made, ["A SHIP"])
    np.testing.assert_allclose(upper["pooled"], call(made, ["a ship"])["pooled"], atol=1e-6)
    apart = tmp_path / "apart"
    inner = apart / "0_Transformer"
    inner.mkdir(parents=True)
    for path in folder.iterdir():
        shutil.move(
            path,
            (apart if path.is_dir() or path.name in ("modules.json", "config_sentence_transformers.json") else inner)
            / path.name,
        )
    modules = json.loads((apart / "modules.json").read_text())
    modules[0]["path"] = inner.name
    (apart / "modules.json").write_text(json.dumps(modules))
    np.testing.assert_allclose(call(loaded("text_tokens", apart), TEXTS[1:2])["pooled"], expected, atol=1e-5)


def test_what_the_folder_says_enters_the_identity_only_where_it_is_done(bert, tmp_path):
    """A pooling of the profile's own stands for the whole reading, and its identity stays what it was."""
    folder = checkpoints.sentence_model(tmp_path, bert, pooling("mean"), dense, normalise, prompts={"query": "query: "})
    plain = {pooling: extractor("text_tokens", bert, pooling=pooling).spec(None, LIMITS) for pooling in ("cls", "mean")}
    assert plain["cls"] == extractor("text_tokens", bert).spec(None, LIMITS)
    assert plain["cls"]["preprocessing"] == {"pooling": "cls"} and plain["cls"]["version"] == 2
    own = extractor("text_tokens", folder, pooling="mean").spec(None, LIMITS)
    told = extractor("text_tokens", folder).spec(None, LIMITS)
    for spec in (own, plain["mean"]):
        assert spec["preprocessing"] == {"pooling": "mean"} and len(spec["outputs"][1]["shape"]) == 1
    assert own["weights"] == plain["mean"]["weights"] != told["weights"], "a Dense module's weights decide the vector"
    assert told["preprocessing"] == {
        "pooling": "mean",
        "layers": [
            {"kind": "dense", "in": 32, "out": 24, "bias": True, "activation": "Tanh"},
            {"kind": "normalise"},
        ],
        "prompts": {"mention": "query: "},
    }
    specs = [
        extractor("text_tokens", folder, **options).spec(None, LIMITS)
        for options in (
            {},
            {"pooling": "mean"},
            {"pooling": "mean", "normalise": True},
            {"normalise": False},
            {"prompts": {"mention": "", "entity": ""}},
            {"prompts": {"mention": "query: ", "entity": "passage: "}},
        )
    ]
    assert len({json.dumps(spec, sort_keys=True) for spec in specs}) == len(specs)
    assert extractor("text_tokens", folder, normalise=True).spec(None, LIMITS) == told
    json.dumps(specs)


def test_length_is_an_option_and_a_folders_own_may_be_taken_off(bert, tmp_path):
    folder = checkpoints.sentence_model(tmp_path, bert, pooling("mean"), normalise)
    raw = call(loaded("text_tokens", bert, pooling="mean"), TEXTS)["pooled"]
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    for made, expected in (
        (loaded("text_tokens", bert, pooling="mean", normalise=True), unit),
        (loaded("text_tokens", folder), unit),
        (loaded("text_tokens", folder, normalise=False), raw),
        (loaded("text_tokens", folder, pooling="mean"), raw),
    ):
        np.testing.assert_allclose(call(made, TEXTS)["pooled"], expected, atol=1e-6)


def table(side):
    if side == "mention":
        return {"phrase": ["ship"], "sentence": ["the old ship of the city"], "start": [8], "end": [12]}
    return {"name": ["ship"], "attributes": ["old, red"], "description": [""]}


@pytest.mark.parametrize(("side", "view"), [("mention", "sentence"), ("entity", "name_sep_attributes")])
def test_prompts_stand_before_each_sides_texts_and_leave_the_phrase_in_its_place(bert, side, view):
    prompts = {"mention": "query: ", "entity": "passage: "}
    plain, made = (extractor("text_tokens", bert, pooling="mean", **options) for options in ({}, {"prompts": prompts}))
    before, column = (units.text_column(side, view, table(side), each) for each in (plain, made))
    assert list(column.sources) == [prompts[side] + before.sources[0]]
    assert column.keys[0].tobytes() == content_key("text", column.sources[0])
    if side == "mention":
        start, end = column.span[0]
        assert column.sources[0][start:end] == "ship" == before.sources[0][slice(*before.span[0])]


def test_a_prompts_tokens_count_among_those_that_a_text_may_have(bert):
    text = {"phrase": ["ship"], "sentence": ["a " * 20 + "ship" + " a" * 20], "start": [40], "end": [44]}
    made = extractor("text_tokens", bert, max_tokens=16, prompts={"mention": "query: ", "entity": ""})
    column = units.text_column("mention", "sentence", text, made)
    assert column.texts.cut == 1 and column.sources[0].startswith("query: ") and made.count(column.sources)[0] <= 16
    start, end = column.span[0]
    assert column.sources[0][start:end] == "ship"


def test_prompts_by_their_names_in_the_folder(bert, tmp_path):
    folder = checkpoints.sentence_model(tmp_path / "model", bert, pooling("mean"))
    cases = [
        ({"query": "q: ", "passage": "p: "}, None, ("q: ", "p: ")),
        ({"query": "q: ", "document": "", "passage": "p: "}, None, ("q: ", "p: ")),  # as the library saves the former
        ({"query": "q: ", "document": "d: ", "passage": "p: "}, None, ("q: ", "d: ")),
        ({"query": "q: "}, None, ("q: ", "")),
        ({"query": "q: "}, "query", ("q: ", "")),
        ({"task": "t: "}, "task", ("t: ", "t: ")),
        ({"task": "t: "}, None, ("", "")),
        ({}, None, ("", "")),
    ]
    for prompts, usual, expected in cases:
        said = {"prompts": prompts, "default_prompt_name": usual}
        (folder / "config_sentence_transformers.json").write_text(json.dumps(said))
        made = extractor("text_tokens", folder)
        assert (made.prompt("mention"), made.prompt("entity")) == expected, said


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            ("2_Normalize", "type", "sentence_transformers.models.LSTM"),
            "its modules include sentence_transformers.models.LSTM",
        ),
        (("2_Normalize", "type", "custom.Own"), "its modules include custom.Own"),
        (("", "type", "sentence_transformers.models.WordEmbeddings"), "expected a Transformer"),
    ],
)
def test_a_module_that_is_not_served_is_refused_in_one_line_and_a_pooling_of_ones_own_reads_the_rest(
    bert, tmp_path, change, reason
):
    folder = checkpoints.sentence_model(tmp_path, bert, pooling("mean"), normalise)
    path, key, value = change
    modules = json.loads((folder / "modules.json").read_text())
    next(module for module in modules if module["path"] == path)[key] = value
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UserError, match=f"{reason}.*`pooling:` in the profile") as error:
        extractor("text_tokens", folder)
    assert "\n" not in str(error.value)
    assert extractor("text_tokens", folder, pooling="mean").preprocessing() == {"pooling": "mean"}


def test_a_prompt_left_out_of_the_pooling_and_a_damaged_folder_are_refused(bert, tmp_path):
    folder = checkpoints.sentence_model(
        tmp_path, bert, pooling("mean", include_prompt=False), dense, prompts={"query": "query: "}
    )
    with pytest.raises(UserError, match=r"leaves the prompt out of the pooling.*set `prompts"):
        extractor("text_tokens", folder)
    made = extractor("text_tokens", folder, prompts={"mention": "", "entity": ""})
    assert "prompts" not in made.preprocessing()
    weights = folder / "2_Dense" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:20])
    with pytest.raises(UserError, match="damaged"):
        made.load("cpu")
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "median"}')
    with pytest.raises(UserError, match="its pooling is 'median'"):
        extractor("text_tokens", folder)


@pytest.mark.parametrize("options", [{"pooling": "median"}, {"normalise": "yes"}, {"prompts": {"query": "q: "}}])
def test_options_are_checked(bert, options):
    with pytest.raises(UserError, match=f"{next(iter(options))}.*expected|expected.*{next(iter(options))}"):
        extractor("text_tokens", bert, **options)


def test_a_module_that_changes_is_noticed_and_the_profiles_own_encoder_keeps_its_identity(bert, tmp_path):
    folder = checkpoints.sentence_model(tmp_path, bert, pooling("mean"), dense)
    before = model_files.stamp(str(folder), tmp_path, None)
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "max"}')
    assert model_files.stamp(str(folder), tmp_path, None) != before
    from pipeline.extractors import build

    mini = profile.load("minilm")
    made = build(mini.feature("text_tokens"), mini.source, None)
    assert made.preprocessing() == {"pooling": "mean"} and len(made.files.weights) == 1


def test_a_finished_extraction_of_a_decoder_or_of_a_folder_with_modules_is_checked_again(bert, tmp_path):
    """Its receipt holds rows of the first token; that of another encoder stays as it is."""
    from cache.inputs import Want
    from pipeline.extraction import wants

    folders = {
        "bert": bert,
        "decoder": checkpoints.decoder(tmp_path / "decoder"),
        "modules": checkpoints.sentence_model(tmp_path / "modules", bert, pooling("mean")),
    }
    features = "".join(f"  {name}: {{extractor: text_tokens, model: {folder}}}\n" for name, folder in folders.items())
    features += f"  own: {{extractor: text_tokens, model: {folders['decoder']}, pooling: mean}}\n"
    (tmp_path / "p.yaml").write_text(f"features:\n{features}")
    loaded_profile = profile.load(str(tmp_path / "p.yaml"))
    listed = [Want(side="entity", feature=name, view="name") for name in (*folders, "own")]
    models = wants.request(loaded_profile, listed, None)["models"]
    assert [name for name in models if models[name][-1] == "revised"] == ["decoder"]
    files = {name: [entry[0] for entry in stamp[1:] if len(entry) == 3] for name, stamp in models.items()}
    assert files["modules"].count("config.json") == 2 and files["bert"].count("config.json") == 1


def test_shards_in_the_hubs_local_cache_are_links_and_are_read(bert, tmp_path):
    store, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    shutil.copytree(bert, store)
    snapshot.mkdir(parents=True)
    (store / "model.safetensors").rename(store / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"embeddings.word_embeddings.weight": "model-00001-of-00001.safetensors"}}
    (store / "model.safetensors.index.json").write_text(json.dumps(index))
    for path in store.iterdir():
        (snapshot / path.name).symlink_to(path)
    assert model_files.find(str(snapshot), tmp_path, None).weights[0].is_file()
    index["weight_map"] = {"embeddings.word_embeddings.weight": "../../blobs/model-00001-of-00001.safetensors"}
    (store / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="leaves the folder"):
        model_files.find(str(snapshot), tmp_path, None)


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
GROUPED = {**SIZES, "num_key_value_heads": 2}
T5 = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
FAMILIES = {
    "Albert": ({**SIZES, "embedding_size": 16}, "cls"),
    "DebertaV2": ({**SIZES, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}, "cls"),
    "ModernBert": (SIZES, "cls"),
    "EuroBert": (GROUPED, "cls"),
    "NomicBert": (SIZES, "cls"),
    "MPNet": (SIZES, "cls"),
    "Longformer": ({**SIZES, "attention_window": [8, 8]}, "cls"),
    "MT5": (T5, "cls"),
    "XLNet": ({"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64}, "last"),
    "Mamba": ({"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}, "last"),
    "Bloom": ({"hidden_size": 32, "n_layer": 2, "n_head": 2}, "last"),
    "CTRL": ({"n_embd": 32, "n_layer": 2, "n_head": 2, "dff": 64, "n_positions": 66}, "last"),
    "Gemma3Text": ({**GROUPED, "head_dim": 16}, "last"),
    # Their states show the padding in spite of its mask.
    "FNet": (SIZES, "cls"),
    "Funnel": ({"d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 64, "block_sizes": [1, 1]}, "cls"),
    "ConvBert": ({**SIZES, "embedding_size": 32}, "cls"),
    "Nystromformer": ({**SIZES, "num_landmarks": 8, "segment_means_seq_len": 8}, "cls"),
    "Yoso": (SIZES, "cls"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_states_of_every_family_are_those_of_its_library_on_the_text_alone(tmp_path, family):
    from transformers import AutoModel, AutoTokenizer

    options, mode = FAMILIES[family]
    folder = checkpoints.text_family(tmp_path, family, **options)
    made, tokenizer = loaded("text_tokens", folder), AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    model = model.get_encoder() if model.config.is_encoder_decoder else model
    assert made.preprocessing()["pooling"] == mode and made.limit >= 66
    rows = call(made, TEXTS)
    for row, text in enumerate(TEXTS):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            states = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].numpy()
        np.testing.assert_allclose(rows["tokens"][row], states, atol=1e-5)
        np.testing.assert_allclose(rows["pooled"][row], states[0 if mode == "cls" else -1], atol=1e-5)
        assert rows["offsets"][row].shape == (len(states), 2)
