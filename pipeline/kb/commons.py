"""What Commons says of its files: the address of a thumbnail, author and licence."""

import html
import re
from collections.abc import Sequence
from typing import Any

from pipeline.kb.values import clean
from pipeline.servers.mediawiki import Api, lacks_pages, part, records

_TAG = re.compile(r"<[^<>]{0,2000}>")
_FREE = re.compile(
    r"(cc0|cc-zero|pd|public-domain|cc-by(-sa)?|gfdl|fal|free-art-license|attribution|odbl|ogl|copyrighted-free-use)\b"
)
_UNFREE = re.compile(r"(^|-)(nc|nd)(-|$)")
_FIELDS = {"author": "Artist", "licence": "LicenseShortName", "licence_url": "LicenseUrl", "code": "License"}
LONGEST = 500
"""Characters of an author's name, or of a licence's."""


def plain(value: Any) -> str:
    """Text of a field that Commons writes in HTML."""
    return clean(html.unescape(_TAG.sub("", value[:20_000])))[:LONGEST] if isinstance(value, str) else ""


def is_free(info: dict[str, Any]) -> bool:
    """Whether a file may be used, changed and passed on by anybody: in the public domain, or under a licence that asks
    for the author's name or the same licence at most. One without a licence that is known may not.
    """
    names = [re.sub(r"[\s_]+", "-", info.get(key, "").lower()) for key in ("code", "licence")]
    return any(map(_FREE.match, names)) and not any(map(_UNFREE.search, names))


def describe(api: Api, titles: Sequence[str], width: int) -> dict[str, dict[str, Any]]:
    """Name of a file -> {`address` of a thumbnail that wide, `page`, `author`, `licence`, `licence_url`, `code`}, or
    {`none`: why there is none}. Names are as `page_key` spells them, without `File:`.
    """
    parameters = {
        "action": "query",
        "prop": "imageinfo",
        "iiprop": "url|extmetadata",
        "iiurlwidth": str(width),
        "iiextmetadatafilter": "|".join(_FIELDS.values()),
        "redirects": "1",
        "titles": "|".join(f"File:{title}" for title in titles),
    }
    names: dict[str, str] = {}
    pages: dict[str, dict[str, Any]] = {}
    more: dict[str, str] = {}
    for _ in range(2 + len(titles)):
        content = api.checked({**parameters, **more}, lacks_pages)
        query = part(content, "query")
        for hop in [*records(query, "normalized"), *records(query, "redirects")]:
            names[str(hop.get("from"))] = str(hop.get("to"))
        for page in records(query, "pages"):
            pages.setdefault(str(page.get("title")), {}).update(page)
        more = {str(key): str(value) for key, value in part(content, "continue").items()}
        if not more:
            break
    return {title: _info(pages.get(_followed(f"File:{title}", names), {})) for title in titles}


def _followed(title: str, names: dict[str, str]) -> str:
    for _ in range(5):  # a circle leads to no page
        title = names.get(title, title)
    return title


def _info(page: dict[str, Any]) -> dict[str, Any]:
    listed = records(page, "imageinfo")
    if not listed:
        return {"none": "no such file on Commons"}
    info = listed[0]
    address = info.get("thumburl") or info.get("url")
    if not isinstance(address, str):
        return {"none": "no picture that can be shown"}
    said = part(info, "extmetadata")
    found = {name: plain(part(said, field).get("value")) for name, field in _FIELDS.items()}
    return {"address": address, "page": str(info.get("descriptionurl") or ""), **found}
