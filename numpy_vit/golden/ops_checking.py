"""A port's results against vectors for kernel writers: how many units off, where, at which input.

A unit is one ulp of the larger of the right result and what it is a sum of (ops_answers.py); the vectors hold it for every
number. What has no unit, integers and copies, must be equal. Zeros are equal whatever their sign, and so are NaN and NaN.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import InputError, nearest
from ..files.tensorfile import Tensor
from ..writing.text import clean, fitted, paragraphs, shape_text
from .folder import DTYPES
from .ops_folder import Vectors, numbers

Array = Any
FACTOR = 4.0  # units that are allowed
RIGHT, WRONG, MISSING = "right", "wrong", "missing"
COLOURS = {RIGHT: 32, WRONG: 31}
ALONE = ("gelu", "gelu_tanh", "quick_gelu", "silu", "quantise", "requantise")  # number for number; else a row is the input


@dataclasses.dataclass(frozen=True)
class Judged:
    """One case of the port."""

    name: str
    verdict: str
    count: int
    differ: int = 0  # numbers that are not the right ones, bit for bit
    worst: float = math.nan  # units; of integers how far the codes are apart
    mean: float = math.nan
    place: tuple[int, ...] = ()  # of the worst
    given: tuple[float, ...] = ()  # the input there: a number or a row
    right: float = math.nan
    port: float = math.nan
    said: str = ""  # what the pattern means


@dataclasses.dataclass(frozen=True)
class OpsCheck:
    results: tuple[Judged, ...]
    factor: float
    unknown: tuple[str, ...]  # the dump's arrays that are no case

    @property
    def compared(self) -> list[Judged]:
        return [result for result in self.results if result.verdict != MISSING]

    @property
    def passed(self) -> bool:
        """Something was compared, and all of it is right."""
        return bool(self.compared) and all(result.verdict == RIGHT for result in self.compared)


def check_ops(vectors: Vectors, dump: Mapping[str, Tensor], factor: float = FACTOR) -> OpsCheck:
    """Judge a port's results: arrays named after their cases, with "/" or "." between the parts.

    Raises InputError for an array of another size than its case.
    """
    theirs: dict[str, tuple[str, Tensor]] = {}
    known = {spelled(case["name"]) for case in vectors.cases}
    for name, tensor in dump.items():
        key = spelled(name.removesuffix("/y").removesuffix(".y"))
        if key in theirs:
            raise InputError(f"'{name}' and '{theirs[key][0]}' are the same case")
        theirs[key] = name, tensor
    unknown = tuple(name for key, (name, _) in theirs.items() if key not in known)
    results = []
    for case in vectors.cases:
        found = theirs.get(spelled(case["name"]))
        if found is None:
            results.append(Judged(case["name"], MISSING, math.prod(case["output"]["shape"])))
        else:
            results.append(judged(case, vectors.arrays, as_case(case, *found), factor))
    return OpsCheck(tuple(results), factor, unknown)


def spelled(name: str) -> str:
    return name.replace("/", ".")


def as_case(case: Mapping[str, Any], name: str, tensor: Tensor) -> Array:
    """A dump's array in float64, in the shape of the case; axes of one and a missing shape (raw numbers) do not matter."""
    shape = tuple(case["output"]["shape"])
    if tensor.dtype not in DTYPES:
        raise InputError(f"'{name}' is {tensor.dtype}, which is not compared: give one of {', '.join(DTYPES.values())}")
    same = [size for size in tensor.shape if size != 1] == [size for size in shape if size != 1]
    if tensor.data.size != math.prod(shape) or not (same or len(tensor.shape) == 1):
        raise InputError(f"'{name}' is {tuple(tensor.shape)}, {shape} is expected")
    return numbers(tensor).reshape(shape)


def judged(case: Mapping[str, Any], arrays: Mapping[str, Array], port: Array, factor: float) -> Judged:
    name = case["name"]
    right, unit = arrays[f"{name}/y"], arrays.get(f"{name}/unit")
    off = distance(port, right, unit)
    worst = tuple(int(i) for i in np.unravel_index(int(off.argmax()), off.shape))
    wrong = off > (factor if unit is not None else 0)
    return Judged(
        name, WRONG if wrong.any() else RIGHT, right.size, int((off > 0).sum()), float(off[worst]), float(off.mean()), worst,
        input_at(case, arrays, worst), float(right[worst]), float(port[worst]), pattern(port, right, wrong),
    )  # fmt: skip


def distance(port: Array, right: Array, unit: Array | None) -> Array:
    """In units; of what has none, the plain difference. Infinite where one is NaN or infinite and the other is not."""
    same = (port == right) | (np.isnan(port) & np.isnan(right))
    with np.errstate(all="ignore"):
        off = np.abs(port - right) / (1 if unit is None else unit)
    return np.where(same, 0.0, np.where(np.isnan(off), np.inf, off))


