"""Views: the exact strings (templates, windows around the mention) and pictures that are read of a record."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from foundation.errors import UserError, nearest
from foundation.spelling import characters, units

# MIMIC eq. 2 and 3: the [SEP] is written out; BERT's tokenizer reads it as its special token, CLIP's as a literal
# string.
MENTION_TEXTS = {
    "mention": "{phrase}",
    "sentence": "{sentence}",
    "mention_sep_sentence": "{phrase} [SEP] {sentence}",
    "mention_colon_sentence": "{phrase} : {sentence}",
}
ENTITY_TEXTS = {
    "name": "{name}",
    "attributes": "{attributes}",
    "description": "{description}",
    "name_sep_attributes": "{name} [SEP] {attributes}",
    "name_colon_attributes": "{name} : {attributes}",
    "name_sep_description": "{name} [SEP] {description}",
    # DWE+, section 3: texts that EnhanceEntities wrote.
    "static": "{static}",
    "dynamic": "{dynamic}",
    "name_sep_static": "{name} [SEP] {static}",
    "name_sep_dynamic": "{name} [SEP] {dynamic}",
    "name_colon_static": "{name} : {static}",
    "name_colon_dynamic": "{name} : {dynamic}",
}
ENHANCED = ("static", "dynamic")


@dataclass(frozen=True)
class Text:
    """A view's string.

    span: where the mention phrase stands in it (None: not in it). cut: whether words were left out to fit. tokens: of
    the whole text, special ones included; lost: those that were left out.
    """

    string: str
    span: tuple[int, int] | None = None
    cut: bool = False
    tokens: int = 0
    lost: int = 0


def known(side: str) -> dict[str, str]:
    """Text views of a side: name -> template."""
    return MENTION_TEXTS if side == "mention" else ENTITY_TEXTS


def enhanced(side: str, view: str) -> str | None:
    """`static` or `dynamic` where the view holds a text that EnhanceEntities writes."""
    form = ENTITY_TEXTS.get(view, "") if side == "entity" else ""
    return next((mode for mode in ENHANCED if f"{{{mode}}}" in form), None)


def template(side: str, view: str) -> str:
    """The template of a text view. Raises `UserError` with the nearest right name."""
    views = known(side)
    if view not in views:
        raise UserError(f"no text view {view!r} of the {side} side{nearest(view, views)}")
    return views[view]


def reads(side: str, view: str) -> tuple[str, ...]:
    """The columns of mentions.parquet or entities.parquet that a text view is made of."""
    if side == "mention":
        return "phrase", "sentence", "start", "end"
    mode = enhanced(side, view)
    return ("name", "attributes", "description", *([mode] if mode else []))


@dataclass(frozen=True)
class TokenLimit:
    """The most tokens a text may have. count: tokens of each string, special ones included."""

    count: Callable[[Sequence[str]], list[int]]
    limit: int

    def fits(self, string: str) -> bool:
        return self.count([string])[0] <= self.limit

    def shorten(self, string: str) -> str:
        """The longest beginning that fits, ending at a word (in scripts without blanks, at a character), or inside the
        first word if that alone is too long.
        """
        return self._beginning(string, units(string)) or self._beginning(string, characters(string))

    def _beginning(self, string: str, pieces: Sequence[tuple[int, int]]) -> str:
        ends = [0, *(end for _, end in pieces)]
        return string[: ends[_largest(0, len(pieces), lambda n: n == 0 or self.fits(string[: ends[n]]))]]


def mention_texts(
    view: str,
    phrases: Sequence[str],
    sentences: Sequence[str],
    spans: Sequence[tuple[int, int] | None],
    tokens: TokenLimit,
) -> list[Text]:
    """The strings of a mention view, each within the limit.

    spans: characters of the phrase in its sentence, end exclusive; None where it was not found. A sentence that is too
    long becomes the widest window of whole words (in scripts written without blanks, of whole characters) around the
    phrase that fits (the sentence's beginning where the phrase was not found).
    """
    form = template("mention", view)
    with_sentence = "{sentence}" in form
    before = form.partition("{sentence}")[0]
    texts = []
    whole = [form.format(phrase=phrase, sentence=sentence) for phrase, sentence in zip(phrases, sentences, strict=True)]
    counts = tokens.count(whole)
    for phrase, sentence, span, string, count in zip(phrases, sentences, spans, whole, counts, strict=True):
        start, end, cut = 0, len(sentence), count > tokens.limit

        def fits(part: str, phrase: str = phrase) -> bool:
            return tokens.fits(form.format(phrase=phrase, sentence=part))

        if cut and with_sentence:
            start, end = _window(sentence, span, fits)
            string = form.format(phrase=phrase, sentence=sentence[start:end])
        if cut and (start == end or not tokens.fits(string)):
            string, start, end = tokens.shorten(form.format(phrase=phrase, sentence=sentence)), 0, 0
        if not with_sentence and not cut:
            texts.append(Text(string, (0, len(phrase))))
        elif with_sentence and span is not None and start <= span[0] and span[1] <= end:
            shift = len(before.format(phrase=phrase)) - start
            texts.append(Text(string, (span[0] + shift, span[1] + shift), cut))
        else:
            texts.append(Text(string, cut=cut))
    return _counted(texts, counts, tokens)


def entity_texts(view: str, table: Mapping[str, Sequence[str]], tokens: TokenLimit) -> list[Text | None]:
    """The strings of an entity view, each cut at a word to be within the limit; None where the record has no such text.

    table: columns name, attributes, description and, for a view that `enhanced` names, `static` or `dynamic`. An entity
    whose static or dynamic text is empty has no string then, whatever else stands in the view.
    """
    form, mode = template("entity", view), enhanced("entity", view)
    only = re.fullmatch(r"\{(\w+)\}", form)
    needed = mode or (only and only[1])
    columns = reads("entity", view)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*(table[name] for name in columns), strict=True)]
    whole = [form.format(**row) for row in rows]
    there = [not needed or bool(row[needed].strip()) for row in rows]
    cut = iter(shortened([string for string, present in zip(whole, there, strict=True) if present], tokens))
    return [next(cut) if present else None for present in there]


def shortened(strings: Sequence[str], tokens: TokenLimit) -> list[Text]:
    """The strings, each cut at a word to be within the limit."""
    counts = tokens.count(strings) if strings else []
    texts = [
        Text(tokens.shorten(string), cut=True) if count > tokens.limit else Text(string)
        for string, count in zip(strings, counts, strict=True)
    ]
    return _counted(texts, counts, tokens)


def _counted(texts: Sequence[Text], counts: Sequence[int], tokens: TokenLimit) -> list[Text]:
    """The texts with the tokens that they had, `counts`, and those that they lost."""
    cut = [text.string for text in texts if text.cut]
    left = iter(tokens.count(cut) if cut else ())
    return [
        replace(text, tokens=count, lost=count - next(left) if text.cut else 0)
        for text, count in zip(texts, counts, strict=True)
    ]


def _largest(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """The largest n in [low, high] for which `fits` holds, `fits` being monotone and true for `low`."""
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _window(sentence: str, span: tuple[int, int] | None, fits: Callable[[str], bool]) -> tuple[int, int]:
    """Start and end of the widest window of whole words that fits, centred on `span`.

    In scripts written without blanks, the characters are the words, and more are taken on one side where they fit.
    """
    words = units(sentence)
    if not words:
        return 0, 0
    if span is None:
        taken = _largest(0, len(words), lambda n: fits(sentence[: words[n - 1][1]] if n else ""))
        return 0, words[taken - 1][1] if taken else 0
    first = next((i for i, word in enumerate(words) if word[1] > span[0]), len(words) - 1)
    last = next((i for i in range(len(words) - 1, -1, -1) if words[i][0] < span[1]), 0)

    def bounds(around: int) -> tuple[int, int]:
        return words[max(0, first - around)][0], words[min(len(words) - 1, last + around)][1]

    if not fits(sentence[slice(*bounds(0))]):
        return span
    around = _largest(0, len(words), lambda n: fits(sentence[slice(*bounds(n))]))
    start, end = bounds(around)

    # Words that no blank parts from the window are taken on one side too.
    low, high = max(0, first - around), min(len(words) - 1, last + around)
    behind = takewhile(lambda at: words[at][0] == words[at - 1][1], range(high + 1, len(words)))
    ends = [end, *(words[at][1] for at in behind)]
    end = ends[_largest(0, len(ends) - 1, lambda n: fits(sentence[start : ends[n]]))]
    before = takewhile(lambda at: words[at][1] == words[at + 1][0], range(low - 1, -1, -1))
    starts = [start, *(words[at][0] for at in before)]
    start = starts[_largest(0, len(starts) - 1, lambda n: fits(sentence[starts[n] : end]))]
    return start, end
