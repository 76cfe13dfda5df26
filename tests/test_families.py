"""Every family whose code is not in transformers: files that its own code made and saved, and what it computed from them.

The cases lie in tests/data/families, made by tests/make_{timm,torch_repositories,jax}_arrays.py; about.json says with which
versions and seeds. (transformers' own families are compared live, in test_families_peers.py.)
"""

import json

import numpy as np
import pytest

from numpy_vit import InputError
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
    out = checkpoint.model("float64")(expected["pixels"], record="hidden_states", strict=True)
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


@pytest.mark.parametrize(
    ("case", "options", "message"),
    [
        ("augreg", {"told": {"heads": 6}}, "heads=6 is told, the tensors say 3"),
        ("augreg", {"told": {"depth": 1}}, "depth=1 is told, the tensors say 2"),
        ("dino", {"family": "eva02", "told": {"heads": 3}}, "its tensors are not EVA-02's"),
        ("timm_dinov3", {"family": "timm", "told": {"heads": 3}}, "no pos_embed: a model with rotary positions"),
        ("dino", {"family": "dyno"}, "'dyno' is no known family; did you mean 'dino'"),
        ("timm_clip", {"family": "torchvision", "told": {"heads": 3}}, "the file cannot tell"),
    ],
)
def test_what_is_told_must_not_contradict_the_file(case, options, message):
    with pytest.raises(InputError, match=message):
        convert(weights_of(case), **options)


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("timm_vit", {"global_pool": "max"}, "global_pool 'max' is not supported"),
        ("timm_vit", {"global_pool": ["avg"]}, "makes no sense|not supported"),
        ("timm_vit", {"architecture": "vit_base_patch16_rope_224"}, "a model of another kind"),
        ("timm_vit", {"architecture": "vit_base_patch16_rpn_224"}, "a model of another kind"),
        ("timm_vit", {"model_args": {"act_layer": "mish", "num_heads": 3}}, "act_layer 'mish' is not one of"),
        ("timm_vit", {"model_args": {"pool_include_prefix": True}}, "pool_include_prefix True is not supported"),
        ("timm_vit", {"model_args": 3}, "must be tables"),
        ("timm_vit", {"pretrained_cfg": {"input_size": 3}, "model_args": {}}, "makes no sense"),
    ],
)
def test_config_files_of_timm_that_ask_for_more(case, changes, message, tmp_path):
    for file in (FOLDER / case).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(InputError, match=message) as error:
        convert(tmp_path / "model.safetensors")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attentional_pool": True}, "attentional_pool True is not supported"),
        ({"pool_type": "none"}, "pool_type 'none' is not supported"),
        ({"width": "24"}, "makes no sense"),
        ({"head_width": 0}, "makes no sense"),
    ],
)
def test_config_files_of_open_clip_that_ask_for_more(changes, message, tmp_path):
    config = json.loads((FOLDER / "open_clip" / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"] |= changes
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        convert(weights_of("open_clip"), config=tmp_path / "open_clip_config.json")


def test_a_clip_that_takes_the_mean_is_read_so(tmp_path):
    """OpenCLIP's CLIPA: the mean of the patches, normed after, is not the class token's vector."""
    config = json.loads((FOLDER / "open_clip" / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"] |= {"pool_type": "avg", "final_ln_after_pool": True, "norm_kwargs": {"eps": 1e-3}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    found = convert(weights_of("open_clip"), config=tmp_path / "open_clip_config.json").config
    assert (found.pooling, found.final_norm, found.eps) == ("mean", "pooled", 1e-3)


def test_training_checkpoints_hold_several_models(tmp_path):
    """DINO's hold a student and a teacher, whom its own evaluation takes; others put prefixes before all names."""
    from numpy_vit.convert.sources import read_weights
    from numpy_vit.files.tensorfile import write

    tensors, _ = read_weights(weights_of("dino"))
    nested = {f"{who}.backbone.{name}": tensor for who in ("student", "teacher") for name, tensor in tensors.items()}
    write(tmp_path / "both.safetensors", nested, {})
    write(tmp_path / "deep.safetensors", {f"state_dict.module.backbone.{n}": t for n, t in tensors.items()}, {})
    expected = convert(weights_of("dino"), family="dino", told={"heads": 3}).tensors
    for file in ("both", "deep"):
        found = convert(tmp_path / f"{file}.safetensors", family="dino", told={"heads": 3})
        assert all(np.array_equal(found.tensors[name].data, tensor.data) for name, tensor in expected.items())
    assert "teacher.backbone." in " ".join(convert(tmp_path / "both.safetensors", family="dino", told={"heads": 3}).notes)
