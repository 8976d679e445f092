"""The contract of a model: each identity a function (model) -> Finding. Tests run them all; so does a stranger's check.

Random points are prior draws with simulated data; densities are compared in whatever precision JAX runs.
"""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from genjax import ChoiceMap
from jax.scipy.special import logsumexp
from numpyro import handlers
from numpyro.infer.util import log_density

from inference import space
from zoo import probe
from zoo.mixture import Mixture, permutations
from zoo.twin import NO_TWIN

NUM_POINTS = 50
NUM_OBSERVATIONS = 10
NUM_ENUMERATED = 4  # K**4 assignments
MAX_ENUMERATED = 5  # components: 5! = 120 labellings


class Finding(NamedTuple):
    """Whether one identity holds, and in a sentence what was found."""

    holds: bool
    detail: str


def check(model: Mixture) -> dict[str, Finding]:
    """Every identity of `IDENTITIES` on one model; one that raises is a finding that does not hold."""
    found = {}
    for name, identity in IDENTITIES.items():
        try:
            found[name] = identity(model)
        except Exception as error:  # the model is a stranger's: its error is the finding
            found[name] = Finding(False, f"{type(error).__name__}: {error}")
    return found


def assignment_has_k_values(model: Mixture) -> Finding:
    """z is a categorical of K values, or a flip where K = 2; probabilities were not handed over as logits."""
    shape = model.observation_shapes["z"]
    if jnp.issubdtype(shape.dtype, jnp.floating):
        return Finding(False, f"z has dtype {shape.dtype}; it should be a whole number from 0, or a flip")
    values = 2 if shape.dtype == bool else shape.num_categories
    if values is not None and values != model.num_components:
        return Finding(False, f"z has {values} values but num_components is {model.num_components}")
    logits = _assignment_logits(model)
    if logits is not None and np.all((logits >= 0) & (logits <= 1)) and np.allclose(logits.sum(-1), 1, atol=1e-4):
        return Finding(
            False, "z has logits that sum to 1: a bare categorical(p) means logits; write categorical(probs=p)"
        )
    return Finding(True, f"z has {values or 'as many'} values" + ("" if values else " as its distribution gives it"))


def _assignment_logits(model):
    """(P, K) the logits that z was declared with at the random points, or None where it has probabilities."""
    params, x = _points(model)

    def logits(p, x):
        observed = x if isinstance(x, dict) else {"x": x}
        covariates = observed.get("covariates")
        row = {name: leaf[0] for name, leaf in observed.items() if name != "covariates"}
        first = None if covariates is None else jax.tree.map(lambda leaf: leaf[0], covariates)
        found = model.observation_sites(p, 0, row, first)["z"].parameters
        return found.get("logits", jnp.zeros(0)) if found.get("probs") is None else jnp.zeros(0)

    found = np.asarray(_each(logits)(params, x))
    return found if found.size else None


def densities_are_finite(model: Mixture) -> Finding:
    """No NaN and no +inf in the table; every simulated observation has a finite density in some component."""
    params, x = _points(model)
    table = np.asarray(_each(model.log_table)(params, x))
    bad = np.isnan(table) | (table == np.inf)
    if bad.any():
        first = np.argwhere(bad)[0][0]
        where_bad = lambda tree: jax.tree.map(lambda leaf: np.asarray(leaf)[first], tree)
        where = {name: leaf.tolist() for name, leaf in where_bad(params).items()}
        wrong = space.wrong_argument(model, where_bad(params), where_bad(x))
        return Finding(False, f"the table is {table[bad][0]} at params {where}{'; ' + wrong if wrong else ''}")
    lost = np.isneginf(table).all(axis=-1).sum()
    return Finding(not lost, f"{lost} of {table[..., 0].size} simulated observations have density 0 in every component")


def own_data_are_served(model: Mixture) -> Finding:
    """The model's data pass its own check and have a finite density at some prior draw."""
    if model.data is None:
        return Finding(True, "no data of its own; give --data")
    x = model.check(model.data.x)
    density = np.asarray(_each(lambda p, _: model.log_density(p, x))(*_points(model)))
    return Finding(
        bool(np.isfinite(density).any()), f"finite density at {np.isfinite(density).sum()} of {NUM_POINTS} draws"
    )


def twin_equals_table(model: Mixture) -> Finding:
    """|twin - table| <= 1e-10 (1 + |log density|) at 50 random points."""
    if model.twin is None:
        why = model.lacks_twin
        return Finding(why is None or why.startswith(NO_TWIN), why or "as derived: there is no hand-written one")
    params, x = _points(model)
    missing = [name for name in model.param_shapes if name not in _twin_sites(model, _few(x, 2))]
    if missing:
        return Finding(False, f"the twin has no site {', '.join(missing)}")
    ours = _each(model.log_density)(params, x)
    twin = _each(lambda p, x: log_density(model.twin, (x,), {}, p)[0])(params, x)
    found = _close(twin, ours, "log density of the twin and of the table")
    return found if found.holds else found._replace(detail=f"{found.detail}; {_where_twins_differ(model, params, x)}")


