"""Vectors looked up in an index against all vectors compared: time per mention, and what the index finds.

    python benchmarks/vector_index.py --store FOLDER --mentions FILE --entities FILE

--store: a feature's folder in the cache; --mentions, --entities: its key columns (.npz) in a prepared dataset's folder
columns-…. Without them, --number random vectors around a thousand centres, of --width numbers. Prints a Markdown table.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from _measure import machine, now

from cache.keys import KeyColumn
from cache.store import Store
from pipeline.candidates.base import SourceInputs
from pipeline.candidates.by_run import VectorsInMemory
from pipeline.candidates.nearest import Vectors, nearest_vectors
from pipeline.candidates.vector_index import VectorIndex


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--mentions", type=Path)
    parser.add_argument("--entities", type=Path)
    parser.add_argument("--output", default="pooled")
    parser.add_argument("--number", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--lists", type=int, default=1_000, help="mentions whose lists are compared")
    options = parser.parse_args()

    rng = np.random.default_rng(0)
    mentions: Vectors
    entities: Vectors
    if options.store:
        store = Store.open(options.store)
        mentions, entities = (
            KeyColumn.load(path).table(store, options.output) for path in (options.mentions, options.entities)
        )
    else:
        centres = rng.normal(size=(1_000, options.width))
        mentions, entities = (
            VectorsInMemory(
                (centres[rng.integers(0, 1_000, count)] + rng.normal(size=(count, options.width))).astype(np.float16)
            )
            for count in (options.lists, options.number)
        )
    there = np.flatnonzero(mentions.ok)
    chosen = VectorsInMemory(np.asarray(mentions.gather(there[rng.permutation(len(there))[: options.lists]])))
    ids = [f"Q{number}" for number in range(len(entities))]
    inputs = SourceInputs({}, {"id": ids})
    with TemporaryDirectory() as place:
        began = now()
        index = VectorIndex.of("benchmark", mentions, entities, Path(place))
        building = now() - began
        index.nearest(VectorsInMemory(chosen.values[:1]), entities, inputs, 1)
    print(f"{len(entities):,} entities, {len(chosen):,} mentions; {machine()}; recall when built {index.recall:.2%}")
    print(f"built and measured in {building[0]:.1f} s ({building[1]:.1f} CPU s)\n")
    print("| | ms a mention | CPU ms | exact's first 10 | first 100 |\n|---|---|---|---|---|")
    found = {}
    for label in ("exact", "index"):
        began = now()
        exact = label == "exact"
        lists = nearest_vectors(chosen, entities, ids, 100) if exact else index.nearest(chosen, entities, inputs, 100)
        found[label] = lists.ids
        wall, cpu = 1e3 * (now() - began) / len(chosen)
        pairs = list(zip(found["exact"], found[label], strict=True))
        shares = [np.mean([np.isin(one[:depth], other[:depth]).mean() for one, other in pairs]) for depth in (10, 100)]
        print(f"| {label} | {wall:.2f} | {cpu:.2f} | {shares[0]:.2%} | {shares[1]:.2%} |")


if __name__ == "__main__":
    main()
