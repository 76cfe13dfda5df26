"""Every family whose code is not in transformers: files that its own code made and saved, and what it computed from them.

The cases lie in tests/data/families, made by tests/make_{timm,torch_repositories,jax}_arrays.py; about.json says with which
versions and seeds. (transformers' own families are compared live, in test_families_peers.py.)
"""

import json

import numpy as np
import pytest

from numpy_vit.convert import convert

from conftest import DATA, relative_error

FOLDER = DATA / "families"
CASES = sorted(path.parent.name for path in FOLDER.glob("*/expected.npz"))
SUFFIXES = (".npz", ".pth", ".pt", ".safetensors")


def weights_of(case):
    return next(f for f in sorted((FOLDER / case).iterdir()) if f.suffix in SUFFIXES and f.name != "expected.npz")


def told(case):
    return json.loads((FOLDER / case / "about.json").read_text())["told"]


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_upstream(case):
    expected = np.load(FOLDER / case / "expected.npz")
    checkpoint = convert(weights_of(case), told=told(case))
    out = checkpoint.model("float64")(expected["pixels"], strict=True)
    ours = {"tokens": out.last_hidden_state, "pooled": out.pooled, "logits": out.logits}
    compared = 0
    for name in expected.files:
        if name == "pooled" and checkpoint.config.distillation_head:
            continue  # timm's is the mean of two tokens, which no head sees
        if name.startswith("hidden."):
            got = out.hidden_states[int(name.removeprefix("hidden."))]
        elif name in ours:
            got = ours[name] if ours[name] is not None else out.image_embedding
        else:
            continue
        assert relative_error(got, expected[name]) < 1e-12, name
        compared += 1
    assert compared


@pytest.mark.parametrize("case", [case for case in CASES if (FOLDER / case / "config.json").exists()])
def test_config_files_of_timm_say_all_that_is_needed(case):
    asked = {key: value for key, value in told(case).items() if key == "rope_grid"}
    assert convert(weights_of(case), told=asked).config == convert(weights_of(case), told=told(case)).config
