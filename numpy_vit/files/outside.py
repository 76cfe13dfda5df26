"""Files from outside, opened: what is no regular file is not waited for, and what is another kind of file is called so."""

import contextlib
import errno
import mmap
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import InputError, about

Array = Any
LONGEST_BEGINNING, LARGEST_TEXT = 100, 64 << 20  # bytes; 21,000 names are one million
DAMAGED = "copy or download it again"
NUMPY = "save its arrays with numpy.savez, and give that (`convert --map` takes a table of names)"
WEB_PAGE = "a web page, not the file: download it again from the address of the file itself (on the hub: /resolve/)"
BEGINNINGS = (  # what a file begins with -> what it is, and the way out
    (b"version https://git-lfs", "a Git LFS pointer, not the file it stands for: fetch that with `git lfs pull`"),
    (b"<!doctype html", WEB_PAGE),
    (b"<html", WEB_PAGE),
    (b"\x89hdf\r\n", f"an HDF5 file, as Keras writes: {NUMPY}"),
    (b"gguf", f"a GGUF file: {NUMPY}"),
    (b"\x1f\x8b", "compressed with gzip: unpack it first"),
    (b"\xfd7zxz\0", "compressed with xz: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it first"),
    (b"rar!", "a RAR archive: unpack it first"),
)
SUFFIXES = {  # of files whose beginning does not tell
    ".onnx": "an ONNX graph: give the checkpoint it was exported from, or " + NUMPY,
    ".pb": f"a TensorFlow graph: {NUMPY}",
    ".tflite": f"a TensorFlow Lite graph: {NUMPY}",
    ".msgpack": f"Flax's msgpack: {NUMPY}",
    ".pkl": f"a Python pickle, which is a program and is not run: {NUMPY}",
    ".pickle": f"a Python pickle, which is a program and is not run: {NUMPY}",
}


def regular(path: Path) -> os.stat_result:
    """What the system says of a regular file. Raises InputError (without the file's name) where there is none."""
    try:
        found = os.stat(path)
    except ValueError as error:  # a zero byte
        raise InputError("is no file name") from error
    except OSError as error:
        raise InputError(unreadable(error)) from error
    if stat.S_ISDIR(found.st_mode):
        raise InputError("is a folder, a file is expected")
    if not stat.S_ISREG(found.st_mode):  # which could be waited for, or read, without end
        raise InputError("not a regular file (a pipe or a device?): save what it gives to a file, and give that")
    return found


def unreadable(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "is a link that leads back to itself"
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "no such file"
    return f"cannot be read ({error.strerror or error or type(error).__name__})"


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A regular file, opened. Whatever its reading raises becomes an InputError, one line, that names the file."""
    with about(path):
        try:
            regular(Path(path))
            with open(path, "rb") as file:
                refuse_other_kinds(file.read(LONGEST_BEGINNING))
                file.seek(0)
                yield file
        except (InputError, MemoryError):
            raise
        except OSError as error:
            raise InputError(f"{unreadable(error)}: {DAMAGED}" if error.errno is None else unreadable(error)) from error
        except Exception as error:  # zipfile and the parser of .npy headers raise a dozen kinds for damaged files
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"cannot be read ({reason}): {DAMAGED}") from error


def whole(path: str | os.PathLike[str], largest: int) -> bytes:
    """A small file's bytes. Raises InputError for one that is too large, or no file."""
    with opened(path) as file:
        content = file.read(largest + 1)
        if len(content) > largest:
            raise InputError(f"is larger than {largest:,} bytes, which no such file is")
        return content


def lines(path: str | os.PathLike[str]) -> list[str]:
    """The lines of a small text. Raises InputError for one that is not in UTF-8, or no file."""
    content = whole(path, LARGEST_TEXT)
    try:
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no text in UTF-8 ({error.reason}): save it as such") from error


def mapped(file: BinaryIO) -> Array:
    """An open file's bytes, as a memory map; an empty file cannot be mapped."""
    import numpy as np  # here, since the command line reads JSON without it

    if not os.fstat(file.fileno()).st_size:
        raise InputError(f"is empty (0 bytes): {DAMAGED}")
    return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def refuse_other_kinds(beginning: bytes, suffix: str = "") -> None:
    """Raise InputError for what is never read here, by how it begins and by its suffix: it says what it is, and the way out."""
    start = beginning.lstrip().lower()
    kind = next((what for mark, what in BEGINNINGS if start.startswith(mark)), SUFFIXES.get(suffix.lower()))
    if kind:
        raise InputError(f"is {kind}")
