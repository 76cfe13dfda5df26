"""What config.json of transformers' later families means, key by key; no tensor is read (the peers' tests compare those)."""

import dataclasses

import numpy as np
import pytest

from numpy_vit import InputError, random_model
from numpy_vit.convert import convert
from numpy_vit.convert.to_hugging_face import write_hugging_face
from numpy_vit.files.converted import Checkpoint
from numpy_vit.files.tensorfile import tensor_of
from numpy_vit.models.loading import config_of_content

SIZES = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40, "image_size": 32,
    "patch_size": 8, "layer_norm_eps": 1e-6, "hidden_act": "gelu",
}  # fmt: skip
LABELS = {"id2label": {str(n): f"label {n}" for n in range(5)}}


def read(model_type, kind, **said):
    sizes = {} if "vision_config" in said else SIZES
    return config_of_content("it", {"model_type": model_type, "architectures": [kind], **sizes, **said})


def fields(*words, **said):
    config, _ = read(*words, **said)
    return config


BEIT = ("beit", "BeitModel")
CASES = [
    (BEIT, {}, dict(positions="none", relative_positions=False, layer_scale=True, pooling="mean", final_norm="pooled",
                    without_bias=("attention.key",), position_rule="bilinear", pooler=0, classes=0)),
    (BEIT, {"use_mean_pooling": False}, dict(pooling="class", final_norm="tokens")),
    (BEIT, {"layer_scale_init_value": 0}, dict(layer_scale=False)),
    (BEIT, {"layer_scale_init_value": 1e-5}, dict(layer_scale=True)),
    (BEIT, {"layer_scale_init_value": None}, dict(layer_scale=False)),
    (BEIT, {"use_absolute_position_embeddings": True},
     dict(positions="all", relative_positions=False, position_rule="bicubic")),
    (BEIT, {"use_relative_position_bias": True}, dict(positions="none", relative_positions=True, position_rule="bilinear")),
    (BEIT, {"use_shared_relative_position_bias": True}, dict(relative_positions=True, position_rule="bilinear")),
    (BEIT, {"use_absolute_position_embeddings": True, "use_relative_position_bias": True},
     dict(positions="all", relative_positions=True, position_rule="bilinear")),
    (("beit", "BeitForImageClassification"), LABELS, dict(classes=5, pooling="mean")),
    (("deit", "DeiTModel"), {}, dict(distillation_token=True, distillation_head=False, classes=0, pooler=24, qkv_bias=True)),
    (("deit", "DeiTModel"), {"qkv_bias": False, "pooler_output_size": 7}, dict(qkv_bias=False, pooler=7)),
    (("deit", "DeiTForImageClassification"), LABELS, dict(distillation_head=False, classes=5, pooler=0)),
    (("deit", "DeiTForImageClassificationWithTeacher"), LABELS, dict(distillation_head=True, classes=5)),
    (("dinov2", "Dinov2Model"), {}, dict(mlp=96, gated_mlp=False, activation="gelu", registers=0, pooling="class",
                                         layer_scale=True, position_rule="bicubic", qkv_bias=True)),
    (("dinov2", "Dinov2Model"), {"mlp_ratio": 3}, dict(mlp=72)),
    (("dinov2", "Dinov2Model"), {"use_swiglu_ffn": True}, dict(mlp=64, gated_mlp=True, activation="silu")),
    (("dinov2", "Dinov2Model"), {"use_swiglu_ffn": True, "mlp_ratio": 2}, dict(mlp=32)),
    (("dinov2", "Dinov2Model"), {"use_swiglu_ffn": True, "hidden_size": 27}, dict(mlp=72)),
    (("dinov2", "Dinov2ForImageClassification"), LABELS, dict(classes=5, pooling="class_and_mean")),
    (("dinov2_with_registers", "Dinov2WithRegistersModel"), {}, dict(registers=4, position_rule="bicubic_antialias")),
    (("dinov2_with_registers", "Dinov2WithRegistersModel"), {"num_register_tokens": 1}, dict(registers=1)),
    (("dinov3_vit", "DINOv3ViTModel"), {}, dict(registers=0, gated_mlp=False, qkv_bias=True, without_bias=("attention.key",),
                                                positions="none", rope="centred_halves", layer_scale=True, pooling="class")),
    (("dinov3_vit", "DINOv3ViTModel"), {"key_bias": True, "num_register_tokens": 4}, dict(without_bias=(), registers=4)),
    (("dinov3_vit", "DINOv3ViTModel"), {"query_bias": False, "value_bias": False}, dict(qkv_bias=False, without_bias=())),
    (("dinov3_vit", "DINOv3ViTModel"), {"proj_bias": False, "key_bias": True}, dict(without_bias=("attention.output",))),
    (("dinov3_vit", "DINOv3ViTModel"), {"mlp_bias": False, "key_bias": True}, dict(without_bias=("mlp.hidden", "mlp.output"))),
    (("dinov3_vit", "DINOv3ViTModel"), {"mlp_bias": False, "key_bias": True, "use_gated_mlp": True, "hidden_act": "silu"},
     dict(gated_mlp=True, without_bias=("mlp.gate", "mlp.hidden", "mlp.output"))),
    (("clip_vision_model", "CLIPVisionModel"), {}, dict(projection=0, pooling="class", final_norm="pooled", pre_norm=True,
                                                        without_bias=("embed.projection",))),
    (("clip_vision_model", "CLIPVisionModelWithProjection"), {}, dict(projection=512)),
    (("clip_vision_model", "CLIPVisionModelWithProjection"), {"projection_dim": 6}, dict(projection=6)),
    (("clip", "CLIPModel"), {"projection_dim": 6, "vision_config": SIZES}, dict(projection=6, width=24, patch=8)),
    (("clip", "CLIPForImageClassification"), {**LABELS, "vision_config": SIZES},
     dict(classes=5, projection=0, pooling="mean", final_norm="none")),
    (("siglip_vision_model", "SiglipVisionModel"), {}, dict(pooling="map", class_token=False, position_rule="bicubic")),
    (("siglip_vision_model", "SiglipVisionModel"), {"vision_use_head": False}, dict(pooling="mean")),
    (("siglip", "SiglipForImageClassification"), {**LABELS, "vision_config": SIZES}, dict(pooling="mean", classes=5)),
    (("siglip2_vision_model", "Siglip2VisionModel"), {"num_patches": 9, "image_size": None},
     dict(image=(24, 24), pooling="map", position_rule="bilinear_antialias")),
]  # fmt: skip


