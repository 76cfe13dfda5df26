"""numpy_vit beside the libraries people run ViTs with: python tests/benchmarks {time,cold,memory,images,tokens} [options]

docs/performance.md says what is measured and how. Needs the extra `peers`, and timm and jax for their rows; what is not
installed is left out and said so. Linux: it stops and wakes processes, and reads memory from /proc.
"""

import argparse
import contextlib
import json
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent)]

from contenders import CONTENDERS  # noqa: E402
from materials import prepare  # noqa: E402
from measuring import COLD, US, by_tokens, cold_starts, forward_times, pass_memories, per_image  # noqa: E402
from workers import Field  # noqa: E402

from numpy_vit import InputError  # noqa: E402
from numpy_vit.cli.bench import batch_sizes, between, megabytes, milliseconds, positive  # noqa: E402
from numpy_vit.cli.benchmarking import machine  # noqa: E402
from numpy_vit.cli.common import Progress  # noqa: E402
from numpy_vit.files.tensorfile import replacing  # noqa: E402
from numpy_vit.writing.text import fitted  # noqa: E402


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python tests/benchmarks", description=__doc__.split(":")[0])
    top.add_argument("what", choices=("time", "cold", "memory", "images", "tokens"))
    top.add_argument("--model", nargs="+", default=["ViT-B/16"], help="variants, and key=value to change them: image=1024")
    top.add_argument("--batch", type=batch_sizes, help="B,... (default: 1,8,32; memory: 1,8; images: 8,32,128,256)")
    top.add_argument("--sizes", type=batch_sizes, default=(112, 160, 224, 304, 400, 512), help="of `tokens`: image sizes")
    top.add_argument("--rounds", type=positive, default=11)
    top.add_argument("--threads", type=positive, default=2, help="processors, for every contender (default: 2)")
    top.add_argument("--only", nargs="+", choices=CONTENDERS, metavar="NAME", help=f"of {', '.join(CONTENDERS)}")
    top.add_argument("--python", nargs="+", default=[], metavar="NAME=EXE", help="another Python for a contender")
    top.add_argument("--no-warm", action="store_true", help="time the first run after waking, not the second")
    top.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "numpy_vit-benchmarks", help="models, logs")
    top.add_argument("--json", type=Path, metavar="FILE", help="write everything here")
    return top


def main() -> int:
    arguments = parser().parse_args()
    report: dict[str, Any] = {"machine": machine(), "what": arguments.what, "threads": arguments.threads, "models": []}
    progress, status = Progress(0), 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill, as by `timeout`, is a Ctrl-C
    try:
        for words in models(arguments.model):
            entry: dict[str, Any] = {"model": " ".join(words), "rows": []}
            report["models"].append(entry)
            progress.say(f"{entry['model']}: making the files")
            MEASURE[arguments.what](arguments, words, entry, progress)
    except KeyboardInterrupt:
        report["interrupted"], status = True, 2
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    progress.clear()
    for entry in report["models"]:
        print(f"\n{entry['model']}, {arguments.threads} threads, float32")
        print("\n".join(SHOW[arguments.what](entry["rows"])))
        status = status or bool(entry.get("left_out"))
    if arguments.json:
        with replacing(arguments.json) as file:
            file.write(json.dumps(report, indent=1).encode())
    return status


def models(words: list[str]) -> list[list[str]]:
    """["A", "B", "k=v"] -> [["A", "k=v"], ["B", "k=v"]]."""
    changes = [word for word in words if "=" in word]
    return [[word, *changes] for word in words if word not in changes]


def field(arguments: Any, folder: Path, names: list[str], progress: Any) -> Field:
    pythons = dict(text.split("=", 1) for text in arguments.python)
    return Field(folder, names, arguments.threads, pythons, progress)


def names(arguments: Any, default: list[str]) -> list[str]:
    """Those asked for, ourselves first: everyone is compared with the first."""
    return sorted(arguments.only or default, key=lambda name: name != US)


# What is measured; each puts rows into `entry` as they come


def time_(arguments: Any, words: list[str], entry: dict[str, Any], progress: Any) -> None:
    with field(arguments, prepare(arguments.work, words), names(arguments, list(CONTENDERS)), progress) as all_of_them:
        entry |= {"contenders": all_of_them.about(), "left_out": all_of_them.left_out}
        for row in forward_times(all_of_them, arguments.batch or (1, 8, 32), arguments.rounds, not arguments.no_warm):
            entry["rows"].append(row)


