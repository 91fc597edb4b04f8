"""Finds a phrase in its sentence, where the dataset gives no offsets."""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

# Typographic variants that no Unicode normal form brings together.
_PLAIN = {ord(a): b for a, b in zip("‘’‚‛“”„‟‐‑‒–—−", "''''\"\"\"\"------", strict=True)}
_MAX_WORDS_BETWEEN = 3


@lru_cache(maxsize=65536)
def _bare(character: str) -> str:
    """One character case-folded, without accents, in plain punctuation; may be empty (a combining mark) or several
    characters (ß → ss).
    """
    decomposed = unicodedata.normalize("NFKD", character.translate(_PLAIN)).casefold()
    return "".join(c for c in unicodedata.normalize("NFKD", decomposed) if not unicodedata.combining(c))


def _folded(text: str, fold: Callable[[str], str]) -> tuple[str, list[int]]:
    """`text` folded character by character with white space runs made one blank, and the position in `text` of each
    character of the result.
    """
    out: list[str] = []
    origin: list[int] = []
    for position, character in enumerate(text):
        for piece in fold(character):
            if piece.isspace():
                if out and out[-1] == " ":
                    continue
                piece = " "
            out.append(piece)
            origin.append(position)
    return "".join(out), origin


def bare(text: str) -> str:
    """`text` without case, accents, typographic punctuation and repeated white space: what two spellings of one phrase
    share.
    """
    return _folded(text, _bare)[0].strip()


def _inside_word(text: str, position: int) -> bool:
    """Whether a boundary at `position` would cut a word in two."""
    if not 0 < position < len(text):
        return False
    left, right = text[position - 1], text[position]
    return (left.isalnum() or bool(unicodedata.combining(left))) and (
        right.isalnum() or bool(unicodedata.combining(right))
    )


def _occurrences(text: str, phrase: str) -> Iterator[int]:
    at = text.find(phrase)
    while at >= 0:
        yield at
        at = text.find(phrase, at + 1)


def _nearest(starts: list[int], near: int | None) -> int:
    return starts[0] if near is None else min(starts, key=lambda start: (abs(start - near), start))


def _search(
    sentence: str, phrase: str, fold: Callable[[str], str] | None, whole: bool, near: int | None
) -> tuple[int, int] | None:
    origin: Sequence[int]
    if fold is None:
        text, origin, wanted = sentence, range(len(sentence)), phrase
    else:
        text, origin = _folded(sentence, fold)
        wanted = _folded(phrase, fold)[0].strip()
    if not wanted:
        return None
    ends: dict[int, int] = {}  # of each place where the phrase starts
    for at in _occurrences(text, wanted):
        end = at + len(wanted)
        if not whole or not (_inside_word(text, at) or _inside_word(text, end)):
            ends.setdefault(origin[at], origin[end - 1] + 1)
    if not ends:
        return None
    start = _nearest(list(ends), near)
    end = ends[start]
    while end < len(sentence) and unicodedata.combining(sentence[end]):
        end += 1
    return start, end


def _words_apart(sentence: str, phrase: str, near: int | None) -> tuple[int, int] | None:
    """The phrase's words in order, a few others between them: "Hermann Beckerath" in "Hermann von Beckerath"."""
    wanted = [bare(word) for word in re.findall(r"\w+", phrase)]
    words = [(bare(match.group()), match.start(), match.end()) for match in re.finditer(r"\w+", sentence)]
    ends: dict[int, int] = {}  # of each place where the phrase starts
    for first in range(len(words) if len(wanted) > 1 else 0):
        if words[first][0] != wanted[0]:
            continue
        last = first
        for word in wanted[1:]:
            reach = range(last + 1, min(last + 2 + _MAX_WORDS_BETWEEN, len(words)))
            following = next((i for i in reach if words[i][0] == word), None)
            if following is None:
                break
            last = following
        else:
            ends[words[first][1]] = words[last][2]
    if not ends:
        return None
    shortest = min(end - start for start, end in ends.items())
    start = _nearest([start for start, end in ends.items() if end - start == shortest], near)
    return start, ends[start]


def find_span(sentence: str, phrase: str, near: int | None = None) -> tuple[int, int] | None:
    """Character offsets (start, end) of `phrase` in `sentence`, end exclusive; None where it does not stand there.

    The first of these that succeeds counts: whole words as written; whatever their case; whatever their case, accents
    and typographic punctuation; the same three inside longer words; the phrase's words in order with at most three
    others between neighbours (releases drop particles and commas from mention strings). Of several equally good places
    the one nearest to the offset `near` is taken, or the first. Offsets always refer to `sentence` as given.
    """
    phrase = phrase.strip()
    for whole in (True, False):
        for fold in (None, str.casefold, _bare):
            span = _search(sentence, phrase, fold, whole, near)
            if span:
                return span
    return _words_apart(sentence, phrase, near)
