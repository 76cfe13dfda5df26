"""What a difference is, in words: every kind planted and found with its numbers and places, and none where there is none."""

import functools
import re

import numpy as np
import pytest
from test_words import complaints

from numpy_vit.arithmetic.rounded import round_to
from numpy_vit.golden import describing
from numpy_vit.golden.describing import Description
from numpy_vit.golden.report_zh import difference_in_chinese

NOISE = {"largest": 2e-7, "l2": 2e-7, "gain": 3e-8}
TOKENS, HEADS, SCORES = ((2, 13, 24), "B N D"), ((2, 4, 13, 6), "B H N K"), ((2, 4, 13, 13), "B H N N")


def floor_of(shape):
    """Wider where there are few numbers, as numpy_vit.golden.checking.noise_of has it."""
    return NOISE | {"gain": max(NOISE["gain"], 2 * NOISE["l2"] / np.sqrt(np.prod(shape)))}


@functools.cache
def stored(shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) + 0.3 * rng.normal(size=shape[-1]) + 0.1


def right_of(shape, seed=0):
    return stored(shape, seed).copy()


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def float32(x, seed=0):
    """As a float32 port has it, with the noise of a sum."""
    noise = np.random.default_rng(seed).normal(size=x.shape) * 6e-8 * np.median(np.abs(x[np.isfinite(x)]))
    _, which, counts = np.unique(x, return_inverse=True, return_counts=True)
    constant = (counts >= 5)[which].reshape(x.shape)  # a limit, or what was filled in, is exact
    return np.where(constant, x, x + noise).astype(np.float32).astype(np.float64)


def changed(x, change):
    y = x.copy()
    change(y)
    return y


def put(index, value):
    """A change that sets (or makes, of what is there) the numbers at an index."""

    def change(y):
        y[index] = value(y[index]) if callable(value) else value

    return change


ALL = slice(None)
COLUMN = np.arange(1, 14)[:, None]
UPPER = np.broadcast_to(np.triu(np.ones((13, 13), bool), 1), (2, 4, 13, 13))
ORDER = np.random.default_rng(7).permutation(13)
OUTER = np.random.default_rng(8).normal(size=(2, 13, 1)) * np.random.default_rng(9).normal(size=24)
SHAPED = np.linspace(0.5, 2, 24)


def masked_softmax(x):
    return softmax(np.where(UPPER, -np.inf, x))


