"""Commands that are killed at random moments and run again: what they leave, beside what one leaves that nothing
disturbed.

python benchmarks/kills.py --work-dir artifacts [--times 40] [--full] [--whole] [--commands A,B] [--json OUT]

The work folder is copied, never written to; features, lists and a trained head are made in the copy first. Each command
then runs twice to its end, in a folder put back to that state: files that differ between the two, as those with seconds
in them do, are compared by their existence alone. For each kill the folder is put back, the command is started in a
group of its own, all its processes get SIGKILL, the n-th within the n-th part of its usual duration, and the same
command runs to its end. It must end well, without a traceback, leave the same bytes and nothing else. Of a search the
finished trials are compared, since killed ones are listed too. With --full nothing is killed: the work folder lies on a
file system of its own, which has room for the n-th part of what the command writes; it must say so in one line.

Commands run in forks of a process that has the libraries loaded, a step in the process of its command; with --whole as
a user types them, which takes several times as long. Minutes on two idle cores for each command.
"""

import argparse
import contextlib
import csv
import hashlib
import importlib
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from foundation import child
from foundation.contracts import from_json, to_json

ROOT = Path(__file__).resolve().parents[1]
LOADED = (
    "open_clip",
    "torchvision",
    "torch.utils.tensorboard",
    "matplotlib.pyplot",
    "sklearn",
    "tasks",
    "linking.mentions",
    "experiments.search",
    "experiments.trainers",
    "pipeline.extraction.stage",
    "pipeline.candidates.stage",
    "pipeline.pairs.stage",
)
"""What commands load, loaded before the forks."""
PASSED_OVER = ("memo/", "mel-kills")
"""Files whose content is of no consequence: hashes and rates that are only remembered, and this script's own."""
DATA = "mel-kills"  # folder of the dataset
SHARE = 10  # of the demo's mentions, one in so many is in it
TRIES = 4  # starts for one kill, where the command ends before its moment has come
SENTENCES = 48  # mentions that are linked


def commands(work: Path) -> dict[str, list[str]]:
    """Arguments of each command, over a share of the embedded demo."""
    run = next((work / "runs").glob("*/dwe/*/model.safetensors"), work / "none").parent
    files = ["--input", str(work / DATA / "new.jsonl"), "--output", str(work / "linked.jsonl")]
    data = ["--dataset", "part", "--data-dir", str(work / DATA)]
    dense = ["--sources", "name,dense:clip_text"]
    return {
        "TrainHead": [*data, "--method", "dwe", "--params", '{"epochs": 3, "lr": 0.002}'],
        "SearchHead": [*data, "--method", "dwe", "--n-trials", "3", "--params", '{"epochs": 1}'],
        "LinkMentions": ["--run", str(run), *files, "--chunk", "8", "--images-dir", str(work / DATA)],
        "BuildCandidates": [*data, *dense, "--candidates", "60"],
        "BuildPairs": [*data, *dense, "--candidates", "40", "--pair", "clip_ti"],
        "ExtractFeatures": [*data, "--features", "image_pooled,text_tokens", "--shard-rows", "64"],
        "EnhanceEntities": [*data, "--mode", "static", "--pages", str(work / DATA / "pages.jsonl")],
        "Report": [*data, "--methods", "dwe"],
        "data": data,
    }


PREPARATION = (
    ("TrainHead", ["--method", "dwe", "--params", '{"epochs": 1}']),
    ("ExtractFeatures", ["--features", "clip_text,clip_image"]),
)
"""What is there before."""


def write_data(work: Path, demo: Path) -> None:
    """A dataset of every tenth mention of the demo, new sentences about some of them, and pages about its entities."""
    place = work / DATA
    place.mkdir()
    shutil.copytree(demo / "images", place / "images")
    shutil.copy(demo / "entities.jsonl", place)
    mentions = [json.loads(line) for line in (demo / "mentions.jsonl").read_text().splitlines()][::SHARE]
    _write_lines(place / "mentions.jsonl", mentions)
    new = [{**one, "sentence": f"Before: {one['sentence']}"} for one in mentions[:SENTENCES]]
    for one in new:
        one.pop("start", None)
        one.pop("end", None)
    _write_lines(place / "new.jsonl", new)
    entities = map(json.loads, (demo / "entities.jsonl").read_text().splitlines())
    pages = ({"title": one["name"], "text": f"{one['name']} is drawn. {one['id']}"} for one in entities)
    _write_lines(place / "pages.jsonl", pages)


