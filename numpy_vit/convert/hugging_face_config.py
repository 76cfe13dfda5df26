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
    "text_config", "text_config_dict", "num_image_tokens", "projector_hidden_act",
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
    "two towers": {"projection_dim", "vision_config", "vision_config_dict"},
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
}
# Where they resize positions otherwise.
OTHER_RULES = dict.fromkeys(("idefics2_vision", "idefics3_vision", "smolvlm_vision"), "nearest")
TOWERS = ("vision_config", "image_config")


def own_config(config: Mapping[str, Any] | None, known: Collection[str], notes: list[str]) -> dict[str, Any]:
    """A config.json as that of a family we know: a copy's as the original's, a multimodal model's as its picture tower's."""
    found = dict(config or {})
    model_type = found.get("model_type")
    if not isinstance(model_type, str):
        return found
    if model_type in COPIES:
        original, defaults = COPIES[model_type]
        if found.get("is_hybrid"):
            raise InputError(f"config.json: a hybrid {model_type}, with a ResNet before the blocks, is not supported")
        others = DECODERS.get(model_type, ())
        return {**defaults, **{key: value for key, value in found.items() if key not in others}, "model_type": original}
    if model_type in known:
        return found
    for key in TOWERS:
        section = found.get(key)
        inner = section.get("model_type") if isinstance(section, dict) else None
        if isinstance(inner, str) and (inner in known or inner in COPIES):
            notes.append(f"config.json is a {model_type}'s: the model is its {key}, a {inner}")
            return own_config(section, known, notes)
    return found


def position_rule(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """How a copy resizes positions, where it does otherwise than its original."""
    found = config or {}
    parts = [found, *(part for key in TOWERS if isinstance(part := found.get(key), dict))]
    rules = [OTHER_RULES[kind] for part in parts if (kind := str(part.get("model_type"))) in OTHER_RULES]
    return {"position_rule": rules[0]} if rules else {}


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
}  # fmt: skip
"""model_type -> how its classes' names begin."""
