"""What can be run: `luigi --module tasks NAME [--option value]`.

ExtractFeatures and TrainHead are the two commands of every day. Each task below says what it reads and what it leaves behind.
"""

import json
import os
from pathlib import Path
from typing import Any

import luigi

from cache.errors import UserError
from cache.files import write_atomic, write_json
from linking import jobs
from pipeline import child, profile, wants
from pipeline.enhance import LOCAL, options, output
from pipeline.enhance.options import Options
from pipeline.task import Task, setting, stop


class DemoWorld(Task):
    """Draws the embedded demo dataset (about 400 entities, 2,500 mentions) from a seed, as a folder in the jsonl layout."""

    demo_seed = setting("demo_seed", 0, "seed of the demo world and of its encoders", luigi.IntParameter)

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


class _OnDataset(Task):
    """Parameters of everything that reads a dataset."""

    dataset = setting("dataset", "demo", "a free label for the dataset; `demo` is the embedded one")
    data_dir = setting("data_dir", "", "folder with the dataset's files (not for demo)")
    format = setting("format", "", "layout of the files: jsonl, mimic, ghmfc or wikidiverse; empty: recognised from the files there")
    mention_images = setting("mention_images", "", "folder of the mentions' pictures, if not where the layout puts it")
    entity_images = setting("entity_images", "", "folder of the entities' pictures, if not where the layout puts it")
    ignore_fields = setting("ignore_fields", "", "comma-separated fields of the records that are passed over instead of refused")
    repeated_ids = setting("repeated_ids", "refuse", "what happens to mentions that share an id: refuse, or number them apart")
    max_bad_images = setting("max_bad_images", 0.2, "share of the listed pictures that may be missing or broken", luigi.FloatParameter)
    rescan = luigi.BoolParameter(default=False, significant=False, description="read every picture again, also where name, size and time are as before")
    demo_seed = DemoWorld.demo_seed

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.dataset != "demo" and not self.data_dir:
            stop(UserError(f"--dataset {self.dataset}: name its folder with --data-dir"))
        if self.dataset == "demo" and self.data_dir:
            stop(UserError("--data-dir: the demo makes its own files; give your dataset a label of its own with --dataset"))
        if not self.dataset.replace("-", "").replace("_", "").replace(".", "").isalnum() or self.dataset.startswith("."):
            stop(UserError(f"--dataset {self.dataset!r}: the label names a folder; use letters, digits, '.', '_' and '-'"))

    def layout(self) -> dict[str, str]:
        """The layout options that were given."""
        given = {name: getattr(self, name) for name in ("mention_images", "entity_images", "ignore_fields", "repeated_ids")}
        return {name: value for name, value in given.items() if value}

    @property
    def source(self) -> Path:
        """Folder of the dataset's own files."""
        if self.dataset == "demo":
            return self.clone(DemoWorld).place
        return Path(self.data_dir).expanduser().absolute()

    def fingerprint(self) -> str | None:
        """Hash of the dataset's files; None while the demo is not drawn."""
        from pipeline.fingerprint import fingerprint

        if self.dataset == "demo" and not self.clone(DemoWorld).done():
            return None
        memo = None if self.dry_run else self.paths.memo / "fingerprints.json"
        return fingerprint(self.source, self.format or None, self.layout(), memo, rescan=self.rescan)