# Where, the wrong result of the right numbers -> the kind, what the text must have, the places.
PLANTED = {
    "factor": (TOKENS, lambda x: 1.5 * x, "factor", "the right ones times 1.5", {}),
    "factor of a size": (HEADS, lambda x: x / np.sqrt(6), "factor", r"times 0.408248 = 1/sqrt\(6\)", {}),
    "negated": (TOKENS, lambda x: -x, "negated", "other sign", {}),
    "offset": (TOKENS, lambda x: x + 0.25, "offset", "the right ones plus 0.25$", {}),
    "affine": (TOKENS, lambda x: 3 * x - 0.5, "affine", r"times 3 plus -0.5$", {}),
    "factor by channel": (TOKENS, lambda x: SHAPED * x, "factor", "each channel is .* of its own, 0.5 to 2$", {}),
    "factor by token": (TOKENS, lambda x: COLUMN / 6.5 * x, "factor", "each token is .*, 0.153846 to 2", {}),
    "factor by head": (HEADS, lambda x: x * np.reshape([2, 3, 4, 5], (4, 1, 1)), "factor", "each head is .*, 2 to 5", {}),
    "factor by picture": (HEADS, lambda x: x * np.reshape([2, 3], (2, 1, 1, 1)), "factor", "each picture is .*, 2 to 3", {}),
    "factor by token of each head": (
        ((2, 4, 13, 24), "B H N K"),
        lambda x: x * np.random.default_rng(1).uniform(1, 2, (1, 4, 13, 1)),
        "factor",
        "each token of each head",
        {},
    ),
    "offset by channel": (TOKENS, lambda x: x + SHAPED, "offset", "each channel is .* offset of its own, 0.5 to 2$", {}),
    "affine by channel": (TOKENS, lambda x: SHAPED * x + SHAPED[::-1], "affine", "each channel .* 0.5 to 2, plus", {}),
    "affine by token": (
        TOKENS,
        lambda x: COLUMN * x + COLUMN**2,
        "affine",
        r"each token .*, 1(.0000\d)? to 13, plus .*, 1 to 169",
        {},
    ),
    "one channel doubled": (
        TOKENS,
        lambda x: changed(x, put((..., 7), lambda v: 2 * v)),
        "factor",
        "^only in channel 7 of 24: .* times 2$",
        {"channel": (7,)},
    ),
    "a head of a picture negated": (
        HEADS,
        lambda x: changed(x, put((1, 2), lambda v: -v)),
        "negated",
        "^only in picture 1 of 2, head 2 of 4: ",
        {"picture": (1,), "head": (2,)},
    ),
    "tokens offset": (
        TOKENS,
        lambda x: changed(x, put((ALL, slice(4, 9)), lambda v: v + 1)),
        "offset",
        "^only in tokens 4 to 8 of 13: .* plus 1$",
        {"token": (4, 5, 6, 7, 8)},
    ),
    "a head is zero": (
        HEADS,
        lambda x: changed(x, put((ALL, 3), 0)),
        "constant",
        "head 3 of 4: the numbers are 0",
        {"head": (3,)},
    ),
    "a picture is zero": (
        TOKENS,
        lambda x: changed(x, put(1, 0)),
        "constant",
        "picture 1 of 2: the numbers are 0",
        {"picture": (1,)},
    ),
    "channels are a constant": (
        TOKENS,
        lambda x: changed(x, put((..., [3, 5]), 0.7)),
        "constant",
        "channels 3 and 5 of 24: the numbers are 0.7",
        {"channel": (3, 5)},
    ),
    "all is zero": (TOKENS, lambda x: 0 * x, "constant", "all places: the numbers are 0", {}),
    "causal scores": (SCORES, lambda x: np.where(UPPER, -np.inf, x), "triangle", "after the query token is -inf", {}),
    "causal, -10000": (SCORES, lambda x: np.where(UPPER, -1e4, x), "triangle", "after the query token is -10000", {}),
    "causal, zero": (SCORES, lambda x: np.where(UPPER, 0, x), "triangle", "after the query token is 0", {}),
    "causal, the other way": (
        SCORES,
        lambda x: np.where(UPPER.swapaxes(2, 3), 0, x),
        "triangle",
        "before the query token is 0",
        {},
    ),
    "NaN in a triangle": (SCORES, lambda x: np.where(UPPER, np.nan, x), "triangle", "after the query token is NaN", {}),
    "a padding mask": (
        SCORES,
        lambda x: changed(x, put((..., slice(10, 13)), -np.inf)),
        "constant",
        "key tokens 10 to 12 of 13: the numbers are -inf",
        {"key token": (10, 11, 12)},
    ),
    "reversed": (TOKENS, lambda x: x[:, ::-1], "reversed", "the tokens are reversed", {}),
    "channels reversed": (TOKENS, lambda x: x[..., ::-1], "reversed", "the channels are reversed", {}),
    "rolled": (TOKENS, lambda x: np.roll(x, 3, 1), "rolled", "tokens are rolled by 3: .* 3 before it", {}),
    "rolled back": (TOKENS, lambda x: np.roll(x, -1, 2), "rolled", "channels are rolled by -1: .* 1 after it", {}),
    "shifted, zeros": (
        TOKENS,
        lambda x: np.concatenate([0 * x[:, :1], x[:, :-1]], 1),
        "shifted",
        "tokens are shifted by 1: .* 1 before it, zeros",
        {},
    ),
    "shifted, repeated": (
        TOKENS,
        lambda x: np.concatenate([x[:, 2:], x[:, -1:], x[:, -1:]], 1),
        "shifted",
        "tokens are shifted by -2: .* 2 after it, the end repeated",
        {},
    ),
    "shifted, another end": (
        TOKENS,
        lambda x: np.concatenate([x[:, 1:], right_of((2, 1, 24), 5)], 1),
        "shifted",
        "tokens are shifted by -1: .* 1 after it$",
        {},
    ),
    "some shifted": (
        TOKENS,
        lambda x: changed(x, put((ALL, slice(5, 13)), x[:, 4:12])),
        "shifted",
        "tokens 5 to 12 of 13: each has the numbers of the one 1 before it",
        {"token": tuple(range(5, 13))},
    ),
    "heads in another order": (HEADS, lambda x: x[:, [2, 0, 1, 3]], "order", "heads .*: 0 1 2 are 2 0 1$", {"head": (0, 1, 2)}),
    "tokens in another order": (
        TOKENS,
        lambda x: x[:, ORDER],
        "order",
        "tokens are in another order: .* " + " ".join(map(str, ORDER[np.arange(13) != ORDER][:12])),
        None,
    ),
    "heads within the channels": (
        TOKENS,
        lambda x: x.reshape(2, 13, 4, 6)[:, :, [2, 0, 3, 1]].reshape(x.shape),
        "order",
        "channels .* by blocks of 6: 0 1 2 3 are 2 0 3 1",
        {},
    ),
    "reversed in blocks": (
        ((1, 20, 8), "B G D"),
        lambda x: x.reshape(1, 4, 5, 8)[:, :, ::-1].reshape(x.shape),
        "reversed",
        "the patches are reversed in each 5",
        {},
    ),
    "reversed by blocks": (
        ((1, 20, 8), "B G D"),
        lambda x: x.reshape(1, 4, 5, 8)[:, ::-1].reshape(x.shape),
        "reversed",
        "the patches are reversed by blocks of 5",
        {},
    ),
    "one token for all": (TOKENS, lambda x: np.repeat(x[:, 4:5], 13, 1), "taken", "have the numbers of token 4", None),
    "a token of another": (
        TOKENS,
        lambda x: changed(x, put((ALL, 3), x[:, 9])),
        "taken",
        "token 3 of 13 has the numbers of token 9",
        {"token": (3,)},
    ),
    "even and odd": (
        TOKENS,
        lambda x: np.concatenate([x[..., ::2], x[..., 1::2]], -1),
        "interleaved",
        "channels .* the even ones first, then the odd",
        {},
    ),
    "halves interleaved": (
        TOKENS,
        lambda x: x.reshape(2, 13, 2, 12).swapaxes(2, 3).reshape(x.shape),
        "interleaved",
        "channels .* two halves are interleaved",
        {},
    ),
    "(K, H) for (H, K)": (
        TOKENS,
        lambda x: x.reshape(2, 13, 4, 6).swapaxes(2, 3).reshape(x.shape),
        "interleaved",
        r"\(6, 4\) where it should be \(4, 6\)",
        {},
    ),
    "transposed": (SCORES, lambda x: x.swapaxes(2, 3), "transposed", "query token and key token have changed places", {}),
    "one head transposed": (
        SCORES,
        lambda x: changed(x, put((ALL, 1), x[:, 1].swapaxes(1, 2))),
        "transposed",
        "only in head 1 of 4: transposed",
        {"head": (1,)},
    ),
    "reshaped": (HEADS, lambda x: x.swapaxes(1, 2).reshape(x.shape), "reshaped", r"lie in the order \(2, 13, 4, 6\)", {}),
    "merged by a reshape": (
        TOKENS,
        lambda x: x.reshape(2, 13, 4, 6).swapaxes(1, 2).reshape(x.shape),
        "reshaped",
        r"\(2, 13, 4, 6\) numbers lie in the order \(2, 4, 13, 6\)",
        {},
    ),
    "a pointer": (TOKENS, lambda x: np.roll(x.ravel(), 1).reshape(x.shape), "pointer", "shifted by 1 in memory: .* i - 1", {}),
    "a pointer back": (TOKENS, lambda x: np.roll(x.ravel(), -3).reshape(x.shape), "pointer", r"by -3 .* i \+ 3", {}),
    "clipped": (TOKENS, lambda x: np.clip(x, -1, 1.25), "clipped", "cut below at -1 and above at 1.25", {}),
    "clipped above": (TOKENS, lambda x: np.minimum(x, 1.25), "clipped", r"cut above at 1.25 \(\d+ of 624\)", {}),
    "rank one": (TOKENS, lambda x: x + OUTER, "rank one", "of rank one", {}),
    "rank two": (
        ((2, 40, 24), "B N D"),
        lambda x: x + right_of((2, 40, 2), 3) @ right_of((2, 24), 4),
        "low rank",
        "rank 2",
        {},
    ),
}


