"""What spellings of the same words have in common, and where a text may be cut."""

import random
import sys
import unicodedata

import pytest
from rapidfuzz.utils import default_process

from foundation.spelling import characters, clean, fold, units, words

SIGNS = [sign for sign in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(sign) not in ("Cn", "Co", "Cs")]


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("Beyoncé ÇELİK Łódź", "beyonce celik lodz"),
        ("Straße STRASSE", "strasse strasse"),
        ("Iğdır IĞDIR", "igdir igdir"),
        ("Ｆｕｌｌ ﬁne ①", "full fine 1"),
        ("Nguyễn Đức", "nguyen duc"),
        ("Ἀθῆναι ΣΊΣΥΦΟΣ", "αθηναι σισυφοσ"),
        ("Йёлкин", "иелкин"),
        ("שָׁלוֹם", "שלום"),
        ("مُحَمَّد محـمـد", "محمد محمد"),
        ("ایران کتاب", "ايران كتاب"),
        ("Ste\u200bfan\u00ad An\x00na\ufeff", "stefan anna"),
        ("\u202aAnna\u202c ☺\ufe0f", "anna ☺"),
        ("Hawaiʻi O´Brien rock’n’roll", "hawai'i o'brien rock'n'roll"),
        ("दिल्ली กรุงเทพ ភ្នំពេញ", "दिल्ली กรุงเทพ ភ្នំពេញ"),
        ("ガﾊﾞ", "ガバ"),
        (unicodedata.normalize("NFD", "한국"), "한국"),
        ("١٩٤٥ १९४५", "1945 1945"),
        ("Brand™", "brand "),
    ],
)
def test_fold(text, folded):
    assert fold(text) == folded
    assert fold(unicodedata.normalize("NFD", text)) == folded


def test_folding_again_changes_nothing_for_any_character():
    once = [fold(sign) for sign in SIGNS]
    assert [fold(sign) for sign in once] == once
    assert all(unicodedata.is_normalized("NFC", sign) for sign in once)


def test_the_parts_of_a_text_fold_as_the_whole():
    rng = random.Random(0)
    for _ in range(5_000):
        text = "".join(rng.choice(SIGNS if rng.random() < 0.4 else "aé가각กิเก้ไ\u0301\u200dカ\u3099İ") for _ in range(5))
        assert "".join(fold(text[start:end]) for start, end in characters(text)) == fold(text), ascii(text)


def test_ascii_is_cleaned_as_by_rapidfuzz():
    rng = random.Random(0)
    for _ in range(3_000):
        text = "".join(chr(rng.randrange(32, 127)) for _ in range(rng.randint(0, 12)))
        assert clean(text) == default_process(text)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Ann  met Bob", ["Ann", "met", "Bob"]),
        ("王菲在 ABC演唱，", ["王", "菲", "在", "ABC", "演", "唱", "，"]),
        ("เชียงใหม่", ["เชี", "ย", "ง", "ให", "ม่"]),
        ("ភ្នំ", ["ភ្នំ"]),
        ("မန္တလေး", ["မ", "န္တ", "လေး"]),
        ("カ\u3099ﾊﾞ", ["カ\u3099", "ﾊﾞ"]),
        ("दिल्ली में", ["दिल्ली", "में"]),
        ("한국 사람", ["한국", "사람"]),
    ],
)
def test_units(text, pieces):
    assert [text[start:end] for start, end in units(text)] == pieces


def test_words_keep_their_vowel_signs():
    assert words("Über-दिल्ली, snake_case") == ["uber", "दिल्ली", "snake", "case"]
    assert words("歌手のABC") == ["歌", "手", "の", "abc"]
