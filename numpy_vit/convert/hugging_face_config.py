"""config.json of transformers' models: which keys matter, which types are copies, which is the picture's part."""

from collections.abc import Collection, Mapping
from typing import Any

from ..errors import InputError, nearest

# What changes nothing in a forward pass of a picture: training, text generation, book-keeping (transformers 4 and 5,
# configuration_utils.py), and, below, what the classes say of training and of heads that are not run here.
NO_EFFECT = {
    "architectures", "auto_map", "chunk_size_feed_forward", "dtype", "torch_dtype", "finetuning_task",
    "gradient_checkpointing", "id2label", "label2id", "num_labels", "is_composition", "is_decoder", "is_encoder_decoder",
    "model_type", "output_attentions", "output_hidden_states", "problem_type", "return_dict", "task_specific_params",
    "tie_word_embeddings", "tie_encoder_decoder", "tokenizer_class", "torchscript", "transformers_version", "use_bfloat16",
    "tf_legacy_loss", "use_cache", "xla_device", "add_cross_attention", "cross_attention_hidden_size", "attn_implementation",
    "bad_words_ids", "begin_suppress_tokens", "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id",
    "decoder_start_token_id", "diversity_penalty", "do_sample", "early_stopping", "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty", "forced_bos_token_id", "forced_eos_token_id", "length_penalty", "max_length",
    "min_length", "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_return_sequences", "output_scores", "prefix",
    "remove_invalid_values", "repetition_penalty", "return_dict_in_generate", "suppress_tokens", "temperature", "top_k",
    "top_p", "typical_p", "attention_probs_dropout_prob", "attention_dropout", "hidden_dropout_prob", "dropout",
    "drop_path_rate", "initializer_range", "initializer_factor", "layerscale_value", "logit_scale_init_value",
    "encoder_stride", "vocab_size", "mask_token", "use_mask_token", "decoder_hidden_size", "decoder_intermediate_size",
    "decoder_num_attention_heads", "decoder_num_hidden_layers", "mask_ratio", "norm_pix_loss", "pos_embed_jitter",
    "pos_embed_rescale", "pos_embed_shift", "add_fpn", "auxiliary_channels", "auxiliary_concat_input",
    "auxiliary_loss_weight", "auxiliary_num_convs", "out_features", "out_indices", "pool_scales", "reshape_hidden_states",
    "apply_layernorm", "segmentation_indices", "semantic_loss_ignore_index", "stage_names", "use_auxiliary_head",
    "return_class_token", "text_config", "text_config_dict", "num_image_tokens", "projector_hidden_act",
}  # fmt: skip
READ = {
    "ViT": {"pooler_act", "pooler_output_size", "qkv_bias"},
    "DeiT": {"pooler_act", "pooler_output_size", "qkv_bias"},
    "ViTMAE": {"qkv_bias"},
    "CLIP": {"projection_dim"},
    "SigLIP": {"projection_dim", "vision_use_head"},
    "SigLIP 2": {"projection_dim", "vision_use_head", "num_patches"},
    "DINOv2": {"mlp_ratio", "use_swiglu_ffn", "num_register_tokens", "qkv_bias"},
    "DINOv3": {"num_register_tokens", "query_bias", "key_bias", "value_bias", "proj_bias", "mlp_bias", "use_gated_mlp",
               "rope_theta"},
    "BEiT": {
        "use_relative_position_bias", "use_shared_relative_position_bias", "use_absolute_position_embeddings",
        "use_mean_pooling", "layer_scale_init_value",
    },
    "MLCD": {"num_key_value_groups", "rope_parameters", "rope_theta"},
    "two towers": {"projection_dim", "vision_config", "vision_config_dict"},
    "TIPSv2": {"mlp_ratio", "use_swiglu_ffn", "num_register_tokens", "qkv_bias"},
    "I-JEPA": {"pooler_act", "pooler_output_size", "qkv_bias"},
    "YOLOS": {
        "qkv_bias", "num_detection_tokens", "use_mid_position_embeddings", "auxiliary_loss", "bbox_cost",
        "bbox_loss_coefficient", "class_cost", "eos_coefficient", "giou_cost", "giou_loss_coefficient",
    },
    "Pixio": {"mlp_ratio", "qkv_bias", "n_cls_tokens"},
    "RADIO": {
        "mlp_ratio", "use_swiglu_ffn", "qkv_bias", "max_img_size", "num_cls_tokens", "num_registers", "norm_mean", "norm_std",
        "patch_dim", "summary_idxs", "video_patch_dim", "video_temporal_patch_size",
    },
    "BLIP": {"qkv_bias", "projection_dim"},
    "GIT": set(),
    "Janus": {
        "attention_bias", "depth", "hidden_dropout_rate", "mlp_ratio", "projection_dim", "projection_dropout", "use_qk_norm",
    },
}  # fmt: skip
"""What each family reads beside the sizes that all have (hugging_face.OURS, and head_dim)."""
CLIPSEG = (
    "conditional_layer", "decoder_attention_dropout", "decoder_hidden_act", "decoder_intermediate_size",
    "decoder_num_attention_heads", "extract_layers", "reduce_dim", "use_complex_transposed_convolution",
)  # fmt: skip
DPT = (
    "add_projection", "backbone_config", "backbone_featmap_shape", "backbone_out_indices", "fusion_hidden_size",
    "head_in_index", "is_hybrid", "neck_hidden_sizes", "neck_ignore_stages", "readout_type", "reassemble_factors",
    "semantic_classifier_dropout", "use_batch_norm_in_fusion_residual", "use_bias_in_fusion_residual",
)  # fmt: skip
DECODERS = {"dpt": DPT, "clipseg": CLIPSEG}  # what a copy says of what follows its encoder
NO_HEAD = {"vision_use_head": False, "patch_size": 32, "hidden_act": "gelu_pytorch_tanh"}
WIDE = {**NO_HEAD, "hidden_size": 1152, "num_attention_heads": 16}
BLIP_2 = {
    "hidden_size": 1408, "intermediate_size": 6144, "num_hidden_layers": 39, "image_size": 224, "patch_size": 14,
    "num_attention_heads": 16, "layer_norm_eps": 1e-6,
}  # fmt: skip
KOSMOS_2 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
}
# Model types that are copies of another: whose, and where their defaults differ (transformers 5.24, configuration_*.py).
COPIES: dict[str, tuple[str, dict[str, Any]]] = {
    "vit_msn": ("vit", {"layer_norm_eps": 1e-6, "pooler_output_size": 0}),
    "flava_image_model": ("vit", {}),
    "dpt": ("vit", {"image_size": 384}),
    "data2vec-vision": ("beit", {}),
    **{f"{name}_vision_model": ("clip_vision_model", {}) for name in ("metaclip_2", "chinese_clip", "altclip", "clipseg")},
    **{name: ("clip", {}) for name in ("metaclip_2", "chinese_clip", "altclip", "clipseg")},
    "idefics2_vision": ("siglip_vision_model", NO_HEAD),
    "idefics3_vision": ("siglip_vision_model", WIDE),
    "smolvlm_vision": ("siglip_vision_model", WIDE),
    "owlvit_vision_model": ("clip_vision_model", {"image_size": 768}),
    "owlv2_vision_model": ("clip_vision_model", {"image_size": 768, "patch_size": 16}),
    "owlvit": ("clip", {}),
    "owlv2": ("clip", {}),
    "kosmos_2_vision_model": ("clip_vision_model", KOSMOS_2),
    **{f"{name}_vision_model": ("blip_vision_model", BLIP_2) for name in ("blip_2", "instructblip", "instructblipvideo")},
}
# Where they resize positions otherwise.
OTHER_RULES = {"dpt": "bilinear", **dict.fromkeys(("idefics2_vision", "idefics3_vision", "smolvlm_vision"), "nearest")}
# Models of several parts -> their picture tower's type, where config.json does not say it: absent, or, as hub files have it,
# the whole model's (transformers 5.24, configuration_*.py). What it does say counts, but for those whose tower is of one class.
CLIP_INSIDE = ("llava", "llava_next", "llava_next_video", "vipllava", "video_llava", "granite4_vision")
SIGLIP_INSIDE = ("aya_vision", "cohere2_vision", "deepseek_vl", "deepseek_vl_hybrid", "gemma3", "llava_onevision",
                 "modernvbert", "paligemma", "shieldgemma2", "t5gemma2_encoder", "ultravbert")  # fmt: skip
