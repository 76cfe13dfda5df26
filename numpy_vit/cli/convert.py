"""numpy-vit convert: a foreign checkpoint -> one converted file."""

import argparse
from pathlib import Path
from typing import Any

from ..errors import InputError
from .common import note


def add_parser(commands: Any) -> argparse.ArgumentParser:
    command = commands.add_parser(
        "convert",
        help="turn a Hugging Face checkpoint into one file",
        description="Turn a Hugging Face ViT into one .safetensors file that says everything about the model.",
    )
    command.add_argument("source", metavar="SOURCE", help="a Hugging Face folder, a .safetensors file, or a hub name")
    command.add_argument("-o", "--output", required=True, metavar="FILE", help="the .safetensors file to write")
    command.add_argument("--config", metavar="FILE", help="a config.json, instead of the one beside the weights")
    command.add_argument("--preprocessor", metavar="FILE", help="a preprocessor_config.json, likewise")
    return command


def run(arguments: argparse.Namespace) -> int:
    from ..convert import convert, open_source
    from ..parameters import parameter_count
    from ..weights import write_converted

    output = Path(arguments.output)
    if output.suffix != ".safetensors":
        raise InputError(f"{output}: the name must end in .safetensors")
    for file in open_source(arguments.source, arguments.config, arguments.preprocessor).files:
        if output.exists() and output.samefile(file):
            raise InputError(f"{output}: is the source itself; choose another name")
    checkpoint = convert(arguments.source, arguments.config, arguments.preprocessor)
    for text in checkpoint.notes:
        note(text)
    write_converted(output, checkpoint)
    note(f"{output}: {checkpoint.source['family']}, {parameter_count(checkpoint.config):,} parameters")
    return 0
