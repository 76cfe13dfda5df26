"""Hugging Face CLIP, the picture's tower (transformers, models/clip/modeling_clip.py).

A norm comes before the first block (spelt "pre_layrnorm" in every file); the last norm is of the class token alone; the
projection into the space shared with texts has no bias. CLIPForImageClassification takes the un-normed patches' mean.
OWL-ViT and OWLv2 are this with other sizes (what they detect with is not run), and so is Kosmos-2's encoder.
"""

from typing import Any

from .family import Family, OpenCheckpoint
from .hugging_face import DEFAULTS, architectures, classes, is_classifier, labels, section_of, sizes
from .table import Row, Table

BLOCK = (
    Row("blocks.{n}.norm1", "encoder.layers.{n}.layer_norm1"),
    Row("blocks.{n}.attention.query", "encoder.layers.{n}.self_attn.q_proj"),
    Row("blocks.{n}.attention.key", "encoder.layers.{n}.self_attn.k_proj"),
    Row("blocks.{n}.attention.value", "encoder.layers.{n}.self_attn.v_proj"),
    Row("blocks.{n}.attention.output", "encoder.layers.{n}.self_attn.out_proj"),
    Row("blocks.{n}.norm2", "encoder.layers.{n}.layer_norm2"),
    Row("blocks.{n}.mlp.hidden", "encoder.layers.{n}.mlp.fc1"),
    Row("blocks.{n}.mlp.output", "encoder.layers.{n}.mlp.fc2"),
)
TABLE = Table(
    (
        Row("embed.projection", "embeddings.patch_embedding"),
        Row("embed.class_token", "embeddings.class_embedding"),
        Row("embed.positions", "embeddings.position_embedding.weight"),
        Row("embed.norm", "pre_layrnorm"),
        Row("embed.norm", "pre_layernorm"),  # OWL-ViT's
        *BLOCK,
        *(row._replace(theirs=row.theirs.replace("encoder.layers.", "encoder.layer.")) for row in BLOCK),  # AltCLIP's, of late
        Row("pooled_norm", "post_layernorm"),
        Row("projection", "visual_projection"),
        Row("head", "classifier"),
    ),
    "torch",
)
TEXT_TOWER = {
    r"(text_model|text_projection)\..*|logit_scale|logit_bias": "it belongs to the text tower",
    r"embeddings\.position_ids": "numbers 0, 1, 2, ...",
}


def says(reading: OpenCheckpoint) -> dict[str, Any]:
    """What config.json says; in files of both towers, its vision_config."""
    config, defaults = reading.config, {**DEFAULTS, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
    fields = sizes(reading, "CLIP", defaults, section_of(reading))
    kinds = " ".join(architectures(reading))
    both = "vision_config" in config and kinds and not is_classifier(reading) and "VisionModel" not in kinds
    projected = "WithProjection" in kinds or both
    width = reading.seen.get("projection", config.get("projection_dim", 512) if projected else 0)
    fields |= {"classes": classes(reading), "pooler": 0, "projection": width}
    if fields["classes"] or is_classifier(reading):
        reading.left_out[r"post_layernorm\..*"] = "the classifier sees the mean of the un-normed patch tokens"
        fields |= {"pooling": "mean", "final_norm": "none"}
    return fields


HF_CLIP = Family(
    name="hf-clip",
    unprepared=("OwlViT", "Owlv2"),
    title="Hugging Face CLIP, the picture's tower",
    upstream="transformers, models/clip",
    table=TABLE,
    marks=(r"embeddings\.class_embedding", r"pre_layrnorm\.weight"),
    model_types=("clip", "clip_vision_model"),
    prefixes=("vision_model.",),
    towers=("image_tower.", "image_tower.vision_model."),  # beside Video-LLaVA's for videos
    fixed={
        "pooling": "class",
        "position_rule": "bicubic",
        "qkv_bias": True,
        "pre_norm": True,
        "final_norm": "pooled",
        "without_bias": ("embed.projection",),
    },
    says=says,
    left_out=TEXT_TOWER,
    labels=labels,
    hugging_face=True,
)
