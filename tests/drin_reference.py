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

    candidates: rows {"text": [CLS] or None, "image": vector or None, "listed": whether the list has not ended}.
    relations: kind -> a number or None for each candidate. A vertex whose map is not among the weights is left out: its
    edges lead to no text.
    """
    vertices, edges = {}, {}
    if mention["text"]:
        vertices["mention text", 0] = linear(phrase(mention), weights, "mention_text")
    if mention["image"] is not None and "mention_image.weight" in weights:
        vertices["mention image", 0] = linear(mention["image"], weights, "mention_image")
    for number, entity in enumerate(candidates):
        for name in ("text", "image"):
            if entity[name] is not None and f"entity_{name}.weight" in weights:
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


def divisor(vertex, kind, edges, options, listed):
    """What a sum over a mention's candidates is divided by; 1 at a candidate's vertex."""
    if not vertex[0].startswith("mention") or options["neighbours"] == "sum":
        return 1.0
    if options["neighbours"] == "list":
        return listed
    return sum(a == vertex and b[0] == kind for a, b in edges)


def published(vertices, edges, weights, options, listed):
    """The published code's layer, L times: `u' = GELU(LayerNorm(W_h (u + sum A v)))`, a mean over the list at a
    mention's vertex, and from the same u and v `A' = sigmoid(mean_d(W_u u * W_v v) + A)`."""
    used = []
    for layer in range(options["layers"]):
        used.append(edges)
        after = {}
        for vertex, features in vertices.items():
            whole = features.copy()
            for (a, b), weight in edges.items():
                other = {a: b, b: a}.get(vertex)
                if other is not None:
                    whole += weight * vertices[other] / divisor(vertex, other[0], edges, options, listed)
            whole = linear(whole, weights, f"layers.{layer}.message")
            after[vertex] = gelu(norm(whole, weights, f"layers.{layer}.norm") if options["layer_norm"] else whole)
        if not options["static_edges"]:
            scale = options["width"] if options["edge_scale"] == "width" else 1
            edges = {
                (a, b): sigmoid(
                    linear(vertices[a], weights, f"layers.{layer}.mention_edge")
                    @ linear(vertices[b], weights, f"layers.{layer}.entity_edge")
                    / scale
                    + weight
                )
                for (a, b), weight in edges.items()
            }
        vertices = after
    return vertices, used


def interact(vertices, edges, weights, options, listed):
    """Eq. 12 and 13, L times: the vertices, and the edges that each layer used. M is what keys `edges` has. listed: the
    length of the list."""
    if options["layer"] == "published":
        return published(vertices, edges, weights, options, listed)
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
                share = divisor(vertex, other[0], edges, options, listed)
                received, met = (
                    received + edge / share * linear(vertices[other], weights, f"layers.{layer}.message"),
                    True,
                )
            if options["layer_norm"] and met:
                received = norm(received, weights, f"layers.{layer}.norm")
            after[vertex] = gelu(received) + features
        vertices = after
        if not options["static_edges"] and layer < options["layers"] - 1:
            joined = {vertex for pair in edges for vertex in pair}
            mapped = {vertex: linear(vertices[vertex], weights, f"layers.{layer}.edge") for vertex in joined}
            scale = options["width"] if options["edge_scale"] == "width" else 1
            edges = {(a, b): sigmoid(mapped[a] @ mapped[b] / scale) + edge for (a, b), edge in edges.items()}
    return vertices, used


def texts(mention, candidates, relations, weights, options):
    """The mention's text vertex and the candidates' after the last layer (zeros where there is no text), and the edges
    of each layer."""
    listed = sum(entity["listed"] for entity in candidates)
    vertices, used = interact(*graph(mention, candidates, relations, weights, options), weights, options, listed)
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
