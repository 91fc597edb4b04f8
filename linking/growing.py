"""Entities that come to the KB of a linker: their features, extracted as those of the run were."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cache.inputs import Want
from cache.keys import KeyColumn
from cache.store import Store
from pipeline.extraction.contracts import Runtime
from pipeline.extraction.new_records import Known, RecordExtractor


class EntityExtractor:
    """Extracts what runs need of entities into the run's cache, at once and for good: every mention needs it.

    beside: the one of mentions, whose models are used. Models are found when the first entities come.
    """

    def __init__(self, wanted: Sequence[Want], known: Known, runtime: Runtime, beside: RecordExtractor | None) -> None:
        self._make = wanted, known, runtime, beside
        self._extractor: RecordExtractor | None = None
        self.extracted = 0

    def columns(self, table: Mapping[str, list], root: Path) -> dict[str, KeyColumn]:
        """Key columns by name. table: columns as in entities.parquet. Raises as `RecordExtractor.columns`; `extracted`
        is the number of rows that the cache lacked."""
        wanted, known, runtime, beside = self._make
        self.extracted = 0
        if not wanted or not table["id"]:
            return {}
        stores = {name: Store.open(store.folder) for name, store in known.stores.items()}
        if self._extractor is None:
            self._extractor = RecordExtractor(wanted, replace(known, stores=stores), runtime, beside)
        self._extractor.known = replace(known, stores=stores)
        before = sum(store.rows for store in stores.values())
        made = self._extractor.columns(table, root)
        for store in stores.values():
            store.refresh()
        self.extracted = sum(store.rows for store in stores.values()) - before
        return {want.column: made[want] for want in wanted}
