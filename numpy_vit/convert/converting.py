"""Foreign checkpoints -> ours, of whichever family."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import ViTConfig
from ..errors import InputError, about, in_words, nearest
from ..files import outside
from ..files.converted import FORMAT, Checkpoint, read_converted, validate
from ..files.jsonfile import LARGEST, parse_json
from . import timm_models
from .aimv2 import AIMV2, OVIS2
from .beit import BEIT
from .dinov3 import DINOV3, TIMM_DINOV3
from .eva02 import EVA02
from .family import Family
from .gemma4 import GEMMA4
from .glm_v import GLM_4V, GLM_OCR
from .google import AUGREG, BIG_VISION
from .hf_beit import HF_BEIT
from .hf_blip import HF_BLIP, HF_GIT, HF_JANUS
from .hf_clip import HF_CLIP
from .hf_deit import HF_DEIT
from .hf_dinov2 import HF_DINOV2, HF_DINOV2_REGISTERS, HF_TIPSV2
from .hf_dinov3 import HF_DINOV3
from .hf_mlcd import HF_MLCD
from .hf_siglip import HF_SIGLIP, HF_SIGLIP2
from .hf_tokens import HF_PIXIO, HF_YOLOS
from .hf_vit import HF_IJEPA, HF_MAE, HF_VIT
from .hugging_face_config import TOWERS, why_not
from .internvl import INTERNVL
from .kimi import MOONVIT
from .llama4 import LLAMA4
from .openai_clip import OPENAI_CLIP
from .paddleocr_vl import PADDLEOCR_VL, VIDEO_LLAMA_3
from .pix2struct import PIX2STRUCT
from .pixtral import PIXTRAL
from .preprocessing import policy, read_preprocessor
from .qwen_vl import QWEN2_5_VL, QWEN2_VL, QWEN3_VL
from .radio import RADIO
from .rename_table import class_names, read_map
from .sam import SAM, SEGMENT_ANYTHING, VITDET
from .siglip_vl import GEMMA3, IDEFICS3, LFM2_VL, PALIGEMMA
from .sources import Source, open_source, sha256
from .table import compare, first_names
from .timm import DEIT, DEIT3, DINO, DINOV2, MAE, TIMM
from .torchvision import TORCHVISION

# In the order in which they are looked for: one that has more tensors before one that has fewer.
FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        HF_DEIT,
        HF_MAE,
        HF_BEIT,
        HF_DINOV3,
        HF_DINOV2_REGISTERS,
        HF_DINOV2,
        HF_VIT,
        HF_CLIP,
        HF_MLCD,
        GEMMA3,
        GEMMA4,
        PALIGEMMA,
        IDEFICS3,
        LFM2_VL,
        HF_SIGLIP,
        HF_SIGLIP2,
        HF_IJEPA,
        HF_YOLOS,
        HF_PIXIO,
        HF_TIPSV2,
        HF_BLIP,
        HF_GIT,
        HF_JANUS,
        PIX2STRUCT,
        RADIO,
        QWEN2_VL,
        QWEN2_5_VL,
        QWEN3_VL,
        LLAMA4,
        AIMV2,
        OVIS2,
        INTERNVL,
        PIXTRAL,
        SAM,
        VITDET,
        SEGMENT_ANYTHING,
        MOONVIT,
        PADDLEOCR_VL,
        VIDEO_LLAMA_3,
        GLM_4V,
        GLM_OCR,
        OPENAI_CLIP,
        TORCHVISION,
        AUGREG,
        BIG_VISION,
        DINOV3,
        TIMM_DINOV3,
        EVA02,
        BEIT,
        MAE,
        DINOV2,
        DEIT3,
        DEIT,
        TIMM,
        DINO,
    )
}


def recognise(source: Source) -> tuple[str, str]:
    """(family, why) of a foreign checkpoint. Raises InputError where it is none that is known."""
    if source.metadata.get("format") == FORMAT:
        raise InputError(f"{source.name}: is already a converted file")
    if timm_models.names_one(source.config):
        assert source.config is not None
        with about(source.name):
            return timm_models.family(source.config), f"config.json says architecture '{source.config['architecture']}'"
    if not source.tensors and "model_cfg" in (source.config or {}):
        return OPENAI_CLIP.name, "open_clip_config.json has a model_cfg"
    with about(source.name):
        for name, family in FAMILIES.items():
            why = family.recognise(source)
            if why is not None:
                return name, why
    model_type = (source.config or {}).get("model_type")
    first = f"first tensor '{min(source.tensors)}'" if source.tensors else "its config names no model_type and no architecture"
    said = (
        f"config.json says model_type {in_words(model_type)}{tower_types(source)}{why_not(source.config)}"
        if model_type
        else first
    )
    known = f"known: {', '.join(FAMILIES)}"
    raise InputError(
        f"{source.name}: of no known family ({said}; {known}){nearest_family(source)}; --map takes a table of names for a "
        "home-made model"
    )


def tower_types(source: Source) -> str:
    """What a larger model's config.json says its picture towers are; or nothing."""
    found = [(key, part) for key in TOWERS if isinstance(part := (source.config or {}).get(key), dict)]
    return "".join(f", of its {key} {in_words(part['model_type'])}" for key, part in found if part.get("model_type"))


def nearest_family(source: Source) -> str:
    """What the nearest family has and this file has not, and the other way round, side by side; or nothing."""
    best: tuple[int, str, list[str], list[str]] = (0, "", [], [])
    for family in FAMILIES.values():
        try:
            bare = family.without_prefix(source.tensors)
        except InputError:  # several models in one file
            continue
        known, unknown, missing = compare(family.table, bare)
        best = max(best, (len(known), family.name, unknown, missing), key=lambda found: found[0])
    count, name, unknown, missing = best
    if not source.tensors or count * 5 < len(source.tensors):
        return ""
    return f"; nearest is {name}: {count} names are its; not its: {first_names(unknown)}; missing: {first_names(missing)}"


