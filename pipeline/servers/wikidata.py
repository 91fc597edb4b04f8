"""Entities by their ids, from the api.php of a Wikidata."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.servers.mediawiki import Api, part


def entities(api: Api, ids: Sequence[str], parameters: Mapping[str, str]) -> dict[str, dict[str, Any] | None]:
    """Id -> entity as JSON, None where there is none; one that was merged into another is that one.

    parameters: `props` and what narrows them. Raises as `Api.ask`.
    """
    left = list(ids)
    found: dict[str, dict[str, Any] | None] = dict.fromkeys(ids)
    while left:
        content = api.ask({"action": "wbgetentities", "ids": "|".join(left), **parameters})
        error = part(content, "error")
        if error.get("code") == "no-such-entity" and error.get("id") in left:
            left.remove(error["id"])  # one unknown id fails the whole request
            continue
        if error:
            raise api.refusal("wbgetentities", content)
        answered = part(content, "entities")
        for name in answered:
            entity = part(answered, name)
            if "missing" not in entity:
                for known in {name, str(part(entity, "redirects").get("from"))} & set(left):
                    found[known] = entity
        break
    return found
