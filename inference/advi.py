"""Automatic differentiation variational inference: a Normal in unconstrained space, by NumPyro's SVI on the twin.

q(u) = Normal(m, F F^T) over u in R^D with params = constrain(u), assignments summed out, where F is any matrix
("full_rank", NumPyro's AutoMultivariateNormal) or diagonal ("mean_field", AutoDiagonalNormal: the family of
AutoNormal). Stochastic gradients climb (Kucukelbir, Tran, Ranganath, Gelman & Blei 2017)

    ELBO = E log p(constrain(u), x) + log |d constrain / d u| - log q(u).

NumPyro sees standardised coordinates v, u = centre + root v, with centre where a restart begins and root root^T the
inverse of the curvature there (of its diagonal for "mean_field", which keeps that family what it is): one step size
then suits every parameter, whatever its units. No direction is taken for wider than the prior is: away from an optimum
the density can be all but straight (in the log scale of an empty component), and an inverse curvature far beyond the
prior would start q where the density overflows.
"""

import functools
import time
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.infer import SVI, Trace_ELBO, init_to_value
from numpyro.infer.autoguide import AutoDiagonalNormal, AutoMultivariateNormal
from numpyro.infer.util import log_density

from inference import em, labels, loop, optimum, space
from inference.cavi import CELLS, approximation
from inference.importance import pareto_k
from inference.results import Cost, Draws
from zoo.mixture import num_observations
from zoo.probe import NUM_DRAWS

GUIDES = {"full_rank": AutoMultivariateNormal, "mean_field": AutoDiagonalNormal}
NUM_BLOCKS = 10  # of steps: progress is reported, and convergence judged, by blocks
LAST_STEP = 0.01  # of the first step size: what the last one has come down to
MODES = 32  # restarts of EM among whose distinct optima the restarts begin
DISTINCT = 1e-4  # of 1 + |log density|: optima closer than this are one
QUARTILES = 1.349  # sd of a Normal between its quartiles
AT_ONCE = 2**24  # table cells of the restarts that step together; above it one restart after another
STILL = 0.05  # nats: a rise of the ELBO between the last two blocks that is not called unfinished


def refuses(model, x) -> str | None:
    """The sentence why ADVI cannot serve the model, or None."""
    if not model.param_shapes:
        return "no unknown parameter"
    if space.discrete(model):
        return f"{', '.join(space.discrete(model))} is discrete; a Normal approximates continuous parameters"
    return model.lacks_twin


