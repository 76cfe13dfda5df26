"""Which known mistake reproduces a port's numbers.

Every wrong step is computed again from the port's own inputs under each mistake of numpy_vit.golden.mistakes, alone, together
with what was found before, and at last in pairs. A mistake is named only where it brings the port's step within the noise of
a correct one, and far nearer than without it; what nothing explains is said to be unexplained, with what came nearest.
"""

import contextlib
import dataclasses
import functools
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from .. import model as paper
from ..arithmetic.rounded import EPS
from ..config import ViTConfig
from ..errors import InputError
from ..families import activation_name, at_image_size, embedding_output, norm, uses
from ..merging import merge, merged_at_the_end
from ..parameters import Weights, parameter_shapes, weights_tree
from ..tracing.tracer import trace
from ..vit import new_step
from .checking import WRONG, Check, Error, Result, eps_of, error, is_work, noise_of, own_error
from .describing import Description, describe
from .folder import Golden
from .mistakes import Mistake, OnWeight, Variation, both, mistakes
from .recording import noise_floors

Array = Any
PAIRS_OF = 8  # so many of the nearest mistakes are tried together with every other
HIDDEN = -1e3  # scores below this are a mask's
NEAR = 0.2  # what leaves less of the difference than this came near
CHANCE = 1e-3  # how likely any of the ways tried may fit by chance


@dataclasses.dataclass(frozen=True)
class Tried:
    """One way of computing a wrong step, and how far the port is from it."""

    mistakes: tuple[Mistake, ...]
    error: Error  # of the wrong step
    explained: tuple[str, ...]  # the wrong steps of its neighbourhood that it explains
    broken: tuple[str, ...]  # the right steps of its neighbourhood that it makes wrong

    @property
    def rank(self) -> tuple[int, int]:
        """Explains most and breaks least, with fewest mistakes: the lower, the better."""
        return len(self.broken) - len(self.explained), len(self.mistakes)


@dataclasses.dataclass(frozen=True)
class Finding:
    """What is wrong at a step, as far as can be told."""

    step: str  # the first step where it shows
    before: Error  # the port against the right computation
    best: Tried | None  # what explains it, or None
    equals: tuple[Tried, ...]  # other explanations that this dump cannot tell from it
    steps: tuple[str, ...]  # all steps it explains
    nearest: tuple[Tried, ...]  # where nothing explains it: what came nearest
    tried: int  # how many ways were tried
    place: str = ""  # "in block 3", "in every block": where among the blocks that were looked at
    described: tuple[Description, ...] = ()  # where nothing explains it: what the difference is


def diagnose(checked: Check, progress: Callable[[str], None] = lambda what: None) -> list[Finding]:
    """Every wrong step of a check, explained where one of the known mistakes does.

    Raises InputError where the check had no model: nothing could be run again.
    """
    if checked.model is None:
        raise InputError(f"nothing can be diagnosed without the model: {checked.replayed}")
    bench = Bench(checked)
    wrong = [result.name for result in checked.results if result.verdict == WRONG]
    golden = checked.golden
    known = mistakes(golden.config, preprocess=golden.manifest.get("preprocess"), size=bench.pixels.shape[2:])
    findings: list[Finding] = []
    found: tuple[Mistake, ...] = ()
    while wrong:
        progress(f"{wrong[0]}: {len(known)} known mistakes")
        pairs = all(finding.best for finding in findings)  # they take long: once in vain is enough
        finding = explain(Case(bench, wrong[0], wrong), known, found, pairs)
        if finding.best is not None:
            found += tuple(m for m in finding.best.mistakes if m not in found)
            same = next((f for f in findings if f.best and names(f.best.mistakes) == names(finding.best.mistakes)), None)
            if same is not None:
                findings[findings.index(same)] = dataclasses.replace(same, steps=same.steps + finding.steps)
            else:
                findings.append(finding)
        else:
            findings.append(finding)
        wrong = [name for name in wrong if name not in finding.steps and name != finding.step]
    return [dataclasses.replace(finding, place=place(finding.steps, bench.port)) for finding in findings]


