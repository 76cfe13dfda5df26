"""The arithmetic of a Vision Transformer, one textbook formula per function.

Arrays are float32 or float64 in the forward pass, and come out in the dtype they came in; lists and integers do as well.
Shapes are in the letters of numpy_vit.steps; `...` stands for any leading axes. "The paper" is Dosovitskiy et al., "An Image
is Worth 16x16 Words", arXiv 2010.11929.

The formulas are what the reference computes. A kind of array may have its own way of computing one (numpy_vit.arithmetic):
float32 and float64 arrays in blocks and by several processors at once, portable arrays with the same bits on every machine,
the tracer's shape-only arrays not at all. `OPERATION.formula` is the formula itself.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Array = Any
WAYS: dict[type, dict[Callable[..., Any], Callable[..., Any]]] = {}
"""Kind of array -> operation -> how that kind computes it. What is not in it is computed by its formula."""


def operation(formula: Callable[..., Any]) -> Any:
    """Let a kind of array compute a formula in its own way, as WAYS says by the first argument's type."""

    @functools.wraps(formula)
    def compute(*inputs: Any, **named: Any) -> Any:
        first = inputs[0] if inputs else next(iter(named.values()), None)
        if isinstance(first, list | tuple | int | float) and inputs:
            inputs = (np.asarray(first), *inputs[1:])
        return WAYS.get(type(first), {}).get(compute, formula)(*inputs, **named)

    compute.formula = formula  # type: ignore[attr-defined]
    return compute


# Picture <-> patches


@operation
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


