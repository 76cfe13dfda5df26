"""What a page that computes carries beside the recorded run: the weights, and what vit.js must know of the model.

Only the paper's model is computed in the page (any size, with any of the activations), and only where it fits: the page
stays below 5 MB. Weights are float32, so that every step is within float32's noise of ours; half of that would not be.
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..config import ViTConfig
from ..families import uses
from ..parameters import parameter_shapes
from ..pictures.images import Preprocess

Array = Any
MAX_CHARACTERS = 4_700_000  # of a page's weights and recorded attention; the rest of it has some 200,000
PREPARED = ("channels", "resize", "size", "resample", "crop", "crop_rounding", "scale", "mean", "std")  # of a Preprocess
FIELDS = ("image", "patch", "channels", "width", "depth", "heads", "mlp", "classes", "eps", "activation")
RESIZES, RESAMPLES = ("squash", "shortest_edge"), ("bilinear", "bicubic")  # that vit.js has


class Sample(NamedTuple):
    """A picture to choose on the page: its name, and the picture as the model sees it before its numbers are normalised."""

    name: str
    seen: Image.Image


def is_plain(config: ViTConfig) -> bool:
    """Whether this is the paper's model, whatever its activation: what vit.js computes."""
    return not uses(config.replace(activation="gelu")) and config.classes > 1


def computes(model: Any, size: Sequence[int], *, beside: int = 0) -> bool:
    """Whether the page of this model, for pictures of this size (Y, X), computes; else it shows the recorded run.

    beside   how many characters the page has already
    """
    policy, config = model.preprocess_policy, model.config
    numbers = sum(int(np.prod(shape)) for shape in parameter_shapes(config).values())
    return (
        is_plain(config)
        and 4 * numbers * 4 / 3 + beside <= MAX_CHARACTERS
        and tuple(size) == config.image
        and isinstance(policy, Preprocess)
        and policy.sizing is None
        and (policy.resize in RESIZES and policy.resample in RESAMPLES)
    )


def live_facts(model: Any, samples: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """What vit.js must know: the config, the weights' shapes in their order, the labels, how pictures are prepared."""
    config, policy = model.config, model.preprocess_policy
    return {
        "config": {field: getattr(config, field) for field in FIELDS},
        "shapes": parameter_shapes(config),
        "labels": model.labels or [str(n) for n in range(config.classes)],
        "preprocess": {field: getattr(policy, field) for field in PREPARED},
        "samples": samples,
    }


def packed_weights(model: Any) -> str:
    """All weights as float32, little-endian, tensor after tensor in the order of `parameter_shapes`, in base64."""
    tensors = (np.asarray(model.tensors[name]).astype("<f4") for name in parameter_shapes(model.config))
    return base64.b64encode(b"".join(tensor.tobytes() for tensor in tensors)).decode("ascii")
