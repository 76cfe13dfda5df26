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
        ("dino", {"family": "dyno"}, "'dyno' is no known family; did you mean 'dino'"),
        ("timm_clip", {"family": "torchvision", "told": {"heads": 3}}, "the file cannot tell"),
    ],
)
def test_what_is_told_must_not_contradict_the_file(case, options, message):
    with pytest.raises(InputError, match=message):
        convert(weights_of(case), **options)


def test_rotary_positions_are_not_guessed(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(weights_of("timm_dinov3").read_bytes())
    for family in (None, "timm"):
        with pytest.raises(InputError, match="no pos_embed: a model with rotary positions"):
            convert(tmp_path / "m.safetensors", family=family, told={"heads": 3})


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("timm_vit", {"global_pool": "max", "model_args": {}}, "global_pool 'max' is not supported"),
        ("timm_vit", {"global_pool": "max"}, "says global_pool 'max', its model_args say 'token'"),
        ("timm_vit", {"global_pool": ["avg"], "model_args": {}}, "not supported"),
        ("timm_vit", {"architecture": "vit_base_patch16_rope_mixed_224"}, "rope_type 'mixed' is not supported"),
        ("timm_vit", {"architecture": "vit_base_patch16_xp_224"}, "block_fn .*ParallelScalingBlock.* is not supported"),
        ("timm_vit", {"architecture": "vit_base_patch99_224"}, "not one of the plain ViTs of timm"),
        ("timm_vit", {"architecture": "vit_small_patch16_224", "model_args": {}}, "says patch 16 .*, the tensors say 4"),
        ("timm_vit", {"model_args": {"act_layer": "mish", "num_heads": 3}}, "act_layer 'mish' is not one of"),
        ("timm_vit", {"global_pool": "avg", "model_args": {"pool_include_prefix": True}}, "pool_include_prefix True: the mean"),
        ("timm_vit", {"model_args": {"surprise": False}}, "surprise False is not supported"),
        ("timm_vit", {"model_args": {"embed_norm_layer": "layernorm"}}, "embed_norm_layer 'layernorm' is not supported"),
        ("timm_vit", {"model_args": 3}, "must be tables"),
        ("timm_vit", {"pretrained_cfg": {"input_size": 3}, "model_args": {}}, "input_size 3 is not"),
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


def bare(case, tmp_path):
    """A case's weights without the config file beside them."""
    (tmp_path / weights_of(case).name).write_bytes(weights_of(case).read_bytes())
    return tmp_path / weights_of(case).name


def as_if_timm_had(monkeypatch, case, architecture, kind, **arguments):
    """timm's table with one more architecture, whose tensors are those of a case."""
    from numpy_vit.convert import timm_models
    from numpy_vit.convert.sources import read_weights

    tensors = FAMILIES["timm"].without_prefix(read_weights(weights_of(case))[0])
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    known = timm_models.table()
    models = {**known["models"], architecture: [kind, {"depth": 2, **arguments}, timm_models.shapes_key(shapes)]}
    monkeypatch.setattr(timm_models, "table", lambda: {**known, "models": models})


@pytest.mark.parametrize(("case", "family"), [("deit3", "deit3"), ("timm_vit", "timm")])
@pytest.mark.parametrize("arguments", [{"use_post_norm": True}, {"use_rot_pos_emb": True, "ref_feat_shape": [4, 4]}])
def test_tensors_that_may_be_another_model(case, family, arguments, tmp_path, monkeypatch):
    file = bare(case, tmp_path)
    asked = {"heads": 3, "image": told(case)["image"]}
    convert(file, told=asked)
    as_if_timm_had(monkeypatch, case, "vit_other", "Eva", **arguments)
    with pytest.raises(InputError, match=f"also those of timm's vit_other, another model: .* or by --family {family}"):
        convert(file, told=asked)
    convert(file, family=family, told=asked)


def test_what_architectures_of_the_same_tensors_differ_in_is_asked_for(tmp_path, monkeypatch):
    file = bare("timm_vit", tmp_path)
    for name, activation in (("vit_one", "gelu"), ("vit_two", "gelu_tanh")):
        as_if_timm_had(monkeypatch, "timm_vit", name, "VisionTransformer", act_layer=activation)
    with pytest.raises(InputError, match="the file cannot tell activation"):
        convert(file, told={"heads": 3, "image": [12, 16]})


@pytest.mark.parametrize(
    ("architecture", "fields"),
    [
        ("vit_base_patch16_plus_240", {"heads": 14, "width": 896}),
        ("vit_base_patch32_plus_256", {"heads": 14}),
        ("vit_base_patch16_plus_clip_240", {"heads": 14, "eps": 1e-5}),
        ("vit_base_patch14_reg1_tipsv2", {"registers": 1, "positions": "patches"}),
        ("vit_huge_patch16_radio_v4", {"registers": 9, "final_norm": "none", "image": 512}),
        ("vit_base_patch16_lingbot", {"rope": "centred_halves", "pooling": "class"}),
        ("vit_base_patch16_clip_quickgelu_224.openai", {"activation": "quick_gelu", "eps": 1e-5}),
        ("vit_base_patch16_224_in21k", {"heads": 12}),
    ],
)
def test_what_timms_table_says(architecture, fields):
    from numpy_vit.convert.timm_models import fields as read

    found, _ = read({"architecture": architecture}, [])
    assert {key: found[key] for key in fields} == fields
    assert found["heads"] * (found["width"] // found["heads"]) == found["width"]


def test_an_old_config_of_timm_lies_side_by_side(tmp_path):
    """pretrained_cfg's keys at the top, labels for label_names."""
    file = bare("timm_vit", tmp_path)
    config = json.loads((FOLDER / "timm_vit" / "config.json").read_text())
    args = config.pop("model_args")
    flat = {**config.pop("pretrained_cfg"), **config, "model_args": args, "labels": list("abcde")}
    (tmp_path / "config.json").write_text(json.dumps(flat))
    old, new = convert(file), convert(weights_of("timm_vit"))
    assert (old.config, old.preprocess, old.labels) == (new.config, new.preprocess, list("abcde"))
    flat["labels"] = {"0": "a", "3": "d"}
    (tmp_path / "config.json").write_text(json.dumps(flat))
    gaps = convert(file)
    assert gaps.labels is None and "label_names does not name the 5 classes" in " ".join(gaps.notes)


def test_a_distilled_model_with_timms_config_is_timms():
    """Its pictures are prepared as its file says, not as its family did once."""
    checkpoint = convert(weights_of("timm_deit_distilled"))
    assert checkpoint.source["family"] == "timm"
    assert checkpoint.preprocess.size != (256, 224) and "no file says" not in " ".join(checkpoint.notes)
    assert checkpoint.config.position_rule == "bicubic_antialias"


def test_the_tanh_layer_of_old_timm_is_seen(tmp_path):
    """pre_logits.fc, which its head saw; the head over visual words is left out."""
    from numpy_vit.convert.sources import read_weights
    from numpy_vit.files.tensorfile import tensor_of, write

    tensors, _ = read_weights(weights_of("timm_vit"))
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(24, 24)).astype("f4"), rng.normal(size=24).astype("f4")
    more = {"pre_logits.fc.weight": tensor_of(weight), "pre_logits.fc.bias": tensor_of(bias)}
    write(tmp_path / "m.safetensors", {**tensors, **more, "lm_head.weight": tensor_of(weight)}, {})
    checkpoint = convert(tmp_path / "m.safetensors", told={"heads": 3, "image": [12, 16]})
    pixels = np.random.default_rng(1).normal(size=(2, 3, 12, 16))
    out = checkpoint.model("float64")(pixels)
    seen = np.tanh(out.last_hidden_state[:, 0] @ weight.T.astype("f8") + bias)
    head = {name: tensors[f"head.{name}"].data.astype("f8") for name in ("weight", "bias")}
    assert relative_error(out.logits, seen @ head["weight"].T + head["bias"]) < 1e-12
    assert "lm_head.weight is left out" in " ".join(checkpoint.notes)


def test_a_gate_that_only_code_names_may_be_written_into_the_config(tmp_path):
    """Virchow2's folder: its mlp_layer is an argument of the user's call, in no file."""
    from numpy_vit.convert.timm_models import fields

    args = {
        "mlp_layer": "SwiGLUPacked",
        "act_layer": "silu",
        "reg_tokens": 4,
        "mlp_ratio": 5.3375,
        "global_pool": "",
        "num_classes": 0,
    }
    notes = []
    found, _ = fields({"architecture": "vit_huge_patch14_224", "model_args": args}, notes)
    assert (found["gated_mlp"], found["activation"], found["mlp"], found["registers"]) == (True, "silu", 3416, 4)
    assert found["pooling"] == "class" and "timm pools nothing" in notes[0]
    with pytest.raises(InputError, match="mlp_layer 'GluMlp': a gate in the second half"):
        fields({"architecture": "vit_huge_patch14_224", "model_args": {**args, "mlp_layer": "GluMlp"}}, [])
