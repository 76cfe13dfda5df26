"""PyTorch checkpoints (.pth, .pt, .bin, .ckpt) without torch, and without running what is in them.

Since torch 1.6 such a file is a zip archive: `<name>/data.pkl` is a pickle of the state dict in which every tensor is a call
of torch._utils._rebuild_tensor_v2 on a persistent id of its storage, and `<name>/data/<key>` are the storages' bytes, not
compressed. (torch/serialization.py, `_save`.) A TorchScript archive has modules in place of the dict, and their code beside.
Before, and today where a caller asks for it (`_legacy_save`), it is five pickles one after the other, the fourth of them the
state dict and the fifth its storages' keys, and then the storages: each a count, 8 bytes, and its numbers.

A pickle is a program: it may name any function and call it. The machine that reads it here (`pickled`) knows the few names that
checkpoints need, those of torch.load(weights_only=True) among them, has its own harmless stand-ins, and refuses every other.
"""

import math
import os
import struct
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ..errors import InputError
from ..files.outside import mapped, opened
from ..files.tensorfile import STORED_AS, UNREAD, Tensor
from ..files.zipped import archive_of
from .pickled import INERT, Function, Machine, Scripted, checked_key

Array = Any
LARGEST_PICKLE = 64 << 20  # bytes; a state dict of a thousand tensors has some hundred thousand
DEEPEST = 50  # dicts within one another
MOST_TENSORS = 1_000_000
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the first of the five pickles: a magic number
STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "LongStorage": "I64",
    "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8", "BoolStorage": "BOOL",
    "ComplexFloatStorage": "C64", "ComplexDoubleStorage": "C128", "UntypedStorage": "U8",
    "QInt8Storage": "I8", "QUInt8Storage": "U8", "QInt32Storage": "I32",
}  # fmt: skip


class Storage(NamedTuple):
    """A storage that a pickle names."""

    dtype: str
    key: str


class Placed(NamedTuple):
    """A tensor that a pickle describes: a part of a storage."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Placed:
    """What torch._utils._rebuild_tensor_v2 is told."""
    if not isinstance(storage, Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise InputError("a tensor is not built as torch builds them")
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or len(size) > 32 or not all(type(n) is int and 0 <= n < 2**62 for n in numbers):
        raise InputError("a tensor's place in its storage is no row of whole numbers")
    return Placed(storage, offset, size, stride)


def tensor_of(placed: Placed, data: Array) -> Tensor:
    """A view of a storage. Raises InputError where it would leave the storage."""
    _, offset, size, stride = placed
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else offset
    if last >= max(len(data), 1) or count > len(data):
        raise InputError(f"a tensor of {count:,} numbers leaves its storage of {len(data):,}")
    strides = [step * data.itemsize for step in stride] if count else None
    part = data[offset:] if count else data[:0]
    view = np.lib.stride_tricks.as_strided(part, size, strides, writeable=False)
    return Tensor(placed.storage.dtype, view)


def first(value: Any, *_: Any) -> Any:
    """torch._utils._rebuild_parameter and the like: a parameter is a tensor that is trained."""
    return value


def called(function: Any, kind: Any, arguments: Any, *_: Any) -> Any:
    """torch._tensor._rebuild_from_type_v2: a tensor of a class of its own."""
    if not isinstance(function, Function) or not isinstance(arguments, tuple):
        raise InputError("a tensor is not built as torch builds them")
    return function.call(*arguments)


def dictionary(pairs: Any = (), *_: Any) -> dict[Any, Any]:
    """collections.OrderedDict, of pairs in old pickles."""
    if isinstance(pairs, dict):
        return dict(pairs)
    if not isinstance(pairs, list | tuple) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        return {}
    return {checked_key(key): value for key, value in pairs}


def numbers(values: Any = (), *_: Any) -> Any:
    """torch.Size, and TorchScript's lists."""
    return tuple(values) if isinstance(values, list | tuple) else INERT


def reconstructed(kind: Any, *_: Any) -> Any:
    """copyreg._reconstructor: how pickles of protocol 0 and 1 make an object of a class."""
    if not isinstance(kind, Function):
        raise InputError("its pickle calls what is no function")
    return kind.call()


def inert(*_: Any) -> Any:
    return INERT


