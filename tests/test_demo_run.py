"""The demo as a newcomer runs it: one command, all regimes in the table, nothing done twice."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REGIMES = {"text-decides", "picture-decides", "both-decide", "picture-misleads", "picture-missing"}


def metrics(work: Path) -> dict:
    return json.loads(next(work.glob("runs/demo/mimic/*/metrics.json")).read_text())


def test_one_command_trains_mimic_on_the_demo_and_reports_every_regime(demo_work):
    work, output = demo_work
    full = metrics(work)["test"]["full-kb"]
    assert {name.removeprefix("group: ") for name in full if name.startswith("group: ")} == REGIMES
    assert len({full[f"group: {regime}"]["n"] for regime in REGIMES}) == 1, "equally many"
    assert full["all"]["H@1"] > 0.55 and full["group: picture-decides"]["H@1"] > 0.5
    assert str(work / "cache") in output and str(work / "runs") in output


def test_bad_pictures_of_the_demo_are_counted_by_cause_and_are_verdicts_in_the_cache(demo_work):
    work, _ = demo_work
    text = next(work.glob("datasets/demo-*/account.txt")).read_text()
    assert "truncated" in text and "not an image" in text
    receipt = next(
        r
        for path in work.glob("receipts/ExtractGroup-*.json")
        if "clip_image" in (r := json.loads(path.read_text()))["result"]["features"]
    )
    assert receipt["result"]["features"]["clip_image"]["verdicts"]["broken"] > 20


def test_the_second_run_does_nothing_and_prints_the_table(demo_work):
    work, output = demo_work
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()}
    command = [
        sys.executable,
        "-m",
        "luigi",
        "--module",
        "tasks",
        "TrainHead",
        "--method",
        "mimic",
        "--work-dir",
        str(work),
    ]
    again = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert again.strip() and output.rstrip().endswith(again.rstrip())
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()} == before


def test_what_is_found_in_the_demos_pictures_is_what_was_drawn_there(demo_work, tmp_path):
    """Detector, crops, attributes, names and face vectors of the world's own pictures, through extractors and cache."""
    work = shutil.copytree(demo_work[0], tmp_path / "artifacts")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    features = "objects,faces,face_attributes,identity,face_embedding"
    command = [
        sys.executable,
        "-m",
        "luigi",
        "--module",
        "tasks",
        "ExtractFeatures",
        "--features",
        features,
        "--work-dir",
        str(work),
    ]
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=1500, check=True)
    findings = [sys.executable, "benchmarks/demo_findings.py", "--work-dir", str(work)]
    output = subprocess.run(
        findings, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=True
    ).stdout
    rows = [re.split(r"\s{2,}", line) for line in output.splitlines()[1:]]
    shares = {name: float(share.split()[0]) for name, share in rows}
    for figure in (
        "figures found",
        "faces found (objects)",
        "faces found (faces)",
        "objects right",
        "faces right",
        "hair",
        "beard",
        "glasses",
        "headgear",
    ):
        assert shares[figure] >= 80, (figure, output)
    assert (
        shares["celebrity named"] >= 75
        and shares["celebrity under another name"] <= 10
        and shares["others named"] <= 25
    ), output
    assert shares["nearest portrait looks the same"] >= 70, output
