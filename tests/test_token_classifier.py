"""Mentions by token classifiers of transformers: small ones, trained here to know some names by their words, and saved
as the library does."""

import json
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch

from foundation.errors import UserError
from linking.texts import by_tokens
from linking.texts.finders import Finder
from linking.texts.recognised import Found

LABELS = ("O", "B-PER", "I-PER", "B-SHIP", "I-SHIP", "B-DATE", "I-DATE")
NAMES = {"noel harrison": "PER", "corsen powers": "PER", "blue ship": "SHIP", "young": "DATE"}
FILLER = ("the old city .", "in a red team ,", "one of the persons - (two)", "and , with", "three persons !")
KINDS = ("bert", "roberta")


def tokenizer(kind: str, folder: Path):
    """WordPiece without case and accents, as BERT's, or BPE over bytes, as RoBERTa's."""
    transformers: Any = import_module("transformers")
    if kind == "bert":
        checkpoints.bert(folder)
        return transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt"), do_lower_case=True, model_max_length=64)
    from tokenizers import ByteLevelBPETokenizer

    trained = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    words = [*FILLER, "noel harr", "ison", " cor", "sen", " powers blue ship young"]
    trained.train_from_iterator(words, 400, min_frequency=1, special_tokens=special, show_progress=False)
    trained.save_model(str(folder))
    return transformers.RobertaTokenizerFast(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=64
    )


def examples() -> list[tuple[str, list[Found]]]:
    """Names between other words, with what is to be found."""
    made = []
    for number in range(60):
        text, wanted = "", []
        for place in range(8):
            text += FILLER[(number * 3 + place) % len(FILLER)] + " "
            name, label = list(NAMES.items())[(number + place * (1 + number % 3)) % len(NAMES)]
            wanted.append(Found(len(text), len(text) + len(name), label))
            text += name + (", " if number % 2 else " ")
        made.append((text.strip(), wanted))
    return made


def label_numbers(offsets, wanted) -> list[int]:
    """The number of each token's label."""
    numbers = []
    for start, end in offsets:
        inside = next((one for one in wanted if start < end and one.start <= start and end <= one.end), None)
        begins = inside is not None and inside.start == start
        numbers.append(LABELS.index(f"{'B' if begins else 'I'}-{inside.label}") if inside else 0)
    return numbers


def trained(kind: str, folder: Path) -> Path:
    transformers: Any = import_module("transformers")
    folder.mkdir()
    torch.manual_seed(0)
    words = tokenizer(kind, folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    more = {"bert": {"max_position_embeddings": 64}, "roberta": {"max_position_embeddings": 66, "pad_token_id": 1}}
    configuration = {"bert": transformers.BertConfig, "roberta": transformers.RobertaConfig}[kind](
        vocab_size=len(words), id2label=dict(enumerate(LABELS)), label2id={}, **sizes, **more[kind]
    )
    model = transformers.AutoModelForTokenClassification.from_config(configuration)
    texts, wanted = zip(*examples(), strict=True)
    encoded = words(list(texts), padding=True, truncation=True, return_offsets_mapping=True, return_tensors="pt")
    offsets = encoded.pop("offset_mapping").tolist()
    numbers = torch.tensor([label_numbers(*pair) for pair in zip(offsets, wanted, strict=True)])
    numbers[encoded["attention_mask"] == 0] = -100
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    for _ in range(150):
        optimizer.zero_grad()
        loss = model(**encoded, labels=numbers).loss
        loss.backward()
        optimizer.step()
        if loss < 0.005:
            break
    assert loss < 0.05, "the names were not learned, so nothing here would be told"
    model.eval().save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=KINDS)
def model(request, tmp_path_factory) -> Path:
    return trained(request.param, tmp_path_factory.mktemp(request.param) / "model")


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    return trained("bert", tmp_path_factory.mktemp("one") / "model")


def words_of(text: str, finder: Finder) -> list[tuple[str, str]]:
    (spans,) = finder.find([text])
    return [(text[one.start : one.end], one.label) for one in spans.found]


def test_names_are_found_with_the_texts_own_offsets_and_dates_left_out(model):
    text = "in a red team, noel harrison, and corsen powers of the blue ship, young."
    finder = Finder(str(model))
    assert words_of(text, finder) == [("noel harrison", "PER"), ("corsen powers", "PER"), ("blue ship", "SHIP")]
    assert words_of(text, Finder(str(model), ("SHIP", "DATE"))) == [("blue ship", "SHIP"), ("young", "DATE")]
    assert finder.find(["", " \n "])[0].found == ()
    (spans,) = finder.find(["noel harrison. corsen powers."])
    assert spans.sentences == ((0, 14), (15, 29))


