"""numpy-vit bench: how fast a model runs on this machine, and what bounds it."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import DIGITS
from ..errors import InputError
from .common import INTERRUPTED, OK, Progress, complain, note, printable, terminal_width
from .models import config_of
from .options import add, positive

if TYPE_CHECKING:
    from ..vit import ViT

WIDTH = 80
DEFAULT = "ViT-B/16"


def add_parser(commands: Any) -> argparse.ArgumentParser:
    command = commands.add_parser(
        "bench",
        help="how fast a model runs on this machine",
        description="Time the forward pass on this machine and its bare matrix products beside it, in turns; say where the "
        "time goes, and which NumPy, BLAS and threads did it. docs/performance.md says what each number means.",
        epilog="MODEL is a variant (ViT-B/16, vit-base-patch16-224), which gets seeded weights, a converted or foreign weights "
        "file or folder, or digits; key=value changes a variant: image=384 depth=4. Several models are measured one after "
        "another. Example: numpy-vit bench ViT-S/16 ViT-B/16 --batch 1,8",
    )
    command.add_argument("model", nargs="*", metavar="MODEL", help=f"what to run (default: {DEFAULT}), then key=value")
    add(command, "--batch", type=batch_sizes, default=(1, 8, 32), metavar="B,...", help="pictures at once (default: 1,8,32)")
    command.add_argument("--threads", type=positive, metavar="N", help="threads to use (default: one a processor)")
    add(command, "--dtype")
    command.add_argument("--repeat", type=positive, metavar="R", help="rounds a batch size (default: 10 s, 3 to 20 rounds)")
    command.add_argument("--by-step", action="store_true", help="also say how long each step takes")
    command.add_argument("--memory", action="store_true", help="also say how much memory a pass takes, in a fresh process")
    add(command, "--json", help="print JSON, with every time measured")
    command.set_defaults(key_values="model")
    return command


def batch_sizes(text: str) -> tuple[int, ...]:
    """ "1,8,32" -> (1, 8, 32)."""
    return tuple(dict.fromkeys(positive(size) for size in text.split(",")))


def run(arguments: argparse.Namespace) -> int:
    from . import benchmarking

    report: dict[str, Any] = {"machine": benchmarking.machine(), "dtype": arguments.dtype, "models": []}
    if not arguments.json:
        print_lines(*machine_text(report["machine"]))
    progress = Progress(0)
    try:
        models = models_of(arguments.model)
        for words in models:  # a wrong name is said before anything is measured
            check(words)
        for words in models:
            bench(words, arguments, report["models"], progress)
    except KeyboardInterrupt:
        report["interrupted"] = True
    progress.clear()
    if arguments.json:
        print(json.dumps(report, indent=1))
    if report.get("interrupted"):
        complain("interrupted; what was measured until then is printed")
        return INTERRUPTED
    return OK


def models_of(words: Sequence[str]) -> list[list[str]]:
    """["A", "B", "depth=4"] -> [["A", "depth=4"], ["B", "depth=4"]]."""
    names = [word for word in words if "=" not in word or Path(word).exists()]
    changes = [word for word in words if word not in names]
    return [[name, *changes] for name in names or [DEFAULT]]


def bench(words: Sequence[str], arguments: argparse.Namespace, models: list[dict[str, Any]], progress: Progress) -> None:
    """Measure one model at every batch size. What was measured when it is interrupted is reported all the same."""
    from ..parameters import parameter_count
    from ..tracing.tracer import trace
    from . import benchmarking

    name = " ".join(words)
    progress.say(f"{name}: making the model")
    memory = memory_of(words, arguments, progress) if arguments.memory else {}
    model, kind = find_model(words, arguments.dtype)
    entry: dict[str, Any] = {"model": name, "weights": kind, "config": model.config.to_dict(), "results": []}
    entry |= {"parameters": parameter_count(model.config)}
    models.append(entry)
    measured: list[benchmarking.Measurement] = []
    try:
        for batch in arguments.batch:
            progress.say(f"{name}: batch {batch}")
            traced = trace(model.config, batch=batch, dtype=arguments.dtype)
            measured.append(benchmarking.Measurement(traced, memory=memory.get(batch)))
            bare = benchmarking.BareProducts(traced, benchmarking.python_threads())
            benchmarking.measure(model, measured[-1], bare, arguments.repeat, arguments.by_step, progress.say)
    finally:
        entry["results"] = [one.as_dict() for one in measured if one.products]
        if not arguments.json and entry["results"]:
            progress.clear()
            print_model(entry)


def has_weights(name: str) -> bool:
    """Whether a model's name is that of something with weights, not of a variant or a config."""
    return name == DIGITS or (Path(name).exists() and Path(name).suffix != ".json")


def check(words: Sequence[str]) -> None:
    """Raise InputError for a model that is not there, or that cannot be changed as asked."""
    if has_weights(words[0]) and len(words) > 1:
        raise InputError(f"{words[0]}: has weights, which {words[1]} would not fit: only a variant can be changed")
    config_of(words)


def find_model(words: Sequence[str], dtype: str) -> "tuple[ViT, str]":
    """A variant's name with what to change, or a file -> the model, and where its weights are from."""
    from ..models.loading import open_checkpoint
    from ..models.seeded import random_model

    if has_weights(words[0]):
        return open_checkpoint(words[0]).model(dtype), "its own"
    return random_model(config_of(words)[0], dtype=dtype), "seeded"


