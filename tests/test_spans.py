"""Finding a phrase in its sentence: offsets always refer to the sentence as given."""

import sys
import unicodedata

import pytest

from pipeline.datasets.spans import bare, find_span, same_phrase


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


@pytest.mark.parametrize(
    ("sentence", "phrase", "expected"),
    [
        # characters that nobody sees
        ("Ste\u200bfan sang", "Stefan", "Ste\u200bfan"),
        ("Stefan\u200b sang", "Stefan", "Stefan"),
        ("Stefan sang", "Ste\u00adfan", "Stefan"),
        ("Chan\u00adcellor Merkel", "Chancellor Merkel", "Chan\u00adcellor Merkel"),
        ("او می\u200cخواهد برود", "میخواهد", "می\u200cخواهد"),
        ("محـمـد ذهب", "محمد", "محـمـد"),
        ("An\x00na sings", "Anna", "An\x00na"),
        ("An\x00na sings", "An", "An"),  # inside a word, since no whole word fits
        ("\ufeffAnna sings", "Anna", "Anna"),
        ("\u202bAn\u200ena\u202c sings", "Anna", "An\u200ena"),
        ("❤\ufe0f Anna", "❤ Anna", "❤\ufe0f Anna"),
        # between words and inside them
        ("Barack_Obama spoke", "Barack Obama", "Barack_Obama"),
        ("Barack Obama spoke", "Barack_Obama", "Barack Obama"),
        ("#BarackObama spoke", "Barack Obama", "BarackObama"),
        ("#ThankYouBarackObama!", "Barack Obama", "BarackObama"),
        ("Barack Obama spoke", "#BarackObama", "Barack Obama"),
        ("we must join U.S. forces", "US", "U.S."),
        ("the US forces must", "U.S.", "US"),
        ("by J. K. Rowling.", "JK Rowling", "J. K. Rowling"),
        ("by J.K. Rowling.", "J. K. Rowling", "J.K. Rowling"),
        ("in Washington, D.C. today", "Washington DC", "Washington, D.C."),
        ("New-York today", "New York", "New-York"),
        ("Jean Luc Picard", "Jean-Luc Picard", "Jean Luc Picard"),
        ("the al Assad family", "al-Assad", "al Assad"),
        ("バラク・オバマが", "バラクオバマ", "バラク・オバマ"),
        # letters
        ("IĞDIR şehri", "Iğdır", "IĞDIR"),
        ("ığdır şehri", "Iğdır", "ığdır"),
        ("İSTANBUL'da", "istanbul", "İSTANBUL"),
        ("Hawaiʻi is far", "Hawai'i", "Hawaiʻi"),
        ("Hawai`i is far", "Hawaiʻi", "Hawai`i"),
        ("O´Brien sang", "O'Brien", "O´Brien"),
        ("Ｂａｒａｃｋ spoke", "Barack", "Ｂａｒａｃｋ"),
        ("the ﬁne oﬃce", "office", "oﬃce"),
        ("Søren Łódź", "Soren Lodz", "Søren Łódź"),
        ("ông Nguyễn Văn Thiệu", "Nguyen Van Thieu", "Nguyễn Văn Thiệu"),
        ("قال مُحَمَّد اليوم", "محمد", "مُحَمَّد"),
        ("אמר דָּוִד היום", "דוד", "דָּוִד"),
        # whole words with vowel signs
        ("कल दिल्लीवासी और दिल्ली में", "दिल्ली", "दिल्ली"),
        (unicodedata.normalize("NFD", "저는 한국 사람"), "한국", unicodedata.normalize("NFD", "한국")),
        ("저는 한국 사람", unicodedata.normalize("NFD", "한국"), "한국"),
    ],
)
def test_other_spellings_of_a_phrase_are_found(sentence, phrase, expected):
    assert found(sentence, phrase) == expected


