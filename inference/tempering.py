"""Laws between the prior and the posterior, and moves that leave each of them alone.

The path, t from 0 to 1, p(params) l_t(params), by what moves through it:

    gibbs   l_t = prod_n sum_k p(z_n = k | params) p(x_n | z_n = k, params)^t
    hmc     l_t = p(x | params)^t

The first is the law of the parameters under p(params, z) prod_n p(x_n | z_n, params)^t, whose conditionals are Gibbs
draws at any t: assignments given parameters from the table with `log_components` alone tempered, parameters given
assignments from the conjugate conditional at responsibilities t r (rules about the weights: at r), slices for the rest.
Tempering the whole table instead would leave K^N at t = 0. From t to s, params weighs l_s / l_t with the assignments
summed out: that is the mean of prod_n p(x_n | z_n, params)^(s - t) over the assignments given params at t, so the
expectation is the same and the variance less than of particles with assignments, where it grows with N.

Gibbs draws are cheaper than gradients, but their path is the harder one where components are apart: at t the prior of N
assignments, up to N log K, weighs against t times the likelihood, so the components part late and at once.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from inference import conjugacy, labels, space
from inference.conditionals import draw
from inference.slice import slice_coordinates

NUM_LEAPS = 8


class Distinct(NamedTuple):
    """Data as the hmc path takes them where most observations are equal to others: each once, and how often it is
    there."""

    x: Any  # (M, ...)
    counts: Any  # (M,)


def distinct(x):
    """`Distinct` in the order of the first rows, where that halves them; else x as it is, which keeps its shape and
    with it the compiled program. Host side."""
    leaves = [np.ascontiguousarray(leaf).reshape(len(leaf), -1) for leaf in jax.tree.leaves(x)]
    rows = np.concatenate([leaf.view(np.uint8) for leaf in leaves], axis=1)
    _, first, counts = np.unique(rows.view(f"V{rows.shape[1]}").ravel(), return_index=True, return_counts=True)
    if 2 * len(first) > len(rows):
        return x
    order = np.argsort(first)
    return Distinct(jax.tree.map(lambda leaf: leaf[first[order]], x), jnp.asarray(counts[order]))


def path_of(model, move):
    """log l_t (params, t, x), a scalar; for "hmc", x may be `Distinct`."""

    def likelihood(params, x):
        rows, counts = x if isinstance(x, Distinct) else (x, 1)
        return (counts * model.pointwise_log_likelihood(params, rows)).sum()

    if move == "hmc":
        return lambda params, t, x: jnp.where(t > 0, t * likelihood(params, x), 0.0)
    return lambda params, t, x: jax.nn.logsumexp(tempered_table(model, params, t, x), axis=1).sum()


def tempered_table(model, params, t, x):
    """log p(z_n = k | params) + t log p(x_n | z_n = k, params), (N, K)."""
    components = model.log_components(params, x)
    return model.log_weights_table(params, x) + jnp.where(t > 0, t * components, 0.0)


def gibbs_kernel(model, permute):
    """(key, u, t, scale, sd, x) -> u, 1 if all conjugate draws were accepted, else 0: one sweep that leaves the law at
    t alone.

    Assignments given the parameters, every conjugate site given these, slices for the other sites, the labelling; no
    use of scale and sd. Conjugate draws are proposals whose log acceptance ratio is 0 to rounding if the rule is right.
    """
    of = space.space_of(model)
    K = model.num_components
    rules = tuple(rule for rule in conjugacy.rules(model) if rule.conditional is not None)
    others = [name for name in model.param_shapes if name not in {rule.site for rule in rules}]
    coordinates = np.concatenate([np.arange(of.size)[of.slices[name]] for name in others] or [np.arange(0)])
    relabel = labels.moves(model, permute)

    def log_complete(params, r, t, x):
        table = tempered_table(model, params, t, x)
        return model.log_prior(params) + jnp.where(r > 0, r * table, 0.0).sum()

    def kernel(key, u, t, scale, sd, x):
        key_assign, key_rules, key_slice, key_labels = jax.random.split(key, 4)
        params = of.constrain(u)
        z = labels.draw_assignments(key_assign, tempered_table(model, params, t, x))
        r = jax.nn.one_hot(z, K, dtype=u.dtype)
        accepted = jnp.ones((), u.dtype)
        here = log_complete(params, r, t, x) if rules else 0.0
        for j, rule in enumerate(rules):
            key_draw, key_accept = jax.random.split(jax.random.fold_in(key_rules, j))
            q = rule.conditional(params, r if rule.of == "z" else t * r, x)
            drawn = {**params, rule.site: draw(q, key_draw).astype(params[rule.site].dtype)}
            there = log_complete(drawn, r, t, x)
            back = q.log_prob(params[rule.site]).sum() - q.log_prob(drawn[rule.site]).sum()
            taken = jnp.log(jax.random.uniform(key_accept)) < there - here + back
            params = {name: jnp.where(taken, drawn[name], params[name]) for name in params}
            here, accepted = jnp.where(taken, there, here), accepted * taken
        if len(coordinates):
            target = lambda u: log_complete(of.constrain(u), r, t, x) + of.log_det(u)
            u, _ = slice_coordinates(key_slice, target, of.unconstrain(params), coordinates)
            params = of.constrain(u)
        if relabel:
            swapped = lambda s: log_complete(model.permute(params, s), jnp.zeros_like(r).at[:, s].set(r), t, x)
            s = labels.redraw(model, key_labels, jnp.arange(K, dtype=jnp.int32), swapped)
            params = model.permute(params, s)
        return of.unconstrain(params), accepted

    return kernel


def hmc_kernel(model, permute):
    """(key, u, t, scale, sd, x) -> u, acceptance probability: one move that leaves the law at t alone."""
    of = space.space_of(model)
    path = path_of(model, "hmc")
    relabel = labels.moves(model, permute)
    log_tempered = lambda params, t, x: model.log_prior(params) + path(params, t, x)

    def kernel(key, u, t, scale, sd, x):
        """One Hamiltonian move (Neal 2011) with the cloud's scales for mass, then the labelling."""
        key_momentum, key_jitter, key_accept, key_labels = jax.random.split(key, 4)
        value_and_slope = jax.value_and_grad(lambda u: log_tempered(of.constrain(u), t, x) + of.log_det(u))
        eps = scale * sd * jax.random.uniform(key_jitter, (), minval=0.5, maxval=1.5)
        p = jax.random.normal(key_momentum, u.shape, u.dtype)
        value, slope = value_and_slope(u)

        def leap(carry, _):
            u, p, _, slope = carry
            p = p + 0.5 * eps * slope
            u = u + eps * p
            value, slope = value_and_slope(u)
            return (u, p + 0.5 * eps * slope, value, slope), None

        (there, p_there, value_there, _), _ = jax.lax.scan(leap, (u, p, value, slope), None, length=NUM_LEAPS)
        log_accept = value_there - value + 0.5 * (p @ p - p_there @ p_there)
        log_accept = jnp.where(jnp.isnan(log_accept), -jnp.inf, log_accept)
        u = jnp.where(jnp.log(jax.random.uniform(key_accept)) < log_accept, there, u)
        if relabel:
            params = of.constrain(u)
            identity = jnp.arange(model.num_components, dtype=jnp.int32)
            log_density = lambda s: log_tempered(model.permute(params, s), t, x)
            u = of.unconstrain(model.permute(params, labels.redraw(model, key_labels, identity, log_density)))
        return u, jnp.exp(jnp.minimum(log_accept, 0.0))

    return kernel