@pytest.mark.parametrize("words, said, expected", CASES, ids=lambda value: str(value)[:60])
def test_what_config_json_means(words, said, expected):
    config = fields(*words, **said)
    for name, value in expected.items():
        found = getattr(config, name)
        assert set(found) == set(value) if name == "without_bias" else found == value, (name, found)
    assert (config.width, config.depth, config.heads, config.patch, config.eps) == (
        said.get("hidden_size", 24), 2, 3, 8, 1e-6)  # fmt: skip
    random_model(config)


REFUSED = [
    (BEIT, {"use_relative_position_bias": True, "use_shared_relative_position_bias": True}, "both shared and in every block"),
    (BEIT, {"use_mean_pooling": "yes"}, "use_mean_pooling"),
    (
        BEIT,
        {"use_mean_poolin": True},
        "use_mean_poolin True is not known, and so not supported; did you mean 'use_mean_pooling'",
    ),
    (("dinov3_vit", "DINOv3ViTModel"), {"query_bias": False}, "only both alike"),
    (("dinov3_vit", "DINOv3ViTModel"), {"value_bias": False}, "only both alike"),
    (("siglip2_vision_model", "Siglip2VisionModel"), {"num_patches": 8, "image_size": None}, "no square number"),
    (("siglip2_vision_model", "Siglip2VisionModel"), {"num_patches": 0, "image_size": None}, "."),
    (("siglip2_vision_model", "Siglip2VisionModel"), {"num_patches": "9", "image_size": None}, "no square number"),
    (("dpt", "DPTModel"), {"is_hybrid": True}, "a hybrid dpt"),
    (("deit", "DeiTModel"), {"pruned_heads": {"1": [0]}}, "pruned_heads"),
]


@pytest.mark.parametrize("words, said, message", REFUSED, ids=lambda value: str(value)[:60])
def test_what_config_json_may_not_say(words, said, message):
    with pytest.raises(InputError, match=message):
        read(*words, **said)


