"""A ViT port in int8 as a hardware team would write it: int64 NumPy, every formula written out again.

It shares no code with numpy_vit. Two ways of computing:

    onnx    ONNX Runtime's QLinearMatMul between float32 islands (norm, softmax, GELU, sums): dequantise, compute, quantise
    litert  TensorFlow Lite's reference kernels: float64 multipliers, gemmlowp fixed point in BATCH_MATMUL, ADD, MEAN, SOFTMAX,
            a table for GELU; layer norm stays in float32

`wrong` names planted mistakes: "truncated" makes it everywhere it can be, "truncated @ mlp.hidden" in one kind of layer.
`keep` receives every step's int8 codes under the names a port would dump, and int32 sums as `<step>.sums`.
"""

import math

import numpy as np

f = np.float32
LOW, HIGH = -128, 127
_erf = np.vectorize(math.erf, otypes=[np.float64])


def exact_half_away(x):
    """(x + 0.5 is rounded itself where x is just below a half.)"""
    whole = np.trunc(x)
    return whole + np.sign(x) * (np.abs(x - whole) >= 0.5)


ROUND = {
    "rounded away from zero": exact_half_away,
    "rounded half up": lambda x: np.floor(x) + (x - np.floor(x) >= 0.5),
    "rounded half to even": np.rint,
    "truncated": np.trunc,
    "rounded down": np.floor,
    "rounded up": np.ceil,
}


# gemmlowp's fixed point, on Python's and NumPy's int64


def frexp_multiplier(real, bits=31):
    """QuantizeMultiplier."""
    if real == 0:
        return 0, 0
    m, e = math.frexp(real)
    q = math.floor(m * (1 << bits) + 0.5)
    if q == 1 << bits:
        q, e = q // 2, e + 1
    return q, e


def doubling_high_mul(a, b):
    """SaturatingRoundingDoublingHighMul: a * b / 2**31, to the nearest; C++ divides towards zero."""
    a, b = np.asarray(a, np.int64), np.asarray(b, np.int64)
    ab = a * b
    nudge = np.where(ab >= 0, 1 << 30, 1 - (1 << 30))
    total = ab + nudge
    quotient = np.abs(total) // (1 << 31) * np.sign(total)
    return np.minimum(quotient, 2**31 - 1)


def divide_by_power(x, exponent):
    """RoundingDivideByPOT: to the nearest, ties away from zero."""
    x = np.asarray(x, np.int64)
    mask = (np.int64(1) << exponent) - 1
    rest = x & mask
    threshold = (mask >> 1) + (x < 0)
    return (x >> exponent) + (rest > threshold)


def by_multiplier(x, q, e):
    """MultiplyByQuantizedMultiplier, with two roundings."""
    x = np.asarray(x, np.int64)
    left = np.clip(x << max(e, 0), -(2**31), 2**31 - 1)
    return divide_by_power(doubling_high_mul(left, q), max(-e, 0))


# SOFTMAX of the reference kernels


def exp_on_negative(a):
    """gemmlowp's exp_on_negative_values: a in Q5 (int) -> Q0."""
    quarter = 1 << 24
    r = (a & (quarter - 1)) - quarter
    x = (r << 5) + (1 << 28)
    x2 = int(doubling_high_mul(x, x))
    x3, x4 = int(doubling_high_mul(x2, x)), int(doubling_high_mul(x2, x2))
    term = int(divide_by_power(int(doubling_high_mul(int(divide_by_power(x4, 2)) + x3, 715827883)) + x2, 1))
    result = 1895147668 + int(doubling_high_mul(1895147668, x + term))
    remainder = r - a
    for n, factor in ((-2, 1672461947), (-1, 1302514674), (0, 790015084), (1, 290630308), (2, 39332535), (3, 720401), (4, 242)):
        if remainder & (1 << (26 + n)):
            result = int(doubling_high_mul(result, factor))
    return 2**31 - 1 if a == 0 else result


def one_over_one_plus(a):
    """gemmlowp's one_over_one_plus_x_for_x_in_0_1: Q0 -> Q0."""
    total = a + (2**31 - 1)
    half = (total + (1 if total >= 0 else -1)) // 2
    x = 1515870810 + int(doubling_high_mul(half, -1010580540))
    for _ in range(3):
        rest = (1 << 29) - int(doubling_high_mul(half, x))
        x += int(np.clip(int(doubling_high_mul(x, rest)) << 2, -(2**31), 2**31 - 1))
    return int(np.clip(x << 1, -(2**31), 2**31 - 1))


