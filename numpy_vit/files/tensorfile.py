"""Safetensors files: read through a memory map, written whole or not at all.

The format: 8 bytes with the length of a JSON header, the header (name -> dtype, shape, place), then the numbers. The
safetensors library checks the header of every file read here; its NumPy side copies every tensor and cannot read bfloat16,
so the arrays are made here, as views of the memory map. It also writes metadata in an order that changes from run to run;
the writer here always gives the same bytes for the same content.
"""

import contextlib
import errno
import json
import mmap
import os
import struct
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import safetensors

from ..errors import InputError

Array = Any
STORED_AS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # NumPy has no bfloat16: its bits, as integers


class Tensor(NamedTuple):
    """Numbers as they lie in a file."""

    dtype: str  # "F64", "F32", "F16" or "BF16"
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
    """A float32 or float64 array as a Tensor."""
    return Tensor({"f8": "F64", "f4": "F32"}[array.dtype.str[1:]], array)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file, as views of its memory map, and its metadata.

    Raises InputError for a file that is missing, cut, or lies about its content.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, not a safetensors file")
    try:
        with safetensors.safe_open(path, framework="np"):  # checks the header against the file
            pass
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
            content = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)
    except (safetensors.SafetensorError, ValueError, struct.error, RecursionError) as error:
        raise InputError(f"{path}: not a valid safetensors file ({_one_line(error)}): copy or download it again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or _one_line(error)})") from error
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in STORED_AS:
            raise InputError(f"{path}: tensor '{name}' is {entry['dtype']}; only {', '.join(STORED_AS)} can be read")
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        try:
            data = content[start:end].view(STORED_AS[entry["dtype"]]).reshape(entry["shape"])
        except (ValueError, OverflowError) as error:
            raise InputError(f"{path}: tensor '{name}' has a shape NumPy cannot have ({_one_line(error)})") from error
        tensors[name] = Tensor(entry["dtype"], data)
    return tensors, metadata


def write(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file: all of it, or, whatever happens, nothing.

    One tensor at a time is in memory. Raises InputError where the target cannot be written.
    """
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    # Wide dtypes first, as the safetensors library orders them, keeps every tensor aligned.
    names = sorted(tensors, key=lambda name: -np.dtype(STORED_AS[tensors[name].dtype]).itemsize)
    offset = 0
    for name in names:
        dtype, data = tensors[name]
        header[name] = {"dtype": dtype, "shape": list(data.shape), "data_offsets": [offset, offset + data.nbytes]}
        offset += data.nbytes
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            file.write(np.ascontiguousarray(tensors[name].data).data)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file to write that takes the place of `path` when the block ends well, and vanishes when it does not.

    Raises InputError, one line, for a folder that is missing or not writable, a full disk, and the like.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: cannot be written (it is a folder; give a file name)")
    temporary = None
    try:
        # A device or a pipe is written to, not replaced.
        if path.exists() and (not path.is_file() or path.is_relative_to("/dev")):
            with open(path, "wb") as file:
                yield file
            return
        path = path.resolve()  # of a link, what it points to is replaced
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        with open(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise InputError(f"{path}: the disk is full; nothing was written") from error
        raise InputError(f"{path}: cannot be written ({error.strerror or _one_line(error)})") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _umask() -> int:
    """The process's umask (there is no other way to read it than to set it)."""
    current = os.umask(0o077)
    os.umask(current)
    return current


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
