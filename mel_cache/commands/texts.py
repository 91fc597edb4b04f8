"""The command that finds and links the mentions of raw texts."""

from pathlib import Path

import luigi

from foundation import child, logs
from foundation.errors import UserError
from heads.contracts import Compute
from linking.texts.checks import check
from linking.texts.contracts import TextJob, TextResult
from mel_cache.commands.features import OnProfile
from mel_cache.commands.mentions import LinkMentions
from mel_cache.commands.parameters import Choice, Renamed, Whole
from mel_cache.commands.task import Tool


class LinkText(Tool):
    """Finds the mentions in raw texts and links them: --run FOLDER --ner MODEL --input TEXTS.jsonl --output FILE.

    Each line of the input holds a text and optionally a picture and annotated mentions (docs/texts.md). Writes, line by
    line, the mentions with offsets, the best entities, a confidence and NIL; with --ann-dir also standoff annotations.
    Where mentions are annotated, precision, recall and F1 of mentions and links are measured.
    """

    run_folder = LinkMentions.run_folder
    ner = luigi.Parameter(
        description="what finds mentions: the folder of a spaCy pipeline or of a token classifier of transformers, or "
        "package:NAME/PATH of an installed one"
    )
    input_file = Renamed("--input", default="", description="texts, one JSON object per line; or name a --split")
    output_file = Renamed("--output", description="the file to write")
    split = Choice(
        choices=("", "train", "dev", "test"),
        default="",
        description="in place of --input: the texts of this split of the run's own dataset, to measure with",
    )
    ann_dir = luigi.Parameter(default="", description="empty folder for standoff annotations (brat); empty: none")
    labels = luigi.Parameter(
        default="",
        description="comma-separated labels of the recogniser that are mentions; empty: all but numbers, times",
    )
    images_dir = luigi.Parameter(
        default="", description="folder that the texts' pictures lie in; empty: that of the input"
    )
    top_k = Whole(least=1, default=5, description="entities per mention")
    chunk = Whole(least=1, default=64, description="texts in memory at once")
    ignore_fields = LinkMentions.ignore_fields
    kb = LinkMentions.kb
    nil_share = LinkMentions.nil_share
    no_cache = LinkMentions.no_cache
    device = OnProfile.device
    precision = OnProfile.precision
    resources = {"device": 1}  # noqa: RUF012  # Luigi's attribute

    def check(self) -> None:
        self.text_job = TextJob(
            run=self.paths.find_run(self.run_folder),
            ner=self.ner,
            input=Path(self.input_file) if self.input_file else None,
            split=self.split or None,
            output=Path(self.output_file),
            annotations=Path(self.ann_dir).absolute() if self.ann_dir else None,
            labels=_listed(self.labels),
            images=Path(self.images_dir) if self.images_dir else None,
            top_k=self.top_k,
            chunk=self.chunk,
            ignored=_listed(self.ignore_fields),
            nil_share=None if self.nil_share == "dev" else float(self.nil_share),
            cache=not self.no_cache,
            kb=self.kb or None,
            compute=Compute(device=self.device, precision=self.precision),
        )
        check(self.text_job)

    def act(self) -> None:
        result = child.run("linking.texts.link:link_text", self.text_job, TextResult)
        logs.say(result.text)
        if result.summary.counts.refused and not result.summary.texts:
            raise UserError(f"--input {self.input_file}: every line was refused; the reasons are in {result.rejects}")


def _listed(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
