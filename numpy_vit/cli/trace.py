"""numpy-vit trace: every operation of a model, in order, with shapes and cost."""

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import InputError, nearest
from .common import OK, note, refuse, terminal_width, wants_colour
from .models import config_of, model_and_changes, open_weights
from .options import add

if TYPE_CHECKING:
    from ..tracing.tracer import Trace

FORMATS = ("table", "markdown", "csv", "svg", "mermaid")


def add_parser(commands: Any) -> argparse.ArgumentParser:
    command = commands.add_parser(
        "trace",
        help="every operation of a model, in order, with shapes and cost",
        description="Print every operation of a model in the order of execution, with shapes, parameters, "
        "multiply-accumulates and bytes, from its config alone: no weights are needed and nothing is computed.",
        epilog="MODEL is a variant (ViT-B/16, vit-base-patch16-224), a published model's name (--list), timm's, torchvision's "
        "or Hugging Face's name for one, a config.json or its folder, a converted or foreign "
        "weights file (only its header is read), or a hub name in the local cache. key=value changes the config: image patch "
        "channels width depth heads mlp classes pooler eps activation pooling qkv_bias, or an option (registers=4). "
        "Example: numpy-vit trace ViT-B/16 image=384 depth=4",
    )
    command.add_argument(
        "model", nargs="*", metavar="MODEL", help="what to trace, then key=value to change it (default: ViT-B/16)"
    )
    add(command, "--batch", default=1)
    add(command, "--size", help="another image size: positions are resized, as a step")
    add(command, "--dtype", choices=("float32", "float64"), help="the format that is counted (default: %(default)s)")
    command.add_argument("--depth", choices=("model", "block", "op"), default="op", help="how fine (default: op)")
    command.add_argument("--block", type=int, metavar="N", help="only encoder block N")
    command.add_argument("--only", metavar="NAME", help="only steps with this in their name: attention, mlp, *.scores, ...")
    command.add_argument("--no-fold", action="store_true", help="list identical blocks one by one")
    command.add_argument(
        "--explain", action="store_true", help="add the formula with its numbers, the paper's equation, and why"
    )
    add(command, "--lang", help="the language of --explain (default: %(default)s)")
    output = command.add_mutually_exclusive_group()
    output.add_argument("--format", choices=FORMATS, default="table", help="(default: %(default)s)")
    add(output, "--json")
    command.add_argument("--list", action="store_true", help="the names of published models, one a line, with their sizes")
    command.add_argument("--diff", nargs=2, metavar=("A", "B"), help="two models side by side; quote 'ViT-B/16 depth=4'")
    command.add_argument(
        "--with-values", nargs=2, metavar=("WEIGHTS", "IMAGE"), help="run this model for real: min, max, mean, std, NaN, Inf"
    )
    add(command, "--strict", help="with --with-values: also check the invariants")
    add(command, "--preprocessor", help="with --with-values: a preprocessor_config.json, or clip, ...")
    command.set_defaults(key_values="model")
    return command


def run(arguments: argparse.Namespace) -> int:
    from ..tracing import render

    refuse_what_does_not_go_together(arguments)
    if arguments.list:
        return print_list(arguments)
    if arguments.diff:
        return print_diff(arguments)
    whole = traced_with_values(arguments) if arguments.with_values else traced_as_asked(arguments.model, arguments)
    traced = selected(whole, arguments)
    fold, colour = not arguments.no_fold and arguments.block is None, wants_colour()
    texts = {
        "table": lambda: render.table(traced, terminal_width(), arguments.depth, fold, colour),
        "explain": lambda: render.explained(traced, terminal_width(), fold, arguments.lang, colour),
        "markdown": lambda: render.markdown(traced, arguments.depth, fold),
        "csv": lambda: render.as_csv(traced),
        "svg": lambda: render.svg(traced, " ".join(arguments.model) or "ViT-B/16"),
        "mermaid": lambda: render.mermaid(traced),
        "json": lambda: render.as_json(traced),
    }
    print(texts["json" if arguments.json else "explain" if arguments.explain else arguments.format]())
    return OK