def test_offsets_hold_behind_letters_of_several_bytes_accents_and_scripts(bert):
    for before in ("🚢🚢 ", "日本語、", "na\u0308chste Zeile\r\n", "\u202e\u05e9\u05dc\u05d5\u05dd ", "हिन्दी "):
        text = f"{before}NOEL HARRISON and Çorsén Po\u0308wers, Noël Hàrrisón"
        found = words_of(text, Finder(str(bert)))
        assert found[-1] == ("Noël Hàrrisón", "PER") and ("NOEL HARRISON", "PER") in found
        assert ("Çorsén Po\u0308wers", "PER") in found


def test_a_text_longer_than_the_model_reads_is_read_in_windows_and_no_name_is_cut(model):
    finder = Finder(str(model))
    assert finder.recogniser.window <= 64
    for shift in (0, 1, 2, 3, 5, 8):
        text = "the old city . " * shift + "noel harrison, " * 40 + "in a red team , corsen powers"
        (spans,) = finder.find([text])
        wanted = [*["noel harrison"] * 40, "corsen powers"]
        assert [text[one.start : one.end] for one in spans.found] == wanted and spans.left_out == 0


def test_many_texts_at_once_are_read_as_each_alone(model):
    finder = Finder(str(model))
    texts = [text for text, _ in examples()[:20]] + ["the old city . " * 50 + "corsen powers"]
    assert finder.find(texts) == [finder.find([text])[0] for text in texts]


def test_spans_are_those_of_the_librarys_own_pipeline(bert):
    transformers: Any = import_module("transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = transformers.pipeline(
            "token-classification", model=str(bert), aggregation_strategy="first", device="cpu"
        )
        for text in (text[:160] for text, _ in examples()[:30]):
            (read,) = Finder(str(bert)).recogniser.read([text])
            found = {Found(one["start"], one["end"], one["entity_group"]) for one in theirs(text)}
            assert read.spans == found and len(found) >= 4


@pytest.mark.parametrize(
    ("text", "labels", "wanted"),
    [
        ("Corsen sang", {(0, 3): "B-PER", (3, 6): "O", (7, 11): "O"}, [(0, 6, "PER")]),
        ("Corsen, x", {(0, 3): "O", (3, 6): "I-PER", (6, 7): "O", (8, 9): "I-PER"}, [(8, 9, "PER")]),
        ("A B", {(0, 1): "B-PER", (2, 3): "B-PER"}, [(0, 1, "PER"), (2, 3, "PER")]),
        ("A B", {(0, 1): "PER", (1, 2): "O", (2, 3): "PER"}, [(0, 3, "PER")]),
        ("A, B", {(0, 1): "I-PER", (1, 2): "O", (3, 4): "I-ORG"}, [(0, 1, "PER"), (3, 4, "ORG")]),
        ("東京都は", {(0, 1): "B-LOC", (1, 3): "I-LOC", (3, 4): "O"}, [(0, 3, "LOC")]),
        ("서울에", {(0, 2): "B-LOC", (2, 3): "O"}, [(0, 2, "LOC")]),
        ("हिन्दी", {(0, 2): "B-X", (2, 4): "O", (4, 6): "O"}, [(0, 6, "X")]),
        ("🚢 x", {(0, 1): "B-X", (2, 3): "O"}, [(0, 1, "X")]),
        ("", {}, []),
    ],
)
def test_a_word_has_the_label_of_its_first_token(text, labels, wanted):
    assert by_tokens.spans(text, labels) == [Found(*one) for one in wanted]


def changed(model: Path, folder: Path, **more) -> str:
    """A copy of a model with another configuration. A value of None is taken out."""
    folder.mkdir()
    for path in model.iterdir():
        if path.name != "config.json":
            (folder / path.name).write_bytes(path.read_bytes())
    content = {**json.loads((model / "config.json").read_text()), **more}
    (folder / "config.json").write_text(
        json.dumps({name: value for name, value in content.items() if value is not None})
    )
    return str(folder)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"architectures": ["BertModel"]}, r"no token classifier.*BertModel.*AutoModelForTokenClassification"),
        ({"architectures": None}, "no token classifier"),
        ({"architectures": 7}, "no token classifier"),
        ({"id2label": {str(n): f"LABEL_{n}" for n in range(7)}, "label2id": None}, r"LABEL_0.*have no O"),
        ({"num_hidden_layers": 3}, r"lacks \d+ parameters"),
        ({"max_position_embeddings": 4}, "model"),
        ({"auto_map": {"AutoModel": "x.y"}}, "brings code of its own"),
        ({"num_hidden_layers": 10**7}, "expected at most"),
    ],
)
def test_a_folder_that_is_no_token_classifier_is_said_in_one_line(bert, tmp_path, more, words):
    with pytest.raises(UserError, match=words) as refused:
        Finder(changed(bert, tmp_path / "changed", **more))
    assert "\n" not in str(refused.value)


def test_a_label_that_the_model_has_not_is_named_with_the_nearest(bert):
    with pytest.raises(UserError, match=r"--labels 'PRE': .* has no such label; did you mean 'PER'"):
        Finder(str(bert), ("PRE",))
