"""SigLIP's towers before a language model: Gemma 3, PaliGemma, Idefics 3 and SmolVLM, LFM2-VL (as transformers has them).

The tower is that of hf_siglip, read as there; LFM2-VL's is SigLIP 2's. What makes its tokens the language model's differs:

    Gemma 3             the mean of neighbouring patches, an RMS norm, a matrix. The norm's scale is 1 + what the file holds
    PaliGemma           a linear layer
    Idefics 3, SmolVLM  neighbouring patches one after the other (pixel shuffle), a matrix. Pictures of other sizes take each
                        patch's position from the place in the square table where it lies
    LFM2-VL             the same with a norm and a small MLP; pictures at their own size

Where a file has the tower alone it is read without the rest. Idefics 3's own code joins the patches of square pictures only;
here those of others are joined likewise.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..errors import InputError
from ..files.tensorfile import tensor_of
from . import hf_siglip
from .family import Family, OpenCheckpoint
from .hugging_face import activation, flag
from .hugging_face_config import WIDE
from .multimodal import language_model, language_model_width, number, says_no_language_model
from .table import Row, Table, Tensors

Says = Callable[[OpenCheckpoint], dict[str, Any]]
GEMMA3_NORM = "multi_modal_projector.mm_soft_emb_norm.weight"


def tower(reading: OpenCheckpoint, kinds: tuple[str, ...], says: Says, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What the picture's part of config.json says of the tower.

    kinds   what it may say it is: the tower's type, and what published files write there, beside the whole model's type
    """
    section = reading.config.get("vision_config")
    if not isinstance(section, dict):
        raise InputError(f"config.json: vision_config {section!r:.40}: must be a table of sizes")
    kind, parent = section.get("model_type"), reading.config.get("model_type")
    if kind not in (None, parent, *kinds):
        raise InputError(f"config.json: the vision_config of a {parent} is a {kind!r:.40}: only {kinds[0]} is supported")
    own = {key: value for key, value in section.items() if key not in OF_THE_PROCESSOR}
    return says(dataclasses.replace(reading, config={**defaults, **own, "model_type": "siglip_vision_model"}))


OF_THE_PROCESSOR = ("size", "max_image_size", "use_base_siglip")  # in SmolVLM's published files, and read by nobody


def merged(reading: OpenCheckpoint, fields: dict[str, Any], what: str, merger: Mapping[str, Any]) -> dict[str, Any]:
    """The tower's fields with what makes its tokens the language model's; `what` its names begin with in the file."""
    if reading.tensors is not None and not any(name.startswith(what) for name in reading.tensors):
        reading.notes.append(f"there are no tensors '{what}...': the encoder alone is read, without what merges its tokens")
        return fields
    pooling = "none" if fields["pooling"] == "mean" else fields["pooling"]  # the mean would be a classifier's
    return {**fields, "pooling": pooling, "merger": merger}


def joined(side: int, way: str) -> list[str]:
    """The stage that joins side x side patches; none where each stays by itself."""
    return [way] if side > 1 else []


def text_width(reading: OpenCheckpoint, default: int, what: str) -> int:
    """The width of the language model's tokens; `default` is transformers' for its kind."""
    return language_model_width(language_model(reading.config), reading.notes, default, what)


def says_gemma3(reading: OpenCheckpoint) -> dict[str, Any]:
    """What config.json of Gemma 3 says; mm_tokens_per_image says how many patches are joined."""
    fields = tower(reading, ("siglip_vision_model",), hf_siglip.says, {})
    wanted = number(reading.config, "mm_tokens_per_image", 256, reading.notes, "Gemma 3")
    patches = fields["image"] // fields["patch"] if isinstance(fields["image"], int) else 0
    side = patches // int(wanted**0.5)
    if side < 1:
        raise InputError(f"config.json: mm_tokens_per_image {wanted}: a picture of {fields['image']!r:.20} has fewer patches")
    stages = [*joined(side, "mean"), "norm", f"output {text_width(reading, 2304, 'Gemma 3')}"]
    merger = {"side": side, "stages": stages, "norm": "rms", "eps": fields["eps"], "without_bias": ["output"]}
    return merged(reading, fields, "multi_modal_projector.", merger)


def says_paligemma(reading: OpenCheckpoint) -> dict[str, Any]:
    """What config.json of PaliGemma says."""
    fields = tower(reading, ("siglip_vision_model",), hf_siglip.says, {})
    width = number(reading.config, "projection_dim", 2048, reading.notes, "PaliGemma")
    return merged(reading, fields, "multi_modal_projector.", {"side": 1, "stages": [f"output {width}"]})


