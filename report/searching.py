"""Words as searches compare them, on the page of Explore as in the script of Report (`plain` in page.js)."""

from foundation.spelling import fold as plain


def holds(text: str, query: str) -> bool:
    """Whether every word of `query` stands in `text`, which is `plain` already."""
    return all(word in text for word in plain(query).split())


__all__ = ["holds", "plain"]
