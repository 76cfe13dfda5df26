"""Where a foreign checkpoint comes from: a file, a Hugging Face folder, or a hub name."""

import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ..config import DIGITS, is_variant
from ..errors import InputError, about, check_kind
from ..files.arrays import is_npz, read_npz
from ..files.converted import shipped
from ..files.jsonfile import read_json
from ..files.outside import opened, refuse_other_kinds
from ..files.tensorfile import Tensor, read
from . import hub
from .preprocessing import POLICIES
from .timm_models import tower_of_open_clip
from .torchfile import LEGACY, read_torch

TORCH = (".bin", ".pth", ".pt", ".ckpt", ".tar")
MOST_TENSORS = 50_000
SHARD = re.compile(r".*-(\d+)-of-0*([2-9]|[1-9]\d+)\.(safetensors|bin)")
MISTRAL_CONFIG = "params.json"


@dataclasses.dataclass
class Source:
    """What lies on disk, unconverted."""

    name: str  # as it was given
    from_hub: bool  # the name is a hub's, not a path
    files: list[Path]  # the weights; of shards, those that were read
    tensors: Mapping[str, Tensor]
    metadata: dict[str, str]  # of a single file
    config: dict[str, Any] | None  # config.json
    preprocessor: dict[str, Any] | None  # preprocessor_config.json
    policy: str | None = None  # or how pictures are prepared, by name (numpy_vit.convert.preprocessing.POLICIES)

    def __post_init__(self) -> None:
        with about(self.name):
            self.config = tower_of_open_clip(self.config) or self.config


class Shards(Mapping[str, Tensor]):
    """The tensors that an index lists, by name; a shard is read when one of its own is asked for, and not before.

    Of a multimodal model's dozen, the encoder lies in one.
    """

    def __init__(self, index: Path) -> None:
        self.index = index
        self.places = hub.weight_map(index)
        self.files: list[Path] = []
        self.read: dict[str, dict[str, Tensor]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def __contains__(self, name: object) -> bool:
        return name in self.places

    def __getitem__(self, name: str) -> Tensor:
        """Raises InputError for a shard that is missing or damaged, or has no such tensor."""
        shard = self.places[name]
        file = self.index.parent / shard
        if shard not in self.read:
            if not os.path.isfile(file):  # of a name far too long too
                raise InputError(f"{file}: missing, though {self.index.name} lists it: download it too")
            self.read[shard], _ = read_weights(file)
            self.files.append(file)
        if name not in self.read[shard]:
            raise InputError(f"{file}: has no tensor '{name}', though {self.index.name} lists it: copy or download both again")
        return self.read[shard][name]


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
        file, folder = weight_file(path), path
    elif path.exists():
        file, folder = path, path.parent
    else:
        raise InputError(f"{name}: no such file or folder (and not a hub name like google/vit-base-patch16-224)")
    if shard := SHARD.fullmatch(file.name):
        raise InputError(f"{file}: is one of {shard[2]} files that hold a model together: give their folder, with the index")
    check_kind("preprocessor", preprocessor or "", str | os.PathLike, "a preprocessor_config.json or a published way's name")
    named = preprocessor is not None and str(preprocessor) in POLICIES and not Path(preprocessor).exists()
    tensors: Mapping[str, Tensor]
    metadata: dict[str, str] = {}
    files = [file]
    if path.is_dir() and file.name in (hub.INDEX, hub.TORCH_INDEX):
        tensors = shards = Shards(file)
        files = shards.files
    else:
        tensors, metadata = read_weights(file)
    if len(tensors) > MOST_TENSORS:
        raise InputError(f"{file}: more than {MOST_TENSORS:,} tensors: no vision model's")
    return Source(
        name,
        from_hub,
        files,
        tensors,
        metadata,
        read_json(Path(config)) if config else config_beside(folder, file.name),
        None if named else read_json(Path(preprocessor)) if preprocessor else preprocessor_of(folder),
        str(preprocessor) if named else None,
    )


def preprocessor_of(folder: Path) -> dict[str, Any] | None:
    """What a folder says of its pictures, or None: processor_config.json, with preprocessor_config.json in it.

    Where both speak of the image processor the former is read, as in transformers (image_processing_base.py). It belongs to
    the model that reads text and pictures, and may tell the image processor another patch size, say.
    """
    own, outer = read_json_if_there(folder / hub.PREPROCESSOR), read_json_if_there(folder / hub.PROCESSOR)
    if own is None or outer is None:
        return own or outer
    return {"image_processor": own, **outer}


def read_weights(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a weights file, and its metadata where it has any: what it is tells its beginning, not its name.

    Raises InputError, which says what it is where it is something else.
    """
    with opened(file) as content:
        reader = reader_of(content, file.suffix)
    found = reader(file)
    return found if isinstance(found, tuple) else (found, {})


def reader_of(content: BinaryIO, suffix: str) -> Callable[[Path], Any]:
    """What reads an open weights file. Raises InputError where nothing does."""
    start = content.read(len(LEGACY))
    zipped = start.startswith(b"PK")
    if suffix == ".npz" or (zipped and is_npz(content)):
        return read_npz
    if zipped or start == LEGACY:
        return read_torch
    if suffix == ".safetensors" or start[8:9] == b"{":
        return read
    if suffix in TORCH:  # which says what it is not
        return read_torch
    refuse_other_kinds(start, suffix)
    raise InputError(f"only .safetensors, .npz, {', '.join(TORCH)} weights can be read")


def weight_file(folder: Path) -> Path:
    """The weights of a Hugging Face folder: one safetensors file, or the index of several, or pytorch_model.bin."""
    for name in (hub.WEIGHTS, hub.INDEX, hub.TORCH_INDEX):
        if (folder / name).is_file():
            return folder / name
    lone = sorted(folder.glob("*.safetensors"))
    if len(lone) == 1:
        return lone[0]
    for name, _ in hub.PLACES:
        if (folder / name).is_file():
            return folder / name
    others = [p.name for p in sorted(folder.iterdir()) if p.suffix in (*TORCH, ".npz", ".h5")]
    found = f" (it has {', '.join(others)}, which is not looked for: name the file)" if others else ""
    raise InputError(f"{folder}: no {hub.WEIGHTS} in this folder{found}")


def config_beside(folder: Path, weights: str) -> dict[str, Any] | None:
    """config.json, or open_clip's own where the weights are open_clip's or there is no other; then Mistral's own."""
    names = [hub.CONFIG, hub.OPEN_CLIP_CONFIG] if not weights.startswith("open_clip") else [hub.OPEN_CLIP_CONFIG, hub.CONFIG]
    names.append(MISTRAL_CONFIG)
    return next((found for found in (read_json_if_there(folder / name) for name in names) if found is not None), None)


def read_json_if_there(path: Path) -> dict[str, Any] | None:
    return read_json(path) if os.path.lexists(path) else None


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
