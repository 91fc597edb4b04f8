"""MkDocs hook: README, CONTRIBUTING and CHANGELOG are pages of the site too, with their links as they have to be there."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that stand at the repository's top."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=for_site((ROOT / name).read_text())))
    return files


def for_site(text: str) -> str:
    """Links to pages lead to them within the site; the names of other files of the repository stay, without a link."""

    def link(match: re.Match[str]) -> str:
        name, target = match.groups()
        path, hash_, anchor = target.partition("#")
        if "://" in target or not path:
            return match[0]
        inside = PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        return f"[{name}]({inside}{hash_}{anchor})" if inside else name

    return re.sub(r"\[([^\]]+)\]\(([^)\s]+)\)", link, text)