@operation
def unpatchify(patches: Array, patch: int, image: tuple[int, int]) -> Array:
    """The inverse of patchify. patches (B, Y/P * X/P, C*P*P), image (Y, X) -> (B, C, Y, X)."""
    B, _, row = patches.shape
    P, (Y, X) = patch, image
    C = row // (P * P)
    grid = patches.reshape(B, Y // P, X // P, C, P, P)  # (B, row, column, C, py, px)
    grid = grid.transpose(0, 3, 1, 4, 2, 5)  # (B, C, row, py, column, px)
    return grid.reshape(B, C, Y, X)


@operation
def merge_patches(x: Array, grid: tuple[int, int], side: int, way: str) -> Array:
    """side x side neighbouring patches become one token. x (B, rows * columns, D) -> (B, fewer, side*side*D).

    way   "concat"   their tokens one after the other, row by row: pixel shuffle (arXiv 1609.05158), the other way round
          "unfold"   the same numbers as the kernel of a convolution with this stride has them: D times side*side
          "mean"     their mean: (B, fewer, D)
    """
    B, _, D = x.shape
    rows, columns = grid[0] // side, grid[1] // side
    squares = x.reshape(B, rows, side, columns, side, D).transpose(0, 1, 3, 2, 4, 5)  # (B, row, column, down, right, D)
    squares = squares.reshape(B, rows * columns, side * side, D)
    if way == "mean":
        return squares.mean(axis=2)
    squares = squares.swapaxes(2, 3) if way == "unfold" else squares
    return squares.reshape(B, rows * columns, side * side * D)


@operation
def neighbourhoods(x: Array, grid: tuple[int, int]) -> Array:
    """Each patch's token and its 8 neighbours', zeros beyond the border. x (B, rows * columns, D) -> (B, rows * columns, D*9).

    The numbers lie as the kernel (out, D, 3, 3) of a convolution has them: number d of all nine, row by row, then d + 1.
    """
    B, N, D = x.shape
    rows, columns = grid
    x = x.reshape(B, rows, columns, D)
    zeros = np.zeros((), x.dtype)
    above, beside = np.broadcast_to(zeros, (B, 1, columns, D)), np.broadcast_to(zeros, (B, rows + 2, 1, D))
    x = np.concatenate([beside, np.concatenate([above, x, above], axis=1), beside], axis=2)
    shifted = [x[:, y : y + rows, z : z + columns, :, None] for y in range(3) for z in range(3)]
    return np.concatenate(shifted, axis=4).reshape(B, N, D * 9)


# Tokens


@operation
def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """y = x W + b. x (..., in), weight (in, out), bias (out,) or None -> (..., out)."""
    return x @ weight if bias is None else x @ weight + bias


def prepend(special: Sequence[Array], tokens: Array) -> Array:
    """Put the same tokens before every sequence. special [(D,) or (n, D), ...], tokens (B, G, D) -> (B, N, D).

    Paper, eq. 1: x_class. The paper has one, the class token.
    """
    B, _, D = tokens.shape
    special = [np.broadcast_to(token, (B, token.size // D, D)) for token in special]
    return np.concatenate([*special, tokens], axis=1)


@operation
def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    """Shift and scale each token to mean 0 and variance 1, then by a learned scale and shift for each of the D numbers.

    x (..., D), weight (D,), bias (D,) -> (..., D). The variance is the population's, as in every framework; `eps` keeps a
    constant token from dividing by zero. Ba et al., "Layer Normalization", arXiv 1607.06450.
    """
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + eps) * weight + bias


@operation
def rms_norm(x: Array, weight: Array | float, eps: float) -> Array:
    """Scale each token to a mean square of 1, then by a learned scale for each of the D numbers: no shift at all.

    x (..., D), weight (D,), or 1 for none -> (..., D). Zhang and Sennrich, "Root Mean Square Layer Normalization",
    arXiv 1910.07467.
    """
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * weight


# Attention


@operation
def split_heads(x: Array, heads: int) -> Array:
    """x (B, N, H*K) -> (B, H, N, K): head h takes the K numbers from h*K on."""
    B, N, width = x.shape
    return x.reshape(B, N, heads, width // heads).swapaxes(1, 2)


@operation
def merge_heads(x: Array) -> Array:
    """The inverse of split_heads. x (B, H, N, K) -> (B, N, H*K)."""
    B, H, N, K = x.shape
    return x.swapaxes(1, 2).reshape(B, N, H * K)


@operation
def softmax(x: Array) -> Array:
    """exp(x) / sum(exp(x)) over the last axis. x (..., N) -> (..., N); every row sums to 1.

    The row's maximum is subtracted first, so that exp cannot overflow: the quotient is the same.
    """
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


# Activations, all elementwise: x any shape -> the same


@operation
def erf(x: Array) -> Array:
    """The error function, 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x. NumPy has none; Python has."""
    return np.vectorize(math.erf, otypes=[np.float64])(x).astype(np.result_type(np.asarray(x).dtype, np.float32))


@operation
def gelu(x: Array) -> Array:
    """x Phi(x), Phi being the normal distribution: the exact GELU. Hendrycks and Gimpel, arXiv 1606.08415."""
    return 0.5 * x * (1 + erf(x * math.sqrt(0.5)))


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x))."""
    with np.errstate(over="ignore"):  # exp overflows to infinity, and 1 / infinity is the right 0
        return 1 / (1 + np.exp(-x))


@operation
def gelu_tanh(x: Array) -> Array:
    """0.5 x (1 + tanh(u)), u = sqrt(2/pi) (x + 0.044715 x^3): the approximation of GELU in JAX and GPT-2.

    Written as x sigmoid(2 u), which is the same and keeps its digits in the negative tail.
    """
    with np.errstate(over="ignore"):  # of the cube: sigmoid of infinity is the right limit
        u = math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)
    return x * sigmoid(2 * u)


@operation
def quick_gelu(x: Array) -> Array:
    """x sigmoid(1.702 x): the approximation of GELU that OpenAI's CLIP was trained with."""
    return x * sigmoid(1.702 * x)


@operation
def silu(x: Array) -> Array:
    """x sigmoid(x), also called swish."""
    return x * sigmoid(x)


@operation
def relu(x: Array) -> Array:
    """max(x, 0)."""
    return np.maximum(x, 0)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "relu": relu,
    "silu": silu,
}
