"""DWE+'s equations, one mention and one pair at a time in float64, as the paper prints them: what the fast forms are
held against."""

import numpy as np


def linear(x, weights, name):
    """FC: W x + b; a plain matrix where there is no bias."""
    return weights[f"{name}.weight"] @ x + weights.get(f"{name}.bias", 0)


def mapped(x, weights, kind):
    """Section 4: the non-linear function of one kind of input, without dropout."""
    x = np.maximum(linear(x, weights, f"maps.{kind}.0"), 0)
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * weights[f"maps.{kind}.2.weight"] + weights[f"maps.{kind}.2.bias"]


def cross_attention(query, steps, weights, name, heads):
    """Cross-Att(m, x), eq. 4 to 7: multi-head attention of one query; None without a step. A single step has weight 1
    whatever query and key are."""
    if not steps:
        return None
    size = len(query) // heads
    values = [linear(step, weights, f"{name}.value") for step in steps]
    parts = []
    for head in range(heads):
        of_head = slice(head * size, (head + 1) * size)
        scores = np.zeros(len(steps))
        if len(steps) > 1:
            asked = linear(query, weights, f"{name}.query")[of_head]
            scores = np.array([asked @ linear(step, weights, f"{name}.key")[of_head] / np.sqrt(size) for step in steps])
        alpha = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        parts.append(sum(a * value[of_head] for a, value in zip(alpha, values, strict=True)))
    return linear(np.concatenate(parts), weights, f"{name}.output")


def mention(row, weights, options):
    """Everything of one mention by the paper's letters, None what it does not have.

    row: "phrase" a vector, and by role a list of vectors ("sentence", "objects", ...). options: the head's, and "seen",
    the role of d.
    """
    m = mapped(row["phrase"], weights, "phrase")
    steps = {role: [mapped(x, weights, role) for x in found] for role, found in row.items() if role != "phrase"}
    result = {"m": m}
    attended = (
        ("m_t", "sentence", "text"),
        ("m_v", options["seen"], "image"),
        ("m_f", "faces", "face"),
        ("m_s", "identities", "identity"),
    )
    for letter, role, unit in attended:
        if unit in options["units"] and role in steps:
            name = "text_attention" if letter == "m_t" else "attention"
            result[letter] = cross_attention(m, steps[role], weights, name, options["attention_heads"])
    for letter, role in (("t", "sentence"), ("v", "image"), ("d", options["seen"]), ("f", "faces")):
        result[letter] = np.mean(steps[role], axis=0) if steps.get(role) else None
    g = m + sum(result[letter] for letter in ("m_t", "m_v") if result.get(letter) is not None)  # eq. 8
    if "m_f" in result or "m_s" in result:
        eps = 1 / (1 + np.exp(-weights["gate"]))
        g = (1 - eps) * g + eps * sum(result[letter] for letter in ("m_f", "m_s") if result.get(letter) is not None)
    return result | {"g": linear(g, weights, "fusion")}  # eq. 9


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def score(mention_row, entity, weights, options):
    """Eq. 1: cos(g, g_e)."""
    return cosine(mention(mention_row, weights, options)["g"], mapped(entity, weights, "entity"))


def contrast(first, second, tau):
    """Eq. 10 over the rows that both sides have; mean over the 2B anchors."""
    if len(first) < 2:
        return 0.0
    shifted = []
    for side in (first, second):
        centre = sum(side) / len(side)
        shifted += [(x - centre) / np.linalg.norm(x - centre) for x in side]
    n, total = len(first), 0.0
    for anchor in range(2 * n):
        positive = (anchor + n) % (2 * n)
        above = np.exp(shifted[anchor] @ shifted[positive] / tau)
        below = sum(np.exp(shifted[anchor] @ shifted[other] / tau) for other in range(2 * n) if other != anchor) - above
        total -= np.log(above / below) / (2 * n)
    return total


def loss(mentions, entities, gold, negatives, weights, options):
    """Eq. 10 to 14. mentions: what `mention` gave; entities: vectors; gold: a row each; negatives: rows each, an entity
    as often as it is drawn."""
    g_e = [mapped(entity, weights, "entity") for entity in entities]
    triplets = []
    for row, right, wrong in zip(mentions, gold, negatives, strict=True):
        positive = cosine(row["g"], g_e[right])
        if wrong:
            triplets.append(np.mean([max(cosine(row["g"], g_e[e]) - positive + options["margin"], 0) for e in wrong]))
    result = {"triplet": np.mean(triplets) if triplets else 0.0}
    sides = (
        {"coarse": ("m_t", "m_v"), "fine": ("f", "d")}
        if options["contrast"] == "equations"
        else {"coarse": ("t", "v"), "fine": ("m", "d")}
    )
    for name, (a, b) in sides.items():
        both = [row for row in mentions if row.get(a) is not None and row.get(b) is not None]
        result[name] = (
            contrast([row[a] for row in both], [row[b] for row in both], options["temperature"])
            if options[name]
            else 0.0
        )
    total = result["fine"] + options["alpha"] * result["coarse"] + options["beta"] * result["triplet"]
    return total, result
