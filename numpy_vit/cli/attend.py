"""numpy-vit attend: where a model looks, as a picture."""

import argparse
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .common import OK, check_output, note
from .options import add_model_options, add_output
from .running import Runner

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..config import ViTConfig


def add_parser(commands: Any) -> argparse.ArgumentParser:
    command = commands.add_parser(
        "attend",
        help="draw where a model looks",
        description="Draw what the class token, or a patch, attends to: all heads of the last block, and the rollout through "
        "all blocks; or one block, one head, or the rollout alone.",
    )
    command.add_argument("picture", metavar="IMAGE", help="a picture file")
    add_output(command, "PNG", "the picture to write")
    command.add_argument("--layer", type=int, metavar="N", help="the heads of block N, from 0; -1 is the last")
    command.add_argument("--head", type=int, metavar="H", help="one head of the block (default: all)")
    command.add_argument("--rollout", action="store_true", help="attention through all blocks, heads averaged (Abnar, Zuidema)")
    command.add_argument(
        "--query", type=patch_place, metavar="ROW,COLUMN", help="the patch that asks (default: the class token)"
    )
    add_model_options(command)
    return command


def patch_place(text: str) -> tuple[int, int]:
    """ "3,5" -> (3, 5)."""
    try:
        row, column = (int(number) for number in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: give row and column of a patch, from 0: 3,5") from error
    return row, column


def run(arguments: argparse.Namespace) -> int:
    from ..files.tensorfile import replacing

    check_output(arguments.output, ".png")
    if arguments.rollout and (arguments.layer is not None or arguments.head is not None):
        raise InputError("--rollout goes through all blocks and heads: leave --layer and --head out")
    picture = drawn(Runner(arguments), arguments)
    with replacing(arguments.output) as file:
        picture.save(file, format="PNG")
    note(f"{arguments.output}: {picture.width} x {picture.height} pixels")
    return OK


def drawn(runner: Runner, arguments: argparse.Namespace) -> "Image":
    """The picture that the options ask for."""
    from ..pictures import draw

    image, pixels = runner.look(arguments.picture)
    config = runner.model.config.for_image(pixels.shape[2:])
    query = token_asking(arguments.query, config)
    attentions = [attention[0] for attention in runner(pixels, "attentions").attentions]
    layer = whole(arguments.layer, -1, config.depth, "--layer")
    if arguments.head is not None:
        head = whole(arguments.head, 0, config.heads, "--head")
        label = f"{draw.block_label(layer, config.depth)}, head {head}"
        return draw.attention_overlay(image, attentions[layer][head][query], config, label, query=arguments.query)
    flow = draw.attention_overlay(
        image, draw.rollout(attentions)[query], config, f"rollout, {config.depth} blocks", query=arguments.query
    )
    if arguments.rollout:
        return flow
    heads = draw.labelled(draw.head_gallery(image, attentions[layer], config, query), draw.block_label(layer, config.depth))
    return heads if arguments.layer is not None else draw.beside([flow, heads])


def token_asking(place: tuple[int, int] | None, config: "ViTConfig") -> int:
    """The number of the token whose attention is drawn. Raises InputError where there is none."""
    rows, columns = config.grid
    if place is None:
        if not config.class_token:
            raise InputError("this model has no class token: say which patch asks (--query ROW,COLUMN)")
        return 0
    if not (0 <= place[0] < rows and 0 <= place[1] < columns):
        raise InputError(f"--query {place[0]},{place[1]}: the patches are {rows} x {columns}, counted from 0")
    return config.special_tokens + place[0] * columns + place[1]


def whole(number: int | None, default: int, count: int, what: str) -> int:
    """A number from 0, or counted from the end, as one from 0. Raises InputError for one that is not there."""
    number = default if number is None else number
    if not -count <= number < count:
        raise InputError(f"{what} {number}: there are {count}, from 0 to {count - 1}")
    return number % count
