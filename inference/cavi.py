"""Coordinate-ascent mean-field variational inference, in closed form where every unknown site is conjugate.

q(params, z) = prod_sites q(site) prod_n q(z_n), each q(site) of the family of the site's rule in
`inference.conjugacy`, each q(z_n) a categorical r_n. A step takes q(site) for one site after another, then every r_n,
to its optimum given the rest (Bishop 2006, Pattern Recognition and Machine Learning, section 10.2; Blei, Kucukelbir &
McAuliffe 2017):

    log q(site) = E log p(params, z, x) + constant,    r_nk proportional to exp E log p(z_n = k, x_n | params),

so the ELBO = E log p(params, z, x) - E log q cannot fall. After the r_n were taken it is
sum_n logsumexp_k E log p(z_n = k, x_n | params) - sum_sites KL(q(site) || p(site)).

Expectations stand on the model's own table (`inference.expected`). A spread and a mean whose prior shares it are one
block, q(spread, mean) = q(spread) q(mean | spread): the rule's collapsed form gives its optimum, and where such blocks
are all there is beside z, and z is certain, q is the posterior and the ELBO the log evidence.
"""

import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from inference import conditionals, em, labels, loop, marginal, space
from inference.expected import family_of, kl, spread_by_mean
from inference.importance import pareto_k
from inference.results import Cost, Draws
from zoo.mixture import num_observations
from zoo.probe import NUM_DRAWS

SMOOTHING = 0.02  # share of each observation that a start spreads evenly
PRIOR_STARTS = 4  # every fourth restart begins at a prior draw, as in `em`
LANES = 4  # restarts that run at once, until the slowest is done
CELLS = 2**20  # table cells of the draws that are evaluated at once
SAME = 1e-6  # ELBOs that differ less, relative to 1 + |ELBO|, are of one optimum
MEANS = ("Normal mean", "multivariate Normal mean")
SPREADS = ("InverseGamma variance", "Gamma precision", "Wishart precision")  # independent of the mean a priori
PARETO = 0.7  # above it draws of q cannot be reweighted to the posterior (Yao, Vehtari, Simpson & Gelman 2018)


class Fit(NamedTuple):
    """One restart."""

    q: dict[str, Any]  # site -> NumPyro distribution; q(mean | spread) of a block at the spread's plug
    taken_at: Any  # (N, K), log r that q is the optimum for
    r: Any  # (N, K), log q(z_n = k)
    elbo: Any
    num_steps: Any
    converged: Any
    fallen: Any  # largest decrease of the ELBO beyond rounding


def refuses(model, x) -> str | None:
    """The sentence why coordinate ascent cannot serve the model, or None."""
    if not model.param_shapes:
        return "no unknown parameter"
    found = {rule.site for rule in served(model)}
    others = [name for name in model.param_shapes if name not in found]
    if others:
        instead = "" if space.discrete(model) else "; advi serves models with a NumPyro twin"
        return f"no coordinate-ascent update is built for {', '.join(others)}{instead}"
    return None


def served(model):
    """The rules with a coordinate-ascent update; a spread that shares a block comes before its mean."""
    if any(len(shape.shape) > 1 for shape in model.observation_shapes.values()):
        return ()  # expectations are for numbers and vectors
    return tuple(rule for rule in marginal.integrable(model) if family_of(rule))


