"""What an unfinished `embed` has done: the folder FILE.partial, from which the same command goes on.

    journal   a JSON line that says which run it is, then one for each batch: its pictures, those that could not be read,
              the shape of its rows and their CRC-32
    rows      the rows of all batches, one after another, as they will lie in the result

Rows are written before their line, and a line is believed only where the rows agree with its CRC-32: whether the run was
interrupted, killed or lost its power, what can be believed is a row of whole batches from the first picture on. Batches are
kept whole, since in another batch a picture's vector may differ in its last bit; they are kept up to the first picture that
is not the same as then, by name, size and time of change. So the result is, bit by bit, that of a run in one go.
"""

import contextlib
import json
import math
import os
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from .. import __version__
from ..errors import InputError, printable
from ..files.jsonfile import LARGEST, parse_json
from .common import BATCH, note

FORMAT = "numpy-vit embed 1"
JOURNAL, ROWS = "journal", "rows"
LONGEST_LINE = LARGEST
LONGEST_NAME = 255  # bytes, on nearly all file systems
Stamp = tuple[str, int, int]  # a picture: its name, its size, its time of change


class Batch(NamedTuple):
    """A line of the journal."""

    pictures: list[Stamp]
    failed: list[tuple[Stamp, str]]  # that could not be read, and why
    shape: list[int]  # of the rows
    size: int  # of the rows, in bytes
    crc: int
    end: int  # where the line ends in the journal


