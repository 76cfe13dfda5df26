"""How far a port's dump is from a golden, step by step, and whose fault it is.

Three errors are told apart, each as max|a - b| / max|b|, as relative L2, and as gain (a is larger or smaller as a whole, which
rounding is not):

    run    the port's step against the golden's: all that has gone wrong so far
    own    the port's step against the same step run from the port's own inputs: what went wrong here
    noise  what correct arithmetic in the port's format does there (the golden's manifest has it)

A step is wrong where both its own error and its distance from the golden are above the noise of one step, and has
inherited where only the whole run's noise is exceeded.
"""

import dataclasses
import fnmatch
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..arithmetic.named import named
from ..arithmetic.rounded import EPS, round_to
from ..convert.sources import read_json
from ..errors import InputError, about, nearest
from ..files.tensorfile import Tensor
from ..models.loading import open_checkpoint
from ..models.seeded import random_model
from ..parameters import parameter_shapes
from ..tracing.tracer import trace
from ..vit import ViT
from .alignment import Aligned, align, last_hidden_state_named
from .conventions import PARTS, Convention, as_meant, conventions, refuted
from .folder import Golden, weights_sha256
from .integers import Difference
from .recording import distance, replay

Array = Any
FACTOR = 4.0
"""How many noise floors a correct port may be off. Measured: docs/golden.md."""

DOUBTFUL = 1e5
"""So many noise floors may an error seem large only because the port's inputs are far from the golden's."""

OK, WRONG, INHERITED, UNCLEAR, MISSING = "ok", "wrong", "inherited", "unclear", "missing"


@dataclasses.dataclass(frozen=True)
class Error:
    """The distance of two arrays."""

    largest: float  # these three as numpy_vit.golden.recording.distance has them
    l2: float
    gain: float
    noises: float  # the largest of the three, in noise floors

    def against(self, noise: Mapping[str, float]) -> "Error":
        """The same distance in units of another noise floor."""
        noises = max(self.largest / noise["largest"], self.l2 / noise["l2"], abs(self.gain) / noise["gain"])
        return dataclasses.replace(self, noises=noises)


@dataclasses.dataclass(frozen=True)
class Result:
    """What a check says of one step."""

    name: str
    dims: str
    shape: tuple[int, ...]
    verdict: str  # "ok", "wrong", "inherited", "unclear" (whether wrong or inherited) or "missing" in the dump
    theirs: str = ""  # the port's name for it
    dtype: str = ""
    run: Error | None = None
    own: Error | None = None  # None where the step was not run again
    span: tuple[str, ...] = ()  # what it was run again from, where that is not its own inputs
    cosine: float = math.nan
    worst: tuple[int, ...] = ()  # where |a - b| is largest
    golden: float = math.nan  # the golden's value there
    port: float = math.nan  # the port's
    nan: int = 0
    inf: int = 0
    codes: Difference | None = None  # of a step in integers, run again

    @property
    def fits(self) -> bool:
        return self.verdict in (OK, MISSING)


@dataclasses.dataclass(frozen=True)
class Check:
    """A dump against a golden: one Result a step, in the order of execution."""

    results: tuple[Result, ...]
    format: str  # the arithmetic whose noise is allowed
    factor: float
    budgets: tuple[str, ...]  # steps and patterns with a budget of the user's own
    unknown: tuple[str, ...]  # arrays of the dump that are no step
    replayed: str  # "" or why no step was run again
    arrays: Mapping[str, Aligned] = dataclasses.field(repr=False)
    golden: Golden = dataclasses.field(repr=False)
    model: ViT | None = dataclasses.field(repr=False)
    floors: Mapping[str, Any] = dataclasses.field(repr=False)  # step -> "run" and "step" -> "largest", "l2", "gain"
    limits: Mapping[str, float] = dataclasses.field(default_factory=dict, repr=False)  # step -> its budget of the user's own
    conventions: tuple[Convention, ...] = ()  # what the port does otherwise without being wrong

    @property
    def passed(self) -> bool:
        return all(result.fits for result in self.results) and not self.hollow

    @property
    def hollow(self) -> bool:
        """Whether nothing was compared that a weight has touched, though the golden has such steps."""
        worked = {step["name"] for step in self.golden.steps if is_work(step)}
        return bool(worked) and not any(r.name in worked for r in self.results if r.verdict != MISSING)

    @property
    def compared(self) -> int:
        return sum(result.verdict != MISSING for result in self.results)

    @property
    def first(self) -> Result | None:
        """The first step that goes wrong."""
        return next((result for result in self.results if not result.fits), None)