# Memory, measured in a process that has done nothing else

CHILD = "import sys; from numpy_vit.cli.bench import print_memory; print_memory(*sys.argv[1:])"


def memory_of(words: Sequence[str], arguments: argparse.Namespace, progress: Progress) -> dict[int, int | None]:
    """Batch size -> bytes a pass has in use above weights and pixels; nothing where that cannot be told."""
    progress.say(f"{' '.join(words)}: measuring memory")
    sizes = sorted(arguments.batch)
    place = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([place, *filter(None, [os.environ.get("PYTHONPATH")])])}
    command = [sys.executable, "-c", CHILD, json.dumps([list(words), arguments.dtype, sizes])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        note(f"{' '.join(words)}: memory could not be measured ({last})")
        return {}
    return dict(zip(sizes, json.loads(done.stdout), strict=True))


def print_memory(task: str) -> None:
    """What the process of `memory_of` does. Sizes go up, so that memory kept from a smaller batch hides nothing."""
    from .benchmarking import memory_in_use, pass_memory, seeded_pixels, touch

    words, dtype, sizes = json.loads(task)
    model, _ = find_model(words, dtype)
    touch(model)
    base = memory_in_use()

    def above(batch: int) -> int | None:
        pixels = seeded_pixels(model, batch)
        return None if base is None else pass_memory(lambda: model(pixels), base + pixels.nbytes)

    print(json.dumps([above(batch) for batch in sizes]))


# On paper


def machine_text(facts: dict[str, Any]) -> list[str]:
    """What did the work, as lines."""
    variables = [f"{name}={value}" for name, value in facts["variables"].items()]
    if not any("_THREADS=" in text for text in variables):
        variables.insert(0, "its number of threads is not set: it takes one a processor")
    own = facts["python_threads"]
    return [
        f"{facts['processor']}, {facts['cpus']} of {facts['cpus_of_machine']} processors usable, {facts['system']}",
        f"Python {facts['python']}, NumPy {facts['numpy']} ({' '.join(facts['simd'])})",
        f"BLAS {facts['blas']['name']} {facts['blas']['version']}; "
        + ", ".join(variables)
        + (f"; {own} threads of the model's own" if own > 1 else ""),
    ]


def print_model(entry: dict[str, Any]) -> None:
    """A model's table, and its steps."""
    from ..writing.text import fitted

    Y, X = entry["config"]["image"]
    weights = "seeded weights" if entry["weights"] == "seeded" else "its own weights"
    print()
    print_lines(f"{printable(entry['model'])}: {Y}x{X}, {entry['parameters']:,} parameters, {weights}")
    results = entry["results"]
    with_memory = any(r["memory"] is not None for r in results)
    columns = {
        "batch": ("batch", [str(r["batch"]) for r in results], True),
        "ms": ("ms", [milliseconds(r["seconds"]["median"]) for r in results], True),
        "rate": ("pictures/s", [f"{r['pictures_per_second']:.4g}" for r in results], True),
        "ratio": ("x products", [f"{r['ratio_to_products']['median']:.2f}" for r in results], True),
        "quartiles": ("quartiles", [between(r["seconds"]) for r in results], True),
        "gflops": ("GFLOP/s", [f"{r['gflops']:.4g}" for r in results], True),
        **({"memory": ("MB", [megabytes(r["memory"]) for r in results], True)} if with_memory else {}),
        "rounds": ("rounds", [str(r["rounds"]) for r in results], True),
    }
    order = ("batch", "ms", "quartiles", "rate", "gflops", "ratio", "memory", "rounds")
    print("\n".join(fitted(columns, order, min(WIDTH, terminal_width()))))
    print_lines(
        "x products: the pass over its bare matrix products." + (" MB: above weights and pixels." if with_memory else "")
    )
    for result in results:
        if result["steps"]:
            print_steps(result)


def print_steps(result: dict[str, Any]) -> None:
    """Where the time goes."""
    from ..writing.text import fitted

    steps = result["steps"]
    rate = [f"{2 * s['macs'] / s['seconds'] / 1e9:.4g}" if s["macs"] and s["seconds"] else "" for s in steps]
    columns = {
        "step": ("step", [s["step"] for s in steps], False),
        "ms": ("ms", [milliseconds(s["seconds"]) for s in steps], True),
        "share": ("share", [f"{100 * s['share']:.1f} %" for s in steps], True),
        "rate": ("GFLOP/s", rate, True),
    }
    print(f"\nbatch {result['batch']}, by step:")
    print("\n".join(fitted(columns, tuple(columns), min(WIDTH, terminal_width()))))
    plain, listening = result["seconds"]["median"], result["listening_seconds"]["median"]
    print_lines(
        f"Measured with a listener, for which every step must come out whole: {milliseconds(listening)} ms a pass, "
        f"{listening / plain:.2f} x the {milliseconds(plain)} ms without. Without one, work may be divided otherwise."
    )


def print_lines(*texts: str) -> None:
    from ..writing.text import paragraphs

    print("\n".join(paragraphs(texts, min(WIDTH, terminal_width()))))


def milliseconds(seconds: float) -> str:
    """Four digits, never as a power of ten."""
    value = 1000 * seconds
    return f"{value:.0f}" if value >= 1000 else f"{value:.4g}"


def between(values: dict[str, float]) -> str:
    return f"{milliseconds(values['low'])}..{milliseconds(values['high'])}"


def megabytes(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:.1f}"