def place(steps: Sequence[str], dumped: Collection[str]) -> str:
    """ "in block 3", "in blocks 0 to 2 and 5", "in every block": of the blocks whose steps of these names were dumped.

    Nothing where there is none, or no other.
    """
    kinds = {short_name(step) for step in steps}
    shown, looked_at = (
        sorted({int(name.split(".")[1]) for name in among if name.startswith("blocks.") and short_name(name) in kinds})
        for among in (steps, dumped)
    )
    if not shown or len(looked_at) == 1:
        return ""
    if shown == looked_at:
        return "in every block" if looked_at == list(range(len(looked_at))) else f"in every block of the dump ({runs(shown)})"
    return f"in block{'s' if len(shown) > 1 else ''} {runs(shown)}"


def runs(numbers: Sequence[int]) -> str:
    """ "0 to 2, 5"."""
    groups: list[list[int]] = []
    for n in numbers:
        if groups and n == groups[-1][1] + 1:
            groups[-1][1] = n
        else:
            groups.append([n, n])
    return ", ".join(str(a) if a == b else f"{a} to {b}" if b > a + 1 else f"{a}, {b}" for a, b in groups)


def names(several: Sequence[Mistake]) -> tuple[str, ...]:
    return tuple(mistake.name for mistake in several)


def explain(case: "Case", known: Sequence[Mistake], found: tuple[Mistake, ...], pairs: bool) -> Finding:
    """Look for the mistake that explains a wrong step: among those found before, the known ones alone, and pairs of them."""
    known = [mistake for mistake in known if case.matters(mistake)]
    again = case.explaining([(mistake,) for mistake in found] + [found] * (len(found) > 1))
    again = [tried for tried in again if not tried.broken]
    if again:  # several only where that is clearly better
        best = min(again, key=lambda tried: tried.error.l2 * len(tried.mistakes))
        return case.explained(best, [])
    tries = case.attempts([(m,) for m in known] + [(*found, m) for m in known if found and m not in found])
    if pairs and case.finite and not any(map(case.explains, tries)):
        nearest = sorted(tries, key=lambda tried: tried.error.l2)[:PAIRS_OF]
        two = {
            frozenset(names((*one.mistakes, m))): (*one.mistakes, m) for one in nearest for m in known if m not in one.mistakes
        }
        tries += case.attempts(list(two.values()))
    good = sorted(filter(case.explains, tries), key=lambda tried: (*tried.rank, tried.error.l2))
    if not good and not case.finite:
        return dataclasses.replace(case.unexplained([]), tried=0)
    if not good:
        return case.unexplained(tries)
    equals = [t for t in good if t.rank == good[0].rank and t.error.l2 <= 1.05 * good[0].error.l2]
    equals.sort(key=lambda tried: [known.index(mistake) for mistake in tried.mistakes])
    return case.explained(equals[0], equals[1:])


def changes_weight(change: OnWeight, name: str, get: Callable[[str], Array], config: ViTConfig) -> bool:
    try:
        return change(name, get, config) is not None
    except KeyError:  # it takes another one's, which is not there
        return False