TABLES = re.compile(r"embed\.(?:\w+_positions|rope_\w+)|rope\..*|.*\.relative_bias")


def is_work(step: Mapping[str, Any]) -> bool:
    """Whether a step is computed from the picture by the model, and not only moved, or made of its weights alone."""
    return step["name"] not in ("pixels", "embed.patches") and not TABLES.fullmatch(step["name"])


def check(
    golden: Golden,
    dump: Mapping[str, Tensor],
    *,
    mapping: Mapping[str, str] | None = None,
    format: str | None = None,
    factor: float = FACTOR,
    budgets: Mapping[str, float] | None = None,
    model: ViT | None = None,
    no_model: str = "no model was given",
) -> Check:
    """Compare a port's dump with a golden.

    mapping   the port's names -> ours, where neither our names nor Hugging Face's nor timm's are used
    format    the arithmetic whose noise is allowed: "float32", "float16", "bfloat16", "float64", or a narrow one that was
              recorded (`--noise int8-onnx`); default: the dump's dtype
    factor    how many noise floors are allowed
    budgets   step or pattern -> the largest max|a - b| / max|b| allowed, in place of the noise floor; the first that fits
    model     the golden's model in float64 (`model_of`): runs each step again from the port's own inputs
    no_model  why there is none

    Raises InputError for a dump that is not one of this golden.
    """
    aligned, unknown = align(dump, golden.steps, mapping)
    aligned = last_hidden_state_named(aligned, golden.arrays, golden.config.depth)
    format = format or dump_format(aligned)
    inputs = inputs_of(golden)
    floors = floors_of(golden, format, aligned, inputs)
    budgets = dict(budgets or {})
    for pattern in budgets:
        if not fnmatch.filter(floors, pattern):
            raise InputError(f"the budget names step '{pattern}', which the golden does not have{nearest(pattern, floors)}")
    comparison = Comparison(golden, model, inputs, factor, limits_of(golden, budgets))
    aligned, results, factors = comparison.as_meant(aligned, floors)
    floors, results = comparison.at_its_own_inputs(aligned, floors, results, format)
    return Check(
        results=tuple(results),
        format=format,
        factor=factor,
        budgets=tuple(budgets),
        unknown=tuple(unknown),
        replayed="" if model is not None else no_model,
        arrays=aligned,
        golden=golden,
        model=model,
        floors=floors,
        limits=comparison.limits,
        conventions=conventions(factors),
    )


