"""Simulation-based calibration of whole back ends (Talts et al. 2018, arXiv:1804.06788).

Parameters from the prior, data from them, the posterior by a back end: the rank of the generating value of any quantity
among independent posterior draws is uniform if the back end is right. Quantities may depend on the data (Modrak et al.
2023, Bayesian Analysis, section 3): the log likelihood shows what parameters alone do not.
"""

import functools
import inspect
import math
import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

import inference
from diagnostics.calibration import example
from diagnostics.functionals import occupied, sorted_by
from diagnostics.to_arviz import az
from inference import space
from zoo import probe

NUM_RANKED = 100  # draws among which a generating value is ranked
CORRELATED = 0.05  # autocorrelation of the thinned draws, at most
MAX_RHAT = 1.05  # above it on any quantity the chains of a data set have not mixed
MAX_DROPPED = 0.02  # share of data sets without mixed chains up to which a cell says anything
CONJUGACY_ERROR = 1e-6  # of a conjugate draw, at most: a back end that mends its rule must not hide that it was wrong
DISCRETE = ("1{z_0 = z_1}", "occupied")  # constant on most data sets, where R-hat is 0/0: log joint speaks for them
GRID = 4  # the test looks at every fourth rank

# settings of a run on one small data set; others: those of SHORT that they have
SHORT = dict(num_chains=4, num_warmup=250, num_draws=250)
SETTINGS: dict[str, dict] = {
    "smc": dict(num_particles=512),
    "importance": dict(num_particles=20_000),
    "cavi": dict(num_chains=4, num_draws=250, num_restarts=8),
    "advi": dict(num_chains=4, num_draws=250, num_restarts=1, num_steps=1000),
    "enumeration": dict(num_chains=1, num_draws=NUM_RANKED),
}

# (model, back end) that take longer to mix on ten observations: settings before those
LONG: dict[tuple[str, str], dict] = {
    ("bento_full", "nuts"): dict(num_warmup=500, num_draws=500),
    ("three_gaussians", "metropolis"): dict(num_warmup=1000, num_draws=1000),
    ("three_gaussians", "nuts"): dict(num_warmup=1000, num_draws=1000, target_accept=0.9),
    ("three_gaussians", "smc"): dict(num_particles=2048),
}


class Calibration(NamedTuple):
    """What the ranks of one back end on one model say. Q quantities, R data sets not dropped."""

    names: tuple[str, ...]
    p: np.ndarray  # (Q,) of uniform ranks
    ranks: np.ndarray  # (R, Q), each 0..NUM_RANKED
    num_simulated: int
    num_dropped: int  # no mixed chains, too few effective draws
    autocorrelation: float  # of the thinned draws: the largest over quantities of the mean over data sets
    conjugacy_error: float  # the largest of all runs
    level: float  # of one quantity

    @property
    def established(self) -> bool:
        return self.num_dropped <= MAX_DROPPED * self.num_simulated and self.autocorrelation < CORRELATED

    @property
    def uniform(self) -> bool:
        return bool(np.all(self.p >= self.level))

    @property
    def verdict(self) -> str:
        """passed, FAILED or not established."""
        if self.conjugacy_error > CONJUGACY_ERROR:
            return "FAILED"
        if not self.established:
            return "not established"
        return "passed" if self.uniform else "FAILED"

    @property
    def worst(self) -> tuple[str, float]:
        """The quantity with the smallest p, and that p; none where every data set was dropped."""
        if not self.names:
            return "none", 1.0
        i = int(np.argmin(self.p))
        return self.names[i], float(self.p[i])

    def __str__(self):
        name, p = self.worst
        return (
            f"{self.verdict}: smallest p {p:.2g} ({name}), allowed {self.level:.2g}; {self.num_simulated} data sets, "
            f"{self.num_dropped} dropped; autocorrelation {self.autocorrelation:.3f}"
        )


def num_quantities(model) -> int:
    """How many quantities a back end with assignments is tested on."""
    of_parameters = 4 + (model.num_components if sorted_by(model) else 0) + len(space.discrete(model))
    return (of_parameters if model.param_shapes else 0) + 3