def _twin_sites(model, x) -> set[str]:
    found = set()

    def look():
        trace = handlers.trace(handlers.seed(model.twin, rng_seed=0)).get_trace(x)
        found.update(name for name, site in trace.items() if site["type"] == "sample")

    jax.eval_shape(look)
    return found


def _where_twins_differ(model, params, x) -> str:
    """The prior's sites whose density in the twin is another than declared; else the likelihood."""

    def twins(p, x):
        with handlers.seed(rng_seed=0), handlers.substitute(data=p):
            trace = handlers.trace(model.twin).get_trace(x)
        return {name: trace[name]["fn"].log_prob(trace[name]["value"]).sum() for name in p}

    theirs = _each(twins)(params, x)
    ours = _each(lambda p, x: {name: site.score.sum() for name, site in model.prior_sites(p).items()})(params, x)
    wrong = [name for name in ours if not _close(theirs[name], ours[name], "").holds]
    return f"they differ in the prior of {', '.join(wrong)}" if wrong else "the priors agree: they differ in x"


def twin_gradient_equals_tables(model: Mixture) -> Finding:
    """The gradients agree too, in unconstrained space, to 1e-8 (1 + |gradient|)."""
    if model.twin is None or not model.param_shapes:
        return Finding(True, "no twin, or no unknown parameter")
    of = space.space_of(model)
    params, x = _points(model)
    gradient = lambda density: _each(
        lambda p, x: jax.grad(lambda u: density({**p, **of.constrain(u)}, x))(of.unconstrain(p))
    )
    ours = gradient(model.log_density)(params, x)
    twin = gradient(lambda p, x: log_density(model.twin, (x,), {}, p)[0])(params, x)
    return _close(twin, ours, "gradient of the twin and of the table", relative=1e-8)


def halves_sum_to_the_table(model: Mixture) -> Finding:
    """log_weights_table + log_components == log_table."""
    params, x = _points(model)
    halves = _each(lambda p, x: model.log_weights_table(p, x) + model.log_components(p, x))(params, x)
    return _close(halves, _each(model.log_table)(params, x), "sum of the two halves and the table")


def table_equals_enumeration(model: Mixture) -> Finding:
    """Summing GenJAX's own joint density over all K**4 assignments of 4 observations gives prior + likelihood."""
    every_params, every_x = _points(model)
    params, x = {name: leaf[0] for name, leaf in every_params.items()}, _few(every_x, NUM_ENUMERATED)
    every = jnp.asarray(list(itertools.product(range(model.num_components), repeat=NUM_ENUMERATED)), jnp.int32)
    joint = model.joint(NUM_ENUMERATED)

    def log_joint(z):
        observed = x if isinstance(x, dict) else {"x": x}
        sites = {"z": z.astype(model.assignment_dtype), **observed}
        choices = {tuple(name.split(".")): value for name, value in params.items()}
        choices |= {("obs", *name.split(".")): value for name, value in sites.items()}
        return joint.assess(ChoiceMap.d(choices), ())[0]

    summed = logsumexp(jax.jit(jax.vmap(log_joint))(every))
    return _close(summed, jax.jit(model.log_density)(params, x), "enumerated joint and summed-out table")


def relabelling_permutes_columns(model: Mixture) -> Finding:
    """log_components(permute(params, s))[:, s(k)] == log_components(params)[:, k] for the s of `_labellings`."""
    if not model.relabels:
        said = "a permute of its own" if model.own_permute else model.component_params
        fault = f"declared {said}, yet that relabels nothing or changes volumes, and is not used"
        return Finding(not said, fault if said else "no relabelling")
    params, x = _points(model)
    every = jnp.asarray(_labellings(model.num_components))

    def gaps(p, x):
        here = model.log_components(p, x)
        return jax.vmap(lambda s: model.log_components(model.permute(p, s), x)[:, s] - here)(every)

    moved = _each(gaps)(params, x)
    return _close(moved, jnp.zeros_like(moved), "columns before and after permuting")


def exchangeable_as_declared(model: Mixture) -> Finding:
    """Permuting the components changes the joint density exactly when the model is declared not exchangeable."""
    if not model.relabels:
        holds = not model.exchangeable or model.num_components == 1 or not model.param_shapes
        return Finding(holds, "the model has no relabelling, so it cannot be declared exchangeable")
    params, x = _points(model)
    every = jnp.asarray(_labellings(model.num_components))
    densities = _each(lambda p, x: jax.vmap(lambda s: model.log_density(model.permute(p, s), x))(every))(params, x)
    same = _close(densities, jnp.broadcast_to(densities[:, :1], densities.shape), "").holds
    said = "exchangeable" if model.exchangeable else "not exchangeable"
    return Finding(
        same == model.exchangeable, f"declared {said}; permuting {'kept' if same else 'changed'} the density"
    )


