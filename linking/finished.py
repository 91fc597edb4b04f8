"""A finished run with all that it was trained on, read back from the receipts beside it."""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cache.inputs import SIDES
from foundation import receipts
from foundation.checksums import read_sealed
from foundation.contracts import from_json
from foundation.errors import NotAsWritten, UserError
from foundation.paths import Paths
from foundation.remedies import maker
from heads.config import stored_config, to_json
from heads.contracts import HeadInput
from heads.tune import TUNED
from pipeline.candidates import specs
from pipeline.candidates.contracts import ListOptions
from pipeline.extraction import wants
from pipeline.extraction.contracts import Extraction
from pipeline.profiles import profile as profiles
from pipeline.profiles.profile import Profile

LEARNED = {"PromptedFeatures": "prompts", "TunedFeatures": TUNED}
"""Step that extracts features as a run learned to → what its request calls that run."""
REMEDY = "run the TrainHead command that trained it again; finished steps are skipped"


@dataclass(frozen=True)
class Finished:
    """A run and what it reads.

    references: feature -> the profiles that it was extracted with, of which any will do. demo: folder of the demo's
    encoders. limits: of pictures. prepared, content: folder of the dataset's tables, and hash of their rows. images:
    each side's folder of pictures, below the dataset's own. options, lists: how its candidate lists were built, and
    their file. retrieval: what sources of candidates read. pairs: names of its pair features. extraction: all features
    that it and its candidates and pair features read.
    runs: those that it combines, by method. learned: inputs that the run `learner` learned to make,
    paths relative to the work folder. retrievers: runs whose vectors are a source of its candidates, by the folder that
    the source names.
    """

    folder: Path
    paths: Paths
    method: str
    config: Mapping[str, Any]
    train_fraction: float
    references: Mapping[str, tuple[str, ...]]
    demo: Path | None
    limits: Mapping[str, int]
    prepared: Path
    content: str
    images: Mapping[str, str]
    options: ListOptions
    lists: Path
    retrieval: Extraction
    pairs: tuple[str, ...]
    extraction: Extraction
    runs: Mapping[str, "Finished"]
    learned: tuple[HeadInput, ...]
    learner: "Finished | None"
    retrievers: Mapping[str, "Finished"]

    @functools.cached_property
    def profiles(self) -> dict[str, tuple[Profile, ...]]:
        """Feature -> the profiles that have it, of those that this run and the runs that it reads were extracted with.

        First those that the feature itself was extracted with, as they are now. Raises `UserError` for a feature that
        none has any more.
        """
        own: dict[str, tuple[str, ...]] = {}
        for run in self.tree():
            for name, references in run.references.items():
                own[name] = tuple(dict.fromkeys((*own.get(name, ()), *references)))
        everyone = [reference for references in own.values() for reference in references]
        return {name: _having(name, dict.fromkeys((*own[name], *everyone))) for name in sorted(own)}

    @property
    def label(self) -> str:
        """The dataset's label."""
        return self.folder.parent.parent.name

    def tree(self) -> list["Finished"]:
        """This run, those that it combines, those that learned features for them, and those that list candidates."""
        below = [*self.runs.values(), *([self.learner] if self.learner else []), *self.retrievers.values()]
        return [self, *(one for run in below for one in run.tree())]


def read(folder: Path, stages: bool = False) -> Finished:
    """The run in `folder`, artifacts/runs/<dataset>/<method>/<hash>. stages: also one that prepares another.

    Raises `UserError` where there is none, or where something it reads is gone.
    """
    folder = Path(folder).absolute()
    if (folder / "metrics-mean.json").exists():
        first = read_sealed(folder / "metrics-mean.json")["runs"][0]
        raise UserError(
            f"{folder}: the mean over several seeds; name one of its runs, e.g. {(folder / first).resolve()}"
        )
    if not (folder / "model.safetensors").exists():
        raise UserError(
            f"{folder}: no trained head there (no model.safetensors); name the folder that TrainHead printed as `run:`"
        )
    run = read_sealed(folder / "run.json") if (folder / "run.json").exists() else {}
    if run and not stages and not stored_config(run["method"], run["config"]).evaluates:
        raise UserError(
            f"{folder}: a stage that prepares another run, with no answers of its own; name the run of the whole method"
        )
    work = folder.parents[min(3, len(folder.parents) - 1)]
    if len(folder.parents) < 4 or not (work / "receipts").is_dir():
        raise UserError(f"{folder}: no receipts in {work}; leave the run where it was made, in its work folder")
    return _Receipts(Paths(work)).run_in(folder)


Receipt = Mapping[str, Any]
"""Keys task, request, result, files and run, see `foundation.receipts`."""