def describe(*arguments, **options):
    """What is described; every text of it has a Chinese one."""
    found = describing.describe(*arguments, **options)
    for text in (description.text for description in found):
        chinese = difference_in_chinese(text)
        bare = re.sub("NaN|-?inf|float8-e.m.|bfloat16|float16|sqrt|residual1|mlp.output|e[-+]?[0-9]+", "", chinese)
        assert not re.search("[A-Za-z]{2}", bare) and complaints(chinese) == [], (text, chinese)
    return found


@pytest.mark.parametrize("name", PLANTED)
def test_every_kind_is_found_with_its_numbers_and_places(name):
    (shape, dims), wrong, kind, text, places = PLANTED[name]
    for seed in range(3):
        x = right_of(shape, seed)
        found = describe(float32(wrong(x), seed), x, dims, NOISE)
        assert found[0].kind == kind and re.search(text, found[0].text), found
        assert found[0].explains == 1 and (places is None or found[0].places == places), found
        assert len(found) <= 3


def rounded_to(name):
    bits, least = {"bfloat16": (8, -126), "float16": (11, -14), "float8-e4m3": (4, -6), "float8-e5m2": (3, -14)}[name]

    def rounding(x, way):
        unit = 2.0 ** (np.maximum(np.floor(np.log2(np.abs(x))), least) - bits + 1)
        return way(x / unit) * unit

    return rounding


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float8-e4m3", "float8-e5m2"])
def test_values_of_a_narrower_format(name):
    x = right_of((2, 13, 24))
    if "float8" not in name:
        assert np.array_equal(rounded_to(name)(x, np.rint), round_to(name, x.astype(np.float32)).astype(np.float64))
    (found,) = describe(rounded_to(name)(x, np.rint), x, "B N D", NOISE)
    assert found.kind == "format" and found.text == f"the numbers are the right ones rounded to the nearest, of {name}"
    (found,) = describe(rounded_to(name)(x, np.trunc), x, "B N D", NOISE)
    assert found.kind == "truncated" and found.text == f"the numbers are the right ones cut off towards zero, of {name}"


