"""What commands and reports hand each other goes to another process and back, and knows neither torch nor Luigi."""

import dataclasses
import inspect
import json
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from cache.inputs import Input
from foundation.contracts import from_json, to_json
from foundation.errors import UserError
from heads.contracts import Compute, HeadInput, TrainingJob
from pipeline.datasets.contracts import Limits
from report.averages import average
from report.compare import compare
from report.contracts import (
    AverageJob,
    CasesJob,
    ComparisonJob,
    ComparisonResult,
    Difference,
    LeaderboardJob,
    McNemar,
    NamedRun,
    PageJob,
    ServeJob,
    TablesJob,
)
from report.explore.serve import serve
from report.leaderboard import write_leaderboard
from report.page.write import write_page

RUN = NamedRun(name="mimic", folder=Path("/runs/mimic"), settings="lr 1 (2)")
TABLES = TablesJob(dataset="demo", runs=(RUN,), text_only=(RUN,), skipped={"dwe": "why"}, splits=("dev", "test"))
BOXES = Input(side="mention", feature="objects", view="image", store=Path("/cache/objects"), keys=Path("/keys.npz"))
TEXT = HeadInput(
    side="entity",
    feature="clip_text",
    view="name",
    store=Path("/cache/clip_text"),
    keys=Path("/keys.npz"),
    role="text",
    outputs=("pooled",),
)
TRAINING = TrainingJob(
    method="mimic",
    config={"lr": 0.1, "units": ["a"]},
    inputs=(TEXT,),
    dataset=Path("/data"),
    candidates=Path("/lists.npz"),
    out=Path("/run"),
)
JOBS = [
    AverageJob(runs=(Path("/a"), Path("/b")), seeds=(0, 1), out=Path("/mean")),
    LeaderboardJob(tables=TABLES, out=Path("/out")),
    ComparisonJob(first=RUN, second=RUN, protocol="rerank", resamples=5, seed=3),
    ComparisonResult(
        protocol="rerank",
        mentions=3,
        differences={"H@1": Difference(mean=0.5, low=0.0, high=1.0, p=0.2)},
        mcnemar=(McNemar(both=1, first=1, second=0, neither=1, p=1.0),),
        text="a table",
    ),
    PageJob(
        tables=TABLES,
        cases=CasesJob(
            prepared=Path("/data"),
            images={"mention": Path("/m"), "entity": Path("/e")},
            limits=Limits(max_pixels=10),
            detections=(BOXES,),
            trainings={"mimic": TRAINING},
            compute=Compute(device="cpu"),
        ),
        out=Path("/page.html"),
    ),
    ServeJob(run=Path("/run"), source=Path("/data"), port=0),
]


@pytest.mark.parametrize("job", JOBS, ids=lambda job: type(job).__name__)
def test_a_job_comes_back_as_it_was_and_refuses_a_field_it_does_not_know(job):
    sent = json.loads(json.dumps(to_json(job)))
    assert from_json(type(job), sent) == job
    first = dataclasses.fields(job)[0].name
    with pytest.raises(UserError, match=f"unknown key '{first}s'; did you mean '{first}'"):
        from_json(type(job), {**sent, f"{first}s": 1})


@pytest.mark.parametrize("stage", [average, compare, write_leaderboard, write_page, serve])
def test_a_stage_takes_one_typed_job_and_gives_a_typed_result(stage):
    hints = typing.get_type_hints(stage)
    assert list(inspect.signature(stage).parameters) == ["job"] and dataclasses.is_dataclass(hints["job"])
    assert dataclasses.is_dataclass(hints["return"]) or (stage is serve and hints["return"] is type(None))


@pytest.mark.parametrize(
    ("module", "heavy"),
    [("report.contracts", ("torch", "luigi", "pyarrow")), ("report.status", ("torch", "luigi"))],
)
def test_contracts_and_the_account_of_a_work_folder_import_nothing_heavy(module, heavy):
    code = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_metrics_of_a_part_without_its_number_of_mentions_are_not_as_written(tmp_path):
    from foundation.errors import NotAsWritten
    from report.runs import read_metrics

    path = tmp_path / "metrics.json"
    path.write_text('{"test": {"full-kb": {"all": {"H@1": 0.5}}}}')
    with pytest.raises(NotAsWritten, match=r"metrics\.json: test, full-kb, all: `n` is missing"):
        read_metrics(path)
