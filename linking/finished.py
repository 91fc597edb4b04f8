"""A finished run with all that it was trained on, read back from the receipts beside it."""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundation import receipts
from foundation.contracts import from_json
from foundation.errors import UserError
from foundation.files import read_json
from foundation.paths import Paths
from heads.config import load_config
from heads.contracts import HeadInput
from pipeline.extraction import wants
from pipeline.extraction.contracts import Extraction
from pipeline.profiles import profile as profiles
from pipeline.profiles.profile import Profile

REMEDY = "give the command that trained it once more: what stands is not done again"


@dataclass(frozen=True)
class Finished:
    """A run and what it reads.

    extraction: of all that it reads; retrieval: of what dense sources of candidates read; candidates: k, scorer, sources,
    merge, file; prepared: folder of the dataset's tables; images: each side's folder of pictures below the dataset's own;
    pairs: names of its pair features; runs: those that it combines, by method; prompted: inputs that learned prompts have
    made, by the run `prompts`.
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
    candidates: Mapping[str, Any]
    retrieval: Extraction
    pairs: list[str]
    extraction: Extraction
    runs: Mapping[str, "Finished"]
    prompted: list[HeadInput]
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
    """The run in `folder`, artifacts/runs/<dataset>/<method>/<hash>. Raises `UserError` where there is none, or where something it reads is gone."""
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
    told = read_json(folder / "run.json") if (folder / "run.json").exists() else {}
    if told and not load_config(told["method"], told["config"]).evaluates:
        raise UserError(
            f"{folder}: a stage that prepares another run, with no answers of its own; name the run of the whole method"
        )
    if len(folder.parents) < 4 or not (folder.parents[3] / "receipts").is_dir():
        raise UserError(
            f"{folder}: no receipts in {folder.parents[min(3, len(folder.parents) - 1)]}; leave the run where it was made, in its work folder"
        )
    book = _Book(folder.parents[3])
    place = book.paths.relative(folder)
    for path in sorted(book.paths.receipts.glob("TrainHead-*.json"), key=lambda path: -path.stat().st_mtime_ns):
        receipt = receipts.standing(book.root, path)
        if receipt and receipt["result"].get("run") == place:
            return book.run(receipt)
    raise UserError(f"{folder}: no receipt names this run, or a file of it was changed; {REMEDY}")


@dataclass(frozen=True)
class _Book:
    """The receipts of a work folder."""

    root: Path

    @property
    def paths(self) -> Paths:
        return Paths(self.root)

    def receipt(self, digest: str) -> dict[str, Any]:
        """The standing receipt of a request. Raises `UserError` where there is none."""
        for path in self.paths.receipts.glob(f"*-{digest[:16]}.json"):
            found = receipts.standing(self.root, path)
            if found:
                return found
            raise UserError(f"{path.stem}: a file it lists is gone or changed in {self.root}; {REMEDY}")
        raise UserError(f"receipt {digest[:16]} is not in {self.paths.receipts}; {REMEDY}")

    def _prepared(self, content: str) -> dict[str, Any]:
        """The newest standing receipt of a dataset with this content. Raises `UserError` where there is none."""
        for path in sorted(
            self.paths.receipts.glob("PrepareDataset-*.json"), key=lambda path: -path.stat().st_mtime_ns
        ):
            found = receipts.standing(self.root, path)
            if found and found["result"].get("content") == content:
                return found
        raise UserError(f"no receipt of the dataset {content[:12]} is in {self.paths.receipts}; {REMEDY}")

    def run(self, receipt: Mapping[str, Any]) -> Finished:
        """The run of a TrainHead receipt."""
        request = receipt["request"]
        parts: dict[str, list[dict[str, Any]]] = {}
        for digest in request["upstream"]:
            found = self.receipt(digest)
            parts.setdefault(found["task"], []).append(found)
        candidates = parts["BuildCandidates"][0]
        extractions = [
            *parts.get("ExtractFeatures", []),
            *self._upstream([*parts.get("BuildPairs", []), candidates], "ExtractFeatures"),
        ]
        groups = [self.receipt(digest) for one in extractions for digest in one["request"]["groups"]]
        dense = [Extraction.of_receipt(one["result"]) for one in self._upstream([candidates], "ExtractFeatures")]
        made = parts.get("PromptedFeatures", [])
        prepared = self._prepared(candidates["request"]["dataset"])
        runs = (
            {one["request"]["method"]: self.run(one) for one in parts.get("TrainHead", [])}
            if request["method"] == "fused"
            else {}
        )
        inner = [run.reference for run in runs.values() if run.reference]
        return Finished(
            folder=self.root / receipt["result"]["run"],
            paths=self.paths,
            method=request["method"],
            config=request["config"],
            train_fraction=request["train_fraction"],
            reference=next((group["result"]["profile"] for group in groups), inner[0] if inner else None),
            demo=self._demo(groups),
            prepared=self.root / prepared["result"]["folder"],
            images={side: prepared["result"][f"{side}_images"] for side in ("mention", "entity")},
            candidates={**candidates["request"], "file": candidates["result"]["file"]},
            retrieval=wants.merged(dense),
            pairs=[one["request"]["pair"] for one in parts.get("BuildPairs", [])],
            extraction=wants.merged(Extraction.of_receipt(one["result"]) for one in extractions),
            runs=runs,
            prompted=[from_json(HeadInput, entry) for one in made for entry in one["result"]["inputs"]],
            prompts=self.run(self.receipt(made[0]["request"]["prompts"])) if made else None,
        )

    def _upstream(self, listed: Iterable[Mapping[str, Any]], task: str) -> Any:
        """The receipts of `task` that those of `listed` read."""
        for receipt in listed:
            for digest in receipt["request"]["upstream"]:
                found = self.receipt(digest)
                if found["task"] == task:
                    yield found

    def _demo(self, groups: Iterable[Mapping[str, Any]]) -> Path | None:
        """The demo's encoders, where a feature is of one of them."""
        for group in groups:
            if group["result"].get("demo"):
                return self.root / group["result"]["demo"]
        found = sorted(self.root.glob("demo/encoders-*"))
        return found[0] if found else None
