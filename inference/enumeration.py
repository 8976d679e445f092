"""The exact posterior over all K**N assignments, parameters integrated out in closed form: a ruler for the others.

Assignments are numbered: index i stands for z_n = (i // K**n) % K, observation 0 the fastest digit (`digits`).
Given the assignments the components are independent, and component k sees only the subset of observations it owns, so

    log p(x, z) = constant + sum_k table[k, subset of the observations with z_n = k],

a table with 2**N columns (bit n of a column is observation n). Host side, NumPy float64 whatever JAX's precision;
its closed forms are its own, so that it can judge `inference.conjugacy`.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import enable_x64
from scipy import stats
from scipy.special import gammaln, logsumexp, xlogy

from inference.results import Cost, Draws, Exact

LIMIT = 2**22  # assignments
BLOCK = 2**18  # entries worked on at a time
NUM_PROBES, PROBE_ROWS = 8, 4
TAIL = 45.0  # exp(-45) = 3e-20: what is left out beside 1


class Component(NamedTuple):
    """x ~ Normal(mean, sqrt(variance)), mean ~ Normal(mean, sd), variance ~ InverseGamma(shape, scale) or known."""

    mean: float  # prior mean; the mean itself when sd is 0
    sd: float
    variance: float | None  # None when unknown
    shape: float = 0.0
    scale: float = 0.0


class Form(NamedTuple):
    """What the declaration was found to be. Site names are None where a quantity is known."""

    components: tuple[Component, ...]
    weights: Any  # (K,) known weights, or None
    concentration: Any  # (K,) of their Dirichlet prior, or None
    means_site: str | None
    variances_site: str | None
    weights_site: str | None


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


def enumeration(model, x, key, *, num_draws=10_000, num_chains=4, progress=None) -> Exact:
    """The posterior by the sum over every assignment; `draws` are independent and exact, num_draws over all chains.

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


def log_joint_of_assignments(model, x) -> np.ndarray:
    """log p(x, z) of every assignment, parameters integrated out, shape (K**N,): entry i is `digits(i, K, N)`."""
    form = _served(model, x)
    x = np.asarray(x, np.float64)
    return _assemble(subset_table(form, x)[0], model.num_components, len(x))


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


# -- closed forms -------------------------------------------------------------------------------------------


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
    low, high = _lattice_ends(component, count.max(), np.max(squares + count * gap))
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


def _lattice_ends(component, most, spread):
    """Log variances beyond which every integrand is below exp(-45) of its maximum.

    With up to `most` observations of total squared deviation `spread` from the prior mean, the integrand lies between
    exp(-(a + n/2) u - b exp(-u)) falling on the left and exp(-a u) on the right, once exp(u) exceeds b + spread/2.
    """
    a, b = component.shape, component.scale
    return np.log(b / (2 * a + most + 2 * TAIL)), np.log((b + 0.5 * spread) / a) + TAIL / a + 2


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
    low, high = _lattice_ends(component, count.max(), np.max(squares + count * (mean - component.mean) ** 2))
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


# -- what the declaration is --------------------------------------------------------------------------------


class Probe(NamedTuple):
    """The declaration looked at in R points: distributions as (family, arguments by name)."""

    params: dict[str, Any]  # leaves (R, ...)
    prior: dict[str, tuple[str, dict[str, Any]]]  # arguments (R, ...)
    component: tuple[str, dict[str, Any]]  # arguments (R, K, ...)
    log_weights: Any  # (R, K)
    log_joint: Any  # (R,)


def look_at(model) -> Probe | str:
    """The declaration at arbitrary points, or the sentence why it cannot be looked at."""
    try:
        return probe(model, *arbitrary_points(model))
    except TypeError as error:  # TensorFlow Probability does not mix precisions
        line = str(error).partition("\n")[0]
        return f"its declaration does not run in float64, as an exact answer must (numbers as NumPy arrays do): {line}"


