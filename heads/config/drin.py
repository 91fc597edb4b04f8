"""Options of DRIN (Xing et al., ACM MM 2023) and the features it reads."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal

from foundation.contracts import contract
from heads.config.base import DROPOUTS, PICTURES, TEXT_ONLY, Count, HeadConfig, NotNegative, Size, both_sides, once
from heads.contracts import HeadWant

Edge = Literal["tt", "ti", "it", "ii"]
EDGES: tuple[Edge, ...] = ("tt", "ti", "it", "ii")
RELATIONS: Mapping[Edge, str] = {"tt": "text_cls", "ti": "clip_ti", "it": "clip_it", "ii": "object_relation"}
"""Kind of edge -> the pair feature that is its initial weight, eq. 6, 7, 8 and 11."""
ENDS: Mapping[str, tuple[str, str]] = {"tt": ("mt", "et"), "ti": ("mt", "ev"), "it": ("mv", "et"), "ii": ("mv", "ev")}
"""Kind of edge -> the vertices that it joins: text or image (`t`, `v`) of mention and candidate (`m`, `e`)."""
NEEDS: Mapping[str, tuple[str, ...]] = {
    "text_cls": ("text_tokens",),
    "clip_ti": ("clip_text", "clip_image"),
    "clip_it": ("clip_text", "clip_image"),
    "object_relation": ("objects", "object_resnet"),
}


def reached(edges: Collection[str], layers: int) -> set[str]:
    """The vertices that the texts are computed from, themselves included: each layer reaches one edge further."""
    vertices = {"mt", "et"}
    for _ in range(layers):
        vertices |= {end for edge in edges if vertices & set(ENDS[edge]) for end in ENDS[edge]}
    return vertices


@contract
class DrinConfig(HeadConfig):
    """Defaults are the paper's (section 4.4), but for what is marked ours. `patience` is ours too."""

    batch_size: Size = 64
    epochs: Count = 30
    text_feature: Annotated[
        str, "token states with offsets; the mention's vertex starts at the mean over the word pieces of its phrase"
    ] = "text_tokens"
    image_feature: Annotated[
        str | None,
        "pooled image vectors; auto: the first of IMAGE that the profile has, if any; null: no image vertices",
    ] = "auto"
    width: Annotated[Size, "of all vertices"] = 768
    layers: Annotated[Size, "of the graph, L"] = 2
    edges: Annotated[
        tuple[Edge, ...],
        "the kinds of edges, text or image of the mention first; one left out, or whose pair feature the profile "
        "lacks, is gone from every layer",
    ] = EDGES
    static_edges: Annotated[bool, 'weights stay at their initial values ("static edge" of Table 3)'] = False
    edge_scale: Annotated[
        Literal["width", "none"],
        "the inner product of eq. 13 is divided by the width (ours: a sum of 768 products saturates the sigmoid) or "
        "not",
    ] = "width"
    neighbours: Annotated[
        Literal["mean", "sum", "list"],
        "at a mention vertex the sum of eq. 12 over its candidates is their mean, over the live ones of each kind "
        "(ours: the score then does not depend on how many there are), the bare sum, or the sum over the length of the "
        "list, live or not",
    ] = "mean"
    margin: Annotated[NotNegative, "of eq. 17"] = 0.25
    negatives: Annotated[
        Literal["batch", "candidates"],
        "S- is over the entities of all lists of the mini-batch, or of the mention's own list",
    ] = "batch"
    hinge: Annotated[
        Literal["mean", "each"], "of the mean over the negatives (eq. 17), or the mean of a hinge for each"
    ] = "mean"
    tt: Annotated[
        Literal["cls", "phrase"],
        "a text-to-text edge starts at the cosine of both [CLS] states (eq. 6), or of the mention phrase's mean and "
        "the entity's [CLS]",
    ] = "cls"
    layer_norm: Annotated[bool, "a LayerNorm inside the activation of eq. 12"] = False
    layer: Annotated[
        Literal["equations", "published"],
        "eq. 12 and 13, or the layer of the published code: a vertex takes part in its own message and has no "
        "residual, the sigmoid of eq. 13 is over product plus edge, two edge maps per layer read the vertices before "
        "their update, and eq. 2 to 5 have biases",
    ] = "equations"
    release: Annotated[
        bool,
        "all departures of the published code that are not errors at once; an option given beside it has the last word",
    ] = False

    IMAGE: ClassVar[tuple[str, ...]] = ("image_pooled", "clip_image", "image_patches")
    space: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "batch_size": {"choices": [32, 64, 128]},
        "width": {"choices": [128, 256, 512, 768]},
        "layers": {"low": 1, "high": 4},
        "margin": {"low": 0.05, "high": 0.5},
        "negatives": {"choices": ["batch", "candidates"]},
        "picture_dropout": {"choices": DROPOUTS},
    }
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "release": {
            "negatives": "candidates",
            "hinge": "each",
            "tt": "phrase",
            "layer_norm": True,
            "layer": "published",
            "neighbours": "list",
        }
    }
    later: ClassVar[tuple[str, ...]] = ("layer",)

    def __post_init__(self) -> None:
        once("edges", self.edges, EDGES, empty=True)

    def ablations(self, available: Collection[str]) -> dict[str, dict[str, Any]]:
        """See `HeadConfig.ablations`. Table 3, a kind of edge or the dynamic ones; table 4, the number of layers."""
        edges = self._used(available)
        spelled = {"t": "text", "i": "image"}
        without = {
            f"without {spelled[edge[0]]}-to-{spelled[edge[1]]} edges": {
                "edges": [other for other in self.edges if other != edge]
            }
            for edge in edges
            if len(edges) > 1
        }
        layers = {f"L = {count}": {"layers": count} for count in range(1, 6) if count != self.layers}
        static = {} if self.static_edges or self.layers == 1 else {"static edges": {"static_edges": True}}
        text = {TEXT_ONLY: {"image_feature": None}} if set(edges) - {"tt"} else {}
        return {**without, **static, **layers, **text}

    def pairs(self, available: Collection[str]) -> list[str]:
        """See `HeadConfig.pairs`: the initial weights of the kinds of edges whose features the profile has, but for
        those `Drin` computes itself."""
        return [RELATIONS[edge] for edge in self._used(available) if edge != "tt" or self.tt == "cls"]

    def wants(self, available: Collection[str]) -> list[HeadWant]:
        """See `HeadConfig.wants`. A side's images only where edges lead from them to a text, which alone is scored."""
        text = self.pick("text_feature", (), available)
        assert text is not None
        tokens = ("tokens", "pooled", "offsets")
        wanted = [
            HeadWant(side="mention", role="text", feature=text, view="sentence", outputs=tokens),
            HeadWant(side="entity", role="text", feature=text, view="name_sep_attributes", outputs=("pooled",)),
        ]
        image, vertices = (
            self.pick("image_feature", self.IMAGE, available),
            reached(self._possible(available), self.layers),
        )
        if image is not None:
            pictures = both_sides("image", image, PICTURES, ["pooled"])
            wanted += [want for want in pictures if {"mention": "mv", "entity": "ev"}[want.side] in vertices]
        return wanted

    def _used(self, available: Collection[str]) -> list[Edge]:
        """The kinds of edges that have a part in the score."""
        possible = self._possible(available)
        return [edge for edge in possible if set(ENDS[edge]) <= reached(possible, self.layers)]

    def _possible(self, available: Collection[str]) -> list[Edge]:
        """The kinds of edges that the features allow."""
        pictures = self.pick("image_feature", self.IMAGE, available) is not None
        return [
            edge for edge in self.edges if (edge == "tt" or pictures) and set(NEEDS[RELATIONS[edge]]) <= set(available)
        ]
