"""Whole checkpoints of transformers that hold a tower we run, saved by it, loaded straight from the folder (`pytest -m peers`)."""

import inspect
import json

import numpy as np
import pytest

import numpy_vit
from numpy_vit import InputError
from numpy_vit.convert import convert_source
from numpy_vit.convert.sources import open_source

from conftest import relative_error

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

TEXT = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=99,
            num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2)  # fmt: skip
SIZES = dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40, image_size=20, patch_size=4)
DINOV2 = {**{k: v for k, v in SIZES.items() if k != "intermediate_size"}, "mlp_ratio": 3, "image_size": (20, 20)}
CLIP, SIGLIP = {**SIZES, "model_type": "clip_vision_model"}, {**SIZES, "model_type": "siglip_vision_model"}
NO_HEAD = {**SIGLIP, "vision_use_head": False}
LLAMA, QWEN2 = {**TEXT, "model_type": "llama"}, {**TEXT, "model_type": "qwen2"}
GEMMA = {**TEXT, "model_type": "gemma", "head_dim": 8}
COHERE2 = {**TEXT, "model_type": "cohere2", "layer_types": ["full_attention"]}
GEMMA3 = {**TEXT, "head_dim": 8, "layer_types": ["full_attention"]}
PLAIN = {k: v for k, v in TEXT.items() if k != "num_key_value_heads"}
BERT = {**PLAIN, "model_type": "bert"}
NEXT = {"image_grid_pinpoints": [[20, 20]]}
BACKBONE = {"out_indices": [1, 2, 3]}
NECK = dict(neck_hidden_sizes=[4, 4, 4], fusion_hidden_size=4, reassemble_factors=[4, 2, 1], reassemble_hidden_size=24)
DEPTH = {**NECK, "head_hidden_size": 4}
PALIGEMMA = dict(model_type="paligemma", vision_config=NO_HEAD, text_config=GEMMA, projection_dim=16)


def both(vision, text, **others):
    return {"vision_config": vision, "text_config": text, **others}


