"""Parameters integrated out by the conjugate rules that were found: what the collapsed samplers and the exact marginal
of an assignment stand on.
"""

import functools

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from inference import conditionals, conjugacy
from inference.conditionals import Rule, totals
from zoo.mixture import num_observations
from zoo.probe import NUM_DRAWS, outside_traces

NUM_CHECKS = 50  # points at which log joint - log conditional must be one number
MISFIT_POINTS = 4  # assignments, and points given each, at which the collapsed rules are checked on data


def log_marginal(model, assignments, x):
    """log p(assignments, x) with every parameter integrated out, a scalar: log joint - log conditional at one point.

    The identity p(z, x) = p(params, z, x) / p(params | z, x) holds at any params (Besag 1989, Biometrika 76, the
    candidate's formula); the point taken is the posterior's own. Raises ValueError where `collapsible`, or `misfit`
    of an x that is no tracer, says why not.
    """
    reason = collapsible(model)
    if reason is None and not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(x)):
        reason = misfit(model, x)
    if reason:
        raise ValueError(f"the parameters of {model.name} cannot be integrated out: {reason}")
    r = jax.nn.one_hot(jnp.asarray(assignments), model.num_components, dtype=jnp.result_type(float))
    sums = totals_of(model, x, r)
    params = point(model, sums)
    return model.log_joint(params, jnp.asarray(assignments), x) - log_conditional(model, params, sums).sum()


@functools.cache
def collapsible(model) -> str | None:
    """None where every parameter can be integrated out of p(params, assignments, x); else the sentence why not.

    Every site needs a rule, and log joint - log conditional must be one number at 50 points of all parameters: rules
    that hold only given each other (a mean and a variance independent a priori) do not make a joint one.
    """
    if not model.param_shapes:
        return "no unknown parameter"
    found = {rule.site for rule in conjugacy.rules(model) if rule.collapsed is not None}
    missing = [name for name in model.param_shapes if name not in found]
    shared = [rule.site for rule in conjugacy.rules(model) if rule.conditional is not None and rule.site in missing]
    if shared:
        return f"{', '.join(shared)} is shared by all components"
    if missing:
        return f"no conjugate prior for {', '.join(missing)}"
    if not outside_traces(_largest_change, model) <= conjugacy.TOLERANCE[jnp.result_type(float).name]:
        sites = ", ".join(rule.site for rule in integrable(model))
        return f"{sites} are conjugate one given the others, not together"
    return None


def misfit(model, x) -> str | None:
    """None where the collapsed rules of a collapsible model hold on the data x, else the sentence.

    `collapsible` looks at a few rows, and a dependence that only other rows have (a noise that one value of a covariate
    alone brings), or a location that is cut off where only these data are, is not in them: log joint - log conditional
    must be one number given assignments of all of x, too.
    """
    error = outside_traces(lambda: float(_misfits(model)(jax.random.key(5), jax.tree.map(jnp.asarray, x))))
    if error <= conjugacy.TOLERANCE[jnp.result_type(float).name]:
        return None
    return f"a conjugate rule does not fit the joint density on these data (relative error {error:.1e})"


@functools.cache
def integrable(model) -> tuple[Rule, ...]:
    """The rules with a collapsed form; one that integrates another site out comes before that site's own."""
    found = [rule for rule in conjugacy.rules(model) if rule.collapsed is not None]
    return tuple(sorted(found, key=lambda rule: not (rule.collapsed and rule.collapsed.integrates)))


def totals_of(model, x, r):
    """Sums of the collapsed rules' statistics over each component: site -> leaves (K, ...)."""
    return {site: totals(each, r) for site, each in statistics_of(model, x).items()}


def statistics_of(model, x):
    """What one observation adds to the totals of its component: site -> leaves (N, 1 or K, ...)."""
    params = conjugacy.somewhere(model)  # no collapsed statistic depends on parameters where `collapsible` is None
    each = {rule.site: rule.collapsed.statistics(params, x) for rule in integrable(model)}
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num_observations(x), *leaf.shape[1:])), each)


def point(model, sums):
    """Parameters near the centre of p(params | totals): each site at its mean, given the sites before it."""
    params = conjugacy.somewhere(model)
    for rule in integrable(model):
        params = {**params, rule.site: centre(rule.collapsed.posterior(params, sums[rule.site]))}
    return params


def draw(model, key, sums):
    """An exact draw from p(params | totals)."""
    params = conjugacy.somewhere(model)
    for i, rule in enumerate(integrable(model)):
        drawn = conditionals.draw(rule.collapsed.posterior(params, sums[rule.site]), jax.random.fold_in(key, i))
        params = {**params, rule.site: drawn.astype(params[rule.site].dtype)}
    return params


def log_conditional(model, params, sums):
    """log p(params of component k | totals), (K,) or more entries; the weights' own, one entry, come last."""
    each = [rule.collapsed.posterior(params, sums[rule.site]).log_prob(params[rule.site]) for rule in integrable(model)]
    return jnp.concatenate([jnp.ravel(value) for value in each])


def centre(q):
    """A value well inside q, defined for every parameter of q."""
    return q.rate / (q.concentration + 1) if isinstance(q, dist.InverseGamma) else q.mean


def _unequal(joint, conditional):
    """How far log joint - log conditional is from one number over the first axis, relative to 1 + |log joint|."""
    gap = joint - conditional
    return jnp.max(jnp.abs(gap - gap[0]) / (1 + jnp.abs(joint) + jnp.abs(joint[0])))


def _largest_change(model):
    """`_unequal` at prior draws, of a few drawn assignments and observations."""

    @jax.jit
    def program(draws, z, x):
        r = jax.nn.one_hot(z, model.num_components, dtype=jnp.result_type(float))

        def at(params):
            each = {rule.site: totals(rule.collapsed.statistics(params, x), r) for rule in integrable(model)}
            return model.log_joint(params, z, x), log_conditional(model, params, each).sum()

        return _unequal(*jax.vmap(at)({name: leaf[:NUM_CHECKS] for name, leaf in draws.items()}))

    return float(program(model.prior_draws(jax.random.key(3), NUM_DRAWS), *conjugacy.few_drawn(model)))


@functools.cache
def _misfits(model):
    """(key, x) -> the largest `_unequal`, given assignments at prior draws, at the centres of p(params | some of them):
    no further from each other than the posterior is wide, so that rounding hides little."""

    def given(key, params, x):
        key_assign, key_some = jax.random.split(key)
        z = jax.random.categorical(key_assign, model.log_table(params, x))
        r = jax.nn.one_hot(z, model.num_components, dtype=jnp.result_type(float))
        sums = totals_of(model, x, r)

        def at(share):
            params = point(model, totals_of(model, x, share * r))
            return model.log_joint(params, z, x), log_conditional(model, params, sums).sum()

        return _unequal(*jax.lax.map(at, jax.random.uniform(key_some, (MISFIT_POINTS, len(z), 1))))

    def program(key, x):
        draws = jax.tree.map(lambda leaf: leaf[:MISFIT_POINTS], model.prior_draws(jax.random.key(3), NUM_DRAWS))
        return jax.lax.map(lambda each: given(*each, x), (jax.random.split(key, MISFIT_POINTS), draws)).max()

    return jax.jit(program)
