"""Trains the demo's BERT: transformers' `BertModel` with a WordPiece tokenizer of its own."""

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.demo.learning import Schedule, matching_loss, minimise
from pipeline.demo.pretext import entity_text, mention_text, things
from pipeline.demo.vocabulary import bert_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

OBJECTIVE = (
    "masked words, and matching a mention's text to its entity's (InfoNCE on [CLS] and on the mean of the tokens)"
)
LENGTH = 64  # tokens
WIDTH = 96
MASKED = 0.15
BATCH = 96  # pairs of texts
SCALE = 12.0  # of the cosines in the matching loss


def train(folder: Path, pieces: list[str], schedule: Schedule, seed: int) -> dict[str, Any]:
    """Write `folder/bert` (`save_pretrained` of model and tokenizer); returns the training's part of the report."""
    import torch
    from torch.nn import functional
    from transformers import BertConfig, BertForMaskedLM, BertModel

    torch.manual_seed(seed)
    rng = random.Random(f"bert {seed}")
    tokenizer = bert_tokenizer(pieces, LENGTH)
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=LENGTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
    )
    learner = BertForMaskedLM(config)
    learner.bert = BertModel(config)  # with the pooler, which the masked-word model leaves out

    def loss_at(step: int) -> "Tensor":
        shown = things(BATCH, rng)
        texts = [mention_text(thing, rng) for thing in shown] + [entity_text(thing, rng) for thing in shown]
        batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt", return_token_type_ids=False)
        hidden = torch.rand(batch.input_ids.shape) < MASKED
        hidden &= batch.input_ids > tokenizer.mask_token_id  # ids of words come after the special tokens'
        states = learner.bert(batch.input_ids.masked_fill(hidden, tokenizer.mask_token_id), batch.attention_mask)
        words = functional.cross_entropy(learner.cls(states.last_hidden_state[hidden]), batch.input_ids[hidden])
        return words + _matching(states, batch.attention_mask)

    loss = minimise(learner, loss_at, schedule)
    learner.bert.save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    return {"objective": OBJECTIVE, "steps": schedule.steps, "loss": round(loss, 4)}


def _matching(states: Any, mask: "Tensor") -> "Tensor":
    """Matching loss of the first half of a batch against the second, on the pooler's output and on the tokens' mean."""
    from torch.nn import functional

    weights = mask[..., None].float()
    mean = (states.last_hidden_state * weights).sum(1) / weights.sum(1)
    losses = []
    for vectors in (states.pooler_output, states.last_hidden_state[:, 0], mean):
        left, right = functional.normalize(vectors, dim=-1).chunk(2)
        losses.append(matching_loss(left, right, SCALE))
    return sum(losses[1:], losses[0]) / len(losses)
