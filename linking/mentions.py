"""Links a file of mentions, chunk by chunk: answers in the input's order, refused lines in a file beside them."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from foundation.errors import UserError
from foundation.files import explained, fault_point, sync_folder
from foundation.progress import Bar
from linking import incoming
from linking.contracts import LinkCounts, LinkJob, LinkResult
from linking.incoming import Line
from linking.linker import Linker

NAMED = 5  # refused lines that the summary names


def link(job: LinkJob) -> LinkResult:
    """Link every line of the job's input against the KB of its run.

    Nothing stands at `job.output` before all is done; when it is killed and started again, it begins anew, over
    features that are in the cache by then. Raises `UserError` for a folder or file that is not there, and where the
    run cannot be linked with; `PassingError` where a picture cannot be read now.
    """
    source, output = job.input.absolute(), job.output.absolute()
    images = job.images.absolute() if job.images else source.parent
    rejects = output.with_name(f"{output.name}.rejects.jsonl")
    for path, option in ((source.parent, "--input"), (images, "--images-dir"), (output.parent, "--output")):
        if not path.is_dir():
            raise UserError(f"{option}: there is no folder {path}; create it, or name another")
    if source in (output, rejects):
        raise UserError(f"--output {output}: that is the input; name another file")
    if not source.is_file():
        raise UserError(
            f"--input {source}: no such file; it holds mentions, one JSON object per line (docs/linking.md)"
        )
    if job.chunk < 1 or job.top_k < 1:
        raise UserError(f"--chunk {job.chunk}, --top-k {job.top_k}: expected 1 or more")
    linker = Linker.load(job.run, job.compute.device, job.compute.precision)
    started = time.monotonic()
    with _written(output, rejects) as files, Bar(source.stat().st_size, "linking", "byte") as bar:
        writer = _Writer(linker, images, job.top_k, *files)
        chunk: list[Line] = []
        for line in incoming.read(source, images, job.ignored):
            chunk.append(line)
            if len(chunk) == job.chunk:
                writer.add(chunk)
                bar.update(line.size - bar.done)
                chunk = []
        writer.add(chunk)
    return LinkResult(
        counts=LinkCounts(**vars(writer.counts)),
        output=output,
        rejects=rejects if writer.counts.refused else None,
        refusals=tuple(writer.refusals),
        seconds=round(time.monotonic() - started, 3),
    )


@dataclass
class _Counts:
    """See `LinkCounts`."""

    mentions: int = 0
    nil: int = 0
    pictures: int = 0
    pictures_left_out: int = 0
    refused: int = 0


@dataclass
class _Writer:
    """Links chunks of lines and writes what they come to. refusals: the first `NAMED` refused lines, in words."""

    linker: Linker
    images: Path
    top_k: int
    answers: IO[str]
    rejects: IO[str]
    counts: _Counts = field(default_factory=_Counts)
    refusals: list[str] = field(default_factory=list)

    def add(self, lines: list[Line]) -> None:
        """Write the answers of the good lines and the reasons of the others."""
        good = [(line.number, line.mention) for line in lines if line.mention is not None]
        answers = self.linker.link_all([mention for _, mention in good], self.images, self.top_k)
        for (number, mention), answer in zip(good, answers, strict=True):
            _write_line(self.answers, {"line": number, "id": mention.id, **answer.to_json()})
            self.counts.mentions += 1
            self.counts.nil += answer.nil
            self.counts.pictures += answer.picture == "ok"
            self.counts.pictures_left_out += answer.picture not in ("ok", "none")
        for line in lines:
            if line.mention is None:
                _write_line(self.rejects, {"line": line.number, "reason": line.reason, "begins": line.begins})
                self.counts.refused += 1
                if len(self.refusals) < NAMED:
                    self.refusals.append(f"line {line.number}: {line.reason}")
        fault_point("linked-chunk")


def _write_line(file: IO[str], record: dict[str, Any]) -> None:
    file.write(json.dumps(record, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def _written(output: Path, rejects: Path) -> Iterator[tuple[IO[str], IO[str]]]:
    """Two files under temporary names, which get their own names when all is written.

    Without a refused line there is no file of them.
    Raises `UserError` where another process writes them.
    """
    parts = [path.with_name(f".{path.name}.part") for path in (output, rejects)]
    with explained(output), contextlib.ExitStack() as stack:
        handles = [stack.enter_context(open(part, "a", encoding="utf-8")) for part in parts]
        for handle in handles:
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
