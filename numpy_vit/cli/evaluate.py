"""numpy-vit eval: how often the model is right on a folder of labelled pictures."""

import argparse
import contextlib
import json
import time
from pathlib import Path
from typing import Any

from ..errors import InputError, nearest
from ..files.outside import lines
from .arithmetic import add_arithmetic_options, narrow_model, refuse_without_arithmetic
from .common import BAD_INPUT, OK, note, summary
from .options import add, add_model_options
from .running import Runner, pictures


def add_parser(commands: Any) -> argparse.ArgumentParser:
    command = commands.add_parser(
        "eval",
        help="measure accuracy on labelled pictures",
        description="Measure top-1 and top-5 accuracy on DIR/<class>/<picture>. A class folder has the name of one of the "
        "model's labels, or the number of the class.",
    )
    command.add_argument("folder", metavar="DIR", help="a folder with one folder of pictures for each class")
    command.add_argument("--classes", metavar="FILE", help="the class folders' names, one a line, in the order of the classes")
    add_model_options(command, stops=True)
    add_arithmetic_options(command)
    add(command, "--json")
    return command


def run(arguments: argparse.Namespace) -> int:
    import numpy as np

    refuse_without_arithmetic(arguments)
    folder = Path(arguments.folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    folders = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise InputError(f"{folder}: no class folders in it (DIR/<class>/<picture> is expected)")
    runner = Runner(arguments)
    classes = class_numbers(runner.model, arguments.classes)
    truth: dict[Path, int] = {}
    for one in folders:
        if one.name.casefold() not in classes:
            raise InputError(f"{one}: no one class of the model is called '{one.name}'{nearest(one.name, classes)}")
        truth |= dict.fromkeys(pictures([str(one)]), classes[one.name.casefold()])
    if arguments.arithmetic is not None:
        runner.model, _ = narrow_model(arguments, runner.model, runner.model.preprocess, None)
    top1 = top5 = 0
    failed: dict[Any, str] = {}
    start = time.monotonic()
    with contextlib.closing(runner.batches(list(truth), failed, stop=arguments.strict)) as batches:
        for good, pixels in batches:
            best = np.argsort(-runner(pixels).logits, axis=-1, kind="stable")[:, :5]
            answers = np.array([truth[path] for path in good])
            top1 += int((best[:, 0] == answers).sum())
            top5 += int((best == answers[:, None]).any(axis=1).sum())
    count = len(truth) - len(failed)
    if not count:
        raise InputError(f"{folder}: no picture could be read")
    note(summary(count, time.monotonic() - start, len(failed)))
    if arguments.json:
        print(json.dumps({"pictures": count, "unreadable": len(failed), "top1": top1 / count, "top5": top5 / count}))
    else:
        print(f"{count} pictures, {len(folders)} classes")
        print(f"top-1  {100 * top1 / count:6.2f} %  ({top1} right)")
        print(f"top-5  {100 * top5 / count:6.2f} %  ({top5} right)")
    return BAD_INPUT if failed else OK


def class_numbers(model: Any, classes: str | None) -> dict[str, int]:
    """Every name a class folder may have, in lower case -> its class number. A name of two classes is left out."""
    count = model.config.classes
    if not count:
        raise InputError("this model has no classification head: there is nothing to evaluate")
    if classes is not None:
        names = lines(classes)
        if len(names) != count:
            raise InputError(f"{classes}: {len(names)} lines, the model has {count} classes")
        numbers = {name.strip().casefold(): number for number, name in enumerate(names)}
        if len(numbers) != count:
            raise InputError(f"{classes}: a name stands there twice")
        return numbers
    labels = [label.casefold() for label in model.labels or []]
    if not any(label.isdigit() for label in labels):  # else a number is a name, not a class number
        labels += [""] * (count - len(labels))
        numbers = {str(number): number for number in range(count)}
    else:
        numbers = {}
    for spelling in (labels, [label.split(",")[0].strip() for label in labels]):  # "tench, Tinca tinca"
        for number, name in enumerate(spelling):
            if name and spelling.count(name) == 1:
                numbers.setdefault(name, number)
    return numbers
