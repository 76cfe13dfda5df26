"""Ours -> a Hugging Face folder (`convert --to hf`) that transformers loads with nothing missing and nothing left over.

Which of transformers' classes can hold a model is found by trying: a family's config.json is written, and read back by the
family's own reader; if the same model comes out, it fits. The tables of names serve both ways.
"""

import dataclasses
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..config import ViTConfig
from ..errors import InputError
from ..files.converted import Checkpoint, validate
from ..files.tensorfile import Tensor, tensor_of, write
from ..pictures.images import RESAMPLES, Preprocess
from . import hf_beit, hf_clip, hf_deit, hf_dinov2, hf_dinov3, hf_siglip, hf_vit
from .family import Family
from .hub import CONFIG, PREPROCESSOR, WEIGHTS
from .preprocessing import read_preprocessor
from .sources import Source
from .table import Row, Table

Array = Any
ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu", "relu": "relu", "silu": "silu"}


def sizes(c: ViTConfig) -> dict[str, Any]:
    """What every family's config.json says."""
    return {
        "hidden_size": c.width,
        "num_hidden_layers": c.depth,
        "num_attention_heads": c.heads,
        "intermediate_size": c.mlp,
        "hidden_act": ACTIVATIONS[c.activation],
        "layer_norm_eps": c.eps,
        "image_size": c.image[0] if c.image[0] == c.image[1] else list(c.image),
        "patch_size": c.patch,
        "num_channels": c.channels,
    }


def vit(c: ViTConfig) -> tuple[str, dict[str, Any]]:
    pooler = {"pooler_output_size": c.pooler, "pooler_act": "tanh"} if c.pooler else {}
    kind = "ViTForImageClassification" if c.classes else "ViTModel"
    return kind, {"model_type": "vit", **sizes(c), "qkv_bias": c.qkv_bias, **pooler}


def deit(c: ViTConfig) -> tuple[str, dict[str, Any]]:
    kind = "DeiTForImageClassification" + ("WithTeacher" if c.distillation_head else "") if c.classes else "DeiTModel"
    return kind, {**vit(c)[1], "model_type": "deit"}


def clip(c: ViTConfig) -> tuple[str, dict[str, Any]]:
    kind = "CLIPVisionModelWithProjection" if c.projection else "CLIPVisionModel"
    return kind, {"model_type": "clip_vision_model", **sizes(c), **({"projection_dim": c.projection} if c.projection else {})}


def siglip(c: ViTConfig) -> tuple[str, dict[str, Any]]:
    return "SiglipVisionModel", {"model_type": "siglip_vision_model", **sizes(c), "vision_use_head": c.pooling == "map"}


def dinov2(c: ViTConfig) -> tuple[str, dict[str, Any]]:
    kind = "Dinov2" + ("WithRegisters" if c.registers else "") + ("ForImageClassification" if c.classes else "Model")
    values = {key: value for key, value in sizes(c).items() if key != "intermediate_size"}
    values |= {"qkv_bias": c.qkv_bias, "use_swiglu_ffn": c.gated_mlp, "use_mask_token": False}
    ratio: float = c.mlp * 1.5 / c.width if c.gated_mlp else c.mlp / c.width
    values |= {"mlp_ratio": int(ratio) if ratio == int(ratio) else ratio}
    registers = {"num_register_tokens": c.registers} if c.registers else {}
    return kind, {"model_type": "dinov2_with_registers" if c.registers else "dinov2", **values, **registers}


def dinov3(c: ViTConfig) -> tuple[str, dict[str, Any]]:
    biases = {"query_bias": c.qkv_bias, "key_bias": c.qkv_bias and "attention.key" not in c.without_bias}
    biases |= {"value_bias": c.qkv_bias, "proj_bias": "attention.output" not in c.without_bias}
    values = {"mlp_bias": "mlp.hidden" not in c.without_bias, "use_gated_mlp": c.gated_mlp, "rope_theta": 100.0}
    registers = {"num_register_tokens": c.registers}
    return "DINOv3ViTModel", {"model_type": "dinov3_vit", **sizes(c), **biases, **values, **registers}


def beit(c: ViTConfig) -> tuple[str, dict[str, Any]]:
    values = {
        "use_relative_position_bias": c.relative_positions,
        "use_absolute_position_embeddings": c.positions == "all",
        "use_mean_pooling": c.pooling == "mean",
        "layer_scale_init_value": 0.1 if c.layer_scale else 0.0,
    }
    return "BeitForImageClassification" if c.classes else "BeitModel", {"model_type": "beit", **sizes(c), **values}


