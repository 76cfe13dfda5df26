"""What is measured of the contenders. Each function yields rows, plain data, as they are ready."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from contenders import environment, onnx_file, without_threads
from materials import config_in, pixels
from workers import Failed, Field

import numpy_vit
from numpy_vit.cli.benchmarking import quartiles, ratios

US = "numpy_vit"
AGREEMENT = 1e-4  # max|a-b| / max|b| of the logits, float32 against float32


# Time


def forward_times(field: Field, batches: Sequence[int], rounds: int, warm: bool) -> Iterator[dict[str, Any]]:
    """The forward pass of every contender, one after the other in every round."""
    for batch in batches:
        file = pixels(field.folder, batch)
        errors = agree(field, file)
        seconds: dict[str, list[float]] = {name: [] for name in field.workers}
        try:
            for n in range(rounds):
                for name in list(field.workers):
                    field.progress.say(f"{field.folder.name}, batch {batch}: round {n + 1} of {rounds}, {name}")
                    try:
                        seconds[name].append(field.workers[name].ask(do="run", pixels=str(file), warm=warm)["seconds"])
                    except Failed as why:
                        field.leave_out(name, why)
        finally:  # an interruption loses nothing that was measured
            yield times_row(batch, seconds, errors)


def times_row(batch: int, seconds: dict[str, list[float]], errors: dict[str, float]) -> dict[str, Any]:
    """Medians, and how long we take of each contender's time: the median of the rounds' ratios."""
    found = {}
    for name, all_seconds in seconds.items():
        if not all_seconds:
            continue
        ratio = ratios(seconds.get(US, []), all_seconds)
        found[name] = {
            "seconds": quartiles(all_seconds),
            "ours_to_it": quartiles(ratio) if ratio else None,
            "difference": errors.get(name),
            "all_seconds": all_seconds,
        }
    return {"batch": batch, "rounds": max(map(len, seconds.values()), default=0), "contenders": found}


def agree(field: Field, file: Path) -> dict[str, float]:
    """Every contender's logits against the first one's; whoever computes something else is left out."""
    reference, errors = None, {}
    for name in list(field.workers):
        field.progress.say(f"{field.folder.name}: first run of {name}")
        to = field.folder / f"{name}.npy"
        try:
            if not field.workers[name].ask(do="logits", pixels=str(file), to=str(to))["logits"]:
                continue
            logits = np.load(to).astype(np.float64)
            reference = logits if reference is None else reference
            errors[name] = float(abs(logits - reference).max() / abs(reference).max())
            if not errors[name] < AGREEMENT:  # NaN is no agreement
                raise Failed(f"{name}: its logits differ by {errors[name]:.1e} of the largest: it computes something else")
        except Failed as why:
            field.leave_out(name, why)
    return errors


# Memory


def pass_memories(fields: Callable[[str], Field], names: Sequence[str], batches: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Peak memory above weights and input: every contender and batch size in a fresh process."""
    for batch in batches:
        found: dict[str, Any] = {}
        try:
            for name in names:
                with fields(name) as field:
                    if name in field.workers:
                        found[name] = pass_memory_of(field, name, batch)
        finally:  # an interruption loses nothing that was measured
            yield {"batch": batch, "contenders": {name: row for name, row in found.items() if row}}


def pass_memory_of(field: Field, name: str, batch: int) -> dict[str, Any] | None:
    """One contender's memory; None where it failed, which is said."""
    field.progress.say(f"{field.folder.name}, batch {batch}: memory of {name}")
    try:
        return field.workers[name].ask(do="memory", pixels=str(pixels(field.folder, batch)), passes=3)
    except Failed as why:
        field.leave_out(name, why)
        return None


# From the shell to the first prediction

COLD = (US, "onnx", "sdpa")
TRANSFORMERS = """
import sys, torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification
folder, picture = sys.argv[1:]
processor = AutoImageProcessor.from_pretrained(folder, use_fast=False)
model = AutoModelForImageClassification.from_pretrained(folder)
with torch.inference_mode():
    logits = model(**processor(Image.open(picture), return_tensors="pt")).logits
print(int(logits.argmax()))
"""
ONNX = """
import sys, numpy, onnxruntime
from PIL import Image
file, picture, height, width, threads = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(threads)
session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
image = Image.open(picture).convert("RGB").resize((int(width), int(height)), Image.Resampling.BILINEAR)
pixels = (numpy.asarray(image, numpy.float32) / 127.5 - 1).transpose(2, 0, 1)[None]
print(int(session.run(["logits"], {"pixels": pixels})[0].argmax()))
"""


