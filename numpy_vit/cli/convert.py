"""numpy-vit convert: a foreign checkpoint -> one converted file, or one of ours -> a Hugging Face folder."""

import argparse
from pathlib import Path
from typing import Any

from ..errors import InputError
from .common import OK, check_output, note, refuse
from .models import fields
from .options import add, add_output


def add_parser(commands: Any) -> argparse.ArgumentParser:
    command = commands.add_parser(
        "convert",
        help="turn a foreign checkpoint into one file",
        description="Turn a ViT of any known family into one .safetensors file that says everything about the model. What "
        "neither its files nor its family's code say is asked for: heads=12, say.",
    )
    command.add_argument(
        "source", metavar="SOURCE", help="a .safetensors, .npz or PyTorch file, a Hugging Face folder, or a hub name"
    )
    command.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="what the files do not say: heads=12 eps=1e-6 image=224",
    )
    add_output(command, "FILE", "the .safetensors file, or Hugging Face folder, to write")
    command.add_argument("--family", metavar="NAME", help="which family it is of, where its names do not tell")
    command.add_argument("--map", metavar="FILE", help="a table of names for a home-made model (JSON; see docs/converting.md)")
    command.add_argument("--config", metavar="FILE", help="a config.json, instead of the one beside the weights")
    add(command, "--preprocessor")
    command.add_argument("--labels", metavar="FILE", help="class names: a JSON list, or a text with one name a line")
    command.add_argument("--to", choices=("numpy-vit", "hf"), default="numpy-vit", help="hf: a Hugging Face folder")
    command.set_defaults(key_values="overrides")
    return command


def run(arguments: argparse.Namespace) -> int:
    from ..convert import convert_opened, recognise
    from ..convert.sources import open_source
    from ..files.converted import FORMAT, read_converted, write_converted
    from ..parameters import parameter_count

    output = Path(arguments.output)
    both = arguments.map is not None and arguments.family is not None
    refuse((both, "--map and --family do not go together: a table of names is a family of its own"))
    if arguments.to != "hf":
        check_output(arguments.output, ".safetensors")
    opened = open_source(arguments.source, arguments.config, arguments.preprocessor)
    for file in opened.files:
        if output.exists() and output.samefile(file):
            raise InputError(f"{output}: is the source itself; choose another name")
    unchanged = arguments.labels is None and arguments.preprocessor is None
    if arguments.to == "hf" and unchanged and opened.metadata.get("format") == FORMAT:
        checkpoint = read_converted(opened.files[0])
    else:
        checkpoint = convert_opened(opened, arguments.family, fields(arguments.overrides), arguments.map, arguments.labels)
    note(*checkpoint.notes)
    if arguments.to == "hf":
        from ..convert.to_hugging_face import write_hugging_face

        note(*write_hugging_face(output, checkpoint))
    else:
        write_converted(output, checkpoint)
    known = opened.metadata.get("format") == FORMAT or arguments.family is not None or arguments.map is not None
    why = "" if known else f" ({recognise(opened)[1]})"
    note(f"{output}: {checkpoint.source.get('family', 'model')}{why}, {parameter_count(checkpoint.config):,} parameters")
    return OK
