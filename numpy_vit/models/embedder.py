"""`Embedder`: pictures -> vectors, a batch at a time, in whichever process it is called."""

import dataclasses
import functools
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import DIGITS
from ..errors import InputError, check_known, in_words

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ..pictures.images import Picture
    from ..vit import ViT, ViTOutput

OUTPUTS = ("pooled", "image_embedding", "pooler_output", "last_hidden_state", "logits", "image_tokens")  # what may be asked for
_loading = threading.Lock()


def _after_fork() -> None:
    """In a child: a thread that was loading a model is not there to give its lock back."""
    global _loading
    _loading = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@dataclasses.dataclass(frozen=True)
class Embedder:
    """A function from a batch of pictures to their vectors, small enough to be sent to other processes.

    weights       as for `numpy_vit.load`: a file, a folder, a hub name, "digits"; or a model that is loaded already
    dtype         "float32" (where nothing is said), "float64" or "portable"
    what          the output of the model (ViTOutput): "pooled" (before the head), "image_embedding" (CLIP's space shared with
                  texts), "pooler_output" (tanh), "last_hidden_state" (all tokens) or "logits"
    size          run at another image size, (Y, X) or one number; positions are resized
    preprocessor  as for `numpy_vit.load`

    Calling it takes a list of pictures (paths, PIL images, uint8 arrays), or pixels (B, C, Y, X) that are floats, and gives
    (B, D) in the model's dtype; (B, N, D) of all tokens. Pickled, it is the place of the weights and these options, some
    hundred bytes. The model is loaded at the first call, once in a process, however many copies of the Embedder there are;
    float32 weights stay in the file's memory map, which all processes of a machine share.

    A file or folder is kept by its absolute path. An Embedder of a loaded model works where it is and cannot be pickled.
    Raises InputError, here for options that make no sense, at the call for weights or pictures that cannot be used.
    """

    weights: "str | os.PathLike[str] | ViT" = DIGITS
    _: dataclasses.KW_ONLY
    dtype: str | None = None
    what: str = "pooled"
    size: tuple[int, int] | int | None = None
    preprocessor: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        check_known("what", self.what, OUTPUTS)
        if self.size is not None:
            size: Any = (self.size, self.size) if isinstance(self.size, int) else self.size
            pair = isinstance(size, tuple | list) and len(size) == 2
            if not pair or not all(type(side) is int and side > 0 for side in size):
                raise InputError(f"size is {in_words(self.size)}: give (height, width), or one number")
            object.__setattr__(self, "size", tuple(size))
        if isinstance(self.weights, str | os.PathLike):
            from ..arithmetic.precision import precision

            object.__setattr__(self, "weights", absolute(self.weights))
            object.__setattr__(self, "dtype", self.dtype or "float32")
            if self.preprocessor is not None:
                object.__setattr__(self, "preprocessor", absolute(self.preprocessor))
            precision(self.dtype)  # a wrong one is said here
        elif not hasattr(self.weights, "preprocess_policy"):
            raise InputError(
                f"weights are {in_words(self.weights)}: give a file, a folder, a hub name, or a model from numpy_vit.load"
            )
        elif self.dtype is not None or self.preprocessor is not None:
            raise InputError("a loaded model has its dtype and preprocessing: leave those options out, or give its file")

    def __call__(self, batch: "Picture | Iterable[Picture] | npt.NDArray[np.floating[Any]]") -> "npt.NDArray[Any]":
        """A list of pictures, or pixels (B, C, Y, X) -> (B, D)."""
        name = self.weights if isinstance(self.weights, str) else "the model"
        out = outputs(self.model, self.pixels(batch), name=name, resize_positions=self.size is not None)
        vectors: npt.NDArray[Any] | None = getattr(out, self.what)
        if vectors is None:
            raise InputError(f"{name}: this model has no {self.what}: ask for something else")
        return vectors if vectors.flags.owndata else vectors.copy()  # a view would keep all tokens in memory

    @property
    def model(self) -> "ViT":
        """The model, from this process's cache, or loaded now."""
        if not isinstance(self.weights, str):
            return self.weights  # type: ignore[return-value]
        with _loading:
            return loaded(self.weights, self.dtype, self.preprocessor)  # type: ignore[arg-type]

    def pixels(self, batch: "Picture | Iterable[Picture] | npt.NDArray[np.floating[Any]]") -> "npt.NDArray[Any]":
        """The batch as the model wants it: (B, C, Y, X)."""
        import numpy as np

        from ..pictures.images import Preprocess

        if isinstance(batch, np.ndarray) and batch.dtype.kind == "f":
            return batch
        model = self.model
        policy = model.preprocess_policy
        if self.size is None or policy is None:  # the model then says what is missing
            pixels: npt.NDArray[Any] = model.preprocess(batch)
            return pixels
        if not isinstance(policy, Preprocess):
            raise InputError("size: this model prepares its pictures in a way of its own, at one size: leave it out")
        return policy.at_image_size(self.size)(batch, model.dtype)  # type: ignore[arg-type]

    def __getstate__(self) -> dict[str, Any]:
        if not isinstance(self.weights, str):
            raise InputError("an Embedder of a loaded model cannot be pickled: make it from the model's file")
        return dict(self.__dict__)


def outputs(
    model: "ViT",
    pixels: "npt.NDArray[Any]",
    *,
    name: str,
    record: Any = None,
    strict: bool = False,
    resize_positions: bool = False,
) -> "ViTOutput":
    """`model(pixels, ...)`, held to be numbers. Raises InputError, which begins with `name`, where an output is none."""
    import numpy as np

    with np.errstate(all="ignore"):
        out = model(pixels, record=record, strict=strict, resize_positions=resize_positions)
    for what in OUTPUTS:
        array = getattr(out, what)
        if array is not None and not np.isfinite(array).all():
            raise InputError(f"{name}: gives NaN or infinite numbers: its weights or its preprocessing are damaged")
    return out


def absolute(name: str | os.PathLike[str]) -> str:
    """A name that means the same in a process with another working folder: of what exists, the absolute path."""
    return str(name) if name == DIGITS or not Path(name).exists() else str(Path(name).absolute())


@functools.lru_cache(maxsize=4)
def loaded(weights: str, dtype: str, preprocessor: str | None) -> "ViT":
    """`load`, remembered: the models this process used last."""
    from .loading import load

    return load(weights, dtype=dtype, preprocessor=preprocessor)