def cold_command(name: str, folder: Path, threads: int, python: str) -> list[str]:
    """What one types for the first prediction; it prints the class's number."""
    picture = str(folder / "picture.png")
    if name == "onnx":
        size = map(str, config_in(folder).image)
        return [python, "-W", "ignore", "-c", ONNX, str(onnx_file(folder, python)), picture, *size, str(threads)]
    if name == "sdpa":
        return [python, "-W", "ignore", "-c", TRANSFORMERS, str(folder / "hf"), picture]
    weights = str(folder / "model.safetensors")
    return [python, "-m", "numpy_vit", "predict", picture, "--top", "1", "--weights", weights]


def cold_starts(
    folder: Path, names: Sequence[str], rounds: int, threads: int, pythons: dict[str, str], progress: Any
) -> Iterator[dict[str, Any]]:
    """From the start of the process to its end with the class printed; the files are in the page cache."""
    chosen = [name for name in names if name in COLD]
    commands = {name: cold_command(name, folder, threads, pythons.get(name, sys.executable)) for name in chosen}
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    answers: dict[str, str] = {}
    try:
        for n in range(rounds + 1):  # the first fills the page cache and writes .pyc files
            for name in list(commands):
                progress.say(f"cold start: round {n} of {rounds}, {name}")
                try:
                    taken, answers[name] = one_start(name, commands[name], threads)
                except Failed as why:
                    progress.clear()
                    print(f"left out: {why}", file=sys.stderr)
                    del commands[name]
                    continue
                seconds[name] += [taken] if n else []
    finally:
        if len(set(answers.values())) > 1:
            print(f"not the same prediction: {answers}", file=sys.stderr)
        yield {**times_row(1, seconds, {}), "answers": answers}


def one_start(name: str, command: list[str], threads: int) -> tuple[float, str]:
    """Seconds, and the class's number. We start as a user starts us: without any variable set."""
    repository = str(Path(__file__).resolve().parents[2])
    environ = without_threads(os.environ) if name == US else environment(name, threads)
    environ = {**environ, "PYTHONPATH": repository}
    limited = ["taskset", "-c", ",".join(map(str, sorted(os.sched_getaffinity(0))[:threads])), *command]
    start = time.perf_counter()
    done = subprocess.run(limited if shutil.which("taskset") else command, env=environ, capture_output=True, text=True)
    taken = time.perf_counter() - start
    if done.returncode:
        raise Failed(f"{name}: {(done.stderr.strip().splitlines() or ['failed without a word'])[-1]}")
    answer = done.stdout.split()
    return taken, answer[1] if name == US else answer[0]


# How the cost grows


def per_image(field: Field, batches: Sequence[int], rounds: int) -> Iterator[dict[str, Any]]:
    """Time per picture at growing batch sizes, in turns."""
    worker = field.the_one()
    files = {batch: pixels(field.folder, batch) for batch in batches}
    seconds: dict[int, list[float]] = {batch: [] for batch in batches}
    for n in range(rounds):
        for batch, file in files.items():
            field.progress.say(f"{worker.name}: round {n + 1} of {rounds}, batch {batch}")
            seconds[batch].append(worker.ask(do="run", pixels=str(file), warm=n == 0)["seconds"])
    for batch in batches:
        of_first = ratios([s / batch for s in seconds[batch]], [s / batches[0] for s in seconds[batches[0]]])
        yield {"batch": batch, "seconds": quartiles(seconds[batch]), "per_image_to_first": quartiles(of_first)}


def by_tokens(fields: Sequence[Field], rounds: int) -> list[dict[str, Any]]:
    """Time at several image sizes, in turns, beside a straight line through them over the tracer's MACs."""
    seconds: list[list[float]] = [[] for _ in fields]
    for n in range(rounds):
        for field, taken in zip(fields, seconds, strict=True):
            field.progress.say(f"{field.folder.name}: round {n + 1} of {rounds}")
            taken.append(field.the_one().ask(do="run", pixels=str(pixels(field.folder, 1)), warm=True)["seconds"])
    configs = [config_in(field.folder) for field in fields]
    macs = np.array([numpy_vit.trace(config).macs for config in configs], np.float64)
    middle = np.array([quartiles(taken)["median"] for taken in seconds])
    slope, fixed = np.polyfit(macs, middle, 1, w=1 / middle) if len(fields) > 2 else (middle[-1] / macs[-1], 0.0)
    return [
        {
            "image": config.image,
            "tokens": config.tokens,
            "macs": int(macs[i]),
            "seconds": quartiles(seconds[i]),
            "gflops": float(2 * macs[i] / middle[i] / 1e9),
            "line": float(fixed + slope * macs[i]),
            "off_the_line": float(middle[i] / (fixed + slope * macs[i]) - 1),
        }
        for i, config in enumerate(configs)
    ]
