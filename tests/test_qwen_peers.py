"""The encoders of Qwen2-VL, 2.5 and 3, live: whole models of transformers, converted by us (`pytest -m peers`)."""

import numpy as np
import pytest

from numpy_vit.convert import convert

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

TEXT = dict(hidden_size=16, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
            vocab_size=19, head_dim=8,
            rope_parameters={"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0})  # fmt: skip
QWEN3 = dict(depth=3, hidden_size=24, out_hidden_size=16, num_heads=3, intermediate_size=20, patch_size=4,
             num_position_embeddings=36)  # fmt: skip
CASES = {
    "qwen2": ("Qwen2VL", dict(depth=3, embed_dim=24, hidden_size=16, num_heads=3, mlp_ratio=2, patch_size=4)),
    "qwen2.5": ("Qwen2_5_VL", dict(depth=3, hidden_size=24, out_hidden_size=16, num_heads=3, intermediate_size=20, patch_size=4,
                                   window_size=16, fullatt_block_indexes=[1])),
    "qwen3": ("Qwen3VL", {**QWEN3, "deepstack_visual_indexes": [0, 2]}),
    "qwen3 moe": ("Qwen3VLMoe", {**QWEN3, "deepstack_visual_indexes": [1]}),
    "qwen3.5": ("Qwen3_5", QWEN3),
}  # fmt: skip
SIZES = ((40, 24), (24, 56), (16, 8))


def built(case):
    import transformers

    family, vision = CASES[case]
    config = getattr(transformers, f"{family}Config")(vision_config=vision, text_config=TEXT, attn_implementation="own_dtype")
    return getattr(transformers, f"{family}ForConditionalGeneration")(config)


def run(tower, pixels, config):
    """Its outputs, tokens row by row."""
    import multimodal_upstream as up
    import torch

    rows, grid = up.blocks_of_merged(pixels, config.patch, config.merger.side)
    order = up.block_order((grid[0, 1].item(), grid[0, 2].item()), config.merger.side)
    if hasattr(tower, "fullatt_block_indexes"):
        from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import get_vision_window_index

        window, _ = get_vision_window_index(grid, spatial_merge_size=config.merger.side, window_size=tower.window_size,
                                            patch_size=config.patch, kwargs={})  # fmt: skip
        order = order.reshape(-1, config.merger.side**2)[np.asarray(window)].reshape(-1)
    with up.everything_in_float64(), torch.inference_mode():
        out = tower(rows, grid_thw=grid, output_hidden_states=True)
    outputs = {
        "hidden_states": [up.in_order(x, order) for x in out.hidden_states],
        "image_tokens": out.pooler_output[None].numpy(),
    }
    if config.deepstack:
        outputs["deepstack"] = np.stack([np.asarray(x) for x in out.deepstack_features])[None]
    return outputs


@pytest.mark.parametrize("case", CASES)
def test_converted_encoders_agree(case, tmp_path):
    import multimodal_upstream as up

    model = up.crooked(lambda: built(case))
    up.saved(model, tmp_path)
    assert up.agree(tmp_path, lambda pixels, config: run(model.model.visual, pixels, config), SIZES) < 1e-12
    assert convert(tmp_path).source["family"] == {"qwen2": "qwen2-vl", "qwen2.5": "qwen2.5-vl"}.get(case, "qwen3-vl")