# What may be beside the weights, and is not looked at: what torch.load(weights_only=True) takes, the options of training
# programs, and NumPy's numbers. (torch/_weights_only_unpickler.py)
EXTRAS = {
    "torch": (
        "device dtype float16 float32 float64 half float double bfloat16 int8 int16 int32 int64 uint8 uint16 uint32 uint64 "
        "bool short int long complex64 complex128 qint8 quint8 qint32 float8_e4m3fn float8_e5m2 strided sparse_coo Tensor "
        "contiguous_format preserve_format channels_last per_tensor_affine per_channel_affine"
    ),
    "torch.serialization": "_get_layout",
    "torch._utils": "_rebuild_qtensor _rebuild_sparse_tensor _rebuild_meta_tensor_no_storage _rebuild_nested_tensor "
    "_rebuild_wrapper_subclass _rebuild_device_tensor_from_numpy _rebuild_device_tensor_from_cpu_tensor _rebuild_tensor_v3",
    "collections": "Counter",
    "argparse": "Namespace",
    "pathlib": "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath",
    "_codecs": "encode",
    "builtins": "set frozenset bytearray complex object bytes slice range list tuple dict int float str bool",
    "__builtin__": "set frozenset bytearray complex object bytes slice xrange list tuple dict int float str bool",
    "numpy": "dtype ndarray",
    "numpy.core.multiarray": "scalar _reconstruct",
    "numpy._core.multiarray": "scalar _reconstruct",
    "datetime": "datetime date timedelta timezone",
}
NAMES: dict[tuple[str, str], Any] = {
    **{(module, name): Function(f"{module}.{name}", inert) for module, names in EXTRAS.items() for name in names.split()},
    **{
        (module, name): Function(f"{module}.{name}", function)
        for module, name, function in (
            ("collections", "OrderedDict", dictionary),
            ("collections", "defaultdict", lambda *_: {}),
            ("pytorch_lightning.utilities.parsing", "AttributeDict", dictionary),
            ("lightning.pytorch.utilities.parsing", "AttributeDict", dictionary),
            ("lightning.fabric.utilities.data", "AttributeDict", dictionary),
            ("torch._utils", "_rebuild_tensor", rebuild_tensor),
            ("torch._utils", "_rebuild_tensor_v2", rebuild_tensor),
            ("torch._utils", "_rebuild_parameter", first),
            ("torch._utils", "_rebuild_parameter_with_state", first),
            ("torch.nn.parameter", "Parameter", first),
            ("torch.nn.parameter", "Buffer", first),
            ("torch._tensor", "_rebuild_from_type_v2", called),
            ("torch", "Size", numbers),
            ("torch.jit._pickle", "build_intlist", numbers),
            ("torch.jit._pickle", "build_doublelist", numbers),
            ("torch.jit._pickle", "build_boollist", numbers),
            ("torch.jit._pickle", "build_tensorlist", numbers),
            ("copyreg", "_reconstructor", reconstructed),
            ("copy_reg", "_reconstructor", reconstructed),
        )
    },
    **{(module, name): name for module in ("torch", "torch.cuda", "torch.storage") for name in STORAGES},
}  # fmt: skip
SCRIPTED = Function("a TorchScript module", lambda *_: Scripted())


def named(module: str, name: str) -> Any:
    """What stands here for a name in a pickle. Raises InputError for one that no checkpoint needs."""
    if module.split(".")[0] == "__torch__":  # where TorchScript puts its classes; no module is called so
        return SCRIPTED
    if (module, name) not in NAMES:
        raise InputError(
            f"its pickle wants {module}.{name}, which no state dict needs and which is not run: "
            "save the state dict alone (checkpoint['model'], say), best as safetensors"
        )
    return NAMES[module, name]


def storage_of(pid: Any) -> Storage:
    """A persistent id, that of a storage (in legacy files with a sixth item, of views, which has long been None)."""
    if not (isinstance(pid, tuple) and len(pid) in (5, 6) and pid[0] == "storage" and pid[5:] in ((), (None,))):
        raise InputError("a persistent id is not that of a storage")
    _, kind, key, _, _ = pid[:5]
    if not isinstance(kind, str) or kind not in STORAGES or not isinstance(key, str | int):
        raise InputError("a persistent id is not that of a storage")
    return Storage(STORAGES[kind], str(key))


