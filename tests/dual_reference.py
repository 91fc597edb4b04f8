"""`dual` a second time, from its page alone: record by record, in float64, with attention by plain queries, keys
and values."""

import numpy as np

LEAST_TEMPERATURE = 0.01


def even(vector):
    """Mean 0 and variance 1, as a LayerNorm without weights gives them."""
    vector = np.asarray(vector, np.float64)
    return (vector - vector.mean()) / np.sqrt(vector.var() + 1e-5)


def attention(states, query, value):
    """Multi-head attention of one query over states: each head weighs the states and takes its own rows of the values.

    Returns what is pooled and each state's weight, the mean over heads.
    """
    heads, taken, shares = len(query), [], np.zeros(len(states))
    per_head = len(value) // heads
    for head in range(heads):
        logits = np.array([query[head] @ even(state) for state in states])
        weights = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum() if len(states) else logits
        values = [value[head * per_head : (head + 1) * per_head] @ even(state) for state in states]
        taken.append(sum((w * v for w, v in zip(weights, values, strict=True)), np.zeros(per_head)))
        shares += weights / heads
    return np.concatenate(taken), shares


def parts(record, weights, encoder):
    """The text's and the picture's part of a record's vector, before it is brought to length 1.

    record: text (pooled, or None), tokens, phrase (pooled, or None), pictures: a list of (pooled, states), empty where
    there is none, None where the head reads no picture.
    """
    of = {name.removeprefix(f"encoders.{encoder}."): value for name, value in weights.items()}

    def pool(role, states):
        return attention(states, of[f"pools.{role}.query"], of[f"pools.{role}.value.weight"])

    attends = "pools.text.query" in of
    text = np.zeros(len(of["maps.text.weight"]))
    if record["text"] is not None:
        pieces = [pool("text", record["tokens"])[0]] if attends else []
        pieces.append(even(record["text"]))
        if "phrase" in record:
            absent = record["phrase"] is None
            pieces.append(np.zeros_like(even(record["text"])) if absent else even(record["phrase"]))
        text = of["maps.text.weight"] @ np.concatenate(pieces)
    if record["pictures"] is None:
        return text, np.zeros_like(text)
    entering = of["absent"]
    if record["pictures"] and attends:
        pooled, shares = pool("image", [state for _, states in record["pictures"] for state in states])
        ends = np.cumsum([len(states) for _, states in record["pictures"]])[:-1]
        of_picture = [share.sum() for share in np.split(shares, ends)]
        mean = sum(share * even(vector) for share, (vector, _) in zip(of_picture, record["pictures"], strict=True))
        entering = np.concatenate([pooled, mean])
    elif record["pictures"]:
        entering = np.mean([even(vector) for vector, _ in record["pictures"]], 0)
    return text, of["maps.image.weight"] @ entering


def vector(record, weights, encoder):
    """Of length 1; zeros where a record has nothing."""
    whole = sum(parts(record, weights, encoder))
    return whole / max(np.linalg.norm(whole), 1e-12)


def temperature(weights):
    return max(float(np.exp(weights["log_temperature"])), LEAST_TEMPERATURE)


def cross_entropy(table, place):
    """Of the entry `place` of a row of numbers."""
    return np.log(np.exp(np.array(table) - table[place]).sum())


def objective(scores, gold, symmetric=True):
    """scores (B, E) over distinct entities, gold: entity of each mention.

    A mention's negatives are the other mentions' golds, each as often as it is one, but for its own, and the entities
    that are nobody's gold. A gold's negatives are the mentions of other golds.
    """
    count = range(len(gold))
    mentions = np.mean([
        cross_entropy([scores[b][gold[b]],
                       *(scores[b][gold[c]] for c in count if gold[c] != gold[b]),
                       *(scores[b][e] for e in range(len(scores[b])) if e not in gold)], 0)
        for b in count
    ])  # fmt: skip
    if not symmetric:
        return mentions, None
    entities = np.mean([
        cross_entropy([scores[b][gold[b]], *(scores[c][gold[b]] for c in count if gold[c] != gold[b])], 0)
        for b in count
    ])  # fmt: skip
    return mentions, entities