def test_values_of_a_grid():
    x = right_of((2, 13, 24))
    (found,) = describe(float32(np.rint(x / 0.03125) * 0.03125), x, "B N D", NOISE)
    assert found.kind == "format" and re.search(r"nearest, of a grid of \d+ levels, multiples of 0.03125$", found.text)
    (found,) = describe(float32(np.floor(x / 0.04) * 0.04), x, "B N D", NOISE)
    assert found.kind == "truncated" and re.search("rounded down, of a grid .* 0.04$", found.text)


def test_a_causal_softmax():
    x = right_of((2, 4, 13, 13))
    found = describe(float32(masked_softmax(x)), softmax(x), "B H N N", NOISE)
    assert found[0].kind == "triangle" and "after the query token is 0" in found[0].text and found[0].explains == 1
    assert re.search("what is left of each query token is the right numbers times 1 to [0-9.]+$", found[0].text)
    masked = x.copy()
    masked[..., 10:] = -np.inf
    found = describe(float32(softmax(masked)), softmax(x), "B H N N", NOISE)
    assert found[0].places == {"key token": (10, 11, 12)} and "numbers are 0, and what is left" in found[0].text


def test_a_multiple_of_an_input():
    x, branch = right_of((2, 13, 24), 1), right_of((2, 13, 24), 2)
    inputs = {"residual1": x, "mlp.output": branch, "other": branch[:1]}
    for port, text in (
        (branch, "the difference is -1 times residual1, as if it were left out"),
        (2 * x + branch, "the difference is 1 times residual1, as if it were added once more"),
        (0.5 * x + branch, "the difference is -0.5 times residual1"),
        (x + 3 * branch, "the difference is 2 times mlp.output"),
        (x, "the difference is -1 times mlp.output, as if it were left out"),
    ):
        found = describe(float32(port), x + branch, "B N D", NOISE, inputs=inputs)
        assert found[0].kind in ("input", "skipped") and text in [d.text for d in found], found
    normed = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True) ** 3
    found = describe(float32(x), normed, "B N D", NOISE, inputs={"residual1": x})
    assert any(d.text == "the numbers are those of residual1, as if this step were not done" for d in found)