def read_torch(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a PyTorch checkpoint, as views of its memory map; those of nested dicts as "outer.inner".

    What is no tensor (an epoch, a learning rate) is left out. Raises InputError for a file that is damaged, or wants to run
    code.
    """
    with opened(path) as file:
        start = file.read(len(LEGACY))
        tensors = legacy_tensors(file) if start == LEGACY else zipped_tensors(file, start)
        if not tensors:
            raise InputError("has no tensors")
        return tensors


def zipped_tensors(file: BinaryIO, start: bytes) -> dict[str, Tensor]:
    """The tensors of a zip archive. Raises InputError for a file that is none."""
    if not start.startswith(b"PK"):
        raise InputError("is not a PyTorch checkpoint: save it again, best as safetensors")
    with archive_of(file) as archive:
        pickles = [name for name in archive.members if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise InputError("is a zip archive without a data.pkl: no PyTorch checkpoint")
        folder = pickles[0].removesuffix("data.pkl")
        order = f"{folder}byteorder"
        if order in archive.members and archive.stored(order)[:10].tobytes() != b"little":
            raise InputError("was saved on a big-endian machine: save it as safetensors")
        data = archive.stored(pickles[0])
        if len(data) > LARGEST_PICKLE:
            raise InputError(f"its pickle claims {len(data):,} bytes: no state dict's")
        state = Machine(data.data, named, storage_of).run()

        def part(placed: Placed) -> Tensor:
            data = archive.stored(f"{folder}data/{placed.storage.key}")
            return tensor_of(placed, data.view((STORED_AS | UNREAD)[placed.storage.dtype]))

        return {name: part(placed) for name, placed in flattened(state)}


def legacy_tensors(file: BinaryIO) -> dict[str, Tensor]:
    """The tensors of a file from before torch 1.6, or written as then."""
    content = mapped(file)
    data, at = content.data, 0
    storages: dict[str, Storage] = {}
    parts = []

    def storage(pid: Any) -> Storage:
        found = storage_of(pid)
        if storages.setdefault(found.key, found).dtype != found.dtype:
            raise InputError(f"storage '{found.key}' is of two types")
        return found

    for _ in range(5):  # a magic number, the format's version, the machine, the state dict, the storages' keys
        machine = Machine(data[at : at + LARGEST_PICKLE], named, storage)
        parts.append(machine.run())
        at += machine.at
    _, _, system, state, keys = parts
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise InputError("was saved on a big-endian machine: save it as safetensors")
    if not isinstance(keys, list) or {key for key in keys if isinstance(key, str)} != storages.keys():
        raise InputError("its list of storages is not that of its tensors")
    placed = {}
    for key in keys:
        layout = np.dtype((STORED_AS | UNREAD)[storages[key].dtype])
        (count,) = struct.unpack("<q", content[at : at + 8].tobytes())
        at += 8
        if not 0 <= count * layout.itemsize <= len(content) - at:
            raise InputError(f"storage '{key}' is cut")
        placed[key] = content[at : at + count * layout.itemsize].view(layout)
        at += count * layout.itemsize
    return {name: tensor_of(part, placed[part.storage.key]) for name, part in flattened(state)}


def flattened(state: Any) -> Iterator[tuple[str, Placed]]:
    """(name, where it is) of every tensor in nested dicts. Raises InputError for dicts that hold too many, or themselves."""
    counts: dict[int, int] = {}

    def count(value: Any, depth: int) -> int:
        """How many tensors there are in a value: each dict is looked at once, however often it is there."""
        if not isinstance(value, Mapping):
            return isinstance(value, Placed)
        if id(value) not in counts:
            if depth > DEEPEST:
                raise InputError(f"its dicts are nested more than {DEEPEST} deep")
            counts[id(value)] = sum(count(inner, depth + 1) for inner in value.values())
        return counts[id(value)]

    def walk(value: Any, name: str) -> Iterator[tuple[str, Placed]]:
        if isinstance(value, Placed):
            yield name, value
        elif isinstance(value, Mapping) and counts[id(value)]:
            for key, inner in value.items():
                yield from walk(inner, f"{name}.{key}" if name else str(key))

    total = count(state, 0)
    if total > MOST_TENSORS:
        raise InputError(f"its dicts hold more than {MOST_TENSORS:,} tensors: no model's")
    yield from walk(state, "")
