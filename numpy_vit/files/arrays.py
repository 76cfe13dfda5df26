"""The one reader of NumPy's files: .npy, and .npz archives of them (big_vision's and Google's checkpoints, ports' dumps).

np.load would copy every array, unpickle objects where it is asked to, and divides by an item size of 0; here arrays are views
of the file's memory map, unless they are compressed. Nothing is unpickled: arrays of objects are left out, like texts. JAX
saves bfloat16 as raw two-byte items. (numpy/lib/format.py)
"""

import io
import math
import os
import warnings
import zipfile
from typing import Any, BinaryIO

from numpy.lib import format as npy

from ..errors import InputError
from .outside import mapped, opened
from .tensorfile import KINDS as FILE_KINDS
from .tensorfile import Tensor
from .zipped import archive_of

Array = Any
KINDS = FILE_KINDS | {"V2": "BF16"}
LARGEST_HEADER = 10_000  # bytes
MOST_AXES = 32


def is_npz(file: BinaryIO) -> bool:
    """Whether an open zip archive holds .npy files."""
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    except Exception:  # a damaged one: whoever reads it says so
        return False


def read_npz(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The arrays of an .npz file by name. What is no number (a text, say) is left out.

    Raises InputError for a file that is damaged, holds no numbers, or claims absurd sizes.
    """
    with opened(path) as file, archive_of(file) as archive:
        members = [name for name in archive.members if name.endswith(".npy")]
        found = {name.removesuffix(".npy"): array_of(archive.read(name), name) for name in members}
        tensors = {name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}
        if not tensors:
            others = "".join(f": '{name}' {what}" for name, what in list(found.items())[:1])
            raise InputError(f"has no arrays of numbers{others}")
        return tensors


def read_npy(path: str | os.PathLike[str]) -> Tensor:
    """The array of an .npy file. Raises InputError for one that is damaged or no array of numbers."""
    with opened(path) as file:
        found = array_of(mapped(file), "the array")
        if not isinstance(found, Tensor):
            raise InputError(found)
        return found


def array_of(content: Array, name: str) -> Tensor | str:
    """The bytes of an .npy file as a tensor, a view of them; or, for what is no array of numbers, what it is."""
    header = io.BytesIO(content[:LARGEST_HEADER].tobytes())
    version = npy.read_magic(header)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    with warnings.catch_warnings(action="ignore"):  # of headers that Python 2 wrote
        shape, fortran, dtype = read(header, max_header_size=LARGEST_HEADER)
    if dtype.hasobject:
        return "holds Python objects, which are not unpickled: save numbers alone"
    kind = KINDS.get(dtype.str[1:])
    if kind is None:
        return f"is of type {dtype.str[:40]}, which is no number"
    numbers, count = content[header.tell() :], math.prod(shape)
    if len(shape) > MOST_AXES or any(size < 0 for size in shape):
        raise InputError(f"array '{name}' has no possible shape")
    if count * dtype.itemsize != len(numbers):
        claimed = f"{count:,}" if count < 2**64 else "more than 2**64"
        raise InputError(f"array '{name}' claims {claimed} numbers and has {len(numbers):,} bytes")
    array = numbers.view(dtype) if kind != "BF16" else numbers.view("<u2")
    if dtype.str[0] == ">":
        array = array.astype(dtype.newbyteorder("<"))
    return Tensor(kind, array.reshape(shape[::-1]).T if fortran else array.reshape(shape))
