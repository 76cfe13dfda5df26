"""LiteRT's int8 kernels in their three numerics, against its own interpreter: every value equal.

What XNNPACK and ruy compute depends on the processor; `litert.py` has the kernels of x86 with AVX2 and later.
"""

import platform
from pathlib import Path

import numpy as np
import pytest
from litert_graphs import Graph

from numpy_vit.arithmetic import litert
from numpy_vit.arithmetic.integers import matmul_integer

pytestmark = pytest.mark.peers
pytest.importorskip("ai_edge_litert")


def has_avx2():
    cpu = Path("/proc/cpuinfo")
    return platform.machine() == "x86_64" and cpu.exists() and "avx2" in cpu.read_text()


x86 = pytest.mark.skipif(not has_avx2(), reason="other processors have other kernels of ruy and XNNPACK")
every_numerics = pytest.mark.parametrize(
    "numerics", ["reference", pytest.param("ruy", marks=x86), pytest.param("xnnpack", marks=x86)]
)


def codes(rng, *shape, low=-128):
    return rng.integers(low, 128, shape).astype(np.int8)


def scale(rng, low=0.002, high=0.2):
    """A scale of float32, between these, as often small as large."""
    return float(np.float32(np.exp(rng.uniform(np.log(low), np.log(high)))))


def check(got, upstream, at_least):
    differ = int((got != upstream).sum())
    assert got.shape == upstream.shape and differ == 0, f"{differ} of {upstream.size} differ"
    assert upstream.size >= at_least, upstream.size
    assert len(np.unique(upstream)) > 50 and np.mean(np.abs(upstream.astype(int)) < 127) > 0.3  # not saturated all over


def fully_connected(numerics, x, weight, bias, scales, zero_x, zero_y):
    """x (M, K), weight (K, N) -> LiteRT's y (M, N), and ours."""
    scale_x, scale_w, scale_y = scales
    graph = Graph()
    tensors = [
        graph.tensor(x.shape, np.int8, scale_x, zero_x),
        graph.tensor(weight.T.shape, np.int8, scale_w, 0, weight.T),
        graph.tensor(bias.shape, np.int32, np.float32(scale_x) * np.asarray(scale_w, np.float32), 0, bias),
    ]
    y = graph.tensor((len(x), weight.shape[1]), np.int8, scale_y, zero_y)
    graph.operation("FULLY_CONNECTED", tensors, [y], 5, "FullyConnected")
    acc = matmul_integer(x, weight, zero_x) + bias
    return graph.run(numerics, x), litert.fully_connected(acc, scale_x, scale_w, scale_y, zero_y, numerics=numerics)


@every_numerics
@pytest.mark.parametrize("per_column", [False, True])
def test_fully_connected(numerics, per_column):
    rng = np.random.default_rng(0)
    for k in (7, 64, 192, 768):
        x, weight = codes(rng, 97, k), codes(rng, k, 96, low=-127)
        bias = rng.integers(-(2**14), 2**14, 96).astype(np.int32)
        scale_w = np.array([scale(rng) for _ in range(96)], np.float32) if per_column else scale(rng)
        scale_x, zero_x, zero_y = scale(rng), int(rng.integers(-128, 128)), int(rng.integers(-20, 20))
        spread = 74.0 * 74.0 * np.sqrt(k) * scale_x * float(np.median(scale_w))  # of the real results
        upstream, ours = fully_connected(numerics, x, weight, bias, (scale_x, scale_w, spread / 50), zero_x, zero_y)
        check(ours, upstream, 97 * 96)


