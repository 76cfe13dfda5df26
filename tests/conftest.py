"""What the tests share."""

import os
import sys
from pathlib import Path

# The models are tiny: OpenBLAS's second thread would only spin, and on a busy machine for ten times as long.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the helpers beside the tests

from browsing import chromium  # noqa: F401 (a fixture)

HERE = Path(__file__).parent
REPOSITORY = HERE.parent
DATA = HERE / "data"


@pytest.fixture(scope="session")
def foreign():
    """The folder of foreign trained models and real pictures; tests that need it skip where there is none."""
    folder = os.environ.get("NUMPY_VIT_TEST_DATA")
    if not folder:
        pytest.skip("NUMPY_VIT_TEST_DATA is not set")
    return Path(folder)


@pytest.fixture
def run(capsys):
    """Run a command in this process -> its status, and what it wrote to stdout and stderr."""
    from numpy_vit.cli import main

    def run(*words):
        status = main([str(word) for word in words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def calls_within(function):
    """How many calls and returns a function makes, those in C included: a measure of work that no busy machine changes."""
    count = 0

    def step(*_):
        nonlocal count
        count += 1

    before = sys.getprofile()
    sys.setprofile(step)
    try:
        function()
    finally:
        sys.setprofile(before)
    return count


def relative_error(got, reference):
    """max|got - reference| / max|reference|: the one measure of agreement used here."""
    assert got.shape == reference.shape, f"{got.shape} against {reference.shape}"
    return float(np.max(np.abs(got.astype(np.float64) - reference)) / np.max(np.abs(reference)))


def crooked_config(**changes):
    """Y != X, H != K, an MLP that is no multiple of the width, a head and a pooler of odd widths."""
    from numpy_vit import ViTConfig

    values = dict(
        image=(12, 20), patch=4, channels=3, width=15, depth=3, heads=5, mlp=22, classes=7, pooler=4, eps=1e-6,
        activation="gelu", pooling="class", position_rule="bicubic", qkv_bias=True,
    )  # fmt: skip
    return ViTConfig(**{**values, **changes})


def crooked_pixels(config, batch=3, dtype="float64", seed=0):
    return np.random.default_rng(seed).normal(size=(batch, config.channels, *config.image)).astype(dtype)


def without_simd(*parts):
    """For the environment: NumPy is to do without the instructions named so, of those its build can do without."""
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    return {"NPY_DISABLE_CPU_FEATURES": " ".join(n for n in found if any(part in n for part in parts))}
