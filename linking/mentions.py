"""Links a file of mentions, chunk by chunk: answers in the order of the input, refused lines with their reasons beside them."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from foundation.errors import UserError
from foundation.files import explained, fault_point, sync_folder
from foundation.progress import Bar
from linking import incoming
from linking.incoming import Line
from linking.linker import Linked, Linker

TOLD = 5  # refused lines that are named in the summary


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Link every line of `job["input"]`.

    job: run, input, output, images (folder of the pictures; None: the input's), top_k, chunk (mentions in memory at once), ignored (fields), device,
    precision. Nothing stands at `output` before all is done; a run that was killed begins anew, over features that are in the cache by then. Returns
    counts, and the text that sums them up. Raises `UserError`.
    """
    source, output = Path(job["input"]).absolute(), Path(job["output"]).absolute()
    images = Path(job["images"]).absolute() if job["images"] else source.parent
    rejects = output.with_name(f"{output.name}.rejects.jsonl")
    for path, what in ((source.parent, "--input"), (images, "--images-dir"), (output.parent, "--output")):
        if not path.is_dir():
            raise UserError(f"{what}: {path} is no folder; name one that is there")
    if source in (output, rejects):
        raise UserError(f"--output {output}: that is the input; name another file")
    if not source.is_file():
        raise UserError(
            f"--input {source}: no such file; it holds mentions, one JSON object per line (docs/linking.md)"
        )
    if job["chunk"] < 1 or job["top_k"] < 1:
        raise UserError(f"--chunk {job['chunk']}, --top-k {job['top_k']}: expected 1 or more")
    linker = Linker.load(job["run"], job["device"], job["precision"])
    began, counts, told = (
        time.monotonic(),
        {"mentions": 0, "NIL": 0, "pictures": 0, "pictures left out": 0, "refused lines": 0},
        [],
    )
    with _written(output, rejects) as (answers, refused), Bar(source.stat().st_size, "linking", "byte") as bar:
        held: list[Line] = []
        for line in incoming.read(source, images, job["ignored"]):
            held.append(line)
            if len(held) == job["chunk"]:
                told += _chunk(linker, held, images, job["top_k"], answers, refused, counts)
                bar.update(line.size - bar.done)
                held, told = [], told[:TOLD]
        told += _chunk(linker, held, images, job["top_k"], answers, refused, counts)
    seconds = time.monotonic() - began
    return {**counts, "seconds": round(seconds, 3), "text": _summary(counts, told[:TOLD], seconds, output, rejects)}


def _chunk(
    linker: Linker,
    lines: list[Line],
    images: Path,
    top_k: int,
    answers: IO[str],
    refused: IO[str],
    counts: dict[str, int],
) -> list[str]:
    """Link some lines and write them. Returns what is told of those that were refused."""
    good = [line for line in lines if line.mention is not None]
    for line, linked in zip(
        good, linker.link_all([line.mention for line in good if line.mention], images, top_k), strict=True
    ):
        answers.write(
            json.dumps(
                {"line": line.number, "id": line.mention.id if line.mention else None, **linked.to_json()},
                ensure_ascii=False,
            )
            + "\n"
        )
        _count(counts, linked)
    told = []
    for line in lines:
        if line.mention is None:
            counts["refused lines"] += 1
            told.append(f"line {line.number}: {line.reason}")
            refused.write(
                json.dumps({"line": line.number, "reason": line.reason, "begins": line.begins}, ensure_ascii=False)
                + "\n"
            )
    fault_point("linked-chunk")
    return told


def _count(counts: dict[str, int], linked: Linked) -> None:
    counts["mentions"] += 1
    counts["NIL"] += linked.nil
    counts["pictures"] += linked.picture == "ok"
    counts["pictures left out"] += linked.picture not in ("ok", "none")


@contextlib.contextmanager
def _written(output: Path, rejects: Path) -> Iterator[tuple[IO[str], IO[str]]]:
    """Two files under temporary names, which get their own when all is written; without a refused line there is no file of them."""
    parts = [path.with_name(f".{path.name}.part") for path in (output, rejects)]
    with explained(output), contextlib.ExitStack() as stack:
        handles = [stack.enter_context(open(part, "a", encoding="utf-8")) for part in parts]
        for part, handle in zip(parts, handles, strict=True):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"--output {output}: another command is writing it; wait for it, or name another file"
                ) from None
            except OSError:
                pass  # a file system without locks
            handle.truncate(0)
        try:
            yield handles[0], handles[1]
        except BaseException:
            for part in parts:
                part.unlink(missing_ok=True)
            raise
        for handle in handles:
            handle.flush()
            os.fsync(handle.fileno())
        if handles[1].tell():
            os.replace(parts[1], rejects)
        else:
            parts[1].unlink()
            rejects.unlink(missing_ok=True)
        os.replace(parts[0], output)
        sync_folder(output.parent)


def _summary(counts: dict[str, int], told: list[str], seconds: float, output: Path, rejects: Path) -> str:
    said = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    lines = [f"{said}; {counts['mentions'] / max(seconds, 1e-9):,.1f} mentions per second", *told]
    if counts["refused lines"] > len(told):
        lines.append(f"… and {counts['refused lines'] - len(told):,} more")
    return "\n".join([*lines, *([f"refused: {rejects}"] if counts["refused lines"] else []), f"linked:  {output}"])
