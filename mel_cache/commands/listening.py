"""What commands share that listen at an address until they are stopped."""

import contextlib
import multiprocessing
import os
import signal
import threading
from pathlib import Path
from typing import Any, NoReturn

import luigi

from foundation import logs
from linking.service.access import access
from mel_cache.commands.task import Tool


class Listening(Tool):
    """Runs `target`, the server, with a job, until a signal ends it; what is being answered is answered first."""

    target: str
    host = luigi.Parameter(default="127.0.0.1", description="address to listen on; another than this machine's own "
                           "needs a token")  # fmt: skip
    token_file = luigi.Parameter(
        default="",
        description="file that holds the token that requests must bring; empty: the environment variable "
        "MEL_SERVICE_TOKEN, where it is set",
    )

    @property
    def token_place(self) -> Path | None:
        """The token's file."""
        return Path(self.token_file).absolute() if self.token_file else None

    @property
    def origins(self) -> tuple[str, ...]:
        """Web pages of other servers that may ask."""
        return ()

    def job(self) -> Any:
        """The server's job. Raises `UserError`."""
        raise NotImplementedError

    def check(self) -> None:
        self.checked = self.job()
        access(self.host, self.token_place, self.origins)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _pass_on)

    def act(self) -> None:
        signal.signal(signal.SIGTERM, _stop)
        with contextlib.suppress(_Stopped):
            self.run_child(self.target, self.checked, type(None))
        logs.say("stopped")


class _Stopped(BaseException):
    """SIGTERM came. `foundation.child.run` passes it on to the server and waits for its end."""


def _stop(*_: Any) -> NoReturn:
    """In Luigi's worker."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Stopped


def _pass_on(*_: Any) -> None:
    """In Luigi's own process: the worker ends first."""
    workers = multiprocessing.active_children()
    if not workers:
        raise SystemExit(128 + signal.SIGTERM)
    for worker in workers:
        if worker.pid is not None:
            os.kill(worker.pid, signal.SIGTERM)
