"""The arithmetic of a Vision Transformer, one plain function per formula.

Arrays are float32 or float64 and come out in the dtype they came in. Shapes are in the letters of numpy_vit.steps; `...`
stands for any leading axes. "The paper" is Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv 2010.11929.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .arithmetic.dispatch import dispatched
from .arithmetic.fast import exp, is_plain, row_mean, row_mean_square, row_sum
from .arithmetic.parallel import by_columns, by_rows, elementwise
from .arithmetic.special import erf as erf
from .arithmetic.special import gelu

Array = Any


# Picture <-> patches


def patchify(pixels: Array, patch: int) -> Array:
    """Cut pictures into patches, row by row, each flattened channel first (c, py, px).

    pixels (B, C, Y, X) -> (B, Y/P * X/P, C*P*P). Paper, section 3.1: x_p. A convolution with stride P does the same cut;
    its kernel (D, C, P, P), flattened likewise, is the projection matrix. What is left at the right and bottom edge, where
    P does not divide X or Y, is not used, as by a convolution.
    """
    B, C, Y, X = pixels.shape
    P, rows, columns = patch, Y // patch, X // patch
    grid = pixels[:, :, : rows * P, : columns * P].reshape(B, C, rows, P, columns, P)  # (B, C, row, py, column, px)
    grid = grid.transpose(0, 2, 4, 1, 3, 5)  # (B, row, column, C, py, px)
    return grid.reshape(B, rows * columns, C * P * P)


def unpatchify(patches: Array, patch: int, image: tuple[int, int]) -> Array:
    """The inverse of patchify. patches (B, Y/P * X/P, C*P*P), image (Y, X) -> (B, C, Y, X)."""
    B, _, row = patches.shape
    P, (Y, X) = patch, image
    C = row // (P * P)
    grid = patches.reshape(B, Y // P, X // P, C, P, P)  # (B, row, column, C, py, px)
    grid = grid.transpose(0, 3, 1, 4, 2, 5)  # (B, C, row, py, column, px)
    return grid.reshape(B, C, Y, X)


# Tokens


@by_columns
def linear(x: Array, weight: Array, bias: Array | None = None, out: Array | None = None) -> Array:
    """y = x W + b. x (..., in), weight (in, out), bias (out,) or None -> (..., out)."""
    y = np.matmul(x, weight, out=out)
    if bias is not None:
        y += bias  # in place: a fresh array of this size costs more than the addition
    return y


def prepend(special: Sequence[Array], tokens: Array) -> Array:
    """Put the same tokens before every sequence. special [(1, D), ...], tokens (B, G, D) -> (B, N, D). Paper, eq. 1: x_class.

    The paper has one, the class token.
    """
    B, _, D = tokens.shape
    return np.concatenate([*(np.broadcast_to(token, (B, len(token), D)) for token in special), tokens], axis=1)


def standardize(x: Array, eps: float, out: Array | None = None) -> Array:
    """Shift and scale each token to mean 0 and variance 1 (of the population, as every framework does).

    x (..., D) -> (..., D). `eps` keeps a constant token from dividing by zero.
    """
    centred = np.subtract(x, row_mean(x), out=out)
    variance = row_mean_square(centred)
    centred /= np.sqrt(variance + eps)
    return centred


@by_rows
def layer_norm(x: Array, weight: Array, bias: Array, eps: float, out: Array | None = None) -> Array:
    """Layer normalisation (Ba et al., arXiv 1607.06450): standardize, then a learned scale and place for each of the D.

    x (..., D), weight (D,), bias (D,) -> (..., D).
    """
    y = standardize(x, eps, out)
    y *= weight
    y += bias
    return y


# Attention


def split_heads(x: Array, heads: int) -> Array:
    """x (B, N, H*K) -> (B, H, N, K): head h takes the K numbers from h*K on."""
    B, N, width = x.shape
    return x.reshape(B, N, heads, width // heads).swapaxes(1, 2)


def merge_heads(x: Array) -> Array:
    """The inverse of split_heads. x (B, H, N, K) -> (B, N, H*K)."""
    B, H, N, K = x.shape
    return x.swapaxes(1, 2).reshape(B, N, H * K)


@by_rows
def softmax(x: Array, out: Array | None = None) -> Array:
    """exp(x) / sum(exp(x)) over the last axis. x (..., N) -> (..., N); every row sums to 1.

    Where numbers are large, so that exp could overflow or a row vanish, the row's maximum is taken off first: that is the
    same, but for rounding.
    """
    if not within(x, 20):
        x = out = np.subtract(x, x.max(axis=-1, keepdims=True), out=out)
    e = exp(x, out)
    e /= row_sum(e)
    return e


def within(x: Array, bound: float) -> bool:
    """Whether all numbers are known to be between -bound and bound; of float32 and float64 arrays alone that is known."""
    return is_plain(x) and x.size > 0 and -bound <= x.min() and x.max() <= bound


# Activations, all elementwise: x any shape -> the same. GELU itself is in numpy_vit.arithmetic.special.


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x))."""
    with np.errstate(over="ignore"):  # exp overflows to infinity, and 1 / infinity is the right 0
        return 1 / (1 + np.exp(-x))


