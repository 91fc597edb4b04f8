"""What a finished run reads: of its own dataset, and of a KB that its head is to score."""

from dataclasses import replace

import torch

from cache.inputs import Want
from experiments import jobs, towers
from heads.config import load_config
from heads.config.dsmip import DsmipConfig
from heads.contracts import HeadInput, HeadWant, TrainingJob
from linking.finished import Finished
from pipeline.pairs.registry import pair_function
from pipeline.pairs.roles import SERVED
from pipeline.profiles.profile import AT_BLOCK, joined


def job_of(learner: Finished, run: Finished) -> TrainingJob:
    """What trained a run that learned features, or whose encoder runs live, as far as these depend on it."""
    config = load_config(learner.method, learner.config)
    features = {name: having[0] for name, having in learner.profiles.items()}
    demo = learner.demo or learner.paths.root
    wants = wanted_by(learner)
    live = None
    if isinstance(config, DsmipConfig) and config.stage == "prompts":
        source = jobs.EncoderSource(joined(features), str(features[config.layers_image].path), demo)
        live = jobs.live_clip(config, source)
    cuts = [want for want in wants if want.made]
    reference = str(features[cuts[0].feature].path) if cuts else ""
    return TrainingJob(
        method=learner.method,
        config=learner.config,
        inputs=jobs.head_inputs(wants, learner.extraction, learner.paths),
        dataset=run.prepared,
        candidates=run.lists,
        out=learner.folder,
        live=live,
        towers=towers.live_towers(config, wants, reference, demo),
    )


def inputs_of(run: Finished) -> list[HeadInput]:
    """What the head of a run reads of its own dataset; of new mentions each chunk brings the keys."""
    root = run.paths.root
    extracted = [want for want in wanted_by(run) if not jobs.is_learned(want.feature)]
    return [
        *jobs.head_inputs(extracted, run.extraction, run.paths),
        *(replace(one, store=root / one.store, keys=root / one.keys) for one in run.learned),
    ]


def on_device(job: TrainingJob, device: torch.device) -> TrainingJob:
    """The job on another device."""
    return replace(job, compute=replace(job.compute, device=str(device)))


def wanted_by(run: Finished) -> list[HeadWant]:
    """What the head of a run reads."""
    # The profile may have more by now; what the run was trained on is what it chose.
    there = {name for one in run.tree() for name in one.extraction.features}
    there |= {name.rpartition(AT_BLOCK)[0] for name in there if AT_BLOCK in name}
    config = load_config(run.method, run.config)
    having = [of[0] for of in run.profiles.values()] if config.tune else []
    kinds = {name: kind for profile in having for name, kind in towers.kinds(profile).items()}
    return towers.wanted(config, config.inputs(sorted(there)), kinds)


def entity_wants(run: Finished) -> list[Want]:
    """What a run, and those that it reads, need of the entities of a KB that is linked against."""
    wanted: dict[Want, None] = {}
    for one in run.tree():
        of_heads = [want for want in wanted_by(one) if not jobs.is_learned(want.feature)]
        of_pairs = [SERVED[role] for name in one.pairs for role in pair_function(name).roles]
        for want in (*of_heads, *of_pairs):
            wanted[Want(side=want.side, feature=want.feature, view=want.view)] = None
        for name in one.retrieval.columns:
            side, feature, view = name.split(".")
            wanted[Want(side="entity" if side == "entity" else "mention", feature=feature, view=view)] = None
    return [want for want in wanted if want.side == "entity"]
