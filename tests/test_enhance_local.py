"""Dynamic descriptions by a real causal model of transformers in a local folder, with and without a chat template."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoints
import pytest
from causal_model import NO_SYSTEM, TEMPLATE, causal
from enhance_world import MODEL, dynamic_job, people, prepared, texts, without

from foundation.errors import UserError
from pipeline.datasets.records import Entity
from pipeline.enhance import dynamic
from pipeline.enhance.contracts import ModelOptions
from pipeline.enhance.local import LocalModel
from pipeline.enhance.prompts import Prompts
from pipeline.enhance.spending import Spending


def local(folder: Path, **more: Any) -> ModelOptions:
    return replace(MODEL, name=f"local:{folder}", **more)


@pytest.fixture(
    scope="module", params=[None, TEMPLATE, NO_SYSTEM], ids=["plain", "template", "template without system role"]
)
def model(request, tmp_path_factory):
    return causal(tmp_path_factory.mktemp("llm") / "model", request.param)


def test_a_local_model_answers_and_its_answers_are_kept(tmp_path, model):
    data = prepared(tmp_path / "data", *people(2), ("Q3", "Person 2"))
    job = dynamic_job(data, local(model, max_answer=12, concurrency=2))
    report = dynamic.describe(job)
    assert texts(data, "dynamic") == {"Q2": "Person 2 is an actor", "Q3": "Person 2 is an actor"} and without(
        data, "dynamic"
    ) == {"Q1": "the model does not know"}
    assert (
        report.usage.calls == 2
        and report.usage.tokens_out == 6 + 7
        and report.first_round == {"described": 2, "unknown": 1}
    )
    again = dynamic.describe(job)
    assert again.usage.calls == 0 and again.usage.reused == 2
    assert str(tmp_path) not in (data / "descriptions-dynamic.json").read_text()


def test_a_question_that_does_not_fit_the_model_is_told_apart(tmp_path, model):
    data = prepared(tmp_path / "data", ("Q1", "Person " * 200), ("Q2", "Person 2"))
    dynamic.describe(dynamic_job(data, local(model, max_answer=12)))
    assert without(data, "dynamic") == {"Q1": "question too long for the model"}


def test_batches_do_not_change_the_answers(tmp_path, model):
    found = []
    for size in (1, 5):
        data = prepared(tmp_path / str(size) / "data", *people(5))
        dynamic.describe(dynamic_job(data, local(model, max_answer=12, concurrency=size)))
        found.append({path.name: path.read_bytes() for path in data.glob("descriptions-*")})
    assert found[0] == found[1]


def test_other_weights_are_another_model(tmp_path, model):
    data = prepared(tmp_path / "data", *people(2))
    dynamic.describe(dynamic_job(data, local(model, max_answer=12)))
    other = causal(tmp_path / "other", learn=False)
    assert dynamic.describe(dynamic_job(data, local(other, max_answer=12))).usage.calls == 2


def test_a_dry_run_counts_the_models_own_tokens_and_loads_no_weights(tmp_path, model):
    data = prepared(tmp_path / "data", *people(3))
    plan = dynamic.estimate(dynamic_job(data, local(model)))
    reader = LocalModel(local(model), Spending())
    assert plan.first_round_tokens_in == sum(
        len(reader._ids(Prompts().first(Entity(name, name)))) for _, name in people(3)
    )
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["entities.parquet"]


def test_folders_that_are_no_causal_model_are_one_line(tmp_path, model):
    data = prepared(tmp_path / "data", *people(1))
    hub = tmp_path / "hub"
    causal(hub, learn=False)
    (hub / "config.json").write_text(
        json.dumps(
            {**json.loads((hub / "config.json").read_text()), "auto_map": {"AutoModelForCausalLM": "evil.Model"}}
        )
    )
    broken = causal(tmp_path / "broken", learn=False)
    (broken / "model.safetensors").write_bytes(b"x" * 100)
    bert = tmp_path / "bert"
    checkpoints.bert(bert)
    for folder, message in (
        (tmp_path / "none", "no such folder"),
        (hub, "code of its own"),
        (broken, "cannot be loaded"),
        (bert, "lacks|cannot be loaded"),
    ):
        with pytest.raises(UserError, match=message) as error:
            dynamic.describe(dynamic_job(data, local(folder)))
        assert "\n" not in str(error.value)