INSIDE = {
    **dict.fromkeys(CLIP_INSIDE, "clip_vision_model"),
    **dict.fromkeys(SIGLIP_INSIDE, "siglip_vision_model"),
    "lfm2_vl": "siglip2_vision_model",
    "aria": "idefics3_vision",
    "idefics2": "idefics2_vision",
    "idefics3": "idefics3_vision",
    "smolvlm": "smolvlm_vision",
    "flava": "flava_image_model",
    "blip": "blip_vision_model",
    "blip-2": "blip_2_vision_model",
    "instructblip": "instructblip_vision_model",
    "instructblipvideo": "instructblipvideo_vision_model",
    "git": "git_vision_model",
    "janus": "janus_vision_model",
    "kosmos-2": "kosmos_2_vision_model",
    "kosmos-2.5": "kosmos_2_5_vision_model",
    "pix2struct": "pix2struct_vision_model",
    "tipsv2": "tipsv2_vision_model",
}
# Those whose tower is of a class of its own, whatever model_type its part has: of one that we know, and of others.
OF_ONE_CLASS = ("idefics2", "idefics3", "smolvlm", "flava", "blip", "blip-2", "instructblip", "instructblipvideo", "git",
                "janus", "kosmos-2", "kosmos-2.5", "pix2struct", "tipsv2")  # fmt: skip
