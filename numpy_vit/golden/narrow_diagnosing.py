"""What explains a port's wrong codes: a known mistake with integers, or one of the forward pass, quantised.

Every mistake of integers is computed from the port's own inputs and must give its codes (numpy_vit.golden.integer_mistakes).
What none of them explains is computed in real numbers with the mistakes of numpy_vit.golden.mistakes, from the port's own
inputs and the narrow weights, and brought to the step's integers.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..arithmetic.formats import quantise
from ..arithmetic.narrow import reals
from ..errors import InputError
from ..vit import ViT
from .checking import OK, WRONG, Check, Error, Result, error, run_again
from .describing import Description
from .diagnosing import Bench, Finding, Reached, Tried, diagnose, place
from .folder import SUMS
from .integer_mistakes import FEW, Explained, explain
from .integers import Case
from .mistakes import Mistake, Variation, mistakes
from .narrow_checking import NarrowCheck, as_codes, roundings

Array = Any
NEXT_TO = 0.02  # of a product's codes, so many may be one off where it was computed in real numbers


@dataclasses.dataclass
class Group:
    """Wrong steps that the same mistakes explain, each by itself."""

    first: Result
    explained: list[Explained]  # each of them explains all the steps
    steps: list[str]
    differ: int  # codes, of all the steps
    tried: int

    def takes(self, result: Result, explained: Sequence[Explained]) -> bool:
        """One more step, where something explains it as well as the others."""
        names = {e.name for e in explained}
        both = [e for e in self.explained if e.name in names]
        if not both:
            return False
        self.explained, self.differ = both, self.differ + differing(result)
        self.steps.append(result.name)
        return True

    @property
    def believed(self) -> bool:
        """Not where a few codes next to ties are all there is, which much else could have moved."""
        return self.differ >= FEW or not all(e.fine for e in self.explained)

    def finding(self) -> Finding:
        best, *equals = (as_tried(e, self.first.name) for e in self.explained)
        assert self.first.own is not None
        return Finding(self.first.name, self.first.own, best, tuple(equals), tuple(self.steps), (), self.tried)


def differing(result: Result) -> int:
    return 0 if result.codes is None else result.codes.differ


def as_tried(explained: Explained, step: str) -> Tried:
    return Tried((Mistake(explained.name, explained.text, lambda run: run),), Error(0.0, 0.0, 0.0, 0.0), (step,), ())


def diagnose_narrow(checked: NarrowCheck, progress: Callable[[str], None] = lambda what: None) -> list[Finding]:
    """Every wrong step, explained where a known mistake gives its codes.

    Raises InputError where the check had no model: nothing could be run again.
    """
    if checked.model is None:
        raise InputError(f"nothing can be diagnosed without the model: {checked.replayed}")
    wrong = [r for r in checked.results if r.verdict == WRONG and not r.name.endswith(SUMS)]  # sums show in what became of them
    coded = [r for r in wrong if r.name in checked.cases]
    groups, rest = grouped(coded, lambda r, names: explain(checked.cases[r.name], names), progress)
    for group in [group for group in groups if not group.believed]:
        groups.remove(group)
        rest += [(r, group.tried) for r in coded if r.name in group.steps]
    tried = {result.name: count for result, count in rest}
    forward = ForwardPass(checked, set(tried)) if rest else None
    unexplained: list[tuple[Result, int]] = []
    if forward is not None:
        more, unexplained = grouped([r for r in coded if r.name in tried], forward.explain, progress)
        groups += [group for group in more if group.believed]
        doubted = {step: group.tried for group in more if not group.believed for step in group.steps}
        unexplained += [(r, doubted[r.name]) for r in coded if r.name in doubted]
    findings = [group.finding() for group in groups]
    for result, count in unexplained:
        assert result.own is not None
        described = differences(result, forward)
        findings.append(
            Finding(result.name, result.own, None, (), (result.name,), (), count + tried[result.name], described=described)
        )
    in_floats = {result.name for result in wrong} - {result.name for result in coded}
    if in_floats:
        findings += diagnose(in_real_numbers(checked, in_floats), progress)
    findings = [dataclasses.replace(finding, place=place(finding.steps, checked.arrays)) for finding in findings]
    order = [result.name for result in checked.results]
    return sorted(findings, key=lambda finding: order.index(finding.step))


def differences(result: Result, forward: "ForwardPass | None") -> tuple[Description, ...]:
    """What the difference of a step's codes means, and what it is in real numbers."""
    meant = result.codes.meaning if result.codes is not None else ()
    said = [Description("codes", text, 1.0, {}) for text in meant]
    if forward is not None:
        start, _ = forward.bench.neighbourhood(result.name)
        said += forward.bench.described(result.name, start)
    return tuple(said)


Explain = Callable[[Result, frozenset[str] | None], tuple[list[Explained], int]]


def grouped(
    wrong: Sequence[Result], explain: Explain, progress: Callable[[str], None]
) -> tuple[list[Group], list[tuple[Result, int]]]:
    """Wrong steps by what explains them; and those that nothing does, with how many ways were tried.

    explain(result, names): what explains a step, of the mistakes that have these names, or of all; and how many were tried.
    """
    groups: list[Group] = []
    rest = []
    for result in wrong:
        progress(result.name)
        if any(group.takes(result, explain(result, frozenset(e.name for e in group.explained))[0]) for group in groups):
            continue
        found, tried = explain(result, None)
        if found:
            groups.append(Group(result, found, [result.name], differing(result), tried))
        else:
            rest.append((result, tried))
    return groups, rest