class Partial:
    """The folder FILE.partial, held by one process at a time, and the batches in it that begin this list of pictures.

    folder    where it is (`folder_of` the target)
    run       what the numbers depend on: model, precision, options
    pictures  all that are to be done, in order
    restart   begin anew, whatever is there

    batches   those that are done
    position  how many of the list's first pictures need no more work
    failed    those among them that cannot be read, and why
    keep      whether the folder stays when the context is left

    Raises InputError where the folder cannot be written, is held, is not ours, or is of another run.
    """

    def __init__(self, folder: Path, run: Mapping[str, Any], pictures: Sequence[Path], restart: bool = False) -> None:
        self.folder = folder
        self.run = {"format": FORMAT, "numpy_vit": __version__, **run}
        self.pictures = pictures
        self.batches: list[Batch] = []
        self.keep = True
        self._stamps = {path: stamp(path) for path in pictures}
        self._open()
        try:
            self._claim(restart)
            self.position, self.failed = self._resume()
        except BaseException:
            self._close()
            raise
        self._logged = set(self.failed)

    def add(self, pictures: Sequence[Path], rows: Any, failed: Mapping[Path, str]) -> None:
        """A batch is done: its pictures, their rows, and all pictures so far that could not be read."""
        data = rows.tobytes()
        line = {
            "pictures": [self._stamps[path] for path in pictures],
            "failed": [(self._stamps[path], text) for path, text in failed.items() if path not in self._logged],
            "shape": rows.shape,
            "size": len(data),
            "crc": zlib.crc32(data),
        }
        self._append(self._rows, data)
        end = self._append(self._journal, json.dumps(line).encode() + b"\n")
        self._logged |= failed.keys()
        self.batches.append(Batch(**line, end=end))

    @property
    def done(self) -> int:
        """How many pictures have their rows here."""
        return sum(len(batch.pictures) for batch in self.batches)

    @property
    def names(self) -> list[str]:
        """The pictures' names, in the order of the rows."""
        return [name for batch in self.batches for name, _, _ in batch.pictures]

    def rows(self, dtype: Any) -> Any:
        """All rows, as a memory map of their file. There must be some, of one shape."""
        import numpy as np

        return np.memmap(self._rows.name, dtype, "r", shape=(self.done, *self.row_shape))

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row; there must be one."""
        return tuple(self.batches[0].shape[1:])

    def __enter__(self) -> "Partial":
        return self

    def __exit__(self, *_: Any) -> None:
        if self.keep and self.batches:
            count = f"{self.done} of {len(self.pictures)} pictures"
            note(f"{self.folder}: keeps {count}; the same command goes on from there (--restart begins anew)")
        else:
            if sys.platform == "win32":  # where an open file cannot be removed
                self._close()
            with contextlib.suppress(OSError):
                for name in (ROWS, JOURNAL):
                    (self.folder / name).unlink()
                self.folder.rmdir()
        self._close()

    def _open(self) -> None:
        try:
            self.folder.mkdir(exist_ok=True)
            names = {entry.name for entry in self.folder.iterdir()}
            links = any((self.folder / name).is_symlink() or not (self.folder / name).is_file() for name in names)
            if links or names - {JOURNAL, ROWS} or names == {ROWS}:
                raise InputError(f"{self.folder}: is not an unfinished `numpy-vit embed`: move it away, or give another -o")
            self._journal = open(self.folder / JOURNAL, "a+b")
            self._rows = open(self.folder / ROWS, "a+b")
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be written ({error.strerror})") from error

    def _claim(self, restart: bool) -> None:
        """Be the only process that writes here, and write down which run it is, or find that it is the same."""
        if not locked(self._journal):
            raise InputError(f"{self.folder}: another numpy-vit is writing it: wait until it is done, or give another -o")
        self._journal.seek(0)
        line = self._journal.readline(LONGEST_LINE)
        begun = json.dumps({"format": FORMAT})[:-1].encode()
        if line and not line.endswith(b"\n") and (line.startswith(begun) or begun.startswith(line)):
            line = b""  # killed within its first line: nothing is done yet
        if line:
            before = parsed(line)
            if before.get("format") != FORMAT:
                raise InputError(f"{self.folder}: its journal is not one, or damaged: remove it, or give another -o")
            if before.get("model") is None:  # of one batch, killed: nothing to go on from, nor known what it was begun with
                restart = True
            if not restart:
                self._refuse_another(before)
        if restart or not line:
            self._journal.truncate(0)
            self._rows.truncate(0)
            self._append(self._journal, json.dumps(self.run).encode() + b"\n")

    def _refuse_another(self, before: Mapping[str, Any]) -> None:
        run = json.loads(json.dumps(self.run))
        for key in [*run, *before]:
            if before.get(key) != run.get(key):
                what = "another model" if key == "model" else f"{key} {before.get(key)}, not {run.get(key)}"
                raise InputError(
                    f"{self.folder}: was begun with {what}: go on with that, begin anew with --restart, or give another -o"
                )

    def _resume(self) -> tuple[int, dict[Path, str]]:
        """Keep the batches that begin this list of pictures, and drop the others -> position, failed."""
        pictures = self.pictures
        written = list(self._read())
        found = [self._stamps[path] for path in pictures]
        position = 0
        ends = [0]
        known: dict[Stamp, str] = {}
        for batch in written:
            known |= dict(batch.failed)
            after = matched(batch, found, position, known)
            left = os.fstat(self._rows.fileno()).st_size - self._rows.tell()
            if after is None or batch.size > left or zlib.crc32(self._rows.read(batch.size)) != batch.crc:
                break
            self.batches.append(batch)
            ends.append(position := after)
        if self.batches and len(self.batches[-1].pictures) < BATCH and position < len(found):
            self.batches.pop()  # other pictures may now belong to it
            ends.pop()
        kept, lost = self.done, sum(len(batch.pictures) for batch in written) - self.done
        self._cut()
        if lost:
            where = printable(str(pictures[ends[-1]])) if ends[-1] < len(pictures) else "the end"
            note(f"{self.folder}: {lost} pictures are computed again: from {where} on, they are others, or have changed")
        if kept:
            note(f"resuming: {kept} of {len(pictures)} pictures are done")
        done = pictures[: ends[-1]]
        return ends[-1], {path: known[self._stamps[path]] for path in done if self._stamps[path] in known}

    def _read(self) -> Iterator[Batch]:
        """The batches of the journal, as far as it can be read; the rows stand at their beginning."""
        self._rows.seek(0)
        self._journal.seek(0)
        self._header = end = len(self._journal.readline(LONGEST_LINE))
        shape = None
        while line := self._journal.readline(LONGEST_LINE):
            end += len(line)
            batch = batch_of(parsed(line), end)
            if batch is None or shape not in (None, batch.shape[1:]):  # torn
                return
            shape = batch.shape[1:]
            yield batch

    def _cut(self) -> None:
        """Drop what does not belong to the batches that are kept."""
        self._journal.truncate(self.batches[-1].end if self.batches else self._header)
        self._rows.truncate(sum(batch.size for batch in self.batches))

    def _append(self, file: BinaryIO, data: bytes) -> int:
        """Write at the end of a file (that is how they are opened) -> where the file ends now."""
        try:
            file.write(data)
            file.flush()
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be written ({error.strerror})") from error
        return file.seek(0, os.SEEK_END)

    def _close(self) -> None:
        for file in (self._rows, self._journal):
            with contextlib.suppress(OSError):  # a full disk, which has been said
                file.close()


def folder_of(target: str) -> Path:
    """Where an unfinished `embed` of this target is kept: FILE.partial; where that is too long a name, a short one."""
    path, name = Path(target), os.fsencode(Path(target).name)
    if len(name) + len(b".partial") <= LONGEST_NAME:
        return Path(f"{target}.partial")
    return path.with_name(f"{path.name[:40]}-{zlib.crc32(name):08x}.partial")


def stamp(path: Path) -> Stamp:
    """What is taken for the same picture."""
    try:
        status = os.stat(path)
    except OSError:  # said when it is read
        return str(path), -1, 0
    return str(path), status.st_size, status.st_mtime_ns


def batch_of(line: Mapping[str, Any], end: int) -> Batch | None:
    """A batch from its line of the journal; None where the line is not one that `add` has written."""
    pictures, failed, shape = (line.get(key) for key in ("pictures", "failed", "shape"))
    if not (isinstance(pictures, list) and isinstance(failed, list) and isinstance(shape, list) and shape):
        return None
    stamps = [stamp_of(entry) for entry in pictures]
    losses = [(stamp_of(entry[0]), entry[1]) for entry in failed if isinstance(entry, list) and len(entry) == 2]
    numbers = (line.get("size"), line.get("crc"), *shape)
    if len(losses) < len(failed) or not all(type(number) is int and number >= 0 for number in numbers):
        return None
    size, crc, count, *_ = numbers
    if count != len(stamps) or size not in (4 * math.prod(shape), 8 * math.prod(shape)):
        return None
    if None in stamps or any(of is None or not isinstance(text, str) for of, text in losses):
        return None
    return Batch(stamps, losses, shape, size, crc, end)  # type: ignore[arg-type]


def stamp_of(entry: Any) -> Stamp | None:
    """A stamp from the journal; None where it is none."""
    if not isinstance(entry, list) or [type(part) for part in entry] != [str, int, int]:
        return None
    name, size, changed = entry
    return name, size, changed


def matched(batch: Batch, found: Sequence[Stamp], position: int, failed: Mapping[Stamp, str]) -> int | None:
    """Where in the list of pictures found a batch ends that begins at `position`; None where they are others.

    Pictures that could not be read are in no batch: it is no difference if they have gone.
    """
    for picture in batch.pictures:
        while position < len(found) and found[position] in failed:
            position += 1
        if position == len(found) or found[position] != picture:
            return None
        position += 1
    return position


def parsed(line: bytes) -> dict[str, Any]:
    """A line of the journal; nothing where it is not whole."""
    try:
        found: dict[str, Any] = parse_json(line, halves=True) if line.endswith(b"\n") else {}
    except InputError:
        found = {}
    return found


def locked(file: BinaryIO) -> bool:
    """Take the file for this process until it is closed, or ends, however it ends. False where another has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(1 << 40)  # a byte that is never written
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks: better without than not at all
        return True
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(file.name))
    except FileNotFoundError:  # its last owner has just removed it
        return False


def fingerprint(model: Any) -> str:
    """SHA-256 of a model as it is: its config, its preprocessing, its weights' bytes.

    (A golden's weights_sha256 is of the float64 values, which takes twice the time.)
    """
    import hashlib

    import numpy as np

    digest = hashlib.sha256(repr((model.config, model.preprocess_policy)).encode())
    for name in sorted(model.tensors):
        digest.update(f"{name} {model.tensors[name].dtype}".encode())
        digest.update(np.ascontiguousarray(model.tensors[name]).view(np.ndarray).data)
    return digest.hexdigest()
