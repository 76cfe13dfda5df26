"""What a difference is said to be, planted and found again; and that nothing is seen in noise."""

import numpy as np
import pytest

from numpy_vit.golden.describing import describe, ordered, runs

NOISE = {"largest": 3e-7, "l2": 2e-7, "gain": 1e-8}
DIMS = "B H N K"


def example(shape=(2, 3, 11, 8), seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape) + 0.3, 1e-7 * rng.standard_normal(shape)


def told(change, dims=DIMS, shape=(2, 3, 11, 8), **named):
    """The kinds and texts of a planted difference."""
    right, noise = example(shape)
    return [
        (d.kind, d.text) for d in describe(change(right.copy()) + noise * (change is not None), right, dims, NOISE, **named)
    ]


def exact(change, dims=DIMS, shape=(2, 3, 11, 8), **named):
    right, _ = example(shape)
    return [(d.kind, d.text) for d in describe(change(right.copy()), right, dims, NOISE, **named)]


def put(x, index, value):
    x[index] = value(x[index]) if callable(value) else value
    return x


PLANTED = {
    "factor": (lambda x: 1.25 * x, "factor", "every number is 1.25 times"),
    "sign": (lambda x: -x, "factor", "the sign is wrong"),
    "offset": (lambda x: x + 0.125, "offset", "every number is +0.125 off"),
    "both": (lambda x: 2 * x - 1, "affine", "every number is 2 times what it should be, and -1"),
    "factor by head": (lambda x: x * np.array([1, 2, 3])[:, None, None], "factor by place", "every head has a factor"),
    "offset by channel": (lambda x: x + np.arange(8) / 4, "offset by place", "every number of a head is off by a number"),
    "affine by token": (
        lambda x: x * np.linspace(1, 2, 11)[:, None] + np.arange(11)[:, None], "affine by place", "every token has a factor",
    ),
    "heads": (lambda x: x[:, [2, 0, 1]], "order", "the heads are in another order: moved on by 1, cyclically"),
    "two heads": (lambda x: x[:, [1, 0, 2]], "order", "the heads are in another order: 0 and 1 are swapped"),
    "reversed": (lambda x: x[:, :, ::-1], "order", "the tokens are in another order: reversed"),
    "pictures": (lambda x: x[::-1], "order", "the pictures are in another order"),
    "interleaved": (lambda x: x[..., [0, 4, 1, 5, 2, 6, 3, 7]], "order", "2 interleaved ones"),
    "delayed": (
        lambda x: np.concatenate([0 * x[:, :, :1], x[:, :, :-1]], axis=2), "shift", "every token is the one before it",
    ),
    "one token": (
        lambda x: put(x, np.s_[:, :, 4], lambda y: 2 * y), "factor", "token 4 alone is wrong (1 of 11 tokens): every number",
    ),
    "one channel": (lambda x: put(x, np.s_[..., 7], lambda y: y + 1), "offset", "number of a head 7 alone"),
    "flat": (lambda x: np.roll(x.ravel(), 1).reshape(x.shape), "flat shift", "all numbers are 1 place later"),
    "reshaped": (lambda x: x.swapaxes(1, 2).reshape(x.shape), "reshaped", "heads and tokens"),
    "other reshape": (lambda x: x.reshape(2, 11, 3, 8).swapaxes(1, 2), "reshaped", "heads and tokens"),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_planted(name):
    change, kind, text = PLANTED[name]
    (found, said), *_ = told(change)
    assert found == kind and text in said


EXACTLY = {
    "one head": (lambda x: put(x, np.s_[:, 1], 0.0), "constant", "head 1 alone is wrong (1 of 3 heads): every"),
    "masked": (lambda x: put(x, np.s_[:, :, 5:], 0.0), "masked", "tokens 5 to 10 are 0 throughout"),
    "clipped": (lambda x: np.clip(x, -1, 1.5), "clipped", "numbers are cut off below -1 and above 1.5"),
    "bfloat16": (lambda x: bfloat16(x), "format", "every number is one of bfloat16"),
    "cut off": (lambda x: bfloat16(x, "truncate"), "format", "every number is one of bfloat16, cut off instead of rounded"),
    "float16": (lambda x: x.astype(np.float16).astype(float), "format", "every number is one of float16"),
    "integers": (lambda x: np.rint(x * 20) / 20, "grid", "every number is a multiple of 0.05"),
    "nothing": (lambda x: 0 * x, "constant", "every number is 0"),
    "nan": (
        lambda x: put(x, np.s_[0, 2, 3], np.nan), "not finite", "8 of 528 numbers are NaN or infinite: picture 0, head 2",
    ),
}  # fmt: skip


def bfloat16(x, rounding="even"):
    from numpy_vit.arithmetic.formats import to_float

    return to_float(x, "bfloat16", rounding)


@pytest.mark.parametrize("name", EXACTLY)
def test_planted_without_noise(name):
    change, kind, text = EXACTLY[name]
    (found, said), *_ = exact(change)
    assert found == kind and text in said


def test_scores():
    shape, dims = (2, 3, 9, 9), "B H N N"
    (kind, text), *_ = told(lambda x: x.swapaxes(2, 3), dims, shape)
    assert (kind, text) == ("transposed", "queries and keys are transposed")
    (kind, text), *_ = exact(lambda x: np.tril(x), dims, shape)
    assert kind == "triangle" and "above the diagonal is 0 (query by key), as by a causal mask" in text
    (kind, text), *_ = exact(lambda x: put(x, np.s_[..., 8], -1e9), dims, shape)
    assert kind == "constant" and "key 8 alone is wrong" in text


def test_inputs():
    x, _ = example((2, 11, 24), seed=5)
    for times, text in ((1, "x is added once too often"), (-1, "x is missing"), (-0.5, "x counts 0.5 times")):
        (kind, said), *_ = told(lambda r, times=times: r + times * x, "B N D", (2, 11, 24), inputs={"x": x})
        assert (kind, said) == ("input", text)


def test_ranks():
    rng = np.random.default_rng(1)
    left, across = rng.standard_normal((40, 2)), rng.standard_normal((2, 96))
    for rank in (1, 2):
        kind, said = told(lambda r, rank=rank: r + (left[:, :rank] @ across[:rank])[None], "B N D", (1, 40, 96))[0]
        assert kind == "rank" and f"rank {rank}" in said


def test_noise_and_what_is_unlike_are_no_pattern():
    for seed in range(60):
        right, noise = example(seed=seed)
        assert describe(right + noise, right, DIMS, NOISE) == []
        other, _ = example(seed=seed + 1000)
        for port in (other, right + 0.1 * other, right + 0.5 * (other > 1)):
            assert [d.kind for d in describe(port, right, DIMS, NOISE)] == ["statistics"], seed


def test_few_numbers_prove_little():
    for seed in range(60):
        right, _ = example((1, 7), seed)
        other, _ = example((1, 7), seed + 1000)
        assert [d.kind for d in describe(other, right, "B O", NOISE)] == ["statistics"]
    assert describe(1.5 * right, right, "B O", NOISE)[0].text == "every number is 1.5 times what it should be"


def test_words():
    assert runs(np.array([0, 1, 2, 5, 7, 8])) == "0 to 2, 5, 7, 8"
    assert runs(np.arange(0, 60, 2)).endswith(", ...")
    assert ordered(np.array([3, 0, 1, 2])) == "moved on by 1, cyclically"
    assert ordered(np.array([1, 2, 3, 0])) == "moved back by 1, cyclically"
    assert ordered(np.array([2, 0, 3, 1])) == "2, 0, 3, 1 (4 of 4 are elsewhere)"