def sbc(model, backend, seed, *, num_datasets=200, n=10, level=0.01, progress=None) -> Calibration:
    """Ranks of `num_datasets` generating values, each among NUM_RANKED draws of `backend` given its `n` observations.

    `level` is for one quantity: divide by all that a table holds. Draws are thinned evenly. A data set is dropped when
    its chains have R-hat above MAX_RHAT or a bulk ESS below NUM_RANKED on some quantity, when its weights have an ESS
    below NUM_RANKED, or when the back end says that it has no estimate: rules that never see the generating values.
    """
    rng = np.random.default_rng([seed, zlib.crc32(f"{model.name} {backend}".encode())])
    truths, assignments, data = simulated(model, jax.random.key(int(rng.integers(2**62))), num_datasets, n)
    kind, settings = inference.TABLE[backend][1], settings_of(model, backend)
    rows, correlations, names, dropped, conjugacy_error = [], [], (), 0, 0.0
    for i in range(num_datasets):
        take = lambda tree: jax.tree.map(lambda leaf: leaf[i], tree)  # noqa: B023
        x = take(data)
        result = inference.fit(model, backend, x, seed=int(rng.integers(2**62)), **settings)
        draws = result.draws if kind == "exact" else result
        error = np.max(draws.stats.get("conjugacy_error", 0.0))
        conjugacy_error = max(conjugacy_error, np.inf if np.isnan(error) else float(error))
        thinned, correlation = independent(model, draws, kind == "mcmc", x, rng)
        if progress is not None:
            progress(i + 1, num_datasets)
        if thinned is None:
            dropped += 1
            continue
        single = {name: leaf[i][None, None] for name, leaf in truths.items()}
        truth = quantities(model, single, assignments[i][None, None] if "occupied" in thinned else None, x)
        rows.append([_rank(truth[name].item(), thinned[name].ravel(), rng) for name in thinned])
        correlations.append(correlation)
        names = tuple(thinned)
    ranks = np.array(rows, int).reshape(len(rows), len(names))
    p = np.array([uniformity(column, NUM_RANKED) for column in ranks.T])
    autocorrelation = float(np.abs(np.mean(correlations, axis=0)).max()) if rows else 0.0
    return Calibration(names, p, ranks, num_datasets, dropped, autocorrelation, conjugacy_error, level)


def settings_of(model, backend) -> dict:
    """Settings of a run on one small data set."""
    known = inspect.signature(inference.BACKENDS[backend].run).parameters
    settings = SETTINGS.get(backend, {name: value for name, value in SHORT.items() if name in known})
    return settings | LONG.get((model.name.partition("[")[0], backend), {})


def simulated(model, key, num_datasets, n):
    """Parameters (R, ...) from the prior, assignments (R, n), observations (R, n, ...): all drawn by one program."""
    blocks = []
    for key_block in jax.random.split(key, -(-num_datasets // probe.NUM_DRAWS)):
        key_params, key_rest = jax.random.split(key_block)
        params = model.prior_draws(key_params, probe.NUM_DRAWS)
        z, x = _observations(model, n)(jax.random.split(key_rest, probe.NUM_DRAWS), params)
        blocks.append(jax.tree.map(np.asarray, (params, z, x)))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:num_datasets], *blocks)


@functools.cache
def _observations(model, n):
    return jax.jit(jax.vmap(lambda key, params: probe.draw_observations(model, params, key, n)))


def quantities(model, params, assignments, x) -> dict[str, np.ndarray]:
    """name -> (C, S): log likelihood, log prior, sorted atoms, log density at two points, discrete parameters (each one
    value); log joint, 1{z_0 = z_1} and occupied components of the assignments (C, S, N), unless None."""
    summed_out, joint = _programs(model)
    found = dict(summed_out(params, x)) if params else {}
    if assignments is not None:
        z = np.asarray(assignments)
        found["log joint"] = joint(params, z, x)  # shows assignments that have nothing to do with x
        found["1{z_0 = z_1}"] = (z[..., 0] == z[..., 1]).astype(float)
        found["occupied"] = occupied(z, model.num_components)
    return {name: np.asarray(leaf) for name, leaf in found.items()}


@functools.cache
def _programs(model):
    points, order = example(model, 2), sorted_by(model)

    def summed_out(params, x):
        at_points = model.pointwise_log_likelihood(params, points)
        found = {"log likelihood": model.log_likelihood(params, x), "log prior": model.log_prior(params)}
        if order is not None:
            atoms = {**model.derived(params), **params}[order]
            found |= {f"sorted {order}[{k}]": atom for k, atom in enumerate(jnp.sort(atoms))}
        found |= {name: params[name] for name in space.discrete(model)}
        return found | {f"log density at point {i}": value for i, value in enumerate(at_points)}

    each = jax.vmap(jax.vmap(summed_out, (0, None)), (0, None))
    joint = jax.vmap(jax.vmap(model.log_joint, (0, 0, None)), (0, 0, None))
    return jax.jit(each), jax.jit(joint)


