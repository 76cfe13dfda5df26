"""Where a foreign checkpoint comes from: a file, a Hugging Face folder, or a hub name."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import DIGITS, is_variant
from ..errors import InputError, check_kind
from ..files.converted import shipped
from ..files.tensorfile import Tensor, read
from . import hub
from .npzfile import read_npz
from .preprocessing import POLICIES
from .torchfile import read_torch

TORCH = (".bin", ".pth", ".pt")
OPEN_CLIP_CONFIG = "open_clip_config.json"
TORCH_WEIGHTS = "pytorch_model.bin"


@dataclasses.dataclass
class Source:
    """What lies on disk, unconverted."""

    name: str  # as it was given
    from_hub: bool  # the name is a hub's, not a path
    files: list[Path]  # the weights
    tensors: Mapping[str, Tensor]
    metadata: dict[str, str]  # of a single file
    config: dict[str, Any] | None  # config.json
    preprocessor: dict[str, Any] | None  # preprocessor_config.json
    policy: str | None = None  # or how pictures are prepared, by name (numpy_vit.convert.preprocessing.POLICIES)


def open_source(
    source: str | os.PathLike[str],
    config: str | os.PathLike[str] | None = None,
    preprocessor: str | os.PathLike[str] | None = None,
) -> Source:
    """Find and open a checkpoint.

    source         a .safetensors, PyTorch or .npz file, a folder with model.safetensors (or its index and shards) or
                   pytorch_model.bin, or a hub name
    config         a config.json, instead of the one beside the weights
    preprocessor   a preprocessor_config.json, likewise, or the name of a published way (POLICIES)

    Raises InputError where there is nothing, or nothing that can be read.
    """
    check_kind("model", source, str | os.PathLike, "a file, a folder or a hub name (save weights as safetensors first)")
    if not str(source):
        raise InputError("an empty name names no model: give a file, a folder or a hub name")
    if source == DIGITS:  # a folder of that name is "./digits"
        source = shipped("digits.safetensors")
    name, path = str(source), Path(source)
    if not path.exists() and is_variant(name) and not name.startswith("google/"):
        raise InputError(
            f"{name}: names a size, not weights: give a file, a folder or a hub name (numpy_vit.random_model('{name}') "
            "makes seeded weights, numpy_vit.trace its shapes)"
        )
    from_hub = not path.exists() and hub.is_hub_name(name) and path.suffix != ".safetensors"
    if from_hub:
        path = hub.find(name)
    if path.is_dir():
        files = weight_files(path)
        folder = path
    elif path.exists():
        files, folder = [path], path.parent
    else:
        raise InputError(f"{name}: no such file or folder (and not a hub name like google/vit-base-patch16-224)")
    check_kind("preprocessor", preprocessor or "", str | os.PathLike, "a preprocessor_config.json or a published way's name")
    named = preprocessor is not None and str(preprocessor) in POLICIES and not Path(preprocessor).exists()
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for file in files:
        found, metadata = read_weights(file)
        repeated = sorted(found.keys() & tensors.keys())
        if repeated:
            raise InputError(f"{file}: tensor '{repeated[0]}' is in another shard too")
        tensors |= found
    return Source(
        name,
        from_hub,
        files,
        tensors,
        metadata,
        read_json(Path(config)) if config else config_beside(folder, files[0].name),
        None if named else read_json(Path(preprocessor)) if preprocessor else read_json_if_there(folder / hub.PREPROCESSOR),
        str(preprocessor) if named else None,
    )


def read_weights(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a weights file, and its metadata where it has any. Raises InputError."""
    if file.suffix == ".safetensors":
        return read(file)
    if file.suffix in TORCH:
        return read_torch(file), {}
    if file.suffix == ".npz":
        return read_npz(file), {}
    raise InputError(f"{file}: only .safetensors, .npz, {', '.join(TORCH)} weights can be read")


def weight_files(folder: Path) -> list[Path]:
    """The weights of a Hugging Face folder: one safetensors file, or the shards its index lists, or pytorch_model.bin."""
    if (folder / hub.WEIGHTS).is_file():
        return [folder / hub.WEIGHTS]
    if (folder / hub.INDEX).is_file():
        files = [folder / shard for shard in hub.shards(folder / hub.INDEX)]
        for file in files:
            if not file.is_file():
                raise InputError(f"{file}: missing, though {hub.INDEX} lists it: download it too")
        return files
    lone = sorted(folder.glob("*.safetensors"))
    if len(lone) == 1:
        return lone
    if (folder / TORCH_WEIGHTS).is_file():
        return [folder / TORCH_WEIGHTS]
    others = [p.name for p in sorted(folder.iterdir()) if p.suffix in (*TORCH, ".npz", ".h5")]
    found = f" (it has {', '.join(others)}, which is not looked for: name the file)" if others else ""
    raise InputError(f"{folder}: no {hub.WEIGHTS} in this folder{found}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises InputError for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=without_doubles)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: a JSON object is expected")
    return content


def without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; ValueError where it says a name twice, of which JSON readers silently take the last."""
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"'{next(name for name in names if names.count(name) > 1)}' is there twice")
    return content


def config_beside(folder: Path, weights: str) -> dict[str, Any] | None:
    """config.json, or open_clip's own where the weights are open_clip's or there is no other."""
    names = [hub.CONFIG, OPEN_CLIP_CONFIG] if not weights.startswith("open_clip") else [OPEN_CLIP_CONFIG, hub.CONFIG]
    return next((found for found in (read_json_if_there(folder / name) for name in names) if found is not None), None)


def read_json_if_there(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.exists() else None


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