@dispatched
@elementwise
def gelu_tanh(x: Array, out: Array | None = None) -> Array:
    """0.5 x (1 + tanh(u)), u = sqrt(2/pi) (x + 0.044715 x^3): the approximation JAX and GPT-2 use for GELU.

    Written as x sigmoid(2 u), which is the same and keeps its digits in the negative tail.
    """
    with np.errstate(over="ignore"):  # of the cube: sigmoid of infinity is the right limit
        u = math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)
    return np.multiply(x, sigmoid(2 * u), out=out)


@dispatched
@elementwise
def quick_gelu(x: Array, out: Array | None = None) -> Array:
    """x sigmoid(1.702 x): the approximation OpenAI's CLIP was trained with."""
    return np.multiply(x, sigmoid(1.702 * x), out=out)


@dispatched
@elementwise
def silu(x: Array, out: Array | None = None) -> Array:
    """x sigmoid(x), also called swish."""
    return np.multiply(x, sigmoid(x), out=out)


@elementwise
def relu(x: Array, out: Array | None = None) -> Array:
    """max(x, 0)."""
    return np.maximum(x, 0, out=out)


ACTIVATIONS: dict[str, Callable[..., Array]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "relu": relu,
    "silu": silu,
}


# Invariants, checked where a step is `strict`. Shapes alone let a softmax over the wrong axis pass.


def rows_sum_to_1(probs: Array) -> bool:
    """every row is a probability distribution: nothing negative, sum 1"""
    probs = np.asarray(probs)
    slack = 8 * np.finfo(probs.dtype).eps * math.sqrt(probs.shape[-1])
    return bool((probs >= 0).all() and (abs(probs.sum(axis=-1) - 1) <= slack).all())


def mean_0_variance_1(y: Array, x: Array, weight: Array, bias: Array, eps: float) -> bool:
    """a layer norm before scale and shift has mean 0 and variance v / (v + eps) in every token"""
    standard = standardize(x, eps)
    rounding = np.finfo(standard.dtype).eps
    y, scaled, bias = np.asarray(y), np.asarray(standard * weight), np.asarray(bias)
    if not (abs(y - scaled - bias) <= 64 * rounding * (abs(scaled) + abs(bias))).all():
        return False  # y was not made of it
    x = np.asarray(x, np.float64)
    variance, noise = x.var(axis=-1), rounding * abs(x).max(axis=-1)
    expected = variance / (variance + eps)
    slack = 64 * (rounding + noise / np.sqrt(variance + eps))
    standard = np.asarray(standard, np.float64)
    mean_is_0 = abs(standard.mean(axis=-1)) <= slack
    return bool((mean_is_0 & (abs(standard.var(axis=-1) - expected) <= slack)).all())


def undone_by_unpatchify(patches: Array, pixels: Array, patch: int) -> bool:
    """patches put together again are the picture"""
    Y, X = (side // patch * patch for side in pixels.shape[2:])
    return np.array_equal(unpatchify(patches, patch, (Y, X)), pixels[:, :, :Y, :X], equal_nan=True)
