"""An experiment of a leaderboard: its runs with their averages, its name and settings."""

from dataclasses import dataclass

from report.averages import Averages, averages
from report.contracts import NamedRun
from report.runs import Experiment, read_experiment


@dataclass(frozen=True)
class Entry:
    """An experiment with its averages over seeds. settings: options that differ from their defaults. group: see
    `NamedRun`."""

    experiment: Experiment
    averages: Averages
    settings: str
    group: str

    @property
    def name(self) -> str:
        return self.experiment.name


def read_entry(run: NamedRun) -> Entry:
    """The experiment in a run's folder. Raises `UserError` where no finished run is there."""
    experiment = read_experiment(run.name, run.folder)
    return Entry(experiment, averages([one.metrics for one in experiment.runs]), run.settings, run.group)