OWN_TOWERS = {
    "aimv2", "align", "apertus1p5", "bridgetower", "cohere_compass", "cosmos3_edge", "deepseek_ocr2",
    "dots3_note", "ernie4_5_vl_moe", "exaone4_5", "florence2", "gemma3n", "gemma4", "gemma4_unified", "glm4v",
    "glm4v_moe", "glm5_next", "glm_image", "glm_ocr", "got_ocr2", "granite_docling", "groupvit", "hunyuan_vl", "hy_v4_vl",
    "idefics", "inkling2", "inkling_mm_model", "internvl", "kimi_k25",
    "lfm3_vl", "llama4", "minicpm_ocr", "minicpmv4_6", "minicpmv4_7", "minimax_m3_vl", "mllama", "molmo2",
    "muse_glimmer", "muse_spark", "ovis2", "paddleocr_vl", "pe_video_encoder", "phi4_multimodal",
    "pp_chart2table", "pp_formulanet", "qianfan_ocr", "qwen2_5_omni_thinker", "qwen2_5_vl", "qwen2_vl",
    "qwen3_5", "qwen3_5_moe", "qwen3_omni_moe_thinker", "qwen3_vl", "qwen3_vl_moe", "qwen4_exp", "sam", "sam3", "sam_hq",
    "slanext", "step3p7", "unlimited_ocr", "video_llama_3", "videoprism", "xclip",
}  # fmt: skip
PLACES = {
    "git.image_encoder.": "git",
    "embed_tokens_extend.image_embed.": "phi4_multimodal",
    "visual.vision_model.": "paddleocr_vl",
}
"""Where such towers lie whose names and shapes are a known one's, and whose last steps are not."""
ENCODERS = (
    "pixtral",
    "blip_vision_model",
    "git_vision_model",
    "janus_vision_model",
    "kosmos_2_5_vision_model",
    "pix2struct_vision_model",
    "radio",
    "tipsv2_vision_model",
    "pixio",
    "ijepa",
    "yolos",
)  # that several kinds of larger models have, and that no class of classifiers has
# Vision Transformers that are not the plain one, and what about them is not done here.
WHY_NOT = {
    "mllama_vision_model": "all tiles of a picture are one sequence, each with its class token, padding between, and published "
    "weights want other inner blocks' tokens than transformers 5 takes",
    "vitpose_backbone": "its patches begin two pixels outside the picture",
    "xclip_vision_model": "a token of each frame's goes to the other frames",
    "groupvit_vision_model": "its tokens are grouped between the blocks",
    "bridgetower_vision_model": "its inner blocks' tokens are normed and go to the text's",
    "florence_vision": "a DaViT, with convolutions, and attention between channels",
    "align_vision_model": "an EfficientNet, which is no Vision Transformer",
    "gemma3n_vision": "a MobileNet, which is no Vision Transformer",
    "timm_wrapper": "a model of timm's: give timm's own config.json and weights",
    "eomt": "its last blocks see queries too",
    "eomt_dinov3": "its last blocks see queries too",
    "videomt": "its last blocks see queries too",
    "vilt": "its blocks see pictures and texts together",
    "layoutlmv3": "its blocks see pictures and texts together",
    "udop": "its blocks see pictures and texts together",
    "fuyu": "patches go into the language model itself",
    "mgp-str": "its tokens are made into characters by attention of another kind",
    "seggpt": "two pictures one above the other, with relative positions of rows and columns",
    **dict.fromkeys(("videomae", "vivit", "timesformer", "vjepa2", "videoprism_vision_model"), "it is for videos"),
    **dict.fromkeys(("audio-spectrogram-transformer", "clap_audio_model"), "it is for sounds"),
    **dict.fromkeys(
        ("convnext", "convnextv2", "dinov3_convnext", "efficientnet", "mobilenet_v1", "mobilenet_v2", "poolformer", "textnet"),
        "it is no Vision Transformer",
    ),
    **dict.fromkeys(
        ("dinat", "donut-swin", "focalnet", "hiera", "levit", "maskformer-swin", "mobilevit", "mobilevitv2", "pvt", "pvt_v2",
         "swiftformer", "swin", "swin2sr", "swinv2", "sam2_hiera_det_model"),
        "a grid that gets coarser from stage to stage is no plain Vision Transformer's",
    ),
}  # fmt: skip
TOWERS = ("vision_config", "image_config")  # what the part about pictures is called, where its type is not said


