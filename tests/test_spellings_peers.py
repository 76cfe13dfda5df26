"""Encoders that are plain ViTs under other names, or with other sets of tokens: whole models of transformers, converted by us.

pytest -m peers tests/test_spellings_peers.py
"""

import json

import numpy as np
import pytest

from numpy_vit.convert import convert
from numpy_vit.models.loading import config_of_content

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

SIZES = dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40, image_size=20, patch_size=4)
OBLONG = {**SIZES, "image_size": [12, 20]}
RATIO = {**{key: value for key, value in SIZES.items() if key != "intermediate_size"}, "mlp_ratio": 3}
TEXT = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=99, pad_token_id=0,
            bos_token_id=1, eos_token_id=2)  # fmt: skip
ROWS = dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=3, patch_embed_hidden_size=48)
OPT = {**TEXT, "model_type": "opt", "ffn_dim": 8, "word_embed_proj_dim": 16}
QFORMER = dict(**TEXT, encoder_hidden_size=24)
LLAMA = {**TEXT, "model_type": "llama", "num_key_value_heads": 2}
KOSMOS = dict(vocab_size=99, embed_dim=16, layers=1, ffn_dim=8, attention_heads=2)
VQ = dict(embed_dim=4, num_embeddings=9, latent_channels=4, num_patches=2, in_channels=3, out_channels=3, base_channels=32,
          channel_multiplier=[1], num_res_blocks=1, projection_dim=6, num_hidden_layers=1, hidden_size=6,
          image_token_embed_dim=6)  # fmt: skip


def both(vision, text=TEXT, **others):
    return {"vision_config": vision, "text_config": text, **others}


