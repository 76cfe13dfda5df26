"""Every family whose code is not in transformers: files that its own code made and saved, and what it computed from them.

The cases lie in tests/data/families, made by tests/make_{timm,torch_repositories,jax}_arrays.py; about.json says with which
versions and seeds. (transformers' own families are compared live, in test_families_peers.py.)
"""

import json

import numpy as np
import pytest

from numpy_vit.convert import FAMILIES, convert

from conftest import DATA, relative_error

FOLDER = DATA / "families"
CASES = sorted(path.parent.name for path in FOLDER.glob("*/expected.npz") if path.parent.name != "big_vision_resize")
NAMED = {"dino": "dino", "mae_finetuned": "mae"}  # their names are timm's
SUFFIXES = (".npz", ".pth", ".pt", ".safetensors")


def weights_of(case):
    return next(f for f in sorted((FOLDER / case).iterdir()) if f.suffix in SUFFIXES and f.name != "expected.npz")


def told(case):
    return json.loads((FOLDER / case / "about.json").read_text())["told"]


def converted(case):
    """With nothing told but what the file cannot tell."""
    about = told(case)
    asked = {key: about[key] for key in ("heads", "image") if key in about}
    if case == "openai_clip":
        asked["activation"] = about["activation"]
    if case in ("timm_dinov3", "timm_dinov3_qkvb"):
        asked["pooling"] = about["pooling"]
    return convert(weights_of(case), family=NAMED.get(case), told=asked)


def pairs(case):
    """The converted checkpoint, and (name, (ours, theirs)) of everything that upstream shows."""
    expected = np.load(FOLDER / case / "expected.npz")
    checkpoint = converted(case)
    out = checkpoint.model("float64")(expected["pixels"], strict=True)
    last = out.logits if out.logits is not None else out.image_embedding
    ours = {"tokens": out.last_hidden_state, "pooled": out.pooled, "logits": last, "image_embedding": out.image_embedding}
    ours |= {f"hidden.{n}": hidden for n, hidden in enumerate(out.hidden_states)}
    if checkpoint.config.distillation_head:
        del ours["pooled"]  # timm's is the mean of two tokens, which no head sees
    if checkpoint.config.pre_logits:
        ours["pooled"] = out.pooler_output  # theirs is what the head sees
    if checkpoint.config.final_norm == "pooled":
        ours.pop("tokens")  # theirs norms all tokens, of which it takes one
    if checkpoint.source["family"] == "eva02" and "recomputed.pooled" in expected:  # with rotary tables that are exact, as ours
        ours = {"hidden.0": ours["hidden.0"], "recomputed.pooled": ours["pooled"], "recomputed.logits": ours["logits"]}
    return checkpoint, [(name, (ours[name], expected[name])) for name in expected.files if name in ours]


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_upstream(case):
    checkpoint, found = pairs(case)
    for key, value in told(case).items():  # what the family's own code and files say of the rest
        assert getattr(checkpoint.config, key) == (tuple(value) if isinstance(value, list) else value), key
    assert len(found) >= checkpoint.config.depth
    for name, (ours, theirs) in found:
        assert relative_error(ours, theirs) < 1e-12, name


@pytest.mark.parametrize("case", [case for case in CASES if "resized.pixels" in np.load(FOLDER / case / "expected.npz").files])
def test_positions_are_resized_as_upstream_does(case):
    expected = np.load(FOLDER / case / "expected.npz")
    out = converted(case).model("float64")(expected["resized.pixels"], resize_positions=True)
    for name, ours in (("tokens", out.last_hidden_state), ("pooled", out.pooled), ("logits", out.logits)):
        if f"resized.{name}" in expected:
            assert relative_error(ours, expected[f"resized.{name}"]) < 1e-12, name


def test_the_page_of_families_is_what_the_code_says():
    import family_table

    assert family_table.PAGE.read_text(encoding="utf-8") == family_table.page()
    measured = json.loads(family_table.AGREEMENT.read_text())
    assert set(measured) == set(FAMILIES) and all(entry["error"] < 1e-12 for entry in measured.values())


@pytest.mark.parametrize("case", [case for case in CASES if (FOLDER / case / "config.json").exists()])
def test_config_files_of_timm_say_all_that_is_needed(case):
    asked = {key: value for key, value in told(case).items() if key == "rope_grid"}
    assert convert(weights_of(case), told=asked).config == convert(weights_of(case), told=told(case)).config