def test_one_place_alone():
    rng = np.random.default_rng(0)
    x = right_of((2, 4, 13, 6))
    for index, text, places in (
        ((ALL, 2), "only head 2 of 4 is wrong", {"head": (2,)}),
        ((ALL, ALL, slice(4, 7)), "only tokens 4 to 6 of 13 are wrong", {"token": (4, 5, 6)}),
        ((..., [1, 4]), "only head channels 1 and 4 of 6 are wrong", {"head channel": (1, 4)}),
        (
            (1, 3, 12),
            "only picture 1 of 2, head 3 of 4, token 12 of 13 is wrong",
            {"picture": (1,), "head": (3,), "token": (12,)},
        ),
    ):
        port = x.copy()
        port[index] = rng.normal(size=port[index].shape)
        found = describe(float32(port), x, "B H N K", NOISE)
        assert [d.kind for d in found] == ["alone", "statistics"] and found[0].text == text
        assert found[0].places == places
    port = x.copy()
    port[1, 2, 3, 4] = 17
    found = describe(port, x, "B H N K", NOISE)
    assert re.search("only one number is wrong, at .*head 2 of 4, token 3 .*: 17 instead of", found[0].text)


def test_places_that_are_no_numbers():
    x = right_of((2, 13, 24))
    for index, text in (
        ((ALL, 5), "48 NaN and 0 infinite numbers of 624: all of token 5 of 13; the rest is right"),
        (
            (1, 5, 3),
            "1 NaN and 0 infinite numbers of 624: all of picture 1 of 2, token 5 of 13, channel 3 of 24; the rest is right",
        ),
    ):
        port = x.copy()
        port[index] = np.nan
        texts = [d.text for d in describe(port, x, "B N D", NOISE)]
        assert text in texts or texts[0].startswith("token 5 of 13: the numbers are NaN")
    port = x.copy() + 1
    port[0, 5, :7] = np.inf
    port[0, 5, 8:] = np.nan
    (found,) = describe(port, x, "B N D", NOISE)
    assert found.kind == "not finite" and "token 5 of 13" in found.text and found.text.endswith("the rest is wrong as well")
    assert found.places["token"] == (5,)


def test_what_the_ports_inputs_explain_is_not_asked():
    x = right_of((2, 13, 24))
    x[0, 3] = np.nan
    port = float32(1.5 * x)
    assert describe(port, x, "B N D", NOISE)[0].text == "the numbers are the right ones times 1.5"
    assert describe(x, x, "B N D", NOISE) == []


# No pattern where there is none

SHAPES = [TOKENS, HEADS, SCORES, ((1, 10), "B O"), ((1, 3), "B O"), ((2, 10), "B O"), ((1, 48), "B D"), ((1, 7, 4), "B N D"),
          ((2, 2), "B O"), ((1, 768), "B D"), ((1, 1), "B O")]  # fmt: skip