# name: class, its config's class and what that is made with, where its encoder is, our family, what else is compared (ours:
# theirs). The encoder is run by itself.
CASES = {
    "I-JEPA": ("IJepaForImageClassification", "IJepaConfig", {**SIZES, "num_labels": 5}, "", "hf-ijepa", {"logits": "logits"}),
    "I-JEPA, no biases": ("IJepaModel", "IJepaConfig", {**OBLONG, "qkv_bias": False}, "", "hf-ijepa",
                          {"last_hidden_state": "last_hidden_state"}),
    "YOLOS": ("YolosForObjectDetection", "YolosConfig",
              {**OBLONG, "num_detection_tokens": 5, "use_mid_position_embeddings": False}, "vit", "hf-yolos",
              {"last_hidden_state": "last_hidden_state"}),
    "YOLOS, with its pooler": ("YolosModel", "YolosConfig",
                               {**SIZES, "image_size": [20, 20], "num_detection_tokens": 1, "qkv_bias": False,
                                "use_mid_position_embeddings": False}, "", "hf-yolos",
                               {"last_hidden_state": "last_hidden_state", "pooler_output": "pooler_output"}),
    "Pixio": ("PixioModel", "PixioConfig", RATIO, "", "hf-pixio", {"last_hidden_state": "last_hidden_state"}),
    "Pixio's backbone": ("PixioBackbone", "PixioConfig", {**RATIO, "n_cls_tokens": 3, "qkv_bias": False}, "pixio", "hf-pixio",
                         {"last_hidden_state": "last_hidden_state"}),
    "TIPSv2": ("Tipsv2Model", "Tipsv2Config", both(RATIO, {**TEXT, "hidden_size": 24}), "vision_model", "hf-tipsv2",
               {"last_hidden_state": "last_hidden_state", "pooled": "pooler_output"}),
    "TIPSv2, two registers": ("Tipsv2VisionModel", "Tipsv2VisionConfig",
                              {**RATIO, "mlp_ratio": 2.5, "num_register_tokens": 2}, "", "hf-tipsv2",
                              {"pooled": "pooler_output"}),
    "OWL-ViT": ("OwlViTForObjectDetection", "OwlViTConfig", both(SIZES, projection_dim=7), "owlvit.vision_model", "hf-clip",
                {"last_hidden_state": "last_hidden_state", "pooled": "pooler_output"}),
    "OWLv2": ("Owlv2ForObjectDetection", "Owlv2Config", both({**SIZES, "hidden_act": "gelu"}, projection_dim=7),
              "owlv2.vision_model", "hf-clip", {"last_hidden_state": "last_hidden_state", "pooled": "pooler_output"}),
    "OWLv2's encoder": ("Owlv2VisionModel", "Owlv2VisionConfig", SIZES, "", "hf-clip", {"pooled": "pooler_output"}),
    "Kosmos-2": ("Kosmos2ForConditionalGeneration", "Kosmos2Config", both(SIZES, KOSMOS, latent_query_num=3), "vision_model",
                 "hf-clip", {"last_hidden_state": "last_hidden_state", "pooled": "pooler_output"}),
    "BLIP": ("BlipForConditionalGeneration", "BlipConfig", both(SIZES), "vision_model", "hf-blip",
             {"last_hidden_state": "last_hidden_state"}),
    "BLIP for retrieval": ("BlipForImageTextRetrieval", "BlipConfig", both(SIZES), "vision_model", "hf-blip",
                           {"last_hidden_state": "last_hidden_state"}),
    "BLIP-2": ("Blip2ForConditionalGeneration", "Blip2Config", both(SIZES, OPT, qformer_config=QFORMER, num_query_tokens=2),
               "vision_model", "hf-blip", {"last_hidden_state": "last_hidden_state"}),
    "BLIP-2, no biases": ("Blip2ForConditionalGeneration", "Blip2Config",
                          both({**SIZES, "qkv_bias": False}, OPT, qformer_config=QFORMER, num_query_tokens=2),
                          "vision_model", "hf-blip", {"last_hidden_state": "last_hidden_state"}),
    "InstructBLIP": ("InstructBlipForConditionalGeneration", "InstructBlipConfig",
                     both(SIZES, OPT, qformer_config=QFORMER, num_query_tokens=2), "vision_model", "hf-blip",
                     {"last_hidden_state": "last_hidden_state"}),
    "InstructBLIP for videos": ("InstructBlipVideoForConditionalGeneration", "InstructBlipVideoConfig",
                                both(SIZES, OPT, qformer_config=QFORMER, num_query_tokens=2), "vision_model", "hf-blip",
                                {"last_hidden_state": "last_hidden_state"}),
    "GIT": ("GitForCausalLM", "GitConfig", {"vision_config": SIZES, **TEXT}, "git.image_encoder", "hf-git",
            {"last_hidden_state": "last_hidden_state"}),
    "GIT's encoder": ("GitVisionModel", "GitVisionConfig", SIZES, "", "hf-git", {"last_hidden_state": "last_hidden_state"}),
    "Janus": ("JanusForConditionalGeneration", "JanusConfig", both({**RATIO, "projection_dim": 6}, LLAMA, vq_config=VQ),
              "vision_model", "hf-janus", {"last_hidden_state": "last_hidden_state"}),
    "Janus, no biases": ("JanusVisionModel", "JanusVisionConfig", {**RATIO, "attention_bias": False}, "", "hf-janus",
                         {"last_hidden_state": "last_hidden_state"}),
    "Kosmos-2.5": ("Kosmos2_5ForConditionalGeneration", "Kosmos2_5Config", both(
        {**ROWS, "intermediate_size": 40, "head_dim": 4, "max_num_patches": 9}, KOSMOS, latent_query_num=3), "vision_model",
        "pix2struct", {"last_hidden_state": "last_hidden_state"}),
    "Pix2Struct": ("Pix2StructForConditionalGeneration", "Pix2StructConfig", both(
        {**ROWS, "d_ff": 40, "d_kv": 4, "seq_len": 9},
        dict(vocab_size=99, hidden_size=24, d_kv=8, d_ff=8, num_layers=1, num_heads=2)),
        "encoder", "pix2struct", {"last_hidden_state": "last_hidden_state"}),
    "Pix2Struct's encoder": ("Pix2StructVisionModel", "Pix2StructVisionConfig",
                             {**ROWS, "d_ff": 40, "d_kv": 8, "seq_len": 12, "dense_act_fn": "gelu"}, "", "pix2struct",
                             {"last_hidden_state": "last_hidden_state"}),
    "RADIO": ("RadioModel", "RadioConfig", {**RATIO, "mlp_ratio": 3.0, "max_img_size": 26}, "", "radio",
              {"last_hidden_state": "last_hidden_state"}),
    "RADIO, gated": ("RadioModel", "RadioConfig",
                     {**RATIO, "mlp_ratio": 3.0, "max_img_size": 20, "use_swiglu_ffn": True, "num_cls_tokens": 1,
                      "num_registers": 1, "norm_mean": [0.1, 0.2, 0.3], "norm_std": [2.0, 3.0, 0.5], "summary_idxs": [0],
                      "qkv_bias": False, "video_temporal_patch_size": 2}, "", "radio",
                     {"last_hidden_state": "last_hidden_state"}),
    "Nemotron 3": ("NemotronH_Omni_Reasoning_V3", "NemotronH_Omni_Reasoning_V3_Config", dict(
        vision_config={**RATIO, "mlp_ratio": 3.0, "max_img_size": 24, "video_temporal_patch_size": 2}, vision_hidden_size=24,
        projector_hidden_size=16,
        text_config=dict(vocab_size=99, hidden_size=16, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
                         intermediate_size=8, layers_block_type=["attention"], mamba_num_heads=2, mamba_head_dim=4,
                         ssm_state_size=4, n_groups=1, pad_token_id=0),
        audio_config=dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_mel_bins=16,
                          subsampling_conv_channels=4, projection_hidden_size=16, projection_bias=False)),
        "vision_model", "radio", {"last_hidden_state": "last_hidden_state"}),
    "TIPSv2 for depth": ("Tipsv2DptForDepthEstimation", "Tipsv2DptConfig", dict(
        backbone_config={**RATIO, "model_type": "tipsv2_vision_model", "out_indices": [1, 3], "apply_layernorm": True,
                         "reshape_hidden_states": False},
        neck_hidden_sizes=[4, 4], reassemble_factors=[1, 1], fusion_hidden_size=4), "backbone", "hf-tipsv2", {}),
}  # fmt: skip
AT = ((20, 20), (12, 20), (28, 16), (8, 24))
ONE_SIZE = ("I-JEPA, no biases",)  # its table is oblong, and upstream takes tables for squares


