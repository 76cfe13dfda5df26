"""numpy-vit explain: one page that walks a picture through a model."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import DIGITS
from .common import OK, Progress, check_output, note, printable
from .options import add, add_model_options, add_output
from .running import Runner

if TYPE_CHECKING:
    from ..explain.live import Sample


def add_parser(commands: Any) -> argparse.ArgumentParser:
    command = commands.add_parser(
        "explain",
        help="a page that walks a picture through a model",
        description="Write one HTML page, which needs no network, that walks a picture through a model: its patches and "
        "tokens, every step with shape, formula and real numbers, the attention of every head of every block for any patch, "
        "the answer; in English and Chinese. The page of a small plain ViT, as the shipped one is, computes: draw a picture, "
        "change the model.",
    )
    command.add_argument("picture", metavar="IMAGE", help="a picture file")
    add_output(command, "HTML", "the page to write")
    add(command, "--top", default=5)
    add(command, "--lang", help="the language it opens in (default: %(default)s)")
    add_model_options(command)
    return command


def run(arguments: argparse.Namespace) -> int:
    from ..files.tensorfile import replacing
    from ..pictures.images import upright

    check_output(arguments.output, ".html", ".htm")
    original = upright(arguments.picture)  # whether it can be read is known before a large model is
    text, left_out = written(Runner(arguments), original, arguments)
    with replacing(arguments.output) as file:
        file.write(text.encode("utf-8"))
    note(f"{arguments.output}: {len(text) / 1e6:.1f} MB{left_out}")
    return OK


def written(runner: Runner, original: Any, arguments: argparse.Namespace) -> tuple[str, str]:
    """The page, and what it had to leave out."""
    from ..explain.page import Recording, page, what_fits
    from .predict import top

    seen, pixels = runner.look(arguments.picture)
    config = runner.model.config.for_image(pixels.shape[2:])
    kept = what_fits(config)
    progress, recording = Progress(1), Recording(kept, config)
    try:
        progress.say("running the model")
        out = runner(pixels, recording)
        progress.say("writing the page")
        text = page(
            runner.model,
            pixels,
            out,
            recording,
            original=original,
            seen=seen,
            name=printable(Path(arguments.picture).name),
            source=printable(Path(runner.name).name if Path(runner.name).exists() else runner.name),
            best=[] if out.logits is None else top(out.logits[0], arguments.top, runner.model.labels),
            language=arguments.lang,
            samples=samples_of(runner),
        )
    finally:
        progress.clear()
    rounded = "" if kept.bytes == 2 else "; attention in 8 bits, to 1/510 of a row's largest"
    return text, rounded if kept.heads else f"; of attention the heads' mean alone: every head would be too much{rounded}"


def samples_of(runner: Runner) -> "list[Sample]":
    """The shipped pictures, for the shipped model; of other models none are known."""
    from ..explain.live import Sample
    from ..files.converted import shipped
    from .running import pictures

    if runner.name != DIGITS or runner.resize:
        return []
    return [Sample(path.parent.name, runner.look(str(path))[0]) for path in pictures([str(shipped("samples"))])]
