"""The HTML page of a check and its diagnosis: one file that loads nothing.

The page is report.html, beside this file, with what is known filled in as JSON. Sentences are made in the page, in English
and Chinese; what cannot be made there (what the known mistakes are) comes as pairs: English, Chinese.

A heat map is one byte a cell: how many noise floors |a - b| is, on a logarithmic scale of CODES steps a decade; 0 is up to
one floor, NOT_FINITE a NaN or infinity of the port. A map larger than the page keeps is made smaller, each cell the largest
of what it covers, so that nothing is lost from sight.
"""

import base64
import dataclasses
import html as markup
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..writing.template import filled, script_data
from .checking import MISSING, Check, Error, Result
from .diagnosing import Finding, Suspected, Tried
from .report_zh import convention_in_chinese, difference_in_chinese, in_chinese

Array = Any
CODES, LARGEST_CODE, NOT_FINITE = 12, 254, 255
CELLS = 8192  # of a step's maps
HEADS = 16  # so many have a map each; of more the worst of all heads is shown
LANGUAGES = {"en": "en", "zh": "zh-CN"}


def html(
    checked: Check,
    dump: str,
    *,
    findings: Sequence[Finding] | None = None,
    suspected: Suspected | None = None,
    language: str = "en",
) -> str:
    """The page, as text.

    dump        what the port's dump is called
    findings    of numpy_vit.golden.diagnosing.diagnose; None where it was not asked
    suspected   of numpy_vit.golden.diagnosing.suspicion
    language    it opens in: "en" or "zh"
    """
    facts = page_facts(checked, dump) | {
        "findings": None if findings is None else [finding_facts(finding) for finding in findings],
        "suspected": None if suspected is None else suspected.format,
        "kind": "" if suspected is None else suspected.kind,
        "language": language,
    }
    title = markup.escape(f"{dump}: numpy-vit golden check")
    parts = {"language": LANGUAGES[language], "title": title, "facts": script_data(facts)}
    return filled(Path(__file__).with_name("report.html"), parts)


def page_facts(checked: Check, dump: str) -> dict[str, Any]:
    """What the page knows of a check."""
    from .. import __version__

    steps = [step_facts(checked, result) for result in checked.results]
    first = next((n for n, result in enumerate(checked.results) if not result.fits), None)
    manifest = checked.golden.manifest
    return {
        "dump": dump,
        "golden": str(checked.golden.folder),
        "model": manifest.get("model"),
        "precision": manifest.get("precision"),
        "passed": checked.passed,
        "format": checked.format,
        "factor": checked.factor,
        "first": first,
        "unknown": list(checked.unknown),
        "budgets": list(checked.budgets),
        "hollow": checked.hollow,
        "conventions": [
            {"name": c.name, "text": (c.text, convention_in_chinese(c.text)), "steps": c.steps} for c in checked.conventions
        ],
        "not_replayed": checked.replayed,
        "codes": CODES,
        "decades": decades(steps),
        "steps": steps,
        "version": __version__,
    }


def step_facts(checked: Check, result: Result) -> dict[str, Any]:
    """What the page shows of one step."""
    entry = next(step for step in checked.golden.steps if step["name"] == result.name)
    facts: dict[str, Any] = {
        "name": result.name,
        "verdict": result.verdict,
        "dims": result.dims,
        "shape": result.shape,
        "formula": entry.get("formula", ""),
        "inputs": entry.get("inputs", []),
    }
    if result.verdict == MISSING:
        return facts
    return facts | {
        "theirs": result.theirs,
        "dtype": result.dtype,
        "run": error_facts(result.run),
        "own": error_facts(result.own),
        "span": result.span,
        "cosine": result.cosine,
        "worst": result.worst,
        "values": [plain(result.golden), plain(result.port)],
        "nan": result.nan,
        "inf": result.inf,
        "map": error_map(checked, result),
    }


def plain(x: float) -> float | str:
    """A number that JSON can hold, or the word for one that it cannot."""
    return x if math.isfinite(x) else str(x)


