"""Print the coefficient tables of numpy_vit/special.py, from multiple-precision values (mpmath) and nothing else.

    python tests/make_special_coefficients.py

The first three agree to the last digit on any machine; the fit by least squares, to about ten digits.
"""

import mpmath as mp
import numpy as np

mp.mp.dps = 60


def x_times_scaled_tail(t):
    """x * exp(x*x/2) * (1 - Phi(x)) at x = 5 (1 + t) / (1 - t); its limit at t = 1 is 1 / sqrt(2 pi)."""
    x = 5 * (1 + t) / (1 - t)
    if x > 100:  # the asymptotic series; erfc itself would take thousands of digits
        return mp.fsum((-1) ** k * mp.fac2(2 * k - 1) / x ** (2 * k) for k in range(12)) / mp.sqrt(2 * mp.pi)
    return x * mp.exp(x * x / 2) * mp.erfc(x / mp.sqrt(2)) / 2


def erf_over_x(s):
    """erf(x) / x at x*x = (s + 1) / 2."""
    x = mp.sqrt((s + 1) / 2)
    return mp.erf(x) / x


def chebyshev(function, terms, nodes=60):
    """The first `terms` coefficients of the interpolation at `nodes` Chebyshev points of -1..1."""
    angles = [mp.pi * (j + mp.mpf(1) / 2) / nodes for j in range(nodes)]
    values = [function(mp.cos(angle)) for angle in angles]
    sums = [mp.fsum(v * mp.cos(k * a) for v, a in zip(values, angles, strict=True)) for k in range(terms)]
    return [s * (1 if k == 0 else 2) / nodes for k, s in enumerate(sums)]


def monomials(coefficients, scale=1, shift=0):
    """A Chebyshev series in (scale * u + shift) as a polynomial in u, lowest degree first."""
    variable = [mp.mpf(shift), mp.mpf(scale)]
    before, now = [mp.mpf(1)], variable
    total = [mp.mpf(0)] * len(coefficients)
    for coefficient in coefficients:
        for power, value in enumerate(before):
            total[power] += coefficient * value
        double = [mp.mpf(0)] * (len(now) + 1)
        for i, a in enumerate(now):
            for j, b in enumerate(variable):
                double[i + j] += 2 * a * b
        for i, value in enumerate(before):
            double[i] -= value
        before, now = now, double
    return total


def floats(values):
    return [float(value) for value in values]


def doubled(values):
    """Each value as (high, low), whose sum is good to 106 bits."""
    return [(float(value), float(value - mp.mpf(float(value)))) for value in values]


def erf_as_tanh(degree=6, limit=3.92):
    """Least maximum relative error of erf(z) = tanh(z P(z*z)) for 0 < z <= limit, by reweighted least squares."""
    z = np.linspace(0.001, limit, 3000)
    exact = [mp.mpf(float(v)) for v in z]
    erf = np.array([float(mp.erf(v)) for v in exact])
    target = np.array([float(mp.atanh(mp.erf(v)) / v) for v in exact])
    slope = np.array([float((1 - mp.erf(v) ** 2) * v) for v in exact]) / erf  # d erf / dP, relative
    basis = np.polynomial.chebyshev.chebvander(2 * z * z / limit**2 - 1, degree)
    weight = np.ones_like(z)
    for _ in range(400):
        rows = slope * np.sqrt(weight)
        series = np.linalg.lstsq(basis * rows[:, None], target * rows, rcond=None)[0]
        error = np.abs((basis @ series - target) * slope)
        weight *= error / error.max() + 1e-3
        weight *= len(weight) / weight.sum()
    fit = np.polynomial.chebyshev.Chebyshev(series, domain=[0, limit**2])
    return [float(c) for c in fit.convert(kind=np.polynomial.Polynomial).coef]


if __name__ == "__main__":
    print("special.py")
    print("X_TIMES_SCALED_TAIL", floats(monomials(chebyshev(x_times_scaled_tail, 28))))
    print("ERF_NEAR_ZERO", floats(monomials(chebyshev(erf_over_x, 15), scale=2, shift=-1)))
    print("ERF_AS_TANH", erf_as_tanh())
    print("portable.py")
    print("X_TIMES_SCALED_TAIL", doubled(monomials(chebyshev(x_times_scaled_tail, 36, nodes=80))))
    print("ERF_NEAR_ZERO", doubled(monomials(chebyshev(erf_over_x, 18), scale=2, shift=-1)))
