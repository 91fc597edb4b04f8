"""Fetches what a store of kept answers lacks, in batches."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from foundation.errors import PassingError
from foundation.progress import Bar
from pipeline.servers.mediawiki import batches
from pipeline.servers.patience import OutOfTries, TooLarge
from pipeline.servers.store import AnswerStore

STOPPED_AFTER = 3  # requests in a row that failed for good: the server is not there


class Fetcher:
    """Fetches what the store lacks; counts requests and what the store has. dry: requests are counted, none is made.
    failure: what went wrong with the last request that failed.
    """

    def __init__(self, dry: bool) -> None:
        self.dry, self.requests, self.reused, self.failure = dry, 0, 0, ""

    def fill(
        self,
        store: AnswerStore,
        keys: Sequence[str],
        size: int,
        fetch: Callable[[list[str]], Mapping[str, Any]],
        unit: str,
    ) -> None:
        """Fetch `keys` in batches of at most `size`; one that is too large is halved, one that fails is left for the
        next run.

        Raises `PassingError` after `STOPPED_AFTER` failures in a row.
        """
        missing = [key for key in keys if key not in store]
        self.reused += len(keys) - len(missing)
        waiting = batches(missing, size)
        if self.dry:
            self.requests += len(waiting)
            return
        failures = 0
        with Bar(len(missing), unit, "page") as bar:
            waiting.reverse()
            while waiting:
                group = waiting.pop()
                try:
                    values = fetch(group)
                except TooLarge:
                    if len(group) > 1:
                        middle = len(group) // 2
                        waiting += [group[middle:], group[:middle]]
                        continue
                    values = {group[0]: {"none": "page too large", "title": None}}
                except OutOfTries as error:
                    failures, self.failure = failures + 1, str(error)
                    if failures == STOPPED_AFTER:
                        left = f"{len(missing) - bar.done:,} of {len(keys):,} {unit} are still to fetch"
                        raise PassingError(f"{error}; {left}; the same command goes on there") from None
                    continue
                failures = 0
                store.put_all({key: values[key] for key in group})
                bar.update(len(group))
