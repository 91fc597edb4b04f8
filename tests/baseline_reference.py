"""The baselines' vectors, row by row in float64 with loops over tokens and states: what the batched forms are held
against.

A row is {"text", "tokens", "phrase", "image", "states"}: pooled vectors, or lists of vectors; None where there is
nothing.
"""

import numpy as np


def linear(x, weights, name):
    return weights[f"{name}.weight"] @ x + weights.get(f"{name}.bias", 0)


def unit(x):
    return x / np.linalg.norm(x) if np.linalg.norm(x) else x


def cosine(a, b):
    return unit(a) @ unit(b)


def softmax(values):
    exponents = np.exp(np.array(values) - max(values))
    return exponents / exponents.sum()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def relu(x):
    return np.maximum(x, 0)


def pretrained(row, weights, options, side):
    """BERT, CLIP-text, CLIP: unit vectors end to end; a Linear of each side where they are trained."""
    parts = [unit(row["text"])]
    if options["method"] == "clip" and row["image"] is not None:
        parts.append(unit(row["image"]))
    elif options["method"] == "clip":
        parts.append(weights["absent"] if options["projection"] else np.zeros(options["image"]))
    joined = np.concatenate(parts)
    return linear(joined, weights, side) if options["projection"] else joined


def jmel(row, weights, options, side):
    text = relu(linear(row["text"], weights, f"branches.{side}_text"))
    image = weights["absent"] if row["image"] is None else relu(linear(row["image"], weights, f"branches.{side}_image"))
    return linear(np.concatenate([text, image]), weights, f"joint.{side}")


def dzmned(row, weights, options, side):
    kinds = ("text", "phrase", "image")
    mapped = {kind: linear(row[kind], weights, f"maps.{side}_{kind}") for kind in kinds if row[kind] is not None}
    logits = linear(
        np.concatenate([mapped.get(kind, np.zeros(options["width"])) for kind in kinds]), weights, f"attention.{side}"
    )
    shares = softmax([logits[place] for place, kind in enumerate(kinds) if kind in mapped])
    combined = sum(share * mapped[kind] for share, kind in zip(shares, mapped, strict=True))
    return np.concatenate([unit(combined), unit(mapped.get("phrase", np.zeros(options["width"])))])


def melhi(row, weights, options, side):
    heads = []
    for head, share in enumerate(np.split(np.arange(options["width"]), options["attention_heads"])):
        alpha = softmax([linear(token, weights, "weights")[head] for token in row["tokens"]])
        heads.append(
            sum(a * linear(token, weights, "values")[share] for a, token in zip(alpha, row["tokens"], strict=True))
        )
    image = np.zeros(options["width"])
    if row["image"] is not None:
        relation = cosine(
            linear(row["text"], weights, "text_relation"), linear(row["image"], weights, "image_relation")
        )
        image = linear(row["image"], weights, "image") * (relation > options["threshold"])
    return linear(np.concatenate([*heads, image]), weights, f"joint.{side}")


def attend(x, steps, weights, name, options):
    """x plus multi-head attention of it over the steps."""
    if not steps:
        return x
    query, heads = linear(x, weights, f"{name}.query"), []
    for share in np.split(np.arange(options["width"]), options["attention_heads"]):
        alpha = softmax(
            [query[share] @ linear(step, weights, f"{name}.key")[share] / np.sqrt(len(share)) for step in steps]
        )
        heads.append(
            sum(a * linear(step, weights, f"{name}.value")[share] for a, step in zip(alpha, steps, strict=True))
        )
    return x + linear(np.concatenate(heads), weights, f"{name}.output")


def guided(row, weights, options):
    """GHMFC's two views of a row, the image's None where it has none."""
    words = [linear(token, weights, "tokens") for token in row["tokens"]]
    states = [] if row["states"] is None else [linear(state, weights, "states") for state in row["states"]]
    sentence = linear(row["text"], weights, "sentence")
    seen_words = [attend(word, states, weights, "tokens_over_states", options) for word in words]
    seen_states = [attend(state, words, weights, "states_over_tokens", options) for state in states]
    text = attend(sentence, seen_words, weights, "sentence_over_tokens", options)
    return text, attend(sentence, seen_states, weights, "sentence_over_states", options) if states else None


def ghmfc(row, weights, options, side):
    text, image = guided(row, weights, options)
    if image is not None:
        gate = sigmoid(linear(np.concatenate([text, image]), weights, "gate"))
        text = gate * text + (1 - gate) * image
    return linear(text, weights, f"joint.{side}")


VECTORS = {
    "bert": pretrained,
    "clip": pretrained,
    "clip_text": pretrained,
    "jmel": jmel,
    "dzmned": dzmned,
    "melhi": melhi,
    "ghmfc": ghmfc,
}


def cross_entropy(table, place):
    """Of the entry `place` of a row of numbers."""
    return np.log(np.exp(np.array(table) - table[place]).sum())


def objective(scores, gold, options):
    """The loss over the mini-batch's golds, and entities that are nobody's. scores: (B, E) with the distinct entities;
    gold: entity of each mention.

    The triplet loss is a mean over distinct entities; in the cross-entropy each other mention brings its gold.
    """
    values = []
    for row, own in zip(scores, gold, strict=True):
        others = [row[e] for e in range(len(row)) if e != own]
        if options["loss"] == "cross_entropy":
            others = [row[e] for e in gold if e != own] + [row[e] for e in range(len(row)) if e not in gold]
            values.append(
                cross_entropy(
                    [row[own] / options["temperature"], *(other / options["temperature"] for other in others)], 0
                )
            )
        else:
            values.append(np.mean([max(other - row[own] + options["margin"], 0) for other in others]))
    return np.mean(values)