IN_MANY_SCRIPTS = [
    ("Arabic harakat", "زار مُحَمَّدٌ القاهرة", "محمد", "مُحَمَّدٌ"),
    ("Arabic hamza on alef", "قال أحمد ذلك", "احمد", "أحمد"),
    ("Persian yeh, Arabic keyboard", "علي به تهران رفت", "علی", "علي"),
    ("Hebrew niqqud", "אָמַר דָּוִד לָנוּ", "דוד", "דָּוִד"),
    ("Hebrew maqaf", "הגיע לתל־אביב. תל־אביב יפה", "תל אביב", "תל־אביב"),
    ("Hebrew gershayim", "חבר צה״ל כאן", 'צה"ל', "צה״ל"),
    (
        "Korean NFD sentence",
        unicodedata.normalize("NFD", "저는 한국에서 왔다"),
        "한국",
        unicodedata.normalize("NFD", "한국"),
    ),
    ("Korean NFC, NFD phrase", "그는 김대중 이다", unicodedata.normalize("NFD", "김대중"), "김대중"),
    ("German ß", "in der GROSSEN STRASSE", "Straße", "STRASSE"),
    ("capital ẞ", "die STRAẞE", "Straße", "STRAẞE"),
    ("Turkish İ", "İZMİR güzel", "izmir", "İZMİR"),
    ("Turkish ı", "ışık var", "IŞIK", "ışık"),
    ("full width", "\uff2d\uff49crosoft\u3000Corp は", "Microsoft Corp", "\uff2d\uff49crosoft\u3000Corp"),
    ("ligature", "the ﬂag oﬃcer", "flag officer", "ﬂag oﬃcer"),
    ("half of a ligature", "the ﬁne", "i", None),
    ("Vietnamese", "Ông Hồ Chí Minh sinh", "Ho Chi Minh", "Hồ Chí Minh"),
    (
        "Vietnamese NFD",
        unicodedata.normalize("NFD", "Ông Nguyễn Văn Thiệu"),
        "Nguyễn Văn Thiệu",
        unicodedata.normalize("NFD", "Nguyễn Văn Thiệu"),
    ),
    ("Vietnamese đ", "Tướng Đỗ Mười", "Do Muoi", "Đỗ Mười"),
    ("Greek final sigma", "ΟΔΥΣΣΕΥΣ ήρθε", "Οδυσσεύς", "ΟΔΥΣΣΕΥΣ"),
    ("Polytonic", "ὁ Ἀχιλλεύς", "Αχιλλευς", "Ἀχιλλεύς"),
    ("Cyrillic ё", "Пётр Королёв", "Королев", "Королёв"),
    ("Serbian Cyrillic", "Ђоковић", "Ђоковић", "Ђоковић"),
    ("Georgian Mtavruli", "ᲗᲑᲘᲚᲘᲡᲘ", "თბილისი", "ᲗᲑᲘᲚᲘᲡᲘ"),
    ("Armenian ligature", "Երևան է", "Երեւան", "Երևան"),
    ("half-width kana", "ﾋﾟｶﾁｭｳが", "ピカチュウ", "ﾋﾟｶﾁｭｳ"),
    ("dakuten NFD", unicodedata.normalize("NFD", "ガンダムが"), "ガンダム", unicodedata.normalize("NFD", "ガンダム")),
    ("no dakuten is another word", "ハハが", "ババ", None),
    ("Japanese middle dot", "バラク・オバマ氏", "バラク オバマ", "バラク・オバマ"),
    ("Thai tone mark differs", "ข้าว", "ขาว", None),
    ("Thai sara am", "น้ำ ใส", "น\u0e49\u0e4d\u0e32", "น้ำ"),
    ("Khmer ZWSP", "ខ្ញុំ\u200bទៅ\u200bភ្នំពេញ", "ភ្នំពេញ", "ភ្នំពេញ"),
    ("Burmese", "အောင်ဆန်းစုကြည်က", "အောင်ဆန်းစုကြည်", "အောင်ဆန်းစုကြည်"),
    ("Malayalam chillu", "മോഹൻലാൽ", "മോഹന്\u200dലാല്\u200d", "മോഹൻലാൽ"),
    ("Devanagari nukta composed", "वह ज़ाकिर है", "\u091c\u093c\u093eकिर", "ज़ाकिर"),
    ("Bengali reph o", "মো কো", "ক\u09c7\u09be", "কো"),
    ("Tamil 2-part vowel", "கொ இல்", "க\u0bc6\u0bbe", "கொ"),
    ("emoji phrase", "I ❤️ NY", "I ❤ NY", "I ❤️ NY"),
    ("bidi isolates", "\u2068Anna\u2069 sings", "Anna", "Anna"),
    ("Mongolian FVS", "ᠮᠣᠩᠭ\u180bᠣᠯ", "ᠮᠣᠩᠭᠣᠯ", "ᠮᠣᠩᠭ\u180bᠣᠯ"),
    ("Catalan l·l", "Gal·la Placídia", "Galla Placidia", "Gal·la Placídia"),
    ("Romanian comma vs cedilla", "Ion Inculeț", "Ion Inculeţ", "Ion Inculeț"),
    ("Icelandic", "Guðmundur Þór", "Gudmundur Thor", "Guðmundur Þór"),
    ("Arabic digits", "سنة ١٩٤٥ م", "1945", "١٩٤٥"),
    ("roman numeral sign", "Louis Ⅻ", "Louis XII", "Louis Ⅻ"),
    ("superscript", "E = mc² here", "mc2", "mc²"),
    ("nbsp and thin space", "New\u2009York", "New York", "New\u2009York"),
    ("curly quotes", "the “King” Elvis", '"King" Elvis', "“King” Elvis"),
    ("Polish dash", "Skłodowska–Curie", "Sklodowska-Curie", "Skłodowska–Curie"),
    ("Ukrainian apostrophe", "Мар’яна", "Мар'яна", "Мар’яна"),
    ("Belarusian", "Быкаў", "Быкау", "Быкаў"),
    ("Urdu heh", "ہند", "هند", "ہند"),
]
"""(what it is, sentence, phrase, what of the sentence is meant; None: the phrase is not in it)."""