def independent(model, draws, chains, x, rng):
    """NUM_RANKED draws of each quantity, as good as independent, and the autocorrelation (Q,) left between them.

    `chains`: they come from Markov chains, which must have mixed. None for draws that cannot give so many; the rule
    sees the draws alone.
    """
    if draws.log_weights is not None:
        return _resampled(model, draws, x, rng), 0.0
    values = quantities(model, draws.params, draws.assignments, x)
    if not all(np.isfinite(f).all() for f in values.values()):
        return None, 0.0
    C, S = next(iter(values.values())).shape
    stride = C * S // NUM_RANKED
    thinned = {name: f[:, stride - 1 :: stride] for name, f in values.items()}
    if not chains:
        return thinned, 0.0
    for name, f in values.items():
        if name not in (*DISCRETE, *space.discrete(model)) and not (az.rhat(f) <= MAX_RHAT and az.ess(f) >= NUM_RANKED):
            return None, 0.0
    return thinned, np.array([_autocorrelation(f, stride) for f in values.values()])


def _resampled(model, draws, x, rng):
    """NUM_RANKED of weighted draws, by systematic resampling; None where the weights have too small an ESS."""
    log_weights = np.asarray(draws.log_weights, float)
    w = np.exp(log_weights - log_weights.max()).ravel()
    w /= w.sum()
    runs = len(log_weights) > 1  # independent runs, whose particles share one weight
    if not np.isfinite(w).all() or 1 / (w**2).sum() < NUM_RANKED or (runs and draws.log_evidence is None):
        return None
    places = (rng.uniform() + np.arange(NUM_RANKED)) / NUM_RANKED
    chosen = np.minimum(np.searchsorted(np.cumsum(w), places), len(w) - 1)
    pick = lambda leaf: np.asarray(leaf).reshape(len(w), *np.shape(leaf)[2:])[chosen][None]
    params = {name: pick(leaf) for name, leaf in draws.params.items()}
    return quantities(model, params, None if draws.assignments is None else pick(draws.assignments), x)


def _autocorrelation(f, lag):
    """Of chains (C, S) about their common mean, at one lag; 0 for what does not vary."""
    centred = f - f.mean()
    variance = np.mean(centred**2)
    return float(np.mean(centred[:, lag:] * centred[:, :-lag]) / variance) if variance > 0 else 0.0


def _rank(truth, draws, rng) -> int:
    """Draws below the truth, ties broken at random: uniform on 0..len(draws)."""
    tolerance = 1e-12 * (1 + abs(truth))  # the same value, computed by another program
    ties = int(np.sum(np.abs(draws - truth) <= tolerance))
    return int(np.sum(draws < truth - tolerance)) + int(rng.integers(ties + 1))


# -- the test ----------------------------------------------------------------------------------------------------------


def uniformity(ranks, num_ranked) -> float:
    """P-value of ranks (R,) that should be uniform on 0..num_ranked, from their empirical distribution function.

    The number of ranks below b is Binomial(R, b / (num_ranked + 1)) for every b; the statistic is the smallest of their
    two-sided tail probabilities over a grid of b (Sailynoja, Buerkner & Vehtari 2022, Statistics and Computing 32,
    section 2). Its law is exact: the counts are a Markov chain, run through the band of what is less extreme. Below
    1e-9 the union bound is given, which is larger.
    """
    R = len(ranks)
    edges = np.arange(GRID, num_ranked + 1, GRID)
    share = edges / (num_ranked + 1)
    counts = np.searchsorted(np.sort(ranks), edges, side="left")
    tails = lambda c, q: 2 * np.minimum(stats.binom.cdf(c, R, q), stats.binom.sf(c - 1, R, q))
    extreme = float(tails(counts, share).min())
    if extreme * len(edges) < 1e-9:
        return extreme * len(edges)
    here, inside, before = np.zeros(1, int), np.ones(1), 0.0
    for q in share:
        every = np.arange(R + 1)
        there = every[tails(every, q) > extreme * (1 + 1e-9)]
        step = stats.binom.pmf(there[None, :] - here[:, None], R - here[:, None], (q - before) / (1 - before))
        here, inside, before = there, inside @ step, q
    return float(min(max(1 - math.fsum(inside), 0.0), 1.0))
