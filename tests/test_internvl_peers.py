"""InternVL's encoder, live: whole models of transformers, converted by us, under both sets of names (`pytest -m peers`)."""

import json
import re

import numpy as np
import pytest

from numpy_vit import InputError
from numpy_vit.convert import convert
from numpy_vit.convert.sources import read_weights
from numpy_vit.files.tensorfile import tensor_of, write
from numpy_vit.models.loading import config_of_content

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

TEXT = dict(model_type="qwen2", hidden_size=20, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, vocab_size=19)  # fmt: skip
VISION = dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40, image_size=[24, 24],
              patch_size=[4, 4])  # fmt: skip
SIX_BILLION = {**VISION, "norm_type": "rms_norm", "use_qk_norm": True, "image_size": [16, 16]}
CASES = {
    "300M": ({**VISION, "attention_bias": True}, {}),
    "6B": (SIX_BILLION, {}),
    "a last norm": ({**VISION, "use_mean_pooling": False, "layer_norm_eps": 1e-3, "use_mask_token": True}, {}),
    "no positions": ({**VISION, "use_absolute_position_embeddings": False, "hidden_act": "gelu_pytorch_tanh"},
                     {"projector_hidden_act": "silu"}),
    "merged by four": ({**VISION, "image_size": 32, "patch_size": 4}, {"downsample_ratio": 0.25}),
    "not merged": (VISION, {"downsample_ratio": 1.0}),
}  # fmt: skip
SIZES = ((24, 24), (16, 16), (32, 32), (48, 24), (24, 72), (8, 40), (32, 16))


def built(case):
    import transformers

    vision, parent = CASES[case]
    config = transformers.InternVLConfig(vision_config=vision, text_config=TEXT, attn_implementation="own_dtype", **parent)
    return transformers.InternVLForConditionalGeneration(config)


def crooked(case, folder):
    """The model of a case, saved."""
    import multimodal_upstream as up

    model = up.crooked(lambda: built(case))
    up.saved(model, folder)
    return model