Floors = dict[str, dict[str, dict[str, float]]]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What every step of a dump is compared by."""

    golden: Golden
    model: ViT | None
    inputs: Mapping[str, tuple[str, ...]]
    factor: float
    limits: Mapping[str, float]

    def computed(self, aligned: Mapping[str, Aligned]) -> dict[str, Array]:
        return {} if self.model is None else run_again(self.model, self.golden, aligned)

    def results(self, aligned: Mapping[str, Aligned], floors: Floors, computed: Mapping[str, Array]) -> list[Result]:
        """One a step, in the order of execution."""
        results = []
        for step in self.golden.steps:
            name = step["name"]
            if name in aligned:
                exact = np.asarray(self.golden.arrays[name], np.float64)
                span = ancestors(name, self.inputs, aligned)
                span = () if set(span) == set(self.inputs[name]) else span
                limit = self.limits.get(name)
                results.append(compare(step, aligned[name], exact, computed.get(name), floors[name], span, self.factor, limit))
            elif name != "pixels":  # a port's input is not its work
                results.append(Result(name, step["dims"], tuple(step["shape"]), MISSING))
        return results

    def as_meant(self, aligned: dict[str, Aligned], floors: Floors) -> tuple[dict[str, Aligned], list[Result], dict[str, str]]:
        """The results, where factors that a port means to have are taken away: (arrays, results, step -> factor)."""
        results = self.results(aligned, floors, self.computed(aligned))
        if not any(PARTS.fullmatch(result.name) and not result.fits for result in results):
            return aligned, results, {}
        expected = {name: np.asarray(array, np.float64) for name, array in self.golden.arrays.items()}
        meant, factors = as_meant(aligned, lambda now: self.computed(now) or expected, self.golden.config)
        if factors:
            again = self.results(meant, floors, self.computed(meant))
            verdicts = {r.name: r.verdict in (OK, INHERITED) for r in again if r.verdict != MISSING}
            wrong = refuted(factors, verdicts, lambda step: self.after(step, aligned))
            factors = {step: factor for step, factor in factors.items() if step not in wrong}
            aligned = {step: meant[step] if step in factors else array for step, array in aligned.items()}
            results = self.results(aligned, floors, self.computed(aligned)) if factors else results
        return aligned, results, factors

    def at_its_own_inputs(
        self, aligned: Mapping[str, Aligned], floors: Floors, results: list[Result], format: str
    ) -> tuple[Floors, list[Result]]:
        """Floors and results, where the port's inputs are others than the golden's, and cancel more.

        A norm of numbers that are nearly alike, a softmax of large scores: what one rounding does there grows with what a
        small change of the inputs does. That is measured at both, the port's inputs and the golden's.
        """
        far = {r.name for r in results if r.run is not None and not r.run.l2 <= 0.05}
        doubtful = [
            r.name
            for r in results
            if r.verdict == WRONG and r.own is not None and r.own.noises < DOUBTFUL and r.name not in self.limits
            and far & set(ancestors(r.name, self.inputs, aligned))
        ]  # fmt: skip
        if not doubtful or self.model is None:
            return floors, results
        golden = {n: a._replace(array=np.asarray(self.golden.arrays[n], np.float64)) for n, a in aligned.items()}
        now, then = (self.sensitivity(arrays) for arrays in (aligned, golden))
        floors = dict(floors)
        for name in doubtful:
            eps = max(eps_of(format), eps_of(aligned[name].dtype))
            grown = {}
            for by, noise in floors[name]["step"].items():
                of = "l2" if by == "gain" else by
                ratio = now[name][of] / max(then[name][of], 1e-300)
                grown[by] = max(noise, min(noise * ratio, 4 * eps * now[name][of]))
            floors[name] = {**floors[name], "step": grown}
        return floors, self.results(aligned, floors, self.computed(aligned))

    def sensitivity(self, aligned: Mapping[str, Aligned]) -> dict[str, dict[str, float]]:
        """Step -> how far it moves where each of its inputs' numbers moves by a random part of itself, in units of that."""
        rng, by = np.random.default_rng(0), 2.0**-20
        moved = {n: a._replace(array=a.array * (1 + by * rng.uniform(-1, 1, a.array.shape))) for n, a in aligned.items()}
        with np.errstate(all="ignore"):
            right, other = self.computed(aligned), self.computed(moved)
            return {n: {k: abs(x) / by for k, x in distance(other[n], right[n]).items()} for n in aligned if n in right}

    def after(self, step: str, aligned: Mapping[str, Aligned]) -> list[str]:
        """The steps of the dump that are computed from this one."""
        return [name for name in aligned if name in self.inputs and step in ancestors(name, self.inputs, aligned)]


def limits_of(golden: Golden, budgets: dict[str, float]) -> dict[str, float]:
    """Step -> its budget: of the first pattern that fits."""
    names = [step["name"] for step in golden.steps]
    return {name: budgets[pattern] for pattern in reversed(budgets) for name in fnmatch.filter(names, pattern)}


def inputs_of(golden: Golden) -> dict[str, tuple[str, ...]]:
    """Every step of the model, recorded or not -> the steps it is computed from."""
    batch, _, *size = golden.steps[0]["shape"]
    rows = trace(golden.config, batch=batch, size=tuple(size))
    return {"pixels": (), **{row.name: tuple(tensor.name for tensor in row.inputs) for row in rows}}