@pytest.mark.parametrize("shape, dims", SHAPES)
@pytest.mark.parametrize("noise", [1.0, 1e4])  # times float32's; the second as coarse as bfloat16's
def test_nothing_is_claimed_of_a_difference_by_chance(shape, dims, noise):
    floor = {key: noise * value for key, value in floor_of(shape).items()}
    for seed in range(6):
        rng = np.random.default_rng(1000 + seed)
        x = right_of(shape, seed)
        for size in (1.0, 0.1, 20 * floor["largest"], 200 * floor["largest"]):
            port = float32(x + size * rng.normal(size=shape))
            found = describe(port, x, dims, floor, inputs={"residual": right_of(shape, seed + 1)})
            assert {d.kind for d in found} <= {"statistics"}, (seed, size, found)
        unrelated = float32(rng.normal(size=shape))
        assert {d.kind for d in describe(unrelated, x, dims, floor)} <= {"statistics"}, seed


@pytest.mark.parametrize("shape, dims", SHAPES)
def test_nothing_is_said_of_noise(shape, dims):
    for seed in range(25):
        x = right_of(shape, seed)
        assert describe(float32(x, seed), x, dims, floor_of(shape)) == []


def test_few_numbers_with_a_pattern():
    x = right_of((1, 10))
    for wrong, kind in ((2 * x, "factor"), (x + 1, "offset"), (x[:, ::-1], "reversed"), (np.roll(x, 1), "rolled")):
        wrong = np.asarray(wrong).reshape(x.shape)
        assert describe(float32(wrong), x, "B O", NOISE)[0].kind == kind
    assert describe(np.array([[3.0]]), np.array([[2.0]]), "B O", NOISE)[0].kind == "statistics"


def test_what_is_explained_but_for_a_little_says_so():
    x = right_of((2, 13, 24))
    port = 2 * x + 5e-4 * right_of(x.shape, 4)
    found = describe(port, x, "B N D", NOISE)[0]
    assert found.kind == "factor" and 0.999 <= found.explains < 1
    assert re.search(r"\(this explains 99.9\d % of the difference; [\d,]+ noise floors are left\)$", found.text)
    assert describe(2 * x + 5e-3 * right_of(x.shape, 4), x, "B N D", NOISE)[0].kind == "statistics"


def test_rows_that_are_equal_stay_where_they_are():
    x = right_of((2, 13, 24))
    x[:, 9] = x[:, 2]
    order = np.arange(13)
    order[[4, 6, 7]] = 6, 7, 4
    (found,) = describe(float32(x[:, order]), x, "B N D", NOISE)
    assert found.text == "the tokens are in another order: 4 6 7 are 6 7 4" and found.places == {"token": (4, 6, 7)}


def test_numbers_here_and_there_are_no_place():
    """That all of few wrong numbers lie in a few tokens and channels says little: no outline is drawn around them."""
    x = right_of((2, 13, 24))
    for seed in range(20):
        rng = np.random.default_rng(seed)
        port = x.copy()
        for _ in range(12):
            port[tuple(rng.integers(0, n) for n in x.shape)] += rng.normal()
        (found,) = describe(port, x, "B N D", NOISE)
        assert found.kind == "statistics", found


def test_what_is_wrong_only_as_a_whole():
    """No number is beyond noise, but all are larger, which rounding does not make them."""
    x = right_of((2, 13, 24))
    (found,) = describe(x * (1 + 3e-7), x, "B N D", NOISE)
    assert found.kind == "factor" and found.text.endswith("the right ones times 1 + 3e-07")
    less = x - 3e-7 * np.abs(x) * np.sign(x)
    (found,) = describe(less, x, "B N D", NOISE)
    assert found.text.endswith("the right ones times 1 - 3e-07")


def test_statistics_say_how_much_and_where():
    x = right_of((2, 13, 24))
    rng = np.random.default_rng(0)
    port = x + 0.1 * rng.normal(size=x.shape)
    port[:, 4] += 3 * rng.normal(size=(2, 24))
    (found,) = describe(port, x, "B N D", NOISE)
    assert isinstance(found, Description) and found.kind == "statistics" and found.explains == 0
    off = np.linalg.norm(port - x) / np.linalg.norm(x)
    assert re.search(r"62\d of 624 numbers differ beyond noise", found.text)
    assert f"difference {off:.3g} of their size" in found.text and "of it in token 4 of 13" in found.text
    assert f"correlation with the right ones {np.corrcoef(port.ravel(), x.ravel())[0, 1]:.6f}" in found.text