def _write_lines(path: Path, records: Iterable[Any]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@dataclass
class Folder:
    """A work folder that is put back to a state. kept: copies of its files. stamps: size and time of each."""

    place: Path
    kept: Path
    stamps: dict[str, tuple[int, int]] = field(default_factory=dict)

    def keep(self) -> None:
        """Take the state that the folder is in."""
        shutil.rmtree(self.kept, ignore_errors=True)
        shutil.copytree(self.place, self.kept, symlinks=True)
        self.stamps = self._stamps()

    def put_back(self) -> None:
        """Undo what was written since `keep`."""
        now = self._stamps()
        for name in now.keys() - self.stamps.keys():
            (self.place / name).unlink()
        for name, stamp in self.stamps.items():
            if now.get(name) != stamp:
                (self.place / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(self.kept / name, self.place / name)
        for path in sorted((path for path in self.place.rglob("*") if path.is_dir()), reverse=True):
            if not any(path.iterdir()) and not (self.kept / path.relative_to(self.place)).exists():
                path.rmdir()

    def content(self) -> dict[str, str]:
        """What is compared of every file that was written since `keep`: a hash, or a search's finished trials."""
        return {
            re.sub(r"tfevents\..*", "tfevents", name): _content(self.place / name)
            for name, stamp in self._stamps().items()
            if stamp != self.stamps.get(name) and not name.startswith(PASSED_OVER)
        }

    def _stamps(self) -> dict[str, tuple[int, int]]:
        found = {}
        for path in self.place.rglob("*"):
            if path.is_symlink() or path.is_file():
                stat = path.lstat()
                found[path.relative_to(self.place).as_posix()] = stat.st_size, stat.st_mtime_ns
        return found


def _content(path: Path) -> str:
    if path.parent.name == "receipts":
        receipt = json.loads(path.read_text())
        result = receipt["result"] if receipt["task"] != "SearchHead" else receipt["result"]["best"]
        return json.dumps([receipt["task"], receipt["request"], result, [file["path"] for file in receipt["files"]]])
    if path.name == "trials.csv":
        left_out = ("trial", "again", "seconds")
        with path.open() as file:
            rows = [{name: row[name] for name in row if name not in left_out} for row in csv.DictReader(file)]
        return json.dumps([row for row in rows if row["state"] != "fail"])
    return hashlib.sha256(path.read_bytes()).hexdigest()


OF_A_STUDY = ("study.journal", "study.json", "history.png", "parallel.png", "importance.png")
"""Files that show a search's killed trials too."""


@dataclass
class Runner:
    """Starts commands on a work folder. whole: as a user types them, else in forks of this process."""

    work: Path
    whole: bool

    def start(self, words: list[str], log: Path) -> int:
        """The number of the process, which leads a group of its own."""
        words = [*words, "--work-dir", str(self.work), "--workers", "1"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        if self.whole:
            with log.open("wb") as file:
                command = [sys.executable, "-m", "mel_cache", *words]
                return subprocess.Popen(
                    command, stdout=file, stderr=file, env=environment, process_group=0, cwd=self.work
                ).pid
        process = os.fork()
        if process == 0:
            self._as_child(words, log)
        os.setpgid(process, process)
        return process

    @staticmethod
    def _as_child(words: list[str], log: Path) -> None:
        code = 1
        try:
            os.setpgid(0, 0)  # as its parent does: whoever comes first
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            child.run = _called
            from luigi.retcodes import run_with_retcodes

            run_with_retcodes(["--module", "tasks", *words])
        except SystemExit as ended:
            code = int(ended.code or 0)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)

    def to_its_end(self, words: list[str], log: Path) -> tuple[int, float]:
        """Exit code and seconds of a command that nothing disturbs."""
        began = time.monotonic()
        _, status = os.waitpid(self.start(words, log), 0)
        return os.waitstatus_to_exitcode(status), time.monotonic() - began

    def killed(self, words: list[str], log: Path, after: float) -> bool:
        """Kill a command with all its processes; false where it had ended by itself."""
        began, process = time.monotonic(), self.start(words, log)
        ended = False
        while not ended and time.monotonic() - began < after:
            ended = os.waitpid(process, os.WNOHANG) != (0, 0)
            time.sleep(0.002)
        if not ended:
            os.killpg(process, signal.SIGKILL)
            _, status = os.waitpid(process, 0)
            ended = not os.WIFSIGNALED(status)
        return not ended


T = TypeVar("T")


def _called(
    target: str, job: Any, result: type[T], threads: int = 0, environment: Mapping[str, str] = MappingProxyType({})
) -> T:
    """What `child.run` does, without a further process: the libraries are loaded."""
    answer = json.loads(json.dumps(child.call(target, json.loads(json.dumps(to_json(job))))))
    return from_json(result, answer)


Disturb = Callable[[float], dict[str, Any] | None]
"""Disturbs a command at a share of its usual course: what is to be remarked of it, None where it ended before that."""


@dataclass
class Campaign:
    """One command, disturbed and run again. log: of its output. seconds: that its whole runs took."""

    folder: Folder
    runner: Runner
    words: list[str]
    log: Path
    seconds: list[float] = field(default_factory=list)

    def kill(self, share: float) -> dict[str, Any] | None:
        """Kill it after a share of the usual time."""
        after = statistics.median(self.seconds) * share
        return {"killed after": round(after, 2)} if self.runner.killed(self.words, self.log, after) else None

    def fill(self, share: float) -> dict[str, Any] | None:
        """Let it meet a disk on which a share of what it usually writes finds room, then make room."""
        filler, free = self.folder.place / "mel-kills.filler", int(self.written * share)
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, shutil.disk_usage(self.folder.place).free - free))
        code, _ = self.runner.to_its_end(self.words, self.log)
        filler.unlink()
        said = [line for line in self.log.read_text(errors="replace").splitlines() if line.startswith("error: ")]
        wrong = bool(code) and (
            code not in (2, 30)
            or "Traceback" in self.log.read_text()
            or not any("space" in line or "GB free" in line for line in said)
        )
        remark = {"free": free, "code": code, "said": said}
        return {**remark, "wrong": self.log.read_text()[-3000:]} if wrong else remark if code else None

    def calm(self) -> list[dict[str, str]]:
        """What two runs leave that nothing disturbs."""
        left = []
        for _ in range(2):
            self.folder.put_back()
            code, took = self.runner.to_its_end(self.words, self.log)
            if code:
                raise SystemExit(f"{self.words[0]} ended with {code}: {self.log.read_text()[-2000:]}")
            left.append(self.folder.content())
            self.seconds.append(took)
        self.written = (1 << 14) + sum(
            (self.folder.place / name).stat().st_size for name in left[1] if (self.folder.place / name).exists()
        )
        del self.seconds[0]  # the first one loads what later forks share
        return left

    def run(self, disturb: Disturb, times: int) -> Iterator[dict[str, Any]]:
        """Disturb the command so many times; what was counted, after each."""
        calm, name = self.calm(), self.words[0]
        varying = {path for path in calm[0] if calm[0][path] != calm[1].get(path)}
        varying |= {path for path in calm[0] if Path(path).name in OF_A_STUDY}
        counts, faults, left, said = Counter[str](), list[dict[str, Any]](), Counter[str](), Counter[str]()
        chance = random.Random(name)
        for number in range(times):
            for _ in range(TRIES):
                self.folder.put_back()
                remark = disturb((number + chance.random()) / times)
                if remark is not None:
                    break
            else:
                counts["ended before"] += 1
                continue
            counts["disturbed"] += 1
            said.update(re.sub(r"[0-9a-f]{8,}", "…", line) for line in remark.get("said", ()))
            counts["with something written"] += bool(self.folder.content())
            code, took = self.runner.to_its_end(self.words, self.log)
            self.seconds.append(took)
            found, text = self.folder.content(), self.log.read_text(errors="replace")
            left.update(_kind(path) for path in found.keys() - calm[0].keys())
            wrong = [
                path for path in calm[0] if path not in found or (path not in varying and found[path] != calm[0][path])
            ]
            if code or wrong or "Traceback" in text or "wrong" in remark:
                faults.append({**remark, "code again": code, "differs": wrong, "output again": text[-1500:]})
                print(name, json.dumps(faults[-1], indent=1), flush=True)
            yield {
                **counts,
                "same": counts["disturbed"] - len(faults),
                "compared files": len(calm[0]) - len(varying),
                "compared by existence": sorted({Path(path).name for path in varying}),
                "left besides": dict(left),
                "said": {line.replace(str(self.folder.place), "WORK"): count for line, count in said.items()},
                "seconds": round(statistics.median(self.seconds), 2),
                "faults": faults,
            }
        self.folder.put_back()


