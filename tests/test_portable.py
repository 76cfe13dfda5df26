"""Portable precision: right to the last bit, and the same bits whatever BLAS kernel, thread count and CPU features."""

import os
import signal
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from test_ops import ulps

import numpy_vit
from numpy_vit import ops
from numpy_vit.arithmetic import portable
from numpy_vit.arithmetic.portable import PortableArray

from conftest import DATA, HERE, REPOSITORY, crooked_config, crooked_pixels, relative_error, without_simd

rng = np.random.default_rng(17)


def own(function, x):
    return portable.in_tiles(function, x)


@pytest.mark.parametrize("name", ["gelu", "erf"])
def test_gelu_and_erf_within_1_ulp(name):
    stored = np.load(DATA / "special.npz")
    x = stored["x"]
    error = ulps(own(getattr(portable, name), x), stored[f"{name}.high"], stored[f"{name}.low"])
    assert error.max() <= 1, x[error.argmax()]


@pytest.mark.parametrize("function", portable.ACTIVATIONS.values(), ids=lambda function: function.__name__)
def test_activations_of_the_largest_numbers(function):
    """What is far below zero becomes zero, however large it is times the smallest exponential; what is far above stays."""
    size = np.array([1e3, 1e5, 1e80, 1e300, np.finfo(float).max])
    above = np.ones_like(size) if function is portable.erf else size
    assert np.array_equal(own(function, size), above)
    assert np.array_equal(own(function, -size), -above if function is portable.erf else 0 * size)


def test_matmul_is_exact_to_the_last_bit_of_the_largest():
    for m, k, n in ((5, 7, 3), (4, 768, 6), (2, 3072, 3), (3, 1, 2)):
        a, b = rng.normal(size=(m, k)), rng.normal(size=(k, n)) * np.exp(rng.normal(size=n) * 5)
        true = [
            [sum(Fraction(x) * Fraction(y) for x, y in zip(row, column, strict=True)) for column in b.T.tolist()]
            for row in a.tolist()
        ]
        columns = np.abs(np.array(true, float)).max(axis=0)
        error = np.array(
            [
                [abs(float(Fraction(float(g)) - t)) for g, t in zip(r, s, strict=True)]
                for r, s in zip(portable.matmul(a, b), true, strict=True)
            ]
        )
        assert (error <= np.spacing(columns)).all()


def test_sums_are_in_one_order():
    x = rng.normal(size=(3, 11))
    naive = x
    assert np.array_equal(portable.total(x[:, :1]), x[:, 0])
    a = [naive[:, i] for i in range(11)]
    while len(a) > 1:
        half = (len(a) + 1) // 2
        a = [a[i] + a[half + i] if half + i < len(a) else a[i] for i in range(half)]
    assert np.array_equal(portable.total(x), a[0])
    assert np.array_equal(portable.total(x, axis=0), x[0] + x[2] + x[1])


def test_what_is_not_portable_is_refused():
    x = np.ones((3, 3)).view(PortableArray)
    for f in (np.sin, np.log, np.add.accumulate, lambda x: np.add.reduce(x)):
        with pytest.raises(TypeError, match="is not portable arithmetic"):
            f(x)
    assert isinstance(np.exp(x) @ x + 1, PortableArray)


@pytest.mark.parametrize("activation", list(ops.ACTIVATIONS))
def test_every_step_agrees_with_float64(activation):
    config = crooked_config(activation=activation, pooling="mean" if activation == "relu" else "class")
    pixels = crooked_pixels(config)
    accurate = numpy_vit.random_model(config, seed=4, dtype="float64")(pixels, record=True).steps
    steps = numpy_vit.random_model(config, seed=4, dtype="portable")(pixels, record=True, strict=True).steps
    assert list(steps) == list(accurate)
    for name, array in steps.items():
        assert type(array) is np.ndarray and array.dtype == np.float64
        assert relative_error(array, accurate[name]) < 1e-13, name


def test_stored_steps_of_transformers():
    stored = np.load(DATA / "classifier.npz")
    out = numpy_vit.load(DATA / "classifier", dtype="portable")(stored["pixels"], record=True)
    for step in stored.files:
        if step != "pixels":
            assert relative_error(out.steps[step], stored[step]) < 1e-13, step


CODE = """
import os
import golden_manifests as stored
from numpy_vit.arithmetic.primitives import simd_features
assert not {*simd_features()} & {*os.environ.get("NPY_DISABLE_CPU_FEATURES", "").split()}, simd_features()
for name in stored.NAMES:
    assert stored.hashes(stored.manifest(name, noise=())) == stored.hashes(stored.stored(name)), name
import json
assert stored.in_every_arithmetic() == json.loads(stored.ARITHMETICS.read_text())
"""
KERNELS = [
    {"OPENBLAS_CORETYPE": kernel, "OPENBLAS_NUM_THREADS": threads}
    for kernel in ("Nehalem", "Sandybridge", "Haswell", "SkylakeX")
    for threads in ("1", "2")
]


def reproduced(**environment):
    """In a process that does its arithmetic differently: the stored manifests' hashes, step for step."""
    command = [sys.executable, "-W", "ignore", "-c", CODE]
    environment = {**os.environ, "PYTHONPATH": f"{HERE}{os.pathsep}{REPOSITORY}", **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: " ".join(kernel.values()))
@pytest.mark.slow
def test_the_same_bits_under_every_kernel(kernel):
    done = reproduced(**kernel)
    if done.returncode == -signal.SIGILL:
        pytest.skip(f"this CPU has not the instructions of {kernel['OPENBLAS_CORETYPE']}")
    assert done.returncode == 0, done.stderr


def test_the_same_bits_without_the_newer_instructions():
    done = reproduced(**without_simd(""))
    assert done.returncode == 0, done.stderr
