"""Links a file of mentions, chunk by chunk: answers in the input's order, refused lines and a summary beside them."""

import json
import time
from dataclasses import dataclass, field
from typing import Any

from foundation.contracts import to_json
from foundation.files import fault_point
from foundation.output import PartFile, writing
from foundation.progress import Bar
from linking import incoming, incoming_entities
from linking.checks import REJECTS, SUMMARY, check
from linking.contracts import LinkCounts, LinkJob, LinkResult, LinkSummary
from linking.incoming import Line
from linking.linker import NO_CANDIDATE, NO_SPAN, Linker
from pipeline.datasets.records import Mention

NAMED = 5  # refused lines that the summary names


def link(job: LinkJob) -> LinkResult:
    """Link every line of the job's input against the KB of its run.

    Nothing stands at `job.output` before all is done; when it is killed and started again, it begins anew, over
    features that are in the cache by then. Raises `UserError` as `check` does, where another process writes the output,
    and where the run cannot be linked with; `PassingError` where a picture that was read cannot be read again.
    """
    output, source, images = check(job), job.input.absolute(), job.images_folder
    rejects, summary = (output.with_name(output.name + ending) for ending in (REJECTS, SUMMARY))
    with writing([output, rejects, summary], "--output") as files:
        compute = job.compute
        extra = incoming_entities.read(job.kb_extra) if job.kb_extra else None
        linker = Linker.load(job.run, compute.device, compute.precision, job.nil_share, job.cache)
        if job.kb:
            linker.against(job.kb)
        changes = linker.take_up(extra) if extra else None
        if job.joint_below is not None:
            linker.ask_joint_below(job.joint_below)
        started = time.monotonic()
        writer, chunk = _Writer(linker, job, files[0], files[1]), list[Line[Mention]]()
        with Bar(source.stat().st_size, "linking", "byte") as bar:
            for line in incoming.read(source, images, job.ignored):
                chunk.append(line)
                if len(chunk) == job.chunk:
                    writer.add(chunk)
                    bar.update(line.size - bar.done)
                    chunk = []
            writer.add(chunk)
        linker.close()
        counts, fitted, others = LinkCounts(**vars(writer.counts)), linker.calibration, linker.without_joint
        without = [f"without joint, {note}" for note in others.notes] if others else []
        choices = [line for source in linker.scorer.sources for line in source.choices()]
        content = LinkSummary(
            run=str(linker.run.folder),
            weights=linker.weights,
            counts=counts,
            nil_share=fitted.nil_share,
            nil_share_of="dev" if job.nil_share is None else "--nil-share",
            threshold=fitted.threshold,
            notes=(*linker.notes, *fitted.notes, *without, *choices),
            joint_below=job.joint_below,
            threshold_without_joint=others.threshold if others else None,
            kb=linker.other.label if linker.other else None,
            kb_changes=changes,
        )
        files[2].write(json.dumps(to_json(content), indent=1, ensure_ascii=False) + "\n")
    return LinkResult(
        summary=content,
        output=output,
        rejects=rejects if counts.refused else None,
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
    phrases_not_found: int = 0
    without_candidates: int = 0
    refused: int = 0
    joint: int = 0


@dataclass
class _Writer:
    """Links chunks of lines and writes what they come to. refusals: the first `NAMED` refused lines, in words."""

    linker: Linker
    job: LinkJob
    answers: PartFile
    rejects: PartFile
    counts: _Counts = field(default_factory=_Counts)
    refusals: list[str] = field(default_factory=list)

    def add(self, lines: list[Line[Mention]]) -> None:
        """Write the answers of the good lines and the reasons of the others."""
        good = [(line.number, line.value) for line in lines if line.value is not None]
        answers = self.linker.link_all([mention for _, mention in good], self.job.images_folder, self.job.top_k)
        for (number, mention), answer in zip(good, answers, strict=True):
            _write_line(self.answers, {"line": number, "id": mention.id, **answer.to_json()})
            self.counts.mentions += 1
            self.counts.nil += answer.nil
            self.counts.pictures += answer.picture == "ok"
            self.counts.pictures_left_out += answer.picture not in ("ok", "none")
            self.counts.phrases_not_found += NO_SPAN in answer.notes
            self.counts.without_candidates += NO_CANDIDATE in answer.notes
            self.counts.joint += answer.joint is True
        for line in lines:
            if line.value is None:
                _write_line(self.rejects, {"line": line.number, "reason": line.reason, "begins": line.begins})
                self.counts.refused += 1
                if len(self.refusals) < NAMED:
                    self.refusals.append(f"line {line.number}: {line.reason}")
        fault_point("linked-chunk")


def _write_line(file: PartFile, record: dict[str, Any]) -> None:
    file.write(json.dumps(record, ensure_ascii=False) + "\n")
