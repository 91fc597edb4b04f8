"""An index of a KB's names by their trigrams (tantivy), mapped from disk: the names that share most with a phrase."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from foundation.extras import explained
from foundation.progress import Bar
from pipeline.candidates.kept import kept
from pipeline.candidates.known_names import KnownNames

VERSION = 1
"""Raised when the same names are indexed otherwise, or when names are folded otherwise."""
GRAM = 3
MOST_GRAMS = 128  # of a phrase that are looked up
WRITER_BYTES = 128 << 20  # of names that tantivy holds while it indexes
BATCH = 50_000  # entities whose names are folded at a time
NAMES, SPELLINGS, GRAMS = "names.arrow", "spellings.arrow", "grams"


@dataclass(frozen=True)
class NameIndex:
    """The distinct names of N entities as they are compared, and which of them are like a phrase.

    names: table of D distinct names, with `start` and `end`, where their owners' places are in `place`. spellings:
    table of the S names of entities, those of an entity side by side: `name` (row of `names`), `written` (None where it
    is the same), `owner` (row of the entity), and `place`, the rows of this table ordered by `name`. folder: of
    tantivy's files.
    """

    names: pa.Table
    spellings: pa.Table
    folder: Path
    _columns: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(
        cls, names: Sequence[str], aliases: Sequence[Sequence[str] | None] | None, beside: Path | None
    ) -> "NameIndex":
        """The index of these names (N,) and aliases (N,), kept in the folder `beside` and built first where it is not
        there. None: in a temporary folder.

        Raises `UserError` where tantivy is not installed.
        """
        with explained():
            import tantivy  # noqa: F401  # lacks here, not within the work

        digest = content_digest(names, aliases)
        made_of = {"names": digest, "version": VERSION, "tantivy": version("tantivy")}
        title = hashlib.sha256(repr(sorted(made_of.items())).encode()).hexdigest()[:12]
        place = None if beside is None else beside / f"name-index-{title}"
        folder, _ = kept(place, made_of, lambda out: build(names, aliases, out))
        return cls(_mapped(folder / NAMES), _mapped(folder / SPELLINGS), folder / GRAMS)

    def near(self, phrase: str, most: int) -> np.ndarray:
        """(n,) int64 rows of at most `most` distinct names that share most trigrams with a folded phrase, rare ones
        counting more (BM25).
        """
        import tantivy

        searcher, schema = self._opened
        text = f" {phrase} "
        grams = list(dict.fromkeys(text[at : at + GRAM] for at in range(len(text) - GRAM + 1)))[:MOST_GRAMS]
        if not phrase or not grams:
            return np.empty(0, np.int64)
        terms = [(tantivy.Occur.Should, tantivy.Query.term_query(schema, "grams", gram, "freq")) for gram in grams]
        found = searcher.search(tantivy.Query.boolean_query(terms), most, count=False)
        return np.array(searcher.fast_field_values("row", [address for _, address in found.hits]), np.int64)

    def owners(self, names: np.ndarray) -> np.ndarray:
        """(e,) int32 ascending rows of the entities that have one of these distinct names (n,)."""
        start, end = self._column("start"), self._column("end")
        rows, _ = _spans(start[names], end[names])
        return np.unique(self._column("owner")[self._column("place")[rows]])

    def known(self, entities: np.ndarray) -> tuple[KnownNames, np.ndarray]:
        """All names of some entities (e,), and (s,) which of the distinct ones among them each is, from 0."""
        owner = self._column("owner")
        begin, end = np.searchsorted(owner, entities), np.searchsorted(owner, entities, side="right")
        rows, start = _spans(begin, end)
        distinct, code = np.unique(self._column("name")[rows], return_inverse=True)
        texts = self.names["name"].take(pa.array(distinct)).to_pylist()
        clean = [texts[place] for place in code.tolist()]
        other = self.spellings["written"].take(pa.array(rows)).to_pylist()
        written = [clean[place] if text is None else text for place, text in enumerate(other)]
        accented = np.array([text is not None for text in other], bool)
        return KnownNames(clean, written, accented, np.repeat(np.arange(len(entities)), end - begin), start), code

    def _column(self, name: str) -> np.ndarray:
        """A column of whole numbers, mapped."""
        if name not in self._columns:
            table = self.names if name in ("start", "end") else self.spellings
            (chunk,) = table[name].chunks or [pa.array([], pa.int32())]
            self._columns[name] = chunk.to_numpy()
        return self._columns[name]

    @cached_property
    def _opened(self) -> tuple[Any, Any]:
        """tantivy's searcher, and the schema."""
        import tantivy

        index = tantivy.Index.open(str(self.folder))
        return index.searcher(), index.schema


