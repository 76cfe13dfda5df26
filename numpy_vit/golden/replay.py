"""The forward pass again, step by step, from a port's own inputs (teacher forcing).

Each step is computed by the model's own functions, is heard, and is then replaced by what the port has for it, so that the
next step starts from the port's numbers: accumulated error is told from a fresh mistake.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ..model import ViT, forward
from ..steps import Step

Array = Any
Hear = Callable[[str, Array], None]


class ReplayStep(Step):
    """Checks a step as always, lets it be heard, and hands on the given array in its place, where there is one."""

    whole = True

    def __init__(self, sizes: Mapping[str, int], dtype: Any, given: Mapping[str, Array], hear: Hear) -> None:
        super().__init__(sizes, dtype)
        self.given = given
        self.hear = hear

    def __call__(self, name: str, array: Array, dims: str) -> Array:
        name, array = self.path + name, super().__call__(name, array, dims)
        self.hear(name, array)
        given = self.given.get(name)
        return array if given is None else given.view(type(array))


def replay(model: ViT, pixels: Array, given: Mapping[str, Array], hear: Hear) -> None:
    """Run the model; hear(name, array) gets every step as computed from the given arrays before it.

    pixels (B, C, Y, X) and the given arrays are of the model's dtype.
    """
    sizes = model.config.sizes_of_run(len(pixels), pixels.shape[2:])
    step = ReplayStep(sizes, model.dtype, given, hear)
    forward(pixels.view(model.array_type), model.weights, model.config, step)
