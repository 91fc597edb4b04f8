"""What travels to a machine that shares no files with this one, and what computes there: chunk → shard bytes."""

import dataclasses
import functools
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache.identity import identity
from cache.store import Store
from foundation import progress
from foundation.errors import PassingError, UserError
from foundation.files import inside
from pipeline.datasets.images import ImageError, Limits, read_picture
from pipeline.extraction.base import DerivedOptions, Extractor
from pipeline.extraction.chunks import Chunk
from pipeline.extraction.contracts import Runtime
from pipeline.extraction.runner import Runner, Target
from pipeline.extraction.units import Part, Units, picture_of
from pipeline.extractors import build, check_options, extractor_kind
from pipeline.models import files as model_files
from pipeline.profiles.profile import Feature, Profile

PIECE_BYTES = 64 << 20  # of the units that travel together
PIECES = 3  # that a machine holds of a chunk at a time
SMALL = 4 << 20  # bytes of a file below which it travels with a model whatever its ending
ENDINGS = {".json", ".safetensors", ".bin", ".pth", ".pt", ".onnx", ".txt", ".model"}
_SHIPPED = "shipped:"


@dataclass(frozen=True)
class Shipment:
    """All that a machine needs to compute chunks of some features.

    features: of the profile; their models lie in `files`. specs: of their stores. parents: identities of what each is
    made from. files: of models, by path below a folder of that machine.
    """

    features: tuple[Feature, ...]
    specs: Mapping[str, Mapping[str, Any]]
    parents: Mapping[str, Mapping[str, str]]
    limits: Limits
    runtime: Runtime
    files: Mapping[str, bytes]


def shipment(profile: Profile, stores: Mapping[str, Store], demo: Path | None, runtime: Runtime) -> Shipment:
    """The shipment of the features that have these stores. Models of installed packages do not travel."""
    features, files = list[Feature](), dict[str, bytes]()
    parents: dict[str, dict[str, str]] = {}
    for name, store in stores.items():
        feature = profile.feature(name)
        where = f"profile {profile.name!r}"
        options = check_options(feature, where)
        places = {}
        for reference in extractor_kind(feature, where).references(options):
            place = _place(reference, profile.source, demo)
            if place is not None:
                places[reference] = f"{_SHIPPED}{identity(str(place))[:16]}/{place.name}"
                files |= dict(_files(place, places[reference].removeprefix(_SHIPPED)))
        features.append(dataclasses.replace(feature, options=_replaced(feature.options, places.get)))
        reads = store.spec.get("reads", [])
        parents[name] = dict(zip([options.of], reads, strict=True)) if isinstance(options, DerivedOptions) else {}
    return Shipment(
        features=tuple(features),
        specs={name: store.spec for name, store in stores.items()},
        parents=parents,
        limits=Limits(**profile.limits),
        runtime=runtime,
        files=files,
    )


def _place(reference: str, base: Path, demo: Path | None) -> Path | None:
    """The folder or file of a model that must travel; None of one that its library or a package brings."""
    if reference.startswith("package:"):
        return None
    try:
        place = model_files.locate(reference, base, demo, fetch=False)
    except UserError:
        return None
    return place if place is not None and place.exists() else None


def _files(place: Path, name: str) -> Iterator[tuple[str, bytes]]:
    """The bytes of a model's files, by `name` and their path below `place`."""
    if place.is_file():
        yield name, place.read_bytes()
        return
    for folder, _, names in os.walk(place, followlinks=True):
        for file in sorted(names):
            path = Path(folder, file)
            if path.is_file() and (path.suffix in ENDINGS or path.stat().st_size < SMALL):
                yield f"{name}/{path.relative_to(place).as_posix()}", path.read_bytes()


def _replaced(options: Mapping[str, Any], place: Callable[[str], str | None]) -> dict[str, Any]:
    """Options whose references are replaced, also those in a mapping."""

    def one(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: one(item) for key, item in value.items()}
        return (place(value) or value) if isinstance(value, str) else value

    return {key: one(value) for key, value in options.items()}


def pieces(sources: Sequence[Any], limits: Limits) -> Iterator[list[Any]]:
    """A chunk's units in pieces of about `PIECE_BYTES`, pictures with their bytes."""
    piece: list[Any] = []
    size = 0
    for source in sources:
        unit, taken = _with_data(source, limits)
        if piece and size + taken > PIECE_BYTES:
            yield piece
            piece, size = [], 0
        piece.append(unit)
        size += taken
    if piece:
        yield piece


