"""Which model a command is about: a variant with changes, a config, or a file with weights."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    """["ViT-B/16", "image=384"], or ["ViT-B/16 image=384"] -> the config, and what the source left unsaid."""
    from ..models.loading import find_config

    model, changes = model_and_changes(words)
    config, notes = find_config(model)
    if config.any_size and "image" in changes:
        from ..models.image_tokens import size_seen

        changes["image"], more = size_seen(model, config, changes["image"])
        notes = [*notes, *more]
    return config.overridden(changes), notes


def model_and_changes(words: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The model among the words (ViT-B/16 where there is none), and the fields that are to be changed."""
    words = [part for word in words for part in parts_of(word)]
    models = [word for word in words if "=" not in word or Path(word).exists()]
    changes = fields([word for word in words if word not in models])
    if len(models) > 1:
        raise InputError(f"one model at a time: '{models[0]}' or '{models[1]}'? (--diff shows two)")
    return models[0] if models else "ViT-B/16", changes


def parts_of(word: str) -> list[str]:
    """A model and its changes quoted as one word, apart. A file's name may have blanks in it."""
    try:
        first, *others = shlex.split(word)
    except ValueError:  # nothing, or quotation marks without their like
        return [word]
    return [first, *others] if all("=" in other for other in others) and not Path(word).exists() else [word]


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
