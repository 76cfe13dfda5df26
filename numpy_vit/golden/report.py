"""A check and a diagnosis on paper: text for a terminal, JSON, JUnit XML. The HTML page is report_page's."""

import dataclasses
import math
import textwrap
from collections.abc import Sequence
from typing import Any

from ..files.jsonfile import json_text
from ..writing.text import clean, fitted, shape_text
from .checking import INHERITED, MISSING, OK, UNCLEAR, WRONG, Check, Error, Result
from .conventions import Convention
from .describing import Description
from .diagnosing import Finding, Suspected, Tried, place
from .integers import Difference

COLOURS = {OK: 32, WRONG: 31, INHERITED: 33, UNCLEAR: 33, MISSING: 90}
ORDER = (
    "step", "shape", "dtype", "error", "noises", "own", "l2", "cosine", "worst", "golden", "port", "nan", "inf", "verdict",
)  # fmt: skip

UNEXPLAINED = 3  # so many are told in full


def number(x: float, digits: str = ".2e") -> str:
    return "" if math.isnan(x) else "inf" if math.isinf(x) else f"{x:{digits}}"


def value_text(result: Result) -> str:
    """The port's number where it is farthest off; NaN and infinity are told."""
    return "" if result.run is None else f"{result.port:.6g}"


def noises(error: Error | None) -> str:
    """An error in noise floors, short."""
    if error is None:
        return ""
    digits = ".1f" if error.noises < 100 else ",.0f" if error.noises < 1e6 else ".0e"
    return number(error.noises, digits)


def columns(results: Sequence[Result]) -> dict[str, tuple[str, list[str], bool]]:
    """Key -> heading, cells, whether they are numbers; the most important first."""
    found = [
        ("step", "step", [r.name for r in results], False),
        ("verdict", "verdict", [r.verdict for r in results], False),
        ("error", "max|a-b|/max|b|", [number(r.run.largest) if r.run else "" for r in results], True),
        ("noises", "noise floors", [noises(r.run) for r in results], True),
        ("own", "by itself", [noises(r.own) + ("*" if r.span and r.own else "") for r in results], True),
        ("shape", "shape", [f"{r.dims} = {shape_text(r.shape)}" for r in results], False),
        ("l2", "relative L2", [number(r.run.l2) if r.run else "" for r in results], True),
        ("cosine", "cosine", [number(r.cosine, ".9f") for r in results], True),
        ("nan", "NaN", [f"{r.nan:,}" if r.run else "" for r in results], True),
        ("inf", "Inf", [f"{r.inf:,}" if r.run else "" for r in results], True),
        ("worst", "worst at", [shape_text(r.worst) for r in results], False),
        ("golden", "golden", [number(r.golden, ".6g") for r in results], True),
        ("port", "port", [value_text(r) for r in results], True),
        ("dtype", "dtype", [r.dtype for r in results], False),
    ]  # fmt: skip
    return {key: (heading, cells, numbers) for key, heading, cells, numbers in found}


def check_text(checked: Check, width: int, colour: bool = False, brief: bool = False) -> str:
    """The table in the order of execution, and what it comes to. `brief`: only the steps that are not right."""
    results = [r for r in checked.results if not (brief and r.fits)]
    head, *body = fitted(columns(results), ORDER, width) if results else [""]
    if colour:
        head = f"\x1b[1m{head}\x1b[0m"
        body = [f"\x1b[{COLOURS[r.verdict]}m{text}\x1b[0m" for r, text in zip(results, body, strict=True)]
    table = [head, *body, ""] if results else []
    return "\n".join([*table, *(line for text in summary(checked) for line in textwrap.wrap(text, max(width, 40)))])


def summary(checked: Check) -> list[str]:
    """What a check comes to, in sentences."""
    said = [f"{checked.compared} of {len(checked.results)} steps compared, {counted(checked)}."]
    star = " (* from earlier ones, where the dump lacks some)" if any(r.span for r in checked.results) else ""
    said.append(
        f"Allowed: {checked.factor:g} noise floors of {checked.format} arithmetic; `by itself`: the step run again from the "
        f"port's own inputs{star}."
    )
    if checked.budgets:
        said.append(f"Budgets of your own instead: {', '.join(checked.budgets)}.")
    if checked.replayed:
        said.append(f"No step was run again, so wrong and inherited are not told apart: {checked.replayed}.")
    said += conventions_said(checked)
    first = checked.first
    if checked.hollow:
        said.append(nothing_compared(checked))
    elif first is None:
        said.append("Within budget.")
    else:
        said.append(f"First step out of budget: {first.name}: {blame(first)}.")
    return said


