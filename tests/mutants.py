"""`make mutants`: changes one place of the code at a time, in a copy, and lists the changes that no test notices.

The tests are collected once. For each change (see `mutations`) a forked child gives the loaded function its new code,
and runs the tests that reach the changed lines.
"""

import argparse
import collections
import contextlib
import difflib
import functools
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from coverage import Coverage
from mutations import CHANGED, Mutant, replace_code, sample
from tabulate import tabulate
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
TESTS = (
    "test_cache_*.py",
    "test_foreign.py",
    "test_waiting.py",
    "test_heads_*.py",
    "test_explanations.py",
    "test_picture_dropout.py",
)
"""Those of the cache and the heads that need no command and no demo."""
SLACK = 30.0  # seconds that a mutant has beside three times those of its tests


class Recorder:
    """A plugin of pytest that keeps the lines and the seconds of each test; lines of fixtures that tests share stand
    under the name of their file."""

    def __init__(self, lines: Coverage) -> None:
        self.lines, self.test, self.seconds = lines, "", dict[str, float]()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.test, began = item.nodeid, time.monotonic()
        self.lines.switch_context(self.test)
        result = yield
        self.seconds[item.nodeid] = time.monotonic() - began
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[Any]:
        before, self.test = self.test, self.test if fixturedef.scope == "function" else file_of(self.test)
        self.lines.switch_context(self.test)
        try:
            return (yield)
        finally:
            self.test = before
            self.lines.switch_context(before)


class Campaign:
    """A plugin of pytest that runs the collected tests once, and then for each mutant those that reach it."""

    def __init__(self, number: int, seed: int) -> None:
        self.number, self.seed, self.verdicts = number, seed, dict[Mutant, str]()

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        files, seconds = collections.defaultdict[str, list[pytest.Item]](list), dict[str, float]()
        reach = collections.defaultdict[tuple[str, int], set[str]](set)
        share = collections.Counter[tuple[str, str]]()  # lines of a changed file that a file of tests reaches
        for item in session.items:
            files[file_of(item.nodeid)].append(item)
        for file, items in tqdm(files.items(), "tests"):
            if fork(functools.partial(record, session, items), 3600):
                raise pytest.UsageError(f"{file}: a test fails without a mutant; run `pytest {file}`")
            kept = json.loads(Path("recorded.json").read_text())
            seconds |= kept["seconds"]
            share.update((path, file) for path, _ in {(path, line) for path, line, _ in kept["lines"]})
            for path, line, test in kept["lines"]:
                reach[path, line] |= {test} if "::" in test else {item.nodeid for item in items}
        for mutant in tqdm(sample(self.number, self.seed), "mutants"):
            names = set().union(*(reach[mutant.file, line] for line in range(mutant.first, mutant.last + 1)))
            took = {
                file: sum(seconds[item.nodeid] for item in items if item.nodeid in names)
                for file, items in files.items()
            }
            # first those that are quick for how much of the file they test
            order = sorted(files, key=lambda file: took[file] / max(1, share[mutant.file, file]))
            chosen = [item for file in order for item in files[file] if item.nodeid in names]
            self.verdicts[mutant] = judge(session, mutant, chosen, SLACK + 3 * sum(took.values()))
        return True


def file_of(test: str) -> str:
    return test.partition("::")[0]


def fork(work: Callable[[], int], limit: float) -> int:
    """What `work` returns in a child, which an alarm ends (-14) after `limit` seconds."""
    child = os.fork()
    if not child:
        try:
            os.setsid()
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, limit)
            os._exit(work())
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what a test left running
    return code


def run(session: pytest.Session, items: Sequence[pytest.Item]) -> int:
    """Run tests up to the first that fails; 1 where one does."""
    for item, following in zip(items, [*items[1:], None], strict=True):
        item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            return 1
    return 0


def record(session: pytest.Session, items: Sequence[pytest.Item]) -> int:
    """Run tests and write recorded.json, the seconds of each and the lines that it runs."""
    recorder = Recorder(
        Coverage(data_file=None, include=[str(Path(name).resolve()) for name in CHANGED], config_file=False)
    )
    session.config.pluginmanager.register(recorder)
    with recorder.lines.collect():
        code = run(session, items)
    data, lines = recorder.lines.get_data(), []
    for path in data.measured_files():
        for line, tests in data.contexts_by_lineno(path).items():
            lines += [(str(Path(path).relative_to(Path.cwd())), line, test) for test in tests if test]
    Path("recorded.json").write_text(json.dumps({"seconds": recorder.seconds, "lines": lines}))
    return code


def judge(session: pytest.Session, mutant: Mutant, items: Sequence[pytest.Item], limit: float) -> str:
    """What becomes of a mutant."""
    path, original = Path(mutant.file), Path(mutant.file).read_text()
    path.write_text(mutant.text)  # for tests that start a Python of their own

    def work() -> int:
        replace_code(path, original, mutant.text)
        return run(session, items)

    code = fork(work, limit)
    path.write_text(original)
    return "timeout" if code == -signal.SIGALRM else "killed" if code else "survived"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=200, help="of mutants")
    parser.add_argument("--seed", type=int, default=1, help="of their choice")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree, campaign = Path(folder, "tree"), Campaign(options.number, options.seed)
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "__pycache__", "artifacts", "build", "site"))
        os.chdir(tree)
        sys.path[0] = os.environ["PYTHONPATH"] = str(tree)
        sys.dont_write_bytecode, os.environ["PYTHONDONTWRITEBYTECODE"] = True, "1"
        files = [str(path) for pattern in TESTS for path in sorted(Path("tests").glob(pattern))]
        quiet = ["-o", "addopts=", *(f"-pno:{name}" for name in ("cacheprovider", "terminal", "xdist"))]
        code = pytest.main([*quiet, f"--basetemp={folder}/tmp", *files], plugins=[campaign])
        show(campaign.verdicts)
    sys.exit(code)


def show(verdicts: dict[Mutant, str]) -> None:
    """Print the survivors as diffs, and a table."""
    rows = []
    for mutant in (mutant for mutant, verdict in verdicts.items() if verdict == "survived"):
        before, after = Path(mutant.file).read_text().splitlines(), mutant.text.splitlines()
        print("\n".join(difflib.unified_diff(before, after, mutant.file, "survivor", lineterm="")), "\n")
    for file in [*sorted({mutant.file for mutant in verdicts}), "all"]:
        count = collections.Counter(verdict for mutant, verdict in verdicts.items() if file in (mutant.file, "all"))
        rows.append([file, count.total(), *(count[verdict] for verdict in ("killed", "survived", "timeout"))])
    print(tabulate(rows, ["module", "mutants", "killed", "survived", "timeouts"]))


if __name__ == "__main__":
    main()
