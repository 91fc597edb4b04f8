"""Tasks from a dataset's files to groups of extracted features, and the parameters that everything on a dataset or a profile shares."""

import json
import os
import time
from pathlib import Path
from typing import Any

import luigi

from foundation import child, logs, receipts
from foundation import device as devices
from foundation.errors import UserError
from mel_cache.commands import enhance
from mel_cache.commands.enhance import Options
from mel_cache.commands.parameters import MOST_SEED, Number, Whole
from mel_cache.commands.task import Task, asked, began, once, setting, stop
from pipeline.enhance import LOCAL, output
from pipeline.extraction import wants
from pipeline.profiles import profile

LONGEST_LABEL = 100
"""Bytes of a dataset's label: with a hash behind it, it names files and folders."""


class DemoWorld(Task):
    """Draws the embedded demo dataset (about 400 entities, 2,500 mentions) from a seed, as a folder in the jsonl layout."""

    demo_seed = setting("demo_seed", 0, "seed of the demo world and of its encoders", Whole, least=0, most=MOST_SEED)

    def request(self) -> dict[str, Any]:
        return {"seed": self.demo_seed}

    @property
    def place(self) -> Path:
        return self.paths.demo("world", self.digest())

    def make(self) -> dict[str, Any]:
        counts = child.run("pipeline.demo.world:main", {"out": str(self.place), "seed": self.demo_seed})
        return {"result": counts, "files": [self.place / "mentions.jsonl", self.place / "entities.jsonl"]}

    def summary(self, receipt: dict[str, Any]) -> str:
        return f"demo world in {self.place}: {json.dumps(receipt['result'])}"


class DemoEncoders(Task):
    """Trains the demo's small models (BERT, CLIP, ResNet, ViT, YOLO, faces) on freshly drawn pictures: checkpoints in the libraries' own formats."""

    demo_seed = DemoWorld.demo_seed
    resources = {"device": 1}

    def request(self) -> dict[str, Any]:
        return {"seed": self.demo_seed}

    @property
    def place(self) -> Path:
        return self.paths.demo("encoders", self.digest())

    def make(self) -> dict[str, Any]:
        report = child.run("pipeline.demo.encoders:main", {"out": str(self.place), "seed": self.demo_seed})
        return {"result": report, "files": [path for path in self.place.rglob("*") if path.is_file()]}

    def summary(self, receipt: dict[str, Any]) -> str:
        return f"demo encoders in {self.place}\n{json.dumps(receipt['result'], indent=1)}"


class OnDataset(Task):
    """Parameters of everything that reads a dataset."""

    dataset = setting("dataset", "demo", "a free label for the dataset; `demo` is the embedded one")
    data_dir = setting("data_dir", "", "folder with the dataset's files (not for demo)")
    format = setting(
        "format", "", "layout of the files: jsonl, mimic, ghmfc or wikidiverse; empty: recognised from the files there"
    )
    mention_images = setting("mention_images", "", "folder of the mentions' pictures, if not where the layout puts it")
    entity_images = setting("entity_images", "", "folder of the entities' pictures, if not where the layout puts it")
    ignore_fields = setting(
        "ignore_fields", "", "comma-separated fields of the records that are passed over instead of refused"
    )
    repeated_ids = setting(
        "repeated_ids", "refuse", "what happens to mentions that share an id: refuse, or number them apart"
    )
    max_bad_images = setting(
        "max_bad_images", 0.2, "share of the listed pictures that may be missing or broken", Number, least=0, most=1
    )
    rescan = luigi.BoolParameter(
        default=False,
        significant=False,
        description="read every picture again, also where name, size and time are as before",
    )
    demo_seed = DemoWorld.demo_seed

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.dataset != "demo" and not self.data_dir:
            stop(UserError(f"--dataset {self.dataset}: name its folder with --data-dir"))
        if self.dataset == "demo" and self.data_dir:
            stop(
                UserError(
                    "--data-dir: the demo makes its own files; give your dataset a label of its own with --dataset"
                )
            )
        if not self.dataset.replace("-", "").replace("_", "").replace(".", "").isalnum() or self.dataset.startswith(
            "."
        ):
            stop(
                UserError(
                    f"--dataset {self.dataset!r}: the label names a folder; use letters, digits, '.', '_' and '-'"
                )
            )
        if (size := len(self.dataset.encode())) > LONGEST_LABEL:
            stop(
                UserError(
                    f"--dataset {self.dataset:.30}…: the label names a folder; use at most {LONGEST_LABEL} bytes, these are {size}"
                )
            )

    def layout(self) -> dict[str, str]:
        """The layout options that were given."""
        given = {
            name: getattr(self, name) for name in ("mention_images", "entity_images", "ignore_fields", "repeated_ids")
        }
        return {name: value for name, value in given.items() if value}

    @property
    def source(self) -> Path:
        """Folder of the dataset's own files."""
        if self.dataset == "demo":
            return self.clone(DemoWorld).place
        return Path(self.data_dir).expanduser().absolute()

    def fingerprint(self) -> str | None:
        """Hash of the dataset's files; None while the demo is not drawn."""
        from pipeline.datasets.fingerprint import fingerprint

        if self.dataset == "demo" and not self.clone(DemoWorld).done():
            return None
        memo = None if self.dry_run else self.paths.memo / "fingerprints.json"
        return fingerprint(self.source, self.format or None, self.layout(), memo, rescan=self.rescan)