class ForwardPass:
    """The forward pass with mistakes, in real numbers from the port's own inputs, and what codes that makes."""

    def __init__(self, checked: NarrowCheck, wrong: set[str]) -> None:
        self.cases: Mapping[str, Case] = checked.cases
        self.wrong = wrong
        self.bench = Bench(in_real_numbers(checked, wrong))
        manifest, size = checked.golden.manifest, self.bench.pixels.shape[2:]
        self.known = mistakes(checked.golden.config, preprocess=manifest.get("preprocess"), size=size)
        self.done: dict[Any, dict[str, Array]] = {}
        self.rightly: dict[str, Array] = {}  # what is computed so without a mistake

    def explain(self, result: Result, names: frozenset[str] | None) -> tuple[list[Explained], int]:
        """The mistakes that give the port's codes at a step, and of these those that fit best around it."""
        start, hood = self.bench.neighbourhood(result.name)
        self.rightly = self.codes(Mistake("", "", lambda run: run), start, hood)
        span = self.bench.span(result.name)
        known = [m for m in self.known if (names is None or m.name in names) and self.bench.matters(m, span)]
        found = []
        for mistake in known:
            codes = self.codes(mistake, start, hood)
            if result.name in codes and self.fits(result.name, codes[result.name]):
                wrong = sum(self.fits(name, codes[name]) for name in hood if name in codes and name in self.wrong)
                broken = sum(not self.leaves(name, codes[name]) for name in hood if name in codes and name not in self.wrong)
                found.append((broken - wrong, self.missed(result.name, codes[result.name]), mistake))
        if not found:
            return [], len(known)
        best = min((rank, missed) for rank, missed, _ in found)
        good = [m for rank, missed, m in found if rank == best[0] and missed <= 1.5 * best[1] + 2]
        return [Explained(mistake.name, mistake.text, fine=True) for mistake in good], len(known)

    def missed(self, name: str, codes: Array) -> int:
        """How many of the port's codes are others."""
        return int((codes != self.cases[name].port).sum())

    def fits(self, name: str, codes: Array) -> bool:
        """Whether these are the port's codes, but for what lies next to a tie, and not the right ones."""
        case = self.cases[name]
        if codes.shape != case.port.shape or not np.abs(codes - case.port).max() <= 1:
            return False
        missed, before = self.missed(name, codes), self.missed(name, self.rightly[name])
        if case.exact:
            return missed <= NEXT_TO * codes.size and 5 * missed < before
        return case.explains(codes) and missed < before

    def leaves(self, name: str, codes: Array) -> bool:
        """Whether these are the codes of a step that is right."""
        if name not in self.cases or codes.shape != self.cases[name].port.shape:
            return True
        return bool(np.abs(codes - self.cases[name].port).max() <= 1) and self.missed(name, codes) <= NEXT_TO * codes.size

    def codes(self, mistake: Mistake, start: str | None, hood: Sequence[str]) -> dict[str, Array]:
        """The steps of a neighbourhood, computed with a mistake, as codes; none where it cannot be made there."""
        key = mistake.name, start, hood[-1]
        if key not in self.done:
            self.done[key] = self.run(mistake, start, hood)
        return self.done[key]

    def run(self, mistake: Mistake, start: str | None, hood: Sequence[str]) -> dict[str, Array]:
        heard: dict[str, Array] = {}

        def hear(name: str, array: Array) -> None:
            if name in hood:
                if name in self.cases:
                    grid = self.cases[name].grid
                    heard[name] = quantise(np.asarray(array), *grid, self.rounding)
                if name == hood[-1]:
                    raise Reached

        with np.errstate(all="ignore"):
            try:
                self.bench.replay(mistake.change(Variation(self.bench.config)), start, hood[-1], hear)
            except Reached:
                pass
            except (ValueError, KeyError, StopIteration):  # shapes that do not allow it
                return {}
        return heard

    @property
    def rounding(self) -> str:
        steps = next(iter(self.cases.values())).arithmetic.steps
        return "even" if steps is None else steps.rounding


def in_real_numbers(checked: NarrowCheck, wrong: set[str]) -> Check:
    """The same check of real numbers, for the mistakes of the forward pass: against the model with the narrow weights, in
    float64, where a step's noise is that of its own rounding."""
    golden, arithmetic = checked.golden, checked.golden.arithmetic
    narrow = checked.narrow
    assert narrow is not None and arithmetic is not None
    model = ViT(narrow.config, {name: np.array(tensor, np.float64) for name, tensor in narrow.tensors.items()})
    steps = [step for step in golden.steps if not step["name"].endswith(SUMS)]
    real = golden._replace(
        manifest={**golden.manifest, "steps": steps}, arrays={step["name"]: golden.real(step["name"]) for step in steps}
    )
    arrays, floors = {}, {}
    for step in steps:
        name = step["name"]
        grid, largest = golden.grids.get(name), float(np.abs(real.arrays[name]).max()) or 1.0
        if name in checked.arrays:
            codes = as_codes(golden, name, checked.arrays[name])
            whole = grid is not None and golden.arrays[name].dtype.kind in "iu"
            arrays[name] = checked.arrays[name]._replace(array=reals(codes, grid) if whole and grid else codes)
        unit = grid.scale / 2 / largest if grid else roundings(arithmetic)
        floors[name] = {of: {"largest": unit, "l2": unit, "gain": unit} for of in ("run", "step")}
    computed = run_again(model, real, arrays)
    results = []
    for result in checked.results:
        if result.name in computed and result.name in arrays:
            own = error(arrays[result.name].array, computed[result.name], floors[result.name]["step"])
            results.append(dataclasses.replace(result, own=own, verdict=WRONG if result.name in wrong else OK))
    return Check(tuple(results), arithmetic.name, checked.factor, (), (), "", arrays, real, model, floors)
