"""DSMIP's gate and prompts once more, from the paper, in float64 with loops; knows nothing of `heads`."""

import math

import torch


def layer_norm(x, weight, bias):
    mean = x.mean()
    return (x - mean) / ((x - mean).pow(2).mean() + 1e-5).sqrt() * weight + bias


def quick_gelu(x):
    return x / (1 + torch.exp(-1.702 * x))


def gelu(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def block(states, parts, heads, causal, activation=quick_gelu):
    """One pre-norm transformer block over a list of vectors."""
    width = len(states[0])
    normed = [layer_norm(state, parts["ln_1.weight"], parts["ln_1.bias"]) for state in states]
    joint = [parts["attention.in.weight"] @ state + parts["attention.in.bias"] for state in normed]
    size = width // heads
    out = []
    for i in range(len(states)):
        seen = range(i + 1) if causal else range(len(states))
        mixed = []
        for head in range(heads):
            piece = slice(head * size, (head + 1) * size)
            query = joint[i][:width][piece]
            weights = torch.stack([query @ joint[j][width : 2 * width][piece] / math.sqrt(size) for j in seen]).softmax(
                0
            )
            mixed.append(sum(weight * joint[j][2 * width :][piece] for weight, j in zip(weights, seen, strict=True)))
        state = states[i] + parts["attention.out.weight"] @ torch.cat(mixed) + parts["attention.out.bias"]
        inner = activation(
            parts["mlp.in.weight"] @ layer_norm(state, parts["ln_2.weight"], parts["ln_2.bias"]) + parts["mlp.in.bias"]
        )
        out.append(state + parts["mlp.out.weight"] @ inner + parts["mlp.out.bias"])
    return out


def run(states, blocks, heads, causal, prompts, activation=quick_gelu):
    """Eq. 7 and 8: the prompts of a layer take the place of what the layer before made of its own."""
    for number, parts in enumerate(blocks):
        if number < len(prompts):
            kept = states if number == 0 else states[len(prompts[number - 1]) :]
            states = [*prompts[number], *kept]
        states = block(states, parts, heads, causal, activation)
    return states


def even(part):
    """Mean 0 and variance 1; zeros stay zeros."""
    centred = part - part.mean()
    return centred / (centred.pow(2).mean() + 1e-12).sqrt()


def likelihood(weights, each, gold):
    """`-log sum_i pi_i p_i(gold)` of one mention. weights: pi. each: a list of scores per expert."""
    total = 0.0
    for weight, scores in zip(weights, each, strict=True):
        total = total + weight * math.exp(scores[gold]) / sum(math.exp(score) for score in scores)
    return -math.log(total)


def gate(of_mention, of_entity, parts, allowed):
    """pi of one pair, section 3.3: two blocks per side, one FC over both, ReLU, softmax over the experts that are
    allowed. of_mention, of_entity: the parts of f, each brought to mean 0 and variance 1."""
    hidden = []
    for side, read in (("mention", of_mention), ("entity", of_entity)):
        read = torch.cat([even(part) for part in read])
        for layer in (0, 3):
            read = parts[f"sides.{side}.{layer}.weight"] @ read + parts[f"sides.{side}.{layer}.bias"]
            read = torch.where(read > 0, read, 0.01 * read)
        hidden.append(read)
    joint = torch.cat(hidden)
    weight = torch.cat([parts["last.mention.weight"], parts["last.entity.weight"]], 1)
    values = (weight @ joint + parts["last.mention.bias"]).clamp(min=0)
    exponents = [
        torch.exp(value) if ok else torch.zeros((), dtype=value.dtype)
        for value, ok in zip(values, allowed, strict=True)
    ]
    return [value / sum(exponents) for value in exponents]
