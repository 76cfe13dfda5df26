"""numpy-vit lens: what a model would answer after every block, and which of its heads and MLPs have brought the answer."""

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, about, nearest, shortened
from ..files.jsonfile import json_text
from .common import BAD_INPUT, OK, check_output, note, printable, refuse
from .options import add, add_model_options
from .predict import top
from .running import Runner, pictures

if TYPE_CHECKING:
    from PIL.Image import Image

Found = dict[str, Any]


def add_parser(commands: Any) -> argparse.ArgumentParser:
    command = commands.add_parser(
        "lens",
        help="what a model would answer after every block, and what has brought its answer",
        description="Show the logit lens: the likeliest classes after every block, and where the model changes its mind; and "
        "which heads and MLPs have added most to a class's logit (direct attribution, the last norm's scale held).",
    )
    command.add_argument("images", nargs="+", metavar="IMAGE", help="picture files or folders")
    command.add_argument("-o", "--output", metavar="PNG", help="draw it, of one picture")
    command.add_argument(
        "--attribute", metavar="CLASS", help="the class, by label or number (default: the picture's likeliest)"
    )
    add_model_options(command)
    add(command, "--top", default=3, help="how many classes, and heads and MLPs, to show (default: %(default)s)")
    add(command, "--json")
    return command


def run(arguments: argparse.Namespace) -> int:
    from ..lens import check_is_a_sum

    paths = pictures(arguments.images)
    if arguments.output is not None:
        check_output(arguments.output, ".png")
        refuse((len(paths) > 1, f"-o draws one picture: these are {len(paths)}"))
    runner = Runner(arguments)
    if not runner.model.config.classes:
        raise InputError(f"{arguments.weights}: has no classification head: there is nothing that a lens could read")
    wanted = None if arguments.attribute is None else class_called(arguments.attribute, runner.model)
    attributed = True
    try:
        check_is_a_sum(runner.model.config)
    except InputError as error:
        if wanted is not None:
            raise
        attributed = False
        note(str(error))
    failed: dict[Any, str] = {}
    rows = []
    with contextlib.closing(runner.batches(paths, failed)) as batches:
        for good, pixels in batches:
            for path, picture in zip(good, pixels, strict=True):
                found = looked_at(runner, picture[None], arguments, attributed, wanted)
                rows.append({"image": str(path), **plain(found)})
                if not arguments.json:
                    print("\n".join(lines(path, found, arguments.top, runner.model.labels)))
                if arguments.output is not None:
                    write(arguments.output, drawn(runner, path, found, arguments.top))
    if arguments.json:
        rows += [{"image": str(path), "error": error} for path, error in failed.items()]
        print(json_text(rows))
    return BAD_INPUT if failed else OK


def class_called(text: str, model: Any) -> int:
    """A class by its label, or by its number. Raises InputError for one that is not there."""
    labels = [label.casefold() for label in model.labels or []]
    if labels.count(text.casefold()) == 1:
        return labels.index(text.casefold())
    if text.isdecimal() and len(text) < 10 and int(text) < model.config.classes:
        return int(text)
    raise InputError(
        f"--attribute {text}: no one class is called so{nearest(text, model.labels or [])}, and numbers are from 0 to "
        f"{model.config.classes - 1}"
    )


def looked_at(runner: Runner, pixels: Any, arguments: argparse.Namespace, attributed: bool, wanted: int | None) -> Found:
    """What there is to say of one picture (1, C, Y, X)."""
    import numpy as np

    from .. import lens

    options = {"strict": runner.strict, "resize_positions": runner.resize}
    with np.errstate(all="ignore"), about(runner.name):
        logits = lens.logit_lens(runner.model, pixels, **options)[:, 0]
        if not np.isfinite(logits).all():
            raise InputError("gives NaN or infinite numbers: its weights or its preprocessing are damaged")
        target = int(logits[-1].argmax()) if wanted is None else wanted
        parts = lens.direct_attribution(runner.model, pixels, target, **options) if attributed else None
    labels = runner.model.labels
    after = ["embedding", *(f"blocks.{n}" for n in range(len(logits) - 1))]
    best = [top(row, arguments.top, labels) for row in logits]
    return {
        "logits": logits,
        "lens": [{"after": name, "top": classes} for name, classes in zip(after, best, strict=True)],
        "changes": [
            {"after": after[n], "from": best[n - 1][0]["label"], "to": best[n][0]["label"]}
            for n in range(1, len(best))
            if best[n][0]["class"] != best[n - 1][0]["class"]
        ],
        "target": target,
        "parts": None if parts is None else {name: array[0] for name, array in parts.items()},
    }


