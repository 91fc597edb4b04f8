"""A made KB of any size with mentions, a small text encoder and a profile, for `scale.py`."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from candidates import invented_words
from name_index import shared_names, typed

WORDS = 8192  # that descriptions are written with
PER_CHUNK = 10_000


@dataclass(frozen=True)
class World:
    """A made KB and what was measured over it.

    `entities` have names of which a share is that of several entities, and texts of 20 to 40 words, word r about 1/r as
    frequent as the first, with a year. A mention's phrase is the name of its gold, in half of the cases as `typed`
    writes it; its sentence holds five words of the gold's text among others.
    """

    folder: Path
    entities: int
    label: str = "made"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def profile(self) -> Path:
        return self.folder / "profile.yaml"

    @property
    def new(self) -> Path:
        return self.folder / "new.jsonl"

    @property
    def linked(self) -> Path:
        return self.folder / "linked"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    def kept(self) -> dict[str, Any]:
        """Step -> what it took."""
        path = self.folder / "measured.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def keep(self, step: str, took: dict[str, Any]) -> None:
        (self.folder / "measured.json").write_text(json.dumps({**self.kept(), step: took}, indent=1))

    def run_of(self, method: str) -> str:
        """Folder of the latest run of a method."""
        runs = sorted(self.work.glob(f"runs/{self.label}/{method.lower()}/*"), key=lambda run: run.stat().st_mtime)
        return str(runs[-1])

    def make(self, mentions: int, new: int, shared: float, seed: int, model: str | None) -> None:
        """Write what is not there yet."""
        self.work.mkdir(parents=True, exist_ok=True)
        self.data.mkdir(exist_ok=True)
        if not self.profile.exists():
            encoder(self.folder / "encoder", seed)
            self.profile.write_text(
                f"features:\n  text_tokens:\n    model: {model or self.folder / 'encoder'}\n    max_tokens: 96\n"
                "    pooling: mean\n    outputs: [pooled]\n"
                "    views: {mention: [mention_sep_sentence, sentence], entity: [name_sep_attributes]}\n"
            )
        if self.new.exists():
            return
        rng = random.Random(seed)
        names, draw = shared_names(rng, self.entities, shared), np.random.default_rng(seed)
        golds = draw.integers(self.entities, size=mentions + new)
        wanted: dict[int, list[str]] = {gold: [] for gold in golds.tolist()}
        with open(self.data / "entities.jsonl", "w") as handle:
            for row, text in enumerate(texts(draw, self.entities)):
                if row in wanted:
                    wanted[row] = text.split()
                handle.write(json.dumps({"id": f"Q{row}", "name": names[row], "attributes": text}) + "\n")
        drawn = mention_lines(rng, golds.tolist(), names, wanted)
        with open(self.data / "mentions.jsonl", "w") as handle:
            for number in range(mentions):
                split = "train" if number % 10 < 8 else "dev" if number % 10 == 8 else "test"
                handle.write(json.dumps({**next(drawn), "id": f"m{number}", "split": split}) + "\n")
        with open(self.new.with_suffix(".part"), "w") as handle:
            for number, line in enumerate(drawn):
                del line["gold"]
                handle.write(json.dumps({**line, "id": f"n{number}"}) + "\n")
        self.new.with_suffix(".part").rename(self.new)


def vocabulary() -> list[str]:
    """The words of all texts."""
    return list(dict.fromkeys(invented_words(random.Random(-1), 2 * WORDS)))[:WORDS]


def texts(draw: np.random.Generator, count: int) -> Iterator[str]:
    """Texts of 20 to 40 words."""
    words = np.array(vocabulary())
    weights = 1 / np.arange(1, len(words) + 1)
    weights /= weights.sum()
    for start in range(0, count, PER_CHUNK):
        lengths = draw.integers(19, 40, size=min(PER_CHUNK, count - start))
        chosen, years = words[draw.choice(len(words), int(lengths.sum()), p=weights)], draw.integers(1200, 2020, 10**5)
        place = 0
        for length in lengths.tolist():
            yield f"{' '.join(chosen[place : place + length])} {years[place % len(years)]}"
            place += length


def mention_lines(
    rng: random.Random, golds: list[int], names: list[str], wanted: dict[int, list[str]]
) -> Iterator[dict[str, Any]]:
    words = vocabulary()
    for gold in golds:
        phrase = typed(rng, names[gold]) if rng.random() < 0.5 else names[gold]
        around = rng.sample(wanted[gold], 5) + rng.choices(words, k=8)
        rng.shuffle(around)
        around.insert(rng.randrange(len(around)), phrase)
        yield {"sentence": " ".join(around), "mention": phrase, "gold": f"Q{gold}"}


def encoder(folder: Path, seed: int, width: int = 32, layers: int = 1) -> None:
    """A BERT with random weights; its vocabulary: the texts' commonest words, and pieces."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast  # type: ignore[attr-defined]

    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    syllables = [one + other for one in "bdfghjklmnprstvw" for other in "aeiou"]
    pieces = [*letters, *syllables]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    listed = [*special, *pieces, *(f"##{piece}" for piece in pieces), *".,-()'", *vocabulary()[:2000]]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(listed)) + "\n")
    tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"), do_lower_case=True)
    tokenizer.save_pretrained(folder)
    sizes: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": max(2, width // 32),
        "intermediate_size": 4 * width if layers > 1 else 2 * width,
    }
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **sizes)).eval().save_pretrained(
        folder
    )
