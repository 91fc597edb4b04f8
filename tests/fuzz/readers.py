"""Which functions of the package read a file or parse a text, by name; and which of them need no target."""

import ast
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("cache", "experiments", "foundation", "heads", "linking", "mel_cache", "pipeline", "report")
NAMES = {
    *("read_json", "read_sealed", "parse_json", "read_lines", "read_npz", "plain_yaml", "safe_open", "load_file"),
    *("read_table", "read_schema", "read_metadata", "ParquetFile", "from_pretrained", "InferenceSession", "open"),
    *("load_checkpoint", "create_model", "read_text", "read_bytes"),
}
"""Calls that open or parse something, by their last word; `open` alone as the builtin."""
CALLS = {
    *("json.loads", "np.load", "h5py.File", "torch.load", "yaml.load", "Image.open", "parquet.read", "os.pread"),
    "zipfile.ZipFile",
    "pa.ipc.open_file",
    "tantivy.Index.open",
}
"""Such calls by their whole name."""
SHARED = {
    "foundation.arrays:read_npz",
    "foundation.files:_repeated",
    "foundation.files:parse_json",
    "foundation.files:read_json",
    "foundation.files:read_lines",
    "foundation.parquet:batches",
    "foundation.parquet:check",
    "foundation.parquet:names",
    "foundation.parquet:read",
    "foundation.parquet:rows",
}
"""Readers that others call; the targets of those are theirs."""
SEALED = "a file whose own checksum, or that of its run or receipt, is compared first"
NO_TARGET = {
    "cache.union:_place": "copies a shard, which is read as those of that target are",
    "cache.union:put": "writes a shard, which is read as those of that target are",
    "experiments.jobs:_check_best": SEALED,
    "experiments.jobs:_with_teacher": SEALED,
    "heads.config.dual:DualConfig._of_teacher": "of an option; a text that is no JSON object is refused",
    "foundation.layers:read": SEALED,
    "heads.fusion:_parts": SEALED,
    "heads.training:_finished": SEALED,
    "heads.training:_result": SEALED,
    "linking.by_heart:measured": SEALED,
    "linking.finished:_Receipts._first": SEALED,
    "linking.finished:read": SEALED,
    "linking.other_kb:_extractions": SEALED,
    "linking.scorer:Scorer.__init__": SEALED,
    "mel_cache.commands.trained:find": SEALED,
    "mel_cache.contracts:PreparedDataset.account": SEALED,
    "mel_cache.contracts:TrainedHead.metrics": SEALED,
    "mel_cache.verification:_Check.sealed": SEALED,
    "pipeline.datasets.arrow_columns:mapped": "copies columns of a prepared table, read as by the target of those",
    "pipeline.datasets.scan:_Memo._take": "a line behind its own checksum; what another one has is looked at again",
    "pipeline.extraction.maintenance:_extractions": SEALED,
    "pipeline.extraction.maintenance:clean": SEALED,
    "pipeline.extraction.manifest:Manifest.__init__": "its pages have checksums; what cannot be read is planned anew",
    "pipeline.extraction.decoders:_Process.prepared": "of what a process answers that this one started",
    "pipeline.extraction.manifest:write": "writes",
    "pipeline.extraction.shipped:Machine._computed": "a shard that it has just written",
    "pipeline.extraction.shipped:_files": "hands the bytes of a model on as they are",
    "pipeline.imported.contracts:record": SEALED,
    "pipeline.imported.stage:_sides": "a Parquet table, read as those of that target are",
    "pipeline.imported.writing:export_features": "a Parquet table, read as those of that target are",
    "pipeline.imported.writing:_npy": "writes",
    "pipeline.imported.writing:_npz": "writes",
    "report.costs:_depends": SEALED,
    "report.manifest:manifest": SEALED,
    "report.tuning:tuning": SEALED,
    "report.tuning:_parameters": SEALED,
    "report.page.write:write_explained": SEALED,
    "mel_cache.commands.explore:Explore.folder_of_run": SEALED,
    "heads.training:new_head": SEALED,
    "experiments.jobs:_read_by": SEALED,
    "linking.folds:_fold": SEALED,
    "linking.folds:_like": SEALED,
    "mel_cache.steps.candidates:_retriever": SEALED,
    "pipeline.candidates.base:read_vectors": SEALED,
    "pipeline.candidates.kept:_examined": SEALED,
    "pipeline.candidates.kept:_built": "of files that it has just written",
    "pipeline.candidates.name_index:NameIndex._opened": SEALED,
    "pipeline.candidates.name_index:_mapped": SEALED,
    "pipeline.datasets.prepared:number_of_names": SEALED,
    "cache.identity:_sha256": "any bytes are hashed",
    "cache.layout:H5Array.__getitem__": "of a shard that `cache.layout:read` took",
    "cache.layout:create": "writes",
    "cache.layout:_mapped": "any bytes are mapped",
    "cache.shard:write": "writes",
    "cache.store:Store.planned": "of a value made here",
    "foundation.checksums:file_sha256": "any bytes are hashed",
    "foundation.checksums:_Found.get": "of what this command has written",
    "foundation.child:_main": "of a job that the parent wrote",
    "foundation.child:run": "of an answer that the child wrote",
    "foundation.checksums:sealed": "of a value made here",
    "foundation.contracts:to_json": "of a value made here",
    "foundation.machine:check_folder": "writes",
    "foundation.plugins:_of_entry_point": "any bytes are hashed",
    "foundation.plugins:_run": "code that its user names, and runs",
    "experiments.sweep_report:_in_lines": "of a label made here",
    "experiments.variants:possible": "of a value made here",
    "foundation.confined:_Process.ask": "of what its own child answers",
    "foundation.confined:_held": "of the system's /proc",
    "foundation.confined:_serve": "of what its parent asks",
    "foundation.output:PartFile._taken": "writes",
    "foundation.processes:_stat": "of the system's /proc",
    "mel_cache.commands.compare:Leaderboard.summary": "of a text whose checksum its receipt holds",
    "mel_cache.commands.dataset:PrepareDataset.make": "of a text that the command has just written",
    "mel_cache.commands.dataset:PrepareDataset.summary": "of a text whose checksum its receipt holds",
    "mel_cache.commands.heads:TrainHead.summary": "of a text whose checksum its receipt holds",
    "mel_cache.contracts:PreparedDataset.text": "of a text whose checksum its receipt holds",
    "mel_cache.contracts:TrainedHead.text": "of a text whose checksum its receipt holds",
    "pipeline.models.files:_complete": "of the hub's local copy: whatever fails there, the model is fetched again",
    "heads.training:job_digest": "any bytes are hashed",
    "linking.answers:_given": "a Parquet table, read as those of that target are",
    "linking.texts.incoming:of_dataset": "a Parquet table, read as those of that target are",
    "linking.answers:measure": "a Parquet table, read as those of that target are",
    "mel_cache.commands.shell.command:words": "of what the command itself has set",
    "pipeline.demo.held_out:_bert": "of the demo's own encoders",
    "pipeline.demo.held_out:_clip": "of the demo's own encoders",
    "pipeline.demo.held_out:_torchvision": "of the demo's own encoders",
    "pipeline.demo.held_out_faces:_classify": "of the demo's own encoders",
    "pipeline.demo.held_out_faces:_session": "of the demo's own encoders",
    "pipeline.demo.train_yolo:build": "of the package ultralytics",
    "pipeline.kb.scan:Scan._continued": "writes",
    "report.explore.app:_add_mentions.style": "of the package itself",
    "report.page.render:render": "of the package itself",
}
"""Readers without a target, and why: what they read does not come from outside."""


@functools.cache
def readers() -> set[str]:
    """`module:function` of every function that opens or parses something."""
    found = set()
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found |= {f"{module}:{name}" for name in _reading(ast.parse(path.read_text()))}
    return found


def _reading(node: ast.AST, inside: tuple[str, ...] = ()) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call) and _opens(child.func):
            yield ".".join(inside)
        name = (child.name,) if isinstance(child, ast.FunctionDef | ast.ClassDef) else ()
        yield from _reading(child, (*inside, *name))


def _opens(call: ast.expr) -> bool:
    if isinstance(call, ast.Name):
        return call.id in NAMES
    if not isinstance(call, ast.Attribute):
        return False
    return (call.attr in NAMES and call.attr != "open") or ast.unparse(call) in CALLS


def passed_through(call: Callable[[], Any]) -> set[str]:
    """`module:function` of the package's functions that run while `call` runs."""
    found = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(ROOT)):
            name = frame.f_code.co_qualname.replace(".<locals>", "")
            found.add(f"{frame.f_globals.get('__name__')}:{name}")

    before = sys.getprofile()
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(before)
        threading.setprofile(None)
    return found
