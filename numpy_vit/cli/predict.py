"""numpy-vit predict: what is on a picture."""

import argparse
import contextlib
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files.jsonfile import json_text
from .common import BAD_INPUT, OK, note, printable
from .options import add, add_model_options
from .running import Runner, pictures


def add_parser(commands: Any) -> argparse.ArgumentParser:
    command = commands.add_parser("predict", help="classify pictures", description="Classify pictures.")
    command.add_argument("images", nargs="*", metavar="IMAGE", help="picture files or folders (default: the shipped samples)")
    add_model_options(command)
    add(command, "--top", default=3)
    add(command, "--json")
    return command


def run(arguments: argparse.Namespace) -> int:
    from ..files.converted import shipped

    samples = shipped("samples")
    paths = pictures(arguments.images or [str(samples)])
    runner = Runner(arguments)
    if not runner.model.config.classes:
        raise InputError(f"{arguments.weights}: has no classification head: use `numpy-vit embed`")
    if not arguments.images and not arguments.json:
        note("no picture given: these are the shipped samples, in folders named after the digit on them")
    failed: dict[Any, str] = {}
    rows = []
    with contextlib.closing(runner.batches(paths, failed)) as batches:
        for good, pixels in batches:
            for path, logits in zip(good, runner(pixels).logits, strict=True):
                best = top(logits, arguments.top, runner.model.labels)
                rows.append({"image": str(path), "top": best})
                if not arguments.json:
                    name, remark = (path, "") if arguments.images else of_sample(path, samples, best, runner.model.labels)
                    answers = (f"{printable(b['label'])} {100 * b['probability']:.1f} %" for b in best)
                    print(f"{printable(str(name))}  {', '.join(answers)}{remark}")
    if arguments.json:
        rows += [{"image": str(path), "error": error} for path, error in failed.items()]
        print(json_text(rows))
    return BAD_INPUT if failed else OK


def of_sample(path: Path, samples: Path, best: list[dict[str, Any]], labels: list[str] | None) -> tuple[Path, str]:
    """A shipped sample's short name, and what is to be said of a wrong answer."""
    truth = path.parent.name
    wrong = truth in (labels or []) and best[0]["label"] != truth
    return path.relative_to(samples), f"  <- wrong, it is a {truth}; `numpy-vit explain` shows how that came" if wrong else ""


def top(logits: Any, count: int, labels: list[str] | None) -> list[dict[str, Any]]:
    """The `count` likeliest classes, likeliest first."""
    import numpy as np

    from ..ops import softmax

    probs = softmax(logits.astype(np.float64))
    order = np.argsort(-probs, kind="stable")[:count]
    return [
        {"class": int(i), "label": labels[i] if labels else str(i), "probability": float(probs[i]), "logit": float(logits[i])}
        for i in order
    ]