def own_config(config: Mapping[str, Any] | None, notes: list[str], known: Collection[str] = ()) -> dict[str, Any]:
    """A config.json as that of a family we know: a copy's as the original's, a larger model's as its picture tower's.

    known   the family's own types, whose config.json is taken whole: it knows where its parts are

    Raises InputError where a larger model has several towers.
    """
    if (config or {}).get("model_type") in known:
        return dict(config or {})
    found = picture_part(config, notes)
    model_type = found.get("model_type")
    if not isinstance(model_type, str) or model_type not in COPIES:
        return found
    original, defaults = COPIES[model_type]
    others = DECODERS.get(model_type, ())
    inner = COPIES.get(f"{model_type}_vision_model", ("", {}))[1]
    if inner and isinstance(found.get("vision_config"), dict):  # of both towers, where the picture's has defaults of its own
        found["vision_config"] = filled_in(found["vision_config"], inner)
    kept = {key: value for key, value in found.items() if key not in others}
    return {**filled_in(kept, defaults), "model_type": original}


def filled_in(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json with defaults for what it does not say, or as null."""
    return {**config, **{key: value for key, value in defaults.items() if config.get(key) is None}}


def picture_part(config: Mapping[str, Any] | None, notes: list[str]) -> dict[str, Any]:
    """The part of a config.json that is about pictures, where it is of a type we know; else the whole. Raises InputError."""
    found = dict(config or {})
    model_type = found.get("model_type")
    if not isinstance(model_type, str) or model_type in CLASSES or model_type in ENCODERS:
        return found
    if model_type in COPIES:
        if found.get("is_hybrid"):
            raise InputError(f"config.json: a hybrid {model_type}, with a ResNet before the blocks, is not supported")
        if not found.get("backbone_config"):  # a dpt with one has no blocks of its own
            return found
    inner = towers(found)
    if len(inner) > 1:
        raise InputError(f"config.json is a {model_type}'s, with several towers ({', '.join(inner)}): save the one that is "
                         "meant by itself, with its own config.json")  # fmt: skip
    for where, section in inner.items():
        notes.append(f"config.json is a {model_type}'s: the model is its {where}, a {section['model_type']}")
        return picture_part(section, notes)
    return found


def position_rule(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """How a copy resizes positions, where it does otherwise than its original."""
    rule = OTHER_RULES.get(str(picture_part(config, []).get("model_type")))
    return {} if rule is None else {"position_rule": rule}


def refuse_place(prefix: str, model_types: Collection[str]) -> None:
    """Raise InputError where a tower lies under a prefix that tells another kind than its names do; `model_types` are these."""
    for place, parent in PLACES.items():
        if place in prefix and not {parent, INSIDE.get(parent)} & {*model_types}:
            raise InputError(
                f"its tensors lie under '{prefix}', as a {parent}'s tower, which is of a kind of its own: not supported"
            )


def towers(config: Mapping[str, Any], path: str = "") -> dict[str, dict[str, Any]]:
    """The parts of a larger config.json that are of a type we know, wherever they lie: path -> part, its type filled in.

    Raises InputError for one that cannot be what it says.
    """
    found: dict[str, dict[str, Any]] = {}
    parent = config.get("model_type")
    for key, part in config.items():
        if not isinstance(part, dict):
            continue
        kind = part.get("model_type")
        if key in TOWERS and isinstance(parent, str) and (kind in (None, parent) or parent in OF_ONE_CLASS):
            kind = INSIDE.get(parent)
        if isinstance(kind, str) and (kind in CLASSES or kind in COPIES or kind in ENCODERS):
            if key in TOWERS and parent in OWN_TOWERS:
                raise InputError(f"config.json: the {key} of a {parent} is of a kind of its own, no {kind} whatever it says: "
                                 "not supported")  # fmt: skip
            found[path + key] = {**part, "model_type": kind}
        else:
            found |= towers(part, f"{path}{key}.")
    return found


def why_not(config: Mapping[str, Any] | None) -> str:
    """What of a config.json's model, or of a part of it, is not done here, after a colon; or nothing where that is open."""
    parts = [config or {}]
    for part in parts:
        reason = WHY_NOT.get(str(part.get("model_type")))
        if reason is not None:
            return f": {reason}"
        parts += [inner for inner in part.values() if isinstance(inner, dict)]
    return ""


def refuse_unknown(config: Mapping[str, Any], known: Collection[str]) -> None:
    """Raise InputError for a key of config.json that is not read, and not known to change nothing; whatever its value."""
    for key, value in config.items():
        if key == "pruned_heads" and not value:
            continue
        if key not in known and key not in NO_EFFECT and not key.startswith("_"):
            raise InputError(f"config.json: {key} {value!r:.40} is not known, and so not supported{nearest(key, known)}")


CLASSES = {
    "vit": "vit", "deit": "deit", "vit_mae": "vitmae", "clip": "clip", "clip_vision_model": "clip", "siglip": "siglip",
    "siglip_vision_model": "siglip", "siglip2": "siglip2", "siglip2_vision_model": "siglip2", "dinov2": "dinov2",
    "dinov2_with_registers": "dinov2withregisters", "dinov3_vit": "dinov3vit", "beit": "beit",
    "mlcd": "mlcd", "mlcd_vision_model": "mlcd",
}  # fmt: skip
"""model_type -> how its classes' names begin."""