class Case:
    """One wrong step: what is looked at around it, and what would explain it."""

    def __init__(self, bench: "Bench", step: str, wrong: Sequence[str]) -> None:
        self.bench = bench
        self.step = step
        self.start, self.hood = bench.neighbourhood(step)
        self.span = bench.span(step)
        self.wrong = [name for name in wrong if name in self.hood]
        self.right = {n for n, e in bench.errors((), self.start, self.hood).items() if bench.is_right(n, e)}
        self.finite = bool(np.isfinite(bench.port[step]).all())
        self.tried = 0
        own = bench.results[step].own
        assert own is not None  # it is wrong by itself
        self.before: Error = own

    def matters(self, mistake: Mistake) -> bool:
        return self.bench.matters(mistake, self.span)

    def attempts(self, sets: Sequence[tuple[Mistake, ...]]) -> list[Tried]:
        """The step computed with each set of mistakes; those that cannot be are left out."""
        self.tried += len(sets)
        found = []
        for several in sets:
            alone = self.bench.errors(several, self.start, [self.step])
            if self.step not in alone:
                continue
            if not self.bench.within_noise(self.step, alone[self.step]):  # what it makes of the others matters no more
                found.append(Tried(several, alone[self.step], (), ()))
                continue
            errors = self.bench.errors(several, self.start, self.hood)
            good = {name for name, e in errors.items() if self.bench.within_noise(name, e)}
            if self.step in errors:
                explained = tuple(name for name in self.wrong if name in good)
                found.append(
                    Tried(several, errors[self.step], explained, tuple(n for n in self.hood if n in self.right - good))
                )
        return found

    def explains(self, tried: Tried) -> bool:
        """Whether the port's step is within noise of this one, and far nearer to it than to the right one."""
        if self.step not in tried.explained or not 2 * tried.error.noises <= self.before.noises:
            return False
        if len(tried.mistakes) == 1:
            return self.no_accident(tried, self.before.l2)
        fewer = [self.error_with(others) for others in all_but_one(tried.mistakes)]
        return all(2 * tried.error.l2 <= l2 and self.no_accident(tried, l2) for l2 in fewer)

    def error_with(self, several: tuple[Mistake, ...]) -> float:
        errors = self.bench.errors(several, self.start, [self.step])
        return errors[self.step].l2 if self.step in errors else math.inf

    def no_accident(self, tried: Tried, before: float) -> bool:
        """Whether a fit this close is unlikely by chance: with few numbers and much noise, one of many ways soon fits.

        before   how far off it was without (one of) these mistakes

        That `count` numbers all come `ratio` times nearer by chance has a probability of about ratio ** -count.
        """
        ratio = max(before, 1e-300) / max(tried.error.l2, 1e-300)
        return self.bench.port[self.step].size * math.log(ratio) >= math.log(self.tried / CHANCE)

    def explaining(self, sets: Sequence[tuple[Mistake, ...]]) -> list[Tried]:
        return [tried for tried in self.attempts(sets) if self.explains(tried)]

    def explained(self, best: Tried, equals: Sequence[Tried]) -> Finding:
        return Finding(self.step, self.before, best, tuple(equals), best.explained, (), self.tried)

    def unexplained(self, tries: Sequence[Tried]) -> Finding:
        nearer = (tried for tried in tries if tried.error.l2 < NEAR * self.before.l2)
        nearest = sorted(nearer, key=lambda tried: tried.error.l2)[:3]
        described = tuple(self.bench.described(self.step, self.start))
        return Finding(self.step, self.before, None, (), (self.step,), tuple(nearest), self.tried, described=described)


def all_but_one(mistakes: tuple[Mistake, ...]) -> list[tuple[Mistake, ...]]:
    return [(*mistakes[:n], *mistakes[n + 1 :]) for n in range(len(mistakes))]


class Reached(Exception):
    """The last step of interest has been heard."""


