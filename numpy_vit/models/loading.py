"""`load`: whatever names a model, as a model."""

import os
import warnings

import numpy.typing as npt

from ..arithmetic.precision import precision
from ..config import DIGITS
from ..convert.preprocessing import policy, read_preprocessor
from ..convert.sources import Source, open_source
from ..files.converted import FORMAT, Checkpoint, read_converted
from ..vit import ViT


def load(
    source: str | os.PathLike[str] = DIGITS,
    *,
    dtype: npt.DTypeLike = "float32",
    preprocessor: str | os.PathLike[str] | None = None,
) -> ViT:
    """A model, ready to run.

    source        a converted file; a Hugging Face folder or .safetensors file with its config.json beside it; a file of any
                  family that says all of itself (docs/families.md; `numpy-vit convert` takes what others leave out); a hub name
                  ("google/vit-base-patch16-224"), from the local cache or fetched; or "digits", the shipped model
                  (a folder of that name is "./digits")
    dtype         "float32" (fast), "float64" (accurate), or "portable" (float64, the same bits on every machine)
    preprocessor  a preprocessor_config.json, for a source that has none, or to use another; or the name of a published way
                  (numpy_vit.convert.preprocessing.POLICIES)

    Raises InputError, one line. What a foreign source leaves unsaid comes as a warning.
    """
    precision(dtype)  # a wrong one is said before a large file is read
    checkpoint = open_checkpoint(source, preprocessor=preprocessor)
    if checkpoint.notes:
        warnings.warn(f"{source}: {'; '.join(checkpoint.notes)}", stacklevel=2)
    return checkpoint.model(dtype)


def open_checkpoint(
    source: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | None = None,
    preprocessor: str | os.PathLike[str] | None = None,
) -> Checkpoint:
    """As `load`, without making the model: config, tensors, labels and the rest as data."""
    return checkpoint_of(open_source(source, config, preprocessor), preprocessor_given=preprocessor is not None)


def checkpoint_of(opened: Source, *, preprocessor_given: bool = False) -> Checkpoint:
    """The same of a source that is open already. A converted file says itself how pictures are prepared, unless it is given."""
    if opened.metadata.get("format") == FORMAT:
        checkpoint = read_converted(opened.files[0])
        if opened.preprocessor is not None and preprocessor_given:
            checkpoint.preprocess = read_preprocessor(opened.preprocessor, checkpoint.config.channels, checkpoint.notes)
        if opened.policy is not None:
            checkpoint.preprocess = policy(opened.policy, checkpoint.config.image, checkpoint.config.channels)
        return checkpoint
    from ..convert import convert_source  # which loads every family's module

    return convert_source(opened)
