"""The converted weights file: one `.safetensors` file that says everything about a model.

Tensors under the names of numpy_vit.parameters, linear weights (in, out), and in the metadata, as JSON:

    format      "numpy-vit"
    version     "1"
    config      the fields of ViTConfig
    preprocess  the fields of numpy_vit.pictures.images.Preprocess, or null
    labels      class names, or null
    source      where the weights come from: family, file names and their SHA-256, and what else is known
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

from ..arithmetic.precision import precision
from ..config import ViTConfig
from ..errors import InputError, about, nearest
from ..parameters import parameter_shapes
from ..pictures.images import Preprocess
from ..vit import ViT
from .jsonfile import parse_json
from .tensorfile import STORED_AS, Tensor, read, tensor_of, write

FORMAT = "numpy-vit"
VERSION = "1"


@dataclasses.dataclass
class Checkpoint:
    """A whole model as data, before any arithmetic: what a converted file holds."""

    config: ViTConfig
    tensors: Mapping[str, Tensor]
    preprocess: Preprocess | None
    labels: list[str] | None
    source: dict[str, Any]
    notes: list[str] = dataclasses.field(default_factory=list)  # what the source did not say, one sentence each

    def model(self, dtype: Any = "float32") -> ViT:
        """The model, its weights in `dtype` (arithmetic.precision). Row-major weights already of it stay in the file's map."""
        dtype, kind = precision(dtype)
        # Row-major here, one by one, and not all at once by ViT: two copies of every weight would be in memory.
        tensors: dict[str, Any] = {name: np.ascontiguousarray(t.to_float(dtype)).view(kind) for name, t in self.tensors.items()}
        for name, tensor in self.tensors.items():
            if tensor.dtype == "F64" and dtype == np.float32 and not tensor_of(tensors[name]).is_finite():
                raise InputError(f"tensor '{name}' has values too large for float32: use float64")
        return ViT(self.config, tensors, self.labels, self.preprocess, self.source)


def read_converted(path: str | os.PathLike[str]) -> Checkpoint:
    """Read and validate a converted file: nothing missing, nothing unused, every shape, every value finite.

    Raises InputError, one line, for anything else.
    """
    tensors, metadata = read(path)
    config, preprocess, labels, source = read_metadata(metadata, path)
    checkpoint = Checkpoint(config, tensors, preprocess, labels, source)
    with about(path):
        validate(checkpoint)
    return checkpoint


def read_metadata(
    metadata: Mapping[str, str], path: str | os.PathLike[str]
) -> tuple[ViTConfig, Preprocess | None, list[str] | None, dict[str, Any]]:
    """Config, preprocessing, labels and source of a converted file (`path` is for the errors).

    Raises InputError for a file of another format or version, or whose metadata make no sense.
    """
    if metadata.get("format") != FORMAT:
        raise InputError(f"{path}: not a converted file (its metadata has no format '{FORMAT}'): use `numpy-vit convert`")
    if metadata.get("version") != VERSION:
        version = metadata.get("version")
        raise InputError(f"{path}: file version {version!r}, this program reads {VERSION!r}: update one of them")
    with about(path):
        for key in ("config", "preprocess", "labels", "source"):
            if key not in metadata:
                raise InputError(f"the metadata has no '{key}': convert it again")

        def value(key: str, *kinds: Any) -> Any:
            with about(f"the metadata's {key}"):
                return parse_json(metadata[key], kinds)

        labels, preprocess = value("labels", list, NoneType), value("preprocess", dict, NoneType)
        if labels is not None and not all(isinstance(name, str) for name in labels):
            raise InputError("labels must be a list of names")
        return (
            ViTConfig.from_dict(value("config", dict)),
            None if preprocess is None else Preprocess.from_dict(preprocess),
            labels,
            value("source", dict),
        )


def validate(checkpoint: Checkpoint) -> None:
    """Raise InputError unless tensors, labels and preprocessing are those of the config and every value is finite."""
    config, tensors = checkpoint.config, checkpoint.tensors
    shapes = parameter_shapes(config)
    for name in tensors:
        if name not in shapes:
            raise InputError(f"tensor '{name}' is not used by this model{nearest(name, shapes)}")
    for name, shape in shapes.items():
        if name not in tensors:
            raise InputError(f"tensor '{name}' is missing")
        if tensors[name].shape != shape:
            raise InputError(f"tensor '{name}' is {tensors[name].shape}, the config says {shape}")
        if tensors[name].dtype not in STORED_AS:
            raise InputError(f"tensor '{name}' is {tensors[name].dtype}: weights are {', '.join(STORED_AS)}")
        if not tensors[name].is_finite():
            raise InputError(f"tensor '{name}' has NaN or infinite values: the file is damaged, or training diverged")
    if checkpoint.labels is not None and len(checkpoint.labels) != config.classes:
        raise InputError(f"{len(checkpoint.labels)} labels for {config.classes} classes")
    preprocess = checkpoint.preprocess
    if preprocess is not None and preprocess.channels != config.channels:
        raise InputError(f"pictures are prepared with {preprocess.channels} channels, the model takes {config.channels}")


def write_converted(path: str | os.PathLike[str], checkpoint: Checkpoint) -> None:
    """Validate and write a converted file, whole or not at all. Raises InputError as read_converted does."""
    validate(checkpoint)
    preprocess = checkpoint.preprocess
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "config": json.dumps(checkpoint.config.to_dict()),
        "preprocess": json.dumps(None if preprocess is None else preprocess.to_dict()),
        "labels": json.dumps(checkpoint.labels, ensure_ascii=False),
        "source": json.dumps(checkpoint.source, ensure_ascii=False),
    }
    write(path, {name: checkpoint.tensors[name] for name in parameter_shapes(checkpoint.config)}, metadata)


def shipped(name: str) -> Path:
    """A file of the repository's `weights/` folder, which a wheel carries as numpy_vit/shipped."""
    package = Path(__file__).parents[1]
    installed = package / "shipped" / name
    return installed if installed.exists() else package.parent / "weights" / name