def simulation_is_finite(model: Mixture) -> Finding:
    """A forward draw has a finite joint density and passes the model's own `check`."""

    def draw(key):
        params, z, x = model.simulate(key, NUM_OBSERVATIONS)
        return z, x, model.log_joint(params, z, x)

    z, x, log_joint = _one_by_one(draw)(jax.random.split(jax.random.key(2), 20))
    finite = np.isfinite(log_joint)
    model.check(jax.tree.map(lambda leaf: np.asarray(leaf[0]), x))
    inside = bool(jnp.all((z >= 0) & (z < model.num_components)))
    return Finding(
        bool(finite.all()) and inside, f"{finite.sum()} of {finite.size} forward draws have a finite density"
    )


def responsibilities_sum_to_one(model: Mixture) -> Finding:
    """Rows of p(z_n = k | x_n, params) sum to 1."""
    params, x = _points(model)
    total = _each(model.responsibilities)(params, x).sum(-1)
    return _close(total, jnp.ones_like(total), "row sums of the responsibilities and 1")


def declared_leaves_are_probed(model: Mixture) -> Finding:
    """A declared `component_params` is what probing finds."""
    if model.component_params is None:
        return Finding(True, "probed, not declared")
    found = probe.component_leaves(model)
    return Finding(set(found) == set(model.component_params), f"declared {model.component_params}, probed {found}")


def bad_data_is_refused(model: Mixture) -> Finding:
    """`check` refuses NaN, infinities, no rows, a wrong number of axes and text, each with a ValueError."""
    x = _few(_points(model)[1], 3)
    if isinstance(x, dict):
        name = next(k for k in x if k != "covariates")
        wrap = lambda leaf: {**jax.tree.map(np.asarray, x), name: leaf}
        good = np.asarray(x[name], float)
    else:
        wrap = lambda leaf: leaf
        good = np.asarray(x, float)
    holed, endless = good.copy(), good.copy()
    holed[1], endless[1] = np.nan, np.inf
    bad = {
        "NaN": holed,
        "infinity": endless,
        "no rows": good[:0],
        "one axis too many": good[..., None],
        "text": np.full(good.shape, "a"),
    }
    accepted = [what for what, leaf in bad.items() if not _refused(model, wrap(leaf))]
    return Finding(not accepted, f"accepted without a word: {', '.join(accepted)}" if accepted else "all refused")


IDENTITIES: dict[str, Callable[[Mixture], Finding]] = {
    f.__name__: f
    for f in (
        assignment_has_k_values,
        densities_are_finite,
        own_data_are_served,
        twin_equals_table,
        twin_gradient_equals_tables,
        halves_sum_to_the_table,
        table_equals_enumeration,
        relabelling_permutes_columns,
        exchangeable_as_declared,
        simulation_is_finite,
        responsibilities_sum_to_one,
        declared_leaves_are_probed,
        bad_data_is_refused,
    )
}


def _labellings(num_components: int) -> np.ndarray:
    """Permutations (P, K), the identity first: all K! up to K = 5, else a cycle, every transposition and 20 others."""
    if num_components <= MAX_ENUMERATED:
        return permutations(num_components)
    every = [np.arange(num_components), np.roll(np.arange(num_components), 1)]
    for i, j in itertools.combinations(range(num_components), 2):
        swapped = np.arange(num_components)
        swapped[[i, j]] = j, i
        every.append(swapped)
    rng = np.random.default_rng(0)
    return np.array(every + [rng.permutation(num_components) for _ in range(20)], dtype=np.int32)


@functools.cache
def _points(model):
    """NUM_POINTS prior draws, and NUM_OBSERVATIONS observations simulated at each."""
    params = {name: leaf[:NUM_POINTS] for name, leaf in model.prior_draws(jax.random.key(0), probe.NUM_DRAWS).items()}
    draw = _one_by_one(lambda at: probe.draw_observations(model, *at, NUM_OBSERVATIONS)[1])
    return params, draw((params, jax.random.split(jax.random.key(1), NUM_POINTS)))


def _one_by_one(draw):
    """`draw` over the leading axis, compiled: gamma and count samplers compile twice as fast as under vmap."""
    return jax.jit(lambda rows: jax.lax.map(draw, rows))


def _few(x, n):
    """The first n observations at the first point."""
    return jax.tree.map(lambda leaf: leaf[0][:n], x)


def _each(function):
    """`function(params, x)` at every point, compiled."""
    return jax.jit(jax.vmap(function))


def _refused(model, x) -> bool:
    try:
        model.check(x)
    except ValueError:
        return True
    return False


def _close(found, expected, what, relative=1e-10) -> Finding:
    """|found - expected| <= relative (1 + |expected|), entry by entry; both infinite alike counts as equal."""
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    if jnp.result_type(float) == jnp.float32:
        relative = max(relative, 1e-4)
    with np.errstate(invalid="ignore"):
        gap = np.where(found == expected, 0.0, np.abs(found - expected) / (1 + np.abs(expected)))
    worst = float(np.max(np.where(np.isnan(gap), np.inf, gap), initial=0.0))
    return Finding(worst <= relative, f"{what} differ by at most {worst:.1e} relative to 1 + their size")
