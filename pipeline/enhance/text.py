"""From a page or an answer to a short plain text: the first paragraphs without markup, cut at a sentence."""

import html
import re
import unicodedata

from foundation.spelling import units

LONGEST = 200_000  # characters of a page that are looked at; its first paragraphs stand far before
_TAGS = re.compile(r"</?[A-Za-z][^<>]{0,500}>")
_REFERENCE = re.compile(r"<ref\b[^<>]{0,500}/>|<ref\b[^<>]{0,500}>.{0,5000}?</ref\s*>", re.S | re.I)
_NOTE = re.compile(
    r"\[(?:\d{1,3}|[a-z]|(?:note|nb|lower-alpha|n) \d{1,3}"
    r"|citation needed|update|clarification needed|who\?|when\?|edit)\]",
    re.I,
)
_LINK = re.compile(r"\[\[(?:[^\[\]|]{0,300}\|)?([^\[\]|]{0,300})\]\]")
_WEB_LINK = re.compile(r"\[https?://[^\s\]]{1,500}(?: ([^\]\[]{0,300}))?\]")
_MARKDOWN_LINK = re.compile(r"\[([^\[\]]{1,300})\]\(https?://[^\s()]{1,500}\)")
_EMPHASIS = re.compile(r"'{2,5}|\*{2,3}|__|(?<!\w)`{1,3}|`{1,3}(?!\w)")
_HEADING = re.compile(r"={2,6}[^=\n]{1,200}={2,6}|#{1,6} .{0,200}")
_BULLET = re.compile(r"(?:[-*•–]|\d{1,2}[.)]) +")
_EMPTY_BRACKETS = re.compile(r"\s?\([\s,;:/–-]{0,20}\)")
_BRACKET_START = re.compile(
    r"\([\s,;:]{1,20}(?=\S)"
)  # what stood first in the brackets was a template: a pronunciation, as a rule
_SENTENCE_END = re.compile(r"[.!?…।॥؟\u06d4።។။][\"'”’)\]]{0,2}(?=\s|$)|[。！？][\"'”’)\]」』\uff09]{0,2}")
_KEPT = "\n\t\u200c\u200d"  # of the control and format characters; the joiners spell words in some scripts
_ENDS = tuple(".!?:;…\"'”’)]。！？।॥؟\u06d4።។။」』\uff09")


def _without_blocks(text: str, opening: str, closing: str) -> str:
    """`text` without everything between `opening` and its `closing`, nested or not; an unclosed block reaches to the
    end of its line.
    """
    parts, depth, place = [], 0, 0
    for match in re.finditer(f"{re.escape(opening)}|{re.escape(closing)}", text):
        if match[0] == opening:
            if depth == 0:
                parts.append(text[place : match.start()])
                place = match.start()
            depth += 1
        elif depth:
            depth -= 1
            if depth == 0:
                place = match.end()
    rest = text[place:]
    if depth:
        rest = rest[rest.find("\n") :] if "\n" in rest else ""
    return "".join(parts) + rest


def paragraphs(raw: str) -> list[str]:
    """The paragraphs of a text as it comes (plain, wikitext, HTML fragments, Markdown) without markup, references,
    headings and spare blanks.

    Lines that were broken in mid-sentence are joined. A heading after the first paragraph ends the text: what follows
    is no longer the introduction.
    """
    text = raw[:LONGEST].replace("\r\n", "\n").replace("\r", "\n")
    text = _REFERENCE.sub("", _without_blocks(text, "<!--", "-->"))
    text = _without_blocks(_without_blocks(text, "{{", "}}"), "{|", "|}")
    text = html.unescape(_TAGS.sub("", text))
    for pattern in (_MARKDOWN_LINK, _LINK, _WEB_LINK):
        text = pattern.sub(lambda match: match[1] or "", text)
    text = _BRACKET_START.sub("(", _EMPTY_BRACKETS.sub("", _EMPHASIS.sub("", _NOTE.sub("", text))))
    text = unicodedata.normalize(
        "NFC", "".join(c if c in _KEPT or not unicodedata.category(c).startswith("C") else "" for c in text)
    )
    blocks: list[list[str]] = []
    starts = True
    for line in text.split("\n"):
        line = re.sub(r"\s+", " ", line).strip()
        if _HEADING.fullmatch(line):
            if blocks:
                break
        elif line:
            line = _BULLET.sub("", line, count=1) if _BULLET.match(line) else line
            if starts or blocks[-1][-1].endswith(_ENDS):
                blocks.append([line])
            else:
                blocks[-1].append(line)
            starts = False
            continue
        starts = True
    return [paragraph for paragraph in map(" ".join, blocks) if any(c.isalnum() for c in paragraph)]


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters, up to the last whole sentence; where that loses half of them, the last whole word (in
    scripts written without blanks, character).
    """
    if len(text) <= limit:
        return text
    end = next(
        (match.end() for match in reversed(list(_SENTENCE_END.finditer(text, 0, limit))) if match.end() > limit // 2), 0
    )
    if not end:
        end = max((end for _, end in units(text[: limit + 1]) if end <= limit), default=limit)
    return text[:end].rstrip()


def opening(raw: str, count: int | None, limit: int) -> str:
    """The first `count` paragraphs (None: all) as one line of at most `limit` characters; may be empty."""
    return shorten(" ".join(paragraphs(raw)[:count]), limit)


_TOKEN = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)[^<>]*>|([^<]+|<)")
_SKIPPED = {"table", "style", "script", "sup", "figure", "figcaption", "aside", "noscript", "math"}


def html_text(page: str) -> str:
    """The paragraphs of a wiki's rendered HTML, outside tables, notes and figures, one a line, characters still
    escaped, for `paragraphs` to clean.

    A tokeniser of one pass: the standard library's parser takes quadratic time over malformed pages.
    """
    blocks: list[list[str]] = []
    skipping: list[str] = []
    inside = False
    for closing, name, data in _TOKEN.findall(_without_blocks(page[: 5 * LONGEST], "<!--", "-->")):
        tag = name.lower()
        if data:
            if inside and not skipping:
                blocks[-1].append(data)
        elif tag in _SKIPPED:
            if not closing:
                skipping.append(tag)
            elif tag in skipping[-1:]:
                skipping.pop()
        elif tag == "p":
            inside = not closing and not skipping
            blocks += [[]] if inside else []
        elif tag == "br" and inside:
            blocks[-1].append(" ")
    return "\n\n".join(filter(None, (" ".join("".join(parts).split()) for parts in blocks)))


def whole(text: str) -> str:
    """`text` without halves of surrogate pairs, which a server leaves where it cuts a character; no file takes them."""
    return text.encode("utf-8", "ignore").decode()
