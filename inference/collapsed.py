"""Collapsed Gibbs sampling: assignments with every parameter integrated out, one observation after the other."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from inference import conditionals, conjugacy, labels, loop, marginal
from inference.results import Draws


class State(NamedTuple):
    """What the next sweep needs."""

    assignments: Any  # (N,) int32


def refuses(model, x) -> str | None:
    """None where every parameter can be integrated out in closed form, on the data x too."""
    reason = marginal.collapsible(model)
    if reason is None and x is not None:
        reason = marginal.misfit(model, x)
    if reason is None or reason == "no unknown parameter":
        return reason
    return f"{reason}, and a collapsed sampler integrates all parameters out; gibbs draws them instead"


def collapsed(
    model, x, key, *, num_chains=4, num_warmup=500, num_draws=1000, thin=2, permute=True, progress=None, resume=None
) -> Draws:
    """Draws from p(params, assignments | x) by collapsed Gibbs sampling; one draw is kept every `thin` sweeps.

    A sweep visits n = 1..N and draws z_n from p(z_n = k | the other z, x), proportional to
    p(z_n = k | the other z) p(x_n | the x of component k) (Liu 1994, JASA 89; MacEachern 1994). The predictive is
    p(x_n | params) p(params | x of k) / p(params | x of k and x_n), the same at any params; it is taken at the centre
    of the last. Parameters are drawn afterwards, from p(params | assignments, x), then the labelling
    (`inference.labels`; `permute=False` switches it off). Exact in all that it does.
    """
    sampler = build(model, permute, thin)
    how = dict(num_chains=num_chains, num_warmup=num_warmup, num_draws=num_draws, progress=progress, resume=resume)
    return loop.sample(model, sampler, key, x, **how)


def left(total, own, belongs):
    """The totals (K, ...) without one observation's part of those of its component; `own` (1 or K, ...) is that part
    by component."""
    return total - part(own, belongs)


def part(own, belongs):
    """What an observation of statistics `own` (1 or K, ...) adds to the totals (K, ...); `belongs` (K,) is one-hot."""
    return belongs.reshape(belongs.shape + (1,) * (own.ndim - 1)) * own


def of_occupied(total, sizes):
    """The totals (K, ...), exactly 0 of a component that is empty: differences leave what rounding left."""
    return jnp.where(sizes.reshape(sizes.shape + (1,) * (total.ndim - 1)) > 0, total, 0.0)


@functools.cache
def build(model, permute: bool = True, thin: int = 1) -> loop.Sampler:
    """The sampler."""
    rules = marginal.integrable(model)
    moves = labels.moves(model, permute)
    K = model.num_components

    def init(key, params, x):
        return State(labels.draw_assignments(key, model.log_table(params, x)))

    def step(key, i, state, x):
        key_sweeps, key_params, key_labels = jax.random.split(key, 3)
        each = marginal.statistics_of(model, x)
        log_weights = model.log_weights_table(conjugacy.somewhere(model), x)  # constants, where no rule is of "z"
        z, _ = jax.lax.scan(
            lambda z, key: (sweep(key, z, x, each, log_weights), None),
            state.assignments,
            jax.random.split(key_sweeps, thin),
        )
        params = marginal.draw(model, key_params, sums_of(each, z))
        if moves:
            params, z = labels.relabel(model, key_labels, params, z, x)
        out = {"params": params, "assignments": z, "lp": model.log_density(params, x)}
        out["num_evaluations"] = jnp.int32(thin + 1)
        return State(z), out

    def sums_of(each, z):
        r = jax.nn.one_hot(z, K, dtype=jnp.result_type(float))
        return {site: conditionals.totals(leaves, r) for site, leaves in each.items()}

    def sweep(key, z, x, each, log_weights):
        """z after a visit to every observation; sums are carried along, and made anew in every sweep."""

        def visit(carry, n):
            z, sums, sizes = carry
            own = jax.tree.map(lambda leaf: leaf[n], each)
            belongs = jax.nn.one_hot(z[n], K, dtype=jnp.result_type(float))
            others = jax.tree.map(functools.partial(left, belongs=belongs), sums, own)
            others = jax.tree.map(functools.partial(of_occupied, sizes=sizes - belongs), others)
            row = jax.tree.map(lambda leaf: leaf[n][None], x)
            logits = log_predictive(others, own, row) + log_weight(others, log_weights[n])
            drawn = labels.draw_assignments(jax.random.fold_in(key, n), logits[None])[0]
            joins = jax.nn.one_hot(drawn, K, dtype=jnp.result_type(float))
            sums = jax.tree.map(lambda total, s: total + part(s, joins), others, own)
            return (z.at[n].set(drawn), sums, sizes - belongs + joins), None

        sizes = jax.nn.one_hot(z, K, dtype=jnp.result_type(float)).sum(axis=0)
        (z, *_), _ = jax.lax.scan(visit, (z, sums_of(each, z), sizes), jnp.arange(len(z)))
        return z

    def log_predictive(others, own, row):
        """log p(x_n | the x of component k) of every k, (K,)."""
        params, log_ratio = conjugacy.somewhere(model), jnp.zeros(K)
        for rule in rules:
            if rule.of != "z":
                without = others[rule.site]
                joined = rule.collapsed.posterior(params, jax.tree.map(jnp.add, without, own[rule.site]))
                params = {**params, rule.site: marginal.centre(joined)}
                before, value = rule.collapsed.posterior(params, without), params[rule.site]
                if rule.collapsed.change is None:
                    change = before.log_prob(value) - joined.log_prob(value)
                else:
                    change = rule.collapsed.change(before, own[rule.site], value)
                log_ratio += change.reshape(K, -1).sum(axis=1)
        return model.log_components(params, row)[0] + log_ratio

    def log_weight(others, fixed):
        """log p(z_n = k | the other z) up to a constant: proportional to alpha_k + n_k."""
        for rule in rules:
            if rule.of == "z":
                return jnp.log(rule.collapsed.posterior(conjugacy.somewhere(model), others[rule.site]).concentration)
        return fixed

    return loop.Sampler(init, step)
