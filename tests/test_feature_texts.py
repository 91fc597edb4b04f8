"""Texts made of faces: the formats of the attribute sentence and of the recognised names, and what is left out."""

import numpy as np
import pytest

from foundation.errors import UserError
from pipeline.extraction.feature_texts import pack, texts, unpack

LABELS = {"gender": ["Woman", "Man"], "race": ["asian", "white"], "emotion": ["happy", "sad"]}


def faces(count=1):
    return {
        "age": np.float32([49.7] * count),
        "gender": np.float32([[0.2, 0.8]] * count),
        "race": np.float32([[0.1, 0.9]] * count),
        "box": np.arange(count),
    }


def test_the_attribute_sentence_has_the_papers_form_with_the_attributes_there_are():
    assert texts("face_attributes", ["Obama"], [faces()], LABELS) == [["Obama, gender: male, race: white, age: 50"]]
    row = {"emotion": np.float32([[0.3, 0.7]]), "gender": np.float32([[0.9, 0.1]])}
    assert texts("face_attributes", ["She"], [row], LABELS) == [["She, gender: female, emotion: sad"]]


def test_attributes_that_the_paper_has_not_follow_in_their_own_order():
    labels = LABELS | {"hair": ["long red", "short black"], "beard": ["none", "moustache"]}
    row = {
        "hair": np.float32([[0.1, 0.9]]),
        "beard": np.float32([[0.2, 0.8]]),
        "gender": np.float32([[0.2, 0.8]]),
        "box": np.int32([0]),
    }
    assert texts("face_attributes", ["Ada"], [row], labels) == [
        ["Ada, gender: male, hair: short black, beard: moustache"]
    ]


def test_mentions_without_picture_or_face_have_no_sentence_and_crowds_have_a_bounded_number():
    assert [len(found) for found in texts("face_attributes", ["a", "b", "c"], [None, faces(0), faces(50)], LABELS)] == [
        0,
        0,
        8,
    ]


def recognised(*scored):
    names = np.stack([pack(name) for name, _ in scored])
    return names, np.float32([score for _, score in scored])


def test_names_over_the_threshold_are_told_once_best_first():
    first, second = (
        recognised(("Barack Obama", 0.76), ("Joe Biden", 0.5)),
        recognised(("Joe Biden", 0.9), ("Barack Obama", 0.6)),
    )
    row = {"names": np.stack([first[0], second[0]]), "scores": np.stack([first[1], second[1]])}
    assert texts("identities", ["x"], [row], {}) == [["Joe Biden, score: 0.90", "Barack Obama, score: 0.76"]]
    assert texts("identities", ["x"], [row], {}, threshold=0.8) == [["Joe Biden, score: 0.90"]]
    empty = {"names": np.zeros((0, 5, 96), np.uint8), "scores": np.zeros((0, 5), np.float32)}
    assert texts("identities", ["x"], [empty], {}) == [[]]


def test_empty_names_are_none_even_with_a_score():
    row = {"names": np.zeros((1, 5, 96), np.uint8), "scores": np.full((1, 5), 0.9, np.float32)}
    assert texts("identities", ["x"], [row], {}) == [[]]


@pytest.mark.parametrize("name", ["Ada", "Zoë", "名" * 40, "a" * 95 + "é", ""])
def test_names_survive_packing_up_to_a_whole_character(name):
    found = unpack(pack(name))
    assert (
        name.startswith(found)
        and len(pack(name)) == 96
        and len(name.encode()) - len(found.encode()) in (0, *range(len(name.encode()) - 96, len(name.encode()) - 92))
    )


def test_another_view_is_refused():
    with pytest.raises(UserError, match="identities"):
        texts("identitys", [], [], {})
