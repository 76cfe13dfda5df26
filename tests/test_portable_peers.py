"""Portable arithmetic against the true values: ball arithmetic (python-flint) for functions, 80-bit floats for a whole ViT."""

import numpy as np
import pytest

import numpy_vit
from numpy_vit.arithmetic import portable
from numpy_vit.models.seeded import uniform

from conftest import crooked_config, relative_error

pytestmark = pytest.mark.peers
POINTS = 1_000_000  # for each function

FUNCTIONS = ("exp", "tanh", "erf", "gelu", "gelu_tanh", "quick_gelu", "silu")


def points(function):
    """Random numbers of every size, and the awkward ones: near 0, where formulas change, where results vanish."""
    rng = np.random.default_rng(FUNCTIONS.index(function))
    reach = 40 if "gelu" in function else 30 if function in ("erf", "tanh") else 708
    parts = [
        rng.normal(size=POINTS // 4) * 2,
        rng.uniform(-reach, reach, POINTS // 4),
        rng.choice([-1, 1], POINTS // 4) * 2.0 ** rng.uniform(-60, 5, POINTS // 4),
        rng.uniform(-1.5, 1.5, POINTS // 4 - 4000),
    ]
    for awkward in (0.0, 1.0, -1.0, 6.0, -6.0, np.log(2) / 128, 20.0, -0.75):
        steps = rng.integers(-1000, 1000, 500)
        parts.append(awkward + steps * np.spacing(max(abs(awkward), 1e-3)))
    return np.concatenate(parts)


def truth(function, flint):
    half, root = flint.arb(1) / 2, flint.arb(2).sqrt()
    slope = 2 * (2 / flint.arb.pi()).sqrt()
    return {
        "exp": lambda x: x.exp(),
        "tanh": lambda x: x.tanh(),
        "erf": lambda x: x.erf(),
        "gelu": lambda x: x * half * (-x / root).erfc(),
        "gelu_tanh": lambda x: x / (1 + (-slope * (x + flint.arb("0.044715") * x**3)).exp()),
        "quick_gelu": lambda x: x / (1 + (-flint.arb("1.702") * x).exp()),
        "silu": lambda x: x / (1 + (-x).exp()),
    }[function]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_within_1_ulp_of_the_true_value(function):
    flint = pytest.importorskip("flint")
    flint.ctx.prec = 160
    true, x = truth(function, flint), points(function)
    got = portable.in_tiles(getattr(portable, function), x)
    worst = 0.0
    for value, ours in zip(x.tolist(), got.tolist(), strict=True):
        exact = true(flint.arb(value))
        if abs(float(exact)) < 2.3e-308:  # below the normal numbers
            assert abs(ours - float(exact)) <= 5e-324 * 2
            continue
        error = abs(float((flint.arb(ours) - exact) / float(np.spacing(abs(float(exact))))))
        worst = max(worst, error)
        assert error <= 1, (function, value, error)
    print(f"{function}: {len(x):,} points, worst {worst:.4f} ulp")


def longdouble_vit(pixels, tensors, config):
    """The forward pass in 80-bit floats, written anew: (last norm, logits)."""
    ld = np.longdouble
    w = {name: np.asarray(array).astype(ld) for name, array in tensors.items()}
    erf = np.frompyfunc(longdouble_erf, 1, 1)

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        return (
            centred / np.sqrt((centred**2).mean(-1, keepdims=True) + ld(config.eps)) * w[f"{name}.weight"] + w[f"{name}.bias"]
        )

    def dense(x, name):
        return np.einsum("...i,io->...o", x, w[f"{name}.weight"]) + w[f"{name}.bias"]

    B, C, Y, X = pixels.shape
    P, H, K = config.patch, config.heads, config.head_dim
    x = pixels.astype(ld).reshape(B, C, Y // P, P, X // P, P).transpose(0, 2, 4, 1, 3, 5).reshape(B, -1, C * P * P)
    x = dense(x, "embed.projection")
    x = np.concatenate([np.broadcast_to(w["embed.class_token"], (B, 1, config.width)), x], axis=1) + w["embed.positions"]
    for n in range(config.depth):
        y = norm(x, f"blocks.{n}.norm1")
        q, k, v = (dense(y, f"blocks.{n}.attention.{part}").reshape(B, -1, H, K) for part in ("query", "key", "value"))
        e = np.exp(np.einsum("bnhk,bmhk->bhnm", q, k) / np.sqrt(ld(K)))
        context = np.einsum("bhnm,bmhk->bnhk", e / e.sum(-1, keepdims=True), v).reshape(B, -1, H * K)
        x = x + dense(context, f"blocks.{n}.attention.output")
        y = dense(norm(x, f"blocks.{n}.norm2"), f"blocks.{n}.mlp.hidden")
        x = x + dense(y * (1 + erf(y / np.sqrt(ld(2))).astype(ld)) / 2, f"blocks.{n}.mlp.output")
    x = norm(x, "norm")
    return x, dense(x[:, 0], "head")


def longdouble_erf(x):
    import flint

    high = float(x)
    return np.longdouble(str((flint.arb(high) + flint.arb(float(x - high))).erf().mid().str(25, radius=False)))


def test_a_whole_vit_within_1e_14_of_an_80_bit_run():
    flint = pytest.importorskip("flint")
    flint.ctx.prec = 120
    if np.finfo(np.longdouble).eps > 2e-19:
        pytest.skip("long double has no 80 bits here")
    for model, pixels in (
        (numpy_vit.random_model(crooked_config(), seed=2, dtype="portable"), uniform(2, "pixels", (3, 3, 12, 20), "float64")),
        (numpy_vit.load(dtype="portable"), uniform(3, "pixels", (1, 3, 64, 64), "float64")),
    ):
        out = model(pixels)
        tokens, logits = longdouble_vit(pixels, model.tensors, model.config)
        errors = relative_error(out.last_hidden_state, tokens.astype(float)), relative_error(out.logits, logits.astype(float))
        print("portable against 80 bits:", errors)
        assert max(errors) < 1e-14
