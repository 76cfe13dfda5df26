"""The comparison with other libraries, on a model so small that it says nothing: that it runs, and all compute the same."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest

from conftest import REPOSITORY

pytestmark = [pytest.mark.peers, pytest.mark.skipif(sys.platform != "linux", reason="it stops and wakes processes")]
TINY = ["--model", "ViT-Ti/16", "depth=2", "image=32", "--rounds", "2"]
FOLDER = "ViT-Ti-16-depth=2-image=32"
NEEDS = {"eager": "transformers", "sdpa": "transformers", "timm": "timm", "onnx": "onnxruntime", "jax": "jax"}


def benchmark(work, *words):
    command = [sys.executable, "tests/benchmarks", *words, "--work", work, "--json", work / "report.json"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    report = json.loads((work / "report.json").read_text()) if (work / "report.json").exists() else None
    return done, report


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("benchmarks")


def test_all_contenders_compute_the_same(work):
    installed = {name for name, library in NEEDS.items() if importlib.util.find_spec(library)}
    installed |= {"compile"} if "sdpa" in installed and shutil.which("g++") else set()
    done, report = benchmark(work, "time", *TINY, "--batch", "1,3")
    assert report is not None and "interrupted" not in report, done.stderr
    (model,) = report["models"]
    assert not installed & set(model["left_out"]), model["left_out"]
    assert set(model["contenders"]) >= installed | {"numpy_vit", "numpy_vit-blas", "products"}
    for row in model["rows"]:
        assert set(row["contenders"]) >= installed and row["rounds"] == 2
        for name, found in row["contenders"].items():
            assert name == "products" or found["difference"] < 1e-5
            assert len(found["all_seconds"]) == 2 and found["ours_to_it"]["median"] > 0


def test_who_computes_something_else_is_left_out(work):
    """timm is given other numbers, a thousand of them zero, than all others."""
    benchmark(work, "time", *TINY, "--batch", "1", "--only", "numpy_vit")
    other = work / "other"
    shutil.copytree(work / FOLDER, other / FOLDER)
    path = other / FOLDER / "timm.safetensors"
    content = bytearray(path.read_bytes())
    middle = len(content) // 8 * 4
    content[middle : middle + 4000] = bytes(4000)
    path.write_bytes(content)
    done, report = benchmark(other, "time", *TINY, "--batch", "1", "--only", "numpy_vit", "timm")
    assert done.returncode == 1
    assert "computes something else" in report["models"][0]["left_out"]["timm"]
    assert list(report["models"][0]["rows"][0]["contenders"]) == ["numpy_vit"]


@pytest.mark.parametrize("what", ["memory", "images", "tokens", "cold"])
def test_the_other_measurements(work, what):
    words = {"tokens": ["--sizes", "32,64,96"], "memory": ["--batch", "2"], "images": ["--batch", "1,4"], "cold": []}[what]
    done, report = benchmark(work, what, *TINY, *words, "--only", "numpy_vit")
    assert done.returncode == 0, done.stderr
    rows = report["models"][0]["rows"]
    if what == "memory":
        assert 0 < rows[0]["contenders"]["numpy_vit"]["above"] < 50e6
    elif what == "tokens":
        assert [row["tokens"] for row in rows] == [5, 17, 37]
    elif what == "images":
        assert [row["batch"] for row in rows] == [1, 4]
    else:
        assert len(rows[0]["contenders"]["numpy_vit"]["all_seconds"]) == 2


def test_no_process_is_left(work):
    """Not after an end as it should be, and not when the parent is killed while the others are stopped."""

    def left():
        found = subprocess.run(["pgrep", "-f", f"worker.py.*{work}"], capture_output=True, text=True).stdout.split()
        return [pid for pid in found if int(pid) != os.getpid()]

    if shutil.which("pgrep") is None:
        pytest.skip("no pgrep")
    assert not left()
    command = [sys.executable, "tests/benchmarks", "time", *TINY, "--only", "numpy_vit", "products", "--work", work]
    command[command.index("--rounds") + 1] = "1000000"
    parent = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while len(left()) < 2 and time.monotonic() < until:
        threading.Event().wait(0.1)
    assert len(left()) == 2
    parent.kill()
    parent.wait()
    while left() and time.monotonic() < until:
        threading.Event().wait(0.1)
    assert not left()
