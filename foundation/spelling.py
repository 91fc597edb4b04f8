"""Spellings: what ways of writing the same words have in common, and the units that a text can be cut into."""

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

_LETTERS = {
    **dict(zip("øđłħŧðɓƀɖɗƒɨıȷƙƴƶ", "odlhtdbbddfiijkyz", strict=True)),
    "æ": "ae",
    "œ": "oe",
    "þ": "th",
    # one letter on several keyboards: yeh of Persian and of Egypt, kaf of Persian, heh of Urdu, alef wasla
    **dict(zip("\u06cc\u0649\u06a9\u06c1\u0671", "\u064a\u064a\u0643\u0647\u0627", strict=True)),
    # letters of Malayalam without a vowel: one character, or letter and virama
    **{final: f"{letter}\u0d4d" for final, letter in zip("ൺൻർൽൾൿ", "ണനരലളക", strict=True)},
}
"""Letters that are often typed as others, and that no Unicode normal form brings together; in lower case."""
_PUNCTUATION = {
    **dict.fromkeys(
        "`\u00b4\u2018\u2019\u201a\u201b\u2032\u2035", "'"
    ),  # quotation marks, primes, accents that stand alone
    **dict.fromkeys(
        "\u02b9\u02bb\u02bc\u02bd\u02be\u02bf\u02c8\u055a\u05f3\ua78c", "'"
    ),  # letters: okina, hamza, ayin; Hebrew, Armenian
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u05f4\u301d\u301e", '"'),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u05be", "-"),
    **dict.fromkeys("\u2122\u2120", " "),
}
_INVISIBLE = "\u034f\u0640\u07fa\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0"
"""Beside formats, controls and variation selectors: joiners, fillers, and strokes that only lengthen a word."""
_ACCENTS = ("COMBINING ", "HEBREW ", "ARABIC ", "SYRIAC ", "SAMARITAN ", "NKO ")
"""How the names of those combining marks begin that are no letter's part: accents, points and short vowels of scripts
that are mostly written without them."""
_UNSPACED = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u1b00-\u1b7f\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029"
    "\u3031-\u3035\u3040-\u30fa\u30fc-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\ua4cf\ua980-\ua9ff"
    "\uaa60-\uaadf\uf900-\ufaff\uff66-\uff9f\U00016fe0-\U00018d7f\U0001aff0-\U0001b16f\U00020000-\U0003ffff]"
)
"""Scripts written without blanks between words: Thai, Lao, Tibetan, Burmese, Khmer, Javanese, Balinese and others of
the region, Chinese, kana, Yi."""
_AFTER = re.compile("[\uff9e\uff9f\u0e30\u0e32\u0e33\u0e45\u0eb0\u0eb2\u0eb3\u1160-\u11ff\ud7b0-\ud7ff]")
"""Belong to the character before, and are no combining marks: sound marks of narrow kana, vowels of Thai and Lao, the
second and third jamo of a Korean syllable."""
_BEFORE = re.compile("[\u0e40-\u0e44\u0ec0-\u0ec4\u1039\u17d2\u1a60\u1bab]")
"""Hold on to the character behind: vowels of Thai and Lao; signs that stack consonants in Burmese, Khmer, Tai Tham."""


class _Table(dict[int, str]):
    """What `str.translate` puts in each character's place, computed when it is first met."""

    def __init__(self, replacement: Callable[[str], str]) -> None:
        super().__init__()
        self._replacement = replacement

    def __missing__(self, code: int) -> str:
        self[code] = value = self._replacement(chr(code))
        return value


def is_mark(character: str) -> bool:
    """Whether it is a combining mark: an accent, a vowel sign, a virama."""
    return unicodedata.category(character)[0] == "M"


def is_letter(character: str) -> bool:
    """Whether it is part of a word: a letter, a digit or a combining mark."""
    return character.isalnum() or is_mark(character)


def is_invisible(character: str) -> bool:
    """Whether nobody sees it: zero-width characters, soft hyphens, direction marks, controls, variation selectors; and
    the Arabic tatweel, which only lengthens a word."""
    if character in _INVISIBLE or "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef":
        return True
    category = unicodedata.category(character)
    return category == "Cf" or (category == "Cc" and not character.isspace())


