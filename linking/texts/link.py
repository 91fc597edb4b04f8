"""Links raw texts: finds their mentions, links each with its context and picture, writes and measures the answers."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from foundation.contracts import to_json
from foundation.output import PartFile, writing
from foundation.progress import Bar
from linking import finished
from linking.checks import REJECTS, SUMMARY
from linking.contracts import LinkCounts
from linking.incoming import Line
from linking.linker import NO_CANDIDATE, Linked, Linker
from linking.texts import brat, incoming
from linking.texts.checks import check
from linking.texts.contracts import TextJob, TextResult, TextSummary
from linking.texts.evaluate import Answered, Evaluation
from linking.texts.finders import Finder, Spans, context
from linking.texts.incoming import TextToLink
from linking.texts.recognised import Found
from pipeline.datasets.records import Mention

CONTEXT = 500  # characters of the text around a mention
AT_ONCE = 1024  # mentions linked at once
NONE = LinkCounts(
    mentions=0, nil=0, pictures=0, pictures_left_out=0, phrases_not_found=0, without_candidates=0, refused=0
)
NAMED = 5  # refused lines that the summary names


@dataclass(frozen=True)
class LinkedText:
    """A text with its mentions in order, and their answers. overlaps: spans that were left out for another."""

    text: str
    mentions: tuple[tuple[Found, Linked], ...]
    overlaps: int

    def to_json(self) -> list[dict[str, Any]]:
        """The mentions as LinkText writes them; offsets are the text's."""
        return [
            {"start": span.start, "end": span.end, "label": span.label, **_without_span(answer)}
            for span, answer in self.mentions
        ]


class TextLinker:
    """A finder and a linker: `TextLinker(Linker.load(run), Finder(folder)).link("Ann Powers sang.")`.

    context: characters of the text around a mention that it is linked with, whole sentences where they fit.
    """

    def __init__(self, linker: Linker, finder: Finder, context: int = CONTEXT) -> None:
        self.linker, self.finder, self.context = linker, finder, context

    def link(self, text: str, image: str | Path | None = None, top_k: int = 5) -> LinkedText:
        """The mentions of a text. image: path of its picture."""
        path = None if image is None else str(Path(image).absolute())
        return self.link_all([TextToLink("text", text, path)], Path(), top_k)[0]

    def link_all(self, texts: Sequence[TextToLink], root: Path, top_k: int = 5) -> list[LinkedText]:
        """The mentions of some texts, all in memory at once. root: folder that their pictures' paths start from."""
        found = self.finder.find([one.text for one in texts])
        mentions = [
            self._mention(text, span, spans) for text, spans in zip(texts, found, strict=True) for span in spans.found
        ]
        answers: list[Linked] = []
        for start in range(0, len(mentions), AT_ONCE):
            answers += self.linker.link_all(mentions[start : start + AT_ONCE], root, top_k)
        rest = iter(answers)
        return [
            LinkedText(text.text, tuple((span, next(rest)) for span in spans.found), spans.left_out)
            for text, spans in zip(texts, found, strict=True)
        ]

    def _mention(self, text: TextToLink, span: Found, spans: Spans) -> Mention:
        start, end = context(text.text, span, spans.sentences, self.context)
        return Mention(
            id=f"{text.id}:{span.start}",
            sentence=text.text[start:end],
            phrase=text.text[span.start : span.end],
            split="test",
            span=(span.start - start, span.end - start),
            image=text.image,
        )


