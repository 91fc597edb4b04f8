"""What a search costs beside its trainings: 50 trials of DWE+ on the demo, as one command, and the same trainings
alone.

python benchmarks/search.py --work-dir artifacts [--method dwe] [--params JSON] [--trials 50] [--alone 50] [--json OUT]

Extraction and lists come first and are not timed. Then the command `SearchHead` as a user types it, from the start of
luigi to its end, pictures included. Then `--alone` of its trials again, spread over the study, trained for as many
epochs in a process that does nothing else and has the tensors loaded. A fraction of the trials is scaled up by the
seconds that they took within the search. Clock time, and CPU time of all threads, which is what is left to trust where
others share the cores. An hour on two idle cores for all 50.
"""

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from _measure import machine, now

from foundation.contracts import from_json, to_json
from heads.contracts import TrainingJob

ROOT = Path(__file__).resolve().parents[1]


def cpu_of_children() -> float:
    """CPU seconds of the children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def timed(command: list[str]) -> tuple[float, float, str]:
    """Clock and CPU seconds of a command in the environment that a task's child has, and what it printed."""
    began, before = time.monotonic(), cpu_of_children()
    cores = str(len(os.sched_getaffinity(0)))
    threads = {name: os.environ.get(name, cores) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    environment = {**os.environ, **threads, "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return time.monotonic() - began, cpu_of_children() - before, done.stdout


def value(cell: str) -> Any:
    """A drawn value as the table of trials has it."""
    try:
        return json.loads(cell)
    except ValueError:
        return cell


def train_alone(job: TrainingJob, trials: Path, count: int) -> dict[str, Any]:
    """Train `count` trials of a sweep again, spread over the table `trials`, and do nothing else; what it took."""
    import torch

    from foundation import device as devices
    from heads.config import load_config
    from heads.data import Bundle
    from heads.loop import Trainer
    from heads.training import new_head

    with trials.open() as file:
        ended = [
            row for row in csv.DictReader(file) if row["state"] in ("complete", "pruned") and int(row["epochs"] or 0)
        ]
    count = min(count, len(ended))
    rows = [ended[place * len(ended) // count] for place in range(count)]
    columns = list(rows[0])
    drawn = columns[columns.index("dev MRR") + 1 : columns.index("epochs")]
    device = devices.choose("auto")
    precision = devices.choose_precision("auto", device, training=True)
    bundle = Bundle.load(job, torch.device(device))
    bundle.hide("test")
    mentions, _ = bundle.training_mentions(1.0, load_config(job.method, job.config).fits_on)
    started = now()
    with devices.repeatable():
        for row in rows:
            own = {name: value(row[name]) for name in drawn} | {"epochs": int(row["epochs"]), "patience": 0}
            head = new_head(replace(job, config={**job.config, **own}), bundle, mentions)
            Trainer(head, bundle, mentions, job.seed, precision).train()
    seconds, cpu = (now() - started).tolist()
    within = sum(float(row["seconds"]) for row in rows)
    return {"trials": count, "seconds": seconds, "cpu_seconds": cpu, "within": within, "torch": torch.__version__}


def main() -> None:
    """Measure the command, then the trainings, and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", default="artifacts")
    parser.add_argument("--method", default="dwe")
    parser.add_argument(
        "--params",
        default="{}",
        help="as of SearchHead; fewer epochs make trials cheaper, and what a search adds to them weigh more",
    )
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--alone", type=int, default=50)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        job = from_json(TrainingJob, json.loads(options.job.read_text()))
        print(json.dumps(train_alone(job, options.job.with_name("trials.csv"), options.alone)))
        return
    import tasks

    work = str(Path(options.work_dir).absolute())
    luigi = [sys.executable, "-m", "luigi", "--module", "tasks"]
    search = tasks.SearchHead(method=options.method, work_dir=work, n_trials=options.trials, params=options.params)
    for needed in search.needs():
        named = [
            word
            for option in ("wants", "pair")
            if hasattr(needed, option)
            for word in (f"--{option}", getattr(needed, option))
        ]
        timed([*luigi, needed.get_task_family(), "--work-dir", work, *named])
    if search.done():
        sys.exit(f"this search is done already in {work}; remove its folder under sweeps/ to measure it")
    load = os.getloadavg()[0]
    settings = {"method": options.method, "n-trials": options.trials, "params": options.params, "work-dir": work}
    words = [word for option, given in settings.items() for word in (f"--{option}", str(given))]
    seconds, cpu, printed = timed([*luigi, "SearchHead", *words])
    print(printed)
    receipt = search.receipt()
    assert receipt is not None  # the command succeeded
    run, sweep = receipt["run"], search.folder(receipt["result"]["sweep"])
    path = sweep / "benchmark-job.json"
    path.write_text(json.dumps(to_json(search.job())))
    _, _, printed = timed([sys.executable, __file__, "--job", str(path), "--alone", str(options.alone)])
    path.unlink()
    alone = json.loads(printed.splitlines()[-1])
    scale = run["seconds"]["train"] / alone["within"]
    result = {
        "machine": machine(),
        "load_before": load,
        "load_after": os.getloadavg()[0],
        "trials": options.trials,
        "search_seconds": seconds,
        "search_cpu_seconds": cpu,
        "within": run["seconds"],
        "alone": alone,
        "alone_seconds": alone["seconds"] * scale,
        "alone_cpu_seconds": alone["cpu_seconds"] * scale,
    }
    result |= {"ratio": seconds / result["alone_seconds"], "cpu_ratio": cpu / result["alone_cpu_seconds"]}
    print(
        f"{options.trials} trials of {options.method}: search {seconds:,.0f} s ({cpu:,.0f} s of CPU), of it in epochs "
        f"{run['seconds']['train']:,.0f} s; the trainings alone {result['alone_seconds']:,.0f} s "
        f"({result['alone_cpu_seconds']:,.0f} s of CPU), measured on {alone['trials']}: {result['ratio']:.2f} times, "
        f"{result['cpu_ratio']:.2f} of CPU; load {load:.1f} before, {result['load_after']:.1f} after"
    )
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
