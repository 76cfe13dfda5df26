"""A model run over the pictures that a command names: read ahead, in batches."""

import argparse
import collections
import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arithmetic.threads import usable_cpus
from ..errors import InputError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from PIL.Image import Image

    from ..vit import ViT

from .common import BATCH, Progress, complain
from .models import open_weights

READERS = min(4, usable_cpus())  # threads that read pictures
AHEAD = BATCH  # how many pictures at most are read before they are asked for


class Runner:
    """A model as the options describe it, and its pixels and outputs for pictures."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        checkpoint = open_weights(arguments.weights, arguments.preprocessor, arguments.size)
        if checkpoint.preprocess is None:
            raise InputError(
                f"{arguments.weights}: does not say how pictures are prepared: give a preprocessor_config.json (--preprocessor)"
            )
        self.name, self.strict, self.resize = arguments.weights, arguments.strict, arguments.size is not None
        self.model: ViT = checkpoint.model(arguments.dtype)

    def __call__(self, pixels: Any, record: Any = None) -> Any:
        """The model's outputs, with the steps to `record`. Raises InputError where they are no numbers."""
        from ..models.embedder import outputs

        return outputs(self.model, pixels, name=self.name, record=record, strict=self.strict, resize_positions=self.resize)

    def look(self, picture: str) -> "tuple[Image, Any]":
        """A picture file as the model sees it, before its numbers are normalised, and its pixels (1, C, Y, X)."""
        import numpy as np
        from PIL import Image

        from ..pictures.images import Preprocess

        policy = self.model.preprocess_policy
        assert isinstance(policy, Preprocess)
        values = policy.resize_and_crop(picture)
        shown = np.rint(np.clip(values, 0, 255)).astype(np.uint8)  # it may be floats
        image = Image.fromarray(shown[..., 0] if shown.shape[2] == 1 else shown)
        return image, policy.normalize(values)[None].astype(self.model.dtype)

    def batches(
        self, paths: Sequence[Path], failed: dict[Path, str], done: int = 0, stop: bool = False
    ) -> Generator[tuple[list[Path], Any], None, None]:
        """Yields (paths, pixels) of the next BATCH pictures that can be read, while those after them are being read.

        The others go to stderr and into `failed`, or, with `stop`, the first raises. A batch is of one size, so it is
        smaller where the next picture has another one and the model's preprocessing does not resize. `done` others were
        done before, of which those already in `failed` could not be read.
        """
        import numpy as np

        progress = Progress(done + len(paths), done)
        computed = done - len(failed)
        try:
            with contextlib.closing(self._readable(paths, failed, stop, progress)) as readable:
                for good, pixels in in_batches(readable):
                    yield good, np.concatenate(pixels)
                    computed += len(good)
                    progress.show(computed + len(failed))
        finally:
            progress.clear()

    def _readable(
        self, paths: Sequence[Path], failed: dict[Path, str], stop: bool, progress: "Progress"
    ) -> Generator[tuple[Path, Any], None, None]:
        """Yields (path, pixels (1, C, Y, X)) for the pictures that can be read."""
        with contextlib.closing(read_ahead(self.model.preprocess, paths)) as reading:
            for path, picture in reading:
                try:
                    pixels = picture.result()
                except InputError as error:
                    if stop:
                        raise
                    failed[path] = str(error)
                    progress.clear()
                    complain(str(error))
                else:
                    yield path, pixels


def in_batches(pictures: Iterable[tuple[Path, Any]]) -> Iterator[tuple[list[Path], list[Any]]]:
    """Yields paths and pixels of BATCH pictures each; of fewer before a picture of another size, and at the end."""
    paths: list[Path] = []
    several: list[Any] = []
    for path, pixels in pictures:
        if several and pixels.shape != several[0].shape:
            yield paths, several
            paths, several = [], []
        paths.append(path)
        several.append(pixels)
        if len(paths) == BATCH:
            yield paths, several
            paths, several = [], []
    if paths:
        yield paths, several


def read_ahead(read: Callable[[Path], Any], paths: Iterable[Path]) -> Generator[tuple[Path, "Future[Any]"], None, None]:
    """Yields each path with its `read(path)` as a future, in order; threads are at work on the AHEAD paths after it.

    Close it when done with it: pictures that nobody waits for are then not read any more.
    """
    from concurrent.futures import ThreadPoolExecutor

    pending: collections.deque[tuple[Path, Future[Any]]] = collections.deque()
    with ThreadPoolExecutor(READERS, "read") as pool:
        try:
            for path in paths:
                pending.append((path, pool.submit(read, path)))
                if len(pending) > AHEAD:
                    yield pending.popleft()
            while pending:
                yield pending.popleft()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def pictures(places: Sequence[str]) -> list[Path]:
    """The picture files named, and those in the folders named, in order. Raises InputError where there is none."""
    from ..pictures.images import SUFFIXES

    found = []
    for place in places:
        if not place:
            raise InputError("an empty name is no picture")
        path = Path(place)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            if not inside:
                raise InputError(f"{place}: no picture in this folder")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise InputError(f"{place}: no such file or folder")
    return found