def link_text(job: TextJob) -> TextResult:
    """Find and link the mentions of every text of the job.

    Nothing stands at `job.output` before all is done. Raises `UserError` as `check` does, where another process writes
    the output, and where finder or run cannot be used; `PassingError` where a picture cannot be read any more.
    """
    output = check(job)
    rejects, summary = (output.with_name(output.name + ending) for ending in (REJECTS, SUMMARY))
    with writing([output, rejects, summary], "--output") as files:
        compute = job.compute
        finder = Finder(job.ner, job.labels, compute.device)
        linker = Linker.load(job.run, compute.device, compute.precision, job.nil_share, job.cache)
        if job.kb:
            linker.against(job.kb)
        folder = brat.Folder(job.annotations) if job.annotations else None
        begun = time.monotonic()
        writer = _Writer(TextLinker(linker, finder), job, files[0], files[1], folder, Evaluation(linker.kb.rows))
        chunk: list[Line[TextToLink]] = []
        with Bar(job.input.stat().st_size if job.input else 0, "linking", "byte") as bar:
            for line in _lines(job, linker.run):
                chunk.append(line)
                if len(chunk) == job.chunk:
                    writer.add(chunk)
                    bar.update(line.size - bar.done if job.input else 0)
                    chunk = []
            writer.add(chunk)
        linker.close()
        if folder:
            folder.close()
        content = TextSummary(
            run=str(linker.run.folder),
            weights=linker.weights,
            ner=job.ner,
            texts=writer.texts,
            counts=writer.counts,
            overlaps=writer.overlaps,
            nil_share=linker.calibration.nil_share,
            threshold=linker.calibration.threshold,
            notes=(*linker.notes, *linker.calibration.notes),
            evaluation=writer.evaluation.result,
        )
        files[2].write(json.dumps(to_json(content), indent=1, ensure_ascii=False) + "\n")
    return TextResult(
        summary=content,
        output=output,
        rejects=rejects if content.counts.refused else None,
        annotations=job.annotations,
        refusals=tuple(writer.refusals),
        seconds=round(time.monotonic() - begun, 3),
    )


def _lines(job: TextJob, run: finished.Finished) -> Iterator[Line[TextToLink]]:
    if job.input is None:
        return incoming.of_dataset(run.prepared, job.split or "", job.images is not None)
    return incoming.read(job.input.absolute(), job.images_folder or Path(), job.ignored)


@dataclass
class _Writer:
    """Links chunks of texts and writes what they come to. refusals: the first `NAMED` refused lines, in words."""

    linker: TextLinker
    job: TextJob
    answers: PartFile
    rejects: PartFile
    folder: brat.Folder | None
    evaluation: Evaluation
    texts: int = 0
    overlaps: int = 0
    counts: LinkCounts = NONE
    refusals: list[str] = field(default_factory=list)

    def add(self, lines: Sequence[Line[TextToLink]]) -> None:
        good = [(line.number, line.value) for line in lines if line.value is not None]
        root = self.job.images_folder or Path()
        linked = self.linker.link_all([text for _, text in good], root, self.job.top_k)
        for (number, text), one in zip(good, linked, strict=True):
            record = {"line": number, "id": text.id, "text": text.text, "mentions": one.to_json()}
            self.answers.write(json.dumps(record, ensure_ascii=False) + "\n")
            if self.folder:
                self.folder.add(text.id, text.text, one.mentions)
            if text.annotated is not None:
                answered = [Answered(span.start, span.end, _entity(answer)) for span, answer in one.mentions]
                self.evaluation.add(answered, text.annotated)
            self._count([answer for _, answer in one.mentions])
            self.texts += 1
            self.overlaps += one.overlaps
        for line in lines:
            if line.value is None:
                record = {"line": line.number, "reason": line.reason, "begins": line.begins}
                self.rejects.write(json.dumps(record, ensure_ascii=False) + "\n")
                self.counts = replace(self.counts, refused=self.counts.refused + 1)
                if len(self.refusals) < NAMED:
                    self.refusals.append(f"line {line.number}: {line.reason}")

    def _count(self, answers: Sequence[Linked]) -> None:
        counts = self.counts
        self.counts = replace(
            counts,
            mentions=counts.mentions + len(answers),
            nil=counts.nil + sum(one.nil for one in answers),
            pictures=counts.pictures + sum(one.picture == "ok" for one in answers),
            pictures_left_out=counts.pictures_left_out + sum(one.picture not in ("ok", "none") for one in answers),
            without_candidates=counts.without_candidates + sum(NO_CANDIDATE in one.notes for one in answers),
        )


def _entity(answer: Linked) -> str | None:
    return None if answer.nil or not answer.entities else answer.entities[0].id


def _without_span(answer: Linked) -> dict[str, Any]:
    """Its offsets in the context say nothing to who has the text."""
    return {name: value for name, value in answer.to_json().items() if name != "span"}
