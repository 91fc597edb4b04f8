"""Names of pages: QIDs, titles, and addresses that hold either."""

import re
import unicodedata
from urllib.parse import unquote

_QID = re.compile(r"Q[1-9]\d{0,18}")
_ADDRESS = re.compile(r"https?://[^/]+/(?:wiki|entity)/(?P<page>[^?#]+)", re.I)
_NOT_IN_TITLES = re.compile(r"[#<>\[\]|{}\x00-\x1f\x7f]")


def page_key(name: str) -> str:
    """A QID or page title in one form: what stands behind /wiki/ or /entity/ in an address, percent-decoded, blanks for
    underscores, first letter large.
    """
    name = name.strip()
    address = _ADDRESS.match(name)
    name = unquote(address["page"] if address else name)
    name = " ".join(unicodedata.normalize("NFC", name).replace("_", " ").split())
    return name[:1].upper() + name[1:]


def qid_of(name: str) -> str | None:
    """The QID that an entity's id is, in whatever form: `Q8`, `q8`, an address of Wikidata; None where it is none."""
    key = page_key(name)
    return key if _QID.fullmatch(key) else None


def possible(title: str) -> bool:
    """Whether a wiki could have a page of this title (no reserved characters, at most 255 bytes, no relative path)."""
    reserved = _NOT_IN_TITLES.search(title) or title in (".", "..") or title.startswith(":")
    return bool(title) and not reserved and len(title.encode("utf-8", "surrogatepass")) <= 255
