"""What a port may do otherwise than the paper without being wrong: its query, key or scores are multiplied by a known factor.

1/sqrt(K) is often folded into the query's weights, or half of it into the key's; log2(e) with it where softmax is made of
exp2. Such an array is compared after division by the factor, but only where what comes after it is right: then it was meant.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..config import ViTConfig
from .alignment import Aligned

Array = Any
NEARLY = 0.1  # a factor is believed where it leaves less of the difference than this
PARTS = re.compile(r"(blocks\.\d+)\.attention\.(query|key|scores|biased_scores)(?:_norm|_rotated)?")


@dataclasses.dataclass(frozen=True)
class Convention:
    """One factor, and the steps that have it."""

    name: str  # "queries-by-1/sqrt(K)"
    text: str  # what the port does, in a sentence
    steps: tuple[str, ...]


def factors(config: ViTConfig) -> tuple[dict[str, float], dict[str, float]]:
    """How a factor is called -> what it is: of queries and keys, and of scores."""
    root, log2 = math.sqrt(config.head_dim), math.log2(math.e)
    base = {"log2(e)": log2}
    if not config.scaled_scores or config.head_dim == 1:
        return base, base
    of_queries = {"1/sqrt(K)": 1 / root, "1/sqrt(sqrt(K))": root**-0.5, "log2(e)/sqrt(K)": log2 / root}
    return of_queries | base, {"sqrt(K)": root, "log2(e) sqrt(K)": log2 * root} | base


def believed(port: Array, right: Array, among: Mapping[str, float]) -> str | None:
    """The factor that `port` is of `right`, as nearly as it can be said; None where it is none of them."""
    with np.errstate(all="ignore"):
        before = np.linalg.norm(port - right)
        left = {name: float(np.linalg.norm(port / factor - right) * factor) for name, factor in among.items()}
    name = min(left, key=lambda name: left[name])
    return name if math.isfinite(left[name]) and left[name] < NEARLY * before else None


def as_meant(
    aligned: Mapping[str, Aligned], compute: Callable[[Mapping[str, Aligned]], Mapping[str, Array]], config: ViTConfig
) -> tuple[dict[str, Aligned], dict[str, str]]:
    """The arrays divided by the factors that they seem to have, and step -> the factor's name.

    compute   arrays -> every step as it should be by these (numpy_vit.golden.checking.run_again)
    """
    now, named = dict(aligned), {}
    of_queries, of_scores = factors(config)
    for parts, among in ((("query", "key"), of_queries), (("scores", "biased_scores"), of_scores)):
        right = compute(now)
        for step, array in list(now.items()):
            part = PARTS.fullmatch(step)
            if part and part[2] in parts and step in right:
                name = believed(array.array, right[step], among)
                if name is not None:
                    named[step] = name
                    now[step] = array._replace(array=array.array / among[name])
                    if parts[0] == "query":  # what is made of it has the same factor, though not by itself
                        now |= made_of(step, now, among[name], named, name)
    return now, named


def made_of(step: str, now: Mapping[str, Aligned], factor: float, named: dict[str, str], name: str) -> dict[str, Aligned]:
    """The rotated query of a query that has a factor has it too (a norm takes it away)."""
    rotated = step.removesuffix("_norm") + "_rotated"
    if step.endswith("_rotated") or rotated not in now or rotated in named:
        return {}
    if not step.endswith("_norm") and f"{step}_norm" in now:
        return {}
    named[rotated] = name
    return {rotated: now[rotated]._replace(array=now[rotated].array / factor)}


def refuted(named: Mapping[str, str], verdicts: Mapping[str, bool], after: Callable[[str], Sequence[str]]) -> set[str]:
    """Of the steps with a factor, those in blocks where it cannot have been meant.

    verdicts   step -> whether it is right by itself, with the arrays as they were meant
    after      step -> the steps of the dump that are computed from it
    """
    wrong = set()
    for step in named:
        used = [later for later in after(step) if later in verdicts]
        if not verdicts[step] or not used or not all(verdicts[later] for later in used):
            wrong.add(step.partition(".attention.")[0])
    return {step for step in named if step.partition(".attention.")[0] in wrong}


def conventions(named: Mapping[str, str]) -> tuple[Convention, ...]:
    """Each factor once, with its steps."""
    found: dict[tuple[str, str], list[str]] = {}
    for step, factor in named.items():
        part = PARTS.fullmatch(step)
        assert part is not None
        found.setdefault(({"query": "queries", "key": "keys"}.get(part[2], "scores"), factor), []).append(step)
    return tuple(Convention(f"{of}-by-{factor}", sentence(of, factor), tuple(steps)) for (of, factor), steps in found.items())


def sentence(of: str, factor: str) -> str:
    base = ", for a softmax of powers of 2" if "log2" in factor else ""
    if of == "scores" and "sqrt" in factor:
        return f"the scores are those before the division by sqrt(K){', times log2(e)' if base else ''}{base}"
    return f"{of} are {'multiplied' if of == 'scores' else 'prescaled'} by {factor}{base}"
