"""What version 0.2 of the reconciliation API asks of its JSON, as schemas: manifest, queries, results, suggestions.

Written after https://reconciliation-api.github.io/specs/0.2/; strict where the service has no reason to use a freedom.
"""

from typing import Any

TEXT = {"type": "string"}
NAMED: dict[str, Any] = {
    "type": "object",
    "required": ["id", "name"],
    "properties": {"id": TEXT, "name": TEXT, "description": TEXT},
}
WITH_ID = {"type": "string", "pattern": r"\{\{id\}\}"}
_SUGGEST = {"type": "object", "required": ["service_url", "service_path"], "properties": dict.fromkeys(
    ("service_url", "service_path", "flyout_service_url", "flyout_service_path"), TEXT)}  # fmt: skip
MANIFEST = {
    "type": "object",
    "required": ["versions", "name", "identifierSpace", "schemaSpace", "view", "preview", "suggest", "defaultTypes"],
    "properties": {
        "versions": {"type": "array", "items": TEXT, "contains": {"const": "0.2"}},
        **dict.fromkeys(("name", "identifierSpace", "schemaSpace", "documentation", "serviceVersion", "logo"), TEXT),
        "view": {"type": "object", "required": ["url"], "properties": {"url": WITH_ID}},
        "defaultTypes": {"type": "array", "items": NAMED, "uniqueItems": True},
        "suggest": {"type": "object", "properties": dict.fromkeys(("entity", "property", "type"), _SUGGEST)},
        "preview": {
            "type": "object",
            "required": ["url", "width", "height"],
            "properties": {"url": WITH_ID, "width": {"type": "integer"}, "height": {"type": "integer"}},
        },
    },
}
_VALUE = {
    "oneOf": [
        *({"type": kind} for kind in ("string", "number", "boolean")),
        {"type": "object", "required": ["id"], "properties": {"id": TEXT, "name": TEXT}},
    ]
}
_PROPERTY = {
    "type": "object",
    "required": ["pid", "v"],
    "properties": {"pid": TEXT, "v": {"oneOf": [_VALUE, {"type": "array", "items": _VALUE}]}},
}
QUERIES = {
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "query": TEXT,
            "type": {"oneOf": [TEXT, {"type": "array", "items": TEXT}]},
            "limit": {"type": "number"},
            "properties": {"type": "array", "items": _PROPERTY},
            "type_strict": {"enum": ["any", "should", "all"]},
        },
        "anyOf": [{"required": ["query"]}, {"required": ["properties"], "properties": {"properties": {"minItems": 1}}}],
    },
}
_CANDIDATE = {
    "type": "object",
    "required": ["id", "name", "score", "match", "type"],
    "additionalProperties": False,
    "properties": {
        **dict.fromkeys(("id", "name", "description"), TEXT),
        "score": {"type": "number"},
        "match": {"type": "boolean"},
        "type": {"type": "array", "minItems": 1, "items": NAMED},
    },
}
RESULTS = {
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "required": ["result"],
        "properties": {"result": {"type": "array", "items": _CANDIDATE}},
    },
}
TYPES = {"type": "object", "required": ["result"], "properties": {"result": {"type": "array", "items": NAMED}}}
ENTITIES = {
    "type": "object",
    "required": ["result"],
    "properties": {
        "result": {
            "type": "array",
            "items": {**NAMED, "properties": {**NAMED["properties"], "notable": {"type": "array", "items": NAMED}}},
        }
    },
}
