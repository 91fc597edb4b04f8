"""A Ray cluster of this machine, for tests."""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def two_nodes(head_computes: bool = True) -> Iterator[Any]:
    """Two nodes of one CPU each, and this process connected to them. head_computes: whether the head is one of them;
    else there are two besides, either of which may be lost."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray's own name; on a busy machine Ray's usual 15 would starve them
    head = {"num_cpus": int(head_computes), "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(1 if head_computes else 2):
        made.add_node(num_cpus=1)
    ray.init(address=made.address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()