def advi(
    model,
    x,
    key,
    *,
    guide: Literal["full_rank", "mean_field"] = "full_rank",
    num_chains=4,
    num_draws=1000,
    num_restarts=4,
    num_steps=2000,
    num_particles=16,
    learning_rate=0.05,
    permute=True,
    progress=None,
) -> Draws:
    """Independent draws from the fitted Normal of the highest ELBO among the restarts, assignments from the table.

    Restarts begin at the distinct admissible optima that `em` finds for the MAP, best first, then at prior draws
    chosen by their likelihood. Each takes `num_steps` steps (rounded up to a multiple of ten) of Adam, with
    `num_particles` draws of q a step and a step size that falls geometrically from `learning_rate` to a hundredth of
    it, in units of the curvature's standard deviations; then it stops. A warning says where the ELBO still rose.

    `stats["elbo"]` is the average over the draws of log p(params, x) + log |d params / d u| - log q(u), with the
    model's declared density; a lower bound of the log evidence from one labelling, to which no log K! is added
    (`log_evidence` is None). `stats["pareto_k"]` as in `cavi`. An exchangeable model's draws are permuted uniformly,
    each on its own; `permute=False` leaves them where q has them.
    """
    moves = labels.moves(model, permute) and model.exchangeable
    x = jax.tree.map(jnp.asarray, x)
    key_start, key_fit, key_draws = jax.random.split(key, 3)
    params, cost = _starts(model, x, key_start, num_restarts)
    fitting = _fitting(model, guide, num_particles, float(learning_rate), -(-num_steps // NUM_BLOCKS))
    fits, losses, spent = _fit(fitting, params, x, jax.random.split(key_fit, num_restarts), progress)
    cost += spent

    block = max(1, min(num_chains * num_draws, CELLS // (num_observations(x) * model.num_components)))
    best: tuple = (-np.inf, None, None)
    for restart in range(num_restarts):
        one = jax.tree.map(lambda leaf: leaf[restart], fits)  # noqa: B023
        args = (jax.random.fold_in(key_draws, restart), *one, x)
        program, seconds, size = loop.compiled(fitting.draws(num_chains, num_draws, moves, block), *args)
        started = time.perf_counter()
        drawn = jax.tree.map(np.asarray, program(*args))
        cost += Cost(seconds, time.perf_counter() - started, num_chains * num_draws, 0, size)
        elbo = float(drawn[2]["log_weight"].mean())
        if elbo > best[0]:
            best = (elbo, drawn, losses[restart])
    if best[1] is None:
        raise ValueError("the ELBO is not finite after any restart; standardise x, or lower learning_rate")
    elbo, (params, assignments, stats), loss = best
    weights, shape = stats["log_weight"].ravel(), stats["lp"].shape
    k = pareto_k(weights)
    error = float(weights.std() / np.sqrt(weights.size))
    said = approximation(f"{guide.replace('_', ' ')} Normal in unconstrained space", elbo, k, error)
    interrupted = len(loss) < NUM_BLOCKS
    if interrupted:
        said = (f"interrupted: only {len(loss)} of {NUM_BLOCKS} parts of the steps were taken", *said)
    return Draws(
        params=params,
        assignments=assignments,
        cost=cost,
        stats={"lp": stats["lp"], "elbo": np.full(shape, elbo), "pareto_k": np.full(shape, 0.0 if k is None else k)},
        warnings=said + _unfinished(loss),
        interrupted=interrupted,
    )


def _unfinished(loss) -> tuple[str, ...]:
    """`loss`: (blocks, steps), minus the ELBO by few draws each; NaN where the step was not taken."""
    missed = int(np.isnan(loss).sum())
    said: tuple[str, ...] = ()
    if missed:
        said = (
            f"{missed} of {loss.size} steps were not taken, because the density or its gradient is not finite at some "
            "draw of q: do not trust this result where that is more than a few",
        )
    if len(loss) < 2:
        return said
    before, after = (block[~np.isnan(block)] for block in loss[-2:])
    if not len(before) or not len(after):
        return said
    rise = before.mean() - after.mean()
    error = np.sqrt(before.var() / len(before) + after.var() / len(after))
    if rise > max(STILL, 5 * error):
        said += (f"the ELBO still rose by {rise:.2g} in the last tenth of the steps: raise num_steps",)
    return said


def _starts(model, x, key, num_restarts):
    """Parameters (R, ...), and what finding them took."""
    key_em, key_prior = jax.random.split(key)
    points = em.complete(model, x, key_em, MODES)
    chosen: list[int] = []
    for i in np.flatnonzero(points.admissible):
        value = points.log_density[i]
        if all(abs(value - points.log_density[j]) > DISTINCT * (1 + abs(value)) for j in chosen):
            chosen.append(int(i))
    chosen = chosen[:num_restarts]
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf[np.array(chosen, int)]), points.params)
    began = time.perf_counter()
    if len(chosen) < num_restarts:
        others = space.starts(model, key_prior, x, num_restarts - len(chosen))
        params = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), params, others)
    return params, points.cost + Cost(time.perf_counter() - began)


def _fit(fitting, params, x, keys, progress):
    """Guide parameters, centre and root of every restart, leaves (R, ...); losses (R, blocks, steps), after Ctrl-C of
    the blocks that had ended; the cost."""
    cost, losses = Cost(), []

    def call(function, *args):
        nonlocal cost
        program, seconds, size = loop.compiled(function, *args)
        started = time.perf_counter()
        out = jax.block_until_ready(program(*args))
        cost += Cost(seconds, time.perf_counter() - started, 0, 0, size)
        return out

    centre, root = call(fitting.standardise, params, fitting.prior_spread, x)
    fitting.trace(centre[0], root[0], x)
    state = call(fitting.init, keys, centre, root, x)
    try:
        for i in range(NUM_BLOCKS):
            state, loss = call(fitting.block, state, centre, root, x)
            losses.append(np.asarray(loss))
            if progress is not None:
                progress(i + 1, NUM_BLOCKS)
    except KeyboardInterrupt:
        if not losses:
            raise KeyboardInterrupt("interrupted before the first tenth of the steps: nothing is kept") from None
    losses = np.stack(losses, axis=1)
    fits = call(fitting.parameters, state), centre, root
    return fits, losses, cost._replace(gradient_evaluations=losses.size * fitting.num_particles)


def prior_spread(model):
    """The width of the prior along every unconstrained coordinate (D,): its quartiles, as the sd of a Normal."""
    draws = model.prior_draws(jax.random.key(3), NUM_DRAWS)
    u = jax.jit(jax.vmap(space.space_of(model).unconstrain))(draws)
    spread = jnp.diff(jnp.quantile(u, jnp.array([0.25, 0.75]), axis=0), axis=0)[0] / QUARTILES
    return jnp.where(jnp.isfinite(spread) & (spread > 0), spread, 1.0)


