"""What a search costs beside its trainings: 50 trials of DWE+ on the demo, as one command, and the same trainings alone.

    python benchmarks/search.py --work-dir artifacts [--method dwe] [--params JSON] [--trials 50] [--alone 50] [--json OUT]

Extraction and lists come first and are not timed. Then the command `SearchHead` as a user types it, from the start of luigi to its end, pictures
included. Then `--alone` of its trials again, spread over the study, trained for as many epochs in a process that does nothing else and has the tensors
loaded. A fraction of the trials is scaled up by the seconds that they took within the search. Clock time, and CPU time of all threads, which is what is
left to trust where others share the cores. An hour on two idle cores for all 50.
"""

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from full_kb_scoring import machine

ROOT = Path(__file__).resolve().parents[1]


def used() -> float:
    """CPU seconds of the children that have ended."""
    told = resource.getrusage(resource.RUSAGE_CHILDREN)
    return told.ru_utime + told.ru_stime


def timed(command: list[str]) -> tuple[float, float, str]:
    """Clock and CPU seconds of a command, and what it printed."""
    began, before = time.monotonic(), used()
    threads = {
        name: os.environ.get(name, str(len(os.sched_getaffinity(0)))) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    }
    environment = {
        **os.environ,
        **threads,
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONPATH": str(ROOT),
    }  # as every child of a task has it
    said = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    return time.monotonic() - began, used() - before, said


def value(cell: str) -> Any:
    """A drawn value as the table of trials has it."""
    try:
        return json.loads(cell)
    except ValueError:
        return cell


def alone(job_file: str, sweep: str, count: str) -> None:
    """The child that trains trials of a sweep again and nothing else; prints what it did as JSON."""
    import torch

    from heads import training
    from heads.config import load_config
    from heads.config.base import HeadConfig
    from heads.data import Bundle
    from heads.device import pick_device, pick_precision, repeatable

    job: dict[str, Any] = json.loads(Path(job_file).read_text())
    with (Path(sweep) / "trials.csv").open() as file:
        rows = [
            row for row in csv.DictReader(file) if row["state"] in ("complete", "pruned") and int(row["epochs"] or 0)
        ]
    rows = [rows[at * len(rows) // min(int(count), len(rows))] for at in range(min(int(count), len(rows)))]
    told = list(rows[0])
    names = told[told.index("dev MRR") + 1 : told.index("epochs")]
    device = pick_device("auto")
    precision = pick_precision("auto", device)
    config: HeadConfig = load_config(job["method"], job["config"])
    bundle = Bundle.load(job, training.wanted(job, config), device)
    bundle.hide("test")
    chosen, _ = training.training_mentions(bundle, 1.0, config.fits_on)
    began, before = time.monotonic(), time.process_time()
    with repeatable():
        for row in rows:
            values = {name: value(row[name]) for name in names}
            config = load_config(
                job["method"], {**job["config"], **values, "epochs": int(row["epochs"]), "patience": 0}
            )
            head = training.new_head(job, config, bundle, chosen, int(job["seed"]))
            _, optimizer = training.make_optimizer(head, config)
            training.run_epochs(
                head,
                optimizer,
                config,
                bundle,
                chosen,
                int(job["seed"]),
                precision,
                lambda state, best: None,
                training.State(),
                {},
            )
    seconds, cpu = time.monotonic() - began, time.process_time() - before
    print(
        json.dumps(
            {
                "trials": len(rows),
                "seconds": seconds,
                "cpu_seconds": cpu,
                "within": sum(float(row["seconds"]) for row in rows),
                "torch": torch.__version__,
            }
        )
    )


def main() -> None:
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
    options = parser.parse_args()
    luigi = [sys.executable, "-m", "luigi", "--module", "tasks"]
    work = str(Path(options.work_dir).absolute())
    place = ["--work-dir", work]
    sys.path.insert(0, str(ROOT))
    os.chdir(ROOT)
    import torch

    import tasks

    search = tasks.SearchHead(method=options.method, work_dir=work, n_trials=options.trials, params=options.params)
    for needed in search.needs():
        wanted = (
            ["--wants", needed.wants]
            if isinstance(needed, tasks.ExtractFeatures)
            else ["--pair", needed.pair]
            if isinstance(needed, tasks.BuildPairs)
            else []
        )
        timed([*luigi, needed.get_task_family(), *place, *wanted])
    if search.done():
        sys.exit(f"this search is done already in {work}; remove its folder under sweeps/ to measure it")
    load = os.getloadavg()[0]
    seconds, cpu, said = timed(
        [
            *luigi,
            "SearchHead",
            "--method",
            options.method,
            "--n-trials",
            str(options.trials),
            "--params",
            options.params,
            *place,
        ]
    )
    print(said)
    sweep = search.folder(search.resolved()["sweep"])
    run = search.receipt()["run"]
    job = sweep / "benchmark-job.json"
    job.write_text(json.dumps({**search.job(), "device": "auto", "precision": "auto"}))
    child = f"import sys; sys.path[:0] = {[str(ROOT), str(ROOT / 'benchmarks')]!r}; import search; search.alone(*sys.argv[1:])"
    _, _, printed = timed([sys.executable, "-c", child, str(job), str(sweep), str(options.alone)])
    job.unlink()
    single = json.loads(printed.splitlines()[-1])
    scale = run["seconds"]["train"] / single["within"]
    result = {
        "machine": machine(torch.device("cpu")),
        "load_before": load,
        "load_after": os.getloadavg()[0],
        "trials": options.trials,
        "search_seconds": seconds,
        "search_cpu_seconds": cpu,
        "within": run["seconds"],
        "alone": single,
        "alone_seconds": single["seconds"] * scale,
        "alone_cpu_seconds": single["cpu_seconds"] * scale,
    }
    result |= {"ratio": seconds / result["alone_seconds"], "cpu_ratio": cpu / result["alone_cpu_seconds"]}
    print(
        f"{options.trials} trials of {options.method}: search {seconds:,.0f} s ({cpu:,.0f} s of CPU), of it in epochs {run['seconds']['train']:,.0f} s; the trainings "
        f"alone {result['alone_seconds']:,.0f} s ({result['alone_cpu_seconds']:,.0f} s of CPU), measured on {single['trials']}: "
        f"{result['ratio']:.2f} times, {result['cpu_ratio']:.2f} of CPU; load {load:.1f} before, {result['load_after']:.1f} after"
    )
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
