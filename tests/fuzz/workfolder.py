"""The small files by which commands of one work folder know of each other."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from cache import claims, identity
from experiments.journal import Journal
from foundation import checksums, locks, progress, receipts, remedies
from foundation.successors import LIST, Successors
from fuzz.odd import as_json, bytes_of, json_of, write
from fuzz.target import Target, each
from mel_cache import verification
from report import status

NOTES: Mapping[str, Any] = {
    "claim": {"host": "a", "pid": 1, "started": "2", "shard": "x", "renewed": 1.0},
    "weights.json": {"a.safetensors": [1, 2, "00"]},
    "progress.json": {"what": "training", "done": 1, "total": 2, "unit": "mention", "rate": 1.0, "left_s": None},
    "receipt.json": {
        "task": "X",
        "request": {},
        "result": {},
        "files": [{"path": "weights.json", "bytes": 9}],
        "run": {},
    },
    ".lock": {"host": "a", "pid": 1, "started": "2"},
    "sealed.json": {"method": "mimic"},
    LIST: {"merged": {"a.h5": "b.h5"}, "sizes": {"b.h5": 10}, "sha256": "0"},
    "study.json": {"best": {"params": {"lr": 1}, "dev MRR": 0.5}, "trials": {"complete": 1}, "importance": {"lr": 1}},
    "study.journal": {"op_code": 0, "worker_id": "a", "study_name": "s", "directions": [2]},
}


def _files() -> dict[str, bytes]:
    values = {**NOTES, "sealed.json": checksums.sealed(NOTES["sealed.json"])}
    return {name: json.dumps(value).encode() + b"\n" for name, value in values.items()}


@st.composite
def _odd(draw: st.DrawFn) -> dict[str, bytes]:
    """One of the files changed or damaged, and a line behind it."""
    files = _files()
    name = draw(st.sampled_from(sorted(files)))
    edited = json_of(NOTES[name]).map(as_json)
    changed = draw(st.one_of(edited, edited, bytes_of(files[name])))
    return {**files, name: changed + draw(st.sampled_from([b"", b"\n", b"\n{}\n", b"\n\0", b"\nnull\n"]))}


def _read(files: Mapping[str, bytes], folder: Path) -> None:
    write(folder, files)
    descriptor = os.open(folder / ".lock", os.O_RDONLY)
    try:
        locks._holder(descriptor)
    finally:
        os.close(descriptor)
    claims._content(folder / "claim")
    identity._memo(folder / "weights.json")
    progress.read(folder / "progress.json")
    receipts.standing(folder, folder / "receipt.json")
    receipts.examine(folder, folder / "receipt.json")
    (folder / "receipts").mkdir()
    (folder / "receipts" / "X-0.json").write_bytes(files["receipt.json"])
    remedies.remedy(folder / "weights.json")
    verification._has_seal(folder / "receipt.json")
    verification._journal(folder / "study.journal")
    verification._lines(folder / "study.journal")
    checksums.remembered(folder / "weights.json")
    if files[LIST] == _files()[LIST]:  # its seal is none
        (folder / LIST).unlink()
        Successors().write(folder, folder / "part")
    (folder / "sweeps" / "demo" / "mimic" / "0").mkdir(parents=True)
    (folder / "study.json").rename(folder / "sweeps" / "demo" / "mimic" / "0" / "study.json")
    each(
        lambda: checksums.read_sealed(folder / "sealed.json"),
        lambda: Successors.read(folder),
        lambda: status.searches(status.Paths(folder)),
        lambda: list(Journal(folder / "study.journal").read_logs(0)),
        lambda: Journal(folder / "study.journal").append_logs([{"op_code": 0}]),
    )


TARGETS = (
    Target(
        kind="notes in a work folder",
        readers=(
            "cache.claims:_content",
            "cache.identity:_memo",
            "experiments.journal:Journal._record",
            "experiments.journal:Journal.read_logs",
            "experiments.journal:_end_of_lines",
            "foundation.locks:_holder",
            "foundation.progress:read",
            "foundation.receipts:examine",
            "foundation.checksums:read_sealed",
            "foundation.checksums:remembered",
            "foundation.checksums:_seal",
            "foundation.remedies:_json",
            "mel_cache.verification:_has_seal",
            "mel_cache.verification:_journal",
            "mel_cache.verification:_lines",
            "foundation.successors:Successors.read",
            "report.status:_json",
        ),
        valid=_files,
        odd=_odd,
        read=_read,
        share=8,
    ),
)
