"""numpy-vit trace: every operation of a model, in order, with shapes and cost."""

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import DIGITS
from ..errors import InputError, nearest
from .common import field_value, image_size, note, terminal_width, wants_colour

if TYPE_CHECKING:
    from ..config import ViTConfig
    from ..tracing.tracer import Trace

FORMATS = ("table", "markdown", "csv", "json", "svg", "mermaid")


def add_parser(commands: Any) -> argparse.ArgumentParser:
    command = commands.add_parser(
        "trace",
        help="every operation of a model, in order, with shapes and cost",
        description="Print every operation of a model in the order of execution, with shapes, parameters, "
        "multiply-accumulates and bytes, from its config alone: no weights are needed and nothing is computed.",
        epilog="MODEL is a variant (ViT-B/16, vit-base-patch16-224), a config.json or its folder, a converted or foreign "
        "weights file (only its header is read), or a hub name in the local cache. key=value changes the config: image patch "
        "channels width depth heads mlp classes pooler eps activation pooling qkv_bias, or an option (registers=4). "
        "Example: numpy-vit trace ViT-B/16 image=384 depth=4",
    )
    command.add_argument(
        "model", nargs="*", metavar="MODEL", help="what to trace, then key=value to change it (default: ViT-B/16)"
    )
    command.add_argument("--batch", type=int, default=1, metavar="B", help="pictures at once (default: 1)")
    command.add_argument("--image", metavar="HxW", type=image_size, help="another image size: positions are resized, as a step")
    command.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    command.add_argument("--depth", choices=("model", "block", "op"), default="op", help="how fine (default: op)")
    command.add_argument("--block", type=int, metavar="N", help="only encoder block N")
    command.add_argument("--only", metavar="NAME", help="only steps with this in their name: attention, mlp, *.scores, ...")
    command.add_argument("--no-fold", action="store_true", help="list identical blocks one by one")
    command.add_argument(
        "--explain", action="store_true", help="add the formula with its numbers, the paper's equation, and why"
    )
    command.add_argument("--lang", choices=("en", "zh"), default="en", help="language of --explain")
    command.add_argument("--format", choices=FORMATS, default="table")
    command.add_argument("--diff", nargs=2, metavar=("A", "B"), help="two models side by side; quote 'ViT-B/16 depth=4'")
    command.add_argument(
        "--with-values", nargs=2, metavar=("WEIGHTS", "IMAGE"), help="run this model for real: min, max, mean, std, NaN, Inf"
    )
    command.add_argument("--strict", action="store_true", help="with --with-values: also check the invariants")
    command.add_argument("--preprocessor", metavar="FILE", help="with --with-values: a preprocessor_config.json, or clip, ...")
    command.set_defaults(key_values="model")
    return command


def run(arguments: argparse.Namespace) -> int:
    from ..tracing import render

    refuse_what_does_not_go_together(arguments)
    if arguments.diff:
        return print_diff(arguments)
    if arguments.with_values:
        traced = traced_with_values(arguments)
    else:
        traced = traced_as_asked(arguments.model or ["ViT-B/16"], arguments)
    traced = selected(traced, arguments)
    fold, colour = not arguments.no_fold and arguments.block is None, wants_colour()
    texts = {
        "markdown": lambda: render.markdown(traced, arguments.depth, fold),
        "csv": lambda: render.as_csv(traced),
        "json": lambda: render.as_json(traced),
        "svg": lambda: render.svg(traced),
        "mermaid": lambda: render.mermaid(traced),
    }
    if arguments.format != "table":
        print(texts[arguments.format]())
    elif arguments.explain:
        print(render.explained(traced, terminal_width(), fold, arguments.lang, colour))
    else:
        print(render.table(traced, terminal_width(), arguments.depth, fold, colour))
    return 0


def refuse_what_does_not_go_together(arguments: argparse.Namespace) -> None:
    """An option that would be ignored is an error, not a silence."""
    drawn = arguments.format in ("csv", "json", "svg", "mermaid")
    for wrong, why in (
        (arguments.lang != "en" and not arguments.explain, "--lang goes with --explain"),
        (arguments.explain and arguments.format != "table", "--explain prints text: leave --format out"),
        (arguments.explain and arguments.depth != "op", "--explain speaks of single steps: leave --depth out"),
        (arguments.explain and arguments.diff is not None, "--explain and --diff do not go together"),
        (
            drawn and arguments.depth != "op" and not arguments.diff,
            f"--format {arguments.format} lists every step: leave --depth out",
        ),
        (arguments.diff is not None and arguments.with_values is not None, "--diff and --with-values do not go together"),
        (
            arguments.with_values is not None and arguments.depth != "op",
            "--with-values speaks of single steps: leave --depth out",
        ),
        (arguments.with_values is not None and arguments.format in ("svg", "mermaid"), "--with-values prints no picture"),
        (arguments.with_values is None and arguments.strict, "--strict goes with --with-values"),
        (arguments.with_values is None and arguments.preprocessor is not None, "--preprocessor goes with --with-values"),
        (arguments.batch < 1, f"--batch {arguments.batch}: it must be 1 or more"),
    ):
        if wrong:
            raise InputError(why)


