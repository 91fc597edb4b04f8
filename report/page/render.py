"""The page's HTML: template, style, script and data in one file, under a policy that lets nothing else run or load."""

import json
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from foundation.tables import word_columns

HERE = Path(__file__).parent


def render(context: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """The page. context: what the template writes, all of it escaped. data: what the script shows, as JSON values."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"shade": shade, "depth": depth, "word_columns": word_columns}
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src {_source(style)}; script-src {_source(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return environment.get_template("page.html").render(
        **context,
        policy=policy,
        style=Markup(style),
        script=Markup(script),
        data=Markup(embedded(data)),
    )


def embedded(data: Any) -> str:
    """JSON that can stand in a `<script type="application/json">`: without `<`, nothing in it ends the element."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "backslashreplace").decode()  # a lone surrogate is no UTF-8; as \udXXX it is JSON


def _source(content: str) -> str:
    return f"'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'"


def shade(text: str) -> int:
    """0 to 10 for a percentage, the darker the more; 0 where it is none."""
    try:
        return round(float(text.split(" ")[0]) / 10)
    except ValueError:
        return 0


def depth(text: str) -> int:
    """How deep a label is indented."""
    return (len(text) - len(text.lstrip(" "))) // 2