class Bench:
    """Runs parts of a golden's model again from a port's own inputs, rightly or with mistakes."""

    def __init__(self, checked: Check) -> None:
        assert checked.model is not None
        golden, model = checked.golden, checked.model
        self.model = model
        self.config = golden.config
        self.factor = checked.factor
        self.results = {result.name: result for result in checked.results}
        self.order = [step["name"] for step in golden.steps]
        self.port = {name: aligned.array for name, aligned in checked.arrays.items()}
        self.pixels = np.asarray(golden.arrays["pixels"], np.float64)
        self.floors = checked.floors
        self.limits = checked.limits
        self.done: dict[Any, dict[str, Error]] = {}
        rows = trace(golden.config, batch=len(self.pixels), size=self.pixels.shape[2:])
        self.made_of = {row.name: [tensor.name for tensor in row.inputs] for row in rows}
        self.weights_of = {row.name: {tensor.name for tensor in row.weights} for row in rows}
        self.unlisted = set(model.tensors) - set().union(*self.weights_of.values())  # what goes into tables, say

    def span(self, step: str) -> list[str]:
        """The steps that are computed between those that the port has and this one, itself included."""
        met = [step]
        for name in met:  # grows as it goes
            met += [n for n in self.made_of.get(name, ()) if n not in self.port and n not in met]
        return met

    def matters(self, mistake: Mistake, span: Sequence[str]) -> bool:
        """Whether a mistake can change what is computed there: else there is no use in trying it."""
        run = mistake.change(Variation(self.config))
        if run.about is not None:
            return any(stage_of(name) == f"blocks.{run.about}" for name in span)
        if run.backwards:
            return any(name.startswith("blocks.") for name in span)
        if run.uses or run.config != self.config:
            return True
        if run.pixels is not None and "pixels" in span:
            return True
        if any(short_name(name) in run.change for name in span):
            return True
        weights = self.unlisted.union(*(self.weights_of.get(name, set()) for name in span))
        get = self.model.tensors.__getitem__
        return any(changes_weight(change, name, get, run.config) for change in run.on_weight for name in weights)

    def within_noise(self, step: str, now: Error) -> bool:
        """Whether the port's step is as computed, but for noise.

        A wrong model has another noise floor than the golden's; so four times as much is allowed where what is left is less
        than a thousandth of what was to be explained.
        """
        if step in self.limits:
            return now.largest <= self.limits[step]
        before = self.results[step].own
        explained = before is not None and now.l2 * 1000 <= before.l2
        return now.noises <= self.factor * (4 if explained else 1)

    def is_right(self, step: str, now: Error) -> bool:
        return now.largest <= self.limits[step] if step in self.limits else now.noises <= self.factor

    def neighbourhood(self, step: str) -> tuple[str | None, list[str]]:
        """Where to start, and the dumped steps to look at: those of the step's own stage (embedding, block, or tail).

        The start is the last block boundary that the dump has before the step, or None for the pixels.
        """
        stage = stage_of(step)
        first = next(i for i, name in enumerate(self.order) if stage_of(name) == stage)
        boundaries = [name for name in self.order[:first] if name in borders(self.config) and name in self.port]
        hood = [name for name in self.order if stage_of(name) == stage and name in self.port]
        return (boundaries[-1] if boundaries else None), hood

    def errors(self, several: Sequence[Mistake], start: str | None, hood: Sequence[str]) -> dict[str, Error]:
        """The port's error at each step of `hood` against the model with these mistakes, run from the port's inputs."""
        key = (names(several), start, hood[-1])
        if key not in self.done:
            self.done[key] = self.run_with(several, start, hood)
        return self.done[key]

    def run_with(self, several: Sequence[Mistake], start: str | None, hood: Sequence[str]) -> dict[str, Error]:
        heard: dict[str, Array] = {}

        def hear(name: str, array: Array) -> None:
            if name in hood:
                heard[name] = array
                if len(heard) == len(hood):
                    raise Reached

        with np.errstate(all="ignore"):
            try:
                run = both(*(mistake.change for mistake in several))(Variation(self.config))
                self.replay(run, start, hood[-1], hear)
            except Reached:
                pass
            except (ValueError, KeyError):  # shapes that do not allow it, or mistakes that exclude each other
                return {}
        if any(array.shape != self.port[name].shape for name, array in heard.items()):
            return {}
        return {name: self.error_of(name, array) for name, array in heard.items()}

    def described(self, step: str, start: str | None) -> list[Description]:
        """What the difference of a wrong step from the right one is, computed from the port's own inputs."""
        seen: dict[str, Array] = {}

        def hear(name: str, array: Array) -> None:
            seen[name] = array
            if name == step:
                raise Reached

        with np.errstate(all="ignore"), contextlib.suppress(Reached):
            self.replay(Variation(self.config), start, step, hear)
        dims = self.results[step].dims
        inputs = {name: self.port.get(name, seen.get(name)) for name in self.made_of.get(step, ())}
        known = {name: array for name, array in inputs.items() if array is not None}
        if step not in seen:
            return []
        noise = self.floors[step]["step"]
        return describe(self.port[step], seen[step], dims, noise, inputs=known, factor=self.factor)

    def error_of(self, name: str, array: Array) -> Error:
        """How far the port's step is from this. Where a mask hides scores, ports have other large negative numbers for it."""
        port = self.port[name]
        if np.isneginf(array).any():
            port = np.where(np.isneginf(array) & (port < HIDDEN), -np.inf, port)
        return own_error(port, array, self.floors[name]["step"])

    def replay(self, run: Variation, start: str | None, end: str, hear: Callable[[str, Array], None]) -> None:
        """The forward pass from a block boundary on, with the changes of `run`, every step from the port's own inputs."""
        config = run.config
        last = stage_of(end)
        first_block = 0 if start is None or start.startswith("embed.") else int(str(start).split(".")[1]) + 1
        used = range(first_block, blocks_before_the_end_of(last, config))
        if run.backwards and last != "embed":
            start, used = self.backwards(last)
        weights = self.weights(run, used, start is None, last == "tail" or last.startswith("deepstack."))
        image = self.pixels.shape[2:]
        change = PortsOwn(self, run, hear)
        step = new_step(
            config, len(self.pixels), image, self.model.dtype, change=change, uses={**uses(config), **run.uses}, ways={}
        )
        weights, config = at_image_size(image, weights, config, step)
        if start is None:
            pixels = step("pixels", run.pixels(self.pixels) if run.pixels else self.pixels, "B C Y X")
            x = step.into("embed", paper.embed, pixels, weights.embed, config)
        else:
            x = change.seen[start] = self.port[start]
            block, _, name = start.rpartition(".")
            if name != run.block_output and block != "embed" and not run.backwards:  # a port whose blocks end otherwise
                before = self.model.weights.blocks[first_block - 1]
                x = norm(run.block_output, before, config)(x, step.under(block))
        for n in used:
            x = step.into(f"blocks.{n}", paper.encoder_block, x, weights.blocks[n], config)
        if last == "tail":
            outputs = step.into("", paper.classify, x, weights, config)
            merged_at_the_end(outputs, weights, config, step)
        elif last.startswith("deepstack.") and config.deepstack:
            step.into(last, merge, x, weights.deepstack[int(last.split(".")[1])], config.deepstack.merger, config)

    def backwards(self, last: str) -> tuple[str | None, range]:
        """Where to start, and the blocks to run, for this stage of a port that runs its last block first."""
        first = 0 if last == "tail" else int(last.split(".")[1])
        number = first
        while number + 1 < self.config.depth and f"blocks.{number + 1}.residual2" not in self.port:
            number += 1
        before = f"blocks.{number + 1}.residual2" if number + 1 < self.config.depth else embedding_output(self.config)
        return (before if before in self.port else None), range(number, first - 1, -1)

    def weights(self, run: Variation, blocks: range, with_embedding: bool, with_tail: bool) -> Weights:
        """The weights as the port has them, where they will be used."""
        if not run.on_weight:
            return self.model.weights
        tensors = dict(self.model.tensors)
        if run.config.without_bias != self.config.without_bias:  # one that the port may have, and the model has not
            shapes = parameter_shapes(run.config)
            tensors |= {name: np.zeros(shape) for name, shape in shapes.items() if name not in tensors}
        for change in run.on_weight:
            get = dict(tensors).__getitem__
            for name in tensors:
                block = int(name.split(".")[1]) if name.startswith("blocks.") else None
                use = block in blocks if block is not None else with_embedding if name.startswith("embed.") else with_tail
                changed = change(name, get, run.config) if use else None
                if changed is not None:
                    tensors[name] = changed
        return weights_tree(tensors, run.config)


