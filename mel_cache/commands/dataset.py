"""Tasks on a dataset's files, and the parameters that everything on a dataset shares."""

import json
from pathlib import Path
from typing import Any

import luigi

from foundation import logs
from foundation.errors import UserError
from mel_cache import steps
from mel_cache.commands.parameters import MOST_SEED, Choice, Number, Whole
from mel_cache.commands.shell import command
from mel_cache.commands.task import Task, kept, remembered, setting
from mel_cache.steps import Outcome, Step
from pipeline.datasets.contracts import ACCOUNT, LayoutOptions
from pipeline.demo.contracts import DEMO, WORLDS
from pipeline.profiles import profile


class DemoWorld(Task):
    """Draws an embedded dataset (about 400 entities, 2,500 mentions) from a seed, in the jsonl layout.

    The world `demo-noise` has the demo's entities and other mentions: in two of three, the sentence or the picture is
    about something else.
    """

    demo_seed = setting("demo_seed", 0, "seed of the demo world and of its encoders", Whole, least=0, most=MOST_SEED)
    world = Choice(default=DEMO, choices=WORLDS, description=f"which: {' or '.join(WORLDS)}")

    def step(self) -> Step:
        return steps.demo_world(self.paths, self.demo_seed, self.world)

    @property
    def place(self) -> Path:
        return self.paths.demo("world", self.step().digest)

    def summary(self, receipt: dict[str, Any]) -> str:
        return f"{self.world} world in {self.place}: {json.dumps(receipt['result'])}"


class DemoEncoders(Task):
    """Trains the demo's small models (BERT, CLIP, ResNet, ViT, YOLO, faces) on freshly drawn pictures.

    Leaves checkpoints in the libraries' own formats.
    """

    demo_seed = DemoWorld.demo_seed
    resources = {"device": 1}  # noqa: RUF012  # Luigi's attribute

    def step(self) -> Step:
        return steps.demo_encoders(self.paths, self.demo_seed)

    @property
    def place(self) -> Path:
        return self.paths.demo("encoders", self.step().digest)

    def summary(self, receipt: dict[str, Any]) -> str:
        return f"demo encoders in {self.place}\n{json.dumps(receipt['result'], indent=1)}"


class OnDataset(Task):
    """Parameters of everything that reads a dataset."""

    dataset = setting("dataset", "demo", "a free label for the dataset; `demo` and `demo-noise` are embedded ones")
    data_dir = setting("data_dir", "", "folder with the dataset's files (not for the embedded ones)")
    format = setting(
        "format",
        "",
        "layout of the files: jsonl, mimic, ghmfc, wikidiverse or fissfuse; empty: recognised from the files there",
    )
    mention_images = setting("mention_images", "", "folder of the mentions' pictures, if not where the layout puts it")
    entity_images = setting("entity_images", "", "folder of the entities' pictures, if not where the layout puts it")
    ignore_fields = setting(
        "ignore_fields", "", "comma-separated fields of the records that are passed over, unless they must be there"
    )
    repeated_ids = setting(
        "repeated_ids", "refuse", "what happens to mentions that share an id: refuse, or number them apart"
    )
    max_bad_images = setting(
        "max_bad_images", 0.2, "share of the listed pictures that may be missing or broken", Number, least=0, most=1
    )
    max_bad_records = setting(
        "max_bad_records",
        0.01,
        "share of the records that may be malformed; they are left out and listed",
        Number,
        least=0,
        most=1,
    )
    no_follow_links = luigi.BoolParameter(
        default=False, description="refuse pictures behind symbolic links that lead out of the picture folder"
    )
    rescan = luigi.BoolParameter(
        default=False,
        significant=False,
        description="read every picture again, also where name, size and time are as before",
    )
    demo_seed = DemoWorld.demo_seed

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.dataset not in WORLDS and not self.data_dir:
            raise UserError(f"--dataset {self.dataset}: name its folder with --data-dir")
        if self.dataset in WORLDS and self.data_dir:
            raise UserError(
                f"--data-dir: {self.dataset} makes its own files; give your dataset a label of its own with --dataset"
            )
        steps.check_label(self.dataset)

    @property
    def source(self) -> Path:
        """Folder of the dataset's own files."""
        if self.dataset in WORLDS:
            return self.clone(DemoWorld, world=self.dataset).place
        return Path(self.data_dir).expanduser().absolute()

    def files(self) -> steps.DatasetFiles:
        """The dataset's own files, as they are to be read."""
        options = LayoutOptions(
            mention_images=self.mention_images or None,
            entity_images=self.entity_images or None,
            ignore_fields=self.ignore_fields,
            repeated_ids=self.repeated_ids or "refuse",
            follow_links=not self.no_follow_links,
        )
        return steps.DatasetFiles(
            name=self.dataset,
            data_dir=self.source,
            format=self.format or None,
            options=options,
            max_bad_images=self.max_bad_images,
            max_bad_records=self.max_bad_records,
            rescan=self.rescan,
        )


class PrepareDataset(OnDataset):
    """Reads a dataset's files, looks at every picture once, and leaves tables (Parquet) and the dataset's account.

    Writes mentions.parquet, entities.parquet, account.json and account.txt under
    artifacts/datasets/<dataset>-<content>/. What is made of a dataset depends on the tables' rows alone: files that
    were copied or touched are read again, and nothing else is.
    """

    profile = setting(
        "profile", "demo", "shipped profile or path of a YAML file (its limits on pictures are used here)"
    )

    def needs(self) -> list[Task]:
        return [self.clone(DemoWorld, world=self.dataset)] if self.dataset in WORLDS else []

    def step(self) -> Step:
        source, limits = self.files(), profile.load(self.profile).limits
        return steps.prepare(self.paths, source, limits, self.fingerprint(source.state()))

    @kept
    def fingerprint(self, state: Any) -> str:
        """Of the dataset's files, taken once per command: what changes while it runs is the next command's."""
        return self.files().fingerprint(None if self.dry_run else self.paths.memo / "fingerprints.json")

    def receipt(self) -> dict[str, Any] | None:
        """The standing receipt; with --rescan, one of a scan that began after this command did."""
        receipt = super().receipt()
        return (
            receipt if receipt and (not self.rescan or receipt["run"].get("rescanned", 0) >= command.start()) else None
        )

    @remembered
    def content(self) -> str | None:
        receipt = self.receipt()
        return str(receipt["result"]["content"]) if receipt else None

    def brief(self) -> str:
        return ", every picture again" if self.rescan else ""

    def make(self) -> Outcome:
        outcome = super().make()
        if not self.is_root():  # else its summary shows it
            logs.say((self.folder(outcome.result["folder"]) / ACCOUNT).read_text("utf-8"))
        return outcome

    def prepared(self) -> steps.Prepared:
        """The prepared dataset. Raises `UserError` while it is not done."""
        return steps.Prepared.of_receipt(self.files(), self.resolved(), self.paths)

    def summary(self, receipt: dict[str, Any]) -> str:
        folder = self.folder(receipt["result"]["folder"])
        return f"{(folder / ACCOUNT).read_text('utf-8')}\ndataset {self.dataset} prepared in {folder}"