class PrepareDataset(_OnDataset):
    """Reads a dataset's files, looks at every picture once, and leaves tables (Parquet) and the dataset's account.

    Writes mentions.parquet, entities.parquet, account.json and account.txt under artifacts/datasets/<dataset>-<fingerprint>/.
    """

    profile = setting("profile", "demo", "shipped profile or path of a YAML file (its limits on pictures are used here)")

    def needs(self) -> list[Task]:
        return [self.clone(DemoWorld)] if self.dataset == "demo" else []

    def request(self) -> dict[str, Any] | None:
        fingerprint = self.fingerprint()
        return fingerprint and {"fingerprint": fingerprint, "limits": dict(profile.load(self.profile).limits), "max_bad_images": self.max_bad_images}

    def make(self) -> dict[str, Any]:
        out = self.paths.dataset(self.dataset, self.digest())
        account = child.run(
            "pipeline.account:prepare",
            {
                "name": self.dataset, "data_dir": str(self.source), "format": self.format or None, "options": self.layout(), "out": str(out),
                "limits": dict(profile.load(self.profile).limits), "memo": str(self.paths.memo), "rescan": self.rescan, "max_bad_images": self.max_bad_images,
            },
        )
        given = ["given.parquet"] if "given" in account else []
        files = [out / name for name in ("mentions.parquet", "entities.parquet", *given, "account.json", "account.txt")]
        print(files[-1].read_text(), flush=True)
        return {
            "result": {
                "folder": self.paths.relative(out),
                **{side: os.path.relpath(account[side], self.source) for side in ("mention_images", "entity_images")},
            },
            "files": files,
        }

    def summary(self, receipt: dict[str, Any]) -> str:
        return f"dataset {self.dataset} prepared in {self.folder(receipt['result']['folder'])}"


class _OnProfile(_OnDataset):
    """Parameters of everything that runs models."""

    profile = PrepareDataset.profile
    device = setting("device", "auto", "auto, cpu, cuda, cuda:N or mps", significant=False)
    precision = setting("precision", "auto", "auto (fp16 on CUDA, fp32 elsewhere), fp32, fp16 or bf16", significant=False)
    extract_batch = setting("extract_batch", 0, "rows per extraction batch; 0: chosen by device", luigi.IntParameter, significant=False)
    shard_rows = setting("shard_rows", 4096, "most rows in one shard", luigi.IntParameter, significant=False)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        try:
            self.profile_content = profile.load(self.profile)
        except UserError as error:
            stop(error)

    def needs_of_profile(self) -> list[Task]:
        """The dataset and, where the profile's models come from the demo, its encoders."""
        uses_demo = any(str(feature.options.get("model", "")).startswith("demo:") for feature in self.profile_content.features.values())
        return [self.clone(PrepareDataset), *([self.clone(DemoEncoders)] if uses_demo else [])]

    def demo_encoders(self) -> Path:
        return self.clone(DemoEncoders).place


class EnhanceEntities(Options, _OnDataset):
    """Writes a text per entity (--mode static: from its page; dynamic: by a language model), to be read by the text views of that name.

    Leaves descriptions-<mode>.parquet, a report and the list of entities without a text beside the prepared dataset's tables.
    """

    profile = PrepareDataset.profile
    device = _OnProfile.device
    precision = _OnProfile.precision

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        try:
            options.check(self)
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
        prepared = self.clone(PrepareDataset).digest()
        if prepared is None:
            return None
        own = {"dataset": prepared, "mode": self.mode}
        if self.mode == "static":
            return {**own, **options.static_request(self)}
        static = self.paths.descriptions(self.dataset, prepared, "static")
        if self.rounds == 1:
            return {**own, **options.dynamic_request(self)}
        if len(self.needs()) == 2 and not static.exists():
            return None
        return {**own, **options.dynamic_request(self), "static": output.stamp(static, "static")}

    def receipt(self) -> dict[str, Any] | None:
        """The standing receipt, unless other options have written the file since."""
        receipt = super().receipt()
        return receipt if receipt and output.content(self.folder(receipt["result"]["file"])) == receipt["result"]["sha256"] else None

    def enhance(self, **more: Any) -> dict[str, Any]:
        job = {"dataset": str(self.folder(self.clone(PrepareDataset).resolved()["folder"])), **more}
        if self.mode == "static":
            return child.run("pipeline.enhance.static:main", {**options.static_job(self, self.paths.answers), **job})
        asked = options.dynamic_job(self, self.paths.answers, self.paths.memo, self.device, self.precision)
        return child.run("pipeline.enhance.dynamic:main", {**asked, **job})

    def make(self) -> dict[str, Any]:
        report = self.enhance()
        file = self.paths.descriptions(self.dataset, self.clone(PrepareDataset).digest(), self.mode)
        files = [file, file.with_suffix(".json"), file.with_name(f"{file.stem}-without.tsv")]
        result = {name: value for name, value in report.items() if name not in output.RUN}
        run = {name: report[name] for name in output.RUN if name in report}
        return {"result": {**result, "file": self.paths.relative(file), "sha256": output.content(file)}, "files": files, "run": run}

    def run(self) -> None:
        super().run()
        if self.dry_run and not self.done():
            prepared = self.clone(PrepareDataset).done()
            print(output.said(self.enhance(dry=True)) if prepared else "how much it would ask is known once PrepareDataset is done", flush=True)

    def summary(self, receipt: dict[str, Any]) -> str:
        run = {name: value for name, value in receipt["run"].items() if name in output.RUN}
        return f"{output.said({**receipt['result'], **run})}\n{self.folder(receipt['result']['file'])}"