def test_what_changes_nothing_may_be_said():
    plain = fields("deit", "DeiTModel")
    said = {"pruned_heads": {}, "_name_or_path": "x", "use_cache": True, "attention_probs_dropout_prob": 0.1}
    assert fields("deit", "DeiTModel", **said) == plain
    assert fields("dpt", "DPTModel", is_hybrid=False, readout_type="project").width == plain.width


def test_both_kinds_of_positions_are_resized_by_one_rule_and_that_is_said():
    def said(**changes):
        return any("both kinds of positions" in note for note in read(*BEIT, **changes)[1])

    both = {"use_absolute_position_embeddings": True, "use_relative_position_bias": True}
    assert said(**both) and not said() and not any(said(**{key: True}) for key in both)


def test_the_pictures_tower_of_a_larger_model():
    config, notes = config_of_content(
        "it", {"model_type": "llava", "vision_config": {"model_type": "clip_vision_model", **SIZES}}
    )
    assert config.width == 24 and any("config.json is a llava's: the model is its vision_config" in note for note in notes)
    image, _ = config_of_content("it", {"model_type": "flava", "image_config": {"model_type": "flava_image_model", **SIZES}})
    assert image.width == 24 and image.pooling == "class"


def test_a_model_of_another_librarys_says_its_class():
    """transformers' config in memory names no architectures: the model it belongs to does, unless the config says so itself."""
    from numpy_vit.models.loading import find_config

    class Config:
        said = {"model_type": "clip_vision_model", **SIZES}  # noqa: RUF012

        def to_dict(self):
            return dict(self.said)

    class CLIPVisionModelWithProjection:
        config = Config()

    assert find_config(CLIPVisionModelWithProjection())[0].projection == 512
    assert find_config(Config())[0].projection == 0
    Config.said["architectures"] = ["CLIPVisionModel"]
    assert find_config(CLIPVisionModelWithProjection())[0].projection == 0


def checkpoint_of(config, **changes):
    """A random model's; DINOv3's frequencies, which are computed from the config, as transformers has them."""
    tensors = dict(random_model(config, dtype="float32").tensors)
    if "rope.frequencies" in tensors:
        tensors["rope.frequencies"] = 2 * np.pi / 100.0 ** np.arange(0, 1, 4 / config.head_dim)
    labels = [f"label {n}" for n in range(config.classes)] or None
    stored = {name: tensor_of(array) for name, array in tensors.items()}
    return Checkpoint(**{**dict(config=config, tensors=stored, preprocess=None, labels=labels, source={}), **changes})


NO_CLASS = ("CLIPForImageClassification", "SiglipForImageClassification", "Siglip2VisionModel")  # see below
BACK = [(words, said) for words, said, _ in CASES if words[1] not in NO_CLASS]


@pytest.mark.parametrize("words, said", BACK, ids=lambda value: str(value)[:60])
def test_there_and_back_again_every_number_is_where_it_was(words, said, tmp_path):
    """Written as a Hugging Face folder and read again: the same config, labels and numbers."""
    checkpoint = checkpoint_of(fields(*words, **said))
    write_hugging_face(tmp_path / "back", checkpoint)
    again = convert(tmp_path / "back")
    ours = {f.name: getattr(checkpoint.config, f.name) for f in dataclasses.fields(checkpoint.config)}
    theirs = {f.name: getattr(again.config, f.name) for f in dataclasses.fields(again.config)}
    assert {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]} == {}, words
    assert again.labels == checkpoint.labels and again.tensors.keys() == checkpoint.tensors.keys()
    for name, tensor in checkpoint.tensors.items():
        assert np.array_equal(again.tensors[name].to_float(np.float64), tensor.to_float(np.float64)), name


def test_what_no_class_of_transformers_holds_is_refused_and_what_it_does_otherwise_is_said(tmp_path):
    cases = {words[1]: (words, said) for words, said, _ in CASES}
    for kind in ("CLIPForImageClassification", "SiglipForImageClassification"):
        words, said = cases[kind]
        with pytest.raises(InputError, match="no model of transformers holds this one"):
            write_hugging_face(tmp_path / "back", checkpoint_of(fields(*words, **said)))
    assert not any(tmp_path.iterdir())
    words, said = cases["Siglip2VisionModel"]
    notes = write_hugging_face(tmp_path / "back", checkpoint_of(fields(*words, **said)))
    assert "at another image size transformers resizes positions by 'bicubic', not 'bilinear_antialias'" in notes
