"""A cross-encoder over cached states: mention and candidate are read together from block k of a text encoder on."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads import several
from heads.base import NO_PAIRS, Batch, Head, PerPicture, Ragged, Rows
from heads.config.joint import JointConfig
from heads.layers import phrase_tokens
from heads.methods._pair_states import PairSide, Resampler, Sequences, never_empty, pictured, sequences

START = 0.02
"""Standard deviation of the vectors that are added to states, before training: that of BERT's embeddings."""
PLACE = 1
"""Where the pair feature `retrieval` has 1 / the candidate's place in its list."""


class Joint(Head):
    """`s(m, e) = w · B_{K-1}(… B_k([H_m + a_m ; H_e + a_e]))_0 - p log place(e)`.

    H: states that entered block k of mention text and entity text, each encoded alone; a: a learned vector per side; w:
    a Linear on the first state; p: a learned multiple, 1 at the start. Reads `text.states` (ragged), for the mark
    `text.offsets` and `text.span` of mentions, and `image.tokens` (P, d_v), which a resampler makes at most
    `picture_tokens` states of; what is absent has none. An absent text is one state of zeros.
    """

    config: JointConfig
    uses_candidates = True
    scores_blocks = False
    uses_towers = True
    reads_several = True

    def __init__(
        self, config: JointConfig, shapes: Mapping[str, tuple[int, ...]], towers: Mapping[str, nn.Module]
    ) -> None:
        """towers: `text`, the blocks from k on, see `heads.towers`."""
        super().__init__(config, shapes)
        self.towers = nn.ModuleDict(dict(towers))
        width = shapes["text.states"][-1]
        self.side = nn.Parameter(START * torch.randn(2, width))
        if config.mark:
            self.mark = nn.Parameter(START * torch.randn(width))
        if "image.tokens" in shapes:
            patches = shapes["image.tokens"][0], shapes["image.tokens"][1]
            self.resampler = Resampler(patches, width, config.picture_tokens, config.picture_heads)
            self.modality = nn.Parameter(START * torch.randn(width))
        if config.prior == "retrieval":
            self.prior = nn.Parameter(torch.ones(()))
        self.score = nn.Linear(width, 1, bias=False)  # a bias would move all of a list alike

    def training_places(self, lists: np.ndarray, gold: np.ndarray) -> np.ndarray:
        """See `Head.training_places`: the gold, where it is listed, and the first others, in the list's order."""
        own = (lists == gold[:, None]) & (lists >= 0)
        key = np.where(own, -1, np.where(lists < 0, lists.shape[1], np.arange(lists.shape[1])))
        return np.sort(np.argsort(key, axis=1, kind="stable")[:, : self.config.candidates], axis=1)

    def reached(self, lists: np.ndarray, pairs: Mapping[str, np.ndarray]) -> np.ndarray:
        """See `Head.reached`: the first `depth`, or all where no retriever ordered the list."""
        return (lists >= 0) & ~(pairs["retrieval"][..., PLACE] < 1 / (self.config.depth + 0.5))

    def encode_mentions(self, inputs: Rows) -> Rows:
        """What can be read of the mention before its candidates: states, the mark's tokens, the resampled picture."""
        rows = self._encode(inputs)
        if self.config.mark:
            offsets = inputs.ragged("text.offsets")
            inside = Ragged(phrase_tokens(offsets, inputs.fixed("text.span")), offsets.lengths)
            rows["mark"] = never_empty(inside)
        return rows

    def encode_entities(self, inputs: Rows) -> Rows:
        """The same of the entity; once with each of its pictures, where it has several."""
        if isinstance(inputs, PerPicture):
            return PerPicture(self._encode(inputs.flat), inputs.counts)
        return self._encode(inputs)

    def score_lists(
        self, mentions: Rows, entities: Rows, columns: Tensor, pairs: Mapping[str, Tensor] = NO_PAIRS
    ) -> dict[str, Tensor]:
        """See `Head.score_lists`."""
        if not isinstance(entities, PerPicture):
            scores = self._scores(mentions, entities, columns)
        elif entities.single:
            scores = self._scores(mentions, entities.flat, columns)
        else:
            scores = self._of_pictures(mentions, entities, columns)
        return {"score": scores + self._prior(pairs) if self.config.prior == "retrieval" else scores}

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of the gold over the step's candidates; a mention whose gold is not listed is left out."""
        assert batch.candidates is not None
        own = batch.candidates == batch.gold[:, None]
        listed = own.any(1)
        columns = batch.candidates.masked_fill(~listed[:, None], -1)
        sides = self.encode_mentions(batch.mentions), self.encode_entities(batch.entities)
        scores = self.score_lists(*sides, columns, batch.pairs)["score"].masked_fill(columns < 0, -torch.inf)
        gold = own[listed].int().argmax(1)
        value = F.cross_entropy(scores[listed], gold, reduction="sum") / listed.sum().clamp(min=1)
        return value, {"gold listed": listed.float().mean()}

    def explain(
        self, mentions: Rows, entities: Rows, columns: Tensor, pairs: Mapping[str, Tensor] = NO_PAIRS
    ) -> dict[str, Tensor]:
        """`tokens.entity` (B, r, L): of each token of the candidate's text its share of the score, gradient · state,
        over the sum of their absolute values; NaN past its end."""
        if isinstance(entities, PerPicture):
            entities = entities.flat.take(entities.places.starts)
        there, longest = columns >= 0, entities.ragged("text").longest
        shares = torch.full((*columns.shape, longest), torch.nan, device=columns.device)
        pairs_of = there.cpu().nonzero().tolist()
        with torch.enable_grad():
            for part in self._laid(mentions, entities, columns):
                states = part.states.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(self._read(states, part.lengths).sum(), states)
                given = (gradient * states).sum(-1).detach()  # (p, L)
                for at, (start, end), row in zip(part.pairs.tolist(), part.of_entity.tolist(), given, strict=True):
                    b, j = pairs_of[at]
                    tokens = row[start:end]
                    shares[b, j, : len(tokens)] = tokens / tokens.abs().sum().clamp(min=1e-12)
        return {"tokens.entity": shares}

    def _encode(self, inputs: Rows) -> Rows:
        rows = Rows({"text": never_empty(inputs.ragged("text.states"))})
        if "image.tokens" in self.shapes:
            there = inputs.fixed("image.ok")
            pictures = self.resampler(inputs.fixed("image.tokens")[there].float()).float()
            none = pictures.new_zeros(len(there), *pictures.shape[1:])
            rows |= {"image.ok": there, "image": none.index_copy(0, there.nonzero().squeeze(1), pictures)}
        return rows

    def _scores(self, mentions: Rows, entities: Rows, columns: Tensor) -> Tensor:
        """(B, r) fp32 without the prior, 0 where a list ends."""
        places = (columns >= 0).flatten().nonzero().squeeze(1)
        parts = list(self._laid(mentions, entities, columns))
        found = [self._read(part.states, part.lengths) for part in parts]
        scores = torch.zeros(columns.numel(), device=columns.device)
        if parts:
            order = torch.cat([part.pairs for part in parts]).to(columns.device)
            scores = scores.index_copy(0, places[order], torch.cat(found))
        return scores.view(columns.shape)

    def _laid(self, mentions: Rows, entities: Rows, columns: Tensor) -> Iterator[Sequences]:
        """The listed pairs in groups, numbered in the order of `columns`."""
        mention, place = (columns >= 0).cpu().nonzero().unbind(1)
        entity = columns.cpu()[mention, place]
        images = "image.tokens" in self.shapes
        image = [self.side[side] + self.modality if images else None for side in (0, 1)]
        mark = self.mark if self.config.mark else None
        of_mention = PairSide(mentions, mention, pictured(mentions, mention), self.side[0], image[0], mark)
        of_entity = PairSide(entities, entity, pictured(entities, entity), self.side[1], image[1])
        yield from sequences(of_mention, of_entity, columns.device)

    def _read(self, states: Tensor, lengths: Tensor) -> Tensor:
        """(p,) fp32: the Linear on the first state behind the last block."""
        first = self.towers["text"](states, lengths.tolist())["tokens"][:, 0]
        return self.score(first).squeeze(1).float()

    def _prior(self, pairs: Mapping[str, Tensor]) -> Tensor:
        """`-p log place` (B, r), 0 in lists that no retriever ordered."""
        return self.prior * pairs["retrieval"][..., PLACE].float().log().nan_to_num(0.0)

    def _of_pictures(self, mentions: Rows, entities: PerPicture, columns: Tensor) -> Tensor:
        """The pairs' scores with each picture of the entity, and of them the best or the mean."""
        there = columns >= 0
        longer, starts, counts = several.rows_of_lists(entities, columns.clamp(min=0))
        wanted = torch.zeros_like(longer, dtype=torch.int64)
        for number in range(int(counts.max()) if counts.numel() else 0):
            at = (starts + number).clamp(max=max(0, longer.shape[1] - 1))
            wanted = wanted.scatter_add(1, at, (there & (counts > number)).long())
        scores = self._scores(mentions, entities.flat, longer.masked_fill(wanted == 0, -1))
        return several.of_pairs({"score": scores}, starts, counts, self.config.entity_pictures)["score"]
