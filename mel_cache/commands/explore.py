"""The command that serves a page over a finished run."""

from pathlib import Path

from foundation.errors import UserError
from foundation.files import read_json
from heads.contracts import Compute
from mel_cache.commands.features import OnProfile
from mel_cache.commands.listening import Listening
from mel_cache.commands.parameters import Choice, Renamed, Whole
from report.contracts import ServeJob


class Explore(Listening, OnProfile):
    """Serves a page over a finished run until it is stopped: search its mentions, look at cases, link a sentence.

    The run is --run, or the one of --dataset that was finished last. Other datasets than the demo need --data-dir, for
    their pictures. Listens on this machine alone unless --host says otherwise, which needs a token: a browser asks for
    it as a password.
    """

    run_folder = Renamed(
        "--run",
        default="",
        description="a run's folder, or <dataset>/<method>/<hash> under artifacts/runs; empty: the last one",
    )
    port = Whole(least=0, most=65535, default=8080, description="port; 0: a free one")
    split = Choice(choices=("test", "dev"), default="test", description="test or dev")

    def folder_of_run(self) -> Path:
        """The run's folder. Raises `UserError` where there is none, or where it is of another dataset."""
        if self.run_folder:
            folder = self.paths.find_run(self.run_folder)
            if folder.parent.parent.name != self.dataset:
                raise UserError(
                    f"--run {self.run_folder}: of dataset {folder.parent.parent.name!r}; name it (--dataset, and "
                    "--data-dir for its pictures)"
                )
            return folder
        runs = self.paths.root / "runs"
        folders = [
            path.parent
            for path in (runs / self.dataset).glob("*/*/run.json")
            if read_json(path.with_name("metrics.json"))
        ]
        if not folders:
            raise UserError(f"no finished run of dataset {self.dataset} under {runs}; train a head first (TrainHead)")
        return max(folders, key=lambda folder: ((folder / "run.json").stat().st_mtime_ns, folder.name))

    target = "report.explore.serve:serve"

    def job(self) -> ServeJob:
        return ServeJob(
            run=self.folder_of_run(),
            source=self.source,
            host=self.host,
            port=self.port,
            split=self.split,
            token_file=self.token_place,
            compute=Compute(device=self.device, precision=self.precision),
        )
