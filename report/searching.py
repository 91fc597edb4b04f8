"""Words as searches compare them, on the page of Explore as in the script of Report (`plain` in page.js)."""

import unicodedata


def plain(text: str) -> str:
    """`text` in small letters without accents and compatibility forms: `Çelik` is found as `celik`, `ﬁne` as `fine`."""
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(letter for letter in decomposed if not unicodedata.category(letter).startswith("M")).lower()


def holds(text: str, query: str) -> bool:
    """Whether every word of `query` stands in `text`, which is `plain` already."""
    return all(word in text for word in plain(query).split())
