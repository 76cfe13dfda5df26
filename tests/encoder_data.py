"""Foreign encoders as stored by make_encoder_arrays.py: what a case holds, how its weights are filled, what is kept of outputs.

A case is config.json as upstream saves it (and another such file where one matters), the name and shape of every tensor
of its file, and of each of upstream's outputs a few numbers. No weights are stored: a tensor is filled with seeded numbers, by
the name that it has in upstream's memory. Where the file has it under another name, or otherwise (rows in another order), the
case says how.
"""

import functools
import json
import math
import zipfile
from pathlib import Path

import numpy as np

from numpy_vit.files.tensorfile import tensor_of, write
from numpy_vit.models.seeded import uniform

FILE = Path(__file__).parent / "data" / "encoders.zip"
PROBES = 2
STATE = "hidden state "


def filled(name, shape):
    """The numbers of upstream's parameter, float32, none rounded: norms near 1, matrices such that nothing explodes."""
    values = np.asarray(uniform(0, name, tuple(shape)))
    if "norm" in "".join(name.split(".")[-2:-1]):
        return np.asarray(values / 2 + (1 if name.endswith("weight") else 0))
    if name.endswith("bias"):
        return np.asarray(values / 4)
    if len(shape) > 1 and "embeddings.cls" not in name and "position" not in name:
        return values * np.float32(2.0 ** round(math.log2(2 / max(math.prod(shape[1:]), 1) ** 0.5)))
    return np.asarray(values / 2)


def pixels(channels, size):
    """Seeded pixels (1, C, Y, X) in float64."""
    return 2 * uniform(0, "pixels", (1, channels, *size), "float64")


def kept(output):
    """What is stored of an output: max|x|, and its sums weighted with seeded numbers, in which each of its numbers counts."""
    output = np.asarray(output, np.float64)
    sums = [float(np.sum(output * uniform(n, "probe", output.shape, "float64"))) for n in range(PROBES)]
    return [list(output.shape), float(np.max(np.abs(output))), *sums]


def error_of(output, stored):
    """How far an output is from the stored one, relative to its largest number."""
    shape, largest, *sums = stored
    assert list(output.shape) == shape, f"{output.shape} against {shape}"
    _, ours, *our_sums = kept(output)
    weight = largest * math.prod(shape) ** 0.5
    return max(abs(ours - largest) / largest, *(abs(a - b) / weight for a, b in zip(our_sums, sums, strict=True)))


@functools.cache
def stored(part):
    """A part of the file: "processors", "defaults", or a group of cases."""
    with zipfile.ZipFile(FILE) as archive:
        return json.loads(archive.read(f"{part}.json"))


@functools.cache
def groups():
    with zipfile.ZipFile(FILE) as archive:
        return [name.removesuffix(".json").removeprefix("cases/") for name in archive.namelist() if name.startswith("cases/")]


def numbers_of(name, told):
    """The numbers of a tensor of a file, as a case tells of it."""
    if isinstance(told, list):
        return filled(name, told)
    if "numbers" in told:
        return np.array(told["numbers"], np.float64).reshape(told["shape"])
    parts = [filled(part, shape) for part, shape in told["of"].items()]
    if "rows" not in told:
        return parts[0].reshape(told["shape"])
    rows = np.concatenate([part.reshape(-1, *told["shape"][1:][-1:]) for part in parts])
    return rows[told["rows"]].reshape(told["shape"])


def make_folder(case, folder):
    """A case's config.json and weights, in a folder."""
    for name, content in case["files"].items():
        (folder / name).write_text(json.dumps(content))
    tensors = {name: tensor_of(numbers_of(name, told)) for name, told in case["tensors"].items()}
    write(folder / case["weights"], tensors, {})
    return folder
