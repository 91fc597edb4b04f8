"""Jobs and results of the Python API. No torch."""

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cache.inputs import Side
from foundation.checksums import check_run, read_sealed
from foundation.contracts import contract
from foundation.files import read_json
from heads.contracts import TrainingJob
from pipeline.candidates.contracts import CandidateLists, ListOptions
from pipeline.datasets.contracts import ACCOUNT, MAX_BAD_IMAGES, MAX_BAD_RECORDS, LayoutOptions
from pipeline.extraction.contracts import Extraction, Runtime
from pipeline.imported.contracts import FeatureExport as FeatureExport
from pipeline.imported.contracts import FeatureImport as FeatureImport
from pipeline.pairs.contracts import PairFeature
from report.contracts import NamedRun

if TYPE_CHECKING:
    import numpy as np


@contract
class DatasetJob:
    """A dataset to prepare, and what everything made from it works with.

    name: a free label; `demo` and `demo-noise` are the embedded datasets. data_dir: folder with its files (not for
    those). work_dir: folder that everything is written to. profile: shipped profile or YAML file, which says what model
    stands behind each feature. format: jsonl, mimic, ghmfc, wikidiverse or fissfuse; None: recognised. options: of the
    layout.
    max_bad_images, max_bad_records: share of the listed pictures that may be missing or broken, of the records that may
    be malformed. runtime: device, precision and batches
    of all that runs models. demo_seed: of the demo's world and encoders. cache_path: `OWN:FURTHER:…`, the folder of the
    cache (empty: in the work folder) and further ones that are only read; empty: as the work folder remembers.
    """

    name: str
    data_dir: Path | None = None
    work_dir: Path = Path("artifacts")
    profile: str = "demo"
    format: str | None = None
    options: LayoutOptions = LayoutOptions()
    max_bad_images: float = MAX_BAD_IMAGES
    max_bad_records: float = MAX_BAD_RECORDS
    runtime: Runtime = Runtime()
    demo_seed: int = 0
    cache_path: str = ""


@contract
class PreparedDataset:
    """A prepared dataset.

    folder: of mentions.parquet and entities.parquet. content: SHA-256 (hex) of their rows. mention_images,
    entity_images: folders of the pictures.
    """

    job: DatasetJob
    folder: Path
    content: str
    mention_images: Path
    entity_images: Path

    @property
    def account(self) -> Mapping[str, Any]:
        """What is in the dataset, and what is wrong with it, as in account.json."""
        return read_sealed(self.folder / "account.json")

    @property
    def text(self) -> str:
        """The account as PrepareDataset prints it."""
        return (self.folder / ACCOUNT).read_text("utf-8")


@contract
class FeaturesJob:
    """Features to extract.

    Those that `method` reads with `params`, or those that `features` names; with neither, all that the profile
    extracts by default.
    """

    dataset: PreparedDataset
    method: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    features: tuple[str, ...] = ()


@contract
class Features:
    """Features in the cache. extraction: identity, rows and verdicts of each, and where the key columns lie."""

    extraction: Extraction

    @property
    def text(self) -> str:
        """Rows and verdicts by feature, as ExtractFeatures prints them."""
        from pipeline.extraction import wants

        return wants.describe(self.extraction)


@contract
class FeatureImportJob:
    """Rows by record id to import as a feature.

    file: of arrays or tables, or the folder of a Hugging Face dataset. ids: file of ids, or name of a column; "": found
    beside the arrays. outputs: output -> name of an array; empty: all. side: that the ids are of; None: found by the
    ids. view: that heads read the rows under; "": every view.
    """

    dataset: PreparedDataset
    feature: str
    file: Path
    ids: str = ""
    outputs: Mapping[str, str] = field(default_factory=dict)
    side: Side | None = None
    view: str = ""


@contract
class FeatureExportJob:
    """Rows of a feature to write to a file: .npz, .npy, .safetensors or .parquet. side: None: both. view: "": the
    profile's."""

    dataset: PreparedDataset
    feature: str
    file: Path
    side: Side | None = None
    view: str = ""


@contract
class CandidatesJob(ListOptions):
    """Candidate lists to build over a dataset. Their options are those of `ListOptions`."""

    dataset: PreparedDataset


@contract
class Candidates:
    """Candidate lists of all M mentions. lists: file, and recall by source, split and depth."""

    job: CandidatesJob
    lists: CandidateLists

    @property
    def recall(self) -> Mapping[str, Mapping[str, Mapping[str, int | float]]]:
        """Source (`merged` for all together) -> split -> depth -> share of golds that are listed by then."""
        return self.lists.recall

    @property
    def ids(self) -> "np.ndarray":
        """(M, k) int32 rows of entities.parquet, best first, -1 where a list ends."""
        return _array(self.lists.file, "ids")