TABLES = 3
"""Raised when the tables of a prepared dataset get other columns, so that older ones are made again."""


class PrepareDataset(OnDataset):
    """Reads a dataset's files, looks at every picture once, and leaves tables (Parquet) and the dataset's account.

    Writes mentions.parquet, entities.parquet, account.json and account.txt under artifacts/datasets/<dataset>-<content>/. What is made of a dataset
    depends on the tables' rows alone: files that were copied or touched are read again, and nothing else is.
    """

    profile = setting(
        "profile", "demo", "shipped profile or path of a YAML file (its limits on pictures are used here)"
    )

    def needs(self) -> list[Task]:
        return [self.clone(DemoWorld)] if self.dataset == "demo" else []

    def request(self) -> dict[str, Any] | None:
        fingerprint = self.fingerprint()
        return fingerprint and {
            "tables": TABLES,
            "fingerprint": fingerprint,
            "limits": dict(profile.load(self.profile).limits),
            "max_bad_images": self.max_bad_images,
        }

    def receipt(self) -> dict[str, Any] | None:
        """The standing receipt; with --rescan, one of a scan that began after this command did."""
        receipt = super().receipt()
        return receipt if receipt and (not self.rescan or receipt["run"].get("rescanned", 0) >= began()) else None

    @once
    def content(self) -> str | None:
        receipt = self.receipt()
        return receipt and receipt["result"]["content"]

    def brief(self) -> str:
        return ", every picture again" if self.rescan else ""

    def make(self) -> dict[str, Any]:
        started = time.time()
        account = child.run(
            "pipeline.datasets.account:prepare",
            {
                "name": self.dataset,
                "data_dir": str(self.source),
                "format": self.format or None,
                "options": self.layout(),
                "out": str(self.paths.dataset(self.dataset, "{content}")),
                "limits": dict(profile.load(self.profile).limits),
                "memo": str(self.paths.memo),
                "rescan": self.rescan,
                "max_bad_images": self.max_bad_images,
            },
        )
        out = self.paths.dataset(self.dataset, account["content"])
        given = ["given.parquet"] if "given" in account else []
        files = [out / name for name in ("mentions.parquet", "entities.parquet", *given, "account.json", "account.txt")]
        if self != asked():  # else its summary says it
            logs.say(files[-1].read_text())
        return {
            "result": {
                "folder": self.paths.relative(out),
                "content": account["content"],
                **{side: os.path.relpath(account[side], self.source) for side in ("mention_images", "entity_images")},
            },
            "files": files,
            "run": {"rescanned": started} if self.rescan else {},
        }

    def summary(self, receipt: dict[str, Any]) -> str:
        folder = self.folder(receipt["result"]["folder"])
        return f"{(folder / 'account.txt').read_text()}\ndataset {self.dataset} prepared in {folder}"


