"""Which file stands for a picture that a record lists.

Records are written on one machine and pictures unpacked on another, so the names of both may differ in Unicode's
composed or decomposed form, in case and, in releases, in their extension. A file that is meant without doubt is taken:
one that no record lists by its own name, and the only one that is as near.
"""

import os
import re
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import unquote

from foundation.errors import UserError
from foundation.files import inside

EXTENSIONS = (".jpg", ".jpeg", ".JPG", ".JPEG", ".png", ".PNG", ".gif", ".webp")
"""Of a picture that a release converted without changing its records, the likeliest first."""
_PICTURE = re.compile(r"(.+)\.(?:jpe?g|png|svg|gif|webp|bmp|tiff?)", re.IGNORECASE)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _composed(_composed(name).casefold())


def _stem(name: str) -> str:
    match = _PICTURE.fullmatch(name)
    return _folded(match[1] if match else name)


class PictureFolder:
    """Finds the files of listed pictures below one folder.

    listed: all paths that records list; the file of one is never taken for another. follow_links: whether symbolic
    links may lead out of the folder, as where pictures lie on another disk or in a download cache.
    """

    forms: tuple[Callable[[str], str], ...] = (_composed, _folded)

    def __init__(self, root: Path, listed: Iterable[str] = (), follow_links: bool = True) -> None:
        self.root, self.follow_links = root, follow_links
        self.listed = {self._name(path) for path in listed}
        self._names: dict[str, frozenset[str]] = {}
        self._tables: dict[tuple[str, Callable[[str], str]], dict[str, list[str]]] = {}
        self._parents: set[str] = set()

    def find(self, listed: str, where: str) -> str:
        """Path of the file, relative to the folder; the listed path itself, normalised, where no file stands for it.

        where: file and record, for messages. Raises `UserError` where the path leaves the folder, by its text or, if
        links are not followed, through a symbolic link, or where it names no file.
        """
        path = self._name(listed)
        if "\0" in path or "\\" in path or os.path.isabs(path) or ".." in path.split("/"):
            raise UserError(
                f"{where}: path {listed!r} leaves the folder {self.root}; only paths relative to that folder are read"
            )
        if path == "." or not os.path.basename(listed):
            raise UserError(f"{where}: image path {listed!r} names no file; give a file name or leave the field out")
        if not self.holds(path):
            path = self._nearest(path) or path
        if not self.follow_links:
            self._check_links(path, where)
        return path

    @property
    def size(self) -> int:
        """Folders whose names or links are remembered."""
        return len(self._names) + len(self._parents)

    def holds(self, path: str) -> bool:
        """Whether something is at this path, which is relative to the folder."""
        try:
            return os.path.lexists(self.root / path)
        except (OSError, ValueError):  # a name that no file can have
            return False

    def names(self, parent: str = "") -> frozenset[str]:
        """Names in the folder, or in a folder below it; none where there is no such folder. They are read once."""
        if parent not in self._names:
            try:
                self._names[parent] = frozenset(os.listdir(self.root / parent))
            except OSError:
                self._names[parent] = frozenset()
        return self._names[parent]

    def _name(self, listed: str) -> str:
        """The path that a record means."""
        return os.path.normpath(listed)

    def _nearest(self, path: str) -> str | None:
        """Path of the only file that differs from `path` by one of `forms`, the nearest form first."""
        parent, name = os.path.split(path)
        done = ""
        for part in parent.split("/") if parent else ():
            exact = part if self.holds(os.path.join(done, part)) else self._alike(done, part, (_composed, _folded))
            if exact is None:
                return None
            done = os.path.join(done, exact)
        there = name if self.holds(os.path.join(done, name)) else self._alike(done, name, self.forms)
        return None if there is None else os.path.join(done, there)

    def _alike(self, parent: str, name: str, forms: Iterable[Callable[[str], str]]) -> str | None:
        for form in forms:
            if (parent, form) not in self._tables:
                table = self._tables[parent, form] = {}
                for other in self.names(parent):
                    if os.path.join(parent, other) not in self.listed:
                        table.setdefault(form(other), []).append(other)
            alike = self._tables[parent, form].get(form(name), ())
            if alike:
                return alike[0] if len(alike) == 1 else None
        return None

    def _check_links(self, path: str, where: str) -> None:
        parent, name = os.path.split(path)
        try:
            if parent not in self._parents:
                inside(self.root, parent)
                self._parents.add(parent)
            if os.path.islink(self.root / parent / name):
                inside(self.root, path)
        except UserError as error:
            raise UserError(f"{where}: {error}, or leave out --no-follow-links") from error


class ReleasePictures(PictureFolder):
    """As `PictureFolder`, for releases: a record may list a URL, of which the last part counts, a name that is
    percent-encoded, or one that had another extension before the release converted its pictures.
    """

    forms = (_composed, _folded, _stem)

    def _name(self, listed: str) -> str:
        if re.match(r"https?://", listed):
            listed = listed.rstrip("/").rsplit("/", 1)[-1]
        return super()._name(listed)

    def _nearest(self, path: str) -> str | None:
        name = os.path.basename(path)
        stems = dict.fromkeys(os.path.splitext(form)[0] for form in (name, unquote(name)))
        # The last one: MIMIC's release cuts a picture's name at its first dot when it converts it.
        others = [name, unquote(name), *(s + e for s in stems for e in EXTENSIONS), name.split(".")[0] + ".jpg"]
        there = next((other for other in others if other not in self.listed and other in self.names()), None)
        if there is not None:
            return there
        return super()._nearest(path) or (super()._nearest(unquote(name)) if unquote(name) != name else None)
