"""Commands that bring somebody else's features into the cache, and write those of the cache to a file."""

from pathlib import Path

import luigi

from cache.inputs import SIDES, Want
from foundation import child, logs
from foundation.errors import UserError
from mel_cache.commands.dataset import OnDataset, PrepareDataset
from mel_cache.commands.features import ExtractFeatures, OnProfile, wants_json
from mel_cache.commands.parameters import Choice, Renamed
from mel_cache.commands.task import Task, Tool
from pipeline.extraction import wants
from pipeline.imported.contracts import ExportFeaturesJob, FeatureExport, FeatureImport, ImportJob


class ImportFeatures(Tool, OnDataset):
    """Reads features by record id into the cache: --from FILE --ids FILE --feature NAME.

    FILE is .npy, .npz, .pt (tensors alone), .safetensors, Parquet, or the folder of a Hugging Face dataset. A profile
    names them with `NAME: {extractor: imported}`.
    """

    profile = PrepareDataset.profile
    from_file = Renamed("--from", description="file of arrays or tables, or the folder of a Hugging Face dataset")
    ids = luigi.Parameter(
        default="", description="text file with an id a line, JSON list of ids, or the name of a column of the table"
    )
    feature = luigi.Parameter(description="name of the feature, as a profile has it")
    outputs = luigi.Parameter(
        default="", description="which arrays, under which names, like pooled=embedding,tokens=states; empty: all"
    )
    side = Choice(default="", choices=("", *SIDES), description="mention or entity; empty: whose ids these are")
    view = luigi.Parameter(default="", description="the view that heads read the rows under; empty: every view")

    def requires(self) -> list[Task]:
        return [] if self.dry_run else [self.clone(PrepareDataset)]

    def brief(self) -> str:
        return f" {self.feature} from {self.from_file}"

    def act(self) -> None:
        job = ImportJob(
            source=Path(self.from_file).expanduser(),
            ids=self.ids,
            feature=self.feature,
            dataset=self.clone(PrepareDataset).prepared().folder,
            work=self.paths.root,
            outputs=named_outputs(self.outputs),
            side=self.side or None,
            view=self.view,
        )
        logs.say(child.run("pipeline.imported.stage:import_features", job, FeatureImport).text)


def named_outputs(text: str) -> dict[str, str]:
    """Output -> array of `--outputs`. Raises `UserError`."""
    named: dict[str, str] = {}
    for part in filter(None, (each.strip() for each in text.split(","))):
        output, _, array = part.partition("=")
        if output in named:
            raise UserError(f"--outputs {text}: {output!r} is given twice")
        named[output] = array or output
    return named


class ExportFeatures(Tool, OnProfile):
    """Writes the rows of a feature with their record ids: --feature NAME --to FILE.

    FILE ends in .npz, .npy, .safetensors or .parquet. What is not in the cache yet is extracted first. ImportFeatures
    reads the file back.
    """

    feature = luigi.Parameter(description="name of the feature in the profile")
    to = luigi.Parameter(description="file to write: .npz, .npy, .safetensors or .parquet")
    side = Choice(default="", choices=("", *SIDES), description="mention or entity; empty: both")
    view = luigi.Parameter(default="", description="a view of the feature; empty: the profile's")

    def check(self) -> None:
        from pipeline.imported import writing

        writing.check(Path(self.to).expanduser())
        self.chosen()

    def chosen(self) -> list[Want]:
        """What is exported. Raises `UserError`."""
        return wants.exported(self.profile_content, self.feature, self.side or None, self.view)

    def extraction(self) -> ExtractFeatures:
        return self.clone(ExtractFeatures, features="", wants=wants_json(self.chosen()))

    def requires(self) -> list[Task]:
        return [] if self.dry_run else [self.extraction()]

    def brief(self) -> str:
        return f" {self.feature} to {self.to}"

    def act(self) -> None:
        extraction = self.extraction().finished().result
        job = ExportFeaturesJob(
            inputs=extraction.inputs(self.chosen(), self.paths),
            dataset=self.prepared().folder,
            to=Path(self.to).expanduser(),
        )
        logs.say(child.run("pipeline.imported.writing:export_features", job, FeatureExport).text)