class OnProfile(OnDataset):
    """Parameters of everything that runs models."""

    profile = PrepareDataset.profile
    device = setting("device", "auto", "auto, cpu, cuda, cuda:N or mps", significant=False)
    precision = setting(
        "precision", "auto", "auto (fp16 on CUDA, fp32 elsewhere), fp32, fp16 or bf16", significant=False
    )
    extract_batch = setting(
        "extract_batch", 0, "rows per extraction batch; 0: chosen by device", Whole, least=0, significant=False
    )
    shard_rows = setting("shard_rows", 4096, "most rows in one shard", Whole, least=1, significant=False)
    on_device = False  # whether the task puts models on the device

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        try:
            devices.check(self.device, self.precision)
            self.profile_content = profile.load(self.profile)
        except UserError as error:
            stop(error)

    @property
    def resources(self) -> dict[str, int]:
        """Tasks that put models on the device run one at a time, unless the profile says that its models are small."""
        return {"device": 1} if self.on_device and not self.profile_content.threads else {}

    def run_child(self, target: str, job: Any, result: Any = None) -> Any:
        """`child.run` with the profile's number of threads."""
        return child.run(target, job, result, self.profile_content.threads)

    def needs_of_profile(self) -> list[Task]:
        """The dataset and, where the profile's models come from the demo, its encoders."""
        uses_demo = any(
            str(feature.options.get("model", "")).startswith("demo:")
            for feature in self.profile_content.features.values()
        )
        return [self.clone(PrepareDataset), *([self.clone(DemoEncoders)] if uses_demo else [])]

    def demo_encoders(self) -> Path:
        return self.clone(DemoEncoders).place


class EnhanceEntities(Options, OnDataset):
    """Writes a text per entity (--mode static: from its page; dynamic: by a language model), to be read by the text views of that name.

    Leaves descriptions-<mode>.parquet, a report and the list of entities without a text beside the prepared dataset's tables.
    """

    profile = PrepareDataset.profile
    device = OnProfile.device
    precision = OnProfile.precision

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        try:
            devices.check(self.device, self.precision)
            enhance.check(self)
        except UserError as error:
            stop(error)

    @property
    def resources(self) -> dict[str, int]:
        return {"device": 1} if self.mode == "dynamic" and self.llm.startswith(LOCAL) else {}

    def needs(self) -> list[Task]:
        """The dataset; for a second round, the static texts if it is said where they come from (else those that are there are used)."""
        first = self.mode == "dynamic" and self.rounds == 2 and (self.pages or self.wiki_api)
        return [self.clone(PrepareDataset), *([self.clone(EnhanceEntities, mode="static")] if first else [])]

    def brief(self) -> str:
        return f" {self.mode}"

    def request(self) -> dict[str, Any] | None:
        prepared = self.clone(PrepareDataset).content()
        if prepared is None:
            return None
        own = {"dataset": prepared, "mode": self.mode}
        if self.mode == "static":
            return {**own, **enhance.static_request(self)}
        static = self.paths.descriptions(self.dataset, prepared, "static")
        if self.rounds == 1:
            return {**own, **enhance.dynamic_request(self)}
        if len(self.needs()) == 2 and not static.exists():
            return None
        return {**own, **enhance.dynamic_request(self), "static": output.stamp(static, "static")}

    def receipt(self) -> dict[str, Any] | None:
        """The standing receipt, unless other options have written the file since."""
        receipt = super().receipt()
        return (
            receipt
            if receipt and output.content(self.folder(receipt["result"]["file"])) == receipt["result"]["sha256"]
            else None
        )

    def enhance(self, **more: Any) -> dict[str, Any]:
        job = {"dataset": str(self.folder(self.clone(PrepareDataset).resolved()["folder"])), **more}
        if self.mode == "static":
            return child.run("pipeline.enhance.static:main", {**enhance.static_job(self, self.paths.answers), **job})
        asked = enhance.dynamic_job(self, self.paths.answers, self.paths.memo, self.device, self.precision)
        return child.run("pipeline.enhance.dynamic:main", {**asked, **job})

    def make(self) -> dict[str, Any]:
        report = self.enhance()
        file = self.paths.descriptions(self.dataset, self.clone(PrepareDataset).content(), self.mode)
        files = [file, file.with_suffix(".json"), file.with_name(f"{file.stem}-without.tsv")]
        result = {name: value for name, value in report.items() if name not in output.RUN}
        run = {name: report[name] for name in output.RUN if name in report}
        return {
            "result": {**result, "file": self.paths.relative(file), "sha256": output.content(file)},
            "files": files,
            "run": run,
        }

    def run(self) -> None:
        super().run()
        if self.dry_run and not self.done():
            prepared = self.clone(PrepareDataset).done()
            logs.say(
                output.said(self.enhance(dry=True))
                if prepared
                else "how much it would ask is known once PrepareDataset is done"
            )

    def summary(self, receipt: dict[str, Any]) -> str:
        run = {name: value for name, value in receipt["run"].items() if name in output.RUN}
        return f"{output.said({**receipt['result'], **run})}\n{self.folder(receipt['result']['file'])}"


