"""A ViT port as somebody else would write it: float32, loops over heads, fused query-key-value, (out, in) weights.

It shares no code with numpy_vit. `wrong` names the mistakes planted in it; `keep` receives every intermediate under the names
that a port would dump. It is what the golden checks and diagnoses are tested on.
"""

import math

import numpy as np

f = np.float32
_erf = np.vectorize(math.erf, otypes=[np.float64])


def norm(x, scale, shift, eps, wrong):
    x = x.astype(f)
    axis = {"norm over tokens": -2, "norm over the picture": (-2, -1)}.get(next(iter(wrong), ""), -1) if x.ndim == 3 else -1
    d = x - x.mean(axis, keepdims=True)
    if "unbiased variance" in wrong:
        v = (d**2).sum(-1, keepdims=True) / (x.shape[-1] - 1)
    elif "sum of squares" in wrong:
        v = (d**2).sum(-1, keepdims=True)
    else:
        v = (d**2).mean(axis, keepdims=True)
    if "RMS norm" in wrong:
        d, v = x, (x**2).mean(-1, keepdims=True)
    if "mean not subtracted" in wrong:
        d = x
    for other in ("1e-05", "1e-06", "1e-12"):
        if f"eps {other}" in wrong:
            eps = float(other)
    y = d / np.sqrt(v + f(eps))
    if "eps outside the root" in wrong:
        y = d / (np.sqrt(v) + f(eps))
    if "no division" in wrong:
        y = d
    if "division by the variance" in wrong:
        y = d / (v + f(eps))
    if "shift before scale" in wrong:
        return ((y + shift) * scale).astype(f)
    if "norm without scale" not in wrong:
        y = y * (scale + 1 if "1 + scale" in wrong else scale)
    if "norm without shift" not in wrong:
        y = y + shift
    return norm(y, scale, shift, eps, ()) if "norm twice" in wrong else y.astype(f)


def bfloat16(x):
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def int8(x):
    scale = np.abs(x).max() / 127
    return np.round(x / scale) * scale


ROUNDED = {
    "weights in bfloat16": bfloat16,
    "weights in float16": lambda x: x.astype(np.float16).astype(f),
    "weights in int8": int8,
}
STRANGE = {
    "leaky ReLU": lambda x: np.where(x < 0, f(0.01) * x, x),
    "ReLU squared": lambda x: np.maximum(x, 0) ** 2,
    "sigmoid 1.5958": lambda x: x / (1 + np.exp(-f(1.5957691216) * x)),
    "GELU without the half": lambda x: (x * (1 + _erf(x / math.sqrt(2)).astype(f))).astype(f),
    "erf without the root": lambda x: (f(0.5) * x * (1 + _erf(x).astype(f))).astype(f),
    "tanh": np.tanh,
    "ELU": lambda x: np.where(x > 0, x, np.exp(np.minimum(x, 0)) - f(1)),
}


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
    if f"{name.split('.')[-1]} bias twice" in wrong and name + ".bias" in w:
        y = y + w[name + ".bias"]
    if name == "query" and "bias of the key in the query" in wrong:
        return y + w["key.bias"]
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
    if "key used as query" in wrong:
        q = k
    if "values of the token before" in wrong:
        v = np.concatenate([0 * v[:, :1], v[:, :-1]], 1)
    if "heads of the values reversed" in wrong:
        v = v[:, :, ::-1]
    if "queries scaled too" in wrong:
        q = q / f(math.sqrt(K))
    if "prescaled" in wrong:  # not wrong: the scale is in the query's weights
        q = q / f(math.sqrt(K))
    if "both prescaled" in wrong:
        q, k = q / f(K**0.25), k / f(K**0.25)
    if "prescaled for exp2" in wrong:
        q = q * f(math.log2(math.e) / math.sqrt(K))
    scores, probs, context = (np.empty((B, H, N, size), f) for size in (N, N, K))
    scale = math.sqrt(K)
    if "scale missing" in wrong:
        scale = 1.0
    if "scale by D" in wrong:
        scale = math.sqrt(D)
    if "multiplied by sqrt(K)" in wrong:
        scale = 1 / math.sqrt(K)
    if {"scale after softmax", "prescaled", "both prescaled", "prescaled for exp2", "scores dumped unscaled"} & set(wrong):
        scale = 1.0
    hidden = np.zeros((N, N), bool)
    hidden |= "causal mask" in wrong and np.arange(N)[None] > np.arange(N)[:, None]
    hidden |= "last token masked" in wrong and np.arange(N)[None] == N - 1
    hidden |= "class token masked" in wrong and np.arange(N)[None] == 0
    for b in range(B):
        for h in range(H):
            s = q[b, :, h] @ k[b, :, h].T / f(scale)
            axis = 0 if "softmax over queries" in wrong else 1
            seen = s
            if hidden.any():
                s = np.where(hidden, -np.inf, s).astype(f)
                seen = {"-inf": s, "-1e9": np.where(hidden, f(-1e9), s)}.get(c.get("mask"), seen)
            if "scores dumped unscaled" in wrong:
                s = s / f(math.sqrt(K))
            e = np.exp(s - s.max(axis, keepdims=True))
            if "base 2" in wrong or "prescaled for exp2" in wrong:
                e = np.exp2(s - s.max(axis, keepdims=True))
            p = e / e.sum(axis, keepdims=True)
            if "softmax with one more" in wrong:
                p = np.exp(s) / (1 + np.exp(s).sum(axis, keepdims=True))
            if "sigmoid for softmax" in wrong:
                p = 1 / (1 + np.exp(-s))
            if "softmax not divided" in wrong:
                p = e
            if "scale after softmax" in wrong:
                p = p / f(math.sqrt(K))
            scores[b, h], probs[b, h], context[b, h] = seen, p, p @ v[b, :, h]
    for name, value in (("query", q), ("key", k), ("value", v)):
        keep(f"attention.{name}", np.ascontiguousarray(value.transpose(0, 2, 1, 3)))
    keep("attention.scores", scores)
    keep("attention.probs", probs)
    keep("attention.context", context)
    if "heads merged in reverse" in wrong:
        context = context[:, ::-1]
    merged = context.transpose(0, 2, 1, 3).reshape(B, N, D)
    out = merged if "output projection missing" in wrong else dense(merged, w, "output", wrong)
    keep("attention.output", out)
    return out


