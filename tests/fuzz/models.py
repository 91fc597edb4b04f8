"""Model folders and weight files: configurations, tokenizers, headers and tensors damaged, pickles in their place."""

import functools
import io
import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import checkpoints
import torch
from hypothesis import strategies as st

from fuzz.arrays import odd_safetensors
from fuzz.odd import Files, bytes_of, files_in, folder_of, write
from fuzz.target import Target, empty_folder
from pipeline.datasets.contracts import Limits
from pipeline.extraction.runner import load_model
from pipeline.extractors import build
from pipeline.models import files as model_files
from pipeline.models.recognisers.names import read_names
from pipeline.profiles.profile import Feature

FILES = "pipeline.models.files"
Make = Callable[[Path], Path]


class Evil:
    """What a pickle would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("run",))


def _pickled(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@functools.cache
def weights() -> list[bytes]:
    """What may stand in a weight file's place."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02.")
    return [
        *(b"", b"\0" * 100, b"{}", pickle.dumps(Evil()), pickle.dumps({"a": 1}), archive.getvalue()),
        *(_pickled(value) for value in (Evil(), {"state_dict": Evil()}, [torch.ones(2)], {"a": 1}, {}, torch.ones(2))),
        _pickled({"a": torch.ones(1)}),
        _pickled({1: torch.ones(1)}),
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 100\n",
        b"<!DOCTYPE html><html>404</html>",
    ]


@functools.cache
def folder_files(make: Make) -> dict[str, bytes]:
    """The files of a checkpoint that its own library saved."""
    with empty_folder() as folder:
        made = make(folder / "model")
        return files_in(made if made.is_dir() else made.parent)


@st.composite
def _odd_folder(draw: st.DrawFn, make: Make) -> Files:
    """A model's folder with a configuration or its weights changed."""
    files = folder_files(make)
    small = {name: data for name, data in files.items() if len(data) < 200_000 and name.endswith((".json", ".txt"))}
    heavy = sorted(set(files) - set(small))
    if heavy and draw(st.integers(0, 3)) == 0:
        name = draw(st.sampled_from(heavy))
        tensors = name.endswith(".safetensors")
        odd = [bytes_of(files[name]), st.sampled_from(weights())] + [odd_safetensors(files[name])] * tensors
        return {**files, name: draw(st.one_of(odd))}
    return {**files, **draw(folder_of(small))} if small else files


def _extracted(extractor: str, options: Mapping[str, Any], name: str, files: Files, folder: Path) -> None:
    """The feature's extractor, from its model's files to the first rows that it could compute."""
    place = write(folder / "model", files)
    model = str(place / name)
    feature = Feature(extractor, extractor, {"model": model, **options}, {}, True)
    model_files.stamp(model, folder, None)
    model_files.configuration(model, folder, None)
    built = build(feature, folder, None, fetch=False)
    built.spec(None, asdict(Limits()), {})
    load_model(built, "cpu")


def _model(
    kind: str, make: Make, extractor: str, *readers: str, name: str = "", share: int = 2, **options: Any
) -> Target:
    return Target(
        kind=f"model, {kind}",
        readers=readers,
        valid=functools.partial(folder_files, make),
        odd=lambda: _odd_folder(make),
        read=functools.partial(_extracted, extractor, options, name),
        share=share,
    )


def _sentence(folder: Path) -> Path:
    """A folder of sentence-transformers around a transformer."""
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling

    with empty_folder() as place:
        bert = checkpoints.bert(place / "bert")
        after = (
            lambda width: Pooling(width, "mean"),
            lambda width: Dense(width, 8, activation_function=torch.nn.Tanh()),
            lambda width: Normalize(),
        )
        return checkpoints.sentence_model(folder, bert, *after, prompts={"query": "q: ", "document": "d: "})


def _older(folder: Path) -> Path:
    """One whose transformer has a folder of its own."""
    _sentence(folder)
    own = folder / "0_Transformer"
    own.mkdir()
    for path in [path for path in folder.iterdir() if path.is_file() and path.name != "modules.json"]:
        path.rename(own / path.name)
    listed = json.loads((folder / "modules.json").read_text())
    listed[0]["path"] = own.name
    (folder / "modules.json").write_text(json.dumps(listed))
    return folder


def _sharded(folder: Path) -> Path:
    """A checkpoint in two files with an index."""
    from transformers import BertModel

    checkpoints.bert(folder)
    model = BertModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    return folder


def _pth(folder: Path) -> Path:
    return checkpoints.resnet(folder, file="model.pth")


def _labels(value: tuple[str, bytes], folder: Path) -> None:
    name, content = value
    path = folder / name
    path.write_bytes(content)
    read_names(path)


TARGETS = (
    _model(
        "BERT",
        checkpoints.bert,
        "text_tokens",
        f"{FILES}:find",
        f"{FILES}:configuration",
        f"{FILES}:load_tokenizer",
        f"{FILES}:load_transformers",
        max_tokens=32,
        share=4,
    ),
    _model(
        "of torchvision",
        checkpoints.resnet,
        "image_pooled",
        f"{FILES}:find",
        f"{FILES}:load_state_dict",
    ),
    _model(
        "ONNX",
        checkpoints.onnx_recogniser,
        "face_embedding",
        f"{FILES}:_named_outside",
        "pipeline.models.recognisers.onnx:Recogniser.session",
        name="recogniser.onnx",
        of="faces",
    ),
    Target(
        kind="labels of classes",
        readers=("pipeline.models.recognisers.names:read_names",),
        valid=lambda: ("names.json", b'["Ann", "Bob"]'),
        odd=lambda: st.one_of(
            st.tuples(st.just("names.json"), bytes_of(b'["Ann", "Bob", "Cleo"]')),
            st.tuples(st.just("names.txt"), bytes_of("Ann\nBob\nCléo\n".encode())),
        ),
        read=_labels,
        hard=lambda: (("names.json", b"[" * 100_000), ("names.json", b"9" * 5000)),
        share=2,
    ),
)
SLOW = (
    _model(
        "of sentence-transformers",
        _sentence,
        "text_tokens",
        "pipeline.models.sentence:modules",
        "pipeline.models.sentence:_config",
        f"{FILES}:find",
        max_tokens=32,
    ),
    _model(
        "of sentence-transformers, older",
        _older,
        "text_tokens",
        f"{FILES}:_transformer_folder",
        max_tokens=32,
    ),
    _model(
        "CLIP of open_clip",
        checkpoints.open_clip_eos,
        "clip_text",
        "pipeline.models.clip:load",
        "pipeline.models.clip:_pools_at_end",
        max_tokens=32,
    ),
    _model("SigLIP", checkpoints.hf_siglip, "clip_image", f"{FILES}:completed"),
    _model("in shards", _sharded, "text_tokens", f"{FILES}:find", max_tokens=32),
    _model("of torchvision, pickled", _pth, "image_pooled", f"{FILES}:load_state_dict"),
    _model("ViT", checkpoints.hf_vit, "image_patches", f"{FILES}:ModelFiles.preprocessor"),
    _model(
        "YOLO of ultralytics, pickled",
        checkpoints.yolo_pickled,
        "objects",
        "pipeline.models.detectors.yolo:_load_pickled",
        name="best.pt",
        share=1,
    ),
)
"""Targets that take long: of the long campaign alone."""
