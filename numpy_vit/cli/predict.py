"""numpy-vit predict: what is on a picture."""

import argparse
import contextlib
from typing import Any

from ..errors import InputError
from ..files.jsonfile import json_text
from .common import Runner, add_model_options, note, pictures, printable


def add_parser(commands: Any) -> argparse.ArgumentParser:
    command = commands.add_parser("predict", help="classify pictures", description="Classify pictures.")
    command.add_argument("images", nargs="*", metavar="IMAGE", help="picture files or folders (default: the shipped samples)")
    add_model_options(command)
    command.add_argument("--top", type=int, default=3, metavar="K", help="how many classes to show (default: 3)")
    command.add_argument("--json", action="store_true", help="print JSON")
    return command


def run(arguments: argparse.Namespace) -> int:
    if arguments.top < 1:
        raise InputError(f"--top: {arguments.top} is not a number of classes")
    images = arguments.images
    if not images:
        from ..files.converted import shipped

        images = [str(shipped("samples"))]
        if not arguments.json:
            note("no picture given: these are the shipped samples, named after the digit on them")
    paths = pictures(images)
    runner = Runner(arguments)
    if not runner.model.config.classes:
        raise InputError(f"{arguments.weights}: has no classification head: use `numpy-vit embed`")
    failed: dict[Any, str] = {}
    rows = []
    with contextlib.closing(runner.batches(paths, failed)) as batches:
        for good, pixels in batches:
            for path, logits in zip(good, runner(pixels).logits, strict=True):
                best = top(logits, arguments.top, runner.model.labels)
                rows.append({"image": str(path), "top": best})
                if not arguments.json:
                    answers = (f"{printable(b['label'])} {100 * b['probability']:.1f} %" for b in best)
                    print(f"{printable(str(path))}  {', '.join(answers)}")
    if arguments.json:
        rows += [{"image": str(path), "error": error} for path, error in failed.items()]
        print(json_text(rows))
    return 2 if failed else 0


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
