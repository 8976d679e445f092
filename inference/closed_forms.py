"""Closed forms of normal components and Dirichlet weights, in NumPy float64: parameters integrated out or given data.

They share nothing with `inference.conjugacy`, so that the exact back ends can judge it.
"""

import numpy as np
from scipy.special import gammaln

from inference.declared import Component

BLOCK = 2**18  # entries worked on at a time
TAIL = 45.0  # exp(-45) = 3e-20: what is left out beside 1


def sufficient(x):
    """Number, mean and sum of squared deviations from the mean of the values x (n,)."""
    x = np.asarray(x, np.float64)
    mean = x.mean() if len(x) else 0.0
    return len(x), mean, np.sum((x - mean) ** 2)


def normal_log_marginal(count, mean, squares, *, prior_mean, prior_sd, variance):
    """log p(x_1..x_n), x ~ Normal(m, variance), m ~ Normal(prior_mean, prior_sd), from `sufficient(x)`; broadcasts.

    -n/2 log(2 pi v) - squares/(2 v) - log(1 + n t^2/v)/2 - n (mean - m0)^2 / (2 (v + n t^2)): deviations inside the
    sample, times the density of its mean under Normal(m0, t^2 + v/n). prior_sd 0 is a known mean.
    """
    pooled = count * prior_sd**2
    return (
        -0.5 * count * np.log(2 * np.pi * variance)
        - 0.5 * squares / variance
        - 0.5 * np.log1p(pooled / variance)
        - 0.5 * count * (mean - prior_mean) ** 2 / (variance + pooled)
    )


def normal_posterior(count, mean, *, prior_mean, prior_sd, variance):
    """Mean and sd of p(m | x) in the same model."""
    pooled = count * prior_sd**2
    posterior_mean = (variance * prior_mean + pooled * mean) / (variance + pooled)
    return posterior_mean, prior_sd * np.sqrt(variance / (variance + pooled))


def normal_predictive_sd(count, *, prior_sd, variance):
    """sd of the next value given n others: its own variance plus that of the mean."""
    return np.sqrt(
        variance + normal_posterior(count, 0.0, prior_mean=0.0, prior_sd=prior_sd, variance=variance)[1] ** 2
    )


def dirichlet_multinomial_log_marginal(counts, concentration):
    """log p(z) of one sequence of categories with these counts (..., K), weights ~ Dirichlet(concentration)."""
    counts, concentration = np.asarray(counts, float), np.asarray(concentration, float)
    total = concentration.sum()
    each = gammaln(concentration + counts) - gammaln(concentration)
    return each.sum(-1) + gammaln(total) - gammaln(total + counts.sum(-1))


def log_multinomial_coefficient(counts):
    """log of the number of sequences with these counts (..., K)."""
    counts = np.asarray(counts, float)
    return gammaln(counts.sum(-1) + 1) - gammaln(counts + 1).sum(-1)


def dirichlet_posterior_mean(counts, concentration):
    """E[weights | z], shape (..., K)."""
    posterior = np.asarray(counts, float) + np.asarray(concentration, float)
    return posterior / posterior.sum(-1, keepdims=True)


def log_variance_density(u, count, mean, squares, component: Component):
    """log p(x_1..x_n, u) of the log variance u, the component's mean integrated out: what the quadrature sums.

    variance ~ InverseGamma(a, b) gives u the density b^a / Gamma(a) exp(-a u - b exp(-u)).
    """
    a, b = component.shape, component.scale
    prior = a * np.log(b) - gammaln(a) - a * u - b * np.exp(-u)
    known = dict(prior_mean=component.mean, prior_sd=component.sd, variance=np.exp(u))
    return prior + normal_log_marginal(count, mean, squares, **known)


def unknown_variance_log_marginal(count, mean, squares, component: Component):
    """log p(x_1..x_n) with mean and variance independent a priori and both unknown: arrays (M,) -> (M,), and its error.

    Trapezoid rule over the log variance on one lattice for all M, which converges geometrically because the integrand
    is analytic and vanishes at both ends (Trefethen & Weideman 2014, SIAM Review 56, section 5). The error is the
    largest change from half the nodes; the step is halved until that is below 1e-10 (1e-13 of the value where larger).
    """
    count, mean, squares = np.atleast_1d(count), np.atleast_1d(mean), np.atleast_1d(squares)
    gap = (mean - component.mean) ** 2
    low, high = lattice_ends(component, count.max(), np.max(squares + count * gap))
    for step in 0.1 * 0.5 ** np.arange(7):
        u = np.arange(low, high + 2 * step, step)
        fine, coarse = np.empty(len(count)), np.empty(len(count))
        for n in np.unique(count):  # given n the logarithm is linear in `squares` and `gap`
            rows = np.flatnonzero(count == n)
            base = log_variance_density(u, n, component.mean, 0.0, component)
            slopes = -0.5 * np.stack([np.exp(-u), n / (np.exp(u) + n * component.sd**2)])
            for block in np.array_split(rows, 1 + len(rows) * len(u) // BLOCK):
                fine[block], coarse[block] = _trapezoid(base + np.stack([squares[block], gap[block]], 1) @ slopes, step)
        change = np.abs(fine - coarse)
        if np.all(change <= 1e-10 + 1e-13 * np.abs(fine)):
            return np.where(count == 0, 0.0, fine), float(change.max())
    raise RuntimeError(f"the quadrature over a variance still changes by {change.max():.1e} with {len(u)} nodes")


def _trapezoid(logs, step):
    """Log integrals (M,) over all nodes of logs (M, G), and over every second one."""
    top = logs.max(axis=1)
    values = np.exp(logs - top[:, None])
    return top + np.log(step * values.sum(1)), top + np.log(2 * step * values[:, ::2].sum(1))


def lattice_ends(component, most, spread):
    """Log variances beyond which every integrand is below exp(-45) of its maximum.

    With up to `most` observations of total squared deviation `spread` from the prior mean, the integrand lies between
    exp(-(a + n/2) u - b exp(-u)) falling on the left and exp(-a u) on the right, once exp(u) exceeds b + spread/2.
    """
    a, b = component.shape, component.scale
    return np.log(b / (2 * a + most + 2 * TAIL)), np.log((b + 0.5 * spread) / a) + TAIL / a + 2
