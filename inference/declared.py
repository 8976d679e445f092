"""What a model's declaration is, found by looking at its sites in float64: for the exact back ends.

`look_at` gives the numbers at arbitrary points, `declared` the closed form that they allow or the sentence why not.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import enable_x64
from scipy import stats

NUM_PROBES, PROBE_ROWS = 8, 4


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
    prior = {name: (model.prior_families[name], arguments) for name, arguments in found.pop("prior").items()}
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


def arbitrary_points(model, num_points=NUM_PROBES):
    """params, assignments, x to look at: any values in the supports (to draw gammas takes seconds to compile)."""
    rng = np.random.default_rng(3)
    shapes = model.param_shapes
    params = {name: rng.standard_normal((num_points, *leaf.shape)) for name, leaf in shapes.items()}
    for name, family in model.prior_families.items():
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
        np.array([log_joint_of_form(form, *_nth(drawn, r)) for r in range(NUM_PROBES)]),
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


def log_joint_of_form(form, params, z, x):
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
