"""Which prior site is conjugate to what, found from the declaration; and parameters integrated out by what was found.

A rule of `inference.conditionals` is found when the two distributions are of the right classes, the component's
argument *is* the site (checked at prior draws), and nothing else moves when the site does. Where a look at arguments
does not see everything (a density of the user's own, a distribution inside another), log joint must change with the
site as log conditional does.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from inference.conditionals import (
    Rule,
    arrays,
    beta_probability,
    component_arguments,
    design,
    dirichlet_items,
    dirichlet_weights,
    filled,
    finite,
    first_row,
    gamma_rate,
    multivariate_mean,
    normal_coefficients,
    normal_mean,
    normal_scale,
    normal_spread,
    row_arguments,
    scale_of,
    totals,
    wishart_precision,
)
from zoo.mixture import num_observations, outside_traces, split
from zoo.probe import NUM_DRAWS, draw_observations

__all__ = [
    "Rule",
    "collapsible",
    "component_arguments",
    "integrable",
    "log_marginal",
    "row_arguments",
    "rules",
    "totals",
]

NUM_POINTS = 16  # prior draws at which a rule is probed
NUM_CHECKS = 50  # points at which log joint - log conditional must be the same ...
TOLERANCE = {"float64": 1e-8, "float32": 1e-3}  # ... relative to 1 + |log joint|, by precision
CHECK_ROWS = 6  # observations in that check
MISFIT_POINTS = 4  # assignments, and points given each, at which the collapsed rules are checked on data
PROBE_ROWS = 33  # rows of data beside every prior draw, where arguments may differ from row to row
# arguments that the rules take of a prior: a Gamma of log_rate, or a normal without a location, finds none
GIVEN = {
    "Gamma": ("concentration", "rate"),
    "MultivariateNormalDiag": ("loc", "scale_diag"),
    "MultivariateNormalFullCovariance": ("loc", "covariance_matrix"),
}


@functools.cache
def rules(model) -> tuple[Rule, ...]:
    """The rules that the declaration of `model` supports, in the order of its sites. Compiles one small program."""
    if not model.param_shapes:
        return ()
    probed = outside_traces(_probe, model)
    found = [rule for name in model.param_shapes if (rule := _rule_for(model, name, probed)) is not None]
    drawn = tuple(rule for rule in found if rule.conditional is not None)
    if not drawn or not probed.opaque:
        return tuple(found)
    errors = outside_traces(_errors, model, drawn)
    return tuple(rule for rule in found if errors.get(rule.site, 0.0) <= TOLERANCE[jnp.result_type(float).name])


# -- parameters integrated out --------------------------------------------------------------------------------


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
    found = {rule.site for rule in rules(model) if rule.collapsed is not None}
    missing = [name for name in model.param_shapes if name not in found]
    shared = [rule.site for rule in rules(model) if rule.conditional is not None and rule.site in missing]
    if shared:
        return f"{', '.join(shared)} is shared by all components"
    if missing:
        return f"{', '.join(missing)} has no conjugate prior"
    if not outside_traces(_largest_change, model) <= TOLERANCE[jnp.result_type(float).name]:
        sites = ", ".join(rule.site for rule in integrable(model))
        return f"{sites} are conjugate one given the others, not together"
    return None


def misfit(model, x) -> str | None:
    """None where the collapsed rules of a collapsible model hold on the data x, else the sentence.

    `collapsible` looks at a few rows, and a dependence that only other rows have (a noise that one value of a covariate
    alone brings) is not in them: log joint - log conditional must be one number given assignments of all of x, too.
    Where a row is one array, and every density is by its arguments, there is nothing to depend on.
    """
    if not isinstance(x, dict) and not outside_traces(_probe, model).opaque:
        return None
    error = outside_traces(lambda: float(_misfits(model)(jax.random.key(5), jax.tree.map(jnp.asarray, x))))
    if error <= TOLERANCE[jnp.result_type(float).name]:
        return None
    return f"a conjugate rule does not fit the joint density on these data (relative error {error:.1e})"


@functools.cache
def integrable(model) -> tuple[Rule, ...]:
    """The rules with a collapsed form; one that integrates another site out comes before that site's own."""
    found = [rule for rule in rules(model) if rule.collapsed is not None]
    return tuple(sorted(found, key=lambda rule: not (rule.collapsed and rule.collapsed.integrates)))


