"""Safetensors files: read through a memory map, written whole or not at all.

The format: 8 bytes with the length of a JSON header, the header (name -> dtype, shape, place), then the numbers. The
safetensors library checks the header of every file read here; its NumPy side copies every tensor and cannot read bfloat16,
so the arrays are made here, as views of the memory map. It also writes metadata in an order that changes from run to run;
the writer here always gives the same bytes for the same content.
"""

import contextlib
import errno
import json
import os
import stat
import struct
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import safetensors

from ..errors import InputError
from .jsonfile import parse_json
from .outside import DAMAGED, mapped, opened

Array = Any
STORED_AS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # NumPy has no bfloat16: its bits, as integers
UNREAD = {  # what may lie beside the weights, and is no weight
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
    "C64": "<c8", "C128": "<c16",
}  # fmt: skip
WRITTEN = {**STORED_AS, **UNREAD}
KINDS = {np.dtype(layout).str[1:]: kind for kind, layout in WRITTEN.items() if kind != "BF16"}  # NumPy's name -> the file's


class Tensor(NamedTuple):
    """Numbers as they lie in a file."""

    dtype: str  # "F64", "F32", "F16" or "BF16"; or of what is no weight (UNREAD)
    data: Array  # of STORED_AS[dtype]; often a view of the memory map

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    def to_float(self, dtype: Any) -> Array:
        """As a float32 or float64 array: the same memory where it fits, else a copy. Widening is exact."""
        if self.dtype == "BF16":  # the upper half of a float32's bits
            widened = (self.data.astype(np.uint32) << 16).view(np.float32)
            return widened.astype(dtype, copy=False)
        # Some writers do not align the numbers, and arithmetic on those would be slow.
        data = self.data if self.data.flags.aligned else self.data.copy()
        with np.errstate(over="ignore"):  # float64 too large for float32 becomes infinite: the caller looks for that
            return data.astype(dtype, copy=False)

    def is_finite(self) -> bool:
        """No NaN and no infinity: both show in the extremes, which are faster to take than a mask of all numbers."""
        values = self.to_float(np.float64 if self.dtype == "F64" else np.float32)
        if values.size == 0:
            return True
        with np.errstate(invalid="ignore"):
            return bool(np.isfinite(values.min()) and np.isfinite(values.max()))


def tensor_of(array: Array) -> Tensor:
    """An array of float32, float64 or whole numbers as a Tensor."""
    return Tensor(KINDS[array.dtype.str[1:]], array)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file, as views of its memory map, and its metadata.

    Raises InputError for a file that is missing, cut, or lies about its content.
    """
    with opened(path) as file:
        content = mapped(file)
        try:
            with safetensors.safe_open(path, framework="np"):  # checks the header against the file
                pass
        except (safetensors.SafetensorError, OSError) as error:
            raise InputError(f"not a valid safetensors file ({error}): {DAMAGED}") from error
        (length,) = struct.unpack("<Q", content[:8].tobytes())
        header = parse_json(content[8 : 8 + length].tobytes())
        metadata = header.pop("__metadata__", None) or {}
        numbers = content[8 + length :]
        return {name: tensor_in(numbers, name, entry) for name, entry in header.items()}, metadata


def tensor_in(numbers: Array, name: str, entry: Mapping[str, Any]) -> Tensor:
    """A tensor among a file's numbers, by its entry in the header, which is known to be true."""
    kind, (start, end) = entry["dtype"], entry["data_offsets"]
    layout = STORED_AS.get(kind) or UNREAD.get(kind)
    data = numbers[start:end]
    if layout is None:  # numbers of less than a byte, say: nothing that is read here, and no reason to refuse the rest
        return Tensor(kind, data)
    try:
        return Tensor(kind, data.view(layout).reshape(entry["shape"]))
    except (ValueError, OverflowError) as error:
        raise InputError(f"tensor '{name}' has a shape NumPy cannot have ({error})") from error


def write(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file: all of it, or, whatever happens, nothing.

    One tensor at a time is in memory. Raises InputError where the target cannot be written.
    """
    with replacing(path) as file:
        write_to(file, tensors, metadata)


def write_to(file: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write the content of a safetensors file into an open file."""
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    # Wide dtypes first, as the safetensors library orders them, keeps every tensor aligned.
    names = sorted(tensors, key=lambda name: -np.dtype(WRITTEN[tensors[name].dtype]).itemsize)
    offset = 0
    for name in names:
        dtype, data = tensors[name]
        header[name] = {"dtype": dtype, "shape": list(data.shape), "data_offsets": [offset, offset + data.nbytes]}
        offset += data.nbytes
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")  # of names in no encoding
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for name in names:
        file.write(np.ascontiguousarray(tensors[name].data).data)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file to write that takes the place of `path` when the block ends well, and vanishes when it does not.

    Raises InputError, one line, for a folder that is missing or not writable, a full disk, and the like.
    """
    path = Path(path)
    temporary = None
    try:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.stat(path).st_mode):
                raise InputError(f"{path}: cannot be written (it is a folder; give a file name)")
        # A device or a pipe is written to, not replaced.
        if path.exists() and (not path.is_file() or path.is_relative_to("/dev")):
            with open(path, "wb") as file:
                yield file
            return
        target = Path(os.path.realpath(path))  # of a link, what it points to is replaced
        os.stat(target.parent)  # else a temporary name would be blamed
        handle, temporary = tempfile.mkstemp(prefix=part_of(target), suffix=".part", dir=target.parent)
        with open(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def part_of(target: Path) -> str:
    """How the temporary name beside a target begins: hidden, and short enough whatever the target's name is."""
    return f".{target.name[:40]}."


def unwritable(path: str | os.PathLike[str], error: OSError) -> InputError:
    """Why a target cannot be written."""
    if error.errno == errno.ENOSPC:
        return InputError(f"{path}: the disk is full; nothing was written")
    if error.errno == errno.ELOOP:
        return InputError(f"{path}: cannot be written (it is a link that leads back to itself)")
    return InputError(f"{path}: cannot be written ({error.strerror or error})")


def _umask() -> int:
    """The process's umask (there is no other way to read it than to set it)."""
    current = os.umask(0o077)
    os.umask(current)
    return current
