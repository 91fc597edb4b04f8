"""Views: exact strings, windows around the mention, spans inside them."""

import pytest

from foundation.errors import UserError
from foundation.spelling import characters
from pipeline.extraction.views import TokenLimit, entity_texts, mention_texts, shortened


def words(strings):
    """A tokenizer that counts words and two special tokens."""
    return [len(string.split()) + 2 for string in strings]


SENTENCE = " ".join(f"w{i}" for i in range(30))
SPAN = (SENTENCE.index("w15"), SENTENCE.index("w15") + 3)


def one(view="mention_sep_sentence", phrase="w15", sentence=SENTENCE, span=SPAN, limit=100):
    return mention_texts(view, [phrase], [sentence], [span], TokenLimit(words, limit))[0]


def test_a_text_that_fits_is_the_bare_template_and_its_span_is_the_phrase():
    text = one()
    assert text.string == f"w15 [SEP] {SENTENCE}" and not text.cut
    assert text.string[slice(*text.span)] == "w15" and text.span[0] > len("w15 [SEP] ")


@pytest.mark.parametrize("limit", [6, 7, 9, 14, 33])
def test_a_long_sentence_becomes_the_widest_window_around_the_phrase(limit):
    text = one(limit=limit)
    assert text.cut and words([text.string])[0] <= limit < words([f"w15 [SEP] {SENTENCE}"])[0]
    assert text.string[slice(*text.span)] == "w15"
    window = text.string.removeprefix("w15 [SEP] ").split()
    around = (len(window) - 1) // 2
    assert window[around] == "w15" or limit == 33
    assert limit - words([text.string])[0] < 2, "one more word on each side would not fit"


def test_a_phrase_at_the_end_keeps_what_stands_before_it():
    span = (SENTENCE.index("w29"), len(SENTENCE))
    text = one(phrase="w29", span=span, limit=10)
    assert text.string.endswith("w28 w29") and text.string[slice(*text.span)] == "w29"


def test_a_phrase_that_was_not_found_keeps_the_beginning_and_has_no_span():
    text = one(phrase="elsewhere", span=None, limit=10)
    assert text.string == "elsewhere [SEP] w0 w1 w2 w3 w4 w5" and text.span is None and text.cut


def test_a_phrase_that_is_too_long_by_itself_is_cut_and_has_no_span():
    text = one(phrase=SENTENCE, span=(0, len(SENTENCE)), limit=8)
    assert words([text.string])[0] <= 8 and text.span is None and text.cut


def test_one_endless_word_is_cut_inside():
    def letters(strings):
        return [len(string) + 2 for string in strings]

    lost, found = mention_texts("sentence", ["y", "x"], ["x" * 500] * 2, [None, (3, 5)], TokenLimit(letters, 20))
    assert lost.string == "x" * 18 and lost.cut
    assert found.string == "xx" and found.span == (0, 2)


def signs(strings):
    """A tokenizer that counts characters, as those of many scripts nearly do."""
    return [len(string) for string in strings]


UNSPACED = {
    "chinese": ("春眠不覺曉處處聞啼鳥夜來風雨聲" * 6, "王菲"),
    "japanese": ("いろはにほへとちりぬるを" * 8, "ピカチュウ"),
    "thai": ("ประเทศไทยมีทะเลและภูเขา" * 6, "ณเดชน์"),
    "lao": ("ປະເທດລາວມີແມ່ນ້ຳຂອງ" * 6, "ໄກສອນ"),
    "khmer": ("ប្រទេសកម្ពុជាមានទន្លេ" * 6, "សីហនុ"),
    "burmese": ("မြန်မာနိုင်ငံတွင်မြစ်" * 6, "အောင်ဆန်း"),
}


@pytest.mark.parametrize("script", UNSPACED)
def test_a_sentence_without_blanks_has_the_widest_window_around_the_phrase(script):
    filling, phrase = UNSPACED[script]
    sentence = filling + phrase + filling
    span = len(filling), len(filling) + len(phrase)
    text = mention_texts("sentence", [phrase], [sentence], [span], TokenLimit(signs, 64))[0]
    assert text.cut and text.string[slice(*text.span)] == phrase
    longest = max(end - start for start, end in characters(sentence))
    assert 64 - longest < len(text.string) <= 64
    before, after = text.span[0], len(text.string) - text.span[1]
    assert abs(before - after) <= 3 * longest, "the phrase stands in the middle"
    borders = {start for start, _ in characters(sentence)}
    start = span[0] - before
    assert {start, start + len(text.string)} <= borders, "no letter is parted from its vowel sign"
    if script in ("chinese", "japanese"):
        assert len(text.string) == 64


@pytest.mark.parametrize("script", UNSPACED)
def test_a_text_without_blanks_is_cut_at_a_character(script):
    filling, phrase = UNSPACED[script]
    table = {"name": [phrase], "attributes": [""], "description": [f"{phrase} {filling}"]}
    cut = entity_texts("description", table, TokenLimit(signs, 40))[0]
    assert cut.cut and 40 - max(end - start for start, end in characters(filling)) < len(cut.string) <= 40
    lost = mention_texts("sentence", [phrase], [filling], [None], TokenLimit(signs, 40))[0]
    assert filling.startswith(lost.string) and len(lost.string) > 34


def test_words_among_characters_stay_whole():
    sentence = "我們在紐約的Rockefeller Center看見Barack Obama和他的朋友"
    start = sentence.index("Barack Obama")
    text = mention_texts("sentence", ["Barack Obama"], [sentence], [(start, start + 12)], TokenLimit(signs, 30))[0]
    assert text.string == "Center看見Barack Obama和他的朋友"


def test_the_mention_view_spans_the_whole_string():
    assert one("mention").span == (0, 3)


def test_entity_texts_are_cut_at_a_word_and_absent_ones_are_none():
    table = {"name": ["Ann", "Bob"], "attributes": ["Sex: female. Born: 1900.", ""], "description": ["", "A man."]}
    assert entity_texts("description", table, TokenLimit(words, 9)) == [
        None,
        entity_texts("description", table, TokenLimit(words, 9))[1],
    ]
    cut = entity_texts("name_sep_attributes", table, TokenLimit(words, 6))
    assert cut[0].string == "Ann [SEP] Sex: female." and cut[0].cut
    assert cut[1].string == "Bob [SEP] " and not cut[1].cut


def test_tokens_lost_are_those_of_the_words_left_out():
    """Counted by hand: a sentence of 30 words, its phrase, [SEP], and two special tokens are 34 tokens."""
    text = one(limit=9)
    assert (text.tokens, text.lost) == (34, 34 - words([text.string])[0]) and text.lost == 25
    assert (one().tokens, one().lost, one().cut) == (34, 0, False)
    table = {"name": ["Ann", "Bob"], "attributes": ["Sex: female. Born: 1900.", ""], "description": ["", ""]}
    cut = entity_texts("name_sep_attributes", table, TokenLimit(words, 6))
    assert [(text.tokens, text.lost) for text in cut] == [(8, 2), (4, 0)]
    whole = shortened(["a b c d e", "a"], TokenLimit(words, 5))
    assert [(text.tokens, text.lost) for text in whole] == [(7, 2), (3, 0)]
    assert shortened([], TokenLimit(words, 5)) == []


def test_braces_in_a_record_are_text_not_template():
    text = one(phrase="{sentence}", sentence="see {sentence} and {0}", span=(4, 14))
    assert text.string == "{sentence} [SEP] see {sentence} and {0}" and text.string[slice(*text.span)] == "{sentence}"


def test_an_unknown_view_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'mention_sep_sentence'"):
        one("mention_sep_sentense")
