"""`Embedder`: pictures -> vectors, a batch at a time, in whichever process it is called."""

import dataclasses
import functools
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import DIGITS
from ..errors import InputError

if TYPE_CHECKING:
    from ..model import ViT

Array = Any
OUTPUTS = {  # what may be asked for -> its name in ViTOutput
    "pooled": "pooled",
    "projected": "image_embedding",
    "pooler": "pooler_output",
    "tokens": "last_hidden_state",
    "logits": "logits",
}
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
    what          "pooled" (before the head), "projected" (CLIP's shared space), "pooler" (tanh), "logits", or "tokens"
    image         run at another image size, (Y, X) or one number; positions are resized
    preprocessor  as for `numpy_vit.load`

    Calling it takes a list of pictures (paths, PIL images, uint8 arrays), or pixels (B, C, Y, X) that are floats, and gives
    (B, D) in the model's dtype; (B, N, D) of tokens. Pickled, it is the place of the weights and these options, some
    hundred bytes. The model is loaded at the first call, once in a process, however many copies of the Embedder there are;
    float32 weights stay in the file's memory map, which all processes of a machine share.

    A file or folder is kept by its absolute path. An Embedder of a loaded model works where it is and cannot be pickled.
    Raises InputError, here for options that make no sense, at the call for weights or pictures that cannot be used.
    """

    weights: "str | os.PathLike[str] | ViT" = DIGITS
    dtype: str | None = None
    what: str = "pooled"
    image: tuple[int, int] | int | None = None
    preprocessor: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if self.what not in OUTPUTS:
            raise InputError(f"what is {self.what!r}: choose one of {', '.join(OUTPUTS)}")
        if self.image is not None:
            size = (self.image, self.image) if isinstance(self.image, int) else tuple(self.image)
            if len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
                raise InputError(f"image is {self.image!r}: give (height, width)")
            object.__setattr__(self, "image", size)
        if isinstance(self.weights, str | os.PathLike):
            object.__setattr__(self, "weights", place(self.weights))
            object.__setattr__(self, "dtype", self.dtype or "float32")
            if self.preprocessor is not None:
                object.__setattr__(self, "preprocessor", place(self.preprocessor))
            if self.dtype not in ("float32", "float64", "portable"):
                raise InputError(f"dtype {self.dtype!r}: a model runs in float32 or float64, or portable")
        elif not hasattr(self.weights, "preprocess_policy"):
            raise InputError(f"{self.weights!r} is no model: give a file, a folder, a hub name, or what numpy_vit.load gave")
        elif self.dtype is not None or self.preprocessor is not None:
            raise InputError("a loaded model has its dtype and preprocessing: leave those options out, or give its file")

    def __call__(self, batch: Any) -> Array:
        """A list of pictures, or pixels (B, C, Y, X) -> (B, D)."""
        import numpy as np

        model = self.model
        with np.errstate(all="ignore"):
            out = model(self.pixels(model, batch), resize_positions=self.image is not None)
        vectors = getattr(out, OUTPUTS[self.what])
        if vectors is None:
            raise InputError(f"{self._name}: this model has no {self.what}: ask for something else")
        check_finite(self._name, vectors)
        return vectors if vectors.flags.owndata else vectors.copy()  # a view would keep all tokens in memory

    @property
    def model(self) -> "ViT":
        """The model, from this process's cache, or loaded now."""
        if not isinstance(self.weights, str):
            return self.weights  # type: ignore[return-value]
        with _loading:
            return loaded(self.weights, self.dtype, self.preprocessor)  # type: ignore[arg-type]

    def pixels(self, model: "ViT", batch: Any) -> Array:
        """The batch as this model wants it: (B, C, Y, X)."""
        import numpy as np

        from ..pictures.images import Preprocess

        if isinstance(batch, np.ndarray) and batch.dtype.kind == "f":
            return batch
        policy = model.preprocess_policy
        if self.image is None or policy is None:  # the model then says what is missing
            return model.preprocess(batch)
        if not isinstance(policy, Preprocess):
            raise InputError("image: this model prepares its pictures in a way of its own, at one size: leave it out")
        return policy.for_image(self.image)(batch, model.dtype)  # type: ignore[arg-type]

    def __getstate__(self) -> dict[str, Any]:
        if not isinstance(self.weights, str):
            raise InputError("an Embedder of a loaded model cannot be pickled: make it from the model's file")
        return dict(self.__dict__)

    @property
    def _name(self) -> str:
        return self.weights if isinstance(self.weights, str) else "the model"


def place(name: str | os.PathLike[str]) -> str:
    """A name that means the same in a process with another working folder: of what exists, the absolute path."""
    return str(name) if name == DIGITS or not Path(name).exists() else str(Path(name).absolute())


def check_finite(name: str, array: Array) -> None:
    """Raise InputError for what a model gave, where it is no numbers."""
    import numpy as np

    if not np.isfinite(array).all():
        raise InputError(f"{name}: gives NaN or infinite numbers: its weights or its preprocessing are damaged")


@functools.lru_cache(maxsize=4)
def loaded(weights: str, dtype: Any, preprocessor: Any) -> "ViT":
    """`load`, remembered: the models this process used last."""
    from .loading import load

    return load(weights, dtype, preprocessor)