class ExtractGroup(_OnProfile):
    """Extracts one group of features that are read together (one text feature, or all picture features): ExtractFeatures makes these."""

    plan = luigi.Parameter(description="JSON {wants: list of {side, feature, view}, after: plans of the groups whose rows these are made from}")
    resources = {"device": 1}

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
        prepared, upstream = self.clone(PrepareDataset).digest(), [group.digest() for group in self.upstream()]
        if prepared is None or not all(upstream):
            return None
        features = wants.request(self.profile_content, self.wants(), self.demo_encoders())
        written = {mode: output.stamp(self.paths.descriptions(self.dataset, prepared, mode), mode) for mode in wants.enhanced(self.wants())}
        return {"dataset": prepared, "wants": self.wants(), "features": features, "upstream": upstream, **({"descriptions": written} if written else {})}

    def job(self, **more: Any) -> dict[str, Any]:
        """The extraction job, as `pipeline.extract.main` takes it. Raises `UserError` while a group that this one reads is not extracted."""
        dataset = self.clone(PrepareDataset).resolved()
        read = wants.merged([group.resolved() for group in self.upstream()])
        upstream = {
            "features": {name: str(self.paths.cache / feature["store"]) for name, feature in read["features"].items()},
            "columns": {name: str(self.folder(path)) for name, path in read["columns"].items()},
        }
        return {
            "profile": self.profile, "demo": str(self.demo_encoders()), "dataset": str(self.folder(dataset["folder"])),
            "mention_images": str(self.source / dataset["mention_images"]), "entity_images": str(self.source / dataset["entity_images"]),
            "wants": self.wants(), "upstream": upstream,
            "cache": str(self.paths.cache), "memo": str(self.paths.memo), "rates": str(self.paths.rates), "device": self.device,
            "precision": self.precision, "batch_size": self.extract_batch, "shard_rows": self.shard_rows,
            "columns": str(self.folder(dataset["folder"]) / f"columns-{self.digest()[:12]}"), **more,
        }

    def make(self) -> dict[str, Any]:
        made = child.run("pipeline.extract:main", self.job())
        columns = {name: self.paths.relative(Path(path)) for name, path in made["columns"].items()}
        named = self.profile if self.profile in profile.names() else str(Path(self.profile).absolute())
        result = {"profile": named, "features": made["features"], "columns": columns, "cut": made["cut"], "without": made["without"]}
        return {"result": result, "files": [*made["columns"].values(), *made["shards"]], "run": made["run"]}

    def summary(self, receipt: dict[str, Any]) -> str:
        return wants.describe(receipt)