class PortsOwn:
    """As `change` of a run: makes a step wrong as a Variation says, lets it be heard, and hands on what the port has for it."""

    def __init__(self, bench: Bench, run: Variation, hear: Callable[[str, Array], None]) -> None:
        self.bench = bench
        self.run = run
        self.hear = hear
        self.config = run.config
        self.seen: dict[str, Array] = {}
        self.stage = ""  # of the step that is being changed

    def __contains__(self, name: str) -> bool:
        return True

    def __getitem__(self, name: str) -> Any:
        return functools.partial(self.changed, name)

    def changed(self, name: str, array: Array) -> Array:
        self.stage, short = stage_of(name), short_name(name)
        if short == f"mlp.{activation_name(self.run.config)}":  # a mistake, and the golden, may name it otherwise
            short = f"mlp.{activation_name(self.bench.config)}"
            name = f"{self.stage}.{short}"
        if short in self.run.change:
            array = self.run.change[short](array, Earlier(self))
        array = np.ascontiguousarray(array)
        self.hear(name, array)
        self.seen[name] = array = self.bench.port.get(name, array)
        return array


class Earlier:
    """What a mistake sees of a run: earlier steps and weights by their name within the block (mistakes.Run)."""

    def __init__(self, so_far: PortsOwn) -> None:
        self.so_far = so_far
        self.config = so_far.config.for_image(so_far.bench.pixels.shape[2:])
        self.block = int(so_far.stage.split(".")[1]) if so_far.stage.startswith("blocks.") else -1

    def __getitem__(self, name: str) -> Array:
        seen, stage, bench = self.so_far.seen, self.so_far.stage, self.so_far.bench
        for arrays in (seen, bench.port):  # of another block, or of all
            if name in arrays and name.startswith("blocks."):
                return arrays[name]
        if name == "input":
            ends = borders(bench.config)
            return next(array for step, array in reversed(seen.items()) if step in ends and stage_of(step) != stage)
        if stage.startswith("deepstack."):
            name = name.replace("merger.", f"{stage}.", 1)
        full = f"{stage}.{name}" if stage.startswith("blocks.") and not name.startswith("embed.") else name
        if full in seen:
            return seen[full]
        return bench.model.tensors[full] if full in bench.model.tensors else bench.model.tensors[name]