def totals_of(model, x, r):
    """Sums of the collapsed rules' statistics over each component: site -> leaves (K, ...)."""
    return {site: totals(each, r) for site, each in statistics_of(model, x).items()}


def statistics_of(model, x):
    """What one observation adds to the totals of its component: site -> leaves (N, 1 or K, ...)."""
    params = somewhere(model)  # no collapsed statistic depends on parameters where `collapsible` is None
    each = {rule.site: rule.collapsed.statistics(params, x) for rule in integrable(model)}
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num_observations(x), *leaf.shape[1:])), each)


def point(model, sums):
    """Parameters near the centre of p(params | totals): each site at its mean, given the sites before it."""
    params = somewhere(model)
    for rule in integrable(model):
        params = {**params, rule.site: centre(rule.collapsed.posterior(params, sums[rule.site]))}
    return params


def draw(model, key, sums):
    """An exact draw from p(params | totals)."""
    params = somewhere(model)
    for i, rule in enumerate(integrable(model)):
        drawn = rule.collapsed.posterior(params, sums[rule.site]).sample(jax.random.fold_in(key, i))
        params = {**params, rule.site: drawn.astype(params[rule.site].dtype)}
    return params


def log_conditional(model, params, sums):
    """log p(params of component k | totals), (K,) or more entries; the weights' own, one entry, come last."""
    each = [rule.collapsed.posterior(params, sums[rule.site]).log_prob(params[rule.site]) for rule in integrable(model)]
    return jnp.concatenate([jnp.ravel(value) for value in each])


def centre(q):
    """A value well inside q, defined for every parameter of q."""
    return q.rate / (q.concentration + 1) if isinstance(q, dist.InverseGamma) else q.mean


def somewhere(model):
    """Parameters of the right shapes, with values of a right kind: the first prior draw."""
    return {name: jnp.asarray(leaf) for name, leaf in _first_draw(model).items()}


@functools.cache
def _first_draw(model):
    draws = outside_traces(lambda: jax.tree.map(np.asarray, model.prior_draws(jax.random.key(3), NUM_DRAWS)))
    return {name: leaf[0] for name, leaf in draws.items()}


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

    return float(program(model.prior_draws(jax.random.key(3), NUM_DRAWS), *_drawn(model)))


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


# -- finding them -----------------------------------------------------------------------------------------


class _Probed(NamedTuple):
    """The declaration at P points: prior draws, each beside every one of a few rows of data."""

    families: tuple  # of the sites of the prior, of those of the observation: name -> class name
    values: dict  # site of the prior -> (P, ...)
    prior: dict  # its arguments: site -> {argument: (P, ...)}
    observed: dict  # those of the observation: site -> {argument: (P, K, ...)}, "z" (P, ...)
    moved: dict  # site replaced -> (`prior`, `observed`) then
    opaque: bool  # whether a density may depend on more than the arguments say


