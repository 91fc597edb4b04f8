"""The command that writes what a run was evaluated on, and compares two runs in that."""

from pathlib import Path

import luigi

from foundation import child, logs
from foundation.errors import UserError
from mel_cache.commands.parameters import Renamed
from mel_cache.commands.task import Tool
from report.contracts import ManifestJob, ManifestResult


class EvaluationManifest(Tool):
    """Writes what a run was evaluated on as one JSON to be published: --run RUN --to FILE.

    Order of mentions, golds, the KB's and the lists' hashes, the rule of ties, figures; no text and no picture.
    --check FILE says whether the run was evaluated on the same thing as another one.
    """

    run_folder = Renamed("--run", description="a run's folder, or <dataset>/<method>/<hash> under artifacts/runs")
    to = luigi.Parameter(default="", description="the JSON file to write")
    check_file = Renamed("--check", default="", description="a manifest to compare the run with")

    def check(self) -> None:
        if bool(self.to) == bool(self.check_file):
            raise UserError("EvaluationManifest: expected either --to FILE or --check FILE")
        self.manifest_job = ManifestJob(
            run=self.paths.find_run(self.run_folder),
            to=Path(self.to).expanduser() if self.to else None,
            check=Path(self.check_file).expanduser() if self.check_file else None,
        )

    def act(self) -> None:
        result = child.run("report.manifest:make", self.manifest_job, ManifestResult)
        if result.differences:
            raise UserError(result.text, *result.differences)
        logs.say(result.text)
