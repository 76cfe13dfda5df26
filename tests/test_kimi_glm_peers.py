"""MoonViT (Kimi), PaddleOCR-VL, VideoLLaMA 3 and GLM, live: whole models of transformers, converted by us (`pytest -m peers`)."""

import json
import shutil

import numpy as np
import pytest

import numpy_vit
from numpy_vit import InputError
from numpy_vit.convert import convert
from numpy_vit.convert.sources import read_weights
from numpy_vit.files.tensorfile import Tensor, write
from numpy_vit.models.loading import config_of_content

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

TEXT = dict(hidden_size=16, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
            vocab_size=19, head_dim=8, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            rope_parameters={"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0})  # fmt: skip
DEEPSEEK = dict(model_type="deepseek_v3", hidden_size=16, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2,
                num_key_value_heads=2, vocab_size=19, kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=4,
                v_head_dim=4, first_k_dense_replace=1)  # fmt: skip
SIZES = dict(hidden_size=24, intermediate_size=20, num_hidden_layers=3, num_attention_heads=3, patch_size=4)
GLM = dict(hidden_size=24, depth=3, num_heads=3, patch_size=4, image_size=30, out_hidden_size=16, intermediate_size=20)
QWEN2 = {"model_type": "qwen2", **{key: value for key, value in TEXT.items() if key != "rope_parameters"}}
ROPE = {"rope_parameters": {"rope_type": "axial", "rope_theta": 70.0}}
TABLE = {"pos_emb_height": 7, "pos_emb_width": 7}
# transformers' class, the family, the encoder's config, the language model's, the parent's; how many patches merge
CASES = {
    "kimi": ("Kimi_K25", "moonvit", {**SIZES, **TABLE}, DEEPSEEK, {"projection_hidden_size": 24}),
    "kimi, by three": ("Kimi_K25", "moonvit", {**SIZES, **TABLE, **ROPE, "merge_kernel_size": [3, 3], "hidden_act": "gelu"},
                       DEEPSEEK, {"projection_hidden_size": 24, "projection_layer_norm_eps": 1e-3}),
    "paddleocr-vl": ("PaddleOCRVL", "paddleocr-vl", {**SIZES, "image_size": 30}, TEXT, {}),
    "paddleocr-vl, one by one": ("PaddleOCRVL", "paddleocr-vl", {**SIZES, **ROPE, "image_size": 20, "spatial_merge_size": 1,
                                 "layer_norm_eps": 1e-4}, TEXT, {}),
    "video-llama-3": ("VideoLlama3", "video-llama-3", SIZES, QWEN2, {}),
    "video-llama-3, merged": ("VideoLlama3", "video-llama-3", {**SIZES, **ROPE}, QWEN2, {}),
    "glm-4v": ("Glm4v", "glm-4v", GLM, TEXT, {}),
    "glm-4v, biases": ("Glm4v", "glm-4v", {**GLM, **ROPE, "attention_bias": True, "spatial_merge_size": 3,
                                           "rms_norm_eps": 1e-3}, TEXT, {}),
    "glm-4v-moe": ("Glm4vMoe", "glm-4v", GLM, TEXT, {}),
    "glm-4.6v": ("Glm46V", "glm-4v", GLM, TEXT, {}),
    "glm-ocr": ("GlmOcr", "glm-ocr", GLM, TEXT, {}),
    "glm-ocr, no biases": ("GlmOcr", "glm-ocr", {**GLM, **ROPE, "attention_bias": False, "temporal_patch_size": 1}, TEXT, {}),
}  # fmt: skip
PICTURES = ((48, 24), (24, 72), (24, 48))


def built(case):
    import transformers

    name, _, vision, text, parent = CASES[case]
    config = getattr(transformers, f"{name}Config")(vision_config=vision, text_config=text, attn_implementation="own_dtype",
                                                    **parent)  # fmt: skip
    return getattr(transformers, f"{name}ForConditionalGeneration")(config)


def crooked(case, folder):
    """The model of a case, saved."""
    import multimodal_upstream as up

    model = up.crooked(lambda: built(case))
    up.saved(model, folder)
    if case.endswith("merged"):
        (folder / "preprocessor_config.json").write_text(json.dumps({
            "image_processor_type": "VideoLlama3ImageProcessor", "merge_size": 2, "patch_size": 4,
            "min_pixels": 64, "max_pixels": 6400}))  # fmt: skip
    return model


def tower_of(model):
    """The encoder, its blocks and its last norm."""
    inner = getattr(model, "model", model)
    tower = getattr(inner, "vision_tower", None) or getattr(inner, "visual", None) or getattr(inner, "vision_model", inner)
    trunk = getattr(tower, "vision_model", tower)
    blocks = getattr(trunk, "blocks", None) or getattr(trunk, "layers", None) or trunk.encoder.layers
    return tower, blocks, getattr(trunk, "final_layernorm", None) or trunk.post_layernorm


def rows_of(pixels, case, config):
    """Pixels as the processor of a case lays them, the grid, and upstream's order of the patches."""
    import multimodal_upstream as up
    import torch

    side = config.merger.side if config.merger and not case.startswith(("kimi", "paddle")) else 1
    frames = CASES[case][2].get("temporal_patch_size", 2) if case.startswith("glm") else 1
    rows, grid = up.blocks_of_merged(pixels, config.patch, side, frames)
    if not case.startswith("glm"):
        rows = rows.reshape(-1, config.channels, config.patch, config.patch)
    return rows, grid, up.block_order((grid[0, 1].item(), grid[0, 2].item()), side), torch.tensor([side])


def run(model, case, pixels, config):
    """Its outputs, tokens row by row."""
    import multimodal_upstream as up
    import torch

    rows, grid, order, side = rows_of(pixels, case, config)
    tower, blocks, norm = tower_of(model)
    heard, hooks = [], []
    hooks.append(blocks[0].register_forward_pre_hook(lambda module, given, named: heard.append(
        given[0] if given else named["hidden_states"]), with_kwargs=True))  # fmt: skip
    hooks += [layer.register_forward_hook(lambda module, given, out: heard.append(out)) for layer in (*blocks, norm)]
    extra = {"image_merge_sizes": side} if case.startswith("video") else {}
    with up.everything_in_float64(), torch.inference_mode():
        if tower is model:
            model(rows, grid_thw=grid)
        else:
            tokens = model.model.get_image_features(rows, image_grid_thw=grid, **extra).pooler_output[0]
    for hook in hooks:
        hook.remove()
    states = [up.in_order(x.reshape(-1, x.shape[-1]), order) for x in heard]
    outputs = {"hidden_states": states[:-1], "last_hidden_state": states[-1]}
    return outputs if tower is model else {**outputs, "image_tokens": tokens[None].numpy()}


@pytest.mark.parametrize("case", CASES)
def test_converted_encoders_agree(case, tmp_path):
    import multimodal_upstream as up

    model = crooked(case, tmp_path)
    error = up.agree(tmp_path, lambda pixels, config: run(model, case, pixels, config), PICTURES)
    print(f"{case}: {error:.1e}")
    checkpoint = convert(tmp_path)
    assert checkpoint.source["family"] == CASES[case][1]
    if not case.endswith("merged"):  # which is in no config.json
        assert config_of_content("", json.loads((tmp_path / "config.json").read_text()))[0] == checkpoint.config