def built(case):
    import transformers

    kind, config, values, *_ = CASES[case]
    if kind.startswith("NemotronH"):  # which transformers does not name at its top
        from transformers.models import nemotron_h_omni as module
    else:
        module = transformers
    return getattr(module, kind)(getattr(module, config)(**values))


def crooked(case, folder):
    """The model of a case, saved."""
    import multimodal_upstream as up

    model = up.crooked(lambda: built(case))
    up.saved(model, folder)
    return model


def ours_first(hidden, config):
    """YOLOS has the detection tokens last: here they are after the class token."""
    patches = hidden.shape[1] - 1 - config.registers
    order = [0, *range(1 + patches, hidden.shape[1]), *range(1, 1 + patches)]
    return hidden[:, order]


def rows_of(pixels, patch):
    """Pixels as Pix2Struct's processor lays them: (1, G, 2 + P * P * C), row and column counted from 1 before each patch."""
    _, C, Y, X = pixels.shape
    h, w = Y // patch, X // patch
    rows = pixels.reshape(C, h, patch, w, patch).transpose(1, 3, 2, 4, 0).reshape(h * w, -1)
    return np.concatenate([np.indices((h, w)).reshape(2, -1).T + 1, rows], axis=1)[None]


def run(case, model, pixels, config):
    """The outputs of its encoder."""
    import inspect

    import multimodal_upstream as up
    import torch

    _, _, _, place, family, outputs = CASES[case]
    tower = model.get_submodule(place) if hasattr(model, place.split(".")[0]) or not place else model.model.get_submodule(place)
    options = {}
    if "interpolate_pos_encoding" in inspect.signature(tower.forward).parameters and case not in ONE_SIZE:
        options["interpolate_pos_encoding"] = True
    given = rows_of(pixels, config.patch) if family == "pix2struct" else pixels
    if family == "radio" and case != "Nemotron 3":  # which normalises itself
        mean, std = (np.reshape(values, (-1, 1, 1)) for values in (model.config.norm_mean, model.config.norm_std))
        given = given * std + mean
    with up.everything_in_float64(), torch.inference_mode():
        out = tower(torch.from_numpy(given), output_hidden_states=True, **options)
        found = {ours: getattr(out, theirs) for ours, theirs in outputs.items()}
        if case == "Janus":
            found["image_tokens"] = model.model.aligner(out.last_hidden_state)
            if pixels.shape[2:] == (20, 20):  # of other sizes, get_image_features does not resize the positions
                whole = model.model.get_image_features(torch.from_numpy(pixels)).pooler_output
                assert torch.equal(whole, found["image_tokens"])
        if case.startswith("OWL") and hasattr(model, place.split(".")[0]):
            found["image_embedding"] = getattr(model, place.split(".")[0]).visual_projection(out.pooler_output)
    found = {name: value.numpy() for name, value in found.items()}
    hidden = [x.numpy() for x in out.hidden_states]
    if family == "hf-yolos":
        hidden = [ours_first(x, config) for x in hidden]
        found["last_hidden_state"] = ours_first(found["last_hidden_state"], config)
    return {"hidden_states": hidden, **found}


@pytest.mark.parametrize("case", CASES)
def test_converted_encoders_agree(case, tmp_path):
    import multimodal_upstream as up

    model = crooked(case, tmp_path)
    family, values = CASES[case][4], CASES[case][2]
    sizes = [tuple(values["image_size"])] if case in ONE_SIZE else AT
    assert up.agree(tmp_path, lambda pixels, config: run(case, model, pixels, config), sizes) < 1e-12
    checkpoint = convert(tmp_path)
    assert checkpoint.source["family"] == family
    assert config_of_content("", json.loads((tmp_path / "config.json").read_text()))[0] == checkpoint.config


def test_blips_processor():
    """The pictures that it makes are those of our reading of its file."""
    from PIL import Image
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    from numpy_vit.convert.preprocessing import read_preprocessor

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (77, 130, 3), np.uint8))
    for options in ({}, {"size": {"height": 40, "width": 24}, "image_mean": [0.5, 0.4, 0.3]}):
        processor = BlipImageProcessorPil(**options)
        notes = []
        ours = read_preprocessor(json.loads(processor.to_json_string()), 3, notes)
        theirs = np.asarray(processor(picture, return_tensors="np")["pixel_values"])
        assert not notes and np.max(np.abs(ours(picture, np.float64) - theirs)) < 1e-6