def _folded(character: str) -> str:
    """One character of a text in NFKD, see `fold`."""
    if is_invisible(character):
        return ""
    if is_mark(character):
        name = unicodedata.name(character, "")
        return "" if name.startswith(_ACCENTS) and "KATAKANA" not in name else character
    if character in _PUNCTUATION:
        return _PUNCTUATION[character]
    if (digit := unicodedata.decimal(character, None)) is not None:
        return str(digit)
    small = character.casefold()
    if small != character:
        return "".join(map(_folded, unicodedata.normalize("NFKD", small)))
    return _LETTERS.get(character, character)


@lru_cache(maxsize=65536)
def _follows(character: str) -> bool:
    """Whether it forms one character with the one before it."""
    return is_mark(character) or is_invisible(character) or _AFTER.match(character) is not None


_FOLDED = _Table(_folded)
_VISIBLE = _Table(lambda character: "" if is_invisible(character) else character)
_WORDS = _Table(lambda character: character if is_letter(character) else " ")
_SPACING = str.maketrans(
    {character: _PUNCTUATION[character] for character in "\u00b4\u2122\u2120"}
)  # NFKD takes them apart


def fold(text: str) -> str:
    """`text` without what spellings of the same words differ in.

    Letter case; accents, Hebrew points and Arabic short vowels; compatibility forms (full width, ligatures);
    typographic punctuation; characters that nobody sees; digits of other scripts. Vowel signs of the scripts of South
    and South-East Asia, and sound marks of kana, are parts of letters and stay. The result is in NFC; folding it again
    changes nothing.
    """
    if text.isascii() and text.isprintable():
        return text.lower().replace("`", "'")
    decomposed = unicodedata.normalize("NFKD", text.translate(_SPACING))
    return unicodedata.normalize("NFC", decomposed.translate(_FOLDED))


def clean(text: str) -> str:
    """`text` folded, a blank for each character that is not part of a word, none at the ends: what names are compared
    by. In ASCII the same as rapidfuzz's `default_process`.
    """
    return fold(text).translate(_WORDS).strip()


def clean_accented(text: str) -> str:
    """`clean`, with accents and all other letters as they are written, letter case aside."""
    return unicodedata.normalize("NFC", visible(text).casefold()).translate(_WORDS).strip()


def words(text: str) -> list[str]:
    """The words of `text`, folded; in scripts written without blanks, the characters."""
    cleaned = clean(text)
    if not _UNSPACED.search(cleaned):
        return cleaned.split()
    return [cleaned[start:end] for start, end in units(cleaned)]


def visible(text: str) -> str:
    """`text` without the characters that nobody sees."""
    return text if text.isprintable() else text.translate(_VISIBLE)


def characters(text: str) -> list[tuple[int, int]]:
    """(start, end) of each character as a reader counts them: with its marks, jamo and invisible ones behind it."""
    if text.isascii() and text.isprintable():
        return [(at, at + 1) for at in range(len(text))]
    starts = [at for at in range(len(text)) if not at or not (_follows(text[at]) or _BEFORE.match(text[at - 1]))]
    return list(zip(starts, [*starts[1:], len(text)], strict=True))


def units(text: str) -> list[tuple[int, int]]:
    """(start, end) of each piece of `text` that is not to be cut: its words; in scripts written without blanks, its
    characters.
    """
    if not _UNSPACED.search(text):
        return [match.span() for match in re.finditer(r"\S+", text)]
    found: list[tuple[int, int]] = []
    open_word = False
    for start, end in characters(text):
        if text[start].isspace():
            open_word = False
        elif is_unspaced(text[start]):
            found.append((start, end))
            open_word = False
        elif open_word:
            found[-1] = found[-1][0], end
        else:
            found.append((start, end))
            open_word = True
    return found


def is_unspaced(character: str) -> bool:
    """Whether it is of a script that is written without blanks between words."""
    return _UNSPACED.match(character) is not None
