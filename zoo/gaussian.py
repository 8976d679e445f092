"""Closed forms for a univariate Gaussian mixture whose parameters are known.

log p(x) = log sum_k weights[k] Normal(x; means[k], scales[k]); scales are standard deviations. NumPy, host side.
"""

import numpy as np
from scipy.optimize import brentq
from scipy.special import logsumexp

HALF_LOG_2PI = 0.5 * np.log(2 * np.pi)


def _parameters(weights, means, scales):
    weights, means, scales = (np.asarray(a, float) for a in (weights, means, scales))
    if not weights.shape == means.shape == scales.shape or weights.ndim != 1:
        raise ValueError(
            f"weights, means and scales should each have shape (K,), got {weights.shape}, {means.shape}, {scales.shape}"
        )
    if np.any(weights <= 0) or abs(weights.sum() - 1) > 1e-9:
        raise ValueError(f"weights should be positive and sum to 1, got {weights}")
    if np.any(scales <= 0):
        raise ValueError(f"scales should be positive standard deviations, got {scales}")
    return weights, means, scales


def log_table(weights, means, scales, x):
    """log(weights[k] Normal(x[n]; means[k], scales[k])), shape (N, K)."""
    weights, means, scales = _parameters(weights, means, scales)
    standard = (np.asarray(x, float)[..., None] - means) / scales
    return np.log(weights) - np.log(scales) - HALF_LOG_2PI - 0.5 * standard**2


def log_density(weights, means, scales, x):
    """log p(x[n]), shape (N,)."""
    return logsumexp(log_table(weights, means, scales, x), axis=-1)


def boundaries(weights, means, scales):
    """Where two components are equally likely, P(z = 0 | x) = P(z = 1 | x): all real roots, ascending.

    With a = 1/(2 s1^2) - 1/(2 s0^2), b = m0/s0^2 - m1/s1^2 and
    c = log(w0/w1) + log(s1/s0) - m0^2/(2 s0^2) + m1^2/(2 s1^2), the log odds of component 0 are
    a x^2 + b x + c: a quadratic with no or two roots, linear with one when the scales are equal
    (Bishop 2006, Pattern Recognition and Machine Learning, section 4.2.1).

    Raises ValueError unless there are exactly two components.
    """
    weights, means, scales = _parameters(weights, means, scales)
    if len(weights) != 2:
        raise ValueError(f"boundaries are between two components, got {len(weights)}; pass two of them")
    m0, m1 = means
    v0, v1 = scales**2
    log_prior_odds = np.log(weights[0] / weights[1]) + 0.5 * np.log(v1 / v0)
    # centred at the midpoint so that large means do not cancel
    centre = 0.5 * (m0 + m1)
    d0, d1 = m0 - centre, m1 - centre
    a = 0.5 / v1 - 0.5 / v0
    b = d0 / v0 - d1 / v1
    c = log_prior_odds - 0.5 * d0**2 / v0 + 0.5 * d1**2 / v1
    if v0 == v1:
        return np.array([]) if b == 0 else np.array([centre - c / b])
    discriminant = b**2 - 4 * a * c
    if discriminant < 0:
        return np.array([])
    q = -0.5 * (b + np.copysign(np.sqrt(discriminant), b))  # the root formula without cancellation
    roots = np.array([q / a, c / q]) if q != 0 else np.array([0.0])
    return np.unique(roots) + centre


def moments(weights, means, scales):
    """Mean and standard deviation of the mixture: sum w m, and sum w (s^2 + m^2) - mean^2 under the root."""
    weights, means, scales = _parameters(weights, means, scales)
    mean = weights @ means
    return mean, np.sqrt(weights @ (scales**2 + (means - mean) ** 2))


def critical_points(weights, means, scales):
    """Stationary points of the density, ascending: a list of (x, "max" | "min").

    They lie in [min(means), max(means)], where sign changes of
    sum_k r_k(x) (means[k] - x) / scales[k]^2 (the derivative of log p, r the responsibilities) are
    bracketed on a grid finer than the smallest scale and solved by Brent's method. A touching pair of
    stationary points closer than a fiftieth of the smallest scale can be missed.
    """
    weights, means, scales = _parameters(weights, means, scales)
    lo, hi = means.min(), means.max()
    if lo == hi:
        return [(float(lo), "max")]

    def slope(x):
        log_terms = log_table(weights, means, scales, x)
        r = np.exp(log_terms - logsumexp(log_terms, axis=-1, keepdims=True))
        return np.sum(r * (means - np.asarray(x)[..., None]) / scales**2, axis=-1)

    pad = scales.min()  # a mode may sit on the outermost mean to rounding
    grid = np.linspace(lo - pad, hi + pad, int(50 * (hi - lo + 2 * pad) / scales.min()) + 2)
    signs = np.sign(slope(grid))
    exact = [float(x) for x in grid[signs == 0]]
    crossings = np.flatnonzero(signs[:-1] * signs[1:] < 0)
    roots = [brentq(slope, grid[i], grid[i + 1], xtol=1e-13) for i in crossings] + exact
    step = (grid[1] - grid[0]) / 2
    return [(float(x), "max" if slope(x - step) > 0 > slope(x + step) else "min") for x in sorted(roots)]
