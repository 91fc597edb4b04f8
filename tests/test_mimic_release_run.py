"""MIMIC as published, from a folder of data to linked mentions: with the encoder's states at padding positions."""

import json

import pytest
import small_world
import yaml

import mel_cache
from heads.checkpoint import read_tensors

PARAMS = {"release": True, "epochs": 1, "d_t": 8, "d_v": 8, "d_c": 8}


@pytest.mark.parametrize("positions", [None, 32])
def test_padding_states_are_trained_on_and_linked_with_where_the_profile_writes_them(tmp_path, positions):
    small_world.write(tmp_path / "data", mentions=60)
    profile = small_world.profile(tmp_path)
    content = yaml.safe_load(profile.read_text())
    content["features"]["clip_text"]["pad_to"] = positions
    profile.write_text(yaml.safe_dump(content))
    dataset = mel_cache.prepare(
        mel_cache.DatasetJob(
            name="mine", data_dir=tmp_path / "data", profile=str(profile), work_dir=tmp_path / "artifacts"
        )
    )
    candidates = mel_cache.build_candidates(mel_cache.CandidatesJob(dataset=dataset, k=8))
    head = mel_cache.train(mel_cache.HeadJob(candidates=candidates, method="mimic", params=PARAMS))
    shapes = read_tensors(head.folder / "model.safetensors")[1]["shapes"]
    assert shapes.get("text.padded") == ([positions, shapes["text.tokens"][0]] if positions else None)
    line = {"sentence": "Powers was seen in the green city.", "mention": "Powers"}
    (tmp_path / "new.jsonl").write_text(json.dumps(line) + "\n")
    mel_cache.link(mel_cache.LinkJob(run=head.folder, input=tmp_path / "new.jsonl", output=tmp_path / "linked.jsonl"))
    (answer,) = map(json.loads, (tmp_path / "linked.jsonl").read_text().splitlines())
    assert len(answer["entities"]) == 5
