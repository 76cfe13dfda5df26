"""The members of zip archives (.pth, .npz), where they lie in the file."""

import contextlib
import mmap
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import InputError, about

Array = Any
LARGEST_GROWTH = 50  # weights hardly compress: an archive that grows by more than this is a bomb, not a model
HARMLESS = 64 << 20  # bytes; and anything up to this may grow as it likes


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """An archive, opened. Whatever its reading raises becomes an InputError that names the file."""
    with about(path):
        try:
            with open(path, "rb") as file:
                yield file
        except InputError:
            raise
        except FileNotFoundError as error:
            raise InputError("no such file") from error
        except Exception as error:  # pickle, zipfile and the parser of .npy headers raise a dozen kinds for damaged files
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"cannot be read ({reason}): copy or download it again") from error


def mapped(file: BinaryIO) -> Array:
    """An open file's bytes, as a memory map."""
    return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def stored(content: Array, info: zipfile.ZipInfo) -> Array:
    """The bytes of a member that is not compressed, as a view of the file's memory map. Raises InputError where it is cut."""
    header = content[info.header_offset : info.header_offset + 30].tobytes()
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    start = info.header_offset + 30 + name_length + extra_length
    data = content[start : start + info.file_size]
    if len(data) != info.file_size:
        raise InputError(f"member '{info.filename}' is cut")
    return data


def check_growth(archive: zipfile.ZipFile, size: int) -> None:
    """Raise InputError for an archive of `size` bytes that claims to hold absurdly more."""
    claimed = sum(info.file_size for info in archive.infolist())
    if claimed > max(HARMLESS, LARGEST_GROWTH * size):
        raise InputError(f"a file of {size:,} bytes claims to hold {claimed:,}: no model's")


def check_names(archive: zipfile.ZipFile) -> None:
    """Raise InputError for members with names that point elsewhere. Nothing is unpacked here, but nobody honest has them."""
    for name in archive.namelist():
        if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
            raise InputError(f"the name {name!r} in it points outside: the file is refused")
