"""The word pieces of the demo's texts, learned with the `tokenizers` library and wrapped for BERT and for CLIP."""

import random
from collections.abc import Sequence
from typing import Any

from pipeline.demo.pretext import caption, entity_text, mention_text, things

SIZE = 1600
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
START, END = (
    "<|startoftext|>",
    "<|endoftext|>",
)  # END has the highest id, where open_clip's `argmax` pooling looks for it


def learn_pieces(seed: int) -> list[str]:
    """The `SIZE` word pieces of freshly generated texts, in the order of their ids; the same for the same seed."""
    from tokenizers import models, trainers

    rng = random.Random(f"vocabulary {seed}")
    texts = [write(thing, rng) for thing in things(6000, rng) for write in (caption, entity_text, mention_text)]
    tokenizer = _bare(models.WordPiece(unk_token="[UNK]"))
    letters = sorted(
        {letter for text in texts for letter in tokenizer.normalizer.normalize_str(text) if not letter.isspace()}
    )
    # The trainer numbers inner letters in the order of a randomly seeded hash table, and the numbers break ties: naming
    # the letters beforehand fixes both.
    named = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters)]
    tokenizer.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=SIZE, special_tokens=named, show_progress=False)
    )
    pieces: dict[str, int] = tokenizer.get_vocab()
    return sorted(pieces, key=pieces.__getitem__)


def bert_tokenizer(pieces: Sequence[str], length: int) -> Any:
    """A `BertTokenizerFast` for texts of at most `length` tokens."""
    from transformers import BertTokenizerFast  # type: ignore[attr-defined]  # a name that transformers adds lazily

    return BertTokenizerFast(
        vocab={piece: number for number, piece in enumerate(pieces)}, do_lower_case=True, model_max_length=length
    )


def clip_tokenizer(pieces: Sequence[str], length: int) -> Any:
    """A `PreTrainedTokenizerFast` that puts texts between `START` and `END`; "[SEP]" is plain text to it."""
    from tokenizers import models, processors
    from transformers import PreTrainedTokenizerFast

    kept = [SPECIAL[0], SPECIAL[1], *(piece for piece in pieces if piece not in SPECIAL), START, END]
    numbers = {piece: number for number, piece in enumerate(kept)}
    tokenizer = _bare(models.WordPiece(numbers, unk_token="[UNK]"))
    ends = [(START, numbers[START]), (END, numbers[END])]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        unk_token="[UNK]",
        pad_token="[PAD]",
        model_max_length=length,
    )


def _bare(model: Any) -> Any:
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers

    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer
