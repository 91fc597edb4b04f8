"""A prepared dataset of a few entities, and jobs over it."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.enhance import output
from pipeline.enhance.prompts import AGAIN, INSTRUCTION, QUESTION

QUICK = {"tries": 3, "first": 0.01, "most": 0.05, "longest": 5.0, "timeout": 20.0, "whole": 60.0, "bytes": 200_000}
IMPATIENT = {**QUICK, "timeout": 1.5, "whole": 3.0}


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


def static_job(dataset: Path, **more: Any) -> dict[str, Any]:
    job = {
        "dataset": str(dataset),
        "pages": "",
        "wiki_api": "",
        "wiki_text": "extracts",
        "wiki_contact": "a@b.org",
        "wiki_rate": 0,
        "wikidata_api": "",
        "wiki_site": "enwiki",
        "paragraphs": 2,
        "max_chars": 500,
        "kept": str(dataset.parent / "kept"),
        "max_failed": 0,
        "patience": QUICK,
    }
    return {**job, **more}


def dynamic_job(dataset: Path, **more: Any) -> dict[str, Any]:
    job = {
        "dataset": str(dataset),
        "llm": "small-model",
        "instruction": INSTRUCTION,
        "question": QUESTION,
        "again": AGAIN,
        "rounds": 1,
        "max_answer": 50,
        "temperature": 0.0,
        "max_chars": 500,
        "concurrency": 4,
        "rate": 0,
        "limits": {},
        "max_failed": 0,
        "kept": str(dataset.parent / "kept"),
        "memo": str(dataset.parent / "memo"),
        "device": "cpu",
        "precision": "fp32",
        "patience": QUICK,
    }
    return {**job, **more}


def texts(dataset: Path, mode: str) -> dict[str, str]:
    return output.read_texts(dataset, mode)


def without(dataset: Path, mode: str) -> dict[str, str]:
    """Why an entity has no text, by id."""
    lines = (dataset / f"descriptions-{mode}-without.tsv").read_text().splitlines()[1:]
    return {line.split("\t")[0]: line.split("\t")[2] for line in lines}
