"""The command that serves a finished run to other programs."""

import contextlib
import multiprocessing
import os
import signal
import threading
from pathlib import Path
from typing import Any, NoReturn

import luigi

from foundation import logs
from heads.contracts import Compute
from linking.service.access import access
from linking.service.contracts import OPENREFINE, ServiceJob
from mel_cache.commands.features import OnProfile
from mel_cache.commands.mentions import LinkMentions
from mel_cache.commands.parameters import Whole
from mel_cache.commands.task import Tool


class Serve(Tool):
    """Serves a finished run over HTTP until it is stopped: link mentions, find entities, reconcile (OpenRefine).

    Listens on this machine alone unless --host says otherwise, which needs a token: in the environment variable
    MEL_SERVICE_TOKEN, or in a file (--token-file). The schema is at /docs (docs/service.md).
    """

    run_folder = LinkMentions.run_folder
    host = luigi.Parameter(default="127.0.0.1", description="address to listen on; another than this machine's own "
                           "needs a token")  # fmt: skip
    port = Whole(least=0, most=65535, default=8090, description="port; 0: a free one")
    token_file = luigi.Parameter(
        default="",
        description="file that holds the token that requests must bring; empty: the environment variable "
        "MEL_SERVICE_TOKEN, where it is set",
    )
    allow_origins = luigi.Parameter(
        default=",".join(OPENREFINE),
        description="comma-separated addresses of web pages that may ask, as https://example.org; by default those of "
        "OpenRefine on this machine",
    )
    queue = Whole(
        least=1, default=256, description="mentions that wait at most; more are answered 503 with Retry-After"
    )
    batch_size = Whole(least=1, most=1024, default=32, description="mentions that are linked at once at most")
    kb = LinkMentions.kb
    nil_share = LinkMentions.nil_share
    joint_below = LinkMentions.joint_below
    keep_features = luigi.BoolParameter(
        default=False, description="keep the features of the mentions in the run's cache instead of forgetting them"
    )
    wikidata_ids = luigi.BoolParameter(
        default=False, description="the KB's ids are Wikidata's: reconciled cells lead to its pages"
    )
    device = OnProfile.device
    precision = OnProfile.precision
    resources = {"device": 1}  # noqa: RUF012  # Luigi's attribute

    def check(self) -> None:
        self.job = ServiceJob(
            run=self.paths.find_run(self.run_folder),
            host=self.host,
            port=self.port,
            token_file=Path(self.token_file).absolute() if self.token_file else None,
            origins=tuple(origin.strip() for origin in self.allow_origins.split(",") if origin.strip()),
            queue=self.queue,
            batch=self.batch_size,
            nil_share=None if self.nil_share == "dev" else float(self.nil_share),
            joint_below=float(self.joint_below) if self.joint_below else None,
            cache=self.keep_features,
            wikidata=self.wikidata_ids,
            kb=self.kb or None,
            compute=Compute(device=self.device, precision=self.precision),
        )
        access(self.job.host, self.job.token_file, self.job.origins)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _pass_on)

    def act(self) -> None:
        signal.signal(signal.SIGTERM, _stop)
        with contextlib.suppress(_Stopped):
            self.run_child("linking.service.serve:serve", self.job, type(None))
        logs.say("stopped")


class _Stopped(BaseException):
    """SIGTERM came. `foundation.child.run` passes it on to the service and waits for its end."""


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