def probe(model, params, assignments, x) -> Probe:
    """`Probe` at params (leaves (R, ...)), assignments (R, n) and x (R, n, ...), in float64; only x is observed."""
    with enable_x64():  # for this program only: the ruler is double whatever the caller's precision
        found = jax.tree.map(np.asarray, _look(model)(params, assignments, x))
    prior = {name: (prior_families(model)[name], arguments) for name, arguments in found.pop("prior").items()}
    component = (model.observation_shapes["x"].family, found.pop("component"))
    return Probe(params=params, prior=prior, component=component, **found)


@functools.cache
def _look(model):
    def one(params, z, x):
        def component(k):
            return _arrays(model.observation_sites(params, k, {"x": x[0]})["x"])

        return dict(
            prior={name: _arrays(site) for name, site in model.prior_sites(params).items()},
            component=jax.vmap(component)(jnp.arange(model.num_components, dtype=jnp.int32)),
            log_weights=model.log_weights_table(params, x[:1])[0],
            log_joint=model.log_joint(params, z, x),
        )

    return jax.jit(lambda params, z, x: jax.vmap(one)(params, z, x))


def _arrays(site):
    numbers = float | int | np.ndarray | jax.Array
    return {name: jnp.asarray(value) for name, value in site.parameters.items() if isinstance(value, numbers)}


@functools.cache
def prior_families(model) -> dict[str, str]:
    """Class name of the distribution of every prior site; compiles nothing."""
    found: dict[str, str] = {}

    def trace(params):
        found.update({name: site.family for name, site in model.prior_sites(params).items()})
        return 0

    jax.eval_shape(trace, model.param_shapes)
    return found


def arbitrary_points(model, num_points=NUM_PROBES):
    """params, assignments, x to look at: any values in the supports (to draw gammas takes seconds to compile)."""
    rng = np.random.default_rng(3)
    shapes = model.param_shapes
    params = {name: rng.standard_normal((num_points, *leaf.shape)) for name, leaf in shapes.items()}
    for name, family in prior_families(model).items():
        if family in ("InverseGamma", "Dirichlet"):
            params[name] = np.exp(params[name])
        if family == "Dirichlet":
            params[name] /= params[name].sum(-1, keepdims=True)
    x = rng.standard_normal((num_points, PROBE_ROWS, *model.observation_shapes["x"].shape))
    return params, rng.integers(model.num_components, size=(num_points, PROBE_ROWS), dtype=np.int32), x


@functools.cache
def declared(model) -> Form | str:
    """The closed form that the declaration allows, or the sentence why it has none.

    Found from the sites: whose rows the components' locations and variances are, in random draws; then the whole
    formula is held to the model's own `log_joint`.
    """
    sites = model.observation_shapes
    if set(sites) != {"z", "x"} or sites["x"].family != "Normal" or sites["x"].shape != ():
        families = ", ".join(f"{name}: {site.family or 'unknown'}" for name, site in sites.items() if name != "z")
        return f"enumeration has closed forms for components Normal in one number x, these are {families}"
    seen = look_at(model)
    if isinstance(seen, str):
        return seen
    K = model.num_components
    location, scale = (_per_component(seen.component[1][name], K) for name in ("loc", "scale"))
    means = None if constant(location) else _source(seen, location, "Normal")
    variances = None if constant(scale) else _source(seen, scale**2, "InverseGamma")
    weights = None if constant(seen.log_weights) else _source(seen, np.exp(seen.log_weights), "Dirichlet")
    for found, needs in (
        (means, "a known mean per component, or means[k] ~ Normal"),
        (variances, "a known scale per component, or variances[k] ~ InverseGamma with scale sqrt(variances[k])"),
        (weights, "known weights, or weights ~ Dirichlet"),
    ):
        if found == "":
            return f"enumeration needs {needs}, independent of the other parameters"
    over = [name for name in seen.params if name not in (means, variances, weights)]
    if over:
        return f"enumeration has no closed form for {', '.join(over)}"
    row = lambda site, name: np.broadcast_to(seen.prior[site][1][name][0], (K,)).astype(float)
    centres, sds = (row(means, "loc"), row(means, "scale")) if means else (location[0], np.zeros(K))
    spread = (
        zip([None] * K, row(variances, "concentration"), row(variances, "scale"), strict=True)
        if variances
        else zip(scale[0] ** 2, [0.0] * K, [0.0] * K, strict=True)
    )
    parts = [Component(*prior, *rest) for prior, rest in zip(zip(centres, sds, strict=True), spread, strict=True)]
    form = Form(
        components=tuple(parts),
        weights=None if weights else np.exp(seen.log_weights[0]),
        concentration=row(weights, "concentration") if weights else None,
        means_site=means,
        variances_site=variances,
        weights_site=weights,
    )
    drawn = _forward(form)
    theirs, ours = (
        probe(model, *drawn).log_joint,
        np.array([_log_joint(form, *_nth(drawn, r)) for r in range(NUM_PROBES)]),
    )
    if not np.all(np.abs(ours - theirs) <= 1e-8 * (1 + np.abs(ours))):
        return "the declaration looks like Normal components in closed form, but its joint density is another"
    return form


