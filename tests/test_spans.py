"""Finding a phrase in its sentence: offsets always refer to the sentence as given."""

import unicodedata

import pytest

from pipeline.datasets.spans import bare, find_span


def found(sentence: str, phrase: str, near: int | None = None) -> str | None:
    span = find_span(sentence, phrase, near)
    return None if span is None else sentence[slice(*span)]


@pytest.mark.parametrize(
    ("sentence", "phrase", "expected"),
    [
        ("Steiger in The Big Knife", "Steiger", (0, 7)),
        ("A Steigerwald, then Steiger.", "Steiger", (20, 27)),  # whole word before the inside of one
        ("STEIGER and Steiger", "Steiger", (12, 19)),  # as written before another case
        ("the steiger", "Steiger", (4, 11)),
        ("the Müller twins", "Muller", (4, 10)),
        ("the Muller twins", "Müller", (4, 10)),
        ("im STRASSE-Bahn", "straße", (3, 10)),
        ("die Straße hier", "STRASSE", (4, 10)),
        ("New\u00a0 York at night", "New York", (0, 9)),
        ("the king’s speech", "king's", (4, 10)),
        ("Steigerwald", "Steiger", (0, 7)),
        ("我在北京大学", "北京", (2, 4)),
        ("Hermann von Beckerath.", "Hermann Beckerath", (0, 21)),
        ("Victor de Riqueti, marquis de Mirabeau", "Victor Riqueti marquis Mirabeau", (0, 38)),
        ("  padded  ", " padded ", (2, 8)),
    ],
)
def test_each_way_of_writing_is_found_at_its_offsets(sentence, phrase, expected):
    assert find_span(sentence, phrase) == expected


def test_decomposed_accents_stay_inside_the_span():
    sentence = unicodedata.normalize("NFD", "le café noir")
    assert found(sentence, "café") == unicodedata.normalize("NFD", "café")
    assert found(sentence, "cafe") == unicodedata.normalize("NFD", "café")


def test_repeated_phrase_takes_the_first_or_the_nearest():
    sentence = "Powers met Powers while Powers watched"
    assert find_span(sentence, "Powers") == (0, 6)
    assert find_span(sentence, "Powers", near=12) == (11, 17)
    assert find_span(sentence, "Powers", near=37) == (24, 30)


def test_nearest_whole_word_wins_over_a_nearer_part_of_a_word():
    assert find_span("Al saw Albert and Alfred", "Al", near=18) == (0, 2)


@pytest.mark.parametrize("phrase", ["", "  ", "Gotse", "x" * 100, "mother Sultana"])
def test_a_phrase_that_is_not_there_gives_none(phrase):
    assert find_span("Sultana Delcheva – his mother", phrase) is None


def test_an_empty_sentence_holds_nothing():
    assert find_span("", "Powers") is None


def test_words_further_apart_than_a_title_are_not_one_mention():
    assert find_span("John went to town and there he met old Smith", "John Smith") is None


def test_patterns_in_a_phrase_are_plain_text():
    assert found("is it (a+)+$ or not", "(a+)+$") == "(a+)+$"


def test_bare_makes_spellings_of_one_phrase_equal():
    assert bare("  ÉMILE  Zola’s ") == bare("emile zola's")