def memory(arguments: Any, words: list[str], entry: dict[str, Any], progress: Any) -> None:
    folder = prepare(arguments.work, words)
    chosen = names(arguments, [name for name in CONTENDERS if name != "products"])
    for row in pass_memories(lambda name: field(arguments, folder, [name], progress), chosen, arguments.batch or (1, 8)):
        entry["rows"].append(row)


def cold(arguments: Any, words: list[str], entry: dict[str, Any], progress: Any) -> None:
    folder, pythons = prepare(arguments.work, words), dict(text.split("=", 1) for text in arguments.python)
    chosen = names(arguments, list(COLD))
    entry["rows"] += cold_starts(folder, chosen, arguments.rounds, arguments.threads, pythons, progress)


def images(arguments: Any, words: list[str], entry: dict[str, Any], progress: Any) -> None:
    with field(arguments, prepare(arguments.work, words), names(arguments, [US])[:1], progress) as one:
        entry["rows"] += per_image(one, arguments.batch or (8, 32, 128, 256), arguments.rounds)


def tokens(arguments: Any, words: list[str], entry: dict[str, Any], progress: Any) -> None:
    with contextlib.ExitStack() as stack:
        others = [word for word in words if not word.startswith("image=")]
        folders = [prepare(arguments.work, [*others, f"image={size}"]) for size in arguments.sizes]
        name = names(arguments, [US])[:1]
        fields = [stack.enter_context(field(arguments, folder, name, progress)) for folder in folders]
        entry["rows"] += by_tokens(fields, arguments.rounds)


# On paper


def columns(*found: tuple[str, list[str]]) -> Iterator[str]:
    table = {heading: (heading, cells, n > 0) for n, (heading, cells) in enumerate(found)}
    yield from fitted(table, tuple(table), 120)


def times_table(rows: list[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        found = row["contenders"]
        yield f"batch {row['batch']}, {row['rounds']} rounds"
        ours = [r["ours_to_it"] or {} for r in found.values()]
        yield from columns(
            ("contender", list(found)),
            ("ms", [milliseconds(r["seconds"]["median"]) for r in found.values()]),
            ("quartiles", [between(r["seconds"]) for r in found.values()]),
            ("numpy_vit / it", [f"{r['median']:.3f}" if r else "" for r in ours]),
            ("quartiles of that", [f"{r['low']:.3f}..{r['high']:.3f}" if r else "" for r in ours]),
            ("difference", ["" if r["difference"] is None else f"{r['difference']:.0e}" for r in found.values()]),
        )


def memory_table(rows: list[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        found = row["contenders"]
        yield f"batch {row['batch']}"
        yield from columns(
            ("contender", list(found)),
            ("MB above weights and input", [megabytes(r["above"]) for r in found.values()]),
            ("MB in all before the pass", [megabytes(r["base"]) for r in found.values()]),
        )


def images_table(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield from columns(
        ("batch", [str(r["batch"]) for r in rows]),
        ("ms", [milliseconds(r["seconds"]["median"]) for r in rows]),
        ("ms a picture", [milliseconds(r["seconds"]["median"] / r["batch"]) for r in rows]),
        ("to the first", [f"{r['per_image_to_first']['median']:.3f}" for r in rows]),
    )


def tokens_table(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield from columns(
        ("image", ["x".join(map(str, r["image"])) for r in rows]),
        ("tokens", [str(r["tokens"]) for r in rows]),
        ("GMACs", [f"{r['macs'] / 1e9:.3f}" for r in rows]),
        ("ms", [milliseconds(r["seconds"]["median"]) for r in rows]),
        ("GFLOP/s", [f"{r['gflops']:.4g}" for r in rows]),
        ("fixed + MACs / speed", [milliseconds(r["line"]) for r in rows]),
        ("off", [f"{100 * r['off_the_line']:+.1f} %" for r in rows]),
    )


MEASURE = {"time": time_, "memory": memory, "cold": cold, "images": images, "tokens": tokens}
SHOW = {"time": times_table, "memory": memory_table, "cold": times_table, "images": images_table, "tokens": tokens_table}


if __name__ == "__main__":
    sys.exit(main())