class ExtractGroup(OnProfile):
    """Extracts one group of features that are read together (all texts, say, or all whole pictures): ExtractFeatures makes these."""

    plan = luigi.Parameter(
        description="JSON {wants: list of {side, feature, view}, after: plans of the groups whose rows these are made from}"
    )
    beside = luigi.Parameter(
        default="", significant=False, description="comma-separated features whose models must be there too"
    )
    on_device = True

    def wants(self) -> list[dict[str, str]]:
        return json.loads(self.plan)["wants"]

    def upstream(self) -> list["ExtractGroup"]:
        """The groups whose rows this one reads."""
        return [self.clone(ExtractGroup, plan=json.dumps(plan)) for plan in json.loads(self.plan)["after"]]

    def needs(self) -> list[Task]:
        return [*self.needs_of_profile(), *self.upstream()]

    def brief(self) -> str:
        return " " + ", ".join(wants.features_of(json.loads(self.plan)))

    def request(self) -> dict[str, Any] | None:
        prepared, upstream = self.clone(PrepareDataset).content(), [group.digest() for group in self.upstream()]
        if prepared is None or not all(upstream):
            return None
        features = wants.request(self.profile_content, self.wants(), self.demo_encoders())
        written = {
            mode: output.stamp(self.paths.descriptions(self.dataset, prepared, mode), mode)
            for mode in wants.enhanced(self.wants())
        }
        return {
            "dataset": prepared,
            "wants": self.wants(),
            "features": features,
            "upstream": upstream,
            **({"descriptions": written} if written else {}),
        }

    def job(self, **more: Any) -> dict[str, Any]:
        """The extraction job, as `pipeline.extraction.stage.main` takes it. Raises `UserError` while a group that this one reads is not extracted."""
        dataset = self.clone(PrepareDataset).resolved()
        read = wants.merged([group.resolved() for group in self.upstream()])
        upstream = {
            "features": {name: str(self.paths.cache / feature["store"]) for name, feature in read["features"].items()},
            "columns": {name: str(self.folder(path)) for name, path in read["columns"].items()},
        }
        return {
            "profile": self.profile,
            "demo": str(self.demo_encoders()),
            "dataset": str(self.folder(dataset["folder"])),
            "mention_images": str(self.source / dataset["mention_images"]),
            "entity_images": str(self.source / dataset["entity_images"]),
            "wants": self.wants(),
            "upstream": upstream,
            "cache": str(self.paths.cache),
            "memo": str(self.paths.memo),
            "rates": str(self.paths.rates),
            "device": self.device,
            "precision": self.precision,
            "batch_size": self.extract_batch,
            "shard_rows": self.shard_rows,
            "columns": str(self.folder(dataset["folder"]) / f"columns-{self.digest()[:12]}"),
            **more,
        }

    def made(self) -> dict[str, Any]:
        """The answer of `pipeline.extraction.stage.main`, its paths relative to the work folder; no process is started where a wider group has done the same."""
        wider = self._wider()
        if wider:
            return wants.part_of(wider, self.wants())
        made = self.run_child(
            "pipeline.extraction.stage:main", self.job(beside=[name for name in self.beside.split(",") if name])
        )
        made["columns"] = {name: self.paths.relative(Path(path)) for name, path in made["columns"].items()}
        return made | {"files": [self.paths.relative(Path(path)) for path in made["files"]]}

    def _wider(self) -> dict[str, Any] | None:
        """The standing receipt of another group that holds all that this one wants: of the same dataset, by the same models, from the same rows."""
        request, read = self.request(), wants.merged([group.resolved() for group in self.upstream()])

        def standing(path: Path) -> dict[str, Any] | None:
            return receipts.standing(self.paths.root, path)

        for found in filter(None, map(standing, sorted(self.paths.receipts.glob(f"{self.get_task_family()}-*.json")))):
            if wants.within(request, found["request"]):
                above = [
                    standing(self.paths.receipt(self.get_task_family(), digest))
                    for digest in found["request"]["upstream"]
                ]
                if None not in above and wants.same_rows(read, wants.merged([receipt["result"] for receipt in above])):
                    return found
        return None

    def make(self) -> dict[str, Any]:
        made = self.made()
        named = self.profile if self.profile in profile.names() else str(Path(self.profile).absolute())
        demo = {"demo": self.paths.relative(self.demo_encoders())} if len(self.needs_of_profile()) > 1 else {}
        result = {"profile": named, **demo, **{key: made[key] for key in ("features", "columns", "cut", "without")}}
        return {
            "result": result,
            "files": [self.folder(path) for path in (*made["columns"].values(), *made["files"])],
            "run": made["run"],
        }

    def summary(self, receipt: dict[str, Any]) -> str:
        return wants.describe(receipt)
