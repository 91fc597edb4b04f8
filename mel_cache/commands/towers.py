"""The command that writes the encoders that were tuned with a run."""

from pathlib import Path

from foundation import child, logs
from foundation.files import refuse_full
from linking.contracts import ExportJob, ExportResult
from mel_cache.commands.parameters import Renamed
from mel_cache.commands.task import Tool


class ExportTower(Tool):
    """Writes the encoders that were tuned with a run, so that others can load them: --run RUN --to FOLDER.

    Each is a model folder of its own library with adapters merged (transformers, sentence-transformers, open_clip,
    torchvision), also for `model:` in a profile. Several encoders lie side by side in FOLDER (docs/tuning.md).
    """

    run_folder = Renamed("--run", description="a run's folder, or <dataset>/<method>/<hash> under artifacts/runs")
    to = Renamed("--to", description="the folder to write; absent or empty")

    def check(self) -> None:
        self.export_job = ExportJob(run=self.paths.find_run(self.run_folder), folder=Path(self.to))
        refuse_full(self.export_job.folder)

    def act(self) -> None:
        logs.say(child.run("linking.exported:export", self.export_job, ExportResult).text)
