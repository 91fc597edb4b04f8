"""A finished run with all that it was trained on, read back from the receipts beside it."""

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cache.inputs import SIDES
from foundation import receipts
from foundation.contracts import from_json
from foundation.errors import UserError
from foundation.files import read_json
from foundation.paths import Paths
from heads.config import stored_config, to_json
from heads.contracts import HeadInput
from pipeline.candidates.contracts import ListOptions
from pipeline.extraction import wants
from pipeline.extraction.contracts import Extraction
from pipeline.profiles import profile as profiles
from pipeline.profiles.profile import Profile

REMEDY = "run the TrainHead command that trained it again; finished steps are skipped"


@dataclass(frozen=True)
class Finished:
    """A run and what it reads.

    reference, demo: the profile and the folder of the demo's encoders that its features were extracted with.
    prepared: folder of the dataset's tables. images: each side's folder of pictures, below the dataset's own.
    options, lists: how its candidate lists were built, and their file. retrieval: what sources of candidates read.
    pairs: names of its pair features. extraction: all features that it and its candidates and pair features read.
    runs: those that it combines, by method. prompted: inputs that the learned prompts of the run `prompts` made,
    paths relative to the work folder.
    """

    folder: Path
    paths: Paths
    method: str
    config: Mapping[str, Any]
    train_fraction: float
    reference: str | None
    demo: Path | None
    prepared: Path
    images: Mapping[str, str]
    options: ListOptions
    lists: Path
    retrieval: Extraction
    pairs: tuple[str, ...]
    extraction: Extraction
    runs: Mapping[str, "Finished"]
    prompted: tuple[HeadInput, ...]
    prompts: "Finished | None"

    @functools.cached_property
    def profile(self) -> Profile | None:
        """The profile that its features were extracted with, as it is now. Raises `UserError` where it is gone."""
        return None if self.reference is None else profiles.load(self.reference)

    @property
    def label(self) -> str:
        """The dataset's label."""
        return self.folder.parent.parent.name

    def tree(self) -> list["Finished"]:
        """This run, those that it combines, and those that learned prompts for them."""
        below = [*self.runs.values(), *([self.prompts] if self.prompts else [])]
        return [self, *(one for run in below for one in run.tree())]


def read(folder: Path) -> Finished:
    """The run in `folder`, artifacts/runs/<dataset>/<method>/<hash>.

    Raises `UserError` where there is none, or where something it reads is gone.
    """
    folder = Path(folder).absolute()
    if (folder / "metrics-mean.json").exists():
        first = read_json(folder / "metrics-mean.json")["runs"][0]
        raise UserError(
            f"{folder}: the mean over several seeds; name one of its runs, e.g. {(folder / first).resolve()}"
        )
    if not (folder / "model.safetensors").exists():
        raise UserError(
            f"{folder}: no trained head there (no model.safetensors); name the folder that TrainHead printed as `run:`"
        )
    run = read_json(folder / "run.json") if (folder / "run.json").exists() else {}
    if run and not stored_config(run["method"], run["config"]).evaluates:
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
        """The run in a folder. Raises `UserError` where no receipt names it."""
        place = self.paths.relative(folder)
        for receipt in self._newest("TrainHead"):
            if receipt["result"].get("run") == place:
                return self._run(receipt)
        raise UserError(f"{folder}: no receipt names this run, or a file of it was changed; {REMEDY}")

    def _newest(self, task: str) -> Iterator[Receipt]:
        """Those of a task, the newest first."""
        files = self.paths.receipts.glob(f"{task}-*.json")
        for path in sorted(files, key=lambda path: -path.stat().st_mtime_ns):
            receipt = receipts.standing(self.paths.root, path)
            if receipt:
                yield receipt

    def _of_request(self, digest: str) -> Receipt:
        """The one of a request. Raises `UserError` where there is none."""
        for path in self.paths.receipts.glob(f"*-{digest[:16]}.json"):
            receipt = receipts.standing(self.paths.root, path)
            if receipt:
                return receipt
            raise UserError(f"{path.stem}: a file it lists is gone or changed in {self.paths.root}; {REMEDY}")
        raise UserError(f"receipt {digest[:16]} is not in {self.paths.receipts}; {REMEDY}")

    def _upstream(self, listed: Iterable[Receipt], task: str) -> list[Receipt]:
        """Those of `task` that others read."""
        read = [self._of_request(digest) for receipt in listed for digest in receipt["request"]["upstream"]]
        return [receipt for receipt in read if receipt["task"] == task]

    def _prepared(self, content: str) -> Mapping[str, Any]:
        """The result that prepared a dataset with this content. Raises `UserError` where there is none."""
        for receipt in self._newest("PrepareDataset"):
            if receipt["result"].get("content") == content:
                return dict(receipt["result"])
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
        prompted = self._upstream([receipt], "PromptedFeatures")
        prepared = self._prepared(lists["request"]["dataset"])
        trained = self._upstream([receipt], "TrainHead") if request["method"] == "fused" else []
        runs = {one["request"]["method"]: self._run(one) for one in trained}
        references = [
            *(group["result"]["profile"] for group in groups),
            *(run.reference for run in runs.values() if run.reference),
        ]
        return Finished(
            folder=root / receipt["result"]["run"],
            paths=self.paths,
            method=request["method"],
            config=to_json(stored_config(request["method"], request["config"])),
            train_fraction=request["train_fraction"],
            reference=next(iter(references), None),
            demo=self._demo(groups),
            prepared=root / prepared["folder"],
            images={side: prepared[f"{side}_images"] for side in SIDES},
            options=_list_options(lists["request"]),
            lists=root / lists["result"]["file"],
            retrieval=_merged(of_lists),
            pairs=tuple(one["request"]["pair"] for one in pairs),
            extraction=_merged(extractions),
            runs=runs,
            prompted=tuple(from_json(HeadInput, one) for made in prompted for one in made["result"]["inputs"]),
            prompts=self._run(self._of_request(prompted[0]["request"]["prompts"])) if prompted else None,
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