def softmax_fixed(codes, scale):
    """codes (..., N) int64 -> int8 codes of scale 1/256, zero -128."""
    real = min(float(f(scale)) * (1 << 26), 2.0**31 - 1)
    q, e = frexp_multiplier(real)
    furthest = -math.floor(31.0 * (1 << 26) / 2.0**e)
    table = [exp_on_negative(int(doubling_high_mul(-d << e, q))) if -d >= furthest else 0 for d in range(256)]
    exps = np.array(table, np.int64)[codes.max(-1, keepdims=True) - codes]
    sums = divide_by_power(exps, 12).sum(-1)
    result = np.empty_like(codes)
    for place in np.ndindex(sums.shape):
        total = int(sums[place])
        headroom = 32 - total.bit_length()
        reciprocal = one_over_one_plus((total << headroom) - (1 << 31))
        over_units = 12 - headroom
        scaled = divide_by_power(doubling_high_mul(reciprocal, exps[place]), np.int64(over_units + 31 - 8))
        result[place] = np.clip(scaled - 128, LOW, HIGH)
    return result


# Float islands


def gelu(x, wrong):
    if "tanh GELU" in wrong:
        return f(0.5) * x * (1 + np.tanh(f(math.sqrt(2 / math.pi)) * (x + f(0.044715) * x**3)))
    if "quick GELU" in wrong:
        return x / (1 + np.exp(-f(1.702) * x))
    if "ReLU for GELU" in wrong:
        return np.maximum(x, 0)
    return (f(0.5) * x * (1 + _erf(x.astype(np.float64) / math.sqrt(2)))).astype(f)


def layer_norm(x, weight, bias, eps, wrong):
    for other in ("1e-3", "1e-5", "1e-6", "1e-12"):
        if f"eps {other}" in wrong:
            eps = float(other)
    if "float16 in the norm" in wrong:
        h = x.astype(np.float16)
        d = h - h.mean(-1, keepdims=True, dtype=np.float32).astype(np.float16)
        v = (d * d).mean(-1, keepdims=True, dtype=np.float32).astype(np.float16)
        return ((d / np.sqrt(v + np.float16(eps))) * weight.astype(np.float16) + bias.astype(np.float16)).astype(f)
    d = x.astype(np.float64) - x.astype(np.float64).mean(-1, keepdims=True)
    count = x.shape[-1] - ("unbiased variance" in wrong)
    y = d / np.sqrt((d * d).sum(-1, keepdims=True) / count + eps)
    if "norm without scale" not in wrong:
        y = y * weight
    if "norm without shift" not in wrong:
        y = y + bias
    return y.astype(f)


# The port