def refuse_what_does_not_go_together(arguments: argparse.Namespace) -> None:
    form, values = "json" if arguments.json else arguments.format, arguments.with_values is not None
    coarse = arguments.depth != "op"
    drawn = form in ("csv", "json", "svg", "mermaid")
    refuse(
        (arguments.list and (arguments.model or arguments.diff or values), "--list lists all: leave the others out"),
        (arguments.lang != "en" and not arguments.explain, "--lang goes with --explain"),
        (arguments.explain and form != "table", "--explain prints text: leave --format and --json out"),
        (arguments.explain and coarse, "--explain speaks of single steps: leave --depth out"),
        (arguments.explain and arguments.diff, "--explain and --diff do not go together"),
        (drawn and coarse and not arguments.diff, f"{form} lists every step: leave --depth out"),
        (arguments.diff and values, "--diff and --with-values do not go together"),
        (arguments.diff and form not in ("table", "json"), f"--diff prints a table or JSON, not {form}"),
        (arguments.diff and arguments.model, "--diff takes its two models itself: --diff A B (quote 'ViT-B/16 depth=4')"),
        (values and arguments.model, "--with-values traces the model of its WEIGHTS; leave MODEL out"),
        (values and coarse, "--with-values speaks of single steps: leave --depth out"),
        (values and form in ("svg", "mermaid"), "--with-values prints no picture"),
        (arguments.strict and not values, "--strict goes with --with-values"),
        (arguments.preprocessor is not None and not values, "--preprocessor goes with --with-values"),
    )


def traced_as_asked(words: Sequence[str], arguments: argparse.Namespace) -> "Trace":
    from ..tracing.tracer import trace

    (config, notes), size = config_of(words), arguments.size
    if config.any_size and size is not None:
        from ..models.image_tokens import size_seen

        size, more = size_seen(model_and_changes(words)[0], config, size)
        notes = [*notes, *more]
    note(*notes)
    return trace(config, batch=arguments.batch, dtype=arguments.dtype, size=size)


def traced_with_values(arguments: argparse.Namespace) -> "Trace":
    """Run a real model on a real picture and keep what each step's numbers are like."""
    from ..tracing.tracer import trace, with_values

    weights, image = arguments.with_values
    checkpoint = open_weights(weights, arguments.preprocessor, arguments.size)
    model = checkpoint.model(arguments.dtype)
    pixels = model.preprocess([image] * arguments.batch)
    traced = trace(checkpoint.config, batch=arguments.batch, dtype=arguments.dtype, size=pixels.shape[2:])
    return with_values(traced, model, pixels, resize_positions=arguments.size is not None, strict=arguments.strict)


def selected(traced: "Trace", arguments: argparse.Namespace) -> "Trace":
    """The rows that --block and --only ask for."""
    import fnmatch

    rows = list(traced)
    if arguments.block is not None:
        if not 0 <= arguments.block < traced.config.depth:
            raise InputError(f"--block {arguments.block}: the model has blocks 0 to {traced.config.depth - 1}")
        rows = [row for row in rows if row.block == arguments.block]
    if arguments.only is not None:
        wanted = arguments.only
        chosen = [row for row in rows if wanted in row.name.split(".") or fnmatch.fnmatchcase(row.name, wanted)]
        if not chosen:
            words = {word for row in rows for word in row.name.split(".") if not word.isdigit()}
            raise InputError(
                f"--only {wanted}: no step has that in its name{nearest(wanted, words)} ({', '.join(sorted(words))})"
            )
        rows = chosen
    return traced.having(rows)


def print_list(arguments: argparse.Namespace) -> int:
    """Every variant and published model: its names, and its sizes where it is supported."""
    from ..files.jsonfile import json_text
    from ..models.loading import listed

    found = listed()
    if arguments.json:
        print(json_text(found))
        return OK
    wide = max(len(row["names"][0]) for row in found)
    for row in found:
        others = [name for name in row["names"][1:] if "_" not in name]
        print(f"{row['names'][0]:<{wide}}  {sizes_text(row)}  {', '.join(others)}".rstrip())
    return OK


def sizes_text(row: dict[str, Any]) -> str:
    """ "32 x 1280, 16 heads, patches of 14"."""
    if row["width"] is None:
        return f"{'(not supported yet)':<38}"
    text = f"{row['depth']} x {row['width']}, {row['heads']} heads, patches of {row['patch']}"
    return f"{text:<38}"


def print_diff(arguments: argparse.Namespace) -> int:
    """Two models, side by side."""
    from ..tracing import render

    names = (arguments.diff[0], arguments.diff[1])
    if names[0] == names[1]:
        raise InputError(f"--diff: '{names[0]}' twice: there is nothing to compare")
    a, b = (selected(traced_as_asked([name], arguments), arguments) for name in names)
    fold = not arguments.no_fold and arguments.block is None
    if arguments.json:
        changed = {key: dict(zip(names, values, strict=True)) for key, values in render.config_diff(a, b).items()}
        print(json.dumps({"config": changed, "rows": render.diff(a, b, names, arguments.depth, fold)}, indent=1))
    else:
        print(render.diff_table(a, b, names, arguments.depth, fold, wants_colour(), terminal_width()))
    return OK
