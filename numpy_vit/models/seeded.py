"""Models with seeded weights, for benchmarks, goldens and notebooks: the same numbers on every machine.

The generator is SplitMix64 (Steele, Lea, Flood 2014) used as a hash: number i of a tensor is hash(key + i), where the key
hashes the seed and the tensor's name (FNV-1a). No order, no state: any port can make any number by itself. Only the upper
21 bits are used, so that every value, 1 + x / 8 too, is the same in float32 and float64.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from ..arithmetic.precision import precision
from ..config import ViTConfig, config_given
from ..errors import check_kind
from ..parameters import parameter_shapes
from ..vit import ViT

Array = npt.NDArray[Any]
GOLDEN = 0x9E3779B97F4A7C15
MASK = 0xFFFFFFFFFFFFFFFF


def splitmix64(z: Array) -> Array:
    """The mixing function of SplitMix64. uint64 any shape -> the same."""
    z = z + np.uint64(GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def key(seed: int, name: str) -> int:
    """The start of a tensor's stream: FNV-1a over the name, mixed with the seed."""
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = ((value ^ byte) * 0x100000001B3) & MASK
    return int(splitmix64(np.array([(value ^ seed) & MASK], np.uint64))[0])


def uniform(seed: int, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike = "float32") -> Array:
    """Numbers in -1 <= x < 1, multiples of 2**-20, equal in float32 and float64."""
    out = np.empty(int(np.prod(shape)), dtype)
    start = key(seed, name)
    tile = 1 << 16  # stays in the cache
    for i in range(0, out.size, tile):
        index = np.arange(i, min(i + tile, out.size), dtype=np.uint64)
        bits = splitmix64(np.uint64(start) + index * np.uint64(GOLDEN)) >> np.uint64(43)
        out[i : i + tile] = (bits.astype(np.int64) - (1 << 20)) * 2.0**-20
    return out.reshape(shape)


def random_model(model: str | ViTConfig, seed: int = 0, dtype: npt.DTypeLike = "float32") -> ViT:
    """A variant's name or a config -> a model with seeded weights of sensible size; nothing is zero or one.

    Linear weights are uniform in +-2**-4, biases in +-2**-6, norm scales in 1 +-2**-3, positions and the class
    token in +-2**-3; bounds keep in a part of the numbers. All are powers of two, so the numbers stay exact.
    """
    config = config_given(model)
    check_kind("seed", seed, int, "a whole number")
    dtype, kind = precision(dtype)
    tensors: dict[str, Array] = {}
    for name, shape in parameter_shapes(config).items():
        values = uniform(seed, name, shape, dtype)
        if "norm" in name and name.endswith("weight"):
            values *= 2.0**-3
            values += 1
        elif name.endswith("bounds"):
            values = (abs(values) + 1) * np.array([-0.5, 0.5, -(2.0**-5), 2.0**-5], dtype)
        elif name.endswith("bias"):
            values *= 2.0**-6
        else:
            values *= 2.0**-4 if name.endswith("weight") else 2.0**-3
        tensors[name] = values.view(kind)
    return ViT(config, tensors, source={"family": "random", "seed": seed})
