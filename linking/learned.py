"""Features of new mentions and entities as a run learned to make them."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from cache.identity import identity
from cache.inputs import Want
from cache.keys import KeyColumn
from cache.store import Store
from experiments import prompts, tuned
from experiments.learned import Learned, distinct
from foundation.errors import UserError
from heads.contracts import HeadInput
from linking.finished import Finished
from linking.kb import Kb
from linking.reads import job_of, on_device
from linking.stores import Stores
from pipeline.extraction import guard


class NewLearned:
    """Extracts texts and pictures of new mentions and entities as another run learned to, with prompts or with trained
    blocks, into that run's cache."""

    def __init__(self, run: Finished, learner: Finished, stores: Stores, device: torch.device) -> None:
        self.stores = stores
        self.job = on_device(job_of(learner, run), device)
        self.remade = {
            (one.read.side, one.role, one.read.view): one
            for one in (prompts.remade if self.job.live else tuned.remade)(self.job)[0]
        }
        self.spreads: dict[str, dict[str, guard.Spread]] = {}

    def extract(self, one: HeadInput, keys: Mapping[Want, KeyColumn]) -> tuple[Store, KeyColumn]:
        """The store and key column of a learned input, its rows for new mentions added. keys: of what is extracted of
        them."""
        made = self.remade["mention", one.role, one.view].read
        own = keys[Want(side="mention", feature=made.feature, view=one.view)]
        store = self.stores.open(one.store)
        learned = self._filled(one, store, own)
        if lines := learned.problems(one, store, own, guard.FEW):
            raise UserError(
                *(f"{line}; the run's own rows differ; run `luigi --module tasks Doctor`" for line in lines)
            )
        return store, own

    def entity(self, one: HeadInput) -> HeadInput:
        """The states that a learned input of the entities is made of."""
        return self.remade["entity", one.role, one.view].read

    def entities(self, one: HeadInput, kb: Kb) -> tuple[Store, KeyColumn]:
        """The store and key column of a learned input of a KB's entities, whose rows are written to the run's cache."""
        made, store = self.entity(one), self.stores.open(one.store)
        keys = kb.keys(made.column, made.keys)
        if not kb.as_trained:
            self._filled(one, Store.open(one.store), keys)
            store.refresh()
        return store, keys

    def _filled(self, one: HeadInput, store: Store, keys: KeyColumn) -> Learned:
        """What makes a learned input, its rows behind a key column in `store` by now."""
        made = self.remade[one.side, one.role, one.view]
        learned = replace(made.learned, states=self.stores[made.read.feature])
        now = identity(learned.spec)
        if now != store.identity:
            raise UserError(
                f"{one.feature}: the run reads {store.identity[:16]}, what it learned now gives {now[:16]}; "
                "train it again (TrainHead)"
            )
        learned.fill(store, distinct(keys.keys[keys.present]))
        return learned

    def unlike(self, one: HeadInput, store: Store, keys: KeyColumn) -> np.ndarray:
        """(m,) bool: which mentions have a learned row that is unlike those of the run."""
        if one.feature not in self.spreads:
            self.spreads[one.feature] = guard.spreads(KeyColumn.load(one.keys), store, store.outputs)
        return guard.unlike(keys, store, self.spreads[one.feature])
