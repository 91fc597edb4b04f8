"""Finds a phrase in its sentence, where the dataset gives no offsets."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from foundation.spelling import characters, fold, is_invisible, is_letter, is_unspaced, visible

_MAX_WORDS_BETWEEN = 3
_MAX_WORDS_APART = 32
"""Words of a phrase that are looked for one by one; one that has more is no name."""

Span = tuple[int, int]


def bare(text: str) -> str:
    """`text` folded (see `foundation.spelling.fold`), repeated white space made one blank: what two spellings of one
    phrase share.
    """
    return " ".join(fold(text).split())


def same_phrase(one: str, other: str) -> bool:
    """Whether two texts are spellings of one phrase: equal when bare, or in their letters (`U.S.` and `US`)."""
    return bare(one) == bare(other) or _letters(one) == _letters(other) != ""


def _letters(text: str) -> str:
    return "".join(filter(is_letter, fold(text)))


@dataclass(frozen=True)
class _Form:
    """A text in another spelling. start, end: for each of its characters, those of the text that it stands for."""

    text: str
    start: Sequence[int]
    end: Sequence[int]

    def cuts(self, at: int) -> bool:
        """Whether a boundary before `at` would cut a character of the text in two."""
        return 0 < at < len(self.text) and self.start[at - 1] == self.start[at]

    def spans(self, wanted: str) -> Iterator[Span]:
        """Where `wanted` stands, as offsets in the text."""
        for at in _occurrences(self.text, wanted):
            end = at + len(wanted)
            if not self.cuts(at) and not self.cuts(end):
                yield self.start[at], self.end[end - 1]

    def words(self) -> list[Span]:
        """(start, end) of the words, as offsets in the form."""
        runs = (
            (letters, list(run)) for letters, run in groupby(range(len(self.text)), lambda at: is_letter(self.text[at]))
        )
        return [(run[0], run[-1] + 1) for letters, run in runs if letters]

    def spaced(self) -> "_Form":
        """Words with one blank between them, whatever stands there: `Barack_Obama`, `New-York`, `J.K. Rowling`."""
        return self._rejoined(lambda left, right: " ")

    def joined(self) -> "_Form":
        """Words without what stands inside them: `U.S.` as `us`, `J. K. Rowling` as `jk rowling`."""

        def gap(left: Span, right: Span) -> str:
            between = self.text[left[1] : right[0]]
            initials = between[0] == "." and left[1] - left[0] == right[1] - right[0] == 1
            numbers = self.text[left[1] - 1].isdigit() and self.text[right[0]].isdigit()
            return " " if numbers or (" " in between and not initials) else ""

        return self._rejoined(gap)

    def _rejoined(self, gap: Callable[[Span, Span], str]) -> "_Form":
        text: list[str] = []
        start: list[int] = []
        end: list[int] = []
        previous: Span | None = None
        for word in self.words():
            if previous and gap(previous, word):
                text.append(" ")
                start.append(self.start[previous[1]])
                end.append(self.end[word[0] - 1])
            text.append(self.text[slice(*word)])
            start += self.start[slice(*word)]
            end += self.end[slice(*word)]
            previous = word
        return _Form("".join(text), start, end)


def _form(text: str, respelled: Callable[[str], str]) -> _Form:
    """`text` respelled character by character, white space made one blank, without what nobody sees."""
    if text.isascii() and text.isprintable() and "  " not in text:  # nothing to collapse, a letter for each letter
        return _Form(respelled(text), range(len(text)), range(1, len(text) + 1))
    pieces: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for start, stop in characters(text):
        shown = visible(text[start:stop])
        piece = respelled(shown)
        if shown.isspace():
            piece = "" if pieces and pieces[-1] == " " else " "
        end = stop
        while end > start + 1 and is_invisible(text[end - 1]):
            end -= 1
        pieces.extend(piece)
        starts += [start] * len(piece)
        ends += [end] * len(piece)
    return _Form("".join(pieces), starts, ends)


class _Sentence:
    """A sentence in the forms that it is searched in, each made when it is first needed."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def written(self) -> _Form:
        return _form(self.text, lambda character: character)

    @cached_property
    def small(self) -> _Form:
        return _form(self.text, str.casefold)

    @cached_property
    def bare(self) -> _Form:
        return _form(self.text, fold)

    @cached_property
    def spaced(self) -> _Form:
        return self.bare.spaced()

    @cached_property
    def joined(self) -> _Form:
        return self.bare.joined()

    def is_whole(self, span: Span) -> bool:
        """Whether the span begins and ends where words do."""
        return not any(self._letters_beside(at) for at in span)

    def is_part(self, span: Span) -> bool:
        """The same, words that are written together with large letters (`#BarackObama`) taken for several, and any
        place in scripts without blanks for the end of a word."""
        for at in span:
            letters = self._letters_beside(at)
            together = letters[:1].islower() and letters[1:].isupper()
            if letters and not together and not any(map(is_unspaced, letters)):
                return False
        return True

    def _letters_beside(self, at: int) -> str:
        """The two letters between which `at` lies; nothing where it lies beside something else."""
        left, right = at - 1, at
        while left >= 0 and is_invisible(self.text[left]):
            left -= 1
        while right < len(self.text) and is_invisible(self.text[right]):
            right += 1
        if left < 0 or right == len(self.text) or not (is_letter(self.text[left]) and is_letter(self.text[right])):
            return ""
        return self.text[left] + self.text[right]


