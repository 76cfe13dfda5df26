"""What an unfinished `embed` has done: the folder FILE.partial, from which the same command goes on.

    journal   a JSON line that says which run it is, then one for each batch (`Batch`)
    rows      the rows of all batches, one after another, as they will lie in the result

Rows are written before their line, and a line is believed only where the rows agree with its CRC-32: whether the run was
interrupted, killed or lost its power, what can be believed is a row of whole batches from the first picture on. Batches are
kept whole, since in another batch a picture's vector may differ in its last bit; they are kept up to the first picture that
is not the same as then, by name, size and time of change. So the result is, bit by bit, that of a run in one go.
"""

import contextlib
import json
import os
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from .. import __version__
from ..errors import InputError
from .common import BATCH, note, printable

FORMAT = "numpy-vit embed 2"
JOURNAL, ROWS = "journal", "rows"


class Batch(NamedTuple):
    """A line of the journal. Pictures are given by their stamps."""

    pictures: list[str]
    failed: dict[str, str]  # that could not be read since the batch before, and why
    shape: list[int]  # of the rows
    size: int  # of the rows, in bytes
    crc: int


class Partial:
    """The folder FILE.partial, held by one process at a time, and the batches in it that begin this list of pictures.

    folder    where it is (`folder_of` the target)
    run       what the numbers depend on: model, precision, options
    pictures  all that are to be done, in order
    restart   begin anew, whatever is there

    batches   those that are done
    failed    the pictures that cannot be read, and why; whoever finds another puts it in
    rest      the pictures that are yet to be done
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
        self._logged = 0  # how many of `failed` are in the journal
        self._open()
        try:
            self._resume(self._claim(restart))
        except BaseException:
            self._close()
            raise

    def add(self, pictures: Sequence[Path], rows: Any) -> None:
        """A batch is done: its pictures and their rows."""
        data = rows.tobytes()
        failed = {self._stamps[path]: why for path, why in list(self.failed.items())[self._logged :]}
        batch = Batch([self._stamps[path] for path in pictures], failed, rows.shape, len(data), zlib.crc32(data))
        self._append(self._rows, data)
        self._append(self._journal, as_line(batch._asdict()))
        self.batches.append(batch)
        self._logged = len(self.failed)

    @property
    def done(self) -> int:
        """How many pictures have their rows here."""
        return sum(len(batch.pictures) for batch in self.batches)

    @property
    def names(self) -> list[str]:
        """The pictures' names, in the order of the rows."""
        return [text.split(" ", 2)[2] for batch in self.batches for text in batch.pictures]

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
            others = {entry.name for entry in self.folder.iterdir()} - {JOURNAL}
            if others - {ROWS} or (others and not (self.folder / JOURNAL).is_file()):
                raise InputError(f"{self.folder}: is not an unfinished `numpy-vit embed`: move it away, or give another -o")
            self._journal = open(self.folder / JOURNAL, "a+b")
            self._rows = open(self.folder / ROWS, "a+b")
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be written ({error.strerror})") from error

    def _claim(self, restart: bool) -> list[bytes]:
        """Be the only process that writes here, in a journal of this run -> its lines."""
        if not locked(self._journal):
            raise InputError(f"{self.folder}: another numpy-vit is writing it: wait until it is done, or give another -o")
        self._journal.seek(0)
        lines = self._journal.readlines()
        before = parsed(lines[0]) if lines else {}
        if lines and before.get("format") != FORMAT:
            raise InputError(f"{self.folder}: its journal is not one, or damaged: remove it, or give another -o")
        first = as_line(self.run)
        if restart or not lines:
            self._journal.truncate(0)
            self._append(self._journal, first)
            return [first]
        run = parsed(first)  # as it looks when it comes out of a journal
        for key in [*run, *before]:
            if before.get(key) != run.get(key):
                what = "another model" if key == "model" else f"{key} {before.get(key)}, not {run.get(key)}"
                raise InputError(
                    f"{self.folder}: was begun with {what}: go on with that, begin anew with --restart, or give another -o"
                )
        return lines

    def _resume(self, lines: Sequence[bytes]) -> None:
        """Keep the batches that begin this list of pictures, and drop the others."""
        written = list(whole_batches(lines[1:]))
        known = {text: why for batch in written for text, why in batch.failed.items()}
        self.failed = {path: known[text] for path, text in self._stamps.items() if text in known}
        todo = [path for path in self.pictures if path not in self.failed]
        stamps = [self._stamps[path] for path in todo]
        done = 0
        self._rows.seek(0)
        for batch in written:
            end = done + len(batch.pictures)
            if stamps[done:end] != batch.pictures or zlib.crc32(self._rows.read(batch.size)) != batch.crc:
                break
            self.batches.append(batch)
            done = end
        if self.batches and len(self.batches[-1].pictures) < BATCH and done < len(todo):
            self.batches.pop()  # other pictures may now belong to it
            done = self.done
        self.rest = todo[done:]
        self._journal.truncate(sum(map(len, lines[: 1 + len(self.batches)])))
        self._rows.truncate(sum(batch.size for batch in self.batches))
        lost = sum(len(batch.pictures) for batch in written) - done
        if lost:
            where = printable(str(self.rest[0])) if self.rest else "the end"
            note(f"{self.folder}: {lost} pictures are computed again: from {where} on, they are others, or have changed")
        if done:
            note(f"resuming: {done} of {len(self.pictures)} pictures are done")

    def _append(self, file: BinaryIO, data: bytes) -> None:
        """Write at the end of a file: that is how they are opened."""
        try:
            file.write(data)
            file.flush()
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be written ({error.strerror})") from error

    def _close(self) -> None:
        for file in (self._rows, self._journal):
            with contextlib.suppress(OSError):  # a full disk, which has been said
                file.close()


def folder_of(target: str) -> Path:
    """Where an unfinished `embed` of this target is kept."""
    return Path(f"{target}.partial")


def stamp(path: Path) -> str:
    """What is taken for the same picture: its size, its time of change, its name."""
    try:
        status = os.stat(path)
    except OSError:  # said when it is read
        return f"-1 0 {path}"
    return f"{status.st_size} {status.st_mtime_ns} {path}"


def as_line(content: Mapping[str, Any]) -> bytes:
    """A line of the journal."""
    return json.dumps(content).encode() + b"\n"


def parsed(line: bytes) -> dict[str, Any]:
    """What a line of the journal says; nothing where it is not whole."""
    try:
        content = json.loads(line) if line.endswith(b"\n") else {}
    except ValueError:
        content = {}
    return content if isinstance(content, dict) else {}


def whole_batches(lines: Sequence[bytes]) -> Iterator[Batch]:
    """The batches that a journal holds, up to the first line that is torn."""
    for line in lines:
        content = parsed(line)
        if content.keys() != {*Batch._fields}:
            return
        yield Batch(**content)


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
