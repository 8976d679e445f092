"""Does a kernel leave the posterior invariant? Joint tests (after Geweke 2004, JASA 99, section 3), and ratio tests.

A forward draw (params, assignments, x) is an exact draw from the posterior given its own x. Any number of steps of a
right kernel leaves its law as it was, so functionals before and after differ by something of mean 0. Replicates are
independent: no autocorrelation enters.
"""

import functools
import importlib
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

import inference
from diagnostics.functionals import sorted_by
from inference import conjugacy, labels, loop, space, tempering
from zoo import MODELS, probe

BLOCK = 5_000  # replicates per compiled call
MOVED = 0.5  # least share of replicates in which the kernel must have changed a parameter, or the partition
STEP = 0.4  # frozen step sizes, in units of the smallest prior standard deviation in unconstrained space
SMC_STEP = 0.1  # of the sequential Monte Carlo move, in units of each prior standard deviation

# replicates and steps of a joint test where gradients make a step slow, or a lone move is seldom accepted; others: the
# defaults of `joint_test`
SIZES = {
    "nuts": (2_000, 3),
    "smc": (10_000, 3),
    "smc[move=gibbs]": (20_000, 5),
    "metropolis[moves=block]": (20_000, 50),
}

# moves beside the defaults of their back ends, each a kernel of its own
MOVES: dict[str, dict[str, dict[str, Any]]] = {
    "metropolis": {"[moves=single]": dict(moves=("single",)), "[moves=block]": dict(moves=("block",))},
    "smc": {"[move=gibbs]": dict(move="gibbs")},
}

# constants at which few observations and the prior weigh alike, so that a mistake in either shows; others: the defaults
WIDE: dict[str, dict[str, Any]] = {
    "bento": dict(scale=40.0),
    "bento_425": dict(scale=40.0),
    "bento_known": dict(scales=(100.0, 100.0)),
    "bento_full": dict(variance_scale=3000.0),
    "coffee": dict(scale=20.0),
    "coffee_full": dict(variance_scale=800.0),
    "acidity": dict(worth=1.0),
    "ais": dict(height_sd=5.0),
    "betablocker": dict(prior_deaths=20.0, prior_survivors=180.0),
    "body_fat": dict(precision_rate=0.1),
    "candy_zero_inflated": dict(rate_rate=2.0),
    "crabs": dict(prior_sd=(2.0, 1.5, 4.0, 4.5, 2.0), prior_scale=6.0),
    "directions": dict(kappa_rate=2.0),
    "faithful": dict(worth=1.0),
    "faithful_gamma": dict(shape_rate=0.2),
    "faithful_lkj_6": dict(median_scale=(4.0, 40.0)),
    "faithful_spherical": dict(variance_scale=2.0),
    "digits": dict(num_components=3, prior_inked=20.0, prior_blank=20.0),
    "galaxy_2_equal": dict(variance_scale=100.0),
    "galaxy_6": dict(rate_shape=2.0, rate_factor=2.0),
    "galaxy_dirichlet_process": dict(num_components=4, variance_scale=200.0),
    "galaxy_finite_mixtures": dict(num_components=4, rate=2.0, variance_scale=200.0),
    "galaxy_pitman_yor": dict(num_components=4, variance_scale=200.0),
    "galaxy_sparse": dict(num_components=4, concentration=1.0, variance_scale=200.0),
    "iris": dict(prior_sd=(0.5, 0.25, 1.0, 0.5), prior_scale=(1.0, 0.5, 2.0, 1.0)),
    "np_reg": dict(coefficient_sd=3.0),
    "penguins": dict(prior_sd=0.75, prior_scale=1.5),
    "scotch": dict(prior_bought=3.0, prior_not=3.0),
    "thyroid": dict(prior_sd=0.5),
    "tone": dict(coefficient_sd=0.2),
    "tone_experts": dict(gate_sd=1.0, coefficient_sd=0.1),
    "wine": dict(prior_sd=0.1),
}


# the models on which every back end is ranked too
NAMED = ("bento", "bento_425", "bento_known", "bento_full", "coffee", "coffee_full", "three_gaussians")