class ExtractFeatures(_OnProfile):
    """Runs the pretrained models once over everything that is not in the cache yet; leaves shards under artifacts/cache/.

    Without --features: all that DRIN, MIMIC, DWE+ and DSMIP read of this profile, and every feature that is not marked `by_default: false`.
    """

    features = luigi.Parameter(default="", description="comma-separated features (what they are made from comes along); empty: everything")
    wants = luigi.Parameter(default="", description="JSON list of {side, feature, view} instead of --features; heads use it")

    def groups(self) -> list[ExtractGroup]:
        try:
            asked = wants.listed(self.profile_content, self.features, self.wants, jobs.usual_wants)
            return [self.clone(ExtractGroup, plan=json.dumps(plan)) for plan in wants.plans(self.profile_content, asked)]
        except UserError as error:
            stop(error)
            raise

    def needs(self) -> list[Task]:
        return self.groups()

    def request(self) -> dict[str, Any] | None:
        digests = [group.digest() for group in self.groups()]
        return {"groups": digests} if all(digests) else None

    def make(self) -> dict[str, Any]:
        return {"result": wants.merged([group.resolved() for group in self.groups()]), "files": []}

    def summary(self, receipt: dict[str, Any]) -> str:
        return wants.describe(receipt) + f"\ncache: {self.paths.cache}"


class BuildCandidates(_OnProfile):
    """Lists the entities each mention is compared with: by fuzzy name, and by any further source; prints the recall of each."""

    candidates = setting("candidates", 100, "entities per mention", luigi.IntParameter)
    scorer = setting("scorer", "token_set_ratio", "rapidfuzz scorer of the name sources")
    sources = setting(
        "sources", "name", "comma-separated sources: name, name-of-type (entities of the mention's type), given (the lists that came with the dataset), "
        "dense:FEATURE (nearest by cosine of the pooled output of a cached feature)",
    )
    merge = setting("merge", "round-robin", "how several sources become one list: round-robin by rank, or append (the first whole, then what is new in the next)")

    def dense(self) -> list[str]:
        return [source.partition(":")[2] for source in self.sources.split(",") if source.startswith("dense:")]

    def needs(self) -> list[Task]:
        extraction = [self.clone(ExtractFeatures, features=",".join(self.dense()), wants="")] if self.dense() else []
        return [self.clone(PrepareDataset), *extraction]

    def request(self) -> dict[str, Any] | None:
        upstream = [task.digest() for task in self.needs()]
        own = {"k": self.candidates, "scorer": self.scorer, "sources": self.sources, "merge": self.merge}
        return {**own, "upstream": upstream} if all(upstream) else None

    def make(self) -> dict[str, Any]:
        folder = self.folder(self.clone(PrepareDataset).resolved()["folder"])
        out = folder / f"candidates-{self.digest()[:12]}.npz"
        columns = self.needs()[-1].resolved() if self.dense() else {}
        listed = wants.candidate_sources(self.sources, self.scorer, columns, self.paths)
        job = {"dataset": str(folder), "k": self.candidates, "sources": listed, "merge": self.merge, "out": str(out)}
        report = child.run("pipeline.candidates:build", job)
        print(report.pop("table", ""), flush=True)
        return {"result": {"file": self.paths.relative(out), "digest": self.digest(), **report}, "files": [out]}

    def summary(self, receipt: dict[str, Any]) -> str:
        return f"candidates: {self.folder(receipt['result']['file'])}\n{json.dumps(receipt['result'].get('recall'), indent=1)}"


class BuildPairs(BuildCandidates):
    """Computes one pair feature (numbers per mention and candidate) from cached features: one file per candidate list and features read."""

    pair = luigi.Parameter(description="the pair feature: clip_ti, clip_it, text_cls, object_relation, name_similarity, face_match or retrieval")

    def extraction(self) -> ExtractFeatures | None:
        try:
            listed = jobs.pair_wants(self.pair, self.profile_content)
        except UserError as error:
            stop(error)
            raise
        return self.clone(ExtractFeatures, features="", wants=json.dumps(listed)) if listed else None

    def needs(self) -> list[Task]:
        extraction = self.extraction()
        return [self.clone(BuildCandidates), *([extraction] if extraction else [])]

    def brief(self) -> str:
        return f" {self.pair}"

    def request(self) -> dict[str, Any] | None:
        upstream = [task.digest() for task in self.needs()]
        return {"pair": self.pair, "version": jobs.pair_version(), "upstream": upstream} if all(upstream) else None

    def make(self) -> dict[str, Any]:
        extraction = self.extraction()
        job = jobs.pair_job(
            self.pair, extraction=extraction.resolved() if extraction else {"features": {}, "columns": {}},
            candidates=self.clone(BuildCandidates).resolved(), dataset=self.clone(PrepareDataset).resolved(), paths=self.paths,
        )
        report = child.run("pipeline.pairs:build", job)
        return {"result": {"file": self.paths.relative(Path(job["out"])), "digest": job["digest"], **report}, "files": [job["out"]]}

    def summary(self, receipt: dict[str, Any]) -> str:
        return f"{self.pair}: {self.folder(receipt['result']['file'])}"


