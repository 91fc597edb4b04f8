"""Packages that only some commands need, the extras that install them, and the error where one is missing."""

import contextlib
import importlib.metadata
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from foundation.errors import UserError

DISTRIBUTION = "mel-cache"


@dataclass(frozen=True)
class Extra:
    """modules: what is imported. purpose: what does not work without them."""

    modules: tuple[str, ...]
    purpose: str


EXTRAS: Mapping[str, Extra] = {
    "extract": Extra(
        ("transformers", "open_clip", "torchvision", "tokenizers"),
        "ExtractFeatures, DemoEncoders, LinkMentions over new texts and pictures, local language models",
    ),
    "faces": Extra(("facenet_pytorch", "deepface", "onnxruntime", "cv2"), "the features of faces"),
    "yolo": Extra(("ultralytics", "cv2"), "YOLO detectors (AGPL-3.0), those of the demo among them"),
    "text": Extra(("httpx", "openai"), "EnhanceEntities from a wiki or a language model's server"),
    "search": Extra(("optuna", "matplotlib"), "SearchHead"),
    "report": Extra(
        ("jinja2", "tensorboard", "matplotlib"),
        "Report, CompareHeads --drop-pictures, Ablate --cuts, TensorBoard's curves",
    ),
    "tune": Extra(("peft",), "low-rank adapters (LoRA) of encoders that are trained above a cut"),
    "index": Extra(("tantivy", "usearch"), "candidates in a large KB (--sources name-index, dense-index:FEATURE)"),
    "ner": Extra(("spacy",), "LinkText"),
    "serve": Extra(
        ("fastapi", "fastapi_offline", "h11", "jinja2", "prometheus_client", "python_multipart", "uvicorn"),
        "Serve, Explore",
    ),
    "ray": Extra(("ray",), "extraction on a Ray cluster (--ray)"),
    "kb": Extra(("httpx", "msgspec", "rapidgzip"), "BuildKB and FetchImages"),
    "postgres": Extra(("psycopg",), "SearchHead with its study in PostgreSQL"),
}
"""By name, as in setup.cfg."""


def version() -> str:
    """This package's version; `0` in a checkout that is not installed."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "0"


def installed(distribution: str) -> bool:
    """Whether a distribution, by its name in the package index, is installed."""
    return bool(list(importlib.metadata.distributions(name=distribution)))


def lacking(extra: str) -> list[str]:
    """The modules of an extra that are not installed; none of them is imported."""
    return [name for name in EXTRAS[extra].modules if importlib.util.find_spec(name) is None]


def require(module: str) -> None:
    """Raises `UserError` with the command that installs it where the module is not installed; it is not imported."""
    if importlib.util.find_spec(module) is None:
        raise _missing(module)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Inside, a package that lacks and that an extra brings is a `UserError` with the command that installs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if _extras_of(error.name or ""):
            raise _missing(error.name or "") from error
        raise


def _extras_of(module: str) -> list[str]:
    return [name for name, extra in EXTRAS.items() if module.partition(".")[0] in extra.modules]


def _missing(module: str) -> UserError:
    extra = (_extras_of(module) or ["all"])[0]
    return UserError(f"the package {module.partition('.')[0]} is not installed: pip install '{DISTRIBUTION}[{extra}]'")
