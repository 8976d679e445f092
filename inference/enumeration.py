"""The exact posterior over all K**N assignments, parameters integrated out in closed form: a ruler for the others.

Assignments are numbered: index i stands for z_n = (i // K**n) % K, observation 0 the fastest digit (`digits`).
Given the assignments the components are independent, and component k sees only the subset of observations it owns, so

    log p(x, z) = constant + sum_k table[k, subset of the observations with z_n = k],

a table with 2**N columns (bit n of a column is observation n). Host side, NumPy float64 whatever JAX's precision.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from scipy.special import gammaln, logsumexp, xlogy

from inference.closed_forms import (
    BLOCK,
    TAIL,
    lattice_ends,
    log_variance_density,
    normal_log_marginal,
    normal_posterior,
    sufficient,
    unknown_variance_log_marginal,
)
from inference.declared import Component, Form, declared, log_joint_of_form, probe
from inference.results import Cost, Draws, Exact

LIMIT = 2**22  # assignments
NUM_CHECKS = 64  # draws at which the closed form is held to the model


# -- the back end -------------------------------------------------------------------------------------------


def refuses(model, x) -> str | None:
    """The sentence why the assignments of `model` cannot be enumerated, or None. Counts before it compiles."""
    if isinstance(x, dict):
        return "enumeration serves one number per observation, without covariates"
    K, N = model.num_components, len(x)
    if N * np.log2(K) > np.log2(LIMIT):
        size = f"{K**N:,}" if N * np.log2(K) < 64 else f"about 10^{N * np.log10(K):.0f}"
        return f"{K}**{N} = {size} assignments; enumeration goes through at most 2**22 = {LIMIT:,}"
    form = declared(model)
    return form if isinstance(form, str) else None


def enumeration(model, x, key, *, num_draws=40_000, num_chains=4, progress=None) -> Exact:
    """The posterior by the sum over every assignment; `draws` are independent and exact, num_draws over all chains.

    There are ten times as many as chains have by default: the error of a ruler should not count.

    With known scales and weights `nodes` are Gauss-Hermite product nodes of every assignment that matters, when
    these are few: expectations of smooth functionals over them are right to about 1e-9. `log_evidence_se` is 0 for
    closed forms, else the error of the quadrature over the variances. `progress(done, total)` counts blocks.
    """
    started = time.perf_counter()
    form = _served(model, x)
    compiled = time.perf_counter()
    x = np.asarray(x, np.float64)
    K, N = model.num_components, len(x)
    table, error = subset_table(form, x)
    log_joint = _assemble(table, K, N, progress)
    log_evidence = logsumexp(log_joint)
    log_joint -= log_evidence
    probabilities = np.exp(log_joint, out=log_joint)
    assignment_probabilities, co_clustering = pair_moments(probabilities, K, N)
    nodes, log_weights = _nodes(form, x, probabilities)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())
    params, assignments = _draws(form, x, probabilities, rng, num_chains, -(-num_draws // num_chains))
    _check_form(model, form, params, assignments, x)
    # the joint density of K**N assignments, each as if it had been a pass over the data
    cost = Cost(compiled - started, time.perf_counter() - compiled, table_evaluations=K**N)
    return Exact(
        log_evidence=float(log_evidence),
        log_evidence_se=K * error,
        cost=cost,
        nodes=nodes,
        log_weights=log_weights,
        draws=Draws(params=params, assignments=assignments, cost=cost),
        assignment_probabilities=assignment_probabilities,
        co_clustering=co_clustering,
    )


def _check_form(model, form, params, assignments, x):
    """ValueError where the closed form is not the model's own joint density at draws from the posterior: `declared`
    looked at no data, and a declaration may be another one where these are."""
    draws = assignments.reshape(-1, len(x))
    chosen = np.linspace(0, len(draws) - 1, NUM_CHECKS).astype(int)
    flat = {name: leaf.reshape(-1, *leaf.shape[2:])[chosen] for name, leaf in params.items()}
    rows = np.broadcast_to(x, (NUM_CHECKS, *x.shape))
    theirs = probe(model, flat, draws[chosen], rows).log_joint
    at = lambda r: ({name: leaf[r] for name, leaf in flat.items()}, draws[chosen[r]], x)
    ours = np.array([log_joint_of_form(form, *at(r)) for r in range(NUM_CHECKS)])
    if not np.all(np.abs(ours - theirs) <= 1e-8 * (1 + np.abs(ours))):
        raise ValueError(
            f"{model.name} looks like Normal components in closed form, but at draws from the posterior on these data "
            "its joint density is another; enumeration cannot serve it"
        )


def log_joint_of_assignments(model, x) -> np.ndarray:
    """log p(x, z) of every assignment, parameters integrated out, shape (K**N,): entry i is `digits(i, K, N)`."""
    form = _served(model, x)
    x = np.asarray(x, np.float64)
    return _assemble(subset_table(form, x)[0], model.num_components, len(x))


def _served(model, x) -> Form:
    reason = refuses(model, x)
    if reason:
        raise ValueError(reason)
    form = declared(model)
    assert isinstance(form, Form)
    return form


def digits(index, num_components: int, num_observations: int) -> np.ndarray:
    """The assignments that `index` numbers, shape (..., N) int32: z_n = (index // K**n) % K."""
    K, N = num_components, num_observations
    place = np.array([K**n for n in range(N)], np.int64)
    return (np.asarray(index, np.int64)[..., None] // place % K).astype(np.int32)


def pair_moments(probabilities, num_components: int, num_observations: int):
    """P(z_i = k), shape (N, K), and P(z_i = z_j), shape (N, N), from the probabilities (K**N,) of all assignments.

    The low and the high half of the digits make a matrix of probabilities; all pairs are three matrix products.
    """
    K, N = num_components, num_observations
    low = N // 2
    table = probabilities.reshape(K ** (N - low), K**low)
    one_hot = lambda n: (digits(np.arange(K**n), K, n)[..., None] == np.arange(K)).reshape(K**n, n * K).astype(float)
    left, right = one_hot(low), one_hot(N - low)
    cross = (right.T @ table @ left).T
    pairs = np.block(
        [[left.T @ (left * table.sum(0)[:, None]), cross], [cross.T, right.T @ (right * table.sum(1)[:, None])]]
    )
    pairs = pairs.reshape(N, K, N, K)  # P(z_i = k, z_j = l)
    return np.einsum("ikik->ik", pairs), np.einsum("ikjk->ij", pairs)


# -- every subset, every assignment -------------------------------------------------------------------------


def subset_table(form: Form, x):
    """table[k, subset]: what component k adds to log p(x, z) when it owns `subset`; and the table's largest error.

    Shape (K, 2**N): bit n of the column is observation n. With one component only the full set occurs: shape (1, 1).
    """
    count, mean, squares = _subsets(x) if len(form.components) > 1 else map(np.atleast_1d, sufficient(x))
    marginals: dict[Component, Any] = {}
    error, rows = 0.0, []
    for k, component in enumerate(form.components):
        if component not in marginals:
            marginals[component], found = _log_marginal(count, mean, squares, component)
            error = max(error, found)
        rows.append(marginals[component] + _log_assignment(form, k, count))
    if form.concentration is not None:
        total = np.sum(form.concentration)
        rows[0] += gammaln(total) - gammaln(total + len(x))
    return np.stack(rows), error


def _log_assignment(form, k, count):
    """Component k's factor in log p(z): n log w_k, or the Dirichlet-multinomial's log Gamma(a_k + n) / Gamma(a_k)."""
    if form.concentration is None:
        return xlogy(count, form.weights[k])
    return gammaln(form.concentration[k] + count) - gammaln(form.concentration[k])


def _log_marginal(count, mean, squares, component):
    if component.variance is not None:
        known = dict(prior_mean=component.mean, prior_sd=component.sd, variance=component.variance)
        return normal_log_marginal(count, mean, squares, **known), 0.0
    # subsets of rounded data share their statistics: one quadrature each
    keys = np.stack([count.astype(np.float64), _rounded(mean - component.mean), _rounded(squares)])
    ids = np.zeros(len(count), np.int64)
    for row in keys:
        _, rank = np.unique(row, return_inverse=True)
        _, ids = np.unique(ids * (rank.max() + 1) + rank, return_inverse=True)
    first = np.empty(ids.max() + 1, np.int64)
    first[ids[::-1]] = np.arange(len(ids))[::-1]
    values, error = unknown_variance_log_marginal(count[first], mean[first], squares[first], component)
    return values[ids], error


def _rounded(values):
    """`values` to 42 bits, so that equal statistics summed in another order are equal."""
    return (values.view(np.int64) + 2**9 >> 10 << 10).view(np.float64)


def _subsets(x):
    """Count, mean and squared deviations of every subset of x (N,), each (2**N,).

    Observation n joins the 2**n subsets before it by the update of Welford (1962), which does not cancel.
    """
    count, mean, squares = np.zeros(1), np.zeros(1), np.zeros(1)
    for value in x:
        gap = value - mean
        more = count + 1
        squares = np.concatenate([squares, squares + gap**2 * count / more])
        mean = np.concatenate([mean, mean + gap / more])
        count = np.concatenate([count, more])
    return count, mean, squares


def _masks(K, N):
    """The subset each component owns under each assignment, (K, K**N) bit masks."""
    masks = np.zeros((K, 1), np.int64)
    if K > 1:
        for n in range(N):
            masks = np.concatenate([masks + (np.eye(K, dtype=np.int64)[:, [d]] << n) for d in range(K)], axis=1)
    return masks


def _assemble(table, K, N, progress: Callable | None = None):
    """log p(x, z) of every assignment (K**N,) from the table (K, 2**N), in blocks."""
    low = N // 2
    left = _masks(K, low)
    right = _masks(K, N - low) << (low if K > 1 else 0)
    out = np.empty((right.shape[1], left.shape[1]))
    size = max(1, BLOCK // left.shape[1])
    for start in range(0, len(out), size):
        block = slice(start, start + size)
        out[block] = sum(table[k][right[k, block, None] + left[k]] for k in range(K))
        if progress is not None:
            progress(min(start + size, len(out)), len(out))
    return out.ravel()


# -- nodes and draws ----------------------------------------------------------------------------------------


def _nodes(form, x, probabilities, most=64, floor=1e-14):
    """Gauss-Hermite product nodes {site: (M, K)} and their log weights (M,), or (None, None).

    For unknown means alone, when at most `most` assignments have mass above `floor` and the others 1e-10 together.
    """
    K = len(form.components)
    size = min(32, int(4096 ** (1 / K) + 1e-9))
    if form.means_site is None or form.variances_site or form.weights_site or size < 8:
        return None, None
    chosen = np.flatnonzero(probabilities > floor)
    if len(chosen) > most or probabilities.sum() - probabilities[chosen].sum() > 1e-10:
        return None, None
    node, weight = np.polynomial.hermite_e.hermegauss(size)
    log_weight = np.log(weight / weight.sum())
    standard = np.stack(np.meshgrid(*[node] * K, indexing="ij"), -1).reshape(-1, K)
    log_product = sum(np.meshgrid(*[log_weight] * K, indexing="ij")).ravel()
    located, logs = [], []
    for z, log_p in zip(digits(chosen, K, len(x)), np.log(probabilities[chosen]), strict=True):
        mean, sd = np.transpose([_mean_given(c, *sufficient(x[z == k])[:2], c.variance) for k, c in _each(form)])
        located.append(mean + sd * standard)
        logs.append(log_p + log_product)
    means, log_weights = np.concatenate(located), np.concatenate(logs)
    kept = log_weights > log_weights.max() - TAIL
    return {form.means_site: means[kept]}, log_weights[kept] - logsumexp(log_weights[kept])


def _draws(form, x, probabilities, rng, num_chains, num_draws):
    """Assignments from their probabilities, then the parameters given them: {site: (C, S, K)}, (C, S, N)."""
    K, N, total = len(form.components), len(x), num_chains * num_draws
    cumulative = np.cumsum(probabilities)
    index = np.searchsorted(cumulative, rng.uniform(0.0, cumulative[-1], total), side="right")
    z = digits(np.minimum(index, len(probabilities) - 1), K, N)
    params: dict[str, Any] = {}
    means, variances, counts = np.empty((total, K)), np.empty((total, K)), np.empty((total, K))
    for k, component in _each(form):
        own = z == k
        count = own.sum(1)
        mean = np.where(count > 0, own @ x / np.maximum(count, 1), 0.0)
        squares = np.sum(own * (x - mean[:, None]) ** 2, axis=1)
        variances[:, k] = _draw_variances(rng, count, mean, squares, component)
        centre, sd = _mean_given(component, count, mean, variances[:, k])
        means[:, k] = centre + sd * rng.standard_normal(total)
        counts[:, k] = count
    if form.weights_site:
        gammas = rng.standard_gamma(form.concentration + counts)
        params[form.weights_site] = gammas / gammas.sum(1, keepdims=True)
    if form.means_site:
        params[form.means_site] = means
    if form.variances_site:
        params[form.variances_site] = variances
    shaped = {name: leaf.reshape(num_chains, num_draws, K) for name, leaf in params.items()}
    return shaped, z.reshape(num_chains, num_draws, N)


def _draw_variances(rng, count, mean, squares, component):
    """Variances given the data of a component, means integrated out, by the inverse CDF on 2,049 points, shape (M,).

    Between points the density is flat, which moves a variance's moments by about 1e-5 of themselves.
    """
    if component.variance is not None:
        return np.full(len(count), component.variance)
    uniforms = rng.uniform(size=len(count))
    rows, ids = np.unique(np.stack([count, mean, squares], 1), axis=0, return_inverse=True)
    out = np.empty(len(count))
    low, high = lattice_ends(component, count.max(), np.max(squares + count * (mean - component.mean) ** 2))
    coarse = np.arange(low, high, 0.05)
    for i, members in enumerate(np.split(np.argsort(ids, kind="stable"), np.cumsum(np.bincount(ids))[:-1])):
        logs = log_variance_density(coarse, *rows[i], component)
        inside = coarse[logs > logs.max() - TAIL]
        u = np.linspace(inside[0] - 0.05, inside[-1] + 0.05, 2049)
        logs = log_variance_density(u, *rows[i], component)
        density = np.exp(logs - logs.max())
        cumulative = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
        out[members] = np.exp(np.interp(uniforms[members] * cumulative[-1], cumulative, u))
    return out


def _mean_given(component, count, mean, variance):
    return normal_posterior(count, mean, prior_mean=component.mean, prior_sd=component.sd, variance=variance)


def _each(form):
    return enumerate(form.components)