WRITERS: tuple[tuple[Family, Callable[[ViTConfig], tuple[str, dict[str, Any]]]], ...] = (
    (hf_vit.HF_VIT, vit),
    (hf_deit.HF_DEIT, deit),
    (hf_clip.HF_CLIP, clip),
    (hf_siglip.HF_SIGLIP, siglip),
    (hf_dinov2.HF_DINOV2, dinov2),
    (hf_dinov2.HF_DINOV2_REGISTERS, dinov2),
    (hf_dinov3.HF_DINOV3, dinov3),
    (hf_beit.HF_BEIT, beit),
)


def fitting(checkpoint: Checkpoint) -> tuple[Family, dict[str, Any], str]:
    """The family that can hold a model, its config.json, and its position rule. Raises InputError where none can."""
    config, labels = checkpoint.config, checkpoint.labels
    names = labels or [f"LABEL_{n}" for n in range(config.classes)]
    for family, writer in WRITERS:
        kind, values = writer(config)
        content = {"architectures": [kind], **values, "dtype": "float32"}
        if config.classes:
            content |= {
                "id2label": {str(n): name for n, name in enumerate(names)},
                "label2id": {n: i for i, n in enumerate(names)},
            }
        source = Source(CONFIG, False, [], {}, {}, content, None)
        try:
            back = family.config(family.reading(source, []), {})
        except InputError:
            continue
        same_but = {"position_rule": config.position_rule, "any_size": config.any_size}
        same_but |= {} if config.classes else {"pooler": config.pooler}
        if family.recognise(source) and back.replace(**same_but) == config:
            content |= {"rope_theta": rope_theta(checkpoint)} if family is hf_dinov3.HF_DINOV3 else {}
            return family, content, back.position_rule
    raise InputError(
        "no model of transformers holds this one: its options, " + ", ".join(sorted(options(config))) + ", are of no one family"
    )


def rope_theta(checkpoint: Checkpoint) -> float:
    """DINOv3's rope_theta, of which transformers makes the frequencies 2 pi theta ** (-4 j / K)."""
    frequencies = checkpoint.tensors["rope.frequencies"].to_float(np.float64)
    if len(frequencies) < 2:
        return 100.0
    found = float((frequencies[0] / frequencies[-1]) ** (len(frequencies) / (len(frequencies) - 1)))
    return float(round(found)) if abs(found / round(found) - 1) < 1e-3 else found


def options(config: ViTConfig) -> set[str]:
    """The names of what a config has beyond the plain model."""
    plain = {f.name for f in dataclasses.fields(ViTConfig) if f.default is dataclasses.MISSING}
    return set(config.to_dict()) - plain or {"pooling", "pooler"}


