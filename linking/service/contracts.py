"""Contracts of the service. No torch."""

from pathlib import Path

from foundation.contracts import contract
from heads.contracts import Compute

OPENREFINE = ("http://127.0.0.1:3333", "http://localhost:3333")
"""The addresses that OpenRefine has on its user's machine."""


@contract
class ServiceJob:
    """Serve a finished run until a signal ends the process.

    run: its folder. host, port: where it listens (port 0: a free one). token_file: holds the token that every request
    must bring; None: it is that of the environment, where one is set. origins: web pages of other servers that may ask,
    as `https://host`. queue: mentions that wait at most. batch: mentions that are linked at once at most. nil_share,
    joint_below: see `linking.contracts.LinkJob`. cache: whether features of the mentions are kept in the run's cache.
    wikidata: whether the ids of the KB are Wikidata's. kb: see `linking.contracts.LinkJob`.
    """

    run: Path
    host: str = "127.0.0.1"
    port: int = 8090
    token_file: Path | None = None
    origins: tuple[str, ...] = OPENREFINE
    queue: int = 256
    batch: int = 32
    nil_share: float | None = None
    joint_below: float | None = None
    cache: bool = False
    wikidata: bool = False
    kb: str | None = None
    compute: Compute = Compute()
