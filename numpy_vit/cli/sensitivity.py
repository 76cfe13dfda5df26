"""numpy-vit golden sensitivity: what to leave in more bits."""

import argparse
from typing import Any

from ..config import DIGITS
from ..errors import InputError
from .arithmetic import add_arithmetic_options, narrow_model, refuse_without_arithmetic
from .common import OK, Progress, check_output, refuse, terminal_width
from .models import open_weights
from .options import add
from .running import in_batches, pictures

DEFAULT = "int8-onnx"


def add_parser(actions: Any) -> argparse.ArgumentParser:
    command = actions.add_parser(
        "sensitivity",
        help="which step bears being narrow, and which does not",
        description="Run a model with one step after another, and one matrix of weights after another, alone in an "
        "arithmetic's numbers: the signal-to-noise ratio at the output, and how often the best class stays.",
    )
    command.add_argument("pictures", nargs="+", metavar="PICTURE", help="pictures, or folders of them")
    add(command, "--weights", default=DIGITS)
    add(command, "--preprocessor", "--size")
    add_arithmetic_options(command)
    command.set_defaults(arithmetic=DEFAULT)
    command.add_argument("--steps", action="append", metavar="PATTERN", help="only these, e.g. 'blocks.0.*'; may be repeated")
    command.add_argument(
        "--limit", type=int, metavar="N", help="of many pictures take N, spread evenly (default: 64)", default=64
    )
    command.add_argument("--picture", metavar="FILE", help="also draw it, as SVG")
    add(command, "--json")
    return command


def run(arguments: argparse.Namespace) -> int:
    from ..files.jsonfile import json_text
    from ..files.tensorfile import replacing
    from ..golden import sensitivity as found

    refuse_without_arithmetic(arguments)
    refuse((arguments.limit < 1, "--limit: 1 or more"))
    if arguments.picture is not None:
        check_output(arguments.picture)
    checkpoint = open_weights(arguments.weights, arguments.preprocessor, arguments.size)
    if checkpoint.preprocess is None:
        raise InputError(f"{arguments.weights}: does not say how pictures are prepared: give --preprocessor")
    model = checkpoint.model("float32")
    paths = pictures(arguments.pictures)
    paths = paths[:: max(1, len(paths) // arguments.limit)][: arguments.limit]
    import numpy as np

    batches = [np.concatenate(several) for _, several in in_batches((path, model.preprocess(path)) for path in paths)]
    narrow, _ = narrow_model(arguments, model, model.preprocess, batches)
    progress = Progress(0)
    try:
        rows = found.sensitivity(
            model,
            batches,
            narrow.arithmetic,
            narrow.grids,
            steps=arguments.steps or ("*",),
            progress=lambda share, what: progress.say(f"{100 * share:.0f} %: {what}"),
        )
    finally:
        progress.clear()
    if not rows:
        raise InputError(f"arithmetic {narrow.arithmetic.name} narrows nothing of this model")
    title = f"{arguments.weights} in {narrow.arithmetic.name}, {len(paths)} pictures"
    if arguments.picture is not None:
        with replacing(arguments.picture) as target:
            target.write(found.svg(rows, title).encode())
    if arguments.json:
        print(json_text({"arithmetic": narrow.arithmetic.name, "pictures": len(paths), "steps": found.data(rows)}))
    else:
        print(found.text(rows, terminal_width()))
    return OK
