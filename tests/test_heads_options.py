"""No option of any head leaves a parameter that learns nothing: every value of every option, every pair of values, and
every feature that a profile may lack."""

import dataclasses
import functools
import itertools
import tempfile
import types
import typing
from collections.abc import Iterator
from pathlib import Path

import checkpoints
import numpy as np
import pytest
import torch
from heads_world import FEATURES, head_pairs, head_rows, head_shapes, head_towers
from test_heads_contract import SMALL
from test_heads_dsmip import inputs, prompt_head

from foundation.errors import UserError
from heads.base import Batch, make_head
from heads.config import config_class, load_config, methods
from heads.config._pairs import PairsConfig

# Read by the loop, the optimiser or the stages of a run, never by a head; or sizes.
NOT_READ = {
    *("lr", "lr_decay", "batch_size", "epochs", "patience", "weight_decay", "eps", "clip_norm", "eval_candidates"),
    *(
        "checks",
        "hard_reach",
        "picture_dropout",
        "expert_epochs",
        "expert_lr",
        "least_steps",
        "prompt_start",
        "release",
    ),
    *("width", "joint_width", "d_t", "d_v", "d_c", "gate_width"),
}
KEPT = tempfile.TemporaryDirectory(prefix="clip-")
"""Where the small CLIP lies while these tests run."""
VALUES: dict[str, list[typing.Any]] = {
    "layers": [1, 2, 3, 4],
    "hidden": [0, 4],
    "members": [1, 3],
    "attention_heads": [1, 2],
    "prompt_layers": [1, 2, 9],
    "prompt_length": [1, 2],
    "heads": [["auto"], []],
    "pair_features": [["auto"], [], *([name] for name in PairsConfig.FEATURES)],
    "threshold": [0.0, 0.1],  # above it no picture of random ones may be related to its text
    "text_feature": ["clip_text", "text_tokens"],
    "image_feature": ["auto", "image_patches", "clip_image", None],
    "object_feature": ["auto", None],
    "gate_image": ["auto", None],
}
# The last edges of DRIN's published layer feed nothing there either; the number of parameters is the published one.
PUBLISHED = ("mention_edge.weight", "mention_edge.bias", "entity_edge.weight", "entity_edge.bias")


def values_of(name: str, hint: typing.Any) -> list[typing.Any]:
    """Values of an option that a head might treat differently; none where no head reads it."""
    if name in NOT_READ:
        return []
    if name in VALUES:
        return VALUES[name]
    hint = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        known = typing.get_args(arguments[0])
        return [list(chosen) for n in range(len(known) + 1) for chosen in itertools.combinations(known, n)]
    if typing.get_origin(hint) is typing.Literal:
        return [*arguments]
    if hint is bool:
        return [False, True]
    if hint is str or isinstance(hint, types.UnionType):
        return []
    return [0, 2] if hint is int else [0.0, 0.5]


def options_of(method: str) -> dict[str, list[typing.Any]]:
    kind = config_class(method)
    hints = typing.get_type_hints(kind, include_extras=True)
    listed = {field.name: values_of(field.name, hints[field.name]) for field in dataclasses.fields(kind)}
    return {name: values for name, values in listed.items() if values}


def cases(method: str) -> Iterator[tuple[dict[str, typing.Any], list[str]]]:
    """Options and the features that there are."""
    options, everything = options_of(method), list(FEATURES)
    bases = [{}, *({preset: True} for preset in config_class(method).presets)]
    available = [
        everything,
        ["clip_text", "text_tokens"],
        *([other for other in everything if other != name] for name in everything),
    ]
    for base, features in itertools.product(bases, available):
        yield base, features
        for name, values in options.items():
            yield from (({**base, name: value}, features) for value in values)
    for one, other in itertools.combinations(options, 2):
        for pair in itertools.product(options[one], options[other]):
            yield dict(zip((one, other), pair, strict=True)), everything


def written(want):
    """Whether the feature has the outputs that are read of it."""
    return set(want.outputs) <= {output.name for output in FEATURES[want.feature]}


@functools.cache
def small_clip():
    """Folder of a small CLIP."""
    return checkpoints.open_clip_model(Path(KEPT.name) / "open_clip")


def batch_for(head, config, seed):
    """Twelve mentions over twelve entities, some without a picture."""
    if getattr(config, "stage", None) == "prompts":
        return Batch(inputs(12, seed), inputs(12, seed + 1), torch.arange(12))
    random = np.random.default_rng(seed)
    lists = torch.from_numpy(np.stack([random.permutation(12)[:5] for _ in range(12)]))
    drawn = torch.from_numpy(random.integers(0, 12, (12, config.hard_negatives))) if config.hard_negatives else None
    rows = head_rows(head.shapes, 12, seed), head_rows(head.shapes, 12, seed + 1)
    pairs = head_pairs(head.shapes, lists, seed) if head.uses_candidates else {}
    return Batch(*rows, lists[:, 0].clone(), lists if head.uses_candidates else None, pairs, drawn)


def build(method, config, available):
    """A small head with random weights everywhere."""
    torch.manual_seed(0)
    if getattr(config, "stage", None) == "prompts":
        read = ("prompt_layers", "prompt_length", "text_scale", "missing_image")
        head = prompt_head(small_clip(), **{name: getattr(config, name) for name in read})
    else:
        shapes = head_shapes(config, available=available)
        if isinstance(config, PairsConfig):
            shapes |= {"pairs.frequency": (2,)} if config.frequency else {}
            shapes |= {f"pairs.{method}": () for method in config.runs(available)}
        head = make_head(method, config, shapes, towers=head_towers(config, shapes))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter) * parameter.requires_grad)
    return head.train()


def without_gradient(head, config):
    """Names of the parameters that get no gradient in any of a few batches."""
    left = {name for name, parameter in head.named_parameters() if parameter.requires_grad}
    for seed in range(8):
        if not left:
            break
        head.zero_grad()
        loss, _ = head.loss(batch_for(head, config, 2 * seed))
        if loss.requires_grad:
            loss.backward()
        gradients = {name: parameter.grad for name, parameter in head.named_parameters()}
        left -= {name for name in left if gradients[name] is not None and gradients[name].abs().max() > 1e-9}
    return left


@pytest.mark.parametrize("method", methods())
def test_no_option_leaves_a_parameter_without_a_gradient(method):
    dead, done = {}, set()
    for params, available in cases(method):
        try:
            config = load_config(method, {**SMALL.get(method, {}), **params})
            same = repr((config, config.wants(available), config.pairs(available), sorted(config.runs(available))))
            if same in done:
                continue
            if any(want.outputs and not written(want) for want in config.wants(available)):
                continue
            head = build(method, config, available)
        except UserError:
            continue
        done.add(same)
        names = without_gradient(head, config)
        if method == "drin" and config.layer == "published":
            last = {f"layers.{config.layers - 1}.{name}" for name in PUBLISHED}
            assert names >= last & {name for name, _ in head.named_parameters()}
            names -= last
        if names:
            dead[repr(params)] = (sorted(set(FEATURES) - set(available)), sorted(names))
    assert len(done) > 20
    assert not dead, f"{len(dead)} of {len(done)}: {dict(itertools.islice(dead.items(), 12))}"