def compare(
    step: Mapping[str, Any],
    theirs: Aligned,
    exact: Array,
    computed: Array | None,
    floors: Mapping[str, Mapping[str, float]],
    span: tuple[str, ...],
    factor: float,
    limit: float | None,
) -> Result:
    """One step of a port against the golden's, and against the same step run again (`computed`)."""
    port = theirs.array
    run = error(port, exact, floors["run"])
    own = None if computed is None else own_error(port, computed, floors["step"])
    difference = np.nan_to_num(np.abs(port - exact), nan=np.inf)
    worst = tuple(int(i) for i in np.unravel_index(int(difference.argmax()), port.shape))
    return Result(
        name=step["name"],
        dims=step["dims"],
        shape=port.shape,
        verdict=judge(run, own, run.against(floors["step"]), factor, limit),
        theirs=theirs.name,
        dtype=theirs.dtype,
        run=run,
        own=own,
        span=span,
        cosine=cosine(port, exact),
        worst=worst,
        golden=float(exact[worst]),
        port=float(port[worst]),
        nan=int(np.isnan(port).sum()),
        inf=int(np.isinf(port).sum()),
    )


def judge(run: Error, own: Error | None, near: Error, factor: float, limit: float | None) -> str:
    """The verdict on a step: its error since the start (`run`, and `near` in units of one step's noise), and its own."""
    if limit is not None:
        if run.largest <= limit:
            return OK
        return UNCLEAR if own is None else WRONG if not own.largest <= limit else INHERITED
    if own is not None and not min(own.noises, near.noises) <= factor:
        return WRONG
    if run.noises <= factor:
        return OK
    return UNCLEAR if own is None else INHERITED


def error(a: Array, b: Array, noise: Mapping[str, float]) -> Error:
    """The distance of a from b, also in units of a noise floor. What has NaN or infinity is infinitely far."""
    with np.errstate(all="ignore"):
        found = distance(a, b)
    if not (math.isfinite(found["largest"]) and math.isfinite(found["l2"])):
        return Error(math.inf, math.inf, math.inf, math.inf)
    return Error(**found, noises=math.nan).against(noise)


def own_error(a: Array, b: Array, noise: Mapping[str, float]) -> Error:
    """The same, but NaN and infinity that both have at the same places are no error: they are inherited."""
    found = error(a, b, noise)
    if math.isfinite(found.largest):
        return found
    same = (np.isnan(a) & np.isnan(b)) | (np.isinf(a) & (a == b))
    return error(np.where(same, 0.0, a), np.where(same, 0.0, b), noise)


def cosine(a: Array, b: Array) -> float:
    """The cosine of the angle between two arrays; NaN where one is 0 or not finite."""
    with np.errstate(all="ignore"):
        return float(a.ravel() @ b.ravel() / (np.linalg.norm(a.ravel()) * np.linalg.norm(b.ravel())))


def dump_format(aligned: Mapping[str, Aligned]) -> str:
    """The arithmetic a dump was made in: the commonest dtype of its steps; float64 numbers that are float32's count as such."""
    dtypes = []
    for name, array in aligned.items():
        narrow = array.dtype == "float64" and np.array_equal(round_to("float32", array.array), array.array)
        dtypes += ["float32" if narrow else array.dtype] * (name != "pixels")
    return max(reversed(EPS), key=dtypes.count)  # of equals the narrowest


def floors_of(
    golden: Golden, format: str, aligned: Mapping[str, Aligned], inputs: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, dict[str, float]]]:
    """Step -> its noise floors in a format; in a narrower one where the step, or what it was run again from, is stored so.

    Where the dump lacks a step's own inputs, so that it is run again from earlier ones, "step" is the noise of the whole run.
    """
    of = {
        kind: noise_of(golden, kind)
        for kind in {format, *(a.dtype for a in aligned.values() if eps_of(a.dtype) > eps_of(format))}
    }
    floors = {}
    for step in of[format]:
        own = narrowest([format, *(aligned[n].dtype for n in (step,) if n in aligned)])
        span = ancestors(step, inputs, aligned)
        run = of[own][step]["run"]
        one_step = of[narrowest([own, *(aligned[n].dtype for n in span if n in aligned)])][step]["step"]
        floors[step] = {"run": run, "step": one_step if set(span) == set(inputs[step]) else run}
    return floors


def eps_of(format: str) -> float:
    """The largest relative error of one rounding; a narrow arithmetic has float32's in what it keeps in floating point."""
    return EPS.get(format, EPS["float32"])


def has_to_be_recorded(format: str) -> str:
    return f": record the golden with --noise {format}" if format in named() else ""


def narrowest(formats: Sequence[str]) -> str:
    return max(formats, key=eps_of)


