"""Commands that are killed at random moments and run again: what they leave, beside what one leaves that nothing
disturbed.

python benchmarks/kills.py --work-dir artifacts [--kills 40] [--commands TrainHead,SearchHead] [--whole] [--json OUT]

The work folder is copied, never written to; features, lists and a trained head are made in the copy first. Each command
then runs twice to its end, in a folder put back to that state: files that differ between the two, as those with seconds
in them do, are compared by their existence alone. For each kill the folder is put back, the command is started in a
session of its own, all its processes get SIGKILL, the n-th within the n-th part of its usual duration, and the same
command runs to its end. It must end well, without a traceback, leave the same bytes and nothing else. Of a search the
finished trials are compared, since killed ones are listed too.

Commands run in forks of a process that has the libraries loaded, a step in the process of its command; with --whole as
a user types them, which takes several times as long. Minutes on two idle cores for each command.
"""

import argparse
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
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
TRIES = 4  # starts for one kill, where the command ends before its moment has come
SENTENCES = 48  # mentions that are linked


def commands(work: Path) -> dict[str, list[str]]:
    """Arguments of each command, over the embedded demo."""
    run = next((work / "runs").glob("*/dwe/*/model.safetensors"), work / "none").parent
    files = ["--input", str(work / "mel-kills.jsonl"), "--output", str(work / "linked.jsonl")]
    return {
        "TrainHead": ["--method", "dwe", "--params", '{"epochs": 2, "lr": 0.002}'],
        "SearchHead": ["--method", "dwe", "--n-trials", "3", "--params", '{"epochs": 1}'],
        "LinkMentions": ["--run", str(run), *files, "--chunk", "8", "--images-dir", str(images(work))],
        "BuildCandidates": ["--sources", "name,dense:clip_text", "--candidates", "60"],
        "BuildPairs": ["--pair", "clip_ti", "--sources", "name,dense:clip_text", "--candidates", "40"],
    }


PREPARATION = {
    "TrainHead": ["--method", "dwe", "--params", '{"epochs": 1}'],
    "ExtractFeatures": ["--features", "clip_text,clip_image"],
}


def images(work: Path) -> Path:
    """The folder of the demo's dataset."""
    return next((work / "demo").glob("world-*"))


def write_sentences(work: Path) -> None:
    """New sentences about the demo's mentions, so that texts have to be extracted."""
    lines = (images(work) / "mentions.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines[:: max(1, len(lines) // SENTENCES)]]
    for record in records:
        record["sentence"] = f"As we said before: {record['sentence']}"
    (work / "mel-kills.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


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
        return json.dumps({**json.loads(path.read_text()), "run": None}, sort_keys=True)
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
        """The number of the process, which leads a session of its own."""
        words = [*words, "--work-dir", str(self.work), "--workers", "1"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        if self.whole:
            with log.open("wb") as file:
                command = [sys.executable, "-m", "mel_cache", *words]
                return subprocess.Popen(
                    command, stdout=file, stderr=file, env=environment, start_new_session=True, cwd=self.work
                ).pid
        process = os.fork()
        if process == 0:
            self._as_child(words, log)
        return process

    @staticmethod
    def _as_child(words: list[str], log: Path) -> None:
        code = 1
        try:
            os.setsid()
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


def _called(target: str, job: Any, result: type[Any], threads: int = 0) -> Any:
    """What `child.run` does, without a further process: the libraries are loaded."""
    answer = json.loads(json.dumps(child.call(target, json.loads(json.dumps(to_json(job))))))
    return from_json(result, answer)


def campaign(folder: Folder, runner: Runner, name: str, kills: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Kill one command `kills` times; what was counted."""
    words, log = [name, *commands(folder.place)[name]], folder.place / "mel-kills.log"
    calm, seconds = [], []
    for _ in range(2):
        folder.put_back()
        code, took = runner.to_its_end(words, log)
        if code:
            raise SystemExit(f"{name} ended with {code}: {log.read_text()[-2000:]}")
        calm.append(folder.content())
        seconds.append(took)
    seconds = seconds[1:]  # the first one loads what later forks share
    varying = {path for path in calm[0] if calm[0][path] != calm[1].get(path)}
    varying |= {path for path in calm[0] if Path(path).name in OF_A_STUDY}
    counts: Counter[str] = Counter()
    faults, left, chance = [], Counter[str](), random.Random(name)
    for number in range(kills):
        for _ in range(TRIES):
            folder.put_back()
            after = statistics.median(seconds) * (number + chance.random()) / kills
            if runner.killed(words, log, after):
                break
        else:
            counts["ended before"] += 1
            continue
        counts["killed"] += 1
        counts["killed with something written"] += bool(folder.content())
        code, took = runner.to_its_end(words, log)
        seconds.append(took)
        found, text = folder.content(), log.read_text(errors="replace")
        left.update(_kind(path) for path in found.keys() - calm[0].keys())
        wrong = [
            path for path in calm[0] if path not in found or (path not in varying and found[path] != calm[0][path])
        ]
        if code or wrong or "Traceback" in text:
            faults.append({"after": after, "code": code, "wrong": wrong, "output": text[-1500:]})
            say(f"{name}: killed after {after:.2f} s: code {code}, {wrong or text[-500:]}")
    folder.put_back()
    return {
        **counts,
        "same": counts["killed"] - len(faults),
        "compared files": len(calm[0]) - len(varying),
        "compared by existence": sorted({Path(path).name for path in varying}),
        "left besides": dict(left),
        "seconds": round(statistics.median(seconds), 2),
        "faults": faults,
    }


def _kind(path: str) -> str:
    """A leftover's name without what differs from one to the next."""
    name = Path(path).name
    return f"*{Path(name).suffix}" if Path(name).suffix else name


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--work-dir", type=Path, default=Path("artifacts"))
    options.add_argument("--kills", type=int, default=40)
    options.add_argument("--commands", default="TrainHead,SearchHead,LinkMentions,BuildCandidates,BuildPairs")
    options.add_argument("--whole", action="store_true")
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    if not given.whole:
        import torch

        for module in LOADED:
            importlib.import_module(module)
        torch.set_num_threads(1)
    results = {}
    with tempfile.TemporaryDirectory(prefix="mel-kills-") as place:
        work = Path(place) / "work"
        shutil.copytree(given.work_dir, work, symlinks=True)
        folder, runner = Folder(work, Path(place) / "kept"), Runner(work, given.whole)
        for name, words in PREPARATION.items():
            log = Path(place) / "log"
            if code := runner.to_its_end([name, *words], log)[0]:
                raise SystemExit(f"{name} ended with {code}: {log.read_text()[-2000:]}")
        write_sentences(work)
        folder.keep()
        for name in given.commands.split(","):
            results[name] = campaign(folder, runner, name, given.kills, lambda text: print(text, flush=True))
            print(name, json.dumps({**results[name], "faults": len(results[name]["faults"])}), flush=True)
            if given.json:
                given.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