def content_digest(names: Sequence[str], aliases: Sequence[Sequence[str] | None] | None) -> str:
    """SHA-256 (hex) of names and aliases, in their order."""
    hashed = hashlib.sha256()
    for begin in range(0, len(names), BATCH):
        batch = slice(begin, begin + BATCH)
        further = repeat(None) if aliases is None else aliases[batch]
        texts = ([name, *(own or ())] for name, own in zip(names[batch], further, strict=aliases is not None))
        hashed.update("".join(f"{len(own)} {''.join(f'{len(text)} {text}' for text in own)}" for own in texts).encode())
    return hashed.hexdigest()


def build(names: Sequence[str], aliases: Sequence[Sequence[str] | None] | None, out: Path) -> dict[str, Any]:
    """Write the index of names (N,) and aliases (N,) into a folder; gives the number of names and distinct names."""
    spellings = pa.concat_tables([*_spellings(names, aliases)])
    coded = spellings["clean"].combine_chunks().dictionary_encode()
    name = coded.indices.to_numpy()
    place = np.argsort(name, kind="stable").astype(np.int32)
    start = np.searchsorted(name, np.arange(len(coded.dictionary)), sorter=place).astype(np.int32)
    end = np.append(start[1:], np.int32(len(place)))[: len(start)]
    _write(out / NAMES, {"name": coded.dictionary, "start": start, "end": end})
    columns = {"name": name, "written": spellings["written"], "owner": spellings["owner"], "place": place}
    _write(out / SPELLINGS, columns)
    _index(coded.dictionary, out / GRAMS)
    return {"spellings": len(name), "distinct": len(start), "entities": len(names)}


def _spellings(names: Sequence[str], aliases: Sequence[Sequence[str] | None] | None) -> Iterator[pa.Table]:
    """The names of entities, folded, in batches."""
    schema = pa.schema([("clean", pa.large_string()), ("written", pa.large_string()), ("owner", pa.int32())])
    yield schema.empty_table()
    for begin in range(0, len(names), BATCH):
        batch = slice(begin, begin + BATCH)
        known = KnownNames.of(names[batch], None if aliases is None else aliases[batch])
        written = [text if other else None for text, other in zip(known.written, known.accented.tolist(), strict=True)]
        owner = (known.owner + begin).astype(np.int32)
        yield pa.table({"clean": known.clean, "written": written, "owner": owner}, schema)


def _index(names: pa.Array, folder: Path) -> None:
    """tantivy's files: of every distinct name its trigrams, with blanks around it, and its row."""
    import tantivy

    folder.mkdir()
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("grams", tokenizer_name="grams", index_option="freq")
    builder.add_integer_field("row", fast=True)
    index = tantivy.Index(builder.build(), str(folder))
    grams = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.ngram(GRAM, GRAM)).build()
    index.register_tokenizer("grams", grams)
    writer = index.writer(WRITER_BYTES, 1)
    with Bar(len(names), "index of names", "name") as bar:
        for begin in range(0, len(names), BATCH):
            batch = names[begin : begin + BATCH].to_pylist()
            for row, name in enumerate(batch, begin):
                if name:
                    writer.add_document(tantivy.Document(grams=f" {name} ", row=row))
            bar.update(len(batch))
    writer.commit()
    writer.wait_merging_threads()


def _spans(begin: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers from each `begin` (n,) to its `end` (n,), one span behind the other, and (n,) where each starts."""
    counts = end - begin
    start = np.cumsum(counts) - counts
    return np.repeat(begin - start, counts) + np.arange(counts.sum()), start


def _write(path: Path, columns: dict[str, Any]) -> None:
    """A table as one batch of an Arrow file, which can be mapped."""
    table = pa.table(columns).combine_chunks()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _mapped(path: Path) -> pa.Table:
    """The table in an Arrow file, mapped."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
