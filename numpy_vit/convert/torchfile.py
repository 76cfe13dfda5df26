"""PyTorch checkpoints (.pth, .pt, .bin) without torch, and without running what is in them.

Since torch 1.6 such a file is a zip archive: `<name>/data.pkl` is a pickle of the state dict in which every tensor is a call
of torch._utils._rebuild_tensor_v2 on a persistent id of its storage, and `<name>/data/<key>` are the storages' bytes, not
compressed. (torch/serialization.py, `_save`.) A TorchScript archive has modules in place of the dict, and their code beside.
A pickle is a program: it may name any function and call it. The reader here knows the few names a state dict needs, gives its
own harmless stand-ins for them, and refuses every other by name.
"""

import collections
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ..errors import InputError
from ..files.tensorfile import STORED_AS, Tensor
from .zipped import check_names, mapped, opened, stored

Array = Any
LARGEST_PICKLE = 64 << 20  # bytes; a state dict of a thousand tensors has some hundred thousand
STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
OTHERS = {"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?"}


class Storage(NamedTuple):
    dtype: str
    data: Array  # one-dimensional


def rebuild_tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    """What torch._utils._rebuild_tensor_v2 does: a view of a storage. Raises InputError where it would leave the storage."""
    if not isinstance(storage, Storage) or len(size) != len(stride):
        raise InputError("a tensor is not built as torch builds them")
    numbers = (offset, *size, *stride)
    if not all(type(n) is int and 0 <= n < 2**62 for n in numbers):
        raise InputError("a tensor's place in its storage is no row of whole numbers")
    count = 1
    for n in size:
        count *= n
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else offset
    if last >= max(len(storage.data), 1) or count > len(storage.data):
        raise InputError(f"a tensor of {count:,} numbers leaves its storage of {len(storage.data):,}")
    item = storage.data.itemsize
    part = storage.data[offset:]
    view = np.lib.stride_tricks.as_strided(part, size, [step * item for step in stride], writeable=False)
    return Tensor(storage.dtype, view)


def rebuild_parameter(tensor: Any, *_: Any) -> Any:
    """torch._utils._rebuild_parameter: a parameter is a tensor that is trained."""
    return tensor


ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): rebuild_parameter,
    ("torch", "Size"): tuple,
    **{("torch", name): dtype for name, dtype in STORAGES.items()},
}


class Scripted(dict[str, Any]):
    """A module of a TorchScript archive (OpenAI's CLIP files are such): its parameters and submodules, without its code."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, Mapping):
            self.update(state)


class StateDictUnpickler(pickle.Unpickler):
    """Builds nothing but tensors, dicts, lists, tuples, numbers and texts."""

    def __init__(self, file: Any, storage: Callable[[str, str], Storage]) -> None:
        super().__init__(file)
        self.storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":  # where TorchScript puts its classes; no module is called so
            return Scripted
        if (module, name) not in ALLOWED:
            raise InputError(
                f"its pickle wants {module}.{name}, which no state dict needs and which is not run: "
                "save the state dict alone (checkpoint['model'], say), best as safetensors"
            )
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Storage:
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage" and isinstance(pid[1], str)):
            raise InputError("a persistent id is not that of a storage")
        _, dtype, key, _, _ = pid
        return self.storage(dtype, str(key))


def read_torch(path: Path) -> dict[str, Tensor]:
    """The tensors of a PyTorch checkpoint, as views of its memory map; those of nested dicts as "outer.inner".

    What is no tensor (an epoch, a learning rate) is left out. Raises InputError for a file that is damaged, older than
    torch 1.6, or wants to run code.
    """
    with opened(path) as file:
        found = dict(flattened(state_dict(file)))
        if not found:
            raise InputError("has no tensors")
        return found


def state_dict(file: BinaryIO) -> Any:
    """What the pickle of an open checkpoint builds. Raises InputError for a file that is none."""
    if file.read(2) != b"PK":
        raise InputError("is not a PyTorch checkpoint of torch 1.6 or later: save it again, or as safetensors")
    content = mapped(file)
    with zipfile.ZipFile(file) as archive:
        check_names(archive)
        members = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise InputError("is a zip archive without a data.pkl: no PyTorch checkpoint")
        if members[pickles[0]].file_size > LARGEST_PICKLE:
            raise InputError(f"its pickle claims {members[pickles[0]].file_size:,} bytes: no state dict's")
        folder = pickles[0].removesuffix("data.pkl")
        order = f"{folder}byteorder"
        if order in members and archive.read(order) != b"little":
            raise InputError("was saved on a big-endian machine: save it as safetensors")

        def storage(dtype: str, key: str) -> Storage:
            info = members.get(f"{folder}data/{key}")
            if info is None or info.compress_type != zipfile.ZIP_STORED:
                raise InputError(f"storage '{key}' is missing or compressed")
            return Storage(dtype, stored(content, info).view(STORED_AS.get(dtype) or OTHERS[dtype]))

        with archive.open(pickles[0]) as data:
            return StateDictUnpickler(data, storage).load()


def flattened(value: Any, name: str = "") -> Any:
    """(name, Tensor) of every tensor in nested dicts."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flattened(inner, f"{name}.{key}" if name else str(key))