def theirs(table: Table, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Our tensors under a family's names and in its shapes."""
    parts: dict[str, dict[int, tuple[Row, Tensor]]] = {}
    for ours, tensor in checkpoint.tensors.items():
        if ours == "rope.frequencies":
            continue
        row, name = next((row, name) for row, name in table.candidates(ours) if fits(ours, name, checkpoint.config))
        parts.setdefault(name, {})[row.part[0]] = (row, to_theirs(row, ours, tensor, checkpoint.config))
    return {name: joined([found[i] for i in sorted(found)]) for name, found in parts.items()}


def fits(ours: str, name: str, config: ViTConfig) -> bool:
    """Which of several names is the right one for this model: some rows are of gated MLPs, or of heads of their kind, alone."""
    if ".mlp." in ours and re.search(r"mlp\.(fc[12]|weights_(in|out))\.", name):
        return ("weights_" in name) == config.gated_mlp or "head.mlp" in name or "encoder.layers" in name
    if ours.startswith("head."):
        return name.startswith("cls_classifier") == config.distillation_head
    return True


def to_theirs(row: Row, ours: str, tensor: Tensor, config: ViTConfig) -> Tensor:
    """The inverse of numpy_vit.convert.table.to_ours."""
    data = tensor.data
    if ours == "embed.projection.weight":
        data = data.T.reshape(config.width, config.channels, config.patch, config.patch)
    elif ours.endswith(".weight") and data.ndim == 2:
        data = data.T
    return Tensor(tensor.dtype, data.reshape((1,) * row.ones + data.shape))


def joined(found: list[tuple[Row, Tensor]]) -> Tensor:
    """The parts of a fused matrix, one after the other."""
    tensors = [tensor for _, tensor in found]
    return tensors[0] if len(tensors) == 1 else Tensor(tensors[0].dtype, np.concatenate([t.data for t in tensors]))


def write_hugging_face(folder: str | os.PathLike[str], checkpoint: Checkpoint) -> list[str]:
    """Write model.safetensors, config.json and, where it can be said, preprocessor_config.json, all or nothing.

    Returns notes. Raises InputError where no family holds the model, or the folder is there and not empty.
    """
    folder = Path(folder)
    validate(checkpoint)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: is there already and not empty: choose another name")
    family, content, rule = fitting(checkpoint)
    notes = []
    if family in (hf_vit.HF_VIT, hf_deit.HF_DEIT) and not checkpoint.config.classes and not checkpoint.config.pooler:
        notes.append("this model has no pooler: load it with add_pooling_layer=False")
    if rule != checkpoint.config.position_rule:
        notes.append(
            f"at another image size transformers resizes positions by '{rule}', not '{checkpoint.config.position_rule}'"
        )
    tensors = theirs(family.table, checkpoint) | extras(family, content, checkpoint, notes)
    preprocess = preprocessor(checkpoint.preprocess)
    if checkpoint.preprocess is None or preprocess is None:
        notes.append(
            f"no {PREPROCESSOR} is written: transformers has no PIL processor for how this model's pictures are prepared"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".numpy-vit-") as temporary:
            inside = Path(temporary) / "model"
            inside.mkdir()
            write(inside / WEIGHTS, tensors, {"format": "pt"})
            for name, values in ((CONFIG, content), (PREPROCESSOR, preprocess)):
                if values is not None:
                    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
                    (inside / name).write_text(text, encoding="utf-8")
            if folder.exists():
                folder.rmdir()
            shutil.move(inside, folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror or error}); nothing was written") from error
    return notes


def extras(family: Family, content: dict[str, Any], checkpoint: Checkpoint, notes: list[str]) -> dict[str, Tensor]:
    """Tensors that transformers' class has and that no forward pass needs. `content` is its config.json."""
    config, zero = checkpoint.config, np.zeros
    if family is hf_dinov2.HF_DINOV2_REGISTERS:
        return {"embeddings.mask_token": tensor_of(zero((1, config.width), np.float32))}
    if family is not hf_dinov3.HF_DINOV3:
        return {}
    source = Source(CONFIG, False, [], {}, {}, content, None)
    computed = hf_dinov3.made(config, family.reading(source, []))["rope.frequencies"]
    stored = checkpoint.tensors["rope.frequencies"].to_float(np.float64)
    off = float(abs(stored / computed - 1).max())
    if off > 1e-12:
        notes.append(f"transformers computes the rotary frequencies itself: they differ from this model's by up to {off:.1e}")
    found = {"embeddings.mask_token": tensor_of(zero((1, 1, config.width), np.float32))}
    if not config.registers:
        found["embeddings.register_tokens"] = tensor_of(zero((1, 0, config.width), np.float32))
    return found


def preprocessor(policy: Preprocess | None) -> Mapping[str, Any] | None:
    """preprocessor_config.json, or None where transformers' PIL processors cannot do it."""
    if policy is None:
        return None
    y_x = lambda pair: {"height": pair[0], "width": pair[1]}  # noqa: E731
    content: dict[str, Any] = {
        "image_processor_type": "CLIPImageProcessor"
        if policy.crop or policy.resize == "shortest_edge"
        else "ViTImageProcessor",
        "do_resize": policy.resize != "none",
        "resample": int(RESAMPLES[policy.resample]) if policy.resample in RESAMPLES else None,
        "do_rescale": policy.scale is not None,
        "do_normalize": policy.mean is not None,
    }
    if policy.resize != "none":
        size: Any = policy.size
        content["size"] = y_x(size) if isinstance(size, tuple) else {"shortest_edge": size}
    content |= {"do_center_crop": True, "crop_size": y_x(policy.crop)} if policy.crop else {"do_center_crop": False}
    content |= {"rescale_factor": policy.scale} if policy.scale is not None else {}
    if policy.mean is not None and policy.std is not None:
        content |= {"image_mean": list(policy.mean), "image_std": list(policy.std)}
    try:
        same = read_preprocessor(content, policy.channels, []) == policy
    except InputError:
        same = False
    return content if same else None
