"""numpy-vit embed: pictures -> vectors in a file."""

import argparse
import contextlib
import json
import time
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..models.embedder import OUTPUTS
from .common import BAD_INPUT, BATCH, OK, check_output, complain, note, summary
from .options import add_model_options, add_output
from .partial import Partial, fingerprint, folder_of
from .running import Runner, pictures

SUFFIXES = (".npz", ".npy", ".safetensors")


def add_parser(commands: Any) -> argparse.ArgumentParser:
    command = commands.add_parser(
        "embed",
        help="turn pictures into vectors",
        description="Turn pictures into vectors. .npz and .safetensors files hold `embeddings` and the pictures' names, "
        ".npy the embeddings alone; the rows are in the order of the names. What an interrupted run has done is kept in "
        "FILE.partial, and the same command goes on from there.",
    )
    command.add_argument("images", nargs="+", metavar="IMAGE_OR_DIR", help="picture files or folders")
    add_output(command, "FILE", "a .npz, .npy or .safetensors file")
    command.add_argument(
        "--what",
        choices=OUTPUTS,
        default="pooled",
        help="the picture's vector before the head (default), the same in the space shared with texts (CLIP), "
        "the tanh pooler's, all tokens after the last norm, or the logits",
    )
    command.add_argument("--restart", action="store_true", help="begin anew, whatever FILE.partial holds")
    add_model_options(command, stops=True)
    return command


def run(arguments: argparse.Namespace) -> int:
    check_output(arguments.output, *SUFFIXES)
    paths = pictures(arguments.images)
    runner = Runner(arguments)
    with opened(arguments, runner, paths) as partial:
        before, start = partial.done, time.monotonic()
        compute(arguments, runner, partial)
        failed = partial.failed
        if failed and arguments.output.lower().endswith(".npy"):
            raise InputError(
                f"{arguments.output}: not written: .npy holds no names, so no picture may be missing; mend or remove "
                f"{'it' if len(failed) == 1 else 'them'} and run it again, or use .npz"
            )
        if not partial.batches:
            raise InputError("no picture could be read; nothing was written")
        write_result(arguments.output, partial, runner.model.dtype)
        partial.keep = False
    shape = " x ".join(map(str, (partial.done, *partial.row_shape)))
    pace = summary(partial.done - before, time.monotonic() - start, len(failed))
    note(f"{arguments.output}: {partial.done} pictures, {arguments.what} {shape}; {pace}")
    return BAD_INPUT if failed else OK


def opened(arguments: argparse.Namespace, runner: Runner, paths: list[Path]) -> Partial:
    """What an earlier run of the same has done, or nothing yet."""
    import numpy as np

    from ..arithmetic.parallel import THREADS

    options = {name: getattr(arguments, name) for name in ("what", "dtype", "size")}
    folder = folder_of(arguments.output)
    one_batch = len(paths) <= BATCH  # nothing to go on from, so nobody need know the model again
    model = None if one_batch and not folder.exists() else fingerprint(runner.model)
    threads = THREADS.free(products=True)  # they share out a batch, which may move a last bit
    run = {"numpy": np.__version__, "batch": BATCH, "threads": threads, **options, "model": model}
    partial = Partial(folder, run, paths, arguments.restart)
    partial.keep = not one_batch
    return partial


def compute(arguments: argparse.Namespace, runner: Runner, partial: Partial) -> None:
    """Add the pictures that are not done yet."""
    for text in partial.failed.values():
        if arguments.strict:
            raise InputError(text)
        complain(text)
    reading = runner.batches(partial.rest, partial.failed, len(partial.pictures) - len(partial.rest), arguments.strict)
    with contextlib.closing(reading) as batches:
        for good, pixels in batches:
            rows = getattr(runner(pixels), arguments.what)
            if rows is None:
                raise InputError(f"{arguments.weights}: this model has no {arguments.what}: choose another --what")
            if partial.batches and rows.shape[1:] != partial.row_shape:
                partial.keep = False  # the same command would end here again
                raise InputError("the pictures have different sizes and so have their tokens: give --size")
            partial.add(good, rows)


def write_result(output: str, partial: Partial, dtype: Any) -> None:
    """The rows, from the file they are in, and the pictures' names: whole, or not at all."""
    import numpy as np

    from ..files.tensorfile import replacing, tensor_of, write

    embeddings, names = partial.rows(dtype), partial.names
    if output.lower().endswith(".safetensors"):
        write(output, {"embeddings": tensor_of(embeddings)}, {"images": json.dumps(names)})
        return
    with replacing(output) as file:
        if output.lower().endswith(".npy"):
            np.save(file, embeddings)
        else:
            np.savez(file, embeddings=embeddings, images=np.array(names))
