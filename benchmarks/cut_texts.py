"""How many texts of a dataset are cut to a number of CLIP tokens, and how many tokens that loses.

python benchmarks/cut_texts.py --data-dir PATH [--format mimic] [--tokens 40,77] [--work-dir FOLDER]

The texts are those of the pipeline's own views, counted by CLIP's tokenizer, which comes with open_clip; no model is
loaded and nothing is extracted.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foundation.tables import as_text, text_table
from mel_cache import DatasetJob, prepare
from pipeline.extraction import base, units

VIEWS = {
    "mention": ("mention_sep_sentence", "mention_colon_sentence"),
    "entity": ("name_sep_attributes", "name_colon_attributes", "description"),
}


class Counted(base.TextExtractor):
    """CLIP's tokenizer with a limit, and no model."""

    VERSION = 1

    def __init__(self, limit: int) -> None:
        import open_clip

        super().__init__(base.Options(model="CLIP's tokenizer"), None)
        self._limit, self.encode = limit, open_clip.get_tokenizer("ViT-B-32").encode

    @property
    def limit(self) -> int:
        return self._limit

    def count(self, strings: Sequence[str]) -> list[int]:
        return [len(self.encode(string)) + 2 for string in strings]

    def possible(self) -> dict[str, Any]:
        raise NotImplementedError

    def load(self, device: str) -> None:
        raise NotImplementedError

    def __call__(self, batch: Any) -> base.Outputs:
        raise NotImplementedError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--format", default=None)
    parser.add_argument("--tokens", default="40,77", help="limits, comma-separated")
    parser.add_argument("--work-dir", type=Path, default=None, help="default: a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = options.work_dir or Path(folder)
        job = DatasetJob(
            name="counted", data_dir=options.data_dir, format=options.format, work_dir=work, max_bad_images=1
        )
        tables = units.read_tables(prepare(job).folder)
    rows = []
    for limit in map(int, options.tokens.split(",")):
        extractor = Counted(limit)
        for side, views in VIEWS.items():
            for view in views:
                cut = units.text_column(side, view, tables[side], extractor).texts
                if cut is None or not cut.texts:
                    continue
                shares = [f"{cut.cut / cut.texts:.1%}", f"{cut.lost / cut.tokens:.1%}"]
                rows.append([str(limit), f"{side}.{view}", f"{cut.texts:,}", f"{cut.cut:,}", shares[0], shares[1]])
    print(as_text(text_table(["limit", "view", "texts", "cut", "share cut", "tokens lost"], rows, words=["view"])))


if __name__ == "__main__":
    main()