def wide(name: str, **constants):
    """The model `name` at the constants of WIDE, `constants` before those."""
    return MODELS.builder(name)(**{**WIDE.get(name, {}), **constants})


class JointTest(NamedTuple):
    """z per functional: mean paired difference over its standard error."""

    names: tuple[str, ...]
    z: np.ndarray
    moved: dict[str, float]  # share of replicates in which each parameter, and the partition, changed; labels aside
    num_replicates: int
    level: float  # familywise

    @property
    def threshold(self) -> float:
        """Bonferroni quantile of |z| at the familywise level."""
        return float(stats.norm.isf(self.level / 2 / len(self.z)))

    @property
    def passed(self) -> bool:
        return bool(np.all(np.abs(self.z) < self.threshold)) and not self.stuck

    @property
    def stuck(self) -> tuple[str, ...]:
        """What the kernel hardly ever changes: a kernel that does nothing leaves every law invariant."""
        return tuple(name for name, share in self.moved.items() if share < MOVED)

    @property
    def worst(self) -> tuple[str, float]:
        """The functional whose z is furthest from 0, and that z."""
        i = int(np.argmax(np.abs(self.z)))
        return self.names[i], float(self.z[i])

    def __str__(self):
        name, z = self.worst
        verdict = "passed" if self.passed else "FAILED"
        still = f"; hardly ever moved: {', '.join(self.stuck)}" if self.stuck else ""
        return f"{verdict}: largest |z| {abs(z):.2f} ({name}), allowed {self.threshold:.2f}{still}"


