"""Further caches that a cache reads beneath itself and never writes to; a file beside its features names them."""

import os
from pathlib import Path

from foundation.checksums import read_sealed, write_sealed
from foundation.errors import NotAsWritten, UserError
from foundation.files import make_folder

LIST = "layers.json"
OPTION = "--cache-path"


def read(cache: Path) -> tuple[Path, ...]:
    """The layers of a cache, the first that has a row counts; none where it has none. Raises `UserError` where the list
    is damaged."""
    path = cache / LIST
    if not path.exists():
        return ()
    try:
        return tuple(Path(place) for place in read_sealed(path)["layers"])
    except (NotAsWritten, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not as it was written; name the folders again, {OPTION} {cache}:FOLDER, or delete the file"
        ) from error


def use(cache: Path, text: str, dry: bool = False) -> None:
    """Take the value of `--cache-path`: the cache's own folder (empty: as it is), then its layers, with colons between.

    They are remembered. cache: where the work folder has its cache. dry: nothing is written. Raises `UserError` for a
    folder that is not there, is no cache, or stands twice.
    """
    own, *further = text.split(":")
    _check_own(cache, own, text)
    layers = [Path(place).expanduser().absolute() for place in further if place]
    for number, layer in enumerate(layers):
        _check(cache, layer)
        if any(os.path.samefile(layer, other) for other in layers[:number]):
            raise UserError(f"{OPTION} {text}: {layer} stands twice; name it once")
    if dry:
        return
    if own and not os.path.lexists(cache):
        place = Path(own).expanduser().absolute()
        make_folder(place)
        make_folder(cache.parent)
        if place != cache:
            os.symlink(place, cache)
    if tuple(layers) != _listed(cache):
        make_folder(cache)
        if layers:
            write_sealed(cache / LIST, {"layers": [str(layer) for layer in layers]})
        else:
            (cache / LIST).unlink(missing_ok=True)


def _listed(cache: Path) -> tuple[Path, ...] | None:
    """The layers; None where the list is damaged, which naming them again mends."""
    try:
        return read(cache)
    except UserError:
        return None


def without(cache: Path, layer: Path) -> str:
    """The option that leaves a layer out."""
    others = [str(other) for other in read(cache) if other != layer]
    return f"{OPTION} {':'.join([str(cache), *others])}"


def _check_own(cache: Path, own: str, text: str) -> None:
    if not own or not os.path.lexists(cache):
        return
    place = Path(own).expanduser().absolute()
    if place != cache and not (place.is_dir() and os.path.samefile(place, cache)):
        raise UserError(
            f"{OPTION} {text}: this work folder has its cache in {cache.resolve()} already; leave the first folder out "
            f"({OPTION} :{text.partition(':')[2]}), or choose another --work-dir"
        )


def _check(cache: Path, layer: Path) -> None:
    """Raises `UserError` for a folder that cannot be a layer."""
    if not os.path.isdir(layer):
        raise UserError(f"{OPTION}: there is no folder {layer}; mount it, or leave it out")
    if os.path.isdir(cache) and os.path.samefile(layer, cache):
        raise UserError(f"{OPTION}: {layer} is this work folder's own cache; name it first, or leave it out")
    if not os.access(layer, os.R_OK | os.X_OK):
        raise UserError(f"{OPTION}: {layer} may not be read by this user; ask its owner for the right, or leave it out")
    if (layer / "cache").is_dir() and (layer / "receipts").is_dir():
        raise UserError(f"{OPTION}: {layer} is a work folder; name its cache, {layer / 'cache'}")
    inside = [entry.name for entry in os.scandir(layer) if entry.is_dir()]
    if inside and not any((layer / name / "spec.json").is_file() for name in inside):
        raise UserError(
            f"{OPTION}: {layer} holds no features (folders like clip_text-d87bf5947f423771 with a spec.json); name the "
            "folder `cache` of a work folder, or leave it out"
        )