@functools.cache
def _fitting(model, guide, num_particles, learning_rate, steps):
    return _Fitting(model, guide, num_particles, learning_rate, steps)


class _Fitting:
    """The compiled programs of one model and setting."""

    def __init__(self, model, guide, num_particles, learning_rate, steps):
        of, self.model, self.num_particles = space.space_of(model), model, num_particles

        def standardised(centre, root, x):
            v = numpyro.sample("v", dist.ImproperUniform(constraints.real_vector, (), (of.size,)))
            u = centre + root @ v
            with numpyro.handlers.block():  # the twin's own sites are no sites of this model
                twin_density = log_density(model.numpyro_model, (x,), {}, of.constrain(u))[0]
            numpyro.factor("log_density", twin_density + of.log_det(u))

        start = init_to_value(values={"v": jnp.zeros(of.size)})
        self.guide = GUIDES[guide](standardised, init_loc_fn=start, init_scale=1.0)
        rate = lambda i: learning_rate * LAST_STEP ** (i / (NUM_BLOCKS * steps))
        svi = SVI(standardised, self.guide, numpyro.optim.Adam(rate), Trace_ELBO(num_particles))
        self.svi = svi

        def standardise(params, spread, x):
            """Where q starts: its mean, and the root of its covariance. `spread`: of the prior, (D,)."""
            centre = of.inside(params, space.AWAY)

            def energy(u):
                return -(log_density(model.numpyro_model, (x,), {}, of.constrain(u))[0] + of.log_det(u))

            curvature = optimum.hessian_of(energy, centre) * spread[:, None] * spread  # 1: as wide as the prior
            curvature = jnp.where(jnp.isfinite(curvature).all(), curvature, jnp.eye(of.size))
            if guide == "mean_field":
                curvature = jnp.diag(jnp.diagonal(curvature))
                values, vectors = jnp.diagonal(curvature), jnp.eye(of.size)
            else:
                values, vectors = jnp.linalg.eigh(curvature)
            return centre, spread[:, None] * vectors * jnp.maximum(jnp.abs(values), 1.0) ** -0.5

        def block(state, centre, root, x):
            def climb(one):
                state, centre, root = one
                step = lambda state, _: svi.stable_update(state, centre, root, x)  # NaN for a step it does not take
                return jax.lax.scan(step, state, None, length=steps)

            cells = len(centre) * num_particles * num_observations(x) * model.num_components
            every = state, centre, root
            return jax.vmap(climb)(every) if cells <= AT_ONCE else jax.lax.map(climb, every)

        self.standardise = jax.jit(jax.vmap(standardise, in_axes=(0, None, None)))
        self.prior_spread = prior_spread(model)
        self.init = jax.jit(jax.vmap(svi.init, in_axes=(0, 0, 0, None)))
        self.block = jax.jit(block)
        self.parameters = jax.jit(jax.vmap(svi.get_params))
        self.space = of
        self.draws = functools.cache(self._draws)

    def trace(self, centre, root, x):
        """NumPyro's guide reads its model once, at values that are no tracers."""
        if self.guide.prototype_trace is None:
            self.svi.init(jax.random.key(0), centre, root, x)

    def _draws(self, num_chains, num_draws, moves, block):
        model, of, num = self.model, self.space, num_chains * num_draws

        def program(key, params, centre, root, x):
            key_v, key_rest = jax.random.split(key)
            q = self.guide.get_posterior(params)
            v = q.sample(key_v, (num,))
            log_q = q.log_prob(v).reshape(num, -1).sum(1) - jnp.linalg.slogdet(root)[1]

            def one(drawn):
                key, u, log_q = drawn
                key_assign, key_labels = jax.random.split(key)
                params = of.constrain(u)
                if moves:
                    params = model.permute(params, labels.redraw(model, key_labels, None, None))
                table = model.log_table(params, x)
                lp = model.log_prior(params) + jax.nn.logsumexp(table, axis=1).sum()
                stats = {"lp": lp, "log_weight": lp + of.log_det(u) - log_q}
                return params, labels.draw_assignments(key_assign, table), stats

            rest = jax.random.split(key_rest, num)
            out = jax.lax.map(one, (rest, centre + v @ root.T, log_q), batch_size=block)
            return jax.tree.map(lambda leaf: leaf.reshape((num_chains, num_draws) + leaf.shape[1:]), out)

        return jax.jit(program)
