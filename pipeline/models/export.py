"""Writes tuned encoders as their own libraries save them, so that others can load them."""

import copy
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from foundation.files import inside, make_folder, refuse_full, write_json
from pipeline.models import towers
from pipeline.models.adapt import merge, refuse_prompts
from pipeline.models.files import MODULES, ModelFiles, load_state_dict
from pipeline.models.live import Live
from pipeline.models.sentence import modules

_BESIDE = ("preprocessor_config.json", "processor_config.json", "sentence_*_config.json")
_AROUND = (MODULES, "config_sentence_transformers.json")
_LEGAL = ("LICENSE*", "NOTICE*")


def export(encoders: Mapping[str, Sequence[Live]], folder: Path) -> None:
    """Write whole encoders with what their towers learned: adapters merged, blocks below the cuts as the checkpoint has
    them, weights in float32 as safetensors, and the checkpoint's tokenizer, preprocessing and further modules.

    encoders: place below `folder` (empty: itself) -> cuts of one checkpoint, one of each of its towers (a CLIP's text
    and picture). folder: absent or empty; it appears when all is written. Raises `UserError` where it is neither, a
    checkpoint is not readable, or a tower has learned prompts.
    """
    refuse_full(folder)
    for live in (one for lives in encoders.values() for one in lives):
        refuse_prompts(live)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for place, lives in encoders.items():
        _write(lives, make_folder(partial / place))
    partial.replace(folder)


def _write(lives: Sequence[Live], folder: Path) -> None:
    files = lives[0].encoder.files
    place = folder
    _copy(files.root or files.folder, _LEGAL, folder)
    if files.root is not None:
        _copy_modules(files, files.root, folder)
        place = make_folder(folder / files.folder.relative_to(files.root))
    _copy(files.folder, (*_BESIDE, *(path.name for path in files.tokenizer)), place)
    _save(whole(lives), files, place)


def whole(lives: Sequence[Live]) -> Any:
    """The library's whole model on the CPU in float32, with the merged blocks of every cut."""
    model: Any = None
    for live in lives:
        encoder = copy.copy(live.encoder)
        if model is None:
            encoder.load("cpu")
            model = encoder.model.float()
        encoder.model, encoder.device = model, "cpu"
        merged = copy.deepcopy(live)
        merge(merged)
        for number in range(live.block, len(towers.blocks(encoder))):
            towers.blocks(encoder)[number].load_state_dict(towers.blocks(merged.encoder)[number].state_dict())
    return model


def _save(model: Any, files: ModelFiles, folder: Path) -> None:
    if files.library == "transformers":
        model.save_pretrained(folder)
        return
    config = {key: value for key, value in files.config.items() if key != "weights"}  # which are torchvision's own
    open_clip = files.library == "open_clip"
    write_json(folder / ("open_clip_config.json" if open_clip else "torchvision.json"), config)
    _save_state(model.state_dict(), folder / ("open_clip_model.safetensors" if open_clip else "model.safetensors"))


def _save_state(state: dict[str, Any], path: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: value.detach().clone().contiguous() for name, value in state.items()}, path)


def _copy(source: Path, names: Iterable[str], folder: Path) -> None:
    """The files of these names or patterns that there are."""
    for path in (path for name in names for path in sorted(source.glob(name)) if path.is_file()):
        shutil.copyfile(path, folder / path.name)


def _copy_modules(files: ModelFiles, root: Path, folder: Path) -> None:
    """What stands around the transformer of a sentence-transformers folder; weights of its modules as safetensors."""
    _copy(root, _AROUND, folder)
    for module in modules(files, root)[1:]:
        source = inside(root, str(module.get("path", "")))
        target = make_folder(folder / source.relative_to(root))
        _copy(source, ("config.json",), target)
        weights = [source / name for name in ("model.safetensors", "pytorch_model.bin") if (source / name).is_file()]
        if weights:
            _save_state(load_state_dict(weights[0], files.reference), target / "model.safetensors")