def error_facts(error: Error | None) -> dict[str, float | str] | None:
    return None if error is None else {key: plain(value) for key, value in dataclasses.asdict(error).items()}


def decades(steps: Sequence[Mapping[str, Any]]) -> int:
    """How many powers of ten above one noise floor the page's scale must reach; at least 4."""
    noises = [step[of]["noises"] for step in steps for of in ("run", "own") if step.get(of)]
    finite = [noise for noise in noises if not isinstance(noise, str)]
    cells = [step["map"]["largest"] / CODES for step in steps if "map" in step]
    return math.ceil(max([4, *cells, *(math.log10(noise) for noise in finite if noise > 1)]))


# Heat maps


def error_map(checked: Check, result: Result) -> dict[str, Any]:
    """Where a step's errors lie, in floors of the whole run's noise: of the picture that has the worst, a panel a head."""
    port, exact = checked.arrays[result.name].array, np.asarray(checked.golden.arrays[result.name], np.float64)
    letters = result.dims.split()
    picture = None
    scale = float(np.abs(exact).max()) or 1.0
    if letters[0] == "B":
        picture, letters = result.worst[0], letters[1:]
        port, exact = port[picture], exact[picture]
    with np.errstate(all="ignore"):
        floors = np.abs(port - exact) / (scale * checked.floors[result.name]["run"]["largest"])
    panels = panels_of(np.where(np.isfinite(floors), floors, np.inf), letters[:1] == ["H"])
    side = math.isqrt(CELLS // len(panels))
    rows, columns = (64, CELLS // 64) if len(panels) == 1 else (side, side)
    small = np.stack([coarse(panel, rows, columns) for panel in panels])
    codes = coded(small)
    return {
        "picture": picture,
        "heads": letters[0] == "H" and len(panels) > 1,
        "letters": letters[-2:] if len(letters) > 1 else ["", *letters],
        "panels": len(small),
        "rows": small.shape[1],
        "columns": small.shape[2],
        "shape": panels.shape[1:],
        "largest": int(codes[codes != NOT_FINITE].max(initial=0)),
        "codes": base64.b64encode(codes.tobytes()).decode("ascii"),
    }


def panels_of(x: Array, heads: bool) -> Array:
    """The numbers of one picture -> matrices (n, rows, columns): one a head, or one, the worst of all that are there."""
    matrices = x.reshape(-1, *((1,) * (2 - x.ndim)), *x.shape[-2:])
    return matrices if heads and len(matrices) <= HEADS else matrices.max(axis=0, keepdims=True)


def coded(floors: Array) -> Array:
    """Noise floors -> bytes, of the same shape."""
    with np.errstate(all="ignore"):
        codes = np.clip(np.ceil(np.log10(floors) * CODES), 0, LARGEST_CODE)
    codes[np.isinf(floors)] = NOT_FINITE
    return codes.astype(np.uint8)


def coarse(x: Array, rows: int, columns: int) -> Array:
    """A matrix made smaller, each cell the largest of what it covers."""
    for axis, count in ((0, rows), (1, columns)):
        if x.shape[axis] > count:
            starts = np.arange(count) * x.shape[axis] // count
            x = np.maximum.reduceat(x, starts, axis=axis)
    return x


# The diagnosis


def finding_facts(finding: Finding) -> dict[str, Any]:
    """What the page says of one finding."""
    return {
        "step": finding.step,
        "steps": finding.steps,
        "before": error_facts(finding.before),
        "tried": finding.tried,
        "best": None if finding.best is None else tried_facts(finding.best),
        "equals": [tried_facts(tried) for tried in finding.equals],
        "nearest": [tried_facts(tried) for tried in finding.nearest],
        "described": [(description.text, difference_in_chinese(description.text)) for description in finding.described],
    }


def tried_facts(tried: Tried) -> dict[str, Any]:
    return {
        "names": [mistake.name for mistake in tried.mistakes],
        "texts": [(mistake.text, in_chinese(mistake.text)) for mistake in tried.mistakes],
        "error": error_facts(tried.error),
    }