def nothing_compared(checked: Check) -> str:
    compared = ", ".join(result.name for result in checked.results if result.verdict != MISSING)
    return f"No success: only {compared} could be compared, which no weight has touched. Dump what the model computes."


def conventions_said(checked: Check) -> list[str]:
    """What a port does otherwise than the paper, without being wrong."""
    return [
        " ".join(["By convention, and not wrong:", c.text, f"[{c.name}]", place(c.steps, checked.arrays)]).strip()
        + "; compared after division by it."
        for c in checked.conventions
    ]


def counted(checked: Check) -> str:
    words = {OK: "right", WRONG: "wrong by themselves", INHERITED: "wrong by inheritance", UNCLEAR: "wrong"}
    counts = {verdict: sum(r.verdict == verdict for r in checked.results) for verdict in words}
    return ", ".join(f"{count} {words[verdict]}" for verdict, count in counts.items() if count)


def blame(result: Result) -> str:
    """Whose fault a step out of budget is."""
    assert result.run is not None
    if result.codes is not None and result.codes.differ:
        return codes_text(result.codes)
    if result.nan or result.inf:
        whose = ", which its inputs explain" if result.verdict == INHERITED else ""
        return f"{result.nan:,} NaN and {result.inf:,} infinite numbers{whose}"
    if result.verdict == WRONG:
        assert result.own is not None
        span = f" (somewhere after {', '.join(result.span)}: the dump has nothing in between)" if result.span else ""
        return f"wrong by itself, {number(result.own.largest)} = {noises(result.own)} noise floors from its own inputs{span}"
    how = f"{number(result.run.largest)} = {noises(result.run)} noise floors from the golden"
    if result.verdict == INHERITED:
        return f"right for its inputs, which have gone astray step by step; {how}"
    return how


def codes_text(codes: Difference) -> str:
    """How a step's integers differ."""
    first = f"the first at {shape_text(codes.first)}, {codes.port} instead of {codes.right}"
    said = f"{codes.differ:,} of {codes.count:,} codes differ, by {codes.by} at most; {first}"
    return "; ".join((said, *codes.meaning))


def check_data(checked: Check) -> dict[str, Any]:
    """A check as plain data; what is not finite is null."""
    first = checked.first
    return {
        "passed": checked.passed,
        "format": checked.format,
        "factor": checked.factor,
        "compared": checked.compared,
        "first": None if first is None else {"step": first.name, "verdict": first.verdict, "why": blame(first)},
        "unknown": list(checked.unknown),
        "replayed": not checked.replayed,
        "conventions": [dataclasses.asdict(convention) for convention in checked.conventions],
        "steps": [clean(dataclasses.asdict(result)) for result in checked.results],
    }


def as_json(data: Any) -> str:
    return json_text(data)


def junit(checked: Check) -> str:
    """JUnit XML, one test a step, for a CI server to show."""
    from xml.sax.saxutils import escape as text
    from xml.sax.saxutils import quoteattr

    cases = []
    for result in checked.results:
        inside = ""
        if result.verdict == MISSING:
            inside = "<skipped/>"
        elif not result.fits:
            inside = f"<failure message={quoteattr(blame(result))}>{text(blame(result))}</failure>"
        cases.append(f'  <testcase classname="golden" name={quoteattr(result.name)}>{inside}</testcase>')
    failures = sum(not result.fits for result in checked.results)
    skipped = len(checked.results) - checked.compared
    counts = f'tests="{len(cases)}" failures="{failures}" errors="0" skipped="{skipped}"'
    head = f'<?xml version="1.0" encoding="UTF-8"?>\n<testsuite name="numpy-vit golden check" {counts}>'
    return "\n".join([head, *cases, "</testsuite>\n"])


# Diagnosis


def diagnosis_text(findings: Sequence[Finding], checked: Check, suspected: Suspected | None, width: int) -> str:
    width = max(width, 40)
    said = [] if findings else textwrap.wrap(nothing_found(checked), width)
    said += [line for text in conventions_said(checked) for line in textwrap.wrap(text, width)]
    unexplained = [finding.step for finding in findings if finding.best is None]
    shown = [finding for finding in findings if finding.step not in unexplained[UNEXPLAINED:]]
    for n, finding in enumerate(shown, 1):
        said += textwrap.wrap(f"{n}. {shown_in(finding)}: {what(finding)}", width, subsequent_indent="   ")
        for text in evidence(finding):
            said += textwrap.wrap(text, width, initial_indent="   ", subsequent_indent="   ")
    if unexplained[UNEXPLAINED:]:
        said += textwrap.wrap(f"Unexplained as well: {', '.join(unexplained[UNEXPLAINED:])}.", width)
    if suspected:
        said += textwrap.wrap(suspicion_text(suspected, checked), width)
    return "\n".join(said)