@pytest.mark.parametrize(
    ("sentence", "phrase", "expected"),
    [case[1:] for case in IN_MANY_SCRIPTS],
    ids=[case[0] for case in IN_MANY_SCRIPTS],
)
def test_phrases_in_many_scripts(sentence, phrase, expected):
    assert found(sentence, phrase) == expected


def test_a_whole_word_comes_before_the_beginning_of_a_longer_one():
    assert find_span("कल दिल्लीवासी और दिल्ली में", "दिल्ली") == (17, 23)
    assert find_span("กรุงเทพฯ", "กรุงเทพ") == (0, 7)


@pytest.mark.parametrize(
    ("sentence", "phrase"),
    [
        ("दिल्ली", "दिल"),  # what follows is part of the last letter
        ("เกาะ", "กา"),  # the vowel before belongs to the first letter
        ("한국", "하"),  # half of a syllable
        ("ガ", "カ"),
        ("in the US. A man", "USA"),  # two sentences
        ("1.5 million", "15"),
        ("I like C.", "C++"),
        ("tomUSAd", "U S A"),
    ],
)
def test_what_only_looks_alike_is_not_found(sentence, phrase):
    assert find_span(sentence, phrase) is None


@pytest.mark.parametrize(
    ("sentence", "phrase"),
    [
        ("a " * 200, "a " * 100 + "b"),
        ("a" * 400, "a" * 200),
        ("a" * 400, "a" * 200 + "b"),
        ("a. " * 150, "a." * 100 + " b"),
        ("é" * 400, "e" * 200 + "b"),
        ("ab " * 150, "ab x " * 10),
    ],
)
def test_the_work_grows_with_the_lengths_not_with_their_product(sentence, phrase):
    def lines(times: int) -> int:
        """Lines of Python that a search runs."""
        count = 0

        def trace(frame, event, argument):
            nonlocal count
            count += event == "line"
            return trace

        sys.settrace(trace)
        try:
            find_span(sentence * times, phrase * times)
        finally:
            sys.settrace(None)
        return count

    assert lines(8) < 2.5 * lines(4)


def test_spellings_of_one_phrase():
    assert same_phrase("U.S.", "US") and same_phrase("Barack_Obama", "barack obama") and same_phrase("É ", "e")
    assert not same_phrase("…", "!") and not same_phrase("दिल्ली", "दीला")


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