def borders(config: ViTConfig) -> set[str]:
    """The steps from which alone everything after them follows."""
    return {embedding_output(config), *(f"blocks.{n}.residual2" for n in range(config.depth))}


def blocks_before_the_end_of(stage: str, config: ViTConfig) -> int:
    """How many blocks have been run when this stage is over."""
    if stage in ("embed", "tail"):
        return 0 if stage == "embed" else config.depth
    number = int(stage.split(".")[1])
    return (config.deepstack.blocks[number] if stage.startswith("deepstack.") and config.deepstack else number) + 1


def stage_of(step: str) -> str:
    """ "embed", "blocks.0", "deepstack.0", ..., or "tail" for what comes after the blocks."""
    if step == "pixels" or step.startswith("embed."):
        return "embed"
    return ".".join(step.split(".")[:2]) if step.startswith(("blocks.", "deepstack.")) else "tail"


def short_name(step: str) -> str:
    """The step's name within its block; of a deepstack's merger, as of the last one: they are mistaken alike."""
    stage = stage_of(step)
    if stage.startswith("deepstack."):
        return step.replace(stage, "merger")
    return step.removeprefix(f"{stage}.") if stage.startswith("blocks.") else step


@dataclasses.dataclass(frozen=True)
class Suspected:
    """A narrower format that a port, or one kind of step, seems to have been computed in."""

    format: str
    kind: str = ""  # "attention.probs", where only steps of this name look so


ALIKE = 0.1  # noise of a format is not less than this share of what was measured for it
MOST = 0.75  # of the steps must look so


def suspicion(checked: Check) -> Suspected | None:
    """The narrower format that the whole dump, or all that is wrong in it, looks like the work of; None where nothing does."""
    recorded = checked.golden.steps[0]["noise"]
    formats = [name for name in recorded if EPS.get(name, 1.0) > eps_of(checked.format) and name != checked.format]
    goldens = dict.fromkeys(formats, checked.golden)
    if looks_mixed(checked):
        goldens |= {name: with_noise_of(name, checked) for name in MIXED if name not in recorded}
    apart = {name: apart_from(name, checked, golden) for name, golden in goldens.items()}
    nearest = min(apart, key=lambda name: apart[name], default="")
    return Suspected(nearest) if nearest and math.isfinite(apart[nearest]) else suspicion_of_one(checked)


MIXED = ("tf32", "autocast")
"""Arithmetics whose noise is measured when it is asked whether a port was computed in them: some steps are float32's."""


