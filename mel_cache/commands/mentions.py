"""The task that links new mentions with a finished run."""

from pathlib import Path

import luigi

from foundation import child, logs
from foundation.errors import UserError
from heads.contracts import Compute
from linking.checks import check
from linking.contracts import LinkJob, LinkResult
from mel_cache.commands.features import OnProfile
from mel_cache.commands.parameters import Below, Renamed, ShareOrWord, Whole
from mel_cache.commands.task import Tool


class LinkMentions(Tool):
    """Links new mentions against the KB of a finished run: --run FOLDER --input NEW.jsonl --output LINKED.jsonl.

    Reads lines in the layout of mentions.jsonl (docs/linking.md). Writes, line by line, the best entities with
    scores, a confidence and NIL; lines that are refused to OUTPUT.rejects.jsonl; counts to OUTPUT.summary.json;
    features of the new mentions to the run's cache; calibration.json beside the run. Fails if every line is refused.
    """

    run_folder = Renamed("--run", description="a run's folder, or <dataset>/<method>/<hash> under artifacts/runs")
    input_file = Renamed("--input", description="mentions, one JSON object per line")
    output_file = Renamed("--output", description="the file to write")
    images_dir = luigi.Parameter(
        default="", description="folder that the mentions' pictures lie in; empty: that of the input"
    )
    top_k = Whole(least=1, default=5, description="entities per mention")
    chunk = Whole(
        least=1,
        default=1024,
        description="mentions in memory at once; what is new of them is one shard of each feature",
    )
    ignore_fields = luigi.Parameter(
        default="", description="comma-separated fields of the lines that are passed over instead of refused"
    )
    nil_share = ShareOrWord(
        default="dev",
        description="expected share of NIL mentions, a number from 0 to below 1, which confidence and NIL follow; dev: "
        "that of the run's mentions of dev",
    )
    joint_below = Below(
        default="",
        description="of a run of fused with joint: joint is asked only for mentions whose confidence without it is "
        "below this, a number above 0, at most 1; empty: for all",
    )
    kb = luigi.Parameter(
        default="",
        description="label of another prepared dataset whose entities are linked against (docs/linking.md); empty: "
        "those of the run",
    )
    kb_extra = luigi.Parameter(
        default="",
        description="file of entities that come to the KB, replace those of the same id, or leave it, in the layout of "
        "entities.jsonl",
    )
    no_cache = luigi.BoolParameter(
        default=False, description="forget the features of the mentions instead of keeping them in the run's cache"
    )
    device = OnProfile.device
    precision = OnProfile.precision
    resources = {"device": 1}  # noqa: RUF012  # Luigi's attribute

    def check(self) -> None:
        self.link_job = LinkJob(
            run=self.paths.find_run(self.run_folder),
            input=Path(self.input_file),
            output=Path(self.output_file),
            images=Path(self.images_dir) if self.images_dir else None,
            top_k=self.top_k,
            chunk=self.chunk,
            ignored=tuple(name.strip() for name in self.ignore_fields.split(",") if name.strip()),
            nil_share=None if self.nil_share == "dev" else float(self.nil_share),
            cache=not self.no_cache,
            joint_below=float(self.joint_below) if self.joint_below else None,
            kb=self.kb or None,
            kb_extra=Path(self.kb_extra) if self.kb_extra else None,
            compute=Compute(device=self.device, precision=self.precision),
        )
        check(self.link_job)

    def act(self) -> None:
        result = child.run("linking.mentions:link", self.link_job, LinkResult)
        logs.say(result.text)
        if result.counts.refused and not result.counts.mentions:
            raise UserError(f"--input {self.input_file}: every line was refused; the reasons are in {result.rejects}")
