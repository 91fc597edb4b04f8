"""A prepared dataset of a few entities, and jobs over it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.enhance import output
from pipeline.enhance.contracts import DynamicJob, ModelOptions, StaticJob, Wiki
from pipeline.servers.contracts import Patience

QUICK = Patience(tries=3, first=0.01, most=0.05, longest=5.0, timeout=20.0, whole=60.0, bytes=200_000)
IMPATIENT = replace(QUICK, timeout=1.5, whole=3.0)
MODEL = ModelOptions(name="small-model", max_answer=50, device="cpu", precision="fp32", patience=QUICK)


def prepared(folder: Path, *entities: tuple[str, str]) -> Path:
    """A prepared dataset's folder with these (id, name) entities."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = {
        "id": [e[0] for e in entities],
        "name": [e[1] for e in entities],
        "type": ["person"] * len(entities),
        "attributes": ["Sex: female."] * len(entities),
    }
    pq.write_table(
        pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}), folder / "entities.parquet"
    )
    return folder


def people(count: int) -> list[tuple[str, str]]:
    return [(f"Q{n + 1}", f"Person {n + 1}") for n in range(count)]


def wiki_at(address: str, **more: Any) -> Wiki:
    """A wiki that is asked as fast as it answers."""
    return Wiki(**{"api": address, "contact": "a@b.org", "rate": 0, **more})


def static_job(dataset: Path, **more: Any) -> StaticJob:
    common = {"dataset": dataset, "answers": dataset.parent / "kept", "max_chars": 500, "patience": QUICK}
    return StaticJob(**{**common, **more})


def dynamic_job(dataset: Path, model: ModelOptions = MODEL, **more: Any) -> DynamicJob:
    common = {"dataset": dataset, "answers": dataset.parent / "kept", "rounds": 1, "max_chars": 500}
    return DynamicJob(**{**common, "model": model, **more})


def texts(dataset: Path, mode: str) -> dict[str, str]:
    return output.read_texts(dataset, mode)


def without(dataset: Path, mode: str) -> dict[str, str]:
    """Why an entity has no text, by id."""
    lines = (dataset / f"descriptions-{mode}-without.tsv").read_text().splitlines()[1:]
    return {line.split("\t")[0]: line.split("\t")[2] for line in lines}