def looks_mixed(checked: Check) -> bool:
    """Whether products are all off by about a rounding to 8 to 11 bits, so that asking for more is worth the time."""
    products = [r.own.l2 for r in checked.results if r.own and re.search(r"(query|key|value|hidden|projection)$", r.name)]
    return checked.model is not None and len(products) > 2 and all(2.0**-15 < size < 2.0**-5 for size in products)


def with_noise_of(name: str, checked: Check) -> Golden:
    """The golden with the noise floors of one more arithmetic."""
    golden, model = checked.golden, checked.model
    assert model is not None
    pixels = np.asarray(golden.arrays["pixels"], np.float64)
    exact = {"pixels": pixels, **model(pixels, record=True, resize_positions=True).steps}
    floors = noise_floors(model, exact, name)
    steps = [{**step, "noise": {**step["noise"], name: floors[step["name"]]}} for step in golden.steps]
    return golden._replace(manifest={**golden.manifest, "steps": steps})


def apart_from(format: str, checked: Check, golden: Golden) -> float:
    """How far the errors are from those of a format but for one factor, as a logarithm; infinite unless they are within its
    noise everywhere, and nearly everywhere not far below.

    One mistake is as large as the noise at some steps, but not at all: before it there is no error, and the steps after it
    are right by themselves.
    """
    floors, exact = noise_of(golden, format), golden.arrays
    results = [r for r in checked.results if r.run is not None]
    if max(r.run.noises for r in results if r.run) <= checked.factor:
        return math.inf
    worked = [r for r in results if is_work({"name": r.name})]
    far = {r.name: error(checked.arrays[r.name].array, np.asarray(exact[r.name]), floors[r.name]["run"]) for r in results}
    if len(worked) < 3 or any(e.noises > checked.factor for e in far.values()):
        return math.inf
    by_run = [far[r.name].l2 >= ALIKE * floors[r.name]["run"]["l2"] for r in worked]
    by_step = [r.own.l2 >= ALIKE * floors[r.name]["step"]["l2"] for r in worked if r.own and math.isfinite(r.own.l2)]
    if not by_run[0] or not all(not alike or sum(alike) >= MOST * len(alike) for alike in (by_run, by_step)):
        return math.inf
    pairs = [(r.own, floors[r.name]["step"]) for r in worked if r.own and math.isfinite(r.own.l2)]
    pairs = pairs or [(far[r.name], floors[r.name]["run"]) for r in worked]
    ratios = np.log([e.l2 / floor["l2"] for e, floor in pairs if e.l2 > 0] or [1.0])
    return float(np.abs(ratios - np.median(ratios)).mean())


def suspicion_of_one(checked: Check) -> Suspected | None:
    """The format that one kind of step was computed in, where only that kind is wrong, in every block, and as it would be.

    Rounding makes a step neither larger nor smaller as a whole: so it is told from a factor.
    """
    wrong = [r for r in checked.results if r.verdict == WRONG and r.own is not None and math.isfinite(r.own.l2)]
    kinds = {short_name(r.name) for r in wrong}
    alike = [r for r in checked.results if r.own is not None and short_name(r.name) in kinds]
    if len(kinds) != 1 or len(alike) < 2 or len(wrong) < MOST * len(alike):
        return None
    measured = {step["name"]: step["noise"] for step in checked.golden.steps}
    formats = [f for f in ("float16", "bfloat16") if EPS[f] > eps_of(checked.format) and f in measured[alike[0].name]]
    apart = {f: max(abs(math.log(factor_of(r, measured[r.name][f]))) for r in alike) for f in formats}
    if not apart or any(r.own is None or abs(r.own.gain) > 0.2 * r.own.l2 for r in alike):
        return None
    format = min(formats, key=lambda f: apart[f])
    return Suspected(format, kinds.pop()) if apart[format] <= math.log(checked.factor) else None


def factor_of(result: Result, noise: Mapping[str, Any]) -> float:
    """How many times what was measured of a format's noise in a step the error of this step is."""
    assert result.own is not None
    return max(result.own.l2, 1e-300) / max(noise["step"]["l2"], 1e-300)
