"""Seconds until entities that come to a KB can be linked: extraction of their features, and all else.

python benchmarks/growing_kb.py --make 100000 --out FOLDER     # entities.jsonl of a made KB
python benchmarks/growing_kb.py --run RUN --kb LABEL --entities 1000

The second links a mention, so that all that a linker keeps is there; takes up made entities and as many hundredths as
go and get another name; and links a mention again. Prints a row of a Markdown table: seconds by the clock and of CPU.
`rest` is all but extraction: checks, reading, names, words, encodings of what is new.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _measure import machine, now

from linking import Linker

SYLLABLES = ("ka", "lo", "mi", "ren", "tas", "vor", "el", "ina", "dun", "por", "shi", "ga", "ber", "lan", "to", "ques")
WORDS = ("river", "town", "singer", "painter", "war", "battle", "album", "film", "village", "king", "writer", "school")


def entities(count: int, seed: int, prefix: str = "K") -> Iterator[dict[str, Any]]:
    """Made entities: one of ten has a name that another one has, each a text of 20 to 40 words."""
    rng = np.random.default_rng(seed)
    names: list[str] = []
    for number in range(count):
        if names and rng.random() < 0.1:
            name = names[int(rng.integers(len(names)))]
        else:
            parts = ["".join(rng.choice(SYLLABLES, 2 + int(rng.integers(3)))).title() for _ in range(2)]
            name = " ".join(parts)
        names.append(name)
        year = str(rng.integers(1000, 2020))
        words = [*rng.choice(WORDS, 15 + int(rng.integers(20))), *rng.choice(names[-50:], 3), year]
        yield {"id": f"{prefix}{number}", "name": name, "attributes": " ".join(map(str, words))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--kb")
    parser.add_argument("--entities", type=int, default=1000)
    options = parser.parse_args()
    if options.make:
        options.out.mkdir(parents=True, exist_ok=True)
        with open(options.out / "entities.jsonl", "w") as handle:
            handle.writelines(json.dumps(entity) + "\n" for entity in entities(options.make, 0))
        return
    linker = Linker.load(options.run.absolute())
    if options.kb:
        linker.against(options.kb)
    linker.link("Nobody had seen Kalo Miren so early.", "Kalo Miren")
    size, few = len(linker.kb), max(1, options.entities // 100)
    ids = linker.kb.table["id"][: 2 * few]
    more = list(entities(options.entities, 1, "N"))
    changed = [{**entity, "id": name} for entity, name in zip(more, ids[:few], strict=False)]
    extracting = np.zeros(2)
    extract = linker.entity_extractor.columns

    def timed(*arguments: Any) -> Any:
        began = now()
        made = extract(*arguments)
        extracting[:] += now() - began
        return made

    vars(linker.entity_extractor)["columns"] = timed
    began = now()
    changes = linker.add([*more, *changed], remove=ids[few:])
    rest = now() - began - extracting
    began = now()
    linker.link(f"{more[0]['name']} was seen.", more[0]["name"])
    first = now() - began
    assert more[0]["id"] in linker.kb.rows
    print(f"{machine()}; {time.strftime('%F')}; {changes.text}\n")
    print("| run | entities of the KB | extraction, s (CPU s) | rest, s (CPU s) | first mention after it, s (CPU s) |")
    print("|---|---|---|---|---|")
    cells = [f"{wall:.1f} ({cpu:.1f})" for wall, cpu in (extracting, rest, first)]
    print(f"| `{linker.run.method}` | {size:,} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
