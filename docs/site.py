"""MkDocs hook: the pages at the repository's top are pages of the site too, with their links changed accordingly."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages at the repository's top."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=for_site((ROOT / name).read_text())))
    return files


def for_site(text: str) -> str:
    """The text with links to pages of the site; names of other files of the repository lose their link."""

    def link(match: re.Match[str]) -> str:
        name, target = match.groups()
        path, hash_, anchor = target.partition("#")
        if "://" in target or not path:
            return match[0]
        inside = PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        return f"[{name}]({inside}{hash_}{anchor})" if inside else name

    return re.sub(r"\[([^\]]+)\]\(([^)\s]+)\)", link, text)
