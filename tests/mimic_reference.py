"""MIMIC's equations, one pair at a time in float64, as the paper prints them: what the fast forms are held against."""

import numpy as np


def norm(x, weights, name):
    """LayerNorm. A bias that is not there is 0."""
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * weights[f"{name}.weight"] + weights.get(f"{name}.bias", 0)


def linear(x, weights, name):
    """FC: x W + b; a plain matrix where there is no bias."""
    return weights[f"{name}.weight"] @ x + weights.get(f"{name}.bias", 0)


def softmax(x):
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


def features(row, weights, options):
    """Section 3.2: t^G, T^L, v^G, V^L of a row {"pooled", "tokens", "image_pooled", "image_tokens"}; image entries None
    where there is none."""
    tokens, pooled = [*row["tokens"]], row["pooled"]
    if options["unit_length"]:
        pooled = pooled / np.linalg.norm(pooled)
    if not options["mask_padding"] and "padded" in row:
        tokens = [*row["padded"]]
    elif not options["mask_padding"]:
        tokens += [np.zeros(len(tokens[0]))] * max(0, 40 - len(tokens))
    result = {
        "t": norm(pooled, weights, "text_global_norm"),
        "T": [norm(token, weights, "text_local_norm") for token in tokens],
    }
    if "image_tokens" not in row:
        return result
    states, vector = row["image_tokens"], row.get("image_pooled")
    if states is None and options["missing_image"] == "null":
        return result | {"v": weights["absent_image"], "V": [weights["absent_image"]]}
    if states is None:
        states, vector = np.zeros(options["image_tokens"]), np.zeros(options["image_pooled"] or 0)
    if options["unit_length"] and vector is not None and np.linalg.norm(vector):
        vector = vector / np.linalg.norm(vector)
    projected = [linear(state, weights, "image_local") for state in states]
    whole = projected[0] if options["image_global"] == "class_row" else linear(vector, weights, "image_global")
    return result | {
        "v": norm(whole, weights, "image_global_norm"),
        "V": [norm(state, weights, "image_local_norm") for state in projected],
    }


def tglu(entity, mention, weights, options):
    """Eq. 8 to 10 and 4."""
    global_global = entity["t"] @ mention["t"]
    keys = [linear(token, weights, "tglu.key") for token in mention["T"]]
    values = [linear(token, weights, "tglu.value") for token in mention["T"]]
    attended = []
    for token in entity["T"]:
        query = linear(token, weights, "tglu.query")
        scale = np.sqrt(len(query) if options["attention_scale"] == "query" else len(token))
        alpha = softmax(np.array([query @ key / scale for key in keys]))
        attended.append(sum(a * value for a, value in zip(alpha, values, strict=True)))
    context = norm(np.mean(attended, axis=0), weights, "tglu.norm")
    return (global_global + linear(entity["t"], weights, "tglu.projection") @ context) / 2


def dual(a, b, weights, name, options):
    """DUAL_A2B(v_A^G, v_B^G, V_B^L), eq. 12 to 14."""
    asks, pooled, answers = a["v"], np.mean(b["V"], axis=0), b["v"]
    if options["vdlu_projections"]:
        asks, answers = (
            linear(asks, weights, f"{name}.vector_projection"),
            linear(answers, weights, f"{name}.vector_projection"),
        )
        pooled = np.mean([linear(state, weights, f"{name}.pooled_projection") for state in b["V"]], axis=0)
    fused = linear(norm(pooled + asks, weights, f"{name}.sum_norm"), weights, f"{name}.fusion")
    gate = np.tanh(linear(fused, weights, f"{name}.gate"))
    result = norm(gate * fused + answers, weights, f"{name}.norm")
    return result @ (norm(asks, weights, f"{name}.norm") if options["vdlu_projections"] else asks)


def fuse(row, weights):
    """FUSE, eq. 15 to 18."""
    text = linear(row["t"], weights, "cmfu.text")
    states = [linear(state, weights, "cmfu.image") for state in row["V"]]
    alpha = softmax(np.array([text @ state for state in states]))
    context = sum(a * state for a, state in zip(alpha, states, strict=True))
    return norm(np.tanh(linear(text, weights, "cmfu.gate")) * text + context, weights, "cmfu.norm")


def scores(mention_row, entity_row, weights, options):
    """Eq. 4 to 7: the units' scores and their mean."""
    mention, entity = features(mention_row, weights, options), features(entity_row, weights, options)
    result = {"tglu": tglu(entity, mention, weights, options)}
    if "V" in mention:
        to_mention = dual(entity, mention, weights, "vdlu.entity_to_mention", options)
        to_entity = dual(mention, entity, weights, "vdlu.mention_to_entity", options)
        result["vdlu"] = (to_mention + to_entity) / 2
        result["cmfu"] = fuse(entity, weights) @ fuse(mention, weights)
    return {"score": sum(result.values()) / len(result), **result}


def loss(pair_scores, drawn_scores, gold, copies):
    """Eq. 20 to 22. pair_scores: unit -> (B, B) of mention i with the gold entity of mention j; gold: entity of each
    mention.

    drawn_scores: unit -> (B, X) with entities that are nobody's gold.
    """
    total = 0.0
    for name, table in pair_scores.items():
        for i, row in enumerate(table):
            others = [row[j] for j in range(len(row)) if j != i and (copies or gold[j] != gold[i])]
            total += (np.log(np.exp(np.array([row[i], *others, *drawn_scores[name][i]]) - row[i]).sum())) / len(table)
    return total
