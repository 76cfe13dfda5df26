"""Pixtral's encoder, live: models of transformers, converted by us; and under Mistral's own names (`pytest -m peers`)."""

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

TEXT = dict(model_type="mistral", hidden_size=20, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, vocab_size=19, head_dim=8, rms_norm_eps=1e-4)  # fmt: skip
VISION = dict(model_type="pixtral", hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40,
              image_size=64, patch_size=4, hidden_act="silu")  # fmt: skip
LADDER = {"rope_parameters": {"rope_type": "axial", "rope_theta": 50.0}}
LLAVA = {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
CASES = {
    "pixtral": ("Llava", VISION, LLAVA),
    "pixtral, no biases": ("Llava", {**VISION, "num_attention_heads": 2, **LADDER},
                           {**LLAVA, "multimodal_projector_bias": False}),
    "mistral3": ("Mistral3", VISION, {}),
    "mistral3, by three": ("Mistral3", {**VISION, "hidden_act": "gelu", **LADDER},
                           {"spatial_merge_size": 3, "multimodal_projector_bias": True, "vision_feature_layer": [-1],
                            "projector_hidden_act": "gelu_pytorch_tanh"}),
    "mistral3, not merged": ("Mistral3", VISION, {"spatial_merge_size": 1, "projector_hidden_act": "silu"}),
    "lighton_ocr": ("LightOnOcr", VISION, {}),
}  # fmt: skip
SIZES = ((24, 48), (72, 24), (120, 96))


def built(case):
    import transformers

    name, vision, parent = CASES[case]
    config = getattr(transformers, f"{name}Config")(vision_config=vision, text_config=TEXT, attn_implementation="own_dtype",
                                                    **parent)  # fmt: skip
    return getattr(transformers, f"{name}ForConditionalGeneration")(config)


def crooked(case, folder):
    """The model of a case, saved."""
    import multimodal_upstream as up

    model = up.crooked(lambda: built(case))
    up.saved(model, folder)
    return model


def run(model, pixels):
    """Its outputs."""
    import multimodal_upstream as up
    import torch

    pixels, size = torch.from_numpy(pixels), torch.tensor([pixels.shape[2:]])
    tower = model.model.vision_tower if hasattr(model.model, "vision_tower") else model.model.vision_encoder
    with up.everything_in_float64(), torch.inference_mode():
        hidden = tower(pixels, output_hidden_states=True).hidden_states
        (tokens,) = model.model.get_image_features(pixels, image_sizes=size).pooler_output
    return {"hidden_states": [x.numpy() for x in hidden], "image_tokens": tokens[None].numpy()}


@pytest.mark.parametrize("case", CASES)
def test_converted_encoders_agree(case, tmp_path):
    import multimodal_upstream as up

    model = crooked(case, tmp_path)
    assert up.agree(tmp_path, lambda pixels, config: run(model, pixels), SIZES) < 1e-12
    checkpoint = convert(tmp_path)
    assert checkpoint.source["family"] == "pixtral"
    assert up.config_alone(tmp_path) == checkpoint.config


def test_the_encoder_alone(tmp_path):
    import multimodal_upstream as up

    model = crooked("mistral3", tmp_path / "whole")
    up.saved(model.model.vision_tower, tmp_path / "tower")
    whole, tower = convert(tmp_path / "whole"), convert(tmp_path / "tower")
    assert tower.config == whole.config.replace(merger=None, image=tower.config.image)
    assert up.same_tensors(whole, tower)


# Published -> transformers, models/mistral3/convert_mistral3_weights_to_hf.py.
LAYER, THEIRS = r"^vision_encoder.transformer.layers.(\d+)", r"vision_tower.transformer.layers.\1"
NAMES = {
    LAYER + r".attention.w(q|k|v|o).weight": THEIRS + r".attention.\2_proj.weight",
    LAYER + r".feed_forward.w1.weight": THEIRS + r".feed_forward.gate_proj.weight",
    LAYER + r".feed_forward.w2.weight": THEIRS + r".feed_forward.down_proj.weight",
    LAYER + r".feed_forward.w3.weight": THEIRS + r".feed_forward.up_proj.weight",
    r"^vision_encoder": r"vision_tower",
    r"^vision_language_adapter.w_in": r"multi_modal_projector.linear_1",
    r"^vision_language_adapter.w_out": r"multi_modal_projector.linear_2",
    r"^patch_merger.merging_layer.weight": r"multi_modal_projector.patch_merger.merging_layer.weight",
    r"^pre_mm_projector_norm.weight": r"multi_modal_projector.norm.weight",
}


def in_transformers_names(name):
    for pattern, replacement in NAMES.items():
        name, found = re.subn(pattern, replacement, name)
        if found:
            break
    return name


def permute_for_rope(matrix, heads):
    """As the script does: neighbours -> halves."""
    rows, columns = matrix.shape
    return matrix.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def permuted_back(matrix, heads):
    rows, columns = matrix.shape
    return matrix.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def published_names(depth, biases):
    layers = (
        [f"attention.w{part}" for part in "qkvo"] + [f"feed_forward.w{n}" for n in (1, 2, 3)] + ["attention_norm", "ffn_norm"]
    )
    adapter = [f"vision_language_adapter.{part}" for part in ("w_in", "w_out")]
    return [
        *(f"vision_encoder.transformer.layers.{n}.{name}.weight" for n in range(depth) for name in layers),
        *(f"vision_encoder.{name}.weight" for name in ("patch_conv", "ln_pre")),
        *(f"{name}.{end}" for name in adapter for end in (("weight", "bias") if biases else ("weight",))),
        "patch_merger.merging_layer.weight",
        "pre_mm_projector_norm.weight",
    ]


def as_published(folder, target):
    """The model of a folder under Mistral's own names, with its params.json."""
    tensors, _ = read_weights(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    vision, biases, theirs = config["vision_config"], config["multimodal_projector_bias"], {}
    for name in published_names(vision["num_hidden_layers"], biases):
        found = next((n for n in tensors if n.endswith(in_transformers_names(name))), None)
        if found is None:
            assert config["model_type"] == "llava" and ("merger" in name or "pre_mm" in name)
            continue
        data = tensors.pop(found).data
        if re.search(r"attention\.w[qk]\.", name):
            data = permuted_back(matrix := data, vision["num_attention_heads"])
            assert np.array_equal(permute_for_rope(data, vision["num_attention_heads"]), matrix)
            assert not np.array_equal(data, matrix)
        theirs[name] = tensor_of(np.ascontiguousarray(data))
    assert not [name for name in tensors if "language_model" not in name and "lm_head" not in name]
    theirs |= {"layers.0.attention.wq.weight": tensor_of(np.zeros((4, 4), "f4")), "norm.weight": tensor_of(np.ones(4, "f4"))}
    write(target / "consolidated.safetensors", theirs, {})
    kept = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "num_channels", "patch_size",
            "image_size")  # fmt: skip
    params = {**{key: vision[key] for key in kept}, "rope_theta": vision["rope_parameters"]["rope_theta"],
              "image_token_id": 10, "adapter_bias": biases}  # fmt: skip
    if config["model_type"] == "mistral3":
        params |= {"max_image_size": 64, "mm_projector_id": "patch_merge", "add_pre_mm_projector_layer_norm": True,
                   "spatial_merge_size": config["spatial_merge_size"]}  # fmt: skip
    (target / "params.json").write_text(json.dumps({"dim": 20, "n_layers": 1, "norm_eps": 1e-5, "vision_encoder": params}))


@pytest.mark.parametrize("case", ["pixtral", "pixtral, no biases", "mistral3"])
def test_mistrals_own_names(case, tmp_path, monkeypatch):
    """Rotary positions on neighbouring pairs, by the numbers as they are; and the same config but for that."""
    import multimodal_upstream as up

    monkeypatch.setitem(TEXT, "rms_norm_eps", 1e-5)  # Mistral's code has it fixed
    for name in ("transformers", "published"):
        (tmp_path / name).mkdir()
    model = crooked(case, tmp_path / "transformers")
    as_published(tmp_path / "transformers", tmp_path / "published")
    assert up.agree(tmp_path / "published", lambda pixels, config: run(model, pixels), SIZES) < 1e-12
    ours, theirs = convert(tmp_path / "transformers"), convert(tmp_path / "published")
    assert theirs.config == ours.config.replace(rope="ladder_pairs") and theirs.source["family"] == "pixtral"
    (tmp_path / "published" / "config.json").write_text((tmp_path / "transformers" / "config.json").read_text())
    assert convert(tmp_path / "published").config == theirs.config  # config.json says no more than params.json


LARGE4 = dict(vocab_size=99, hidden_size=20, intermediate_size=8, moe_intermediate_size=8, num_hidden_layers=1,
              num_attention_heads=2, num_key_value_heads=2, n_routed_experts=2, kv_lora_rank=8, qk_rope_head_dim=4,
              v_head_dim=4, qk_nope_head_dim=4, num_experts_per_tok=1, index_head_dim=8, index_n_heads=2, head_dim=4,
              rms_norm_eps=1e-4, index_topk=4)  # fmt: skip


def test_mistral_large_4_which_transformers_saves_under_mistrals_own_names(tmp_path):
    import multimodal_upstream as up
    from transformers.models import mistral_large4 as module

    config = module.MistralLarge4Config(vision_config=VISION, text_config=LARGE4, attn_implementation="own_dtype")
    model = up.crooked(lambda: module.MistralLarge4ForConditionalGeneration(config))
    up.saved(model, tmp_path)
    assert up.agree(tmp_path, lambda pixels, config: run(model, pixels), SIZES) < 1e-12
    found = convert(tmp_path).config
    alone = config_of_content("", json.loads((tmp_path / "config.json").read_text()))[0]
    assert found.rope == "ladder_pairs" and alone == found.replace(rope="ladder_halves")  # names tell what pairs are


MISTRAL3 = {"model_type": "mistral3", "vision_config": VISION, "text_config": TEXT}
PIXTRAL = {"model_type": "llava", "vision_config": VISION, "text_config": TEXT, **LLAVA}


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (PIXTRAL, {"vision_feature_layer": -2}, "vision_feature_layer -2 is not supported"),
        (PIXTRAL, {"vision_feature_layer": [-2, -1]}, r"vision_feature_layer \[-2, -1\] is not supported"),
        (PIXTRAL, {"vision_feature_select_strategy": "default"}, "'default' is not supported: it drops the first patch"),
        (PIXTRAL, {"projector_hidden_act": "relu"}, "projector_hidden_act 'relu' is not supported"),
        (PIXTRAL, {"multimodal_projector_bias": None}, "multimodal_projector_bias is None: it must be true or false"),
        (MISTRAL3, {"text_config": {"hidden_size": 20}}, "rms_norm_eps None: must be a number above 0"),
        (MISTRAL3, {"text_config": None}, "text_config None: must be a table"),
        (MISTRAL3, {"spatial_merge_size": 0}, "spatial_merge_size is 0"),
        (MISTRAL3, {"vision.model_type": "vivit"}, "model_type of the encoder is 'vivit'"),
        (MISTRAL3, {"vision.head_dim": 16}, "head_dim 16 is not supported"),
        (MISTRAL3, {"vision.patch_size": [4, 8]}, "patch_size is .* it must be a whole number"),
        (MISTRAL3, {"vision.rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type 'yarn' is not supported"),
        (MISTRAL3, {"vision.attention_bias": False}, "attention_bias False is not known"),
        (MISTRAL3, {"vision.hidden_act": "mish"}, "hidden_act 'mish' is not one of"),
    ],
)  # fmt: skip
def test_configs_that_ask_for_more(config, changes, message):
    changed = {**config, "vision_config": dict(config["vision_config"])}
    for key, value in changes.items():
        (changed["vision_config"] if key.startswith("vision.") else changed)[key.removeprefix("vision.")] = value
    config_of_content("", config)
    with pytest.raises(InputError, match=message) as error:
        config_of_content("", changed)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mm_projector_id": "mlp"}, "mm_projector_id 'mlp' is not supported"),
        ({"mm_projector_id": "patch_merge"}, "add_pre_mm_projector_layer_norm False is not supported"),
        ({"layer_scale": True}, "layer_scale True is not known"),
        ({"rope_theta": None}, "rope_theta None is no number"),
    ],
)
def test_params_that_ask_for_more(changes, message, tmp_path):
    (tmp_path / "transformers").mkdir()
    crooked("pixtral", tmp_path / "transformers")
    as_published(tmp_path / "transformers", tmp_path)
    params = json.loads((tmp_path / "params.json").read_text())
    params["vision_encoder"] |= changes
    (tmp_path / "params.json").write_text(json.dumps(params))
    with pytest.raises(InputError, match=message):
        convert(tmp_path)
    (tmp_path / "params.json").unlink()
    with pytest.raises(InputError, match="no config.json beside the weights"):
        convert(tmp_path)


def test_other_models_around_the_encoder():
    """Of one whose projector is not known, the encoder alone; of LLaVA with CLIP, CLIP."""
    config, notes = config_of_content("", {"model_type": "another", "vision_config": VISION})
    assert config == config_of_content("", VISION)[0] and config.merger is None
    assert "config.json is a another's: the model is its vision_config" in " ".join(notes)
    clip = {"model_type": "llava", "vision_config": {"model_type": "clip_vision_model"}}
    assert config_of_content("", clip)[0].pre_norm and config_of_content("", clip)[0].rope == "none"