def _occurrences(text: str, phrase: str) -> Iterator[int]:
    """Where `phrase`, which is not empty, begins in `text`, overlapping ones too; in time linear in both (Knuth, Morris
    and Pratt).
    """
    first = text.find(phrase)
    if first < 0:
        return
    yield first
    fallback, matched = [0], 0  # of each beginning of the phrase, the longest shorter one that it ends with
    for character in phrase[1:]:
        while matched and phrase[matched] != character:
            matched = fallback[matched - 1]
        matched += phrase[matched] == character
        fallback.append(matched)
    for at in range(first + len(phrase), len(text)):
        while matched and (matched == len(phrase) or phrase[matched] != text[at]):
            matched = fallback[matched - 1]
        matched += phrase[matched] == text[at]
        if matched == len(phrase):
            yield at - len(phrase) + 1


def _nearest(spans: Iterator[Span], near: int | None) -> Span | None:
    if near is None:
        return next(spans, None)
    return min(spans, key=lambda span: (abs(span[0] - near), span[0]), default=None)


def _spelled(sentence: _Sentence, phrase: str) -> Iterator[tuple[_Form, str]]:
    """The phrase as it is written, whatever its case, and bare, each with the form of the sentence that may hold it."""
    yield sentence.written, _form(phrase, lambda character: character).text.strip()
    yield sentence.small, _form(phrase, str.casefold).text.strip()
    yield sentence.bare, _form(phrase, fold).text.strip()


def _respelled(sentence: _Sentence, phrase: str) -> Iterator[tuple[_Form, str]]:
    """The phrase in its words and letters alone, each with the form of the sentence that may hold it."""
    form = _form(phrase, fold)
    spaced = form.spaced().text
    if len(spaced) > 1:
        yield sentence.spaced, spaced
        yield sentence.joined, form.joined().text
        yield sentence.joined, spaced.replace(" ", "")
    parted = "".join(
        f" {letter}" if before.islower() and letter.isupper() else letter
        for before, letter in zip(" " + phrase, phrase, strict=False)
    )
    if parted != phrase:
        yield sentence.spaced, _form(parted, fold).spaced().text


def _with_last_dot(sentence: str, span: Span) -> Span:
    """The span, and the dot behind it where it ends in a letter between two dots, as `U.S.` does."""
    start, end = span
    return (start, end + 1) if end - start > 2 and sentence[end - 2 : end + 1 : 2] == ".." else span


def _words_apart(form: _Form, phrase: str, near: int | None) -> Span | None:
    """The phrase's words in order, a few others between them: "Hermann Beckerath" in "Hermann von Beckerath"."""
    wanted = _form(phrase, fold).spaced().text.split()
    if not 1 < len(wanted) <= _MAX_WORDS_APART:
        return None
    places = form.words()
    words = [form.text[slice(*place)] for place in places]
    found: list[Span] = []
    for first, word in enumerate(words):
        if word != wanted[0]:
            continue
        last = first
        for following in wanted[1:]:
            reach = range(last + 1, min(last + 2 + _MAX_WORDS_BETWEEN, len(words)))
            place = next((at for at in reach if words[at] == following), None)
            if place is None:
                break
            last = place
        else:
            found.append((form.start[places[first][0]], form.end[places[last][1] - 1]))
    shortest = min((end - start for start, end in found), default=0)
    return _nearest((span for span in found if span[1] - span[0] == shortest), near)


def find_span(sentence: str, phrase: str, near: int | None = None) -> Span | None:
    """Character offsets (start, end) of `phrase` in `sentence`, end exclusive; None where it does not stand there.

    The first of these that succeeds counts: whole words as written; whatever their case; whatever their case, accents
    and other spelling that `fold` evens out; whatever stands between words or inside them (`Barack_Obama`,
    `#BarackObama`, `U.S.`); the first three inside longer words; the phrase's words in order with at most three others
    between neighbours (releases drop particles and commas from mention strings). Characters that nobody sees count
    nowhere, and no letter is parted from its vowel sign. Of several equally good places the one nearest to the offset
    `near` is taken, or the first. Offsets always refer to `sentence` as given. The time is linear in both lengths.
    """
    phrase, text = phrase.strip(), _Sentence(sentence)
    for form, wanted in _spelled(text, phrase):
        span = _nearest(filter(text.is_whole, form.spans(wanted)), near) if wanted else None
        if span:
            return span
    for form, wanted in _respelled(text, phrase):
        span = _nearest(filter(text.is_part, form.spans(wanted)), near) if wanted else None
        if span:
            return _with_last_dot(sentence, span)
    for form, wanted in _spelled(text, phrase):
        span = _nearest(form.spans(wanted), near) if wanted else None
        if span:
            return span
    return _words_apart(text.bare, phrase, near)