def traced_as_asked(words: Sequence[str], arguments: argparse.Namespace) -> "Trace":
    from ..tracing.tracer import trace

    config, notes = config_of(words)
    for text in notes:
        note(text)
    return trace(config, batch=arguments.batch, dtype=arguments.dtype, size=arguments.image)


def config_of(words: Sequence[str]) -> "tuple[ViTConfig, list[str]]":
    """["ViT-B/16", "image=384"] -> the config, and what the source left unsaid."""
    from ..config import check_image

    models = [word for word in words if "=" not in word or Path(word).exists()]
    pairs = [word.split("=", 1) for word in words if word not in models]
    changes = dict(pairs)
    for key, _ in pairs:
        if [k for k, _ in pairs].count(key) > 1:
            raise InputError(f"{key} is given twice")
    if len(models) > 1:
        raise InputError(f"one model at a time: '{models[0]}' or '{models[1]}'? (--diff shows two)")
    config, notes = find_config(models[0] if models else "ViT-B/16")
    config = config.replace(**{key: field_value(key, text) for key, text in changes.items()})
    if {"image", "patch"} & changes.keys():
        check_image(config.image, config.patch)
    return config, notes


def find_config(model: str) -> "tuple[ViTConfig, list[str]]":
    """A variant, a file or folder, or a cached hub name -> its config. Reads no tensor."""
    from ..config import LONG_NAMES, variant, variants

    path = Path(model)
    if not model:
        raise InputError("an empty name is no model")
    if not path.exists() and model != DIGITS:
        try:
            return variant(model), []
        except InputError as error:
            from ..convert import hub

            cached = hub.in_cache(*[*model.split("@"), "main"][:2]) if hub.is_hub_name(model) else None
            if cached is None:
                known = [*variants(), *(f"vit-{name}-patch16-224" for name in LONG_NAMES)]
                raise InputError(
                    f"'{model}' is no variant, file, folder or cached hub name{nearest(model, known)} "
                    f"(variants: {', '.join(variants())})"
                ) from error
            path = cached
    from ..convert import config_of
    from ..convert.hub import CONFIG
    from ..convert.sources import Source, open_source, read_json
    from ..files.converted import FORMAT, read_metadata

    notes: list[str] = []
    if path.suffix == ".json" or (path.is_dir() and (path / CONFIG).is_file() and not any(path.glob("*.safetensors*"))):
        file = path if path.suffix == ".json" else path / CONFIG
        content = read_json(file)
        source = Source(str(file), False, [], {}, {}, content, None)
    else:
        source = open_source(model if model == DIGITS else path)
        if source.metadata.get("format") == FORMAT:
            return read_metadata(source.metadata, model)[0], notes
    return config_of(source, notes), notes


def traced_with_values(arguments: argparse.Namespace) -> "Trace":
    """Run a real model on a real picture and keep what each step's numbers are like."""
    from ..files.loading import open_checkpoint
    from ..tracing.tracer import trace, with_values

    if arguments.model:
        raise InputError("--with-values traces the model of its WEIGHTS; leave MODEL out")
    weights, image = arguments.with_values
    checkpoint = open_checkpoint(weights, preprocessor=arguments.preprocessor)
    for text in checkpoint.notes:
        note(text)
    if arguments.image is not None and checkpoint.preprocess is not None:
        checkpoint.preprocess = checkpoint.preprocess.for_image(arguments.image)
    model = checkpoint.model(arguments.dtype)
    pixels = model.preprocess([image] * arguments.batch)
    traced = trace(checkpoint.config, batch=arguments.batch, dtype=arguments.dtype, size=pixels.shape[2:])
    return with_values(traced, model, pixels, resize_positions=arguments.image is not None, strict=arguments.strict)


def selected(traced: "Trace", arguments: argparse.Namespace) -> "Trace":
    """The rows that --block and --only ask for."""
    import fnmatch

    from ..tracing.tracer import Trace

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
    return Trace(rows, traced.config, traced.sizes, traced.dtype, traced.peak_memory)


def print_diff(arguments: argparse.Namespace) -> int:
    """Two models, side by side."""
    from ..tracing import render

    if arguments.model:
        raise InputError("--diff takes its two models itself: --diff A B (quote 'ViT-B/16 depth=4')")
    if arguments.format not in ("table", "json"):
        raise InputError(f"--diff prints a table or json, not {arguments.format}")
    names = (arguments.diff[0], arguments.diff[1])
    if names[0] == names[1]:
        raise InputError(f"--diff: '{names[0]}' twice: there is nothing to compare")
    words = [[name] if Path(name).exists() else shlex.split(name) for name in names]
    a, b = (selected(traced_as_asked(w, arguments), arguments) for w in words)
    fold = not arguments.no_fold and arguments.block is None
    if arguments.format == "json":
        changed = {key: dict(zip(names, values, strict=True)) for key, values in render.config_diff(a, b).items()}
        print(json.dumps({"config": changed, "rows": render.diff(a, b, names, arguments.depth, fold)}, indent=1))
    else:
        print(render.diff_table(a, b, names, arguments.depth, fold, wants_colour(), terminal_width()))
    return 0