def noise_of(golden: Golden, format: str) -> dict[str, dict[str, dict[str, float]]]:
    """Step -> its noise floors for a format.

    They are those measured, but none below one unit in the last place of the largest number, in the format or in the
    golden's own dtype. Where a step has few numbers, what was measured may happen to be good: floors are widened by
    1 + 6 / sqrt(count). The gain, which averages over all numbers, is judged for single steps alone, and never below what
    chance allows; over a whole run errors need not average out.
    """
    recorded = golden.steps[0]["noise"]
    if format not in EPS and format not in recorded:
        raise InputError(f"format {format!r}: one of {', '.join(dict.fromkeys([*EPS, *recorded]))}{has_to_be_recorded(format)}")
    measured = "float32" if format == "float64" else format
    if measured not in golden.steps[0]["noise"]:
        have = ", ".join(golden.steps[0]["noise"]) or "none"
        raise InputError(f"{golden.folder}: has no noise floor of {measured} (only {have}): record it with --noise {measured}")
    # Rounding errors scale with the size of one rounding.
    scale = eps_of(format) / eps_of(measured)
    half = max(eps_of(format), eps_of(golden.manifest["store"]))
    floors: dict[str, dict[str, dict[str, float]]] = {}
    for step in golden.steps:
        count = math.prod(step["shape"])
        floors[step["name"]] = {}
        for of in ("run", "step"):
            measured_floor = {by: value * scale for by, value in step["noise"][measured][of].items()}
            unsure = 1 + 6 / math.sqrt(count)
            floor = {by: max(measured_floor[by] * unsure, 2 * half) for by in ("largest", "l2")}
            # what integers make too large or too small they make so alike, where numbers are alike
            chance = floor["l2"] if of == "run" or format not in EPS else max(half, 2 * floor["l2"] / math.sqrt(count))
            floor["gain"] = max(measured_floor["gain"], chance)
            floors[step["name"]][of] = floor
    return floors


def ancestors(name: str, inputs: Mapping[str, Sequence[str]], present: Mapping[str, Any]) -> tuple[str, ...]:
    """The nearest steps before this one that the dump has; "pixels" where it has none."""
    met = list(inputs[name])
    for step in met:  # grows as it goes
        if step not in present:
            met += [earlier for earlier in inputs.get(step, ()) if earlier not in met]
    return tuple(step for step in met if step in present or not inputs.get(step))


def run_again(model: ViT, golden: Golden, aligned: Mapping[str, Aligned]) -> dict[str, Array]:
    """Every step of the dump as the model computes it from the dump's own inputs."""
    computed: dict[str, Array] = {"pixels": np.asarray(golden.arrays["pixels"], np.float64)}
    given = {name: array.array for name, array in aligned.items()}

    def hear(name: str, array: Array) -> None:
        if name in given:
            computed[name] = np.asarray(array)

    with np.errstate(all="ignore"):  # a port's NaN is its own
        replay(model, given.get("pixels", computed["pixels"]), given, hear)
    return computed


def model_of(golden: Golden, weights: str | None = None) -> ViT:
    """The model a golden was made with, in float64: from its seed, or from a weights file.

    weights   the file, where it is not (any more) the one the manifest names

    Raises InputError where it cannot be had or is another one.
    """
    origin = golden.manifest["model"]
    with about(golden.folder):
        if weights is None and isinstance(origin.get("seed"), int):
            model = random_model(golden.config, origin["seed"], "float64")
            where = f"seed {origin['seed']}"
        elif weights is not None or isinstance(origin.get("weights"), str):
            where = origin["weights"] if weights is None else weights
            model = open_checkpoint(where).model("float64")
        else:
            raise InputError("the manifest does not say which weights it was made with: give --weights")
        if model.config != golden.config:
            raise InputError(f"was made with another config than {where} has: give --weights")
        if weights_sha256(model.tensors, parameter_shapes(model.config)) != golden.manifest["weights_sha256"]:
            raise InputError(f"was made with other weights than {where} (their SHA-256 differs): give --weights")
        return model


def read_budgets(path: Path) -> dict[str, float]:
    """A budget file: a JSON object, step or pattern -> the largest max|a - b| / max|b| allowed. Raises InputError."""
    budgets = read_json(path)
    with about(path):
        for name, value in budgets.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise InputError(f"the budget of '{name}' must be a number, 0 or more, not {value!r:.40}")
        return budgets