def family_of(source: Source, name: str | None = None) -> Family:
    """The family a checkpoint is of: the one named, or the one recognised. Raises InputError."""
    if name is None:
        return FAMILIES[recognise(source)[0]]
    if name not in FAMILIES:
        raise InputError(f"'{name}' is no known family{nearest(name, FAMILIES)} (known: {', '.join(FAMILIES)})")
    return FAMILIES[name]


def config_of(source: Source, notes: list[str]) -> ViTConfig:
    """The config of a foreign checkpoint, or of a config.json alone. What it does not say goes into `notes`."""
    family = family_of(source)
    with about(source.name):
        return family.config(family.reading(source, notes), {})


def convert_source(
    source: Source,
    family: str | None = None,
    told: Mapping[str, Any] | None = None,
    rename: str | os.PathLike[str] | None = None,
) -> Checkpoint:
    """An opened checkpoint of any known family as ours, validated. Nothing is copied yet."""
    if rename is not None:
        found, told = read_map(rename, told or {}, source.config or {})
    else:
        found = family_of(source, family)
    with about(source.name):
        checkpoint = found.convert(source, told or {}, family is not None)
        validate(checkpoint)
    return checkpoint


def convert(
    source: str | os.PathLike[str],
    config: str | os.PathLike[str] | None = None,
    preprocessor: str | os.PathLike[str] | None = None,
    family: str | None = None,
    told: Mapping[str, Any] | None = None,
    rename: str | os.PathLike[str] | None = None,
    labels: str | os.PathLike[str] | list[str] | None = None,
) -> Checkpoint:
    """A file, a Hugging Face folder or a hub name -> our checkpoint, ready for numpy_vit.files.converted.write_converted.

    config         a JSON file to use instead of the one beside the weights
    preprocessor   likewise
    family         one of FAMILIES, where the names alone do not tell
    told           fields of ViTConfig that the files do not say (heads, ...)
    rename         a rename table for a home-made model (numpy_vit.convert.rename_table)
    labels         class names, in a list or a file (`read_labels`), instead of those of the source's files

    Of a converted file, preprocessor and labels are put in the place of its own; nothing else can be changed.

    What the source does not say is in `.notes`. Raises InputError where something is missing or contradicts.
    """
    return convert_opened(open_source(source, config, preprocessor), family, told, rename, labels)


def convert_opened(
    opened: Source,
    family: str | None = None,
    told: Mapping[str, Any] | None = None,
    rename: str | os.PathLike[str] | None = None,
    labels: str | os.PathLike[str] | list[str] | None = None,
) -> Checkpoint:
    """As `convert`, of a source that is open already."""
    if opened.metadata.get("format") == FORMAT:
        if family or told or rename:
            raise InputError(f"{opened.name}: is already a converted file: only its labels and preprocessing can be changed")
        return amended(opened, labels)
    fields = [field.name for field in dataclasses.fields(ViTConfig)]
    if opened.config and all(key in fields for key in opened.config):  # a config of ours
        told, opened.config = {**opened.config, **(told or {})}, None
    checkpoint = convert_source(opened, family, told, rename)
    if labels is not None:
        checkpoint.labels = read_labels(labels)
        with about(opened.name):
            validate_labels(checkpoint)
    # The folder's own name, not its path: where it lay on this machine concerns nobody else.
    checkpoint.source |= {
        "name": opened.name if opened.from_hub else os.path.basename(os.path.abspath(opened.name)),
        "files": {file.name: sha256(file) for file in opened.files},
    }
    return checkpoint


def amended(opened: Source, labels: str | os.PathLike[str] | list[str] | None) -> Checkpoint:
    """A converted file with other labels, or with pictures prepared otherwise; its config and tensors stay."""
    checkpoint = read_converted(opened.files[0])
    notes: list[str] = []
    config = checkpoint.config
    if labels is None and opened.policy is None and opened.preprocessor is None:
        raise InputError(f"{opened.name}: is already a converted file (give labels or a preprocessor to put in it)")
    with about(opened.name):
        if opened.policy is not None:
            checkpoint.preprocess = policy(opened.policy, config.image, config.channels)
        elif opened.preprocessor is not None:
            checkpoint.preprocess = read_preprocessor(opened.preprocessor, config.channels, notes)
        if labels is not None:
            checkpoint.labels = read_labels(labels)
        validate_labels(checkpoint)
    checkpoint.notes += notes
    return checkpoint


def validate_labels(checkpoint: Checkpoint) -> None:
    """Raise InputError unless there is a name for every class."""
    if checkpoint.labels is not None and len(checkpoint.labels) != checkpoint.config.classes:
        raise InputError(f"{len(checkpoint.labels)} labels for {checkpoint.config.classes} classes")


def read_labels(source: str | os.PathLike[str] | list[str]) -> list[str]:
    """Class names from a list; or from a file: .json, a list or a table of "0", "1", ..., else one name a line.

    Raises InputError for a file that holds none.
    """
    if not isinstance(source, str | os.PathLike):
        found: Any = source
    elif Path(source).suffix == ".json":
        content = outside.whole(source, LARGEST)
        with about(f"{source}: no list of class names"):
            found = parse_json(content, (dict, list))
    else:
        found = [name.strip() for name in outside.lines(source) if name.strip()]
    with about(source if isinstance(source, str | os.PathLike) else "labels"):
        names = class_names(found.get("id2label", found) if isinstance(found, dict) else found)
        if not names:
            raise InputError("no class names in it")
    return names
