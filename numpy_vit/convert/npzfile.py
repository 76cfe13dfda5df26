"""NumPy archives (.npz): big_vision's and Google's checkpoints, and many home-made ones.

A zip archive of .npy files. np.load could read them too, but copies every array; here they are views of the file's memory map,
unless they are compressed. Nothing is unpickled: arrays of objects are refused. JAX saves bfloat16 as raw two-byte items.
(numpy/lib/format.py)
"""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from ..errors import InputError
from ..files.tensorfile import Tensor
from .zipped import check_growth, check_names, mapped, opened, stored

Array = Any
DTYPES = {
    "f8": "F64", "f4": "F32", "f2": "F16", "V2": "BF16", "i8": "I64", "i4": "I32", "i2": "I16", "i1": "I8",
    "u1": "U8", "b1": "BOOL",
}  # fmt: skip
LARGEST_HEADER = 10_000
PIECE = 1 << 20  # bytes


def read_npz(path: Path) -> dict[str, Tensor]:
    """The arrays of an .npz file by name. What is no number (a text, say) is left out.

    Raises InputError for a file that is damaged, holds objects, or claims absurd sizes.
    """
    with opened(path) as file, zipfile.ZipFile(file) as archive:
        check_names(archive)
        check_growth(archive, path.stat().st_size)
        content = mapped(file)
        members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        found = {info.filename.removesuffix(".npy"): array_of(content, archive, info) for info in members}
        tensors = {name: tensor for name, tensor in found.items() if tensor is not None}
        if not tensors:
            raise InputError("has no arrays of numbers")
        return tensors


def unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    """The bytes of a compressed member, piece by piece into one array: reading it whole would hold it twice."""
    data = np.empty(info.file_size, np.uint8)
    with archive.open(info) as member:
        for start in range(0, len(data), PIECE):
            piece = np.frombuffer(member.read(PIECE), np.uint8)
            data[start : start + len(piece)] = piece
    return data


def array_of(content: Array, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Tensor | None:
    """One member as a tensor: a view where it is stored, a copy where it is compressed; None where it holds no numbers."""
    data = stored(content, info) if info.compress_type == zipfile.ZIP_STORED else unpacked(archive, info)
    header = io.BytesIO(data[:LARGEST_HEADER].tobytes())
    version = npy.read_magic(header)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(header, max_header_size=LARGEST_HEADER)
    if dtype.hasobject:
        raise InputError(f"array '{info.filename}' holds Python objects, which are not unpickled: save numbers alone")
    kind = DTYPES.get(dtype.str[1:])
    if kind is None or dtype.str[0] == ">":
        if dtype.kind in "USM":
            return None
        raise InputError(f"array '{info.filename}' is of type {dtype.str}, which is not supported")
    count = 1
    for size in shape:
        count *= size
    numbers = data[header.tell() :]
    if count * dtype.itemsize != len(numbers):
        raise InputError(f"array '{info.filename}' claims {count:,} numbers and has {len(numbers):,} bytes")
    array = numbers.view("<u2" if kind == "BF16" else dtype)
    return Tensor(kind, array.reshape(shape[::-1]).T if fortran else array.reshape(shape))
