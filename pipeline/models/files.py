"""Finds a pretrained model's files from its reference: a local folder, a hub id, a package's folder, or one the demo
trained."""

import contextlib
import functools
import importlib.util
import json
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from foundation.errors import UserError
from foundation.files import explained, inside, read_json
from pipeline.models import torchvision_weights
from pipeline.models.guards import check_sizes

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")
_CONFIGS = {
    "open_clip": "open_clip_config.json",
    "torchvision": "torchvision.json",
    "yolo": "yolo.json",
    "transformers": "config.json",
}
_WEIGHTS = (
    "open_clip_model.safetensors",
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "model.pth",
)
_VOCABULARY = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "spm.model",
    "bpe.codes",
)
_TOKENIZER = (
    *_VOCABULARY,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
_ADAPTER = "adapter_config.json"
_PREPROCESSOR = "preprocessor_config.json"
MODULES = "modules.json"
"""What makes a folder one of sentence-transformers: the list of its modules, each in a folder of its own."""
_SENTENCE = [MODULES, "config_sentence_transformers.json", "sentence_*_config.json", "?_*/config.json"]
_HUB_PATTERNS = [*_CONFIGS.values(), _PREPROCESSOR, *_TOKENIZER, *_SENTENCE]
_STATED = {"size", "resample", "image_mean", "image_std"}  # what a preprocessor's file may leave to the library
_STAMPED = {".json", ".safetensors", ".bin", ".pth", ".pt", ".onnx", ".txt", ".model"}
# What a library writes into its configuration about itself, not about the architecture.
_NOT_ARCHITECTURE = {
    "transformers_version",
    "torch_dtype",
    "dtype",
    "architectures",
    "use_cache",
    "output_hidden_states",
    "output_attentions",
}


_LOCATION = re.compile(rb"\n\x08location\x12([\x01-\x7f])", re.DOTALL)


@dataclass(frozen=True)
class ModelFiles:
    """A model on this machine. library: `transformers`, `open_clip` or `torchvision`; of a bare weight file what
    `find_file` was given. config: the configuration file's content. root: the folder with `MODULES` around it, None
    where there is none. VERSION: of this module, which loads them too."""

    VERSION: ClassVar[int] = 1
    reference: str
    folder: Path
    library: str
    config: Mapping[str, Any]
    weights: tuple[Path, ...]
    tokenizer: tuple[Path, ...]
    root: Path | None = None

    def architecture(self) -> dict[str, Any]:
        """The configuration without names, versions and precision: what of it belongs to the feature's identity."""

        def clean(value: Any) -> Any:
            if isinstance(value, dict):
                return {
                    key: clean(item)
                    for key, item in value.items()
                    if key not in _NOT_ARCHITECTURE and not key.startswith("_")
                }
            return value

        return {"library": self.library, "config": clean(dict(self.config))}

    def preprocessor(self) -> dict[str, Any]:
        """What a transformers folder says of its pictures' preparation; where its file leaves something out, what the
        library takes for this model.

        Raises `UserError` where there is no such file, or none that the library reads.
        """
        path = self.folder / _PREPROCESSOR
        if not path.is_file():
            raise UserError(
                f"model {self.reference!r}: no {_PREPROCESSOR} in {self.folder}; save the model's image processor there"
            )
        stated = read_json(path)
        if not isinstance(stated, dict):
            raise UserError(
                f"model {self.reference!r}: {path} is not a JSON object; save the model's image processor again"
            )
        # Of one number, the library knows whether the shorter side or both sides are meant.
        number = stated.get("do_center_crop") is True and isinstance(stated.get("size"), int)
        if stated.keys() >= _STATED and not number:
            return stated
        from transformers import AutoImageProcessor

        try:
            processor = AutoImageProcessor.from_pretrained(self.folder, trust_remote_code=False, local_files_only=True)
            own = json.loads(processor.to_json_string())
            return {**own, **stated, **({"size": own["size"]} if number else {})}
        except Exception as error:
            raise refused(self, error) from error


def locate(reference: str, base: Path, demo: Path | None, fetch: bool = True) -> Path | None:
    """The folder (or the bare weight file) that `reference` means.

    `demo:NAME` a checkpoint of the demo's encoders in `demo`; `package:MODULE/PATH` a folder inside an installed
    package; a path (absolute, or relative to `base` or to the current folder); else `owner/name[@revision]` on the
    model hub, from its local cache or fetched. Returns None when it is not on this machine and `fetch` is false. Raises
    `UserError` when it cannot be had.
    """
    scheme, _, rest = reference.partition(":")
    if scheme == "demo" and rest:
        if demo is None:
            return None
        return inside(demo, rest)
    if scheme == "package" and rest:
        module, _, path = rest.partition("/")
        module_spec = importlib.util.find_spec(module) if module.isidentifier() else None
        if module_spec is None or not module_spec.submodule_search_locations:
            raise UserError(
                f"model {reference!r}: the package {module!r} is not installed; `pip install "
                f"{module.replace('_', '-')}` brings it"
            )
        return inside(Path(module_spec.submodule_search_locations[0]), path)
    for place in (Path(reference).expanduser(), base / reference):
        if place.exists():
            return place.absolute()
    if not _HUB_ID.fullmatch(reference) or reference.startswith("."):
        raise UserError(
            f"model {reference!r}: no such folder, and not a hub id of the form owner/name; mend `model:` in the "
            "profile"
        )
    return _from_hub(reference, fetch)


def _from_hub(reference: str, fetch: bool) -> Path | None:
    from huggingface_hub import constants, snapshot_download

    repository, _, revision = reference.partition("@")
    patterns = [*_HUB_PATTERNS, "*.safetensors", "*.safetensors.index.json"]
    with contextlib.suppress(Exception):  # every way of not being in the local cache
        folder = Path(
            snapshot_download(repository, revision=revision or None, allow_patterns=patterns, local_files_only=True)
        )
        if _complete(folder):  # a download that was interrupted leaves some of the files
            return folder
    if not fetch:
        return None
    try:
        with explained(Path(constants.HF_HUB_CACHE), "HF_HOME (environment variable)"):
            folder = Path(snapshot_download(repository, revision=revision or None, allow_patterns=patterns))
            if not any(folder.glob("*.safetensors")):
                folder = Path(
                    snapshot_download(repository, revision=revision or None, allow_patterns=[*patterns, *_WEIGHTS])
                )
        return folder
    except UserError:
        raise
    except Exception as error:
        offline = " (HF_HUB_OFFLINE is set)" if torchvision_weights.offline() else ""
        raise UserError(
            f"model {reference!r} is not on this machine and could not be fetched{offline}: "
            f"{type(error).__name__}. On a connected machine run "
            f"`hf download {repository} --local-dir models/{repository.split('/')[1]}`, copy that folder here and "
            "set `model:` in the profile to it"
        ) from None


def _complete(folder: Path) -> bool:
    """Whether a model's folder from the hub has a configuration and all its weights."""
    index = next(
        (folder / name for name in _WEIGHTS if name.endswith(".index.json") and (folder / name).is_file()), None
    )
    if index is not None:
        weights = [folder / name for name in read_json(index).get("weight_map", {}).values()]
    else:
        weights = [path for path in folder.iterdir() if path.suffix == ".safetensors" or path.name in _WEIGHTS]
    return (
        bool(weights)
        and all(path.is_file() for path in weights)
        and any((folder / name).is_file() for name in _CONFIGS.values())
    )


def find(reference: str, base: Path, demo: Path | None, fetch: bool = True) -> ModelFiles:
    """The files behind `reference`, fetched if need be.

    Raises `UserError` where the folder lacks a configuration or weights.
    """
    if reference.startswith(torchvision_weights.SCHEME):
        config, file = torchvision_weights.find(reference, fetch)
        return ModelFiles(reference, file.parent, "torchvision", config, (file,), ())
    folder = locate(reference, base, demo, fetch)
    if folder is None and not reference.startswith("demo:"):
        raise UserError(f"model {reference!r} is not on this machine")
    if folder is not None and folder.is_file():
        raise UserError(f"model {reference!r}: {folder} is a file; expected the model's folder as its library saves it")
    if folder is None or not folder.is_dir():
        raise UserError(
            f"model {reference!r}: the demo's encoders are not there yet; `luigi --module tasks DemoEncoders` "
            "makes them"
        )
    root = folder if (folder / MODULES).is_file() else None
    if root is not None and not (root / _CONFIGS["transformers"]).is_file():
        folder = _transformer_folder(reference, root)
    library = next((library for library, name in _CONFIGS.items() if (folder / name).is_file()), None)
    if library is None:
        raise UserError(
            f"model {reference!r}: {folder} has none of {', '.join(_CONFIGS.values())}; expected a model folder as "
            "the library saves it"
        )
    config = read_json(folder / _CONFIGS[library])
    if not isinstance(config, dict):
        raise UserError(
            f"model {reference!r}: {folder / _CONFIGS[library]} is not a JSON object; save the model again with "
            "its library"
        )
    check_sizes(config, f"model {reference!r}: {folder / _CONFIGS[library]}")
    if not isinstance(config.get("kwargs", {}), dict):
        raise UserError(f"model {reference!r}: {folder / _CONFIGS[library]}: kwargs is no JSON object; save it again")
    if library == "torchvision" and "weights" in config:
        config = torchvision_weights.completed(config, f"model {reference!r}: torchvision.json")
    if "auto_map" in config:
        raise UserError(
            f"model {reference!r} brings code of its own (auto_map), which is never executed; choose a model that "
            f"{library} itself implements"
        )
    if library == "transformers" and (folder / _ADAPTER).is_file():  # transformers adds it where peft is installed
        raise UserError(
            f"model {reference!r}: {folder} holds an adapter ({_ADAPTER}) beside its weights; merge it with peft "
            "(`merge_and_unload`) and save the model again"
        )
    first = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if first is None and library == "torchvision" and len(checkpoints := list(folder.glob("*.pth"))) == 1:
        first = checkpoints[0]  # under the name it was downloaded by
    if first is None:
        raise UserError(
            f"model {reference!r}: no weights in {folder} (looked for {', '.join(_WEIGHTS)}); download or save the "
            "model again"
        )
    weights = [first]
    if first.name.endswith(".index.json"):
        shards = sorted(set(read_json(first).get("weight_map", {}).values()))
        # A plain name stays in the folder, also as the link to the hub's store that it is in the hub's local cache.
        weights = [folder / name if Path(name).name == name else inside(folder, name) for name in shards]
        for path in weights:
            if not path.is_file():
                raise UserError(
                    f"model {reference!r}: {path} is listed in {first.name} but missing; download the model again"
                )
    tokenizer = tuple(folder / name for name in _TOKENIZER if (folder / name).is_file())
    return ModelFiles(reference, folder, library, config, tuple(weights), tokenizer, root)


def _transformer_folder(reference: str, root: Path) -> Path:
    """Where a sentence-transformers folder keeps its transformer, which older ones put into a folder of its own."""
    listed = read_json(root / MODULES)
    try:
        return inside(root, str(listed[0].get("path", "")))
    except (IndexError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"model {reference!r}: {root / MODULES} is no list of modules; save the model again with "
            "sentence-transformers"
        ) from None


def find_file(reference: str, base: Path, demo: Path | None, library: str, suffixes: tuple[str, ...]) -> ModelFiles:
    """A model that is one weight file without a configuration: `reference` names the file, or a folder with one file of
    such a suffix.

    Nothing is fetched. Raises `UserError` where there is no such file, or the folder holds several.
    """
    scheme, _, rest = reference.partition(":")
    if scheme in ("demo", "package") and rest:
        place = locate(reference, base, demo, fetch=False)
    else:
        place = next(
            (place.absolute() for place in (Path(reference).expanduser(), base / reference) if place.exists()), None
        )
    kinds = " or ".join(suffixes)
    if place is None and scheme == "demo":
        raise UserError(
            f"model {reference!r}: the demo's models are not there yet; `luigi --module tasks DemoEncoders` makes them"
        )
    if place is not None and place.is_dir():
        candidates = sorted(path for path in place.iterdir() if path.suffix in suffixes)
        if len(candidates) != 1:
            raise UserError(
                f"model {reference!r}: {place} holds {len(candidates)} {kinds} files, expected one; name the file "
                "itself in `model:` of the profile"
            )
        place = candidates[0]
    if place is None or not place.is_file():
        raise UserError(
            f"model {reference!r}: no such file (looked in {Path.cwd()} and {base.absolute()}); download it and "
            f"set `model:` in the profile to that {kinds} file"
        )
    if place.suffix not in suffixes:
        raise UserError(f"model {reference!r}: {place.name} is no {kinds} file; mend `model:` in the profile")
    return ModelFiles(reference, place.parent, library, {}, (place, *_outside(place)), ())


def _outside(model: Path) -> list[Path]:
    """The files that hold tensors of an ONNX model outside its own: what stands behind the key `location`, in Protocol
    Buffers' encoding."""
    if model.suffix != ".onnx":
        return []
    state = model.stat()
    return [path for path in _named_outside(model, state.st_size, state.st_mtime_ns) if path.is_file()]


@functools.lru_cache(maxsize=64)
def _named_outside(model: Path, size: int, mtime_ns: int) -> list[Path]:
    """The paths that the model names; read once while its size and time stay."""
    content = model.read_bytes()
    places = (content[found.end() : found.end() + found[1][0]] for found in _LOCATION.finditer(content))
    return [model.parent / place.decode("utf-8", "replace") for place in sorted(set(places)) if b"\0" not in place]


def stamp(reference: str, base: Path, demo: Path | None) -> list[Any]:
    """What a task's request says of a model without reading it: names, sizes and times of its files, or its hub id
    where nothing is here yet.

    Cheap enough for Luigi's `complete()`.
    """
    try:
        folder = locate(reference, base, demo, fetch=False)
    except UserError:
        folder = None
    if folder is None or not folder.exists():
        return [reference]
    files = (
        [folder, *_outside(folder)]
        if folder.is_file()
        else sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in _STAMPED)
    )
    if (folder / MODULES).is_file():
        files += sorted(path for path in folder.glob("*/*") if path.is_file() and path.suffix in _STAMPED)
    return [reference, *([path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files)]


def configuration(reference: str, base: Path, demo: Path | None) -> Mapping[str, Any]:
    """The configuration of a model that is on this machine; empty where it is not, or has none. Nothing is fetched."""
    try:
        folder = locate(reference, base, demo, fetch=False)
        path = next((folder / name for name in _CONFIGS.values() if folder and (folder / name).is_file()), None)
        config = read_json(path) if path else {}
    except UserError:
        return {}
    return config if isinstance(config, dict) else {}


def load_state_dict(path: Path, reference: str) -> dict[str, Any]:
    """Tensors of a `.safetensors` file or of a torch file, which is opened with `weights_only=True`: no pickled object
    is ever run.

    Raises `UserError` when the file is not one of these or holds anything but tensors.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, json.JSONDecodeError) as error:
        raise UserError(
            f"model {reference!r}: {path} is damaged or no safetensors file ({error}); download it again"
        ) from None
    except Exception as error:
        raise UserError(
            f"model {reference!r}: {path} is refused: {type(error).__name__}; a file of tensors alone is expected "
            "(weights_only)"
        ) from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"model {reference!r}: {path} holds no state dict of tensors; save `model.state_dict()`")
    return state


def refused(files: ModelFiles, error: Exception) -> UserError:
    """The one line for a checkpoint that its library would not load."""
    reason = textwrap.shorten(next(iter(str(error).strip().splitlines()), ""), 160, placeholder=" …")
    if "weights_only" in str(error):
        reason = "it holds more than tensors (weights_only), or is damaged"
    return UserError(
        f"model {files.reference!r} in {files.folder} cannot be loaded: {type(error).__name__}: {reason}; download "
        "it again, or save it again with "
        f"{files.library or 'its library'}"
    )


def load_tokenizer(files: ModelFiles) -> Any:
    """The folder's transformers tokenizer. Raises `UserError` where there is no vocabulary (transformers itself would
    make up an empty one) or the files are refused."""
    from transformers import AutoTokenizer

    if not any(path.name in _VOCABULARY for path in files.tokenizer):
        raise UserError(
            f"model {files.reference!r}: no tokenizer in {files.folder} (looked for {', '.join(_VOCABULARY)}); "
            "save its tokenizer there too"
        )
    try:
        return AutoTokenizer.from_pretrained(
            files.folder, use_fast=True, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:
        raise refused(files, error) from error


def completed(files: ModelFiles) -> dict[str, Any]:
    """A transformers configuration with the library's values where its file leaves something out.

    Raises `UserError` where the library does not read it.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(files.folder, trust_remote_code=False, local_files_only=True)
        return config.to_dict()
    except Exception as error:
        raise refused(files, error) from error


def load_transformers(files: ModelFiles, class_name: str, device: str, unused: tuple[str, ...] = ("pooler.",)) -> Any:
    """A transformers model in evaluation mode on `device`; tensors alone are read, and hub code is never executed.

    unused: beginnings of parameter names that extraction does not read and a checkpoint may lack. Raises `UserError`
    where the files are refused or lack any other parameter (transformers itself would fill those with random numbers).
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    # its report on parameters that do not fit takes thirty lines; ours follows from `info`
    transformers.utils.logging.set_verbosity_error()
    try:
        model, info = getattr(transformers, class_name).from_pretrained(
            files.folder, trust_remote_code=False, local_files_only=True, weights_only=True, output_loading_info=True
        )
    except Exception as error:
        raise refused(files, error) from error
    lacking = sorted(name for name in info["missing_keys"] if not name.startswith(unused))
    if lacking:
        raise UserError(
            f"model {files.reference!r} in {files.folder} lacks {len(lacking)} parameters, first: {lacking[0]}; "
            "the file belongs to another model"
        )
    return model.eval().to(device)
