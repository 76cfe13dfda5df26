"""A user's program that is held to the types of the public surface: `mypy --strict` must accept it, in `.ci/run`.

A line with `type: ignore` is one that must be refused: where it is not, mypy calls the comment unused.
"""

from pathlib import Path
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt
from PIL import Image

import numpy_vit
from numpy_vit import Embedder, InputError, NumpyVitError, Preprocess, ViT, ViTConfig

Array = npt.NDArray[Any]

numpy_vit.laod()  # type: ignore[attr-defined]
numpy_vit.load("digits", "float64")  # type: ignore[call-arg]
numpy_vit.load(3)  # type: ignore[arg-type]
Embedder("digits", what=3)  # type: ignore[arg-type]
Embedder("digits", image=64)  # type: ignore[call-arg]


def vectors(pictures: list[Path]) -> Array:
    """Pictures -> (B, D)."""
    try:
        embed = Embedder("digits", what="last_hidden_state", size=(64, 96))
        assert_type(embed.model, ViT)
        return embed(pictures)
    except InputError as error:
        known: NumpyVitError = error
        raise SystemExit(str(known)) from error


def by_hand(picture: Path) -> None:
    model = numpy_vit.load("digits", dtype="float64")
    assert_type(model, ViT)
    assert_type(model.config, ViTConfig)
    policy = model.preprocess_policy
    assert isinstance(policy, Preprocess)
    assert_type(policy.at_image_size((64, 64)), Preprocess)
    for batch in (picture, str(picture), Image.open(picture), np.zeros((8, 8, 3), np.uint8), [picture, picture]):
        assert_type(policy(batch), Array)
    assert_type(numpy_vit.random_model("ViT-B/16", seed=1), ViT)
