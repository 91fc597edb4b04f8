"""What the cached detections, attributes and names say of the demo's pictures, against what was drawn there.

`luigi --module tasks ExtractFeatures`, then `python benchmarks/demo_findings.py [--work-dir artifacts] [--sheet
OUT.png]`. Shares are over the pictures of the mentions that are whole files; a sheet shows some with what was found in
them.
"""

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from cache.keys import KeyColumn
from cache.store import Store
from foundation.tables import as_text, text_table
from pipeline.demo.drawing import draw_boxed
from pipeline.demo.faces import celebrities
from pipeline.demo.held_out_boxes import overlap
from pipeline.demo.looks import KINDS, ON_FACES
from pipeline.demo.world import SIZES, DemoPicture, World, make_world
from pipeline.extraction.feature_texts import THRESHOLD, names
from pipeline.extraction.parents import KnowledgeBase, Parent


def found_in(work: Path, side: str, feature: str, view: str = "image") -> Parent:
    """The feature's rows behind each record. The newest extraction counts."""
    for path in sorted(work.glob("receipts/ExtractGroup-*.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        result = json.loads(path.read_text())["result"]
        column = result["columns"].get(f"{side}.{feature}.{view}")
        if column:
            return Parent.of(
                Store.open(work / "cache" / result["features"][feature]["store"]), KeyColumn.load(work / column)
            )
    raise SystemExit(f"no {feature} of the {side} side in {work}; `luigi --module tasks ExtractFeatures` extracts it")


def drawn(picture: DemoPicture, seed: int) -> tuple[Image.Image, dict]:
    """The picture before it was compressed, and its boxes."""
    rng = random.Random(f"picture {seed} {picture.path}")
    kind, traits = (picture.shown.kind, picture.shown.traits) if picture.shown else (None, {})
    return draw_boxed(kind, traits, rng, rng.choice(SIZES))


def share(hits: list[bool]) -> str:
    return f"{100 * float(np.mean(hits)) if hits else float('nan'):5.1f} % of {len(hits)}"


@dataclass(frozen=True)
class Findings:
    """What was extracted of the demo's pictures. rows: feature -> a row per picture. labels: names of objects."""

    seed: int
    pictures: list[DemoPicture]
    rows: Mapping[str, list[Any]]
    labels: list[str]


def boxes(findings: Findings) -> dict[str, str]:
    """Shares of the drawn figures and faces that were found, and of the boxes that are right."""
    names = "figures found", "faces found (objects)", "faces found (faces)", "objects right", "faces right"
    figures: dict[str, list[bool]] = {name: [] for name in names}
    for picture, object_row, face_row in zip(
        findings.pictures, findings.rows["objects"], findings.rows["faces"], strict=True
    ):
        there = drawn(picture, findings.seed)[1]
        seen = [
            (findings.labels[label], tuple(box))
            for label, box in zip(object_row["labels"], object_row["boxes"].tolist(), strict=True)
        ]
        cut = [tuple(box) for box in face_row["boxes"].tolist()]
        for name, box in there.items():
            hit = any(name == other and overlap(box, place) >= 0.5 for other, place in seen)
            figures["faces found (objects)" if name == "face" else "figures found"].append(hit)
        if "face" in there:
            figures["faces found (faces)"].append(any(overlap(there["face"], place) >= 0.5 for place in cut))
        figures["objects right"] += [name in there and overlap(there[name], place) >= 0.5 for name, place in seen]
        figures["faces right"] += ["face" in there and overlap(there["face"], place) >= 0.5 for place in cut]
    return {name: share(hits) for name, hits in figures.items()}


def people(findings: Findings, labels: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Shares of people shown whose attributes are right, or who were named. labels: of each attribute."""
    names_of = "celebrity named", "celebrity under another name", "others named"
    figures: dict[str, list[bool]] = {name: [] for name in (*ON_FACES, *names_of)}
    known = {one.entity.id: one.label for one in celebrities(findings.seed)}
    rows = findings.rows["face_attributes"], findings.rows["identity"]
    for picture, row, recognised in zip(findings.pictures, *rows, strict=True):
        if picture.shown is None or picture.shown.kind != "person" or not len(row["box"]):
            continue
        for slot in ON_FACES:
            figures[slot].append(labels[slot][int(row[slot][0].argmax())] == picture.shown.traits[slot])
        named = [text.rpartition(", score: ")[0] for text in names(recognised, THRESHOLD)]
        if picture.shown.id in known:
            figures["celebrity named"].append(known[picture.shown.id] in named)
            figures["celebrity under another name"].append(bool(named) and known[picture.shown.id] not in named)
        else:
            figures["others named"].append(bool(named))
    return {name: share(hits) for name, hits in figures.items()}


def nearest_faces(world: World, mention_faces: Parent, entity_faces: Parent) -> dict[str, str]:
    """Whether the nearest portrait, by cosine, shows who is shown: the entity or one who looks the same. Over people
    with a face in a portrait.
    """
    entities = sorted(world.entities, key=lambda entity: entity.id)  # as the records are written
    faces = KnowledgeBase([], [], entity_faces).rows("vectors")
    owners = [entity for entity, vectors in zip(entities, faces, strict=True) for _ in vectors]
    gallery = np.concatenate(faces).astype(np.float32)
    known = {owner.id for owner in owners}
    hits = []
    for picture, row in zip(world.picture_of, mention_faces.rows(), strict=True):
        if (
            picture is not None
            and picture.shown is not None
            and picture.shown.id in known
            and row is not None
            and len(row["vectors"])
        ):
            best = owners[int((gallery @ row["vectors"][0].astype(np.float32)).argmax())]
            hits.append(best.looks_like(picture.shown))
    return {"nearest portrait looks the same": share(hits)}


def sheet(findings: Findings, path: Path) -> None:
    """48 pictures with their boxes: objects in red, faces in magenta."""
    objects, faces = findings.rows["objects"], findings.rows["faces"]
    page = Image.new("RGB", (8 * 150, 6 * 150))
    for place, number in enumerate(random.Random(0).sample(range(len(findings.pictures)), 48)):
        image = drawn(findings.pictures[number], findings.seed)[0]
        pen = ImageDraw.Draw(image)
        for box, label in zip(objects[number]["boxes"].tolist(), objects[number]["labels"], strict=True):
            pen.rectangle(box, outline="red")
            pen.text((box[0] + 2, box[1]), findings.labels[label], fill="red")
        for box in faces[number]["boxes"].tolist():
            pen.rectangle(box, outline="magenta")
        page.paste(image, (place % 8 * 150, place // 8 * 150))
    page.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, default=Path("artifacts"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args()
    work, world = options.work_dir, make_world(options.seed)
    parents = {
        name: found_in(work, "mention", name)
        for name in ("objects", "faces", "face_attributes", "identity", "face_embedding")
    }
    rows = {name: parent.rows() for name, parent in parents.items()}
    whole = [
        (place, picture)
        for place, picture in enumerate(world.picture_of)
        if picture is not None and rows["faces"][place] is not None
    ]
    findings = Findings(
        seed=options.seed,
        pictures=[picture for _, picture in whole],
        rows={name: [listed[place] for place, _ in whole] for name, listed in rows.items()},
        labels=list(parents["objects"].labels["labels"]),
    )
    assert set(findings.labels) == {*KINDS, "face"}
    figures = boxes(findings) | people(findings, parents["face_attributes"].labels)
    figures |= nearest_faces(world, parents["face_embedding"], found_in(work, "entity", "face_embedding", "images"))
    print(as_text(text_table(["in the demo's pictures", "share"], figures.items())))
    if options.sheet:
        sheet(findings, options.sheet)


if __name__ == "__main__":
    main()