def suspicion_text(suspected: Suspected, checked: Check) -> str:
    format = suspected.format
    if suspected.kind:
        return (
            f"{suspected.kind} alone is off as {format} would be, in every block: was that one operation computed in {format}?"
        )
    return f"All steps are off as {format} would be: was the port computed in {format} and stored as {checked.format}?"


def nothing_found(checked: Check) -> str:
    if checked.passed:
        return "Nothing to diagnose: every step is within budget."
    first = checked.first
    if first is None:
        return nothing_compared(checked)
    return (
        f"No step is wrong by itself: errors add up beyond the noise of a whole run, first at {first.name} ({blame(first)}). "
        "No single mistake explains that; less precise arithmetic would."
    )


def shown_in(finding: Finding) -> str:
    more = len(finding.steps) - 1
    return finding.step + (f" and {more} more step{'s' if more > 1 else ''}" if more > 0 else "")


def what(finding: Finding) -> str:
    if finding.tried == 0:
        return "it has NaN or infinite numbers, which no computation can be compared with"
    if finding.best is None:
        return f"none of the {finding.tried} ways tried explains it"
    return words(finding.best)


def words(tried: Tried) -> str:
    """What the port does, with the mistakes' names."""
    return "; and ".join(mistake.text for mistake in tried.mistakes) + f" [{' + '.join(m.name for m in tried.mistakes)}]"


def distance_text(error: Error) -> str:
    return f"{number(error.largest)} ({noises(error)} noise floors)"


def evidence(finding: Finding) -> list[str]:
    """Why it is believed, in sentences."""
    if finding.tried == 0 and not finding.before.largest < math.inf:
        return described(finding)
    said = [f"off by {distance_text(finding.before)} from the right computation on the port's own inputs"]
    if finding.best is None:
        said += described(finding)
        if not finding.nearest:
            said.append("and none comes nearer than the right computation")
        for tried in finding.nearest:
            left = f"{tried.error.l2 / finding.before.l2:.1%} of the difference is left"
            said.append(f"came near, but does not explain it ({left}, {distance_text(tried.error)}): {words(tried)}")
        return said
    said[0] += f"; with this mistake {distance_text(finding.best.error)}"
    if len(finding.steps) > 1:
        where = f"{finding.place}: " if finding.place else "in "
        said.append(f"shows {where}" + ", ".join(finding.steps[:8]) + (", ..." if len(finding.steps) > 8 else ""))
    elif finding.place:
        said.append(f"shows {finding.place}")
    if finding.best.broken:
        said.append(f"though it would show in {', '.join(finding.best.broken[:3])} too, and does not")
    for tried in finding.equals:
        said.append(f"this dump cannot tell it from: {words(tried)}")
    return said


def described(finding: Finding) -> list[str]:
    return [f"what differs: {description.text}" for description in finding.described]


def description_data(description: Description) -> dict[str, Any]:
    """What a difference is, as plain data."""
    return {
        "kind": description.kind,
        "text": description.text,
        "explains": description.explains,
        "places": {unit: list(places) for unit, places in description.places.items()},
    }


def diagnosis_data(
    findings: Sequence[Finding], suspected: Suspected | None, conventions: Sequence[Convention] = ()
) -> dict[str, Any]:
    """A diagnosis as plain data."""

    def plain(tried: Tried) -> dict[str, Any]:
        return {
            "mistakes": [{"name": m.name, "text": m.text} for m in tried.mistakes],
            "error": clean(dataclasses.asdict(tried.error)),
        }

    return {
        "findings": [
            {
                "step": finding.step,
                "steps": list(finding.steps),
                "place": finding.place,
                "error": clean(dataclasses.asdict(finding.before)),
                "explained": None if finding.best is None else plain(finding.best),
                "equally_good": [plain(tried) for tried in finding.equals],
                "nearest": [plain(tried) for tried in finding.nearest],
                "tried": finding.tried,
                "described": [description_data(description) for description in finding.described],
            }
            for finding in findings
        ],
        "conventions": [dataclasses.asdict(convention) for convention in conventions],
        "computed_in": None if suspected is None or suspected.kind else suspected.format,
        "one_operation_in": dataclasses.asdict(suspected) if suspected is not None and suspected.kind else None,
    }
