"""DRIN's equations over a whole graph, vertex by vertex and pair by pair in float64, as the paper prints them: what the
block form is held against."""

import math

import numpy as np

KINDS = {
    ("mention text", "text"): "tt",
    ("mention text", "image"): "ti",
    ("mention image", "text"): "it",
    ("mention image", "image"): "ii",
}


def linear(x, weights, name):
    return weights[f"{name}.weight"] @ x + weights.get(f"{name}.bias", 0)


def gelu(x):
    return np.array([value * (1 + math.erf(value / math.sqrt(2))) / 2 for value in x])


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def norm(x, weights, name):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def cosine(a, b):
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return a @ b / lengths if lengths else 0.0


def phrase(mention):
    """The mean over the tokens of the phrase, eq. 2; the pooled vector where there are none. mention: {"tokens",
    "offsets", "span", "pooled"}."""
    inside = [
        token
        for token, (start, end) in zip(mention["tokens"], mention["offsets"], strict=True)
        if mention["span"] is not None and start < end and start < mention["span"][1] and end > mention["span"][0]
    ]
    return np.mean(inside, axis=0) if inside else mention["pooled"]


def graph(mention, candidates, relations, weights, options):
    """Section 3.3: vertices {(name, number): features} and symmetric edges {(vertex, vertex): weight} of a mention with
    its candidates.

    candidates: rows {"text": [CLS] or None, "image": vector or None}. relations: kind -> a number or None for each
    candidate.
    """
    vertices, edges = {}, {}
    if mention["text"]:
        vertices["mention text", 0] = linear(phrase(mention), weights, "mention_text")
    if mention["image"] is not None:
        vertices["mention image", 0] = linear(mention["image"], weights, "mention_image")
    for number, entity in enumerate(candidates):
        for name in ("text", "image"):
            if entity[name] is not None:
                vertices[name, number] = linear(entity[name], weights, f"entity_{name}")
    for (mention_name, entity_name), kind in KINDS.items():
        for number, entity in enumerate(candidates):
            a, b = (mention_name, 0), (entity_name, number)
            if kind not in options["edges"] or a not in vertices or b not in vertices:
                continue
            if kind == "tt" and options["tt"] == "phrase":
                edges[a, b] = cosine(phrase(mention), entity["text"])
            elif relations[kind][number] is not None:
                edges[a, b] = relations[kind][number]
    return vertices, edges


def interact(vertices, edges, weights, options):
    """Eq. 12 and 13, L times: the vertices, and the edges that each layer used. M is what keys `edges` has."""
    used = []
    for layer in range(options["layers"]):
        used.append(edges)
        after = {}
        for vertex, features in vertices.items():
            received, met = np.zeros(len(features)), False
            for other in vertices:
                edge = edges.get((vertex, other), edges.get((other, vertex)))
                if edge is None:
                    continue
                share = 1.0
                if options["neighbours"] == "mean" and vertex[0].startswith("mention"):
                    share = sum((vertex, (other[0], number)) in edges for number in range(len(vertices)))
                received, met = (
                    received + edge / share * linear(vertices[other], weights, f"layers.{layer}.message"),
                    True,
                )
            if options["layer_norm"] and met:
                received = norm(received, weights, f"layers.{layer}.norm")
            after[vertex] = gelu(received) + features
        vertices = after
        if not options["static_edges"] and layer < options["layers"] - 1:
            mapped = {
                vertex: linear(features, weights, f"layers.{layer}.edge") for vertex, features in vertices.items()
            }
            scale = options["width"] if options["edge_scale"] == "width" else 1
            edges = {(a, b): sigmoid(mapped[a] @ mapped[b] / scale) + edge for (a, b), edge in edges.items()}
    return vertices, used


def texts(mention, candidates, relations, weights, options):
    """The mention's text vertex and the candidates' after the last layer (zeros where there is no text), and the edges
    of each layer."""
    vertices, used = interact(*graph(mention, candidates, relations, weights, options), weights, options)
    zero = np.zeros(options["width"])
    return (
        vertices.get(("mention text", 0), zero),
        [vertices.get(("text", number), zero) for number in range(len(candidates))],
        used,
    )


def loss(graphs, lists, gold, options):
    """Eq. 17, a mean over the mentions that have a listed gold and a negative. graphs: (mention text, candidate texts)
    of each; lists: entity ids of each."""
    values = []
    for b, (mention, candidates) in enumerate(graphs):
        if gold[b] not in lists[b]:
            continue
        positive = cosine(mention, candidates[lists[b].index(gold[b])])
        lending = range(len(graphs)) if options["negatives"] == "batch" else [b]
        negative = [
            cosine(mention, graphs[c][1][j]) for c in lending for j, entity in enumerate(lists[c]) if entity != gold[b]
        ]
        if not negative:
            continue
        if options["hinge"] == "mean":
            values.append(max(np.mean(negative) - positive + options["margin"], 0))
        else:
            values.append(np.mean([max(one - positive + options["margin"], 0) for one in negative]))
    return np.mean(values)
