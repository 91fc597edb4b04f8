"""A Ray cluster: the connection to one, and its devices. Ray is imported when one is used."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from foundation.errors import UserError


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Inside, this process is connected to the cluster at `address` (`auto`: that of this machine).

    Raises `UserError` where there is none.
    """
    import ray

    began = not ray.is_initialized()
    try:
        if began:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"--ray {address}: no Ray cluster can be reached there ({str(error).partition(chr(10))[0][:160]}); "
            "`ray start --head` starts one on this machine"
        ) from None
    try:
        yield
    finally:
        if began:
            ray.shutdown()


@dataclass(frozen=True)
class Share:
    """What one training takes of a node. gpus: 1 or 0. cpus: that Ray counts for it. threads: of the process. at_once:
    how many such shares the cluster has."""

    gpus: int
    cpus: int
    threads: int
    at_once: int


def share(device: str, threads: int) -> Share:
    """A GPU where a node has one and `device` is not `cpu`; else `threads` cores (0: all that the smallest node has).

    Raises `UserError` where the cluster has no such share.
    """
    import ray

    untyped: Any = ray
    nodes = [node["Resources"] for node in untyped.nodes() if node["Alive"]]
    gpus = 0 if device == "cpu" else sum(int(node.get("GPU", 0)) for node in nodes)
    cores = [int(node.get("CPU", 0)) for node in nodes if int(node.get("CPU", 0))]
    if gpus:
        return Share(gpus=1, cpus=0, threads=threads or max(1, sum(cores) // gpus), at_once=gpus)
    wanted = min(threads or min(cores, default=1), max(cores, default=1))
    at_once = sum(count // wanted for count in cores)
    if not at_once:
        raise UserError("--ray: no node of the cluster has a core for this; start one with `ray start --num-cpus 4`")
    return Share(gpus=0, cpus=wanted, threads=wanted, at_once=at_once)
