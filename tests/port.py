"""A ViT port as somebody else would write it: float32, loops over heads, fused query-key-value, (out, in) weights.

It shares no code with numpy_vit. `wrong` names the mistakes planted in it; `keep` receives every intermediate under the names
that a port would dump. It is what the golden checks and diagnoses are tested on.
"""

import math

import numpy as np

f = np.float32
_erf = np.vectorize(math.erf, otypes=[np.float64])


def norm(x, scale, shift, eps, wrong):
    d = x - x.mean(-1, keepdims=True)
    if "unbiased variance" in wrong:
        v = (d**2).sum(-1, keepdims=True) / (x.shape[-1] - 1)
    else:
        v = (d**2).mean(-1, keepdims=True)
    for other in ("1e-05", "1e-06", "1e-12"):
        if f"eps {other}" in wrong:
            eps = float(other)
    y = d / np.sqrt(v + f(eps))
    if "norm without scale" not in wrong:
        y = y * scale
    if "norm without shift" not in wrong:
        y = y + shift
    return y.astype(f)


def activation(x, kind):
    if kind == "gelu":
        return (f(0.5) * x * (1 + _erf(x / math.sqrt(2)).astype(f))).astype(f)
    if kind == "gelu_tanh":
        return f(0.5) * x * (1 + np.tanh(f(math.sqrt(2 / math.pi)) * (x + f(0.044715) * x**3)))
    if kind == "quick_gelu":
        return x / (1 + np.exp(-f(1.702) * x))
    if kind == "silu":
        return x / (1 + np.exp(-x))
    return np.maximum(x, 0)


def dense(x, w, name, wrong):
    """w[name] is (out, in) and maybe a bias."""
    weight = w[name + ".weight"]
    if f"{name.split('.')[-1]} weights transposed" in wrong:
        weight = weight.ravel().reshape(weight.shape[::-1]).T
    y = x @ weight.T
    if f"{name.split('.')[-1]} bias missing" not in wrong and name + ".bias" in w:
        y = y + w[name + ".bias"]
    return y


def attention(x, w, c, wrong, keep):
    B, N, D = x.shape
    H, K = c["heads"], D // c["heads"]
    fused = np.concatenate([dense(x, w, part, wrong) for part in ("query", "key", "value")], axis=-1)
    if "packing (H,3,K)" in wrong:
        q, k, v = (fused.reshape(B, N, H, 3, K)[:, :, :, i] for i in range(3))
    elif "heads split (K,H)" in wrong:
        q, k, v = (fused.reshape(B, N, 3, K, H)[:, :, i].transpose(0, 1, 3, 2) for i in range(3))
    else:
        q, k, v = (fused.reshape(B, N, 3, H, K)[:, :, i] for i in range(3))
    if "order k q v" in wrong:
        q, k = k, q
    if "order q v k" in wrong:
        k, v = v, k
    if "order v k q" in wrong:
        q, v = v, q
    scores, probs, context = (np.empty((B, H, N, size), f) for size in (N, N, K))
    scale = math.sqrt(K)
    if "scale missing" in wrong:
        scale = 1.0
    if "scale by D" in wrong:
        scale = math.sqrt(D)
    for b in range(B):
        for h in range(H):
            s = q[b, :, h] @ k[b, :, h].T / f(scale)
            axis = 0 if "softmax over queries" in wrong else 1
            e = np.exp(s - s.max(axis, keepdims=True))
            p = e / e.sum(axis, keepdims=True)
            scores[b, h], probs[b, h], context[b, h] = s, p, p @ v[b, :, h]
    for name, value in (("query", q), ("key", k), ("value", v)):
        keep(f"attention.{name}", np.ascontiguousarray(value.transpose(0, 2, 1, 3)))
    keep("attention.scores", scores)
    keep("attention.probs", probs)
    keep("attention.context", context)
    out = dense(context.transpose(0, 2, 1, 3).reshape(B, N, D), w, "output", wrong)
    keep("attention.output", out)
    return out


def part(w, start):
    return {name[len(start) :]: value for name, value in w.items() if name.startswith(start)}