def _kind(path: str) -> str:
    """A leftover's name without what differs from one to the next."""
    name = Path(path).name
    return f"*{Path(name).suffix}" if Path(name).suffix else name


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--work-dir", type=Path, default=Path("artifacts"))
    options.add_argument("--times", type=int, default=40)
    options.add_argument("--commands", default="TrainHead,SearchHead,LinkMentions,BuildCandidates,BuildPairs")
    options.add_argument("--full", action="store_true", help="disks that fill up instead of kills")
    options.add_argument("--whole", action="store_true")
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    if not given.whole:
        import torch

        for module in LOADED:
            importlib.import_module(module)
        torch.set_num_threads(1)
    results = {}
    with tempfile.TemporaryDirectory(prefix="mel-kills-") as place, disk(Path(place) / "disk", given.full) as root:
        work, log = root / "work", Path(place) / "log"
        shutil.copytree(given.work_dir, work, symlinks=True)
        folder, runner = Folder(work, Path(place) / "kept"), Runner(work, given.whole)
        write_data(work, next((given.work_dir / "demo").glob("world-*")))
        for name, words in PREPARATION:
            if code := runner.to_its_end([name, *commands(work)["data"], *words], log)[0]:
                raise SystemExit(f"{name} ended with {code}: {log.read_text()[-2000:]}")
        folder.keep()
        for name in given.commands.split(","):
            campaign = Campaign(folder, runner, [name, *commands(work)[name]], log)
            for results[name] in campaign.run(campaign.fill if given.full else campaign.kill, given.times):
                if given.json:
                    given.json.write_text(json.dumps(results, indent=1))
            print(name, json.dumps({**results[name], "faults": len(results[name]["faults"])}), flush=True)


@contextlib.contextmanager
def disk(place: Path, mounted: bool) -> Iterator[Path]:
    """A folder; where `mounted` is wanted, in memory, as a file system of its own that can be filled (needs root)."""
    place.mkdir()
    if mounted:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], check=True)


if __name__ == "__main__":
    main()