def _with_data(source: Any, limits: Limits) -> tuple[Any, int]:
    """A unit that can be read elsewhere, and about how many bytes it takes."""
    if isinstance(source, str):
        return source, len(source)
    picture = picture_of(source)
    data: bytes | Exception
    try:
        data = read_picture(Path(picture.path), limits)
    except (ImageError, PassingError) as error:
        data = error
    except OSError as error:
        data = PassingError(f"{type(error).__name__}: {error}")
    shipped = dataclasses.replace(picture, data=data)
    taken = len(data) if isinstance(data, bytes) else 0
    return (dataclasses.replace(source, picture=shipped) if isinstance(source, Part) else shipped), taken


class Pieces(Sequence[Any]):
    """The units of a chunk, whose pieces are fetched when they are read; a few are held at a time."""

    def __init__(self, lengths: Sequence[int], parts: Sequence[Any], get: Callable[[Any], list[Any]]) -> None:
        """lengths: units of each piece. parts: what `get` gives them for."""
        self._starts = np.cumsum([0, *lengths])
        self._parts, self._get, self._lock = parts, get, threading.Lock()
        self._held: OrderedDict[int, list[Any]] = OrderedDict()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        if not 0 <= place < len(self):
            raise IndexError(place)
        number = int(np.searchsorted(self._starts, place, side="right")) - 1
        with self._lock:
            if number not in self._held:
                self._held[number] = self._get(self._parts[number])
                while len(self._held) > PIECES:
                    self._held.popitem(last=False)
            return self._held[number][place - int(self._starts[number])]


@dataclass(frozen=True)
class Computed:
    """A chunk's rows. shards: by feature, name and bytes. undone: pictures that could not be read, a line each. probes:
    by feature. device: where the models ran."""

    shards: Mapping[str, Sequence[tuple[str, bytes]]]
    undone: Sequence[str]
    probes: Mapping[str, Any]
    device: str | None


@dataclass(frozen=True)
class Refused:
    """Why a chunk was not computed: the lines of a `UserError`."""

    lines: Sequence[str]


class Machine:
    """Computes chunks in folders of its own; its models stay loaded."""

    def __init__(self, shipped: Shipment) -> None:
        os.environ[progress.NO_BAR] = "1"
        self._folder = tempfile.TemporaryDirectory(prefix="mel-")
        self._shipped, root = shipped, Path(self._folder.name)
        for name, data in shipped.files.items():
            path = inside(root, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        self._probes: dict[str, Any] = {}  # of the models that were loaded
        self._runner = Runner(shipped.runtime, shipped.limits, root / "rates.json")

    @functools.cached_property
    def _extractors(self) -> dict[str, Extractor]:
        """Raises `UserError` for one that gives other numbers than the rows of its store have."""
        root, built = Path(self._folder.name), dict[str, Extractor]()

        def place(value: str) -> str | None:
            return str(root / value.removeprefix(_SHIPPED)) if value.startswith(_SHIPPED) else None

        for feature in self._shipped.features:
            here = dataclasses.replace(feature, options=_replaced(feature.options, place))
            extractor = build(here, root, None, fetch=False)
            limits, spec = dataclasses.asdict(self._shipped.limits), self._shipped.specs[feature.name]
            if identity(extractor.spec(None, limits, self._shipped.parents[feature.name])) != identity(dict(spec)):
                raise UserError(
                    f"{os.uname().nodename}: this package, or the model of {feature.name}, is another version there; "
                    "install the same one on every machine"
                )
            built[feature.name] = extractor
        return built

    def compute(
        self, features: Sequence[str], keys: np.ndarray, units: Sequence[Any], probes: Mapping[str, Any]
    ) -> Computed | Refused:
        """The shards of a chunk. units: what is read for each key. probes: known ones, by feature."""
        try:
            with tempfile.TemporaryDirectory(dir=self._folder.name) as scratch:
                return self._computed(features, Units(keys, units), probes, Path(scratch))
        except UserError as error:
            return Refused(list(map(str, error.args)))

    def _computed(
        self, features: Sequence[str], units: Units, probes: Mapping[str, Any], scratch: Path
    ) -> Computed | Refused:
        targets = []
        for name in features:
            store = Store.create(scratch, name, dict(self._shipped.specs[name]))
            if known := probes.get(name) or self._probes.get(name):
                store.set_probe(known)
            targets.append(Target(name, self._extractors[name], store))
        chunk = Chunk(tuple(features), len(units.keys), Store.shard_name(units.keys), lambda: units)
        device, undone = None, list[str]()
        try:
            device = self._runner.run(targets, [chunk]).device
        except PassingError:
            undone = list(self._runner.undone)
        self._probes |= {one.name: one.store.probe for one in targets}
        return Computed(
            shards={
                one.name: [(path.name, path.read_bytes()) for path in sorted(one.store.folder.glob("*.h5"))]
                for one in targets
            },
            undone=undone,
            probes={one.name: self._probes[one.name] for one in targets},
            device=device,
        )