def run(model, pixels, config):
    """Its outputs. get_image_features takes every grid for a square: its parts are run one by one; at squares, it too."""
    import multimodal_upstream as up
    import torch

    pixels, (h, w) = torch.from_numpy(pixels), (side // config.patch for side in pixels.shape[2:])
    whole = model.model
    with up.everything_in_float64(), torch.inference_mode():
        out = whole.vision_tower(pixels, output_hidden_states=True)
        patches = out.last_hidden_state[:, 1:].reshape(1, h, w, -1)
        shuffled = whole.pixel_shuffle(patches, scale_factor=whole.config.downsample_ratio)
        tokens = whole.multi_modal_projector(shuffled.flatten(1, 2))
        if h == w:
            assert torch.equal(tokens, whole.get_image_features(pixels).pooler_output)
    hidden = [x.numpy() for x in out.hidden_states]
    return {"hidden_states": hidden, "last_hidden_state": out.last_hidden_state.numpy(), "image_tokens": tokens.numpy()}


@pytest.mark.parametrize("case", CASES)
def test_converted_encoders_agree(case, tmp_path):
    import multimodal_upstream as up

    model = crooked(case, tmp_path)
    sizes = [(Y, X) for Y, X in SIZES if case != "merged by four" or (Y % 16 == 0 and X % 16 == 0)]
    assert up.agree(tmp_path, lambda pixels, config: run(model, pixels, config), sizes) < 1e-12
    checkpoint = convert(tmp_path)
    assert checkpoint.source["family"] == "internvl"
    assert up.config_alone(tmp_path) == checkpoint.config


def test_the_encoder_alone(tmp_path):
    import multimodal_upstream as up

    model = crooked("300M", tmp_path / "whole")
    up.saved(model.model.vision_tower, tmp_path / "tower")
    whole, tower = convert(tmp_path / "whole"), convert(tmp_path / "tower")
    assert tower.config == whole.config.replace(merger=None)
    assert up.same_tensors(whole, tower)


# Published -> transformers, models/internvl/convert_internvl_weights_to_hf.py of transformers 4.52, in its order.
VISION_NAMES = {
    r"vision_model": r"vision_tower",
    r"layers": r"layer",
    r"class_embedding": r"cls_token",
    r"position_embedding": r"position_embeddings",
    r"patch_embedding": r"patch_embeddings.projection",
    r"ls(\d+)": r"lambda_\1",
    r"attn.proj": r"attention.projection_layer",
    r"attn": r"attention",
    r"norm1": r"layernorm_before",
    r"norm2": r"layernorm_after",
}
OTHER_NAMES = {"mlp1.0": "multi_modal_projector.layer_norm", "mlp1.1": "multi_modal_projector.linear_1",
               "mlp1.3": "multi_modal_projector.linear_2"}  # fmt: skip


def in_transformers_names(name):
    for pattern, replacement in (VISION_NAMES if name.startswith("vision_model") else OTHER_NAMES).items():
        name = re.sub(pattern, replacement, name)
    return name


def published_names(depth, qk_norm):
    """Every name of the encoder and the projector in OpenGVLab's files."""
    layers = ["ls1", "ls2"] + [f"{layer}.{end}" for layer in ("attn.qkv", "attn.proj", "norm1", "norm2", "mlp.fc1", "mlp.fc2")
                               for end in ("weight", "bias")]  # fmt: skip
    layers += ["attn.q_norm.weight", "attn.k_norm.weight"] if qk_norm else []
    embeddings = ["class_embedding", "position_embedding", "patch_embedding.weight", "patch_embedding.bias"]
    return [
        *(f"vision_model.embeddings.{name}" for name in embeddings),
        *(f"vision_model.encoder.layers.{n}.{name}" for n in range(depth) for name in layers),
        *(f"mlp1.{n}.{end}" for n in (0, 1, 3) for end in ("weight", "bias")),
    ]


def as_published(folder, target):
    """The model of a folder under OpenGVLab's names, query, key and value in one, with a config.json in OpenGVLab's words."""
    tensors, _ = read_weights(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    vision = config["vision_config"]
    theirs = {}
    for name in published_names(vision["num_hidden_layers"], vision["use_qk_norm"]):
        renamed = in_transformers_names(name)
        parts = (
            [renamed.replace("attention.qkv", f"attention.{part}_proj") for part in "qkv"] if "qkv" in renamed else [renamed]
        )
        parts = [next((n for n in tensors if n.endswith(part)), None) for part in parts]
        if None not in parts:  # no biases of query, key and value, and of RMS norms
            theirs[name] = tensor_of(np.concatenate([tensors.pop(part).data for part in parts]))
    assert not [name for name in tensors if "language_model" not in name and "lm_head" not in name]
    write(target / "model.safetensors", {**theirs, **tensors}, {})
    renamed = {"use_qk_norm": "qk_normalization", "attention_bias": "qkv_bias"}
    kept = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "layer_norm_eps", "num_channels",
            "hidden_act", "norm_type", *renamed)  # fmt: skip
    vision = {renamed.get(key, key): vision[key] for key in kept} | {
        "architectures": ["InternVisionModel"], "model_type": "intern_vit_6b", "image_size": vision["image_size"][0],
        "patch_size": vision["patch_size"][0], "drop_path_rate": 0.1, "dropout": 0.0, "initializer_factor": 0.1,
        "use_flash_attn": True, "use_moe": False, "num_experts": 8, "moe_config": None,
    }  # fmt: skip
    parent = {"model_type": "internvl_chat", "vision_config": vision, "llm_config": config["text_config"],
              "downsample_ratio": 0.5, "ps_version": "v2", "select_layer": -1, "template": "internvl2_5"}  # fmt: skip
    (target / "config.json").write_text(json.dumps(parent))


@pytest.mark.parametrize("case", ["300M", "6B"])
def test_published_names(case, tmp_path):
    """The same model under OpenGVLab's names is the same; the encoder alone too, which OpenGVLab publishes without a prefix."""
    for name in ("transformers", "published", "alone"):
        (tmp_path / name).mkdir()
    crooked(case, tmp_path / "transformers")
    as_published(tmp_path / "transformers", tmp_path / "published")
    ours, theirs = convert(tmp_path / "transformers"), convert(tmp_path / "published")
    assert theirs.config == ours.config and theirs.source["family"] == "internvl"
    assert theirs.tensors.keys() == ours.tensors.keys()
    assert all(np.array_equal(theirs.tensors[name].data, tensor.data) for name, tensor in ours.tensors.items())
    config = json.loads((tmp_path / "published" / "config.json").read_text())
    assert config_of_content("", config)[0] == ours.config

    tensors, _ = read_weights(tmp_path / "published" / "model.safetensors")
    tower = {name.removeprefix("vision_model."): tensor for name, tensor in tensors.items() if name.startswith("vision_model.")}
    write(tmp_path / "alone" / "model.safetensors", tower, {})
    (tmp_path / "alone" / "config.json").write_text(json.dumps(config["vision_config"]))
    assert convert(tmp_path / "alone").config == ours.config.replace(merger=None)


TRANSFORMERS = {
    "model_type": "internvl",
    "vision_config": {**SIX_BILLION, "model_type": "internvl_vision"},
    "text_config": TEXT,
}
PUBLISHED = {"model_type": "internvl_chat", "ps_version": "v2", "llm_config": TEXT, "downsample_ratio": 0.5,
             "vision_config": {"model_type": "intern_vit_6b", "image_size": 448}}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (TRANSFORMERS, {"vision_feature_layer": -2}, "vision_feature_layer -2 is not supported"),
        (TRANSFORMERS, {"vision_feature_select_strategy": "full"}, "'full' is not supported: the class token"),
        (TRANSFORMERS, {"downsample_ratio": 0.4}, "downsample_ratio 0.4 is not supported"),
        (TRANSFORMERS, {"downsample_ratio": 1 / 3}, "downsample_ratio 0.33.* is not supported"),
        (TRANSFORMERS, {"downsample_ratio": None}, "downsample_ratio None is not supported"),
        (TRANSFORMERS, {"projector_hidden_act": "relu"}, "projector_hidden_act 'relu' is not supported"),
        (TRANSFORMERS, {"text_config": None}, "text_config None: must be a table"),
        (TRANSFORMERS, {"vision.image_size": [16, 24]}, r"image_size \[16, 24\] is not supported"),
        (TRANSFORMERS, {"vision.use_mean_pooling": False}, "its last norm is no RMS norm"),
        (TRANSFORMERS, {"vision.layer_norm_eps": 1e-5}, "query and key are normed with 1e-6"),
        (TRANSFORMERS, {"vision.norm_type": "layer_norm"}, "it goes with norm_type rms_norm"),
        (TRANSFORMERS, {"vision.norm_type": "batch_norm"}, "norm_type 'batch_norm' is not supported"),
        (TRANSFORMERS, {"vision.use_qk_norm": 1}, "use_qk_norm is 1: it must be true or false"),
        (TRANSFORMERS, {"vision.qk_normalization": False}, "qk_normalization False is not known"),
        (TRANSFORMERS, {"vision.window_size": None}, "window_size None is not known"),
        (TRANSFORMERS, {"vision.model_type": "vivit"}, "model_type of the encoder is 'vivit' is not supported"),
        (PUBLISHED, {"ps_version": "v1"}, "ps_version 'v1' is not supported: it gives the tokens column by column"),
        (PUBLISHED, {"select_layer": -4}, "select_layer -4 is not supported"),
        (PUBLISHED, {"flash_relative_threshold": 0.5}, "flash_relative_threshold is not supported: a router"),
        (PUBLISHED, {"use_backbone_lora": 16}, "use_backbone_lora is not supported"),
        (PUBLISHED, {"llm_config": None}, "text_config None: must be a table"),
        (PUBLISHED, {"vision.use_moe": True}, "use_moe is not supported: blocks of experts"),
        (PUBLISHED, {"vision.fullatt_block_indexes": [1]}, "fullatt_block_indexes .* is not known"),
    ],
)
def test_configs_that_ask_for_more(config, changes, message):
    changed = {**config, "vision_config": dict(config["vision_config"])}
    for key, value in changes.items():
        (changed["vision_config"] if key.startswith("vision.") else changed)[key.removeprefix("vision.")] = value
    config_of_content("", config)
    with pytest.raises(InputError, match=message) as error:
        config_of_content("", changed)
    assert "\n" not in str(error.value)


def test_what_files_do_not_say():
    """OpenGVLab's defaults are those of the 6B, transformers' those of the 300M."""
    config, notes = config_of_content("", PUBLISHED)
    assert (config.width, config.depth, config.norm, config.qk_norm, config.qkv_bias) == (3200, 48, "rms", True, False)
    assert config.image_tokens == 256 and "hidden_size" in " ".join(notes)
    config, _ = config_of_content("", {**TRANSFORMERS, "vision_config": {"model_type": "internvl_vision"}})
    assert (config.width, config.depth, config.norm, config.qk_norm, config.qkv_bias) == (1024, 24, "layer", False, False)
