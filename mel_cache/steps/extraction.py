"""Steps that extract features, a group of them at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from foundation import receipts
from foundation.contracts import to_json
from foundation.paths import Paths, descriptions
from mel_cache.steps.base import Done, Outcome, Run, Setup, Step, digest, say_again
from mel_cache.steps.datasets import Prepared
from pipeline.enhance import output
from pipeline.extraction import wants
from pipeline.extraction.contracts import Account, Extraction, ExtractionJob, ExtractionResult, Plan
from pipeline.imported.contracts import IMPORTED, identities
from pipeline.profiles import profile as profiles


@dataclass(frozen=True)
class Group:
    """Features that are extracted together.

    above: the groups of `plan.after`. beside: further features whose models must be there too.
    """

    plan: Plan
    above: Sequence[Done[Extraction]] = ()
    beside: tuple[str, ...] = ()

    @property
    def read(self) -> Extraction:
        """The rows that it is made from."""
        return wants.merged(one.result for one in self.above)


def extract_group(setup: Setup, dataset: Prepared, group: Group) -> Step:
    """Extract one group; the result of a wider group that has done the same is taken instead of running models."""
    paths = setup.paths
    request = _group_request(setup, dataset, group)

    def work(run: Run) -> Outcome:
        before = {key: value for key, value in request.items() if key != "windows"}
        if before != request:
            say_again(paths, "ExtractGroup", before, "texts are cut again: scripts without blanks have windows now")
        result = _of_wider_group(request, group, paths)
        if result is None:
            of_import = wants.imported(setup.profile, group.plan.wants)
            stage = "pipeline.imported.stage:extract" if of_import else "pipeline.extraction.stage:extract"
            result = run(stage, extraction_job(setup, dataset, group), ExtractionResult)
        named = setup.reference in profiles.names()
        extraction = replace(
            result.extraction,
            profile=setup.reference if named else str(Path(setup.reference).absolute()),
            demo=paths.relative(setup.demo) if setup.uses_demo else None,
        )
        files = [paths.root / path for path in (*extraction.columns.values(), *result.files)]
        return Outcome(extraction.to_receipt(), files, result.account.to_receipt())

    return Step("ExtractGroup", request, work)


def extraction_job(setup: Setup, dataset: Prepared, group: Group) -> ExtractionJob:
    """The job that extracts a group."""
    paths = setup.paths
    of_group = digest("ExtractGroup", _group_request(setup, dataset, group))
    return ExtractionJob(
        profile=setup.reference,
        dataset=dataset.folder,
        images=dataset.images,
        wants=group.plan.wants,
        work=paths.root,
        columns=dataset.folder / f"columns-{of_group[:12]}",
        demo=setup.demo,
        upstream=group.read.inputs((want for plan in group.plan.after for want in plan.wants), paths),
        beside=group.beside,
        runtime=setup.runtime,
    )


def _group_request(setup: Setup, dataset: Prepared, group: Group) -> dict[str, Any]:
    wanted = group.plan.wants
    stamps = {mode: output.stamp(descriptions(dataset.folder, mode), mode) for mode in wants.enhanced(wanted)}
    rows = identities(wants.imported(setup.profile, wanted), dataset.folder)
    return {
        "dataset": dataset.content,
        "wants": [to_json(want) for want in wanted],
        "features": wants.request(setup.profile, wanted, setup.demo),
        "upstream": [one.digest for one in group.above],
        **({"descriptions": stamps} if stamps else {}),
        **({IMPORTED: rows} if rows else {}),
        **({"windows": wants.WINDOWS} if any(map(wants.is_text, wanted)) else {}),
    }


def _of_wider_group(request: Mapping[str, Any], group: Group, paths: Paths) -> ExtractionResult | None:
    """The group's result, taken from another one that holds all it wants, by the same models from the same rows."""

    def standing(path: Path) -> dict[str, Any] | None:
        return receipts.standing(paths.root, path)

    for wider in filter(None, map(standing, sorted(paths.receipts.glob("ExtractGroup-*.json")))):
        if not wants.within(request, wider["request"]):
            continue
        read = [standing(paths.receipt("ExtractGroup", one)) for one in wider["request"]["upstream"]]
        found = [Extraction.of_receipt(one["result"]) for one in read if one is not None]
        if len(found) == len(read) and wants.same_rows(group.read, wants.merged(found)):
            extraction = wants.part_of(Extraction.of_receipt(wider["result"]), group.plan.wants)
            stores = {feature.store for feature in extraction.features.values()}
            files = (file["path"] for file in wider["files"])
            return ExtractionResult(
                extraction=extraction,
                files=tuple(path for path in files if Path(path).parent.name in stores),
                account=Account(rows=dict.fromkeys(extraction.features, 0)),
            )
    return None


def extract_features(paths: Paths, groups: Sequence[Done[Extraction]]) -> Step:
    """The results of several groups as one."""
    request = {"groups": [group.digest for group in groups]}
    merged = wants.merged(group.result for group in groups)
    columns = (paths.root / path for path in merged.columns.values())
    return Step("ExtractFeatures", request, lambda run: Outcome(merged.to_receipt(), [*columns]))
