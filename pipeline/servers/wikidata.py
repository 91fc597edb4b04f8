"""Entities by their ids, from the api.php of a Wikidata."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.servers.mediawiki import Api, part


def entities(api: Api, ids: Sequence[str], parameters: Mapping[str, str]) -> dict[str, dict[str, Any] | None]:
    """Id -> entity as JSON, None where there is none; one that was merged into another is that one.

    parameters: `props` and what narrows them. Raises as `Api.ask`.
    """
    left = list(ids)
    found: dict[str, dict[str, Any] | None] = dict.fromkeys(ids)
    while left:
        content = api.ask({"action": "wbgetentities", "ids": "|".join(left), **parameters}, _lacks(left))
        error = part(content, "error")
        if error.get("code") == "no-such-entity" and error.get("id") in left:
            left.remove(error["id"])  # one unknown id fails the whole request
            continue
        if error:
            raise api.refusal("wbgetentities", content)
        for name, entity in _answered(content).items():
            if "missing" not in entity and name in found:
                found[name] = entity
        break
    return found


def _answered(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What an answer says by id; of an entity that another was merged into, by both ids."""
    listed = part(content, "entities")
    entities = {name: entity for name in listed if (entity := part(listed, name))}
    merged = {str(part(entity, "redirects").get("from")): entity for entity in entities.values()}
    return {**merged, **entities}


def _lacks(ids: Sequence[str]) -> Callable[[dict[str, Any]], str | None]:
    """The first id that an answer says nothing of: a server that does not know it says so."""
    wanted = tuple(ids)

    def lacks(content: dict[str, Any]) -> str | None:
        answered = _answered(content)
        return next((name for name in wanted if name not in answered), None)

    return lacks
