"""`load`: whatever names a model, as a model."""

import os
import warnings
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ..arithmetic.precision import precision
from ..config import DIGITS, ViTConfig, is_variant, known_variants, variant, variants
from ..convert.hub import CONFIG, in_cache, is_hub_name
from ..convert.preprocessing import policy, read_preprocessor
from ..convert.sources import Source, open_source, read_json
from ..errors import InputError, in_words
from ..files.converted import FORMAT, Checkpoint, read_converted, read_metadata
from ..vit import ViT
from .published import Published, all_published, find_published, nearest_published


def load(
    source: str | os.PathLike[str] = DIGITS,
    *,
    dtype: npt.DTypeLike = "float32",
    preprocessor: str | os.PathLike[str] | None = None,
) -> ViT:
    """A model, ready to run.

    source        a converted file; a Hugging Face folder or .safetensors file with its config.json beside it; a file of any
                  family that says all of itself (docs/families.md; `numpy-vit convert` takes what others leave out); a hub name
                  ("google/vit-base-patch16-224"), from the local cache or fetched; or "digits", the shipped model
                  (a folder of that name is "./digits")
    dtype         "float32" (fast), "float64" (accurate), or "portable" (float64, the same bits on every machine)
    preprocessor  a preprocessor_config.json, for a source that has none, or to use another; or the name of a published way
                  (numpy_vit.convert.preprocessing.POLICIES)

    Raises InputError, one line. What a foreign source leaves unsaid comes as a warning.
    """
    precision(dtype)  # a wrong one is said before a large file is read
    checkpoint = open_checkpoint(source, preprocessor=preprocessor)
    if checkpoint.notes:
        warnings.warn(f"{source}: {'; '.join(checkpoint.notes)}", stacklevel=2)
    return checkpoint.model(dtype)


def open_checkpoint(
    source: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | None = None,
    preprocessor: str | os.PathLike[str] | None = None,
) -> Checkpoint:
    """As `load`, without making the model: config, tensors, labels and the rest as data."""
    return checkpoint_of(open_source(source, config, preprocessor), preprocessor_given=preprocessor is not None)


def checkpoint_of(opened: Source, *, preprocessor_given: bool = False) -> Checkpoint:
    """The same of a source that is open already. A converted file says itself how pictures are prepared, unless it is given."""
    if opened.metadata.get("format") == FORMAT:
        checkpoint = read_converted(opened.files[0])
        if opened.preprocessor is not None and preprocessor_given:
            checkpoint.preprocess = read_preprocessor(opened.preprocessor, checkpoint.config.channels, checkpoint.notes)
        if opened.policy is not None:
            checkpoint.preprocess = policy(opened.policy, checkpoint.config.image, checkpoint.config.channels)
        return checkpoint
    from ..convert import convert_source  # which loads every family's module

    return convert_source(opened)


def find_config(model: Any) -> tuple[ViTConfig, list[str]]:
    """The config of whatever names or has one, and what the source leaves unsaid. Reads no tensor.

    A variant; a file with weights, a config.json, or a folder with either; a cached hub name; a published model's name
    (numpy_vit.models.published); "digits"; a ViTConfig or a model that has one; another library's config, as transformers'
    (it has `.to_dict()`), or a model that has one.
    """
    config = getattr(model, "config", model)
    if isinstance(config, ViTConfig):
        return config, []
    if hasattr(config, "to_dict"):
        content = config.to_dict()
        if config is not model and not content.get("architectures"):  # which only a saved config names
            content["architectures"] = [type(model).__name__]
        return config_of_content(type(config).__name__, content)
    if not isinstance(config, str | os.PathLike):
        return variant(config), []  # which says what is wrong
    name, path = str(config), Path(config)
    if not name:
        raise InputError("an empty name is no model")
    if not path.exists() and name != DIGITS:
        if is_variant(name):
            return variant(name), []
        found = cached_or_published(name)
        if isinstance(found, Published):
            return config_of_published(found)
        path = found
    beside = path / CONFIG
    if path.suffix == ".json" or (path.is_dir() and beside.is_file() and not any(path.glob("*.safetensors*"))):
        file = path if path.suffix == ".json" else beside
        return config_of_content(str(file), read_json(file))
    opened = open_source(name if name == DIGITS else path)
    if opened.metadata.get("format") == FORMAT:
        return read_metadata(opened.metadata, name)[0], []
    return config_of_source(opened)


def cached_or_published(name: str) -> Path | Published:
    """The folder of a hub name, if it is in the local cache; else the published model of this name.

    Raises InputError, for what may have been another name as well.
    """
    model, _, revision = name.partition("@")
    cached = in_cache(model, revision or "main") if is_hub_name(name) else None
    found = cached or find_published(name)
    if found is None:
        what = f"{in_words(name)} is no variant, file, folder or cached hub name, and no published model"
        raise InputError(f"{what}{nearest_published(name)} ({known_variants()}; `numpy-vit trace --list` has all names)")
    return found


def config_of_published(found: Published) -> tuple[ViTConfig, list[str]]:
    """The config of a published model. Raises InputError where what it is of is not supported.

    Keys that its config.json leaves to transformers' defaults are not worth a note: it is published so.
    """
    if isinstance(found.config, ViTConfig):
        return found.config, []
    config, notes = config_of_content(found.name, found.config)
    return config, [note for note in notes if " does not say " not in note]


def listed() -> list[dict[str, Any]]:
    """Every variant and published model: names, source; and depth, width, heads and patch, None where it is not supported."""
    found: list[tuple[tuple[str, ...], ViTConfig | None, str]] = [((name,), variant(name), "") for name in variants()]
    for model in all_published():
        try:
            found.append((model.names, config_of_published(model)[0], model.source))
        except InputError:
            found.append((model.names, None, model.source))
    sizes = ("depth", "width", "heads", "patch")
    return [{"names": list(n), **{key: getattr(c, key, None) for key in sizes}, "source": s} for n, c, s in found]


def config_of_content(name: str, content: dict[str, Any]) -> tuple[ViTConfig, list[str]]:
    """The same of a config.json's content."""
    return config_of_source(Source(name, False, [], {}, {}, content, None))


def config_of_source(source: Source) -> tuple[ViTConfig, list[str]]:
    from ..convert import config_of  # which loads every family's module

    notes: list[str] = []
    return config_of(source, notes), notes