@functools.cache
def _probe(model) -> _Probed:
    prior_families, families, opaque = {}, {}, []

    def arguments(params, rows):
        prior = model.prior_sites(params)
        observed = model.observation_sites(params, 0, *jax.tree.map(lambda leaf: leaf[0], split(rows)))
        prior_families.update({name: site.family for name, site in prior.items()})
        families.update({name: site.family for name, site in observed.items()})
        opaque.extend(map(_opaque, [*prior.values(), *observed.values()]))
        of_rows = {name: row_arguments(model, params, rows, name) for name in observed}
        of_rows["z"] = {argument: leaf[:, 0] for argument, leaf in of_rows["z"].items()}
        num_rows = len(next(iter(of_rows["z"].values()), [0]))
        repeated = {k: {a: jnp.stack([leaf] * num_rows) for a, leaf in arrays(s).items()} for k, s in prior.items()}
        return jax.tree.map(lambda leaf: jnp.stack([leaf] * num_rows), params), repeated, of_rows

    @jax.jit
    def program(draws, rows):
        here = {name: leaf[:NUM_POINTS] for name, leaf in draws.items()}
        there = {name: leaf[NUM_POINTS : 2 * NUM_POINTS] for name, leaf in draws.items()}
        tries = [here, *({**here, name: there[name]} for name in here)]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *tries)
        found = jax.vmap(jax.vmap(lambda params: arguments(params, rows)))(stacked)
        return jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[:1] + (-1,) + leaf.shape[3:]), found)

    every = jax.tree.map(np.asarray, program(model.prior_draws(jax.random.key(3), NUM_DRAWS), _some_rows(model)))
    at = lambda i: jax.tree.map(lambda leaf: leaf[i], every)
    values, prior, observed = at(0)
    moved = {name: at(1 + i)[1:] for i, name in enumerate(values)}
    return _Probed((prior_families, families), values, prior, observed, moved, any(opaque))


def _opaque(site):
    plain = bool | int | float | str | np.generic | np.ndarray | np.dtype | type | jax.Array | None
    return site.distribution is None or any(not isinstance(v, plain) for v in site.distribution.parameters.values())


def _some_rows(model):
    """Rows on which arguments may depend beside the parameters: the row of `component_arguments`, and such that every
    column runs through its values in the data (or in a few drawn observations), spread evenly where they are many, and
    one on either side of them (other data may have it), each in an order of its own."""
    x = _drawn(model)[1] if model.data is None else model.data.x
    if not isinstance(x, dict):
        return x[:1]
    rng = np.random.default_rng(0)

    def column(values):
        found = np.unique(values[np.isfinite(values)])
        spread = found[np.linspace(0, len(found) - 1, PROBE_ROWS - 2).round().astype(int)]
        beyond = found[-1] - found[0] + 1
        return rng.permutation([found[0] - beyond, *spread, found[-1] + beyond])

    def rows(leaf, first):
        leaf = np.asarray(leaf)
        columns = np.asarray(leaf, float).reshape(len(leaf), -1).T
        found = np.stack(list(map(column, columns)), axis=1).reshape(-1, *leaf.shape[1:])
        return np.concatenate([first, found.astype(first.dtype)])

    return jax.tree.map(rows, dict(x), first_row(model))


def _errors(model, found):
    """site -> how far log p(params, z, x) - log q(site | the rest) is from the same with another value of the site,
    relative to 1 + |log joint|; infinite where the joint density is 0 at one of them alone, no matter where at both."""

    @jax.jit
    def program(draws, z, x):
        r = jax.nn.one_hot(z, model.num_components, dtype=jnp.result_type(float))
        here, there = ({k: leaf[i : i + NUM_POINTS] for k, leaf in draws.items()} for i in (0, NUM_POINTS))
        tries = {rule.site: {**here, rule.site: there[rule.site]} for rule in found}
        joint = jax.vmap(lambda params: model.log_joint(params, z, x))
        before, errors = joint(here), {}
        for rule in found:

            def change(params, moved, rule=rule):
                q = rule.conditional(params, r, x)
                return q.log_prob(moved[rule.site]).sum() - q.log_prob(params[rule.site]).sum()

            after = joint(tries[rule.site])
            gap = jnp.abs(after - before - jax.vmap(change)(here, tries[rule.site]))
            error = jnp.where(jnp.isfinite(before + after), gap / (1 + jnp.abs(before) + jnp.abs(after)), jnp.inf)
            errors[rule.site] = jnp.where((before == -jnp.inf) & (after == -jnp.inf), 0.0, error).max()
        return errors

    errors = program(model.prior_draws(jax.random.key(3), NUM_DRAWS), *_drawn(model))
    return {site: float(error) for site, error in errors.items()}


@functools.cache
def _drawn(model):
    """A few assignments and observations, at the first prior draw."""
    draw = jax.jit(lambda key: draw_observations(model, somewhere(model), key, CHECK_ROWS))
    return jax.tree.map(np.asarray, draw(jax.random.key(17)))