def part(w, start):
    return {name[len(start) :]: value for name, value in w.items() if name.startswith(start)}


def run(pixels, w, c, wrong=(), keep=lambda name, array: None):
    """pixels (B, C, Y, X); w: our names, linear weights (out, in); c: the config as a dict -> the last step."""
    w = {name: np.asarray(value, f) for name, value in w.items()}
    for name, narrow in ROUNDED.items():
        if name in wrong:
            w = {n: narrow(a) if n.endswith("weight") and "norm" not in n else a for n, a in w.items()}
    x = np.asarray(pixels, f)
    values = x * f(0.5) + f(0.5)  # 0 to 1
    if "BGR" in wrong:
        x = x[:, [2, 1, 0]]
    if "mean and std of ImageNet" in wrong:
        x = (values - np.array([0.485, 0.456, 0.406], f).reshape(3, 1, 1)) / np.array([0.229, 0.224, 0.225], f).reshape(3, 1, 1)
    if "mean and std forgotten" in wrong:
        x = values
    if "mirrored" in wrong:
        x = x[..., ::-1]
    if "upside down" in wrong:
        x = x[..., ::-1, :]
    if "turned by 180" in wrong:
        x = np.rot90(x, 2, (2, 3))
    if "one pixel right" in wrong:
        x = np.pad(x, ((0, 0), (0, 0), (0, 0), (1, 0)))[..., :-1]
    if "one pixel up, wrapped" in wrong:
        x = np.concatenate([x[:, :, 1:], x[:, :, :1]], 2)
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
    if "positions twice" in wrong:
        positions = positions + positions
    if "positions mirrored" in wrong:
        grid = positions[1:].reshape(Y // P, X // P, -1)
        positions = np.concatenate([positions[:1], grid[:, ::-1].reshape(-1, positions.shape[1])])
    if "positions of columns" in wrong:
        grid = positions[1:].reshape(Y // P, X // P, -1).transpose(1, 0, 2)
        positions = np.concatenate([positions[:1], grid.reshape(-1, positions.shape[1])])
    if "positions shifted" in wrong:
        positions = np.concatenate([0 * positions[:1], positions[:-1]])
    x = x + positions
    keep("embed.positions", x)
    if "embed.norm.weight" in w:
        x = norm(x, w["embed.norm.weight"], w["embed.norm.bias"], c["eps"], wrong)
        keep("embed.norm", x)
    order = list(range(c["depth"]))
    if "first block skipped" in wrong:
        order = order[1:]
    if "last block skipped" in wrong:
        order = order[:-1]
    if "blocks backwards" in wrong:
        order = order[::-1]
    if "first block twice" in wrong:
        order = [0, *order]
    outputs = [x]
    for n in order:
        v = part(w, f"blocks.{c['depth'] - 1 - n if 'weights of blocks reversed' in wrong else n}.")
        here = lambda name, array, n=n: keep(f"blocks.{n}.{name}", array)  # noqa: E731
        at, mlp = part(v, "attention."), part(v, "mlp.")
        norm1 = lambda x, v=v: norm(x, v["norm1.weight"], v["norm1.bias"], c["eps"], wrong)  # noqa: E731
        norm2 = lambda x, v=v: norm(x, v["norm2.weight"], v["norm2.bias"], c["eps"], wrong)  # noqa: E731

        def feed_forward(x, mlp=mlp, here=here):
            late = mlp["hidden.bias"] if "bias after activation" in wrong else 0
            hidden = dense(x, mlp, "hidden", {*wrong, "hidden bias missing"} if "bias after activation" in wrong else wrong)
            here("mlp.hidden", hidden)
            kind = next((k for k in ("gelu", "gelu_tanh", "quick_gelu") if f"activation {k}" in wrong), c["activation"])
            strange = next((k for k in STRANGE if k in wrong), None)
            act = STRANGE[strange] if strange else lambda x: activation(x, kind)
            hidden = act(hidden) + late
            if "activation twice" in wrong:
                hidden = act(hidden)
            hidden = np.asarray(hidden, f)
            here(f"mlp.{'gelu' if 'gelu' in c['activation'] else c['activation']}", hidden)
            out = dense(hidden, mlp, "output", wrong)
            if "output activated" in wrong:
                out = np.asarray(act(out), f)
            here("mlp.output", out)
            return out

        def scaled(name, y, v=v, here=here):
            if name in v:
                y = y * v[name]
                here(name, y)
            return y

        if "post-norm" in wrong:
            x = x + scaled("layer_scale1", attention(x, at, c, wrong, here))
            here("residual1", x)
            x = norm1(x)
            here("norm1", x)
            x = x + scaled("layer_scale2", feed_forward(x))
            here("residual2", x)
            x = norm2(x)
            here("norm2", x)
            continue
        came_in = x
        y = norm1(x)
        here("norm1", y)
        y = scaled("layer_scale1", attention(y, at, c, wrong, here))
        half = f(0.5) if "branches halved" in wrong else f(1)
        x = y if "residual missing" in wrong else x + x + y if "residual twice" in wrong else x + half * y
        if "no attention" in wrong:
            x = came_in
        here("residual1", x)
        y = norm2(came_in if "parallel block" in wrong else x)
        here("norm2", y)
        y = scaled("layer_scale2", feed_forward(y))
        x = y if "residual missing" in wrong else x + x + y if "residual twice" in wrong else x + half * y
        if "second residual from the input" in wrong:
            x = came_in + y
        if "last norm in every block" in wrong:
            x = norm(x, w["norm.weight"], w["norm.bias"], c["eps"], ())
        here("residual2", x)
        outputs.append(x)
    if "last block not taken" in wrong:
        x = outputs[-2]
    if "norm.weight" in w:
        if "final norm missing" not in wrong:
            x = norm(x, w["norm.weight"], w["norm.bias"], c["eps"], wrong)
        keep("norm", x)
    mean = c["pooling"] == "mean"
    if "mean pooling" in wrong:
        mean = not mean
    pooled = x[:, 1:].mean(1) if mean else x[:, 0]
    if "max pooling" in wrong:
        pooled = x.max(1)
    if "last token pooled" in wrong:
        pooled = x[:, -1]
    keep("pool", pooled)
    if "pooled_norm.weight" in w:
        if "final norm missing" not in wrong:
            pooled = norm(pooled, w["pooled_norm.weight"], w["pooled_norm.bias"], c["eps"], wrong)
        keep("pooled_norm", pooled)
    if "projection.weight" in w:
        keep(
            "image_embedding", dense(pooled, w, "projection", {"" if name.startswith("projection") else name for name in wrong})
        )
    if "pooler.weight" in w:
        keep("pooler", np.tanh(dense(x[:, 0], w, "pooler", wrong)))
    if "head.weight" in w:
        logits = dense(pooled, w, "head", wrong)
        if "softmax of logits" in wrong:
            e = np.exp(logits - logits.max(-1, keepdims=True))
            logits = e / e.sum(-1, keepdims=True)
        keep("logits", logits)


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
    "final norm missing": ["final-norm-missing", "pooled-norm-missing"],
    "mean pooling": ["pooling-mean", "pooling-class"],
    "mirrored": ["picture-mirrored"],
    "upside down": ["picture-upside-down"],
    "turned by 180": ["picture-turned"],
    "one pixel right": ["picture-moved-right"],
    "one pixel up, wrapped": ["picture-rolled-up"],
    "RMS norm": ["norm-rms"],
    "mean not subtracted": ["norm-not-centred"],
    "eps outside the root": ["norm-eps-outside"],
    "no division": ["norm-only-centred"],
    "division by the variance": ["norm-by-variance"],
    "sum of squares": ["norm-by-the-sum"],
    "norm over tokens": ["norm-over-tokens"],
    "norm over the picture": ["norm-over-all"],
    "norm twice": ["norm-twice"],
    "shift before scale": ["norm-shift-first"],
    "1 + scale": ["norm-scale-plus-1"],
    "weights in bfloat16": ["weights-bfloat16"],
    "weights in float16": ["weights-float16"],
    "weights in int8": ["weights-int8"],
    "leaky ReLU": ["activation-leaky_relu"],
    "ReLU squared": ["activation-relu_squared"],
    "sigmoid 1.5958": ["activation-gelu-no-cube"],
    "GELU without the half": ["activation-gelu-no-half"],
    "erf without the root": ["activation-gelu-erf-of-x"],
    "tanh": ["activation-tanh"],
    "ELU": ["activation-elu"],
    "activation twice": ["activation-twice"],
    "output activated": ["output-activated"],
    "bias after activation": ["bias-after-activation"],
    "query bias twice": ["bias-twice-attention.query"],
    "hidden bias twice": ["bias-twice-mlp.hidden"],
    "head bias twice": ["bias-twice-head"],
    "bias of the key in the query": ["bias-attention.query-of-attention.key"],
    "key used as query": ["qkv-order-kkv"],
    "values of the token before": ["value-of-the-token-before"],
    "heads of the values reversed": ["value-heads-reversed"],
    "heads merged in reverse": ["output-heads-reversed"],
    "output projection missing": ["output-missing"],
    "queries scaled too": ["scale-twice"],
    "multiplied by sqrt(K)": ["scale-times"],
    "scale after softmax": ["scale-after-softmax"],
    "base 2": ["softmax-base-2"],
    "softmax with one more": ["softmax-plus-one"],
    "sigmoid for softmax": ["sigmoid-attention"],
    "softmax not divided": ["softmax-not-normalised"],
    "causal mask": ["mask-causal", "mask-causal-scores"],
    "last token masked": ["mask-last", "mask-last-scores"],
    "class token masked": ["mask-first", "mask-first-scores"],
    "positions twice": ["positions-twice"],
    "positions mirrored": ["positions-mirrored"],
    "positions of columns": ["positions-by-column"],
    "first block skipped": ["block-0-left-out"],
    "last block skipped": ["block-{last}-left-out"],
    "weights of blocks reversed": ["blocks-reversed"],
    "blocks backwards": ["blocks-backwards"],
    "first block twice": ["block-0-twice"],
    "no attention": ["attention-missing"],
    "branches halved": ["branch-halved-both"],
    "residual twice": ["input-twice-both"],
    "parallel block": ["parallel"],
    "second residual from the input": ["residual2-of-the-input"],
    "last norm in every block": ["last-norm-in-every-block"],
    "last block not taken": ["last-block-not-taken"],
    "max pooling": ["pooling-max"],
    "last token pooled": ["pooling-last"],
    "softmax of logits": ["logits-softmax"],
}
# Not wrong, and how it is to be called.
RIGHT = {
    "prescaled": ["queries-by-1/sqrt(K)"],
    "both prescaled": ["queries-by-1/sqrt(sqrt(K))", "keys-by-1/sqrt(sqrt(K))"],
    "prescaled for exp2": ["queries-by-log2(e)/sqrt(K)", "scores-by-log2(e)"],
    "scores dumped unscaled": ["scores-by-sqrt(K)"],
}