class Port:
    def __init__(self, weights, grids, config, kind, wrong=(), keep=lambda name, array: None):
        self.w = {name: np.asarray(value, f) for name, value in weights.items()}
        self.grids = {name: (f(grid[0]), int(grid[1])) for name, grid in grids.items()}
        self.c, self.kind, self.planted, self.keep = config, kind, tuple(wrong), keep

    def wrong(self, step):
        """The mistakes planted at a step."""
        short = ".".join(step.split(".")[2:]) if step.startswith("blocks.") else step
        found = set()
        for one in self.planted:
            what, _, where = one.partition(" @ ")
            if not where or where in (short, step):
                found.add(what)
        return found

    # Numbers

    def real(self, q, step):
        scale, zero = self.grids[step]
        return (q - zero).astype(f) * scale

    def end(self, x, step, wrong, float_rounding=None):
        """Real numbers in units of the step's scale -> its codes."""
        _, zero = self.grids[step]
        rounding = float_rounding or np.rint
        for name, way in ROUND.items():
            if name in wrong:
                rounding = way
        if "output doubled" in wrong:
            x = x * 2
        if "output halved" in wrong:
            x = x / 2
        if "zero point before rounding" in wrong:
            return np.clip(np.trunc(x + zero), LOW, HIGH).astype(np.int64)
        y = rounding(x)
        if "cut before the zero point" in wrong:
            y = np.clip(y, LOW, HIGH)
        if "rectified" in wrong:
            y = np.maximum(y, 0)
        shift = zero
        if "output zero point missing" in wrong:
            shift = 0
        if "output zero point of the wrong sign" in wrong:
            shift = -zero
        if "output zero point one too large" in wrong:
            shift = zero + 1
        if "output zero point one too small" in wrong:
            shift = zero - 1
        y = y + shift
        low, high = LOW, HIGH
        if "saturates at -127" in wrong:
            low = -127
        if "saturates at 126" in wrong:
            high = 126
        if "saturates at 7 bits" in wrong:
            low, high = -64, 63
        if "wraps around" in wrong:
            y = np.mod(y + 128, 256) - 128
        return np.clip(y, low, high).astype(np.int64)

    def quantise(self, x, step):
        """QUANTIZE, QuantizeLinear."""
        wrong = self.wrong(step)
        scale, _ = self.grids[step]
        if "float16 before quantising" in wrong:
            x = x.astype(np.float16).astype(f)
        if "multiplied by the scale" in wrong:
            return self.end(x.astype(f) * scale, step, wrong)
        away = exact_half_away if self.kind == "litert" else np.rint
        return self.end((x.astype(f) / scale).astype(np.float64), step, wrong, away)

    def save(self, step, q):
        self.keep(step, (q + 128).astype(np.uint8) if "dumped as uint8" in self.wrong(step) else q.astype(np.int8))
        return np.asarray(q, np.int64)

    # Products

    def weight_of(self, layer, wrong):
        """int8 (in, out) and a scale for each output."""
        w = self.w[layer + ".weight"]
        largest = np.abs(w).max(0)
        scale = np.where(largest > 0, largest / f(127), 1).astype(f)
        if "weights of one scale" in wrong:
            scale = np.full_like(scale, np.abs(w).max() / f(127))
        if "weights along the wrong axis" in wrong:
            rows = (np.abs(w).max(1, keepdims=True) / f(127)).astype(f)
            q = np.clip(np.rint(w / rows), -127, 127).astype(np.int64)
            return q, rows[:, 0]
        q = np.clip(np.rint((w / scale).astype(np.float64)), -127, 127).astype(np.int64)
        used = scale
        if "largest scale for all" in wrong:
            used = np.full_like(scale, scale.max())
        if "mean scale for all" in wrong:
            used = np.full_like(scale, scale.astype(np.float64).mean())
        if "first scale for all" in wrong:
            used = np.full_like(scale, scale[0])
        if "scale of the column before" in wrong:
            used = np.roll(scale, 1)
        if "scale of the next column" in wrong:
            used = np.roll(scale, -1)
        if "scales reversed" in wrong:
            used = scale[::-1]
        if "scales of powers of two" in wrong:
            used = (2.0 ** np.rint(np.log2(scale.astype(np.float64)))).astype(f)
        if "weights unsigned" in wrong:
            q = q & 255
        if "weights 128 too large" in wrong:
            q = q + 128
        if "weights of four bits" in wrong:
            q = (q >> 4) << 4
        if "weights transposed" in wrong:
            q = np.ascontiguousarray(q.T).reshape(q.shape)
        return q, used, scale

    def bias_of(self, layer, sx, sw, sy, wrong):
        b = self.w.get(layer + ".bias")
        if b is None or "bias missing" in wrong:
            return np.int64(0)
        b = b.astype(np.float64)
        unit = (f(sx) * np.asarray(sw, f)).astype(np.float64)
        if "bias without a scale" in wrong:
            unit = 1.0
        if "bias in the input's scale" in wrong:
            unit = float(sx)
        if "bias in the weights' scale" in wrong:
            unit = np.asarray(sw, np.float64)
        if "bias in the output's scale" in wrong:
            unit = float(sy)
        if "bias in an eighth of its unit" in wrong:
            unit = unit / 8
        scaled = b / unit
        q = (exact_half_away(scaled) if self.kind == "litert" else np.rint(scaled)).astype(np.int64)
        if "bias doubled" in wrong:
            q = 2 * q
        if "bias negated" in wrong:
            q = -q
        if "bias of the column before" in wrong:
            q = np.roll(q, 1)
        if "bias of the next column" in wrong:
            q = np.roll(q, -1)
        if "bias in 16 bits" in wrong:
            q = np.clip(q, -32768, 32767)
        if "bias in 8 bits" in wrong:
            q = np.clip(q, -128, 127)
        if "bias wraps at 8 bits" in wrong:
            q = np.mod(q + 128, 256) - 128
        if "bias in 12 bits" in wrong:
            q = np.clip(q, -2048, 2047)
        return q

    def accumulate(self, x, zx, w, zw, bias, wrong):
        """(x - zx) @ (w - zw) + bias in int32. x (..., M, K), w (..., K, N)."""
        if "input zero point missing" in wrong:
            zx = 0
        if "input zero point of the wrong sign" in wrong:
            zx = -zx
        if "input zero point one too large" in wrong:
            zx = zx + 1
        if "input zero point one too small" in wrong:
            zx = zx - 1
        if "input zero point twice" in wrong:
            zx = 2 * zx
        if "other zero point missing" in wrong:
            zw = 0
        if "other zero point of the wrong sign" in wrong:
            zw = -zw
        a, b = x - zx, w - zw
        if "last term left out" in wrong:
            a, b = a[..., :-1], b[..., :-1, :]
        if "first term left out" in wrong:
            a, b = a[..., 1:], b[..., 1:, :]
        if "partial sums saturate at 16 bits" in wrong:
            total = np.zeros((*np.broadcast_shapes(a.shape[:-1], (*b.shape[:-2], a.shape[-2])), b.shape[-1]), np.int64)
            total = np.clip(total + bias, -32768, 32767)
            for k in range(a.shape[-1]):
                total = np.clip(total + np.clip(a[..., k, None] * b[..., k, None, :], -32768, 32767), -32768, 32767)
            return total
        if "pairs saturate at 16 bits" in wrong or "pairs of uint8 saturate" in wrong:
            left, offset = (x + 128, zx + 128) if "pairs of uint8 saturate" in wrong else (a, 0)
            total = 0
            for k in range(0, a.shape[-1], 2):
                total = total + np.clip(np.matmul(left[..., k : k + 2], b[..., k : k + 2, :]), -32768, 32767)
            return total - offset * b.sum(-2, keepdims=True) + bias
        total = np.matmul(a, b)
        if "bias after the sums are cut" in wrong:
            return np.clip(total, -32768, 32767) + bias
        total = total + bias
        for bits in (16, 18, 20, 24):
            if f"sums wrap at {bits} bits" in wrong:
                total = np.mod(total + (1 << (bits - 1)), 1 << bits) - (1 << (bits - 1))
            if f"sums saturate at {bits} bits" in wrong:
                total = np.clip(total, -(1 << (bits - 1)), (1 << (bits - 1)) - 1)
        if "lowest 8 bits of sums cut off" in wrong:
            total = (total >> 8) << 8
        if "lowest 4 bits of sums cut off" in wrong:
            total = (total >> 4) << 4
        return total

    def requantise(self, acc, sx, sw, step, wrong, matmul=False, factor=1.0):
        """int32 sums -> codes of the step. factor: a constant that goes into the multiplier."""
        sy, _ = self.grids[step]
        sw = np.asarray(sw, f)
        if "scale of what goes in missing" in wrong:
            sx = f(1)
        left = f(float(sx) * factor)
        real = left.astype(np.float64) * sw.astype(np.float64) / float(sy)
        if "multiplier a power of two" in wrong:
            return self.end(acc * 2.0 ** np.rint(np.log2(real)), step, wrong)
        for bits in (15, 8):
            if f"multiplier of {bits} bits" in wrong:
                parts = [frexp_multiplier(float(r), bits) for r in np.ravel(real)]
                columns = [acc[..., n] for n in range(len(parts))] if len(parts) > 1 else [acc]
                y = [self.short(x, q, e, bits) for x, (q, e) in zip(columns, parts, strict=True)]
                return self.end(np.stack(y, -1) if len(parts) > 1 else y[0], step, wrong)
        fixed = "rounded twice" in wrong or (self.kind == "litert" and matmul)
        if fixed and not self.special(wrong):
            if matmul:
                real = np.asarray(float(f(left * sw)) / float(sy))
            parts = [frexp_multiplier(float(r)) for r in np.ravel(real)]
            if len(parts) > 1:
                y = np.stack([by_multiplier(acc[..., n], *part) for n, part in enumerate(parts)], -1)
            else:
                y = by_multiplier(acc, *parts[0])
            return self.end(y.astype(np.float64), step, wrong)
        if "rounded once in fixed point" in wrong:
            parts = [frexp_multiplier(float(r)) for r in np.broadcast_to(real, acc.shape[-1:])]
            y = [(acc[..., n] * q + (np.int64(1) << (30 - e))) >> (31 - e) for n, (q, e) in enumerate(parts)]
            return self.end(np.stack(y, -1).astype(np.float64), step, wrong)
        if self.kind == "litert" and not self.special(wrong):
            return self.end(acc.astype(np.float64) * real, step, wrong, exact_half_away)
        if self.special(wrong):
            return self.end(acc.astype(np.float64) * real, step, wrong)
        multiplier = (left * sw) / sy
        return self.end((acc.astype(f) * multiplier).astype(np.float64), step, wrong)

    @staticmethod
    def special(wrong):
        return any(name in wrong for name in ROUND)

    @staticmethod
    def short(acc, q, e, bits):
        """x * q >> (bits - e), rounded to the nearest, halves away."""
        return exact_half_away(acc.astype(np.float64) * q * 2.0 ** (e - bits))

    def dense(self, x, from_step, layer, step=None, heads=0):
        step = step or layer
        wrong = self.wrong(step)
        sx, zx = self.grids[from_step]
        if "scale of another step" in wrong:
            sx = self.grids["embed.patches"][0]
        sy, _ = self.grids[step]
        q, used, *own = self.weight_of(layer, wrong)
        bias = self.bias_of(layer, sx, own[0] if own else used, sy, wrong)
        late = "bias after requantising" in wrong
        acc = self.accumulate(x, zx, q, 0, 0 if late else bias, wrong)
        split = (lambda y: y.reshape(*y.shape[:2], heads, -1).transpose(0, 2, 1, 3)) if heads else (lambda y: y)
        self.keep(step + ".sums", np.ascontiguousarray(split(acc)).astype(np.int32))
        y = self.requantise(acc, sx, used, step, wrong)
        if late:
            y = np.clip(y + np.rint(self.w[layer + ".bias"].astype(np.float64) / float(sy)).astype(np.int64), LOW, HIGH)
        return self.save(step, np.ascontiguousarray(split(y)))

    def product(self, a, a_step, b, b_step, step, factor=1.0, transposed=False):
        wrong = self.wrong(step)
        (sa, za), (sb, zb) = self.grids[a_step], self.grids[b_step]
        if factor != 1 and "1/sqrt(K) missing" in wrong:
            factor = 1.0
        if factor != 1 and "1/sqrt(K) twice" in wrong:
            factor = factor * factor
        if "query in place of key" in wrong and transposed:
            a, za, sa, b, zb, sb = b, zb, sb, a, za, sa
        acc = self.accumulate(a, za, b.swapaxes(-1, -2) if transposed else b, zb, 0, wrong)
        self.keep(step + ".sums", acc.astype(np.int32))
        return self.save(step, self.requantise(acc, sa, sb, step, wrong, matmul=True, factor=factor))

    # Other operations

    def add(self, a, a_step, b, b_step, step):
        wrong = self.wrong(step)
        (sa, za), (sb, zb), (sy, _) = self.grids[a_step], self.grids[b_step], self.grids[step]
        units = (float(sa) / float(sy), float(sb) / float(sy))
        if "codes added without scales" in wrong:
            return self.save(step, self.end((a - za + b - zb).astype(np.float64), step, wrong))
        if "first scale for both" in wrong:
            return self.save(step, self.end((a - za + b - zb) * units[0], step, wrong))
        if "second scale for both" in wrong:
            return self.save(step, self.end((a - za + b - zb) * units[1], step, wrong))
        if "scales swapped" in wrong:
            return self.save(step, self.end((a - za) * units[1] + (b - zb) * units[0], step, wrong))
        if "each rounded before the sum" in wrong:
            total = np.rint((a - za) * units[0]) + np.rint((b - zb) * units[1])
            return self.save(step, self.end(total, step, wrong))
        if "each cut before the sum" in wrong:
            one, two = (np.clip(np.rint(x * u), LOW, HIGH) for x, u in ((a - za, units[0]), (b - zb, units[1])))
            return self.save(step, self.end(one + two, step, wrong))
        if "zero points not subtracted in the sum" in wrong:
            return self.save(step, self.end(a * units[0] + b * units[1], step, wrong))
        if "second operand left out" in wrong:
            return self.save(step, self.end((a - za) * units[0], step, wrong))
        if "first operand left out" in wrong:
            return self.save(step, self.end((b - zb) * units[1], step, wrong))
        if "difference for the sum" in wrong:
            return self.save(step, self.end((a - za) * units[0] - (b - zb) * units[1], step, wrong))
        if self.kind == "litert" and not wrong & ROUND.keys():
            unit = 2 * max(float(sa), float(sb))
            fine = [by_multiplier((x - z) << 20, *frexp_multiplier(float(s) / unit)) for x, z, s in ((a, za, sa), (b, zb, sb))]
            y = by_multiplier(fine[0] + fine[1], *frexp_multiplier(unit / ((1 << 20) * float(sy))))
            return self.save(step, self.end(y.astype(np.float64), step, wrong))
        return self.save(step, self.quantise(self.real(a, a_step) + self.real(b, b_step), step))

    def table(self, x, x_step, step):
        """GELU."""
        wrong = self.wrong(step)
        every = np.arange(-128, 128)
        values = gelu(self.real(every, x_step), wrong)
        if self.kind == "litert":
            sy, _ = self.grids[step]
            entries = self.end((values * (f(1) / sy)).astype(np.float64), step, wrong, exact_half_away)
        else:
            entries = self.quantise(values, step)
        for count in (128, 64, 32):
            if f"table of {count} entries" in wrong:
                size = 256 // count
                entries = np.repeat(entries[::size], size)
            if f"table of {count} middle entries" in wrong:
                size = 256 // count
                entries = np.repeat(entries[size // 2 :: size], size)
        if "table read unsigned" in wrong:
            return self.save(step, entries[x & 255])
        if "table one entry off" in wrong:
            return self.save(step, entries[np.clip(x + 128 + 1, 0, 255)])
        return self.save(step, entries[x + 128])

    def softmax(self, x, x_step, step):
        wrong = self.wrong(step)
        changed = {"softmax in float16", "softmax without the maximum's scale", "softmax over queries", "softmax of base 2",
                   "probabilities in units of 1/128", "truncated"}  # fmt: skip
        if self.kind == "litert" and not wrong & changed:
            y = softmax_fixed(x, self.grids[x_step][0])
            return self.save(step, self.end((y + 128).astype(np.float64), step, wrong))
        s = self.real(x, x_step)
        if "softmax without the maximum's scale" in wrong:
            s = x.astype(f)
        axis = -2 if "softmax over queries" in wrong else -1
        d = s - s.max(axis, keepdims=True)
        if "softmax in float16" in wrong:
            e = np.exp(d.astype(np.float16))
            p = (e / e.sum(axis, keepdims=True, dtype=np.float16)).astype(f)
        else:
            e = np.exp2(d) if "softmax of base 2" in wrong else np.exp(d)
            p = e / e.sum(axis, keepdims=True)
        if "probabilities in units of 1/128" in wrong:
            _, zero = self.grids[step]
            return self.save(step, np.clip(np.rint(p.astype(np.float64) * 128) + zero, LOW, HIGH).astype(np.int64))
        return self.save(step, self.quantise(p, step))

    def norm(self, x, x_step, layer, step):
        learned = self.w[layer + ".weight"], self.w[layer + ".bias"]
        y = layer_norm(self.real(x, x_step), *learned, self.c["eps"], self.wrong(step))
        return self.save(step, self.quantise(y, step))

    def mean(self, x, x_step, step):
        wrong = self.wrong(step)
        (sx, zx), (sy, _) = self.grids[x_step], self.grids[step]
        count = x.shape[1] + ("mean of one too many" in wrong)
        if self.kind == "litert":
            q, e = frexp_multiplier(float(sx) / float(sy))
            shift = min(count.bit_length() - 1, 32, 31 + e)
            y = by_multiplier(x.sum(1) - x.shape[1] * zx, (q << shift) // count, e - shift)
            return self.save(step, self.end(y.astype(np.float64), step, wrong))
        mean = (self.real(x, x_step).astype(np.float64).sum(1) / count).astype(f)
        return self.save(step, self.quantise(mean, step))

    # The model

    def run(self, pixels):
        c, w = self.c, self.w
        x = np.asarray(pixels, f)
        B, C, Y, X = x.shape
        P, H = c["patch"], c["heads"]
        order = (0, 2, 4, 3, 5, 1) if "patch rows (py,px,c)" in self.planted else (0, 2, 4, 1, 3, 5)
        patches = x.reshape(B, C, Y // P, P, X // P, P).transpose(order).reshape(B, -1, C * P * P)
        x = self.save("embed.patches", self.quantise(patches, "embed.patches"))
        x = self.dense(x, "embed.patches", "embed.projection")
        tokens = self.real(x, "embed.projection")
        if c["class_token"]:
            tokens = np.concatenate([np.tile(w["embed.class_token"].reshape(1, 1, -1), (B, 1, 1)), tokens], axis=1)
            x = self.save("embed.tokens", self.quantise(tokens, "embed.tokens"))
            at = "embed.tokens"
        else:
            x, at = self.save("embed.tokens", x), "embed.tokens"
            self.grids[at] = self.grids["embed.projection"]
        positions = w["embed.positions"]
        if "positions missing" in self.planted:
            positions = 0 * positions
        if "positions shifted" in self.planted:
            positions = np.roll(positions, 1, axis=0)
        x = self.save("embed.positions", self.quantise(self.real(x, at) + positions, "embed.positions"))
        before = "embed.positions"
        for n in range(c["depth"]):
            x, before = self.block(x, before, f"blocks.{n}.", H)
        x = self.norm(x, before, "norm", "norm")
        if c["pooling"] == "mean":
            pooled = self.mean(x[:, int(c["class_token"]) :], "norm", "pool")
            at = "pool"
        else:
            pooled, at = self.save("pool", x[:, 1 if "second token pooled" in self.planted else 0]), "norm"
        if "pooler.weight" in w:
            self.pooler(pooled, at)
        if "head.weight" in w:
            self.dense(pooled, at, "head", "logits")

    def pooler(self, x, at):
        sx, zx = self.grids[at]
        q, used, *own = self.weight_of("pooler", set())
        acc = self.accumulate(x, zx, q, 0, self.bias_of("pooler", sx, own[0], f(1), set()), set())
        real = acc.astype(f) * (sx * used)
        self.save("pooler", self.quantise(np.tanh(real.astype(np.float64)).astype(f), "pooler"))

    def block(self, x, before, b, H):
        y = self.norm(x, before, b + "norm1", b + "norm1")
        names = ["query", "key", "value"]
        layers = ["key", "query", "value"] if "query and key swapped" in self.planted else names
        if "key and value swapped" in self.planted:
            layers = ["query", "value", "key"]
        q, k, v = (
            self.dense(y, b + "norm1", f"{b}attention.{layer}", f"{b}attention.{name}", H)
            for layer, name in zip(layers, names, strict=True)
        )
        at = b + "attention."
        K = q.shape[-1]
        s = self.product(q, at + "query", k, at + "key", at + "scores", factor=K**-0.5, transposed=True)
        p = self.softmax(s, at + "scores", at + "probs")
        context = self.product(p, at + "probs", v, at + "value", at + "context")
        merged = context.transpose(0, 2, 1, 3)
        if "heads merged (K,H)" in self.planted:
            merged = context.transpose(0, 2, 3, 1)
        if "heads merged without transposing" in self.planted:
            merged = context
        merged = merged.reshape(x.shape)
        y = self.dense(merged, at + "context", at + "output")
        x = self.add(x, before, y, at + "output", b + "residual1")
        y = self.norm(x, b + "residual1", b + "norm2", b + "norm2")
        y = self.dense(y, b + "norm2", b + "mlp.hidden")
        y = self.table(y, b + "mlp.hidden", b + "mlp.gelu")
        y = self.dense(y, b + "mlp.gelu", b + "mlp.output")
        return self.add(x, b + "residual1", y, b + "mlp.output", b + "residual2"), b + "residual2"


def run(pixels, weights, grids, config, kind, wrong=()):
    """pixels (B, C, Y, X); weights: our names, linear ones (in, out); grids: step -> [scale, zero point, ...]; config: as a
    dict; kind: "onnx" or "litert" -> step -> int8 codes, and int32 sums."""
    dump = {}
    Port(weights, grids, config, kind, wrong, dump.__setitem__).run(pixels)
    return dump