def _per_component(argument, K):
    """(R, K) from an argument seen in R draws at each of K components, or NaN where it is not one number each."""
    return argument if argument.shape == (NUM_PROBES, K) else np.full((NUM_PROBES, K), np.nan)


def constant(values):
    return np.allclose(values, values[:1], rtol=1e-12, atol=0)


def _source(seen, values, family):
    """The prior site of this family with fixed arguments whose rows `values` (R, K) are, or ""."""
    for name, (its_family, arguments) in seen.prior.items():
        if its_family == family and seen.params[name].shape == values.shape and all(map(constant, arguments.values())):
            if np.allclose(seen.params[name], values, rtol=1e-9, atol=0):
                return name
    return ""


def _forward(form):
    """NUM_PROBES forward draws of params, assignments and PROBE_ROWS observations."""
    rng, K, R = np.random.default_rng(5), len(form.components), NUM_PROBES
    prior_mean, prior_sd, variance, shape, scale = np.array(form.components, dtype=float).T
    weights, params = np.broadcast_to(form.weights, (R, K)) if form.weights is not None else None, {}
    if form.weights_site:
        params[form.weights_site] = weights = rng.dirichlet(form.concentration, R)
    means = prior_mean + prior_sd * rng.standard_normal((R, K))
    if form.means_site:
        params[form.means_site] = means
    if form.variances_site:
        params[form.variances_site] = variance = scale / rng.standard_gamma(shape, (R, K))
    z = np.array([rng.choice(K, PROBE_ROWS, p=w) for w in weights], np.int32)
    at = lambda values: np.take_along_axis(np.broadcast_to(values, (R, K)), z, axis=1)
    return params, z, at(means) + np.sqrt(at(variance)) * rng.standard_normal((R, PROBE_ROWS))


def _nth(drawn, r):
    params, z, x = drawn
    return {name: leaf[r] for name, leaf in params.items()}, z[r], x[r]


def _log_joint(form, params, z, x):
    """log p(params, z, x) by SciPy's densities."""
    prior_mean, prior_sd, variance, shape, scale = np.array(form.components, dtype=float).T
    weights, means, log_prior = form.weights, prior_mean, 0.0
    if form.weights_site:
        weights = params[form.weights_site]
        log_prior += stats.dirichlet.logpdf(weights, form.concentration)
    if form.means_site:
        means = params[form.means_site]
        log_prior += stats.norm.logpdf(means, prior_mean, prior_sd).sum()
    if form.variances_site:
        variance = params[form.variances_site]
        log_prior += stats.invgamma.logpdf(variance, shape, scale=scale).sum()
    return log_prior + np.sum(np.log(weights[z]) + stats.norm.logpdf(x, means[z], np.sqrt(variance[z])))


def _served(model, x) -> Form:
    reason = refuses(model, x)
    if reason:
        raise ValueError(reason)
    form = declared(model)
    assert isinstance(form, Form)
    return form
