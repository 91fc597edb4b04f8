"""The documentation as a site: it builds with warnings as errors, every page is found from the menu, and nothing is
loaded from elsewhere."""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from documents import ROOT, blocks

LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "embed": "src",
    "object": "data",
    "link": "href",
}


class Page(HTMLParser):
    """What a page loads, where it leads, and the places in it that can be led to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.places |= {found[name] for name in ("id", "name") if name in found}
        if tag in LOADED and found.get(LOADED[tag]):
            self.loads.append(found[LOADED[tag]])
        if tag == "a" and "href" in found:
            self.links.append(found["href"])


def build(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--config-file",
        str(source / "mkdocs.yml"),
        "--site-dir",
        str(out),
    ]
    return subprocess.run(
        command,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("docs") / "site"
    done = build(ROOT, out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path.read_text()) for path in site.rglob("*.html")}


def test_every_page_of_the_folder_and_those_at_the_top_are_there(site):
    wanted = {path.stem for path in (ROOT / "docs").glob("*.md")} | {"index", "contributing", "changelog", "security"}
    assert wanted <= {path.stem for path in site.glob("*.html")}
    assert not list(site.rglob("*.py"))


def test_pages_load_nothing_from_elsewhere(site, pages):
    for path, page in pages.items():
        assert page.loads and not [target for target in page.loads if re.match(r"(\w+:)?//", target)], path
        styles = "".join(re.findall(r"<style.*?</style>", path.read_text(), re.S))
        assert not re.search(r"url\(\W*(https?:)?//|@import", styles), path
        # What the theme's script would fetch if a page asked for it: diagrams, and figures about a repository.
        assert "mermaid" not in path.read_text() and 'data-md-component="source"' not in path.read_text(), path
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(\W*(https?:)?//|@import", path.read_text()), path


def test_links_of_the_site_lead_somewhere(site, pages):
    count = 0
    for path, page in pages.items():
        if path.name == "404.html":
            continue
        for link in page.links:
            target, anchor = urldefrag(link)
            if re.match(r"\w+:", link):
                continue
            there = (path.parent / unquote(target)).resolve() if target not in ("", ".") else path
            there = there / "index.html" if there.is_dir() else there
            assert there.is_relative_to(site.resolve()) and there.is_file(), (path.name, link)
            assert not anchor or anchor in pages[site / there.relative_to(site.resolve())].places, (path.name, link)
            count += 1
    assert count > 100


def test_blocks_are_shown_without_their_mark_and_coloured(site):
    for source in (ROOT / "docs").glob("*.md"):
        shown = (site / f"{source.stem}.html").read_text()
        assert "```" not in shown, source.name
        assert shown.count('<div class="language-bash highlight">') == sum(
            block.language == "bash" for block in blocks(source)
        ), source.name


def test_a_dead_link_a_dead_anchor_and_a_page_without_a_place_fail_the_build(tmp_path):
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("mkdocs.yml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "docs" / "forgotten.md").write_text("# Forgotten\n")
    with (tmp_path / "docs" / "demo.md").open("a") as page:
        page.write("\n[a](nowhere.md) [b](models.md#nowhere)\n")
    done = build(tmp_path, tmp_path / "site")
    told = done.stdout + done.stderr
    assert done.returncode != 0 and "forgotten.md" in told and "nowhere.md" in told and "#nowhere" in told, told
