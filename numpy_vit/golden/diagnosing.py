"""Which known mistake reproduces a port's numbers.

Every wrong step is computed again from the port's own inputs under each mistake of numpy_vit.golden.mistakes, alone, together
with what was found before, and at last in pairs. A mistake is named only where it brings the port's step within the noise of
a correct one, and far nearer than without it; what nothing explains is said to be unexplained, with what came nearest.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import model as paper
from ..arithmetic.rounded import EPS
from ..config import ViTConfig
from ..errors import InputError
from ..families import activation_name, at_image_size, embedding_output, norm, uses
from ..merging import merge, merged_at_the_end
from ..parameters import Weights, parameter_shapes, weights_tree
from ..vit import new_step
from .checking import WRONG, Check, Error, error, noise_of
from .describing import Description, describe
from .mistakes import Mistake, Variation, both, mistakes

Array = Any
PAIRS_OF = 8  # so many of the nearest mistakes are tried together with every other
CHANCE = 1e-3  # how likely any of the ways tried may fit by chance


@dataclasses.dataclass(frozen=True)
class Tried:
    """One way of computing a wrong step, and how far the port is from it."""

    mistakes: tuple[Mistake, ...]
    error: Error  # of the wrong step
    explained: tuple[str, ...]  # the wrong steps of its neighbourhood that it explains
    broken: int  # the right steps of its neighbourhood that it makes wrong

    @property
    def rank(self) -> tuple[int, int]:
        """Explains most and breaks least, with fewest mistakes: the lower, the better."""
        return self.broken - len(self.explained), len(self.mistakes)


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
    described: tuple[Description, ...] = ()  # and what the difference is


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
    return findings


def names(several: Sequence[Mistake]) -> tuple[str, ...]:
    return tuple(mistake.name for mistake in several)


def explain(case: "Case", known: Sequence[Mistake], found: tuple[Mistake, ...], pairs: bool) -> Finding:
    """Look for the mistake that explains a wrong step: among those found before, the known ones alone, and pairs of them."""
    if not case.finite:
        return case.unexplained([])
    again = case.explaining([(mistake,) for mistake in found] + [found] * (len(found) > 1))
    again = [tried for tried in again if not tried.broken]
    if again:  # several only where that is clearly better
        best = min(again, key=lambda tried: tried.error.l2 * len(tried.mistakes))
        return case.explained(best, [])
    tries = case.attempts([(m,) for m in known] + [(*found, m) for m in known if found and m not in found])
    if pairs and not any(map(case.explains, tries)):
        nearest = sorted(tries, key=lambda tried: tried.error.l2)[:PAIRS_OF]
        two = {
            frozenset(names((*one.mistakes, m))): (*one.mistakes, m) for one in nearest for m in known if m not in one.mistakes
        }
        tries += case.attempts(list(two.values()))
    good = sorted(filter(case.explains, tries), key=lambda tried: (*tried.rank, tried.error.l2))
    if not good:
        return case.unexplained(tries)
    equals = [t for t in good if t.rank == good[0].rank and t.error.l2 <= 1.05 * good[0].error.l2]
    equals.sort(key=lambda tried: [known.index(mistake) for mistake in tried.mistakes])
    return case.explained(equals[0], equals[1:])


class Case:
    """One wrong step: what is looked at around it, and what would explain it."""

    def __init__(self, bench: "Bench", step: str, wrong: Sequence[str]) -> None:
        self.bench = bench
        self.step = step
        self.start, self.hood = bench.neighbourhood(step)
        self.wrong = [name for name in wrong if name in self.hood]
        self.right = {n for n, e in bench.errors((), self.start, self.hood).items() if e.noises <= bench.factor}
        self.finite = bool(np.isfinite(bench.port[step]).all())
        self.tried = 0
        own = bench.results[step].own
        assert own is not None  # it is wrong by itself
        self.before: Error = own

    def attempts(self, sets: Sequence[tuple[Mistake, ...]]) -> list[Tried]:
        """The step computed with each set of mistakes; those that cannot be are left out."""
        self.tried += len(sets)
        found = []
        for several in sets:
            errors = self.bench.errors(several, self.start, self.hood)
            good = {name for name, e in errors.items() if self.bench.within_noise(name, e)}
            if self.step in errors:
                explained = tuple(name for name in self.wrong if name in good)
                found.append(Tried(several, errors[self.step], explained, len(self.right - good)))
        return found

    def explains(self, tried: Tried) -> bool:
        """Whether the port's step is within noise of this one, and far nearer to it than to the right one."""
        return self.step in tried.explained and 2 * tried.error.noises <= self.before.noises and self.no_accident(tried)

    def no_accident(self, tried: Tried) -> bool:
        """Whether a fit this close is unlikely by chance: with few numbers and much noise, one of many ways soon fits.

        That `count` numbers all come `ratio` times nearer by chance has a probability of about ratio ** -count.
        """
        ratio = self.before.l2 / max(tried.error.l2, 1e-300)
        return self.bench.port[self.step].size * math.log(ratio) >= math.log(self.tried / CHANCE)

    def explaining(self, sets: Sequence[tuple[Mistake, ...]]) -> list[Tried]:
        return [tried for tried in self.attempts(sets) if self.explains(tried)]

    def explained(self, best: Tried, equals: Sequence[Tried]) -> Finding:
        return Finding(self.step, self.before, best, tuple(equals), best.explained, (), self.tried)

    def unexplained(self, tries: Sequence[Tried]) -> Finding:
        nearer = (tried for tried in tries if tried.error.l2 < 0.5 * self.before.l2)
        nearest = sorted(nearer, key=lambda tried: tried.error.l2)[:3]
        described = tuple(self.bench.described(self.step, self.start))
        return Finding(self.step, self.before, None, (), (self.step,), tuple(nearest), self.tried, described)


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
        self.steps = golden.steps
        self.order = [step["name"] for step in golden.steps]
        self.port = {name: aligned.array for name, aligned in checked.arrays.items()}
        self.pixels = np.asarray(golden.arrays["pixels"], np.float64)
        self.floors = checked.floors
        self.done: dict[Any, dict[str, Error]] = {}

    def within_noise(self, step: str, now: Error) -> bool:
        """Whether the port's step is as computed, but for noise.

        A wrong model has another noise floor than the golden's; so four times as much is allowed where what is left is less
        than a thousandth of what was to be explained.
        """
        before = self.results[step].own
        explained = before is not None and now.l2 * 1000 <= before.l2
        return now.noises <= self.factor * (4 if explained else 1)

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
        return {name: error(self.port[name], array, self.floors[name]["step"]) for name, array in heard.items()}

    def described(self, step: str, start: str | None) -> list[Description]:
        """What a wrong step's difference is from the right one on the port's own inputs."""
        entry = next(entry for entry in self.steps if entry["name"] == step)
        seen = {} if start is None else {start: self.port[start]}
        right: list[Array] = []

        def hear(name: str, array: Array) -> None:
            seen[name] = self.port.get(name, array)
            if name == step:
                right.append(array)
                raise Reached

        with np.errstate(all="ignore"), contextlib.suppress(Reached):
            self.replay(Variation(self.config), start, step, hear)
        if not right:
            return []
        inputs = {name: seen[name] for name in entry["inputs"] if name in seen}
        noise = self.floors[step]["step"]
        return describe(self.port[step], right[0], entry["dims"], noise, inputs=inputs, factor=self.factor)

    def replay(self, run: Variation, start: str | None, end: str, hear: Callable[[str, Array], None]) -> None:
        """The forward pass from a block boundary on, with the changes of `run`, every step from the port's own inputs."""
        config = run.config
        last = stage_of(end)
        first_block = 0 if start is None or start.startswith("embed.") else int(str(start).split(".")[1]) + 1
        used = range(first_block, blocks_before_the_end_of(last, config))
        weights = self.weights(run, used, start is None, last == "tail" or last.startswith("deepstack."))
        image = self.pixels.shape[2:]
        change = PortsOwn(self, run, hear)
        step = new_step(
            config, len(self.pixels), image, self.model.dtype, change=change, uses={**uses(config), **run.uses}, ways={}
        )
        weights, config = at_image_size(image, weights, config, step)
        if start is None:
            pixels = step("pixels", run.pixels(self.pixels), "B C Y X")
            x = step.into("embed", paper.embed, pixels, weights.embed, config)
        else:
            x = change.seen[start] = self.port[start]
            block, _, name = start.rpartition(".")
            if name != run.block_output and block != "embed":  # a port whose blocks end otherwise
                before = self.model.weights.blocks[first_block - 1]
                x = norm(run.block_output, before, config)(x, step.under(block))
        for n in used:
            x = step.into(f"blocks.{n}", paper.encoder_block, x, weights.blocks[n], config)
        if last == "tail":
            outputs = step.into("", paper.classify, x, weights, config)
            merged_at_the_end(outputs, weights, config, step)
        elif last.startswith("deepstack.") and config.deepstack:
            step.into(last, merge, x, weights.deepstack[int(last.split(".")[1])], config.deepstack.merger, config)

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
        self.stage = stage_of(name)
        short = name.removeprefix(f"{self.stage}.") if self.stage.startswith("blocks.") else name
        if self.stage.startswith("deepstack."):  # mergers too, and mistaken like the last one
            short = name.replace(self.stage, "merger")
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

    def __getitem__(self, name: str) -> Array:
        seen, stage, bench = self.so_far.seen, self.so_far.stage, self.so_far.bench
        if name == "input":
            ends = borders(bench.config)
            return next(array for step, array in reversed(seen.items()) if step in ends and stage_of(step) != stage)
        if stage.startswith("deepstack."):
            name = name.replace("merger.", f"{stage}.", 1)
        full = f"{stage}.{name}" if stage.startswith("blocks.") and not name.startswith("embed.") else name
        return seen[full] if full in seen else bench.model.tensors[full]


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


def suspicion(checked: Check) -> str | None:
    """The narrower format that a dump looks like the work of: beyond its own format's noise, but all within that one's."""
    own = [result.run.noises for result in checked.results if result.run]
    for format in ("float32", "float16", "bfloat16"):
        wider = EPS[format] > EPS[checked.format]
        if wider and max(own) > checked.factor and format in checked.golden.steps[0]["noise"]:
            floors = noise_of(checked.golden, format)
            exact = checked.golden.arrays
            errors = (error(a.array, np.asarray(exact[name]), floors[name]["run"]) for name, a in checked.arrays.items())
            if all(e.noises <= checked.factor for e in errors):
                return format
    return None