def input_at(case: Mapping[str, Any], arrays: Mapping[str, Array], place: tuple[int, ...]) -> tuple[float, ...]:
    """What the first input has where a result stands: the number, or the row it was computed from."""
    first = arrays[f"{case['name']}/{next(iter(case['inputs']))}"]
    if case["operation"] in ALONE and first.ndim == len(place):
        return (float(first[place]),)
    if case["operation"] == "resize" or first.ndim < 2 or len(place) < 2 or place[-2] >= first.shape[-2] or first.ndim != 2:
        return ()
    return tuple(map(float, first[place[-2]]))


def pattern(port: Array, right: Array, wrong: Array) -> str:
    """What the wrong numbers have in common."""
    if not wrong.any():
        return ""
    at = port[wrong], right[wrong]
    if np.isnan(at[0]).all():
        return "NaN"
    if np.isinf(at[0]).all():
        return "infinite"
    if (at[0] == 0).all() and (np.abs(at[1]) < 2.0**-14).all():
        return "subnormal or small results are 0"
    if np.isfinite(port).all() and wrong.all() and len(set((at[0] - at[1]).tolist())) == 1:
        return f"all off by {at[0][0] - at[1][0]:+g}"
    return ""


# Said


def check_text(check: OpsCheck, width: int, colour: bool = False, brief: bool = False) -> str:
    shown = [result for result in check.compared if not brief or result.verdict == WRONG]
    lines = fitted(columns(shown), ORDER, width) if shown else []
    if colour:
        lines = lines[:1] + [
            f"\x1b[{COLOURS[result.verdict]}m{line}\x1b[0m" for result, line in zip(shown, lines[1:], strict=True)
        ]
    return "\n".join([*lines, *([""] if lines else []), *paragraphs(summary(check), min(width, 120))])


ORDER = ("case", "numbers", "differ", "worst", "mean", "at", "input", "right", "port", "verdict")


def columns(results: Sequence[Judged]) -> dict[str, tuple[str, list[str], bool]]:
    """The most important first."""
    return {
        "case": ("case", [r.name for r in results], False),
        "verdict": ("verdict", [" ".join(filter(None, (r.verdict, r.said and f"({r.said})"))) for r in results], False),
        "worst": ("units at worst", [f"{r.worst:.3g}" for r in results], True),
        "right": ("right", [f"{r.right:.9g}" if r.differ else "" for r in results], True),
        "port": ("port", [f"{r.port:.9g}" if r.differ else "" for r in results], True),
        "at": ("at", [shape_text(r.place) if r.differ else "" for r in results], False),
        "mean": ("on the mean", [f"{r.mean:.2g}" for r in results], True),
        "differ": ("differ", [str(r.differ) for r in results], True),
        "numbers": ("numbers", [str(r.count) for r in results], True),
        "input": ("input there", [row_text(r.given) if r.differ else "" for r in results], False),
    }


def row_text(row: Sequence[float]) -> str:
    shown = " ".join(f"{x:.6g}" for x in row[:4])
    return shown + (" ..." if len(row) > 4 else "")


def summary(check: OpsCheck) -> list[str]:
    compared = check.compared
    wrong = [result for result in compared if result.verdict == WRONG]
    said = [
        f"{len(compared)} of {len(check.results)} cases compared, {len(compared) - len(wrong)} right: within {check.factor:g} "
        "units, a unit being one ulp of the result or of what it is a sum of; integers and copies equal."
    ]
    if not compared:
        said.append("No success: nothing could be compared. Name the results after their cases: softmax/ties/float32.")
    if wrong:
        operations = {result.name.split("/")[0] for result in wrong}
        said.append(f"Wrong: {', '.join(sorted(operations))}. First: {wrong[0].name}.")
    return said


def check_data(check: OpsCheck) -> dict[str, Any]:
    """The check as plain data."""
    cases = [
        {
            "case": r.name, "verdict": r.verdict, "numbers": r.count, "differ": r.differ,
            "units": {"worst": r.worst, "mean": r.mean}, "place": list(r.place), "input": list(r.given), "right": r.right,
            "port": r.port, "meaning": r.said,
        }
        for r in check.results
        if r.verdict != MISSING
    ]  # fmt: skip
    missing = [r.name for r in check.results if r.verdict == MISSING]
    return clean(
        {"passed": check.passed, "factor": check.factor, "compared": len(cases), "cases": cases, "missing": missing,
         "unknown": list(check.unknown)}
    )  # fmt: skip


def first_unknown(check: OpsCheck, names: Sequence[str]) -> str:
    """A note of the dump's names that are no case's; empty where there is none."""
    if not check.unknown:
        return ""
    first = ", ".join(f"'{name}'{nearest(name.replace('.', '/'), names)}" for name in check.unknown[:3])
    more = f" and {len(check.unknown) - 3} more" if len(check.unknown) > 3 else ""
    return f"no case is called {first}{more}"
