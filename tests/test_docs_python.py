"""The page on the Python interface, run block by block in one session, as a reader of a notebook would run it."""

import json
import os
import subprocess
import sys

import pytest
import small_world
import yaml
from documents import ROOT, blocks

PAGE = ROOT / "docs" / "python.md"
DRIVER = """
import json, sys
session = {}
for place, text in json.load(open(sys.argv[1])):
    try:
        exec(compile(text, place, "exec"), session)
    except BaseException as error:
        raise SystemExit(f"{place}: {type(error).__name__}: {error}")
import mel_cache
found = {name: type(value).__name__ for name, value in session.items() if type(value).__name__ in mel_cache.__all__}
print("RESULTS", json.dumps(found))
"""


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """A folder with data and a profile in which all blocks were run, and what they printed."""
    folder = tmp_path_factory.mktemp("notebook")
    small_world.write(folder / "data", mentions=60)
    path = small_world.profile(folder)
    content = yaml.safe_load(path.read_text())
    (folder / "mine.yaml").write_text(yaml.safe_dump(content))
    (folder / "blocks.json").write_text(
        json.dumps([(str(block), block.text) for block in blocks(PAGE) if block.language == "python"])
    )
    (folder / "driver.py").write_text(DRIVER)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MEL_")}
    done = subprocess.run(
        [sys.executable, "driver.py", "blocks.json"],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_every_block_runs_and_every_function_gives_its_result(session):
    results = json.loads(session[1].rpartition("RESULTS ")[2])
    table = PAGE.read_text().partition("| function |")[2].partition("\n\n")[0]
    named = {line.split("|")[3].strip(" `") for line in table.splitlines()[2:]}
    assert len(named) == 12 and named == set(results.values())


def test_every_block_of_python_is_one_that_is_run():
    assert all(block.mark == "run" for block in blocks(PAGE) if block.language == "python")


def test_the_page_names_every_public_name_but_types_of_fields():
    import mel_cache

    text = PAGE.read_text()
    assert [name for name in mel_cache.__all__ if f"`{name}`" not in text] == []
