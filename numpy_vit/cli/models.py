"""Which model a command is about: a variant with changes, a config, or a file with weights."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import DIGITS
from ..errors import InputError, nearest
from .common import note, refuse
from .options import image_size

if TYPE_CHECKING:
    from ..config import ViTConfig
    from ..files.converted import Checkpoint


def open_weights(weights: str, preprocessor: str | None, size: tuple[int, int] | None) -> "Checkpoint":
    """A model with its weights, its pictures prepared at `size` where one is given; what its source left unsaid is noted."""
    from ..config import check_image
    from ..models.loading import open_checkpoint

    checkpoint = open_checkpoint(weights, preprocessor=preprocessor)
    note(*checkpoint.notes)
    if size is not None:
        check_image(size, checkpoint.config.patch)
        if checkpoint.preprocess is not None:
            checkpoint.preprocess = checkpoint.preprocess.at_image_size(size)
    return checkpoint


def config_of(words: Sequence[str]) -> "tuple[ViTConfig, list[str]]":
    """["ViT-B/16", "image=384"] -> the config, and what the source left unsaid."""
    from ..config import check_image

    models = [word for word in words if "=" not in word or Path(word).exists()]
    changes = fields([word for word in words if word not in models])
    if len(models) > 1:
        raise InputError(f"one model at a time: '{models[0]}' or '{models[1]}'? (--diff shows two)")
    config, notes = find_config(models[0] if models else "ViT-B/16")
    config = config.replace(**changes)
    if {"image", "patch"} & changes.keys():
        check_image(config.image, config.patch)
    return config, notes


def find_config(model: str) -> "tuple[ViTConfig, list[str]]":
    """A variant, a file or folder, or a cached hub name -> its config. Reads no tensor."""
    from ..config import nearest_variant, variant, variants

    path = Path(model)
    if not model:
        raise InputError("an empty name is no model")
    if not path.exists() and model != DIGITS:
        try:
            return variant(model), []
        except InputError as error:
            from ..convert import hub

            cached = hub.in_cache(*[*model.split("@"), "main"][:2]) if hub.is_hub_name(model) else None
            if cached is None:
                raise InputError(
                    f"'{model}' is no variant, file, folder or cached hub name{nearest_variant(model)} "
                    f"(variants: {', '.join(variants())})"
                ) from error
            path = cached
    from ..convert import config_of
    from ..convert.hub import CONFIG
    from ..convert.sources import Source, open_source, read_json
    from ..files.converted import FORMAT, read_metadata

    notes: list[str] = []
    if path.suffix == ".json" or (path.is_dir() and (path / CONFIG).is_file() and not any(path.glob("*.safetensors*"))):
        file = path if path.suffix == ".json" else path / CONFIG
        content = read_json(file)
        source = Source(str(file), False, [], {}, {}, content, None)
    else:
        source = open_source(model if model == DIGITS else path)
        if source.metadata.get("format") == FORMAT:
            return read_metadata(source.metadata, model)[0], notes
    return config_of(source, notes), notes


def fields(pairs: Sequence[str]) -> dict[str, Any]:
    """["heads=12", "eps=1e-6"] -> {"heads": 12, "eps": 1e-6}. Raises InputError for what ViTConfig does not have, or twice."""
    import dataclasses

    from ..config import ViTConfig

    kinds = {field.name: field.type for field in dataclasses.fields(ViTConfig)}
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        refuse(
            (not equals, f"'{pair}': give KEY=VALUE, KEY being one of {', '.join(kinds)}"),
            (key not in kinds, f"unknown field '{key}'{nearest(key, kinds)} ({', '.join(kinds)})"),
            (key in values, f"{key} is given twice"),
        )
        values[key] = field_value(key, text, kinds[key])
    return values


def field_value(key: str, text: str, kind: Any) -> Any:
    """The text after KEY= as a field of that kind wants it. Raises InputError."""
    if key in ("image", "rope_grid"):
        try:
            return image_size(text)
        except argparse.ArgumentTypeError as error:
            raise InputError(f"{key}={text}: {error}") from error
    if key == "without_bias":
        return tuple(text.split(","))
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise InputError(f"{key}={text}: give true or false")
        return text.lower() == "true"
    if kind not in (int, float):
        return text
    try:
        return kind(text)
    except ValueError as error:
        raise InputError(f"{key}={text}: a number is expected") from error