class TrainHead(BuildCandidates):
    """Trains one head over the cached features and evaluates it; only the head runs again when its hyper-parameters change.

    Writes artifacts/runs/<dataset>/<method>/<hash>/: config.json, model.safetensors, metrics.json, predictions.parquet, learning curves.
    """

    method = luigi.Parameter(default="mimic", description="the head: a file under heads/config/")
    params = luigi.Parameter(default="{}", description='hyper-parameters as JSON, e.g. \'{"lr": 0.001}\', or @FILE with such JSON')
    seed = luigi.IntParameter(default=0, description="seed of the head's initialisation and batches")
    train_fraction = luigi.FloatParameter(default=1.0, description="share of the training mentions used (low-resource experiments)")
    resources = {"device": 1}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        try:
            self.head = jobs.head(self.method, self.params, self.profile_content)
        except UserError as error:
            stop(error)

    def extraction(self) -> Task:
        return self.clone(ExtractFeatures, features="", wants=json.dumps(self.head.wants))

    def pairs(self) -> dict[str, BuildPairs]:
        return {name: self.clone(BuildPairs, pair=name) for name in self.head.pairs}

    def needs(self) -> list[Task]:
        return [self.extraction(), self.clone(BuildCandidates), *self.pairs().values(), *self.runs().values(), *self.prompted()]

    def runs(self) -> dict[str, "TrainHead"]:
        """The runs that this one reads: DSMIP's experts, or the heads that are fused."""
        return {label: self.clone(TrainHead, method=method, params=json.dumps(params)) for label, (method, params) in self.head.runs.items()}

    def prompted(self) -> list["PromptedFeatures"]:
        return [self.clone(PromptedFeatures)] if self.head.prompted else []

    def brief(self) -> str:
        return f" {self.head.method}"

    def request(self) -> dict[str, Any] | None:
        upstream = [task.digest() for task in self.needs()]
        own = {"method": self.head.method, "config": self.head.config, "seed": self.seed, "train_fraction": self.train_fraction}
        return {**own, "upstream": upstream} if all(upstream) else None

    def job(self) -> dict[str, Any]:
        """The training job, as `heads.training.main` takes it."""
        job = jobs.training_job(
            self.head, extraction=self.extraction().resolved(), candidates=self.clone(BuildCandidates).resolved(),
            pairs={name: task.resolved() for name, task in self.pairs().items()},
            dataset=self.clone(PrepareDataset).resolved(), dataset_digest=self.clone(PrepareDataset).digest(), label=self.dataset, paths=self.paths,
            seed=self.seed, train_fraction=self.train_fraction, heads={name: task.job() for name, task in self.runs().items()},
            prompted=[entry for task in self.prompted() for entry in task.inputs()],
        )
        if self.head.config.get("stage") == "prompts":
            job |= jobs.live_clip(self.head, self.extraction().resolved(), self.profile_content, self.profile, self.demo_encoders(), self.paths)
        return job

    def make(self) -> dict[str, Any]:
        job = self.job()
        out = Path(job["out"])
        write_json(out / "config.json", job["depends"])
        trained = child.run(self.head.trainer, {**job, "device": self.device, "precision": self.precision})
        write_atomic(out / "metrics.txt", trained["table"] + "\n")
        files = [out / name for name in ("config.json", "model.safetensors", "metrics.json", "predictions.parquet", "metrics.txt")]
        return {"result": {"run": self.paths.relative(out)}, "files": files, "run": trained["run"]}

    def summary(self, receipt: dict[str, Any]) -> str:
        run = self.folder(receipt["result"]["run"])
        dataset = self.folder(self.clone(PrepareDataset).resolved()["folder"])
        return f"{(run / 'metrics.txt').read_text()}\nrun:     {run}\ndataset: {dataset}\ncache:   {self.paths.cache}"