def says_idefics3(reading: OpenCheckpoint) -> dict[str, Any]:
    """What config.json of Idefics 3 and SmolVLM says; scale_factor is the side of the squares that are joined."""
    kinds = ("idefics3_vision", "smolvlm_vision", "idefics3", "smolvlm")
    fields = tower(reading, kinds, hf_siglip.says, WIDE)
    side = number(reading.config, "scale_factor", 2, reading.notes, "Idefics 3")
    stages = joined(side, "concat")
    if says_no_language_model(reading, reading.config):
        return merged(reading, fields, "connector.", {"side": side, "stages": stages})
    stages += [f"output {text_width(reading, 4096, 'Idefics 3')}"]
    return merged(reading, fields, "connector.", {"side": side, "stages": stages, "without_bias": ["output"]})


def says_lfm2(reading: OpenCheckpoint) -> dict[str, Any]:
    """What config.json of LFM2-VL says."""
    fields = tower(reading, ("siglip2_vision_model", "lfm2-vl"), hf_siglip.says_2, {})
    side = number(reading.config, "downsample_factor", 2, reading.notes, "LFM2-VL")
    hidden = number(reading.config, "projector_hidden_size", 2560, reading.notes, "LFM2-VL")
    act = activation(reading.config.get("projector_hidden_act", "gelu"), "projector_hidden_act")
    normed = ["norm"] if flag(reading.config, "projector_use_layernorm", True) else []
    stages = [*joined(side, "concat"), *normed, f"hidden {hidden}", act, f"output {text_width(reading, 2560, 'LFM2-VL')}"]
    without = [] if flag(reading.config, "projector_bias", True) else ["hidden", "output"]
    merger = {"side": side, "stages": stages, "eps": 1e-5, "without_bias": without}  # nn.LayerNorm's own eps
    return merged(reading, fields, "multi_modal_projector.", merger)


def with_1_added(tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
    """Gemma's RMS norms scale by 1 + weight. Kept in float64: the sum would be rounded else."""
    if GEMMA3_NORM not in tensors:
        return tensors
    return {**tensors, GEMMA3_NORM: tensor_of(tensors[GEMMA3_NORM].to_float(np.float64) + 1)}


def siglip(
    name: str,
    title: str,
    folder: str,
    table: Table,
    rows: tuple[Row, ...],
    types: tuple[str, ...],
    says: Says,
    **others: Any,
) -> Family:
    """One of them; `types` are the model types that config.json may say."""
    fixed = {**hf_siglip.FIXED, "position_rule": "bicubic", **others.pop("fixed", {})}
    return Family(
        name=name,
        title=title,
        upstream=f"transformers, models/{folder}",
        table=Table((*table.rows, *rows), table.layout),
        marks=(),
        model_types=types,
        prefixes=("vision_model.", "vision_tower."),
        fixed=fixed,
        says=says,
        left_out={r"embeddings\.position_ids": "numbers 0, 1, 2, ..."},
        hugging_face=True,
        **others,
    )


GEMMA3 = siglip(
    "gemma3", "Gemma 3's encoder", "gemma3", hf_siglip.TABLE,
    (Row("merger.norm.weight", GEMMA3_NORM),
     Row("merger.output.weight", "multi_modal_projector.mm_input_projection_weight", layout="plain")),
    ("gemma3",), says_gemma3, prepare=with_1_added,
)  # fmt: skip
PALIGEMMA = siglip(
    "paligemma", "PaliGemma's encoder", "paligemma", hf_siglip.TABLE,
    (Row("merger.output", "multi_modal_projector.linear"),), ("paligemma",), says_paligemma,
)  # fmt: skip
IDEFICS3 = siglip(
    "idefics3", "Idefics 3's encoder, and SmolVLM's", "idefics3 and smolvlm", hf_siglip.TABLE,
    (Row("merger.output", "connector.modality_projection.proj"),), ("idefics3", "smolvlm"), says_idefics3,
    fixed={"position_rule": "nearest", "any_size": True},
)  # fmt: skip
LFM2_VL = siglip(
    "lfm2-vl", "LFM2-VL's encoder", "lfm2_vl", hf_siglip.TABLE_2,
    (Row("merger.norm", "multi_modal_projector.layer_norm"), Row("merger.hidden", "multi_modal_projector.linear_1"),
     Row("merger.output", "multi_modal_projector.linear_2")),
    ("lfm2_vl", "lfm2-vl"), says_lfm2, fixed={"position_rule": "bilinear_antialias", "any_size": True},
)  # fmt: skip
