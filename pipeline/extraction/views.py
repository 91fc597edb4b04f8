"""What is read of a record: exact strings (templates, windows around the mention) and which image."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from foundation.errors import UserError, nearest

IMAGE = "image"  # the record's picture, of several the first usable one
IMAGES = "images"  # all usable pictures of an entity
PICTURES = (IMAGE, IMAGES)
# MIMIC eq. 2 and 3: the [SEP] is written out; BERT's tokenizer reads it as its special token, CLIP's as a literal string.
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
# Texts made of what a feature found in the mention's picture, none or several per mention: view -> that feature.
FROM_FEATURES = {"face_attributes": "face_attributes", "identities": "identity"}

CountTokens = Callable[[Sequence[str]], list[int]]


@dataclass(frozen=True)
class Text:
    """A view's string. span: where the mention phrase stands in it (None: not in it). cut: whether words were left out to fit."""

    string: str
    span: tuple[int, int] | None = None
    cut: bool = False


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


def mention_texts(
    view: str,
    phrases: Sequence[str],
    sentences: Sequence[str],
    spans: Sequence[tuple[int, int] | None],
    count: CountTokens,
    limit: int,
) -> list[Text]:
    """The strings of a mention view, each of at most `limit` tokens.

    A sentence that is too long becomes the widest window of whole words around the phrase that fits (the sentence's beginning where the phrase
    was not found). count: token counts of strings, special tokens included.
    """
    form = template("mention", view)
    before = form.partition("{sentence}")[0]
    texts = []
    whole = [form.format(phrase=phrase, sentence=sentence) for phrase, sentence in zip(phrases, sentences, strict=True)]
    for phrase, sentence, span, string, tokens in zip(phrases, sentences, spans, whole, count(whole), strict=True):
        start, end, cut = 0, len(sentence), tokens > limit
        if cut and "{sentence}" in form:
            start, end = _window(
                sentence,
                span,
                lambda part, phrase=phrase: count([form.format(phrase=phrase, sentence=part)])[0] <= limit,
            )
            string = form.format(phrase=phrase, sentence=sentence[start:end])
        if cut and (start == end or count([string])[0] > limit):
            string, start, end = _shorten(form.format(phrase=phrase, sentence=sentence), count, limit), 0, 0
        shift = len(before.format(phrase=phrase)) - start
        inside = "{sentence}" in form and span is not None and start <= span[0] and span[1] <= end
        if "{sentence}" not in form and not cut:
            texts.append(Text(string, (0, len(phrase))))
        else:
            texts.append(Text(string, (span[0] + shift, span[1] + shift) if inside and span else None, cut))
    return texts


def entity_texts(
    view: str,
    names: Sequence[str],
    attributes: Sequence[str],
    descriptions: Sequence[str],
    count: CountTokens,
    limit: int,
    written: Sequence[str] = (),
) -> list[Text | None]:
    """The strings of an entity view, each cut at a word so that it has at most `limit` tokens; None where the record has no such text.

    written: for a view that `enhanced` names, the static or dynamic text of each entity, empty where it has none: such an entity has no string then,
    whatever else stands in the view.
    """
    form, mode = template("entity", view), enhanced("entity", view)
    only = re.fullmatch(r"\{(\w+)\}", form)
    needed = mode or (only and only[1])
    rows = [
        {"name": name, "attributes": attribute, "description": description}
        for name, attribute, description in zip(names, attributes, descriptions, strict=True)
    ]
    if mode:
        rows = [{**row, mode: text} for row, text in zip(rows, written, strict=True)]
    whole = [form.format(**row) for row in rows]
    texts: list[Text | None] = []
    for row, string, tokens in zip(rows, whole, count(whole), strict=True):
        if needed and not row[needed].strip():
            texts.append(None)
        elif tokens > limit:
            texts.append(Text(_shorten(string, count, limit), cut=True))
        else:
            texts.append(Text(string))
    return texts


def shortened(strings: Sequence[str], count: CountTokens, limit: int) -> tuple[list[str], int]:
    """The strings, each cut at a word so that it has at most `limit` tokens, and how many were cut."""
    long = [tokens > limit for tokens in count(strings)] if strings else []
    return [_shorten(string, count, limit) if cut else string for string, cut in zip(strings, long, strict=True)], sum(
        long
    )


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
    """Start and end of the widest window of whole words that fits, centred on `span`."""
    words = [match.span() for match in re.finditer(r"\S+", sentence)]
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
    return bounds(_largest(0, len(words), lambda n: fits(sentence[slice(*bounds(n))])))


def _shorten(string: str, count: CountTokens, limit: int) -> str:
    """The longest beginning of `string` that fits, ending at a word, or inside the first word if that alone is too long."""
    ends = [match.end() for match in re.finditer(r"\S+", string)]
    taken = _largest(0, len(ends), lambda n: n == 0 or count([string[: ends[n - 1]]])[0] <= limit)
    if taken:
        return string[: ends[taken - 1]]
    return string[: _largest(0, len(string), lambda n: n == 0 or count([string[:n]])[0] <= limit)]