@every_numerics
@pytest.mark.parametrize("scale_y", [2.0, 4.0, 16.0])
def test_fully_connected_at_ties(numerics, scale_y):
    """Scales of powers of two: half, a quarter, a sixteenth of the results lie on ties."""
    rng = np.random.default_rng(1)
    x, weight = codes(rng, 200, 8), rng.integers(-8 * int(scale_y), 8 * int(scale_y), (8, 50)).astype(np.int8)
    weight[2:] = 0  # small accumulators
    bias = rng.integers(-50, 50, 50).astype(np.int32)
    x = (x // 8).astype(np.int8)
    upstream, ours = fully_connected(numerics, x, weight, bias, (1.0, 1.0, scale_y), 0, 0)
    check(ours, upstream, 10_000)


@every_numerics
def test_fully_connected_next_to_ties(numerics):
    """Accumulators (all of them bias) as near to ties as whole numbers come: the last bit of every multiplier counts."""
    rng = np.random.default_rng(10)
    codes_y, scale_x = rng.integers(-127, 127, 8192) + 0.5, scale(rng)
    scale_y = float(np.float32(scale_x * 2.0**22.3))
    scale_w = rng.uniform(0.5, 2, 8192).astype(np.float32)
    near = np.rint(codes_y / (scale_x * scale_w.astype(np.float64) / scale_y))
    bias = (near + rng.integers(-1, 2, 8192)).astype(np.int32)
    x, weight = np.zeros((1, 4), np.int8), np.ones((4, 8192), np.int8)
    upstream, ours = fully_connected(numerics, x, weight, bias, (scale_x, scale_w, scale_y), 0, 0)
    check(ours, upstream, 8192)


@every_numerics
def test_fully_connected_of_large_accumulators(numerics):
    """Accumulators beyond 2**24, which float32 rounds."""
    rng = np.random.default_rng(2)
    x, weight = codes(rng, 64, 4096), codes(rng, 4096, 64, low=-127)
    bias = rng.integers(-(2**28), 2**28, 64).astype(np.int32)
    upstream, ours = fully_connected(numerics, x, weight, bias, (0.013, 0.0071, 0.0071 * 0.013 * 2**21.3), 3, -1)
    check(ours, upstream, 64 * 64)


@every_numerics
@pytest.mark.parametrize("zero_b", [0, -7])
@pytest.mark.parametrize("ties", [False, True])
def test_batch_matmul(numerics, zero_b, ties):
    """b's zero point decides whether XNNPACK takes it over."""
    rng = np.random.default_rng(3)
    for k in (16, 64, 197):
        a, b = codes(rng, 3, 50, k), codes(rng, 3, k, 60)
        scale_a, scale_b, zero_a, zero_y = scale(rng), scale(rng), int(rng.integers(-30, 30)), int(rng.integers(-30, 30))
        scale_y = float(np.float32(74.0 * 74.0 * np.sqrt(k) * scale_a * scale_b / 50))
        if ties:
            a, b, zero_a, scale_a, scale_b, scale_y = a // 16, b // 16, 0, 1.0, 1.0, 8.0
        graph = Graph()
        inputs = [graph.tensor(a.shape, np.int8, scale_a, zero_a), graph.tensor(b.shape, np.int8, scale_b, zero_b)]
        graph.operation("BATCH_MATMUL", inputs, [graph.tensor((3, 50, 60), np.int8, scale_y, zero_y)], 4, "BatchMatMul")
        acc = matmul_integer(a, b, zero_a, zero_b)
        ours = litert.batch_matmul(acc, scale_a, scale_b, zero_b, scale_y, zero_y, numerics=numerics)
        check(ours, graph.run(numerics, a, b), 9000)


@every_numerics
def test_batch_matmul_next_to_ties(numerics):
    """As above: a column of b is made so that its product with the one row of a is the whole number nearest to a tie."""
    rng = np.random.default_rng(11)
    k, codes_y = 4000, rng.integers(-120, 120, 1000) + 0.5
    scale_y = 4e5  # accumulators up to 6e7
    for _ in range(4):
        scale_a, scale_b = (float(np.float32(rng.uniform(0.9, 1.1))) for _ in range(2))
        target = np.rint(codes_y * scale_y / (scale_a * scale_b)).astype(int)
        a, b = np.full((1, 1, k + 1), 127, np.int8), np.zeros((1, k + 1, 1000), np.int8)
        a[..., k] = 1
        total = (target + 63) // 127  # of the first k codes; the last makes up the rest
        b[0, k] = target - 127 * total
        steps = np.arange(k + 1)[:, None]
        b[0, :k] = np.diff(total * steps // k, axis=0)
        graph = Graph()
        inputs = [graph.tensor(a.shape, np.int8, scale_a, 0), graph.tensor(b.shape, np.int8, scale_b, 0)]
        graph.operation("BATCH_MATMUL", inputs, [graph.tensor((1, 1, 1000), np.int8, scale_y, 0)], 4, "BatchMatMul")
        acc = matmul_integer(a, b)
        assert (acc == target).all()
        ours = litert.batch_matmul(acc, scale_a, scale_b, 0, scale_y, 0, numerics=numerics)
        check(ours, graph.run(numerics, a, b), 1000)


@every_numerics
def test_add(numerics):
    rng = np.random.default_rng(4)
    every = np.meshgrid(np.arange(-128, 128), np.arange(-128, 128))
    a, b = (x.reshape(1, -1).astype(np.int8) for x in every)  # all pairs of codes
    for case in range(40):
        ties = case >= 38
        scale_a, scale_b, scale_y = (1.0, 0.5, 2.0) if ties else (scale(rng), scale(rng), scale(rng, 0.05))
        zero_a, zero_b, zero_y = (0, 0, case - 38) if ties else (int(rng.integers(-128, 128)) for _ in range(3))
        graph = Graph()
        inputs = [graph.tensor(a.shape, np.int8, scale_a, zero_a), graph.tensor(b.shape, np.int8, scale_b, zero_b)]
        graph.operation("ADD", inputs, [graph.tensor(a.shape, np.int8, scale_y, zero_y)], 2, "Add")
        ours = litert.add(a, b, scale_a, zero_a, scale_b, zero_b, scale_y, zero_y, numerics=numerics)
        upstream = graph.run(numerics, a, b)
        assert (ours != upstream).sum() == 0, f"case {case}"


@every_numerics
@pytest.mark.parametrize(
    "shape, axes, keepdims",
    [
        ((5, 197, 60), [1], False),
        ((5, 4, 160), [1], True),
        ((5, 160, 49), [2], True),
        ((4, 14, 14, 150), [1, 2], False),  # kept as axes of one, another kernel computes it
        ((3, 5, 2, 200), [1], False),
    ],
)
def test_mean(numerics, shape, axes, keepdims):
    rng = np.random.default_rng(5)
    for case in range(5):
        q = np.clip(codes(rng, *shape) // 4 + rng.integers(-90, 90, shape[-1] if axes != [2] else (shape[1], 1)), -128, 127)
        scale_x, zero_x, zero_y = scale(rng), int(rng.integers(-30, 30)), int(rng.integers(-30, 30))
        scale_y = scale_x * 2 if case == 0 else float(np.float32(scale_x * rng.uniform(0.5, 1.5)))
        graph = Graph()
        inputs = [graph.tensor(shape, np.int8, scale_x, zero_x), graph.tensor((len(axes),), np.int32, data=axes)]
        shape_y = q.mean(axis=tuple(axes), keepdims=keepdims).shape
        y = graph.tensor(shape_y, np.int8, scale_y, zero_y)
        graph.operation("MEAN", inputs, [y], 2, "Reducer", keepDims=keepdims)
        scales = scale_x, zero_x, scale_y, zero_y
        ours = litert.mean(q, tuple(axes), *scales, numerics=numerics, keepdims=keepdims)
        check(ours, graph.run(numerics, q.astype(np.int8)), 300)


@every_numerics
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("count, ratio, period", [(4, 1, 4), (6, 1, 6), (12, 1, 12), (96, 1, 96), (3, 1.75, 12)])
def test_mean_at_ties(numerics, count, ratio, period, keepdims):
    """Means of x.5: that the divided multiplier is rounded down shows where the count is no power of two."""
    rng = np.random.default_rng(12)
    q = codes(rng, 1, count, 900) // 4
    q[0, 0] += (period // 2 - q[0].sum(axis=0)) % period
    assert (np.abs(q.mean(axis=1) * ratio) % 1 == 0.5).all()
    graph = Graph()
    inputs = [graph.tensor(q.shape, np.int8, ratio / 2, 0), graph.tensor((1,), np.int32, data=[1])]
    y = graph.tensor((1, 1, 900) if keepdims else (1, 900), np.int8, 0.5, 0)
    graph.operation("MEAN", inputs, [y], 2, "Reducer", keepDims=keepdims)
    ours = litert.mean(q, 1, ratio / 2, 0, 0.5, 0, numerics=numerics, keepdims=keepdims)
    upstream = graph.run(numerics, q)
    assert ours.shape == upstream.shape and (ours != upstream).sum() == 0


def softmax(numerics, q, unit):
    """Softmax of q with scale `unit` -> LiteRT's codes, and ours."""
    graph = Graph()
    x, y = graph.tensor(q.shape, np.int8, unit, 3), graph.tensor(q.shape, np.int8, 1 / 256, -128)
    graph.operation("SOFTMAX", [x], [y], 2, "Softmax", beta=1.0)
    return graph.run(numerics, q), litert.softmax(q, unit, numerics=numerics)


@every_numerics
@pytest.mark.parametrize("unit", [0.002, 0.01, 0.05, 0.1, 0.4, 1.0])
def test_softmax(numerics, unit):
    rng = np.random.default_rng(6)
    for n in (2, 16, 197, 500):
        q = codes(rng, 100, n)
        q[:20] = np.clip(rng.normal(size=(20, n)) * 20, -128, 127)
        q[20] = 5  # all equal
        upstream, ours = softmax(numerics, q, unit)
        assert (ours != upstream).sum() == 0, f"{(ours != upstream).sum()} differ of {n} terms"


@every_numerics
@pytest.mark.parametrize("unit", [0.0073, 0.031, 0.11])
def test_softmax_of_every_three_numbers(numerics, unit):
    """All there is to three codes are two distances from the largest; then enough sums of thirty for their order to count."""
    first, second = (x.reshape(-1) for x in np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)))
    three = np.stack([first, np.full_like(first, 127), second], axis=-1).astype(np.int8)
    thirty = codes(np.random.default_rng(13), 20_000, 30)
    for q in (three, thirty):
        upstream, ours = softmax(numerics, q, unit)
        assert (ours != upstream).sum() == 0, f"{(ours != upstream).sum()} of {q.size} differ"


@every_numerics
def test_softmax_where_a_plain_quotient_would_round_otherwise(numerics):
    q = np.array([[-79, 27, 42, -4], [-81, 23, 124, -62], [-10, 53, 115, -100], [-98, 64, 37, 96], [55, 24, -51, 70]], np.int8)
    upstream, ours = softmax(numerics, q, 0.0073)
    assert (ours == upstream).all()


@every_numerics
@pytest.mark.parametrize("approximate", [False, True])
def test_gelu(numerics, approximate):
    rng = np.random.default_rng(7)
    q = np.arange(-128, 128).astype(np.int8).reshape(1, 256)
    for _ in range(40):
        scale_x, zero_x, zero_y = scale(rng, 0.005, 0.1), int(rng.integers(-60, 60)), int(rng.integers(-128, 0))
        scale_y = scale_x * rng.uniform(0.5, 1.0)
        graph = Graph()
        x, y = graph.tensor(q.shape, np.int8, scale_x, zero_x), graph.tensor(q.shape, np.int8, scale_y, zero_y)
        graph.operation("GELU", [x], [y], 1, "Gelu", approximate=approximate)
        ours = litert.gelu(q, scale_x, zero_x, scale_y, zero_y, approximate=approximate, numerics=numerics)
        check(ours, graph.run(numerics, q), 256)


@every_numerics
def test_quantise(numerics):
    """Numbers near the ties, where dividing and multiplying by the reciprocal part, and where the rules part."""
    rng = np.random.default_rng(8)
    for unit in (0.5, 1.0, *(scale(rng) for _ in range(8))):
        middle = ((np.arange(-130, 130) + 0.5) * np.float64(np.float32(unit))).astype(np.float32)
        x = np.concatenate([middle, *(middle + step * np.spacing(middle) for step in (-2, -1, 1, 2)), [0.0, 1e6, -1e6] * 4])
        x = x.astype(np.float32).reshape(1, -1)
        zero = int(rng.integers(-20, 20))
        graph = Graph()
        graph.operation("QUANTIZE", [graph.tensor(x.shape, np.float32)], [graph.tensor(x.shape, np.int8, unit, zero)], 2)
        check(litert.quantise(x, unit, zero, numerics), graph.run(numerics, x), 1300)