@contract
class PairsJob:
    """Pair features to compute, by name."""

    candidates: Candidates
    names: tuple[str, ...]


@contract
class Pairs:
    """Pair features on disk, by name."""

    features: Mapping[str, PairFeature]

    def values(self, name: str) -> "np.ndarray":
        """(M, k) or (M, k, S) float32 beside the candidate lists, NaN where a pair has no number."""
        return _array(self.features[name].file, "values")


@contract
class HeadJob:
    """A head to train.

    params: hyper-parameters in place of the profile's and the method's own. train_fraction: share of the training
    mentions that is used.
    """

    candidates: Candidates
    method: str = "mimic"
    params: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    train_fraction: float = 1.0


@contract
class TrainedHead:
    """A finished run. folder: of its files. training: the job that trained it, with all that it read."""

    job: HeadJob
    folder: Path
    training: TrainingJob

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Split -> protocol (full-kb, candidates, rerank) -> part (all, …) -> figure (H@1, MRR, …) -> 0 to 1.

        Over lists that came with the data and always hold the gold, a protocol's name says so:
        `candidates (given, gold forced in)`.
        """
        check_run(self.folder, "metrics.json")
        content: Mapping[str, Any] = read_json(self.folder / "metrics.json")
        return content

    @property
    def text(self) -> str:
        """The metrics as TrainHead prints them."""
        return (self.folder / "metrics.txt").read_text("utf-8")

    @property
    def named(self) -> NamedRun:
        """The run under its method's name, for `compare`."""
        return NamedRun(name=self.job.method, folder=self.folder)


@contract
class EvaluationJob:
    """Scores of a trained head to compute, for the mentions of a split."""

    head: TrainedHead
    split: Literal["dev", "test"] = "test"


@contract
class Evaluation:
    """A head over the m mentions of a split.

    metrics: protocol -> part -> figure -> number. file: .npz of the arrays below.
    """

    metrics: Mapping[str, Any]
    file: Path

    @property
    def mentions(self) -> "np.ndarray":
        """(m,) ids of the mentions."""
        return _array(self.file, "mentions")

    @property
    def candidates(self) -> "np.ndarray":
        """(m, k) rows of entities.parquet, -1 where a list ends."""
        return _array(self.file, "candidates")

    @property
    def scores(self) -> "np.ndarray":
        """(m, k) float32 scores of the candidates, NaN where a list ends."""
        return _array(self.file, "scores")

    @property
    def gold(self) -> "np.ndarray":
        """(m,) row of the gold in entities.parquet, -1 for NIL, -2 for a gold outside the KB."""
        return _array(self.file, "gold")


@contract
class SweepJob:
    """A search over a head's hyper-parameters.

    head: where it starts. trials: in the whole study. space: YAML file instead of the method's own space. prune: stop
    trials early that do worse than half of the others. storage: a database's URL; empty: a journal file beside the
    results.
    """

    head: HeadJob
    trials: int = 50
    space: Path | None = None
    prune: bool = True
    storage: str = ""


@contract
class Sweep:
    """A finished search.

    best: parameters of its best trial, for `HeadJob`. folder: of trials.csv and pictures. text: a summary.
    """

    best: Mapping[str, Any]
    folder: Path
    text: str


@contract
class VerifyJob:
    """A check of a work folder.

    work: the folder. repair: whether bad files are removed. shards: whether those of features are read too.
    """

    work: Path
    repair: bool = False
    shards: bool = True


@contract
class BadFile:
    """A file that is not as it was written.

    path: relative to the work folder. maker: the command that makes it again. removed: whether it is gone now.
    """

    path: str
    problem: str
    maker: str
    removed: bool = False


@contract
class Verification:
    """The result of a check.

    rows: of features that were checked, where nothing is bad. files: others whose content was checked.
    unlisted: files in receipts of before checksums; only their size was compared. layers: rows by folder that the cache
    reads beneath itself; in_layers: what is bad there, which is never removed.
    """

    rows: int
    files: int
    unlisted: int
    bad: tuple[BadFile, ...]
    layers: Mapping[str, int] = field(default_factory=dict)
    in_layers: tuple[BadFile, ...] = ()


def _array(file: Path, name: str) -> "np.ndarray":
    from foundation.arrays import Expected, read_npz

    return read_npz(file, {name: Expected()})[name]