def _rule_for(model, name, probed) -> Rule | None:
    """The rule for one prior site, or None."""
    family, value = probed.families[0][name], probed.values[name]
    if family == "Categorical" and value.ndim == 1:
        return finite(model, name, next(iter(probed.prior[name].values())).shape[-1])
    if any(argument not in probed.prior[name] for argument in GIVEN.get(family, ())):
        return None
    if family == "Dirichlet" and probed.families[1]["z"] == "Categorical" and _enters(probed, name, "z", "probs"):
        return dirichlet_weights(model, name)
    found = (_rule_of(model, name, of, probed) for of in probed.observed if of != "z")
    return next((rule for rule in found if rule is not None), None)


def _rule_of(model, name, of, probed) -> Rule | None:
    """The rule for a prior site that is, or makes, an argument of the observation's site `of`; or None."""
    family, component, value = probed.families[0][name], probed.families[1][of], probed.values[name]
    shared = _shared_rule(model, name, of, probed)
    if shared is not None:
        return shared
    if value.shape[1:2] != (model.num_components,):
        return None
    if component == "MultivariateNormalFullCovariance":
        return _multivariate_rule(model, name, of, probed)
    if family == "Dirichlet" and component == "Categorical" and _enters(probed, name, of, "probs"):
        return dirichlet_items(model, name, of)
    if component == "Normal" and family == "Normal" and value.ndim == 3 and _linear(model, name, of, probed):
        return normal_coefficients(model, name, of)
    if value.shape[2:] != model.observation_shapes[of].shape:
        return None
    if component in ("Normal", "MultivariateNormalDiag"):
        return _normal_rule(model, name, of, probed)
    if family == "Gamma" and component in ("Poisson", "Exponential") and _enters(probed, name, of, "rate"):
        return gamma_rate(model, name, of, "Poisson" if component == "Poisson" else "exponential")
    if family == "Beta" and component in ("Bernoulli", "Binomial") and _enters(probed, name, of, "probs"):
        return beta_probability(model, name, of, component)
    return None


def _shared_rule(model, name, of, probed):
    """The rule of a spread that is one for all components, or None."""
    family, component = probed.families[0][name], probed.families[1][of]
    value, x = probed.values[name], probed.observed[of]
    same = lambda argument: (
        argument.shape[:1] + argument.shape[2:] == value.shape and np.allclose(argument, value[:, None], rtol=1e-5)
    )
    normal = component in ("Normal", "MultivariateNormalDiag") and scale_of(x) is not None
    if normal and family in ("InverseGamma", "Gamma") and value.shape[1:] == model.observation_shapes[of].shape:
        spread = scale_of(x) ** (2 if family == "InverseGamma" else -2)
        if same(spread) and _only(probed, name, (of, _scale(x))):
            return normal_spread(model, name, of, family, shared=True)
    if component == "MultivariateNormalFullCovariance" and family == "WishartTriL":
        if same(np.linalg.inv(x["covariance_matrix"])) and _only(probed, name, (of, "covariance_matrix")):
            return wishart_precision(model, name, of, shared=True)
    return None


def _normal_rule(model, name, of, probed):
    family, value, x = probed.families[0][name], probed.values[name], probed.observed[of]
    if scale_of(x) is None:
        return None
    sd, own = scale_of(x), (of, _scale(x))
    if _same(x, "loc", value):
        found = family == "Normal" and _enters(probed, name, of, "loc") and _same_in_rows(probed, sd)
        return normal_mean(model, name, of) if found else None
    if family in ("InverseGamma", "Gamma") and _equal(sd ** (2 if family == "InverseGamma" else -2), value):
        if _only(probed, name, own):
            return normal_spread(model, name, of, family)
        for mean in probed.values:
            if mean != name and probed.families[0][mean] == "Normal" and _same(x, "loc", probed.values[mean]):
                worth = lambda prior, observed: _ratio(observed[of][_scale(x)] ** 2, prior[mean]["scale"] ** 2)  # noqa: B023
                if _only(probed, name, own, (mean, "scale")) and _constant(probed, name, worth):
                    return normal_spread(model, name, of, family, mean)
        return None
    return normal_scale(model, name, of) if _equal(sd, value) and _only(probed, name, own) else None