# class: (config class, what it is made with); the tower is the first module of whose kind `inner` speaks
READ = {
    "AltCLIPModel": ("AltCLIPConfig", both(SIZES, {**PLAIN, "project_dim": 16}, projection_dim=7)),
    "AriaForConditionalGeneration": ("AriaConfig", both({**SIZES, "model_type": "idefics3_vision"}, {**TEXT, "moe_num_experts": 2},
                                                  projector_patch_to_query_dict={25: 4})),
    "AyaVisionForConditionalGeneration": ("AyaVisionConfig", both(NO_HEAD, COHERE2, downsample_factor=1)),
    "CHMv2ForDepthEstimation": ("CHMv2Config", {"backbone_config": {**SIZES, "image_size": (12, 20), "model_type": "dinov3_vit", "num_register_tokens": 2, **BACKBONE},
                                                "post_process_channels": [4, 4, 4], "fusion_hidden_size": 4, "reassemble_factors": [4, 2, 1], "head_hidden_size": 4}),
    "ChineseCLIPModel": ("ChineseCLIPConfig", both(SIZES, PLAIN, projection_dim=7)),
    "CLIPModel": ("CLIPConfig", both(SIZES, PLAIN, projection_dim=7)),
    "CLIPSegModel": ("CLIPSegConfig", both(SIZES, PLAIN, projection_dim=7)),
    "CLIPSegForImageSegmentation": ("CLIPSegConfig", both(SIZES, PLAIN, projection_dim=7, extract_layers=[0, 1], reduce_dim=8, decoder_num_attention_heads=2,
                                          decoder_intermediate_size=8)),
    "Cohere2VisionForConditionalGeneration": ("Cohere2VisionConfig", both(NO_HEAD, COHERE2, downsample_factor=1, alignment_intermediate_size=8)),
    "ColPaliForRetrieval": ("ColPaliConfig", {"vlm_config": PALIGEMMA, "embedding_dim": 5}),
    "ColModernVBertForRetrieval": ("ColModernVBertConfig", {"vlm_config": {"model_type": "modernvbert", **both(NO_HEAD, {**PLAIN, "model_type": "modernbert", "cls_token_id": 1, "sep_token_id": 2}, pixel_shuffle_factor=1)}, "embedding_dim": 5}),
    "DeepseekVLForConditionalGeneration": ("DeepseekVLConfig", both(NO_HEAD, LLAMA)),
    "DeepseekVLHybridForConditionalGeneration": ("DeepseekVLHybridConfig", both(NO_HEAD, LLAMA, high_res_vision_config=dict(
        model_type="sam_vision_model", hidden_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=4,
        output_channels=4, mlp_dim=8, global_attn_indexes=[0], window_size=2))),
    "DepthAnythingForDepthEstimation": ("DepthAnythingConfig", {"backbone_config": {**DINOV2, "model_type": "dinov2", **BACKBONE}, **DEPTH}),
    "DPTForDepthEstimation": ("DPTConfig", {**SIZES, "image_size": (12, 20), "backbone_out_indices": [0, 1, 2, 2], "neck_hidden_sizes": [4, 4, 4, 4], "fusion_hidden_size": 4}),
    "DPTForDepthEstimation dinov2": ("DPTConfig", {"backbone_config": {**DINOV2, "model_type": "dinov2", "reshape_hidden_states": False, **BACKBONE}, "neck_hidden_sizes": [4, 4, 4], "fusion_hidden_size": 4, "reassemble_factors": [4, 2, 1], "neck_ignore_stages": []}),
    "FlavaModel": ("FlavaConfig", dict(image_config={**SIZES, "image_size": (12, 20)}, text_config=PLAIN, multimodal_config=PLAIN, projection_dim=7)),
    "FlavaForPreTraining": ("FlavaConfig", dict(image_config={**SIZES, "image_size": (12, 20)}, text_config=PLAIN, multimodal_config=PLAIN, projection_dim=7,
                                              image_codebook_config=dict(hidden_size=4, vocab_size=9, num_blocks_per_group=1))),
    "Gemma3ForConditionalGeneration": ("Gemma3Config", both(NO_HEAD, GEMMA3, mm_tokens_per_image=25)),
    "Granite4VisionForConditionalGeneration": ("Granite4VisionConfig", both(CLIP, TEXT, deepstack_layer_map=[[1, 0]], downsample_rate="5/5", qformer_config=dict(hidden_size=24, num_hidden_layers=1, num_attention_heads=3, intermediate_size=8, encoder_hidden_size=24), **NEXT)),
    "Idefics2ForConditionalGeneration": ("Idefics2Config", both(SIZES, {**TEXT, "model_type": "mistral"}, perceiver_config=dict(
        resampler_n_latents=2, resampler_depth=1, resampler_n_heads=2, resampler_head_dim=4, num_key_value_heads=1))),
    "Idefics3ForConditionalGeneration": ("Idefics3Config", both(SIZES, LLAMA, scale_factor=1)),
    "LlavaForConditionalGeneration": ("LlavaConfig", both(CLIP, LLAMA)),
    "LlavaForConditionalGeneration siglip": ("LlavaConfig", both(SIGLIP, LLAMA)),
    "LlavaForConditionalGeneration dinov2": ("LlavaConfig", both({**DINOV2, "model_type": "dinov2"}, LLAMA)),
    "LlavaForConditionalGeneration vit": ("LlavaConfig", both({**SIZES, "image_size": (12, 20), "model_type": "vit"}, LLAMA)),
    "LlavaForConditionalGeneration beit": ("LlavaConfig", both({**SIZES, "use_relative_position_bias": True, "model_type": "beit"}, LLAMA)),
    "LlavaNextForConditionalGeneration": ("LlavaNextConfig", both(CLIP, LLAMA, **NEXT)),
    "LlavaNextVideoForConditionalGeneration": ("LlavaNextVideoConfig", both(CLIP, LLAMA, **NEXT)),
    "LlavaOnevisionForConditionalGeneration": ("LlavaOnevisionConfig", both(NO_HEAD, QWEN2, **NEXT)),
    "MetaClip2Model": ("MetaClip2Config", both(SIZES, PLAIN, projection_dim=7)),
    "ModernVBertModel": ("ModernVBertConfig", both(NO_HEAD, {**PLAIN, "model_type": "modernbert", "cls_token_id": 1, "sep_token_id": 2}, pixel_shuffle_factor=1)),
    "PaliGemmaForConditionalGeneration": ("PaliGemmaConfig", both(NO_HEAD, GEMMA, projection_dim=16)),
    "PI0ForConditionalGeneration": ("PI0Config", {"vlm_config": PALIGEMMA, "dit_config": {**GEMMA, "num_key_value_heads": 1}}),
    "PromptDepthAnythingForDepthEstimation": ("PromptDepthAnythingConfig", {"backbone_config": {**DINOV2, "model_type": "dinov2", **BACKBONE}, **DEPTH}),
    "ShieldGemma2ForImageClassification": ("ShieldGemma2Config", both(NO_HEAD, {**GEMMA3, "model_type": "gemma3_text"}, mm_tokens_per_image=25)),
    "SiglipModel": ("SiglipConfig", both(SIZES, PLAIN)),
    "SmolVLMForConditionalGeneration": ("SmolVLMConfig", both(SIZES, LLAMA, scale_factor=1)),
    "T5Gemma2ForConditionalGeneration": ("T5Gemma2Config", dict(encoder=both(NO_HEAD, GEMMA3, mm_tokens_per_image=25), decoder=GEMMA3)),
    "UltraVBertModel": ("UltraVBertConfig", both(NO_HEAD, PLAIN)),
    "VideoLlavaForConditionalGeneration": ("VideoLlavaConfig", both(CLIP, LLAMA)),
    "VipLlavaForConditionalGeneration": ("VipLlavaConfig", both(CLIP, LLAMA, vision_feature_layers=[-2, -1])),
    "VisionEncoderDecoderModel": ("VisionEncoderDecoderConfig", dict(encoder={**SIZES, "image_size": (12, 20), "model_type": "vit"},
                                                                    decoder={**BERT, "is_decoder": True, "add_cross_attention": True})),
    "VisionTextDualEncoderModel": ("VisionTextDualEncoderConfig", both({**SIZES, "image_size": (12, 20), "model_type": "vit"}, BERT, projection_dim=7)),
    "VisionTextDualEncoderModel clip": ("VisionTextDualEncoderConfig", both(CLIP, BERT, projection_dim=7)),
    "ZoeDepthForDepthEstimation": ("ZoeDepthConfig", {"backbone_config": {**SIZES, "model_type": "beit", "use_relative_position_bias": True, "reshape_hidden_states": False, "out_indices": [0, 1, 2, 3]},
                                                    "neck_hidden_sizes": [4, 4, 4, 4], "fusion_hidden_size": 4, "bottleneck_features": 4, "num_relative_features": 4, "bin_embedding_dim": 4,
                                                    "patch_transformer_hidden_size": 4, "patch_transformer_num_attention_heads": 2, "patch_transformer_intermediate_size": 4, "num_patch_transformer_layers": 1, "num_attractors": [2,2,2,2]}),
    "UperNetForSemanticSegmentation": ("UperNetConfig", {"backbone_config": {**SIZES, "model_type": "beit", "use_relative_position_bias": True, "out_indices": [0, 1, 2, 3]}, "hidden_size": 4}),
    "Lfm2VlForConditionalGeneration": ("Lfm2VlConfig", both({**{k: v for k, v in SIZES.items() if k != "image_size"}, "num_patches": 25, "vision_use_head": False, "model_type": "siglip2_vision_model"}, {**TEXT, "model_type": "lfm2", "layer_types": ["full_attention"]}, downsample_factor=1)),
    "Siglip2Model": ("Siglip2Config", both({**{k: v for k, v in SIZES.items() if k != "image_size"}, "num_patches": 25}, PLAIN)),
    "DepthProModel": ("DepthProConfig", {}),
}  # fmt: skip
