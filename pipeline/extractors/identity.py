"""`identity`: who the found faces may be, the five likeliest names each; read docs/responsible-use.md before using
it."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cache.identity import Output, identity
from foundation.contracts import contract
from foundation.errors import UserError
from pipeline.extraction import base
from pipeline.extraction.feature_texts import NAME_BYTES, pack
from pipeline.models import files as model_files
from pipeline.models.files import ModelFiles
from pipeline.models.recognisers import inception
from pipeline.models.recognisers.align import Margin
from pipeline.models.recognisers.classifier import Classifier
from pipeline.models.recognisers.names import read_names

BEST = 5
OUTPUTS = (Output("names", (BEST, NAME_BYTES), "uint8", ragged=True), Output("scores", (BEST,), "float32", ragged=True))
_BLOCK = 1 << 24  # cosines held at a time


@contract
class Options(base.DerivedOptions):
    """backend: `classifier` (a Hugging Face image classifier), `inception` (InceptionResnetV1's own classes) or
    `gallery` (the KB's portraits).

    of: the faces, for `gallery` their face_embedding. labels: for `inception`, a file with one name per class (a line
    each, or a JSON list). margin: share of its size by which a box is widened on each side before it is cut.
    """

    backend: Literal["classifier", "inception", "gallery"] = "classifier"
    labels: str = ""
    margin: base.Margin = 0.0

    def __post_init__(self) -> None:
        if not self.model and self.backend != "gallery":
            raise ValueError(f"`model` is missing; backend {self.backend} needs one")
        if self.model and self.backend == "gallery":
            raise ValueError(
                f"model is {self.model!r}, but the gallery reads face_embedding alone; drop it, and name that "
                "feature in `of`"
            )
        if bool(self.labels) != (self.backend == "inception"):
            raise ValueError("`labels`, a file of names, belongs to backend inception, and it needs one")


def best(scores: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(b, n) scores → packed names (b, 5, 96) uint8 and their scores (b, 5) float32, best first; empty names where
    there are fewer than five."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :BEST]
    packed, likeliest = np.zeros((len(scores), BEST, NAME_BYTES), np.uint8), np.zeros((len(scores), BEST), np.float32)
    for row, columns in enumerate(order):
        for place, column in enumerate(columns):
            packed[row, place], likeliest[row, place] = pack(names[column]), scores[row, column]
    return packed, likeliest


class Identity(base.CropExtractor):
    """names (5, 96) uint8: UTF-8 with zeros behind · scores (5): probabilities, of the gallery cosines."""

    VERSION = 1
    options: Options
    names: list[str]

    def __init__(self, options: Options, files: ModelFiles) -> None:
        super().__init__(options, files)
        self.margin = Margin(options.margin)

    @classmethod
    def kind(cls, options: Options) -> type[base.Extractor]:
        kinds: dict[str, type[base.Extractor]] = {
            "classifier": IdentityClassifier,
            "inception": IdentityInception,
            "gallery": IdentityGallery,
        }
        return kinds[options.backend]

    @classmethod
    def references(cls, options: Options) -> list[str]:
        return [name for name in (options.model, options.labels) if name]

    def possible(self) -> dict[str, Output]:
        return {output.name: output for output in OUTPUTS}

    def cut(self, image: Any, parent: Mapping[str, np.ndarray]) -> list[tuple[int, Any]]:
        return super().cut(image, self.margin.widened(parent))

    def probabilities(self, crops: np.ndarray) -> np.ndarray:
        """(b, H, W, 3) uint8 → (b, classes)."""
        raise NotImplementedError

    def probe(self, batch: np.ndarray) -> base.Outputs:
        return {
            "scores": self.probabilities(batch)
        }  # class by class: two names as likely as each other may change places on another device

    def __call__(self, batch: np.ndarray) -> base.Outputs:
        rows = base.rows_or_none(self.probabilities, batch)
        packed = [None if row is None else best(row[None], self.names) for row in rows]
        return {"names": [row and row[0][0] for row in packed], "scores": [row and row[1][0] for row in packed]}


class IdentityClassifier(Identity):
    """Any Hugging Face image classifier over people; its classes are the names."""

    def __init__(self, options: Options, files: ModelFiles) -> None:
        super().__init__(options, files)
        self.classifier = Classifier(files)
        self.names = [name.replace("_", " ") for name in self.classifier.labels]

    def preprocessing(self) -> Mapping[str, Any]:
        return {"margin": float(self.options.margin), **self.classifier.prepare.to_json()}

    def prepare(self, image: Any) -> np.ndarray:
        return self.classifier.prepare(image)

    def load(self, device: str) -> None:
        self.classifier.load(device)

    def probabilities(self, crops: np.ndarray) -> np.ndarray:
        return self.classifier(crops)


class IdentityInception(Identity):
    """InceptionResnetV1's own classes (8,631 of vggface2, 10,575 of casia-webface), named by a label file."""

    def __init__(self, options: Options, files: tuple[ModelFiles, Path]) -> None:
        super().__init__(options, files[0])
        self.network = inception.Network(files[0], classify=True)
        self.names = read_names(files[1])
        self.labels_file = files[1]

    @classmethod
    def find(cls, options: Options, base: Path, demo: Path | None, fetch: bool) -> tuple[ModelFiles, Path]:
        scheme = options.labels.partition(":")[0]
        named: list[Path | None] = [Path(options.labels).expanduser(), base / options.labels]
        if scheme in ("demo", "package"):
            named = [model_files.locate(options.labels, base, demo, fetch=False)]
        place = next((place for place in named if place is not None and place.is_file()), None)
        if place is None:
            raise UserError(
                f"labels {options.labels!r}: no such file; set `labels:` in the profile to a file with one name "
                "per class, a line each"
            )
        return inception.find(options.model, base, demo), place.absolute()

    def preprocessing(self) -> Mapping[str, Any]:
        return {"margin": float(self.options.margin), "size": inception.SIZE, "names": identity(self.names)}

    def prepare(self, image: Any) -> np.ndarray:
        return np.asarray(image.resize((inception.SIZE, inception.SIZE), 2))  # bilinear

    def load(self, device: str) -> None:
        self.network.load(device)
        classes = self.network.classes
        if classes != len(self.names):
            raise UserError(
                f"labels {self.labels_file}: {len(self.names)} names for the {classes} classes of "
                f"{self.options.model!r}; expected one each"
            )

    def probabilities(self, crops: np.ndarray) -> np.ndarray:
        return base.to_array(self.network(crops).float().softmax(1))


class IdentityGallery(base.RowsExtractor):
    """The entities whose portraits' faces are nearest by cosine; an entity counts with the nearest of its faces."""

    VERSION = 1
    options: Options
    needs_kb = True

    def bind(self, kb: Any) -> None:
        """See `RowsExtractor.bind`: the gallery is every face found in the KB's pictures."""
        faces = kb.rows("vectors")
        counts = np.array([len(rows) for rows in faces], np.int64)
        shown = np.flatnonzero(counts)
        self.names = [kb.names[i] for i in shown]
        self.starts = counts[shown].cumsum() - counts[shown]
        self.vectors = (
            np.concatenate([np.asarray(faces[i], np.float32) for i in shown])
            if len(shown)
            else np.zeros((0, 1), np.float32)
        )
        digest = hashlib.sha256(np.ascontiguousarray(self.vectors).tobytes() + self.starts.tobytes())
        self.gallery = identity([self.names, digest.hexdigest()])

    def possible(self) -> dict[str, Output]:
        return {output.name: output for output in (*OUTPUTS, base.BOX)}

    def preprocessing(self) -> Mapping[str, Any]:
        return {"gallery": self.gallery}

    def load(self, device: str) -> None:
        pass

    def _near(self, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not len(self.names):
            return best(np.zeros((len(faces), 0), np.float32), [])
        step = max(1, _BLOCK // len(self.vectors))
        parts = [
            best(np.maximum.reduceat(faces[i : i + step] @ self.vectors.T, self.starts, axis=1), self.names)
            for i in range(0, len(faces), step)
        ]
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    def __call__(self, batch: Sequence[Mapping[str, np.ndarray]]) -> base.Outputs:
        rows: dict[str, list[np.ndarray]] = {"names": [], "scores": [], "box": []}
        for row in batch:
            faces = np.asarray(row["vectors"], np.float32)
            names, scores = self._near(faces) if len(faces) else best(np.zeros((0, 0), np.float32), [])
            rows["names"].append(names)
            rows["scores"].append(scores)
            rows["box"].append(np.asarray(row["box"], np.int32))
        return rows


extractor = Identity