def plain(found: Found) -> Found:
    """The same as JSON can hold it."""
    parts, target = found["parts"], found["target"]
    attribution = None
    if parts is not None:
        attribution = {
            "class": target,
            "logit": float(found["logits"][-1, target]),
            "embedding": embedded(parts),
            "heads": parts["heads"].tolist(),
            "mlps": parts["mlps"].tolist(),
            "biases": float(parts["biases"]),
        }
    return {"lens": found["lens"], "changes": found["changes"], "attribution": attribution}


def embedded(parts: Found) -> float:
    """What the embedding itself has added: tokens and positions."""
    return float(sum(parts[name].sum() for name in ("tokens", "positions") if name in parts))


def lines(path: Path, found: Found, count: int, labels: list[str] | None) -> list[str]:
    """What is printed of one picture."""
    changed = {change["after"]: change["from"] for change in found["changes"]}
    wide = max(len(row["after"]) for row in found["lens"])
    text = [printable(str(path))]
    for row in found["lens"]:
        answers = ", ".join(f"{printable(b['label'])} {100 * b['probability']:.1f} %" for b in row["top"])
        before = changed.get(row["after"])
        text.append(f"  {row['after']:{wide}}  {answers}" + (f"  <- was {printable(before)}" if before is not None else ""))
    if found["parts"] is not None:
        text.append(f"  {brought(found, count, labels)}")
    return text


def brought(found: Found, count: int, labels: list[str] | None) -> str:
    """The heads and MLPs that count most, in one line."""
    parts, target = found["parts"], found["target"]
    named = [(f"blocks.{n} head {h}", value) for n, row in enumerate(parts["heads"]) for h, value in enumerate(row)]
    named += [(f"blocks.{n} MLP", value) for n, value in enumerate(parts["mlps"])]
    most = sorted(named, key=lambda item: -abs(item[1]))[:count]
    said = ", ".join(f"{name} {value:+.2f}" for name, value in most)
    return (
        f"{printable(label_of(target, labels))} has the logit {found['logits'][-1, target]:.2f}: {said}; "
        f"all heads {parts['heads'].sum():+.2f}, all MLPs {parts['mlps'].sum():+.2f}, embedding {embedded(parts):+.2f}, "
        f"biases {parts['biases']:+.2f}"
    )


def label_of(number: int, labels: list[str] | None) -> str:
    return labels[number] if labels else str(number)


def drawn(runner: Runner, path: Path, found: Found, count: int) -> "Image":
    """The picture, the lens, and what has brought the logit."""
    import numpy as np

    from ..ops import softmax
    from ..pictures import draw

    labels = runner.model.labels
    image, _ = runner.look(str(path))
    shares = softmax(found["logits"].astype(np.float64))
    sheets = [draw.labelled(draw.lens_map(shares, labels, max(count, 6)), "what the model would answer after every block")]
    parts = found["parts"]
    if parts is not None:
        answer = shortened(printable(label_of(found["target"], labels)), 40)
        sums = {"heads": parts["heads"].sum(), "MLPs": parts["mlps"].sum(), "embedding": embedded(parts)}
        sheets += [
            draw.labelled(draw.attribution_map(parts["heads"], parts["mlps"]), f"added to the logit of {answer}"),
            draw.attribution_bars({**sums, "biases": float(parts["biases"])}),
        ]
    size = runner.model.config.for_image((image.height, image.width)).grid
    return draw.beside([draw.enlarged(image, size)[0], draw.stacked(sheets)])


def write(output: str, picture: "Image") -> None:
    from ..files.tensorfile import replacing

    with replacing(output) as file:
        picture.save(file, format="PNG")
    note(f"{output}: {picture.width} x {picture.height} pixels")
