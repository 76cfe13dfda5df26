"""numpy-vit embed: pictures -> vectors in a file."""

import argparse
import json
from pathlib import Path
from typing import Any

from ..errors import InputError
from .common import Runner, add_model_options, note, pictures

SUFFIXES = (".npz", ".npy", ".safetensors")
OUTPUTS = {
    "pooled": "pooled",
    "projected": "image_embedding",
    "pooler": "pooler_output",
    "tokens": "last_hidden_state",
    "logits": "logits",
}


def add_parser(commands: Any) -> argparse.ArgumentParser:
    command = commands.add_parser(
        "embed",
        help="turn pictures into vectors",
        description="Turn pictures into vectors. .npz and .safetensors files hold `embeddings` and the pictures' names, "
        ".npy the embeddings alone; the rows are in the order of the names.",
    )
    command.add_argument("images", nargs="+", metavar="IMAGE_OR_DIR", help="picture files or folders")
    command.add_argument("-o", "--output", required=True, metavar="FILE", help="a .npz, .npy or .safetensors file")
    command.add_argument(
        "--what",
        choices=tuple(OUTPUTS),
        default="pooled",
        help="the picture's vector before the head (default), the same in the space shared with texts (CLIP), "
        "the tanh pooler's, all tokens, or the logits",
    )
    add_model_options(command)
    return command


def run(arguments: argparse.Namespace) -> int:
    import numpy as np

    from ..tensorfile import replacing, tensor_of, write

    suffix = Path(arguments.output).suffix
    if suffix not in SUFFIXES:
        raise InputError(f"{arguments.output}: the name must end in {', '.join(SUFFIXES)}")
    paths = pictures(arguments.images)
    with_target_writable(arguments.output)
    runner = Runner(arguments)
    failed: dict[Any, str] = {}
    names: list[str] = []
    parts = []
    for good, pixels in runner.batches(paths, failed):
        value = getattr(runner(pixels), OUTPUTS[arguments.what])
        if value is None:
            raise InputError(f"{arguments.weights}: this model has no {arguments.what}: choose another --what")
        parts.append(value)
        names += map(str, good)
    if failed and suffix == ".npy":
        raise InputError(f"{arguments.output}: not written: .npy holds no names, so no picture may be missing; use .npz")
    if not parts:
        raise InputError("no picture could be read; nothing was written")
    if len({part.shape[1:] for part in parts}) > 1:
        raise InputError("the pictures have different sizes and so have their tokens: give --image")
    embeddings = np.concatenate(parts)
    if suffix == ".safetensors":
        write(arguments.output, {"embeddings": tensor_of(embeddings)}, {"images": json.dumps(names)})
    else:
        with replacing(arguments.output) as file:
            if suffix == ".npy":
                np.save(file, embeddings)
            else:
                np.savez(file, embeddings=embeddings, images=np.array(names))
    note(f"{arguments.output}: {len(names)} pictures, {arguments.what} {' x '.join(map(str, embeddings.shape))}")
    return 2 if failed else 0


def with_target_writable(output: str) -> None:
    """Refuse a target that cannot be written before the work, not after it."""
    import os

    if Path(output).is_dir():
        raise InputError(f"{output}: cannot be written (it is a folder; give a file name)")
    folder = Path(output).parent
    if not folder.is_dir():
        raise InputError(f"{output}: cannot be written (there is no folder {folder})")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{output}: cannot be written (Permission denied)")
