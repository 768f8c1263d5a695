"""Minimax polynomials of crates/hone-engine/src/simd.rs (relative error, Lawson's iteration on Chebyshev nodes).

Run: python tools/golden/polynomials.py        (needs numpy and mpmath)
Prints the coefficients, lowest power first, and the largest relative error before rounding to f32.
"""

import mpmath as mp
import numpy as np

mp.mp.dps = 40


def fit(target, basis, low, high, weight, nodes=400, rounds=60):
    width = mp.mpf(high) - low
    xs = [low + width * (1 - mp.cos(mp.pi * (2 * i + 1) / (2 * nodes))) / 2 for i in range(nodes)]
    a = np.array([[float(b(x) * weight(x)) for b in basis] for x in xs])
    y = np.array([float(target(x) * weight(x)) for x in xs])
    w = np.ones(nodes) / nodes
    for _ in range(rounds):
        s = np.sqrt(w)
        c, *_ = np.linalg.lstsq(a * s[:, None], y * s, rcond=None)
        error = np.abs(a @ c - y)
        w = w * error
        w /= w.sum()
    return c, error.max()


def powers(*exponents):
    return [lambda x, k=k: x**k for k in exponents]


half_ln2 = mp.log(2) / 2 * mp.mpf("1.0001")
fits = {
    # e^r = 1 + r + r^2 P(r)
    "exp": (lambda r: mp.exp(r) - 1 - r, powers(2, 3, 4, 5, 6), -half_ln2, half_ln2, lambda r: 1 / mp.exp(r)),
    # 2^f = 1 + f P(f)
    "exp2": (lambda f: mp.power(2, f) - 1, powers(1, 2, 3, 4, 5), mp.mpf("-0.5"), 0.5, lambda f: mp.power(2, -f)),
    # log2 m = t + t z P(z) in units of 2 / ln 2, t = (m - 1) / (m + 1), z = t^2, m from 1/sqrt 2 to sqrt 2
    "log2": (lambda t: mp.atanh(t) - t, powers(3, 5, 7), mp.mpf("1e-3"), mp.mpf("0.17158"), lambda t: 1 / mp.atanh(t)),
    # tanh x = x + x z P(z), z = x^2, below 0.625
    "tanh": (lambda x: mp.tanh(x) - x, powers(3, 5, 7, 9, 11), mp.mpf("1e-3"), 0.625, lambda x: 1 / mp.tanh(x)),
    # erf x = x + x P(z), below 0.93
    "erf": (lambda x: mp.erf(x) - x, powers(1, 3, 5, 7, 9, 11), mp.mpf("1e-3"), 0.93, lambda x: 1 / mp.erf(x)),
    # erfc t = exp(-t + t P(t)), 0.9 to 4; weighted by what it does to erf
    "erfc": (lambda t: mp.log(mp.erfc(t)) + t, powers(1, 2, 3, 4, 5, 6), 0.9, 4.0, lambda t: mp.erfc(t) / mp.erf(t)),
}
for name, arguments in fits.items():
    coefficients, error = fit(*arguments)
    print(name, [f"{c:.9e}" for c in coefficients], f"error {error:.1e}")