def _multivariate_rule(model, name, of, probed):
    family, value, x = probed.families[0][name], probed.values[name], probed.observed[of]
    key = "covariance_matrix"
    if _same(x, "loc", value):
        normal = family in ("Normal", "MultivariateNormalDiag", "MultivariateNormalFullCovariance")
        found = normal and _enters(probed, name, of, "loc") and _same_in_rows(probed, x[key])
        return multivariate_mean(model, name, of) if found else None
    if family != "WishartTriL" or not _equal(np.linalg.inv(x[key]), value, 1e-3):
        return None
    if _only(probed, name, (of, key)):
        return wishart_precision(model, name, of)
    for mean in probed.values:
        if probed.families[0][mean] == "MultivariateNormalFullCovariance" and _same(x, "loc", probed.values[mean]):
            worth = lambda prior, observed: _ratio(observed[of][key], prior[mean][key])  # noqa: B023
            if _only(probed, name, (of, key), (mean, key)) and _constant(probed, name, worth):
                return wishart_precision(model, name, of, mean)
    return None


def _enters(probed, name, of, argument):
    """Whether site `name` is that argument of the observation's site `of`, and nothing else."""
    return _same(probed.observed[of], argument, probed.values[name]) and _only(probed, name, (of, argument))


def _same_in_rows(probed, argument):
    """Whether an argument (P, K, ...) is the same in every row of data; points are draws beside rows."""
    by_draw = argument.reshape(NUM_POINTS, -1, *argument.shape[1:])
    return bool(np.all(by_draw == by_draw[:, :1]))


def _linear(model, name, of, probed):
    """Whether the site is in the location of `of` alone, and there row k linearly in that of component k."""
    if model.observation_shapes[of].shape or not _only(probed, name, (of, "loc")):
        return False
    rows = _some_rows(model)

    def gap(params):
        loc = row_arguments(model, params, rows, of)["loc"]
        features, offset = design(model, params, rows, name, of)
        terms = features * params[name]
        return jnp.abs(loc - offset - terms.sum(-1)) / (1 + jnp.abs(loc) + jnp.abs(offset) + jnp.abs(terms).sum(-1))

    draws = model.prior_draws(jax.random.key(3), NUM_DRAWS)
    largest = jax.jit(jax.vmap(gap))({k: leaf[:NUM_POINTS] for k, leaf in draws.items()}).max()
    return bool(largest <= 64 * jnp.finfo(jnp.result_type(float)).eps)


def _scale(arguments):
    return "scale" if "scale" in arguments else "scale_diag"


def _same(arguments, name, value):
    """Whether the argument is the value: a location exactly, since a shift counts in units of the component's sd."""
    exact = name == "loc"
    return name in arguments and (np.array_equal if exact else _equal)(arguments[name], value)


def _equal(argument, value, rtol=1e-5):
    return argument.shape == value.shape and np.allclose(argument, value, rtol=rtol)


def _ratio(argument, prior):
    return argument / np.asarray(filled(prior, argument))


def _constant(probed, name, worth):
    """Whether the prior of the mean is worth the same number of observations at every draw, `name` moved or not."""
    ratios = np.concatenate([worth(probed.prior, probed.observed), worth(*probed.moved[name])])
    return bool(np.allclose(ratios, ratios[:1], rtol=1e-4))


def _only(probed, name, in_observed, in_prior=None):
    """Nothing but the argument `in_observed` (and `in_prior`), of (site, argument), moved when site `name` did."""
    prior, observed = probed.moved[name]
    for before, after, place in ((probed.prior, prior, in_prior), (probed.observed, observed, in_observed)):
        for site, arguments in before.items():
            for argument, value in arguments.items():
                if (site, argument) != place and not np.array_equal(value, after[site][argument]):
                    return False
    return True
