"""Foreign checkpoints -> ours: one module, with one table of names, for each family."""

import os
from types import ModuleType

from ..errors import InputError, about
from ..weights import FORMAT, Checkpoint, validate
from . import hf_vit
from .sources import Source, open_source, sha256

FAMILIES: dict[str, ModuleType] = {hf_vit.FAMILY: hf_vit}


def recognise(source: Source) -> tuple[str, str]:
    """(family, why) of a foreign checkpoint. Raises InputError where it is none that is known."""
    for name, family in FAMILIES.items():
        why = family.recognise(source)
        if why is not None:
            return name, why
    if source.metadata.get("format") == FORMAT:
        raise InputError(f"{source.name}: is already a converted file")
    model_type = (source.config or {}).get("model_type")
    said = f"config.json says model_type {model_type!r}" if model_type else f"first tensor '{min(source.tensors, default='')}'"
    raise InputError(f"{source.name}: of no known family ({said}; known: {', '.join(FAMILIES)})")


def convert_source(source: Source) -> Checkpoint:
    """An opened checkpoint of any known family as ours, validated. Nothing is copied yet."""
    family, _ = recognise(source)
    checkpoint = FAMILIES[family].convert(source)
    with about(source.name):
        validate(checkpoint)
    return checkpoint


def convert(
    source: str | os.PathLike[str],
    config: str | os.PathLike[str] | None = None,
    preprocessor: str | os.PathLike[str] | None = None,
) -> Checkpoint:
    """A file, a Hugging Face folder or a hub name -> our checkpoint, ready for numpy_vit.weights.write_converted.

    `config` and `preprocessor` name JSON files to use instead of those beside the weights. What the source does not say
    is in `.notes`. Raises InputError where something is missing or contradicts.
    """
    opened = open_source(source, config, preprocessor)
    checkpoint = convert_source(opened)
    # The folder's own name, not its path: where it lay on this machine concerns nobody else.
    checkpoint.source |= {
        "name": opened.name if opened.from_hub else os.path.basename(os.path.abspath(opened.name)),
        "files": {file.name: sha256(file) for file in opened.files},
    }
    return checkpoint