@dataclass(frozen=True)
class _Receipts:
    """The receipts of a work folder that stand: all files that they list are there."""

    paths: Paths

    def run_in(self, folder: Path) -> Finished:
        """The run in a folder. Raises `UserError` where no receipt names it, or a file of it is damaged."""
        place = self.paths.relative(folder)
        receipt = self._first("TrainHead", lambda result: result.get("run") == place)
        if receipt is None:
            raise UserError(f"{folder}: no receipt names this run; {REMEDY}")
        return self._run(receipt)

    def _first(self, task: str, wanted: Callable[[Mapping[str, Any]], bool]) -> Receipt | None:
        """The newest of a task whose result is wanted; None where there is none. Raises `NotAsWritten` where all that
        are list a damaged file."""
        damaged: NotAsWritten | None = None
        files = self.paths.receipts.glob(f"{task}-*.json")
        for path in sorted(files, key=lambda path: -path.lstat().st_mtime_ns):
            try:
                if wanted(read_sealed(path).get("result", {})):
                    return self._whole(path)
            except NotAsWritten as error:
                damaged = damaged or error
        if damaged is not None:
            raise damaged
        return None

    def _whole(self, path: Path) -> Receipt:
        """A receipt, all of whose files are as they were written, large ones too: they are read next."""
        found = receipts.examine(self.paths.root, path, most=None)
        if found.receipt is None or found.fault:
            raise NotAsWritten(f"{found.fault or f'{path} is gone'}; run {maker(path)}")
        return found.receipt

    def _of_request(self, digest: str) -> Receipt:
        """The one of a request. Raises `UserError` where there is none."""
        for path in self.paths.receipts.glob(f"*-{digest[:16]}.json"):
            return self._whole(path)
        raise UserError(f"receipt {digest[:16]} is not in {self.paths.receipts}; {REMEDY}")

    def _upstream(self, listed: Iterable[Receipt], task: str) -> list[Receipt]:
        """Those of `task` that others read."""
        read = [self._of_request(digest) for receipt in listed for digest in receipt["request"]["upstream"]]
        return [receipt for receipt in read if receipt["task"] == task]

    def _prepared(self, content: str) -> Receipt:
        """The one of a dataset with this content. Raises `UserError` where there is none."""
        receipt = self._first("PrepareDataset", lambda result: result.get("content") == content)
        if receipt is not None:
            return receipt
        raise UserError(f"no receipt of the dataset {content[:12]} is in {self.paths.receipts}; {REMEDY}")

    def _run(self, receipt: Receipt) -> Finished:
        """The run of a TrainHead receipt."""
        request, root = receipt["request"], self.paths.root
        (lists,) = self._upstream([receipt], "BuildCandidates")
        pairs = self._upstream([receipt], "BuildPairs")
        of_lists = self._upstream([lists], "ExtractFeatures")
        extractions = [
            *self._upstream([receipt], "ExtractFeatures"),
            *self._upstream(pairs, "ExtractFeatures"),
            *of_lists,
        ]
        groups = [self._of_request(digest) for one in extractions for digest in one["request"]["groups"]]
        learned = [one for task in LEARNED for one in self._upstream([receipt], task)]
        made = self._prepared(lists["request"]["dataset"])
        prepared = made["result"]
        trained = self._upstream([receipt], "TrainHead") if request["method"] == "fused" else []
        runs = {one["request"]["method"]: self._run(one) for one in trained}
        options = _list_options(lists["request"])
        return Finished(
            folder=root / receipt["result"]["run"],
            paths=self.paths,
            method=request["method"],
            config=to_json(stored_config(request["method"], request["config"])),
            train_fraction=request["train_fraction"],
            references=_references(groups),
            demo=self._demo(groups),
            limits=next((group["request"]["features"]["limits"] for group in groups), made["request"]["limits"]),
            prepared=root / prepared["folder"],
            content=prepared["content"],
            images={side: prepared[f"{side}_images"] for side in SIDES},
            options=options,
            lists=root / lists["result"]["file"],
            retrieval=_merged(of_lists),
            pairs=tuple(one["request"]["pair"] for one in pairs),
            extraction=_merged(extractions),
            runs=runs,
            learned=tuple(from_json(HeadInput, one) for made in learned for one in made["result"]["inputs"]),
            learner=next((self._run(self._of_request(one["request"][LEARNED[one["task"]]])) for one in learned), None),
            retrievers={name: self.run_in(root / name) for name in specs.runs(options.sources)},
        )

    def _demo(self, groups: Iterable[Receipt]) -> Path | None:
        """The folder of the demo's encoders, where a feature is of one of them."""
        named = [self.paths.root / group["result"]["demo"] for group in groups if group["result"].get("demo")]
        return next(iter([*named, *sorted(self.paths.root.glob("demo/encoders-*"))]), None)


def _list_options(request: Mapping[str, Any]) -> ListOptions:
    """Of a request of BuildCandidates. One that says nothing of given lists took them in their own order."""
    named = {field.name: request[field.name] for field in fields(ListOptions) if field.name in request}
    return ListOptions(**{"given_order": "trusted", **named})


def _merged(extractions: Iterable[Receipt]) -> Extraction:
    return wants.merged(Extraction.of_receipt(one["result"]) for one in extractions)


def _references(groups: Iterable[Receipt]) -> dict[str, tuple[str, ...]]:
    """Feature -> the profiles named by the groups that extracted it."""
    named: dict[str, tuple[str, ...]] = {}
    for group in groups:
        for feature in group["result"]["features"]:
            named[feature] = tuple(dict.fromkeys((*named.get(feature, ()), group["result"]["profile"])))
    return named


def _having(name: str, references: Iterable[str]) -> tuple[Profile, ...]:
    """Those of the profiles that are there and have a feature. Raises the `UserError` of the first where none has."""
    having: list[Profile] = []
    problems: list[UserError] = []
    for reference in references:
        try:
            profile = profiles.load(reference)
            profile.feature(name)
            having.append(profile)
        except UserError as error:
            problems.append(error)
    if not having:
        raise problems[0]
    return tuple(having)
