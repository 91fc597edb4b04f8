"""Serve under load: requests per second and how long they take, at several numbers of clients; and killed amid load.

python benchmarks/serve.py --run artifacts/runs/demo/mimic/… --input new.jsonl --work-dir artifacts
    [--images DIR] [--clients 1,8,32] [--seconds 20] [--kills 3]

The service is started as a user starts it. Each client is a thread with one connection, and asks /link for one mention
after another, with its picture where it has one and --images is given. Every mention is asked for once before. Clients
share the machine with the service. Prints a Markdown table; `batch` is the mean number of mentions
linked at once, `CPU` the service's time for each.

With --kills the service gets SIGKILL so many times while 8 clients ask, and is started again on the same port. A client
whose answer breaks off asks again. Every mention must be answered in the end, and every answer that came whole must be
that of an undisturbed service; an answer that was not whole must have been noticed by its client.
"""

import argparse
import base64
import http.client
import json
import math
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _measure import machine

ROOT = Path(__file__).resolve().parents[1]
AMID_KILLS = 8  # clients
PATIENCE = 3600.0  # seconds that a client asks again


@dataclass
class Service:
    """The command, in a group of its own."""

    run: Path
    work: Path
    port: int
    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        words = ["Serve", "--run", str(self.run), "--port", str(self.port), "--work-dir", str(self.work)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "luigi", "--module", "tasks", *words],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if "http://" not in line:
            raise SystemExit(f"the service did not start: {line}")

    def kill(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@dataclass
class Client:
    """Asks for mentions over one connection. broken: answers by what kept them from being whole."""

    port: int
    seconds: list[float] = field(default_factory=list)
    broken: Counter[str] = field(default_factory=Counter)
    connection: http.client.HTTPConnection | None = None

    def ask(self, body: bytes) -> dict[str, Any] | None:
        """The answer; None where there is none, or not a whole one."""
        begun = time.perf_counter()
        try:
            if self.connection is None:
                self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            self.connection.request("POST", "/link", body, {"Content-Type": "application/json"})
            answer = self.connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.broken[type(error).__name__] += 1
            self.connection = None
            return None
        if answer.status != 200:
            self.broken[str(answer.status)] += 1
            return None
        self.seconds.append(time.perf_counter() - begun)
        whole: dict[str, Any] = json.loads(content)
        return whole


def under_load(port: int, bodies: list[bytes], clients: int, seconds: float) -> list[Client]:
    """Clients that have asked for so long."""
    made, end = [Client(port) for _ in range(clients)], time.monotonic() + seconds

    def work(number: int, client: Client) -> None:
        at = number
        while time.monotonic() < end:
            client.ask(bodies[at % len(bodies)])
            at += clients

    _together([threading.Thread(target=work, args=pair) for pair in enumerate(made)])
    return made


def amid_kills(service: Service, bodies: list[bytes], right: list[dict[str, Any]], kills: int) -> str:
    """What became of the mentions, each asked for until it is answered."""
    made, answers = [Client(service.port) for _ in range(AMID_KILLS)], dict[int, dict[str, Any]]()
    done = threading.Event()

    def work(number: int, client: Client) -> None:
        for at in range(number, len(bodies), AMID_KILLS):
            end = time.monotonic() + PATIENCE
            while (answer := client.ask(bodies[at])) is None and time.monotonic() < end:
                time.sleep(0.2)
            if answer is not None:
                answers[at] = answer

    def disturb() -> None:
        for _ in range(kills):
            if done.wait(random.uniform(1.0, 3.0)):
                return
            service.kill()
            service.start()

    disturber = threading.Thread(target=disturb)
    disturber.start()
    _together([threading.Thread(target=work, args=pair) for pair in enumerate(made)])
    done.set()
    disturber.join()
    wrong = sum(not same(answers[at], right[at]) for at in answers)
    broken = sum((client.broken for client in made), Counter[str]())
    return (
        f"{kills} kills amid {len(bodies):,} mentions by {AMID_KILLS} clients that ask again: "
        f"{len(answers):,} answered, {len(bodies) - len(answers)} lost, {wrong} wrong; "
        "answers that were not whole or not there: "
        f"{', '.join(f'{number} {name}' for name, number in broken.most_common()) or 'none'}"
    )


def same(answer: dict[str, Any], right: dict[str, Any]) -> bool:
    """Whether two answers agree: scores of a batch differ in their last digits, so those nearly equal may swap."""
    first, second = ({one["id"]: one["score"] for one in each["entities"]} for each in (answer, right))
    ranked = zip(sorted(first.values()), sorted(second.values()), strict=False)
    pairs = [*ranked, *((first[name], second[name]) for name in first.keys() & second.keys())]
    return len(first) == len(second) and all(math.isclose(one, other, abs_tol=1e-3) for one, other in pairs)


def counted(port: int) -> dict[str, float]:
    """Mentions and batches so far, and the service's seconds of CPU."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    names = {
        "mentions": "mel_batch_mentions_sum",
        "batches": "mel_batch_mentions_count",
        "cpu": "process_cpu_seconds_total",
    }
    found = {name: re.search(rf"^{metric} ([\d.e+]+)$", text, re.M) for name, metric in names.items()}
    return {name: float(one[1]) if one else 0.0 for name, one in found.items()}


def _together(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _body(line: str, images: Path | None) -> bytes:
    record = json.loads(line)
    mention = {name: record[name] for name in ("sentence", "mention", "start", "end") if name in record}
    if images and record.get("image"):
        mention["image"] = base64.b64encode((images / record["image"]).read_bytes()).decode()
    return json.dumps(mention).encode()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, default=Path("artifacts"))
    parser.add_argument("--images", type=Path)
    parser.add_argument("--clients", default="1,8,32")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--mentions", type=int, default=400, help="of the input")
    options = parser.parse_args()
    lines = [line for line in options.input.read_text("utf-8").splitlines() if line.strip()][: options.mentions]
    bodies = [_body(line, options.images) for line in lines]
    service = Service(options.run.absolute(), options.work_dir.absolute(), _free_port())
    try:
        _measure(service, bodies, options)
    finally:
        service.kill()


def _measure(service: Service, bodies: list[bytes], options: argparse.Namespace) -> None:
    begun = time.perf_counter()
    service.start()
    print(f"{machine()}; the service answers {time.perf_counter() - begun:.1f} s after its start\n")
    first = Client(service.port)
    right = [first.ask(body) or {} for body in bodies]
    print(f"| clients | requests/s | p50 ms | p99 ms | batch | CPU ms | refused |\n|{'---|' * 7}")
    for clients in map(int, options.clients.split(",")):
        before = counted(service.port)
        made = under_load(service.port, bodies, clients, options.seconds)
        more = {name: value - before[name] for name, value in counted(service.port).items()}
        took = sorted(1000 * seconds for client in made for seconds in client.seconds)
        refused = sum(sum(client.broken.values()) for client in made)
        p99 = took[math.ceil(0.99 * len(took)) - 1]
        rates = (len(took) / options.seconds, statistics.median(took), p99)
        each = (more["mentions"] / more["batches"], 1000 * more["cpu"] / more["mentions"])
        row = (clients, f"{rates[0]:.1f}", *(f"{value:.0f}" for value in rates[1:]), f"{each[0]:.1f}", f"{each[1]:.0f}")
        print("| " + " | ".join(map(str, (*row, refused))) + " |", flush=True)
    if options.kills:
        print("\n" + amid_kills(service, bodies, right, options.kills))


if __name__ == "__main__":
    main()
