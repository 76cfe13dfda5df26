"""The one reader of zip archives (.pth, .npz): members where they lie in the file, or unpacked within bounds."""

import contextlib
import os
import struct
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from ..errors import InputError
from .outside import mapped

Array = Any
LARGEST_GROWTH = 50  # weights hardly compress: an archive that grows by more than this is a bomb, not a model
HARMLESS = 64 << 20  # bytes; and anything up to this may grow as it likes
PIECE = 1 << 20  # bytes


class Archive:
    """An open zip archive: `members` by name, and their bytes.

    Raises InputError where names point elsewhere (nothing is unpacked to disk, but nobody honest has them), where one is there
    twice, or where it claims to hold absurdly more than it can.
    """

    def __init__(self, archive: zipfile.ZipFile, file: BinaryIO) -> None:
        self._archive, self._content = archive, mapped(file)
        self.members: dict[str, zipfile.ZipInfo] = {}
        for info in archive.infolist():
            name = info.filename
            if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
                raise InputError(f"the name {name!r} in it points outside: the file is refused")
            if name in self.members:
                raise InputError(f"has '{name}' twice")
            self.members[name] = info
        claimed, size = sum(info.file_size for info in self.members.values()), os.fstat(file.fileno()).st_size
        if claimed > max(HARMLESS, LARGEST_GROWTH * size):
            raise InputError(f"a file of {size:,} bytes claims to hold {claimed:,}: no model's")

    def read(self, name: str) -> Array:
        """A member's bytes: a view of the file's memory map, or, where it is compressed, unpacked."""
        info = self.members[name]
        return self._stored(info) if info.compress_type == zipfile.ZIP_STORED else self._unpacked(info)

    def stored(self, name: str) -> Array:
        """The bytes of a member that must be there, and not be compressed. Raises InputError where it is not."""
        info = self.members.get(name)
        if info is None or info.compress_type != zipfile.ZIP_STORED:
            raise InputError(f"'{name}' in it is missing or compressed")
        return self._stored(info)

    def _stored(self, info: zipfile.ZipInfo) -> Array:
        header = self._content[info.header_offset : info.header_offset + 30].tobytes()
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        start = info.header_offset + 30 + name_length + extra_length
        data = self._content[start : start + info.file_size]
        if len(data) != info.file_size:
            raise InputError(f"member '{info.filename}' is cut")
        return data

    def _unpacked(self, info: zipfile.ZipInfo) -> Array:
        """Piece by piece into one array: reading it whole would hold it twice."""
        data, at = np.empty(info.file_size, np.uint8), 0
        with self._archive.open(info) as member:
            while piece := member.read(PIECE):
                data[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
                at += len(piece)
        if at != len(data):
            raise InputError(f"member '{info.filename}' is cut")
        return data


@contextlib.contextmanager
def archive_of(file: BinaryIO) -> Iterator[Archive]:
    """An open file as a zip archive."""
    with zipfile.ZipFile(file) as archive:
        yield Archive(archive, file)