def cavi(
    model, x, key, *, num_chains=4, num_draws=1000, num_restarts=32, max_steps=2000, tolerance=1e-8, permute=True,
    progress=None,
) -> Draws:  # fmt: skip
    """Independent draws from the mean-field q(params) q(z) of the highest ELBO among the restarts.

    Restarts begin at responsibilities of k-means++ centres, every fourth at those of a prior draw, and end when a
    step raises the ELBO by at most `tolerance` (or by its rounding). Draws are of q as fitted: the assignments are
    drawn from q(z), independently of the parameters, not from the table given them, so that a comparison sees the
    approximation as it is. An exchangeable model's draws are permuted uniformly, each on its own; `permute=False`
    leaves them in the labelling of q.

    `stats["elbo"]`: the ELBO of q, which lies in one labelling: a lower bound of the log evidence (log K! is added to
    no bound here, since approximations under different labellings may overlap; `log_evidence` is None).
    `stats["pareto_k"]`: of the weights p(params, x) / q(params), z summed out (Yao et al. 2018); above .7 q is far
    from the posterior. A warning says so, and one says where the ELBO fell in a step, or is not the average of
    log p(params, z, x) - log q over the draws: then a conjugate rule does not fit the model.
    """
    moves = labels.moves(model, permute) and model.exchangeable
    x = jax.tree.map(jnp.asarray, x)
    fit, fits, cost = _best(model, x, key, num_restarts, max_steps, tolerance, progress)
    block = max(1, min(num_chains * num_draws, CELLS // (num_observations(x) * model.num_components)))
    args = (jax.random.fold_in(key, 1), fit.q, fit.taken_at, fit.r, x)
    program, seconds, size = loop.compiled(_draws_program(model, num_chains, num_draws, moves, block), *args)
    started = time.perf_counter()
    params, assignments, stats, gaps = jax.tree.map(np.asarray, program(*args))
    cost += Cost(seconds, time.perf_counter() - started, gaps.size, 0, size)
    k = pareto_k(stats["log_weight"].ravel())
    said = approximation("mean field", float(fit.elbo), k)
    interrupted = len(fits.elbo) < num_restarts
    if interrupted:
        said = (f"interrupted: only {len(fits.elbo)} of {num_restarts} restarts had ended", *said)
    shape = (num_chains, num_draws)
    return Draws(
        params=params,
        assignments=assignments,
        cost=cost,
        stats={
            "lp": stats["lp"],
            "elbo": np.broadcast_to(np.asarray(fit.elbo), shape),
            "pareto_k": np.full(shape, 0.0 if k is None else k),
        },
        warnings=(*said, *_warnings(fits, fit, gaps.ravel(), max_steps)),
        interrupted=interrupted,
    )


def approximation(what, elbo, k, error=0.0) -> tuple[str, ...]:
    """What is to be said of every variational approximation; `error`: standard error of the ELBO."""
    bound = f"{elbo:.6f}" if not error else f"{elbo:.3f} ± {error:.1g}"
    said: tuple[str, ...] = (
        f"draws from an approximation of the posterior ({what}), whose spread is often too small; "
        f"ELBO {bound}, a lower bound of the log evidence from one labelling",
    )
    if k is not None and not k <= PARETO:
        said += (
            f"Pareto k {k:.2f} of the weights posterior / approximation is above {PARETO}: the approximation is poor",
        )
    return said


def _warnings(fits, fit, gaps, max_steps):
    R, said = len(fits.elbo), []
    if not fit.converged:
        said.append(f"the best restart had not converged after {max_steps} steps")
    alike = int(np.sum(np.abs(fits.elbo - fit.elbo) <= SAME * (1 + abs(fit.elbo))))
    if R > 1 and alike == 1:
        said.append(f"only 1 of {R} restarts reached the highest ELBO: more may reach a higher one")
    if fits.fallen.max() > 0:
        said.append(f"the ELBO fell by up to {fits.fallen.max():.3g} in a step, which a right update cannot do")
    off, error = abs(gaps.mean() - fit.elbo), gaps.std() / np.sqrt(gaps.size)
    if gaps.size >= 100 and not off <= 5 * error + (1e-6 if gaps.dtype == np.float64 else 1e-3) * (1 + abs(fit.elbo)):
        said.append(
            f"the ELBO is {fit.elbo:.6f} by its closed form but {gaps.mean():.6f} ± {error:.1g} over the draws: "
            "a conjugate rule does not fit the joint density; do not trust this result"
        )
    return tuple(said)


# -- the ascent ------------------------------------------------------------------------------------------------


def _best(model, x, key, num_restarts, max_steps, tolerance, progress):
    """The restart of the highest ELBO, what every restart came to (q and r left out), and the cost; after Ctrl-C of
    the restarts that had ended."""
    began = time.perf_counter()
    key_prior, key_centres = jax.random.split(key)
    batches = jax.random.split(key_prior, -(-num_restarts // NUM_DRAWS))
    prior_draws = [model.prior_draws(k, NUM_DRAWS) for k in batches]
    params = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:num_restarts], *prior_draws)
    from_data = np.arange(num_restarts) % PRIOR_STARTS != PRIOR_STARTS - 1
    centres = em.nearest_centres(key_centres, x, model.num_components, from_data)
    cost = Cost(time.perf_counter() - began)
    lanes, best, ended = min(LANES, num_restarts), None, []

    def climb(first):
        chosen = np.minimum(first + np.arange(lanes), num_restarts - 1)  # the last group is filled up with copies
        start = jax.tree.map(lambda leaf: leaf[chosen], params)
        numbers = jnp.int32(max_steps), jnp.asarray(tolerance, jnp.result_type(float))
        args = (start, jnp.asarray(centres[chosen]), jnp.asarray(from_data[chosen]), x, *numbers)
        program, seconds, size = loop.compiled(build(model), *args)
        started = time.perf_counter()
        fits = jax.block_until_ready(program(*args))
        spent = Cost(seconds, time.perf_counter() - started, 0, 0, size)
        return jax.tree.map(lambda leaf: np.asarray(leaf)[: num_restarts - first], fits), spent

    try:
        for first in range(0, num_restarts, lanes):
            fits, spent = climb(first)
            cost += spent
            ended.append(fits._replace(q=None, taken_at=None, r=None))
            i = int(np.argmax(np.where(np.isfinite(fits.elbo), fits.elbo, -np.inf)))
            if np.isfinite(fits.elbo[i]) and (best is None or fits.elbo[i] > best.elbo):
                best = jax.tree.map(lambda leaf: leaf[i], fits)  # noqa: B023
            if progress is not None:
                progress(min(first + lanes, num_restarts), num_restarts)
    except KeyboardInterrupt:
        if best is None:
            raise KeyboardInterrupt("interrupted before a restart had ended: nothing is kept") from None
    if best is None:
        raise ValueError("the ELBO is not finite after any start; standardise x, or use a prior that covers it")
    fits = jax.tree.map(lambda *leaves: np.concatenate(leaves), *ended)
    return best, fits, cost._replace(table_evaluations=int(fits.num_steps.sum()))


def optimum(rule, params, r, x):
    """q(site) given responsibilities and the plugs of the other sites; the prior at r = 0."""
    given = rule.collapsed
    return given.posterior(params, conditionals.totals(given.statistics(params, x), r))


def plugs(rules, q):
    return {rule.site: family_of(rule).plug(q[rule.site]) for rule in rules}


def expected_table(model, q, x):
    """E log p(z_n = k, x_n | params), (N, K)."""
    rules = served(model)
    at = plugs(rules, q)
    table = model.log_table(at, x)
    for rule in rules:
        arguments = conditionals.row_arguments(model, at, x, rule.of)
        each = jax.vmap(lambda of_row: family_of(rule).excess(q[rule.site], of_row))(arguments)  # noqa: B023
        table += each.reshape(*each.shape[:2], -1).sum(-1) if each.ndim > 1 else each[:, None]
    return table


def bound(model, q, x):
    """The ELBO with r at its optimum, log r, and the size of the terms.

    KL(q(mean | spread) || p(mean | spread)) is linear in the precision, so that its mean is its value at the plug.
    """
    rules, none = served(model), jnp.zeros((num_observations(x), model.num_components))
    at, table = plugs(rules, q), expected_table(model, q, x)
    each = jax.nn.logsumexp(table, axis=1)
    divergence = sum(kl(q[rule.site], optimum(rule, at, none, x)) for rule in rules)
    return each.sum() - divergence, table - each[:, None], jnp.abs(each).sum() + divergence


@functools.cache
def build(model):
    """The jitted program that takes several restarts from their starts to convergence."""
    rules, K = served(model), model.num_components
    means = {rule.of: rule.site for rule in rules if rule.name in MEANS}
    eps = float(jnp.finfo(jnp.result_type(float)).eps)

    def update(q, r, x):
        """Every q(site) in turn at its optimum given the others and r."""
        for rule in rules:
            best = optimum(rule, plugs(rules, q), r, x)
            if rule.name in SPREADS and rule.of in means:
                best = spread_by_mean(rule, best, q[means[rule.of]], r.sum(0))
            q = {**q, rule.site: best}
        return q

    def restart(params, centres, from_data, x, max_steps, tolerance):
        spread = (1 - SMOOTHING) * jax.nn.one_hot(centres, K) + SMOOTHING / K
        r = jnp.where(from_data, spread, model.responsibilities(params, x))
        # means first: a spread needs means that suit r, not those of a prior draw
        for rule in sorted(rules, key=lambda rule: rule.name not in MEANS):
            params = {**params, rule.site: rule.mode(params, r, x, True)}
        q = {rule.site: optimum(rule, params, r, x) for rule in rules}
        start = Fit(
            q, jnp.log(r), jnp.log(r), -jnp.asarray(jnp.inf, r.dtype), jnp.int32(0), jnp.bool_(False), jnp.zeros(())
        )

        magnitude = sum(jnp.abs(jnp.asarray(leaf, r.dtype)).sum() for leaf in jax.tree.leaves(x))

        def step(fit):
            q = update(fit.q, jnp.exp(fit.r), x)
            elbo, log_r, size = bound(model, q, x)
            rise = elbo - fit.elbo
            rounding = 20 * eps * (1 + size)
            fall = jnp.where(rise < -10 * rounding - 100 * eps * magnitude, -rise, 0.0)
            done = jnp.abs(rise) <= jnp.maximum(tolerance, rounding)
            return Fit(q, fit.r, log_r, elbo, fit.num_steps + 1, done, jnp.maximum(fit.fallen, fall))

        def more(fit):
            return ~fit.converged & (fit.num_steps < max_steps) & (jnp.isfinite(fit.elbo) | (fit.num_steps == 0))

        return jax.lax.while_loop(more, step, start)

    return jax.jit(jax.vmap(restart, in_axes=(0, 0, 0, None, None, None)))


# -- draws -----------------------------------------------------------------------------------------------------


@functools.cache
def _draws_program(model, num_chains, num_draws, moves, block):
    shape = (num_chains, num_draws)

    rules = served(model)
    in_block = {rule.collapsed.integrates for rule in rules}

    def program(key, q, taken_at, log_r, x):
        at = plugs(rules, q)

        def sample(key):
            params, log_q = {}, jnp.zeros(())
            for rule, key_site in zip(rules, jax.random.split(key, len(rules)), strict=True):
                law = q[rule.site]
                if rule.site in in_block:
                    law = optimum(rule, {**at, **params}, jnp.exp(taken_at), x)
                value = conditionals.draw(law, key_site)
                log_q += law.log_prob(value).sum()
                params[rule.site] = value.astype(model.param_shapes[rule.site].dtype)
            return params, log_q

        def one(key):
            key_params, key_assign, key_labels = jax.random.split(key, 3)
            params, log_q = sample(key_params)
            z = labels.draw_assignments(key_assign, log_r)
            table, log_prior = model.log_table(params, x), model.log_prior(params)
            lp = log_prior + jax.nn.logsumexp(table, axis=1).sum()
            rows = jnp.arange(len(z))
            gap = log_prior + table[rows, z].sum() - log_q - log_r[rows, z].sum()
            if moves:
                s = labels.redraw(model, key_labels, None, None)
                params, z = model.permute(params, s), s[z]
            return params, z, {"lp": lp, "log_weight": lp - log_q}, gap

        out = jax.lax.map(one, jax.random.split(key, num_chains * num_draws), batch_size=block)
        return jax.tree.map(lambda leaf: leaf.reshape(shape + leaf.shape[1:]), out)

    return jax.jit(program)