class PromptedFeatures(TrainHead):
    """Extracts text and pictures once more with the prompts that DSMIP's first stage learned, into a cache that belongs to that run."""

    def learned(self) -> TrainHead:
        """The run that learned the prompts."""
        return self.runs()["multimodal"]

    def needs(self) -> list[Task]:
        return [self.learned()]

    def request(self) -> dict[str, Any] | None:
        learned = self.learned().digest()
        return learned and {"prompts": learned}

    def make(self) -> dict[str, Any]:
        made = child.run("linking.prompts:extract", {**self.learned().job(), "device": self.device})
        inputs = [{**entry, "store": self.paths.relative(Path(entry["store"])), "keys": self.paths.relative(Path(entry["keys"]))} for entry in made["inputs"]]
        return {"result": {"inputs": inputs}, "files": made["shards"], "run": made["run"]}

    def inputs(self) -> list[dict[str, Any]]:
        """The training inputs that the prompts made."""
        return [{**entry, **{key: str(self.folder(entry[key])) for key in ("store", "keys")}} for entry in self.resolved()["inputs"]]

    def summary(self, receipt: dict[str, Any]) -> str:
        return f"prompted features of {self.learned().job()['out']}"


class _Tool(Task):
    """A command without a receipt: it runs every time it is asked for."""

    def complete(self) -> bool:
        return getattr(self, "_said", False)

    def receipt(self) -> None:
        return None

    def run(self) -> None:
        if self.dry_run:
            print(f"would run {self.get_task_family()}")
        else:
            self.act()
        self._said = True

    def act(self) -> None:
        raise NotImplementedError


class VerifyCache(_Tool):
    """Checks every checksum of the cache and names what is bad; --repair removes bad shards, and the next run refills exactly those."""

    repair = luigi.BoolParameter(default=False, description="remove what is bad")

    def act(self) -> None:
        found = child.run("pipeline.upkeep:verify", {"cache": str(self.paths.cache), "repair": self.repair})
        print(found["text"], flush=True)
        if found["bad"] and not self.repair:
            raise UserError(f"{found['bad']} bad file(s) in {self.paths.cache}; `luigi --module tasks VerifyCache --repair` removes them")


class EstimateCache(_Tool, _OnProfile):
    """Says what ExtractFeatures would add: rows, bytes, and time at the last measured rate. Extracts nothing."""

    features = ExtractFeatures.features

    def requires(self) -> list[Task]:
        return [] if self.dry_run else self.needs_of_profile()

    def act(self) -> None:
        jobs_now, later = [], []
        for group in self.clone(ExtractFeatures).groups():
            if all(needed.done() for needed in group.upstream()):
                jobs_now.append(group.job(estimate=True))
            else:
                later += wants.features_of(json.loads(group.plan))
        print(child.run("pipeline.upkeep:estimate", {"jobs": jobs_now, "later": later})["text"], flush=True)


class CleanCache(_Tool):
    """Lists the features that no profile asks for any more; --remove deletes them."""

    demo_seed = DemoWorld.demo_seed
    profiles = luigi.Parameter(default="", description="comma-separated further profile files whose features are kept")
    remove = luigi.BoolParameter(default=False, description="delete what is listed")

    def act(self) -> None:
        job = {
            "cache": str(self.paths.cache), "receipts": str(self.paths.receipts), "memo": str(self.paths.memo), "profiles": [name for name in self.profiles.split(",") if name],
            "demo": str(self.clone(DemoEncoders).place), "remove": self.remove,
        }
        print(child.run("pipeline.upkeep:clean", job)["text"], flush=True)


os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
