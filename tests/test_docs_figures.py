"""Figures on the methods' pages, measured again: a row of each page's table over the demo."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from documents import ROOT

# The demo's encoders are trained where they run, and other processors round otherwise.
POINTS = 3.0
ROWS = {
    "drin": ("The demo's test split", '{"image_feature": null}', "test", "candidates"),
    "dwe": ("Dev, H@1 on candidate lists", '{"units": ["text"], "coarse": false, "fine": false}', "dev", "candidates"),
}


@pytest.mark.parametrize("method", ROWS)
def test_a_row_of_the_pages_table_is_what_the_command_gives(demo_work, tmp_path, method):
    title, params, split, protocol = ROWS[method]
    table = (ROOT / "docs" / f"{method}.md").read_text().partition(title)[2].partition("\n\n")[2].partition("\n\n")[0]
    (row,) = (line for line in table.splitlines() if line.startswith(f"| `{params}` |"))
    stated = float(re.split(r"\s*\|\s*", row)[2])
    work = shutil.copytree(demo_work[0], tmp_path / "artifacts")
    command = [sys.executable, "-m", "luigi", "--module", "tasks", "TrainHead", "--work-dir", str(work)]
    subprocess.run(
        [*command, "--method", method, "--params", params],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=1500,
        check=True,
    )
    (folder,) = {
        folder
        for folder in work.glob(f"runs/demo/{method}/*")
        if json.loads(params).items() <= json.loads((folder / "run.json").read_text())["config"].items()
    }
    measured = 100 * json.loads((folder / "metrics.json").read_text())[split][protocol]["all"]["H@1"]
    assert stated == pytest.approx(measured, abs=POINTS)