def run(pixels, w, c, wrong=(), keep=lambda name, array: None):
    """pixels (B, C, Y, X); w: our names, linear weights (out, in); c: the config as a dict -> the last step."""
    w = {name: np.asarray(value, f) for name, value in w.items()}
    x = np.asarray(pixels, f)
    values = x * f(0.5) + f(0.5)  # 0 to 1
    if "BGR" in wrong:
        x = x[:, [2, 1, 0]]
    if "mean and std of ImageNet" in wrong:
        x = (values - np.array([0.485, 0.456, 0.406], f).reshape(3, 1, 1)) / np.array([0.229, 0.224, 0.225], f).reshape(3, 1, 1)
    if "mean and std forgotten" in wrong:
        x = values
    if "not rescaled" in wrong:
        x = (f(255) * values - f(0.5)) / f(0.5)
    B, C, Y, X = x.shape
    P = c["patch"]
    order = (0, 2, 4, 3, 5, 1) if "patch rows (py,px,c)" in wrong else (0, 2, 4, 1, 3, 5)
    patches = x.reshape(B, C, Y // P, P, X // P, P).transpose(order).reshape(B, -1, C * P * P)
    keep("embed.patches", patches)
    x = dense(patches, part(w, "embed."), "projection", wrong)
    keep("embed.projection", x)
    x = np.concatenate([np.tile(w["embed.class_token"], (B, 1, 1)), x], axis=1)
    keep("embed.tokens", x)
    positions = w["embed.positions"]
    if "resized" in c:
        positions = c["resized"](positions, "positions by another rule" in wrong).astype(f)
        keep("embed.resized_positions", positions)
    if "positions missing" in wrong:
        positions = 0 * positions
    if "positions shifted" in wrong:
        positions = np.concatenate([0 * positions[:1], positions[:-1]])
    x = x + positions
    keep("embed.positions", x)
    for n in range(c["depth"]):
        v = part(w, f"blocks.{n}.")
        here = lambda name, array, n=n: keep(f"blocks.{n}.{name}", array)  # noqa: E731
        at, mlp = part(v, "attention."), part(v, "mlp.")
        norm1 = lambda x, v=v: norm(x, v["norm1.weight"], v["norm1.bias"], c["eps"], wrong)  # noqa: E731
        norm2 = lambda x, v=v: norm(x, v["norm2.weight"], v["norm2.bias"], c["eps"], wrong)  # noqa: E731

        def feed_forward(x, mlp=mlp, here=here):
            hidden = dense(x, mlp, "hidden", wrong)
            here("mlp.hidden", hidden)
            kind = next((k for k in ("gelu", "gelu_tanh", "quick_gelu") if f"activation {k}" in wrong), c["activation"])
            hidden = activation(hidden, kind)
            here(f"mlp.{'gelu' if 'gelu' in c['activation'] else c['activation']}", hidden)
            out = dense(hidden, mlp, "output", wrong)
            here("mlp.output", out)
            return out

        if "post-norm" in wrong:
            x = x + attention(x, at, c, wrong, here)
            here("residual1", x)
            x = norm1(x)
            here("norm1", x)
            x = x + feed_forward(x)
            here("residual2", x)
            x = norm2(x)
            here("norm2", x)
            continue
        y = norm1(x)
        here("norm1", y)
        y = attention(y, at, c, wrong, here)
        x = y if "residual missing" in wrong else x + y
        here("residual1", x)
        y = norm2(x)
        here("norm2", y)
        y = feed_forward(y)
        x = y if "residual missing" in wrong else x + y
        here("residual2", x)
    if "final norm missing" not in wrong:
        x = norm(x, w["norm.weight"], w["norm.bias"], c["eps"], wrong)
    keep("norm", x)
    mean = c["pooling"] == "mean"
    if "mean pooling" in wrong:
        mean = not mean
    pooled = x[:, 1:].mean(1) if mean else x[:, 0]
    keep("pool", pooled)
    if "pooler.weight" in w:
        keep("pooler", np.tanh(dense(x[:, 0], w, "pooler", wrong)))
    if "head.weight" in w:
        keep("logits", dense(pooled, w, "head", wrong))


# What can be planted, and the names of numpy_vit.golden.mistakes that are right for it.
PLANTED = {
    "eps 1e-05": ["eps-1e-05"],
    "eps 1e-06": ["eps-1e-06"],
    "eps 1e-12": ["eps-1e-12"],
    "activation gelu": ["activation-gelu"],
    "activation gelu_tanh": ["activation-gelu_tanh"],
    "activation quick_gelu": ["activation-quick_gelu"],
    "patch rows (py,px,c)": ["patch-rows"],
    "BGR": ["bgr"],
    "mean and std of ImageNet": ["mean-std-ImageNet's"],
    "mean and std forgotten": ["not-normalised"],
    "not rescaled": ["not-rescaled"],
    "positions missing": ["positions-missing"],
    "positions shifted": ["positions-shifted"],
    "positions by another rule": ["positions-bilinear"],
    "order k q v": ["qkv-order-kqv"],
    "order q v k": ["qkv-order-qvk"],
    "order v k q": ["qkv-order-vkq"],
    "packing (H,3,K)": ["qkv-packing"],
    "heads split (K,H)": ["heads-kh"],
    "scale missing": ["scale-missing"],
    "scale by D": ["scale-by-D"],
    "softmax over queries": ["softmax-over-queries"],
    "projection weights transposed": ["transposed-embed.projection"],
    "query weights transposed": ["transposed-attention.query"],
    "value weights transposed": ["transposed-attention.value"],
    "output weights transposed": ["transposed-attention.output", "transposed-mlp.output"],  # both layers are called so
    "hidden weights transposed": ["transposed-mlp.hidden"],
    "head weights transposed": ["transposed-head"],
    "projection bias missing": ["no-bias-embed.projection"],
    "query bias missing": ["no-bias-attention.query"],
    "key bias missing": ["no-bias-attention.key"],
    "value bias missing": ["no-bias-attention.value"],
    "output bias missing": ["no-bias-attention.output", "no-bias-mlp.output"],
    "hidden bias missing": ["no-bias-mlp.hidden"],
    "head bias missing": ["no-bias-head"],
    "norm without scale": ["norm-no-scale"],
    "norm without shift": ["norm-no-shift"],
    "unbiased variance": ["norm-unbiased"],
    "post-norm": ["post-norm"],
    "residual missing": ["residuals-missing"],
    "final norm missing": ["final-norm-missing"],
    "mean pooling": ["pooling-mean", "pooling-class"],
}
