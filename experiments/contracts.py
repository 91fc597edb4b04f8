"""What experiments are given and give back. No torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foundation.contracts import contract
from heads.config.space import Drawn
from heads.contracts import HeadInput, TrainingJob


@contract
class LearnedOutputs:
    """What a run gave that learned features for another.

    inputs: of the second stage. files: of their stores. run: device, and rows extracted by side and feature.
    """

    inputs: tuple[HeadInput, ...]
    files: tuple[Path, ...]
    run: Mapping[str, Any]


@contract
class Study:
    """How a search is run.

    trials: in the whole study, of all processes. prune: whether trials that do worse than half of the others are
    stopped early. storage: a database's URL; empty: a journal file beside the results.
    """

    trials: int = 50
    prune: bool = True
    storage: str = ""


@contract
class SearchJob:
    """A search over one head's hyper-parameters.

    training: the head with the values that the search starts from; its `out` is the search's folder. space: option ->
    what is drawn for it, see `heads.config.space`. given: parameters that stand beside the drawn ones in best.json.
    name: the study's. depends: all that names the study.
    """

    training: TrainingJob
    space: Mapping[str, Drawn]
    given: Mapping[str, Any]
    study: Study
    name: str
    depends: Mapping[str, Any]

    @property
    def out(self) -> Path:
        """The search's folder."""
        return self.training.out


@contract
class SearchResult:
    """What a search ended with.

    best: parameters of the best trial. value: its dev MRR. counts: trials by state. text: all of it to print. run:
    device, trials of this process, seconds.
    """

    best: Mapping[str, Any]
    value: float
    counts: Mapping[str, int]
    text: str
    run: Mapping[str, Any]


@contract
class RemoteTraining:
    """A training for a Ray cluster. address: of the cluster. threads: of each process; 0: by the node's cores."""

    training: TrainingJob
    address: str
    threads: int = 0


@contract
class RemoteSearch:
    """A search for a Ray cluster, see `RemoteTraining`."""

    search: SearchJob
    address: str
    threads: int = 0


@contract
class ScoreJob:
    """Scores of a finished run to compute. run: the job that trained it. split: whose mentions. file: .npz to write."""

    run: TrainingJob
    split: str
    file: Path


@contract
class ScoreResult:
    """file: the .npz of arrays. mentions: how many it holds."""

    file: Path
    mentions: int