def joint_test(model, sampler, key, *, n=8, num_replicates=20_000, num_steps=5, level=0.01) -> JointTest:
    """Tests that `sampler` (an `inference.loop.Sampler` with adaptation off) leaves p(params, z | x) invariant.

    `num_replicates` forward draws of `n` observations, `num_steps` steps given x on each, and the paired differences
    of the functionals of `_features`. A kernel that leaves a parameter or the partition of the observations where it
    was in more than half of the replicates fails too. Choose the model's constants so that prior and likelihood weigh
    alike (`wide`).
    """
    block = min(BLOCK, num_replicates)
    program, centre = _program(model, sampler, n, num_steps), _moments(model)[0]
    found = []
    for key_block in jax.random.split(key, -(-num_replicates // block)):
        key_params, key_rest = jax.random.split(key_block)
        params = model.prior_draws(key_params, block)
        with loop.one_blas_thread():
            found.append(jax.tree.map(np.asarray, program(jax.random.split(key_rest, block), params, centre)))
    features, moved = jax.tree.map(lambda *leaves: np.concatenate(leaves)[:num_replicates], *found)
    differences = np.stack(list(features.values()), axis=1)
    spread = differences.std(axis=0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = differences.mean(axis=0) / (spread / np.sqrt(len(differences)))
    z = np.where(np.isnan(z), np.where(np.isfinite(differences).all(axis=0), 0.0, np.inf), z)
    shares = {name: float(changed.mean()) for name, changed in moved.items()}
    return JointTest(tuple(features), z, shares, num_replicates, level)


@functools.cache
def _program(model, sampler, n, num_steps):
    points, order = example(model, 2), sorted_by(model)

    def one(key, params, centre):
        key_draw, key_init, key_steps = jax.random.split(key, 3)
        assignments, x = probe.draw_observations(model, params, key_draw, n)
        state = sampler.init(key_init, params, x)
        if "assignments" in state._fields:
            state = state._replace(assignments=assignments)

        def advance(state, i):
            return sampler.step(jax.random.fold_in(key_steps, i), i, state, x)

        _, outs = jax.lax.scan(advance, state, jnp.arange(num_steps, dtype=jnp.int32))
        last = jax.tree.map(lambda leaf: leaf[-1], outs)
        features = lambda params, z: _features(model, params, z, x, centre, points, order)
        differences = jax.tree.map(
            _difference, features(last["params"], last["assignments"]), features(params, assignments)
        )
        moved = _moved(model, params, assignments, last["params"], last["assignments"])
        return differences, moved

    return jax.jit(jax.vmap(one, in_axes=(0, 0, None)))


def forget_programs():
    """Frees the compiled programs of all joint tests, and of all else, so far."""
    _program.cache_clear()
    loop.forget_programs()


def _difference(after, before):
    """after - before, 0 where that is rounding or both are the same infinity; not finite where one of them is not."""
    change = after - before
    rounded = jnp.isfinite(before) & (jnp.abs(change) <= _rounding() * (1 + jnp.abs(before)))
    return jnp.where(rounded | (after == before), 0.0, change)


def _rounding() -> float:
    return 1000 * float(jnp.finfo(jnp.result_type(float)).eps)


def _moments(model):
    """Mean and standard deviation of the unconstrained parameters under the prior, roughly: both (D,)."""
    if not model.param_shapes:
        return jnp.zeros(0), jnp.zeros(0)
    draws = model.prior_draws(jax.random.key(0), probe.NUM_DRAWS)
    u = jax.jit(jax.vmap(space.space_of(model).unconstrain))(draws)
    return u.mean(axis=0), u.std(axis=0)


def _features(model, params, assignments, x, centre, points, order) -> dict:
    """Every unconstrained parameter and its square, the atoms in ascending order, component sizes, 1{z_0 = z_1}, log
    prior, log joint, log density, and the log density at two points."""
    u = space.space_of(model).unconstrain(params)
    found = {f"u[{i}]": u[i] for i in range(len(u))}
    found |= {f"(u[{i}] - centre)^2": (u[i] - centre[i]) ** 2 for i in range(len(u))}
    for name in space.discrete(model):
        found |= {f"{name}[{i}]": value.astype(u.dtype) for i, value in enumerate(params[name].ravel())}
    if order is not None:
        atoms = {**model.derived(params), **params}[order]
        found |= {f"sorted {order}[{k}]": atom for k, atom in enumerate(jnp.sort(atoms))}
    sizes = jax.nn.one_hot(assignments, model.num_components, dtype=u.dtype).sum(0)
    found |= {f"size of component {k}": size for k, size in enumerate(sizes)}
    at_points = model.pointwise_log_likelihood(params, points)
    found |= {f"log density at point {i}": value for i, value in enumerate(at_points)}
    return found | {
        "1{z_0 = z_1}": (assignments[0] == assignments[1]).astype(u.dtype),
        "log prior": model.log_prior(params),
        "log joint": model.log_joint(params, assignments, x),
        "log density": model.log_density(params, x),
    }


@functools.cache
def example(model, n):
    """n observations from the mixture at one prior draw: always the same."""
    first = {name: leaf[0] for name, leaf in model.prior_draws(jax.random.key(0), probe.NUM_DRAWS).items()}
    _, x = jax.jit(lambda params, key: probe.draw_observations(model, params, key, n))(first, jax.random.key(1))
    return jax.tree.map(np.asarray, x)


def _moved(model, params, assignments, params_after, assignments_after) -> dict:
    """Whether each parameter changed other than by relabelling or rounding; whether the partition did."""

    def changed(before, after):
        return jnp.any(_difference(jnp.sort(after.ravel()), jnp.sort(before.ravel())) != 0)

    together = lambda z: z[:, None] == z[None, :]
    found = {name: changed(leaf, params_after[name]) for name, leaf in params.items()}
    if model.num_components > 1:
        found["partition"] = jnp.any(together(assignments) != together(assignments_after))
    return found


# -- the kernels there are ---------------------------------------------------------------------------------------------


def has_kernel(backend) -> bool:
    """Whether a back end moves by a kernel that leaves the posterior alone: Markov chains, and smc."""
    return inference.TABLE[backend][1] == "mcmc" or backend == "smc"


def kernels(model, backends=None) -> dict[str, loop.Sampler]:
    """back end -> its kernel on `model`, adaptation off: every Markov chain back end that serves it, and smc's move.

    The module of a Markov chain back end has `build(model)`; where that has `num_warmup`, it is 0, and where it has
    `step_size`, that stays at STEP times the smallest prior standard deviation in unconstrained space. The moves of
    MOVES are further kernels, "smc[move=gibbs]" for one.
    """
    found, x = {}, example(model, 8)
    for name, (module_name, *_) in inference.TABLE.items():
        wanted = has_kernel(name) and (backends is None or name in backends)
        if wanted and inference.BACKENDS[name].refuses(model, x) is None:
            for label, settings in {"": {}, **MOVES.get(name, {})}.items():
                found[name + label] = kernel(name, module_name, model, settings)
    return found


def kernel(name, module_name, model, settings) -> loop.Sampler:
    """One kernel, adaptation off."""
    if name == "smc":
        return smc_move(model, **settings)
    build = importlib.import_module(module_name).build
    return build(model, **frozen(build, model), **settings)


def frozen(build, model) -> dict:
    """Those of the settings num_warmup and step_size that `build` has: no adaptation."""
    known = inspect.signature(build).parameters
    settings = {"num_warmup": 0} if "num_warmup" in known else {}
    return settings | ({"step_size": STEP * float(_moments(model)[1].min())} if "step_size" in known else {})


@functools.cache
def smc_move(model, move="hmc") -> loop.Sampler:
    """A move of `inference.smc` at temperature 1 as a chain, with assignments drawn from the table."""
    of = space.space_of(model)
    if move == "gibbs":
        advance = tempering.gibbs_kernel(model, True)
    else:
        advance = tempering.hmc_kernel(model, True)
    sd = _moments(model)[1]

    def step(key, i, state, x):
        key_move, key_assign = jax.random.split(key)
        u = advance(key_move, state.u, 1.0, SMC_STEP, sd, x)[0]
        params = of.constrain(u)
        assignments = labels.draw_assignments(key_assign, model.log_table(params, x))
        return Moved(u), {"params": params, "assignments": assignments}

    return loop.Sampler(lambda key, params, x: Moved(of.unconstrain(params)), step)


class Moved(NamedTuple):
    """State of `smc_move`."""

    u: Any


# -- ratio tests -------------------------------------------------------------------------------------------------------


def ratio_test(model, key, *, n=8, num_points=50) -> dict[str, float]:
    """Each conjugate conditional against the joint: site -> largest |log p(a'|b)/p(a|b) - log p(a',b)/p(a,b)|.

    `a` and `a'` are two prior draws of the site, the assignments uniform over those that are possible; relative to
    1 + |log joint|. Zero to rounding for a right rule.
    """

    def error(key, params, other, rule):
        key_z, key_x = jax.random.split(key)
        _, x = probe.draw_observations(model, params, key_x, n)
        possible = jnp.isfinite(model.log_table(params, x))
        z = jax.random.categorical(key_z, jnp.where(possible, 0.0, -jnp.inf)).astype(jnp.int32)
        moved = {**params, rule.site: other[rule.site]}
        q = rule.conditional(params, jax.nn.one_hot(z, model.num_components), x)
        conditional = q.log_prob(moved[rule.site]).sum() - q.log_prob(params[rule.site]).sum()
        here, there = model.log_joint(params, z, x), model.log_joint(moved, z, x)
        impossible = jnp.isneginf(there) & jnp.isneginf(conditional)  # to both: a number too small for the assignments
        there = jnp.where(impossible, here, there)
        gap = jnp.where(impossible, 0.0, there - here - conditional)
        return jnp.abs(gap) / (1 + jnp.abs(here) + jnp.abs(there))

    key_draws, key_rest = jax.random.split(key)
    draws = model.prior_draws(key_draws, probe.NUM_DRAWS)
    params = {name: leaf[:num_points] for name, leaf in draws.items()}
    other = {name: leaf[num_points : 2 * num_points] for name, leaf in draws.items()}
    keys = jax.random.split(key_rest, num_points)
    rules = [rule for rule in conjugacy.rules(model) if rule.conditional is not None]
    each = {rule.site: jax.jit(jax.vmap(functools.partial(error, rule=rule))) for rule in rules}
    return {site: float(errors(keys, params, other).max()) for site, errors in each.items()}
