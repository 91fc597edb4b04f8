"""Raw texts linked: spans that spaCy finds, overlaps, contexts, outputs in two formats, and what is measured."""

import json
import re

import commands
import linking_world
import pytest
import small_world
import spacy

import mel_cache
from foundation.errors import UserError
from linking import Hints, Linker
from linking.linker import Linked, Ranked
from linking.texts import brat, incoming
from linking.texts.contracts import TextJob
from linking.texts.evaluate import Answered, Evaluation
from linking.texts.finders import Finder, context, without_overlaps
from linking.texts.incoming import Annotation
from linking.texts.link import TextLinker
from linking.texts.recognised import Found

PATTERNS = [
    *({"label": "PERSON", "pattern": name} for name in ("Ann Powers", "Noel Harrison", "Zed")),
    {"label": "SHIP", "pattern": [{"LOWER": "blue"}, {"IS_SPACE": True, "OP": "?"}, {"LOWER": "ship"}]},
    {"label": "DATE", "pattern": "1942"},
]


def pipeline(folder, sentences=False, **settings):
    """A spaCy pipeline on disk that finds the names of `PATTERNS`."""
    nlp = spacy.blank("en")
    if sentences:
        nlp.add_pipe("sentencizer")
    nlp.add_pipe("entity_ruler", config=settings).add_patterns(PATTERNS)
    nlp.to_disk(folder)
    return str(folder)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Folder of the data, the run, and a pipeline."""
    root = tmp_path_factory.mktemp("texts")
    small_world.write(root / "data", mentions=60)
    with pytest.MonkeyPatch.context() as patch:
        return root, linking_world.train(root, patch, "mimic")["mimic"], pipeline(root / "ner")


def found(*spans):
    return [Found(*span) for span in spans]


def test_of_spans_that_overlap_the_longest_stays_then_the_first():
    spans = found((0, 5, "A"), (3, 9, "B"), (8, 12, "C"), (12, 15, "A"), (12, 15, "B"), (20, 25, "A"), (24, 29, "B"))
    assert without_overlaps(spans) == (Found(3, 9, "B"), Found(12, 15, "A"), Found(20, 25, "A"))
    nested = found((0, 30, "A"), *((n, n + 2, "B") for n in range(0, 30, 2)), (30, 31, "C"))
    assert without_overlaps(reversed(nested)) == (Found(0, 30, "A"), Found(30, 31, "C"))
    many = found(*((n, n + 3, "A") for n in range(50_000)))
    assert len(without_overlaps(many)) == 16_667


def test_the_context_is_the_sentence_or_a_window_of_whole_words():
    text = "One sentence. Ann Powers sang here. A third one."
    sentences = [(0, 13), (14, 35), (36, 48)]
    start, end = context(text, Found(14, 24, "P"), sentences, 100)
    assert text[start:end] == "Ann Powers sang here."
    start, end = context(text, Found(8, 24, "P"), sentences, 100)
    assert text[start:end] == "One sentence. Ann Powers sang here."
    long = "word " * 500 + "Ann Powers" + " word" * 500
    at = long.index("Ann")
    start, end = context(long, Found(at, at + 10, "P"), [(0, len(long))], 100)
    assert re.fullmatch(r"(word )*Ann Powers( word)*", long[start:end]) and 80 <= end - start <= 100
    whole = "x" * 900
    assert context(whole, Found(100, 800, "P"), [(0, 900)], 50) == (100, 800)


def test_spans_are_those_of_the_pipeline_without_numbers_and_blanks(world, tmp_path):
    finder = Finder(world[2])
    (spans,) = finder.find(["In 1942 Ann Powers met Noel Harrison. She left on the Blue Ship."])
    assert [(one.start, one.end, one.label) for one in spans.found] == [
        (8, 18, "PERSON"),
        (23, 36, "PERSON"),
        (54, 63, "SHIP"),
    ]
    assert spans.sentences == ((0, 37), (38, 64))
    (ships,) = Finder(world[2], ("SHIP", "DATE")).find(["In 1942 Ann Powers saw the blue ship."])
    assert [one.label for one in ships.found] == ["DATE", "SHIP"]
    own = Finder(pipeline(tmp_path / "own", sentences=True))
    assert own.recogniser.nlp.pipe_names.count("sentencizer") == 1


@pytest.mark.parametrize(
    "place, labels, words",
    [
        ("nowhere", (), "no such folder"),
        (".", (), "no config.cfg or config.json there"),
        ("broken", (), "cannot be loaded"),
        ("blank", (), "finds nothing"),
        ("good", ("PRESON",), "did you mean 'PERSON'"),
    ],
)
def test_what_finds_no_mentions_is_said_in_one_line(tmp_path, place, labels, words):
    spacy.blank("en").to_disk(tmp_path / "blank")
    pipeline(tmp_path / "good")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.cfg").write_text("[nlp]\nlang = 7\n[components.x]\nfactory = os.system\n")
    with pytest.raises(UserError, match=words) as refused:
        Finder(str(tmp_path / place) if place != "nowhere" else str(tmp_path / "no" / "such" / "folder"), labels)
    assert "\n" not in str(refused.value)


def test_a_mention_of_a_text_is_linked_as_in_its_sentence_alone(world):
    root, run, ner = world
    linker = Linker.load(run, cache=False)
    picture = root / "data" / "mentions" / "m0.png"
    text = "Nobody knew. Ann Powers was seen in the green city. Then Zed came."
    linked = TextLinker(linker, Finder(ner)).link(text, picture)
    (_, answer), (other, _) = linked.mentions
    alone = linker.link("Ann Powers was seen in the green city.", "Ann Powers", picture, hints=Hints(span=(0, 10)))
    assert [one.id for one in answer.entities] == [one.id for one in alone.entities]
    assert answer.confidence == pytest.approx(alone.confidence, abs=1e-4) and answer.picture == alone.picture == "ok"
    assert text[other.start : other.end] == "Zed"
    first = linked.to_json()[0]
    assert (first["start"], first["end"], first["label"]) == (13, 23, "PERSON") and "span" not in first


def linked(world, folder, lines, **options):
    (folder / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    named = {"run": world[1], "ner": world[2], "input": folder / "texts.jsonl", "output": folder / "out.jsonl"}
    result = mel_cache.link_text(TextJob(**{**named, **options}))
    return result, [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]


TEXTS = [
    {"id": "a/b", "text": "Ann Powers met Zed.", "mentions": [{"start": 0, "end": 10, "gold": "Q0"}]},
    {"text": "No name at all."},
    {"text": "On the Blue\nShip with Noel Harrison.", "image": "mentions/m0.png"},
    {"text": "Zed.", "mentions": [{"start": 0, "end": 3, "gold": None}]},
    {"text": "Ann.", "mentions": [{"start": 0, "end": 9, "gold": "Q0"}]},
    {"text": "Ann.", "image": "../../etc/passwd"},
    {"txt": "Ann."},
    {"text": " "},
]


def test_texts_are_linked_in_order_measured_and_annotated(world, tmp_path):
    (tmp_path / "ann").mkdir()
    result, answers = linked(
        world, tmp_path, TEXTS, images=world[0] / "data", annotations=tmp_path / "ann", chunk=2, top_k=2
    )
    assert [(one["line"], one["id"]) for one in answers] == [(1, "a/b"), (2, "2"), (3, "3"), (4, "4")]
    assert [len(one["mentions"]) for one in answers] == [2, 0, 2, 1]
    for one in answers:
        for mention in one["mentions"]:
            assert one["text"][mention["start"] : mention["end"]] == mention["mention"]
            assert len(mention["entities"]) == 2 and isinstance(mention["nil"], bool)
    assert [one["picture"] for one in answers[2]["mentions"]] == ["ok", "ok"]
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "out.jsonl.rejects.jsonl").read_text().splitlines()]
    assert [reason.split()[0] for reason in reasons] == ["mention", "path", "unknown", "field"]
    counts, evaluation = result.summary.counts, result.summary.evaluation
    assert (counts.mentions, counts.refused, result.summary.texts) == (5, 4, 4)
    assert (evaluation.texts, evaluation.mentions.found, evaluation.mentions.gold) == (2, 3, 2)
    assert evaluation.mentions.right == 2 and evaluation.links.gold == 1
    assert "end to end, 2 annotated texts" in result.text and "recall 100.0 %" in result.text
    names = sorted(path.name for path in (tmp_path / "ann").iterdir())
    assert names == sorted([*(f"{stem}.{end}" for stem in ("a%2Fb", "2", "3", "4") for end in ("txt", "ann")),
                            "annotation.conf"])  # fmt: skip
    assert (tmp_path / "ann" / "3.txt").read_bytes() == b"On the Blue\nShip with Noel Harrison."
    assert "PERSON\nSHIP" in (tmp_path / "ann" / "annotation.conf").read_text()
    lines = (tmp_path / "ann" / "3.ann").read_text().splitlines()
    assert lines[0] == "T1\tSHIP 7 11;12 16\tBlue Ship" and any(line.startswith("T2\tPERSON 22 35\t") for line in lines)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"text": "x" * 100_001}, r"field 'text' holds str 'x+, expected at most 100,000 characters"),
        ({"text": "x" * 20_000_000}, "longer than"),
        ({"text": "Ann", "mentions": [{"start": 1}]}, "item 1 of field 'mentions': 'end': field required"),
        ({"text": "Ann", "mentions": [{"start": 0, "end": 1, "x": 1}]}, "item 1 of field 'mentions': 'x': extra"),
        ({"text": "Ann", "mentions": [{"start": 0, "end": 1}, 7]}, "item 2 of field 'mentions': it: input should be"),
        (
            {"text": "Ann", "mentions": [{"start": 0.5, "end": 1}]},
            "item 1 of field 'mentions': 'start': input should be",
        ),
        ({"text": "Ann", "mentions": [{"start": -1, "end": 1}]}, r"mention -1\.\.1 lies outside"),
        ({"text": "Ann", "mentions": 7}, "field 'mentions' holds int 7, expected a list of start, end and gold"),
        ([{"text": "Ann"}], "found list, expected an object"),
        ({"text": "\ud800"}, "half of a surrogate pair"),
        ({"text": "Ann", "image": "/etc/passwd"}, "leaves the folder|path"),
    ],
)
def test_a_line_that_cannot_be_used_is_said_and_the_next_is_read_as_it_stands(tmp_path, line, reason):
    path, odd = tmp_path / "texts.jsonl", "<script>alert(1)</script> {{ 7 }}\u202e Ann"
    path.write_text(json.dumps(line) + "\n" + json.dumps({"text": odd}) + "\n")
    first, second = incoming.read(path, tmp_path)
    assert first.value is None and re.search(reason, first.reason) and len(first.reason) < 250
    assert second.value.text == odd


def test_the_texts_of_the_runs_own_dataset_are_measured(world, tmp_path):
    result, answers = linked(world, tmp_path, [], input=None, split="test")
    evaluation = result.summary.evaluation
    assert evaluation.texts == len(answers) == 15 and evaluation.mentions.gold == 15
    assert evaluation.overlapping.right >= evaluation.mentions.right and 0 < evaluation.overlapping.recall < 1


def test_texts_are_linked_against_the_kb_that_is_named(world, tmp_path):
    own, answers = linked(world, tmp_path, TEXTS[:1])
    named, same = linked(world, tmp_path, TEXTS[:1], kb="small")
    ids = [[[one["id"] for one in each["entities"]] for each in line["mentions"]] for line in (answers[0], same[0])]
    assert ids[0] == ids[1] and own.summary.counts == named.summary.counts
    with pytest.raises(UserError, match="no prepared dataset of this label"):
        linked(world, tmp_path, TEXTS[:1], kb="nobody")


def test_precision_recall_and_f1_are_those_counted_by_hand():
    evaluation = Evaluation({"Q1", "Q2", "Q3"})
    evaluation.add(
        [Answered(0, 3, "Q1"), Answered(5, 9, "Q2"), Answered(12, 14, None), Answered(20, 22, "Q3")],
        [Annotation(0, 3, "Q1"), Annotation(5, 8, "Q2"), Annotation(12, 14, "Q9"), Annotation(30, 32, "Q3")],
    )
    evaluation.add([Answered(0, 3, "Q2")], [Annotation(0, 3, "Q1")])
    evaluation.add([], [])
    result = evaluation.result
    assert (result.mentions.found, result.mentions.gold, result.mentions.right) == (5, 5, 3)
    assert result.overlapping.right == 4
    assert (result.links.found, result.links.gold, result.links.right) == (4, 4, 1)
    assert (result.links.precision, result.links.recall, result.links.f1) == (0.25, 0.25, 0.25)
    assert (result.linked_of_found.gold, result.linked_of_found.right) == (3, 2)
    assert Evaluation(()).result is None


def test_annotations_are_lines_that_brat_reads_whatever_the_names_hold(tmp_path):
    text = "Ann\tPowers\r\nsang."
    answer = Linked("x", None, (Ranked("Q 1\n:", "A\tB\u2028C", 1.0),), 0.5, False, "none")
    nil = Linked("x", None, (), None, True, "none")
    lines = brat.annotations(text, [(Found(0, 16, "PER SON"), answer), (Found(12, 16, "\n"), nil)]).splitlines()
    assert lines == [
        "T1\tPER_SON 0 10;12 16\tAnn Powers sang",
        "N1\tReference T1 KB:Q%201%0A%3A\tA B C",
        "#1\tAnnotatorNotes T1\tconfidence 0.5000",
        "T2\t_ 12 16\tsang",
        "A2\tNIL T2",
    ]
    folder = brat.Folder(tmp_path)
    for name in ("../up", "..", "A", "a", "x" * 300, "x" * 400, "/etc/passwd"):
        folder.add(name, "t", [])
    folder.close()
    names = [path.name for path in tmp_path.iterdir()]
    assert len(names) == 15 and "a~2.txt" in names and all(len(name) < 120 for name in names)


def test_the_command_prints_what_it_measured(world, tmp_path):
    (tmp_path / "texts.jsonl").write_text(json.dumps(TEXTS[0]) + "\n")
    options = ["--run", str(world[1]), "--ner", world[2], "--input", str(tmp_path / "texts.jsonl")]
    more = ["--output", str(tmp_path / "out.jsonl"), "--work-dir", str(world[0] / "work")]
    code, text = commands.run("LinkText", *options, *more)
    assert code == 0 and "1 texts, 2 mentions" in text and "end to end, 1 annotated texts" in text
    for bad, words in (
        ([*options, *more, "--split", "test"], "one of the two"),
        ([*options, *more, "--ann-dir", str(tmp_path)], "expected an empty folder"),
        ([*options, "--output", str(tmp_path / "texts.jsonl"), *more[2:]], "that is the input"),
    ):
        code, text = commands.run("LinkText", *bad)
        assert code == 2 and words in text
