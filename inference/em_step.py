"""The compiled climb of expectation-maximisation: every restart, step after step, until it has converged.

One step takes the responsibilities at the current parameters, then maximises

    Q(params) = sum_nk r_nk log p(z_n = k, x_n | params)  [+ log p(params) for MAP]

one site after another: in closed form where `inference.conjugacy` has the mode, by a damped Newton step in
unconstrained space elsewhere. Neither can lower Q, so the log density cannot fall (Dempster, Laird & Rubin 1977;
Meng & Rubin 1993 for one site at a time; Lange 1995 for one Newton step); the loop checks that it does not.

The table that gives the responsibilities gives the log density too, so a step takes no gradient. The gradient alone
decides that a point is stationary; it is taken when the last change of the parameters says that it is worth it
(`Restart.enough`).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from inference import conditionals, conjugacy, space
from zoo.mixture import num_observations

COLLAPSED = 1e-8  # of the data's standard deviation: on its way to zero, stopped before it overflows
CLOSED_STARTS, NEWTON_STARTS = 2, 10  # M-steps at a start's own responsibilities: two if all closed, else more
STEPS = tuple(4.0**-i for i in range(9))  # fractions of a Newton step that are tried, the largest first; and none
PATIENCE = 30  # steps without a gradient, or half of all so far, after which it is taken whatever the parameters do
COOLING = 100  # E-steps in which annealing raises the inverse temperature to 1
KEPT = 0.01  # share of each point that annealing leaves with its start's cluster: components that merged must part
FARTHER = 4.0  # by what SQUAREM's longest extrapolation, 1 at first, grows when it is used, and shrinks when refused


class Cycle(NamedTuple):
    """Where SQUAREM stands: three M-steps make a cycle, at u0, at u1 = F(u0), and at the extrapolated point."""

    phase: Any  # 0, 1 or 2: at which of the three
    u: Any  # unconstrained coordinates of the parameters evaluated next
    first: Any  # u0
    change: Any  # u1 - u0
    plain: Any  # F(u1), gone to where the extrapolation is refused: parameters ...
    plain_u: Any  # ... and coordinates
    longest: Any  # longest extrapolation allowed


class Restart(NamedTuple):
    """One restart: the parameters evaluated next, and the last ones that were accepted."""

    params: Any
    at: Any
    log_density: Any  # of `at`
    gradient_norm: Any  # of `at` when it was last taken: infinite before, and where it is not finite
    smallest: Any  # least scale just met, constants left out, in units of the data's standard deviation
    fewest: Any  # observations that the lightest component just met expects, N times its weight
    step: Any  # M-steps taken, refused extrapolations included
    num_steps: Any  # of these, up to `at`
    converged: Any
    stopped: Any  # no finite log density, a weight of 0 or a scale of 0 lies ahead
    fallen: Any  # largest decrease of the log density beyond rounding
    rounding: Any  # error unit of the log density
    change: Any  # largest change of a parameter by the M-step from `at`
    enough: Any  # change at which the gradient is due: the two fall in proportion, so each gradient predicts the next
    waited: Any  # steps since the last gradient
    gradients: Any  # gradients taken
    cycle: Any  # Cycle, or None where there is no acceleration


class Built(NamedTuple):
    """The program of one model, and what one step of it costs beside its table."""

    program: Any
    num_components: int
    tables: int
    gradients: int


@functools.cache
def build(model, prior: bool, accelerate: bool, anneal: bool) -> Built:
    """The jitted program that advances every restart, and the passes over the data that one M-step takes.

    `accelerate`: SQUAREM (Varadhan & Roland 2008, Scandinavian Journal of Statistics 35, scheme S3) in unconstrained
    space: from u0, u1 = F(u0), u2 = F(u1) to u0 + 2 a (u1 - u0) + a^2 (u2 - 2 u1 + u0), with
    a = |u1 - u0| / |u2 - 2 u1 + u0|, which is u2 at a = 1; refused, for u2, where the log density there is below that
    of u1 or not finite. `anneal`: responsibilities proportional to p(z_n = k, x_n | params)^beta (Ueda & Nakano 1998,
    Neural Networks 11), beta rising geometrically to 1 in the first `COOLING` steps. Hot components merge; what a
    start's clusters keep lets them part again as beta rises.
    """
    of = space.space_of(model)
    m_step, num_starts, newton_tables, newton_gradients = _m_step(model, prior, of)

    def e_step(params, x, beta):
        """Log density and responsibilities, from one table."""
        table = model.log_table(params, x)
        highest = table.max(axis=1, keepdims=True)
        share = jnp.exp(table - highest)
        total = share.sum(axis=1, keepdims=True)
        value = (highest + jnp.log(total)).sum() + (model.log_prior(params) if prior else 0.0)
        return value, jax.nn.softmax(beta * table, axis=1) if anneal else share / total

    def judge(s, free, x, known, settings):
        """The gradient at `at`: is the restart at a stationary point, and if not, at which change should it be?"""

        def log_density(u):
            declared = of.constrain(u)
            each = model.pointwise_log_likelihood(declared, x)
            log_prior = model.log_prior(declared) if prior else jnp.zeros(())
            return each.sum() + log_prior, jnp.abs(each).sum() + jnp.abs(log_prior)

        gradient, size = jax.grad(log_density, has_aux=True)(of.inside(s.at))
        norm = jnp.nan_to_num(jnp.abs(gradient).max() / known.num, nan=jnp.inf)
        return s._replace(
            gradient_norm=norm,
            rounding=jnp.nan_to_num(rounding(size, known.size), nan=jnp.inf),
            converged=free & (norm < settings.tolerance),
            enough=jnp.where(jnp.isfinite(norm) & (norm > 0), 0.9 * s.change * settings.tolerance / norm, 0.0),
            waited=jnp.zeros_like(s.waited),
            gradients=s.gradients + 1,
        )

    def smallest_scale(params, first, x, sd):
        """Least of the `scales` over the data's, scales that never moved from the start left out."""
        scale = scales(model, params)
        if scale is None:
            return jnp.asarray(jnp.inf)
        never_moved = jnp.abs(scale - first) <= 1e-6 * first
        return jnp.nan_to_num(jnp.where(never_moved, jnp.inf, scale / sd).min(), nan=0.0, posinf=jnp.inf)

    def fewest_expected(params, x, num):
        if isinstance(x, dict) and "covariates" in x:
            return jnp.asarray(jnp.inf)  # weights may differ between observations
        return jnp.nan_to_num(model.weights(params, x).min() * num, nan=0.0)

    def one_step(s, start, first, x, known, settings):
        """The restart after one more evaluation, and whether its gradient is due."""
        starting = start.from_data & (s.step < num_starts)
        began = jnp.where(start.from_data, num_starts, 0)
        free = s.step >= began + (COOLING if anneal else 0)  # on the climb that must not fall
        beta = settings.annealing ** jnp.maximum(1 - (s.step - began) / COOLING, 0) if anneal else 1.0
        value, r = e_step(s.params, x, beta)
        smallest = smallest_scale(s.params, first, x, known.sd)
        fewest = fewest_expected(s.params, x, known.num)
        finite = jnp.isfinite(value)  # and then so is r
        lost = (smallest < COLLAPSED) | (~starting & (~finite | (fewest == 0)))
        refused = jnp.bool_(False)
        if accelerate:
            refused = (s.cycle.phase == 2) & (lost | ~finite | (value < s.log_density - s.rounding))
        stopped, keep = lost & ~refused, finite & ~lost & ~refused
        climbs = keep & free & (s.step > began + (COOLING if anneal else 0))
        fall = jnp.where(climbs, s.log_density - value - 100 * s.rounding, 0.0)
        labels = jax.nn.one_hot(start.labels, model.num_components, dtype=r.dtype)
        r = jnp.where(starting, (1 - start.evenly) * labels + start.evenly / model.num_components, r)
        if anneal:
            r = jnp.where(free | starting, r, (1 - KEPT) * r + KEPT * labels)
        moved = m_step(s.params, r, x, known.size)
        change = jnp.stack([jnp.abs(moved[name] - s.params[name]).max() for name in moved]).max()
        following, cycle = squarem(s, moved, free, refused) if accelerate else (moved, None)
        pick = lambda yes, no: jax.tree.map(lambda a, b: jnp.where(keep, a, b), yes, no)
        after = Restart(
            params=following,
            at=pick(s.params, s.at),
            log_density=pick(value, s.log_density),
            gradient_norm=s.gradient_norm,
            smallest=jnp.where(refused, s.smallest, smallest),
            fewest=jnp.where(refused, s.fewest, fewest),
            step=s.step + ~stopped,
            num_steps=pick(s.step, s.num_steps),
            converged=s.converged,
            stopped=stopped,
            fallen=jnp.maximum(s.fallen, fall),
            rounding=s.rounding,
            change=pick(change, s.change),
            enough=s.enough,
            waited=s.waited + 1,
            gradients=s.gradients,
            cycle=cycle,
        )
        return after, keep & free & ((change <= s.enough) | (s.waited >= jnp.maximum(PATIENCE, s.step // 2)))

    def squarem(s, moved, free, refused):
        """What is evaluated next, and the cycle there, after the M-step to `moved`."""
        c, ahead = s.cycle, of.inside(moved)
        change = ahead - c.u
        bend = change - c.change  # in phase 1, u2 - 2 u1 + u0
        tried, length = extrapolated(c.first, c.change, bend, c.longest)
        jumps = free & (c.phase == 1) & (length > 1) & jnp.isfinite(tried).all()
        either = lambda mask, yes, no: jax.tree.map(lambda a, b: jnp.where(mask, a, b), yes, no)
        plainly = either(refused, (c.plain, c.plain_u), (moved, ahead))
        there = {name: leaf.astype(moved[name].dtype) for name, leaf in of.constrain(tried).items()}
        params, u = either(jumps, (there, tried), plainly)
        farther = jnp.where(free & (c.phase == 1) & (length == c.longest), FARTHER * c.longest, c.longest)
        return params, Cycle(
            phase=jnp.where(jumps, 2, jnp.where(free & (c.phase == 0), 1, 0)),
            u=u,
            first=jnp.where(c.phase == 0, c.u, c.first),
            change=jnp.where(c.phase == 0, change, c.change),
            plain=either(c.phase == 1, moved, c.plain),
            plain_u=jnp.where(c.phase == 1, ahead, c.plain_u),
            longest=jnp.where(refused, jnp.maximum(c.longest / FARTHER, 1), farther),
        )

    def program(state, start, x, stop, settings):
        """`state` after at most `stop` M-steps in all; leaves of `state` and `start` have the leading axis R."""
        known = Known(
            num=num_observations(x),
            size=sum((jnp.abs(leaf).sum() for leaf in jax.tree.leaves(x)), jnp.zeros(())),
            sd=data_scales(model, x),
        )
        first = jax.vmap(lambda params: scales(model, params))(start.params)
        running = lambda s: ~s.converged & ~s.stopped & (s.step <= stop)
        only = lambda mask, yes, no: jax.tree.map(lambda a, b: jnp.where(_like(mask, a), a, b), yes, no)

        steps = jax.vmap(one_step, in_axes=(0, 0, 0, None, None, None))

        def judged(s, due):
            began = jnp.where(start.from_data, num_starts, 0) + (COOLING if anneal else 0)
            found = jax.vmap(judge, in_axes=(0, 0, None, None, None))(s, s.num_steps >= began, x, known, settings)
            return only(due, found, s)

        def body(s):
            active = running(s)
            after, due = steps(s, start, first, x, known, settings)
            s = only(active, after, s)
            due = active & (due | ~running(s))  # the last point of every restart has its gradient taken
            # one condition for all lanes: under vmap both branches would run at every step
            return jax.lax.cond(due.any(), judged, lambda s, due: s, s, due)

        return jax.lax.while_loop(lambda s: running(s).any(), body, state)

    return Built(jax.jit(program), model.num_components, newton_tables, newton_gradients)


class Known(NamedTuple):
    """What the loop needs of the data, taken once."""

    num: Any  # N
    size: Any  # sum of |x|
    sd: Any  # of every column of x that has a scale (`data_scales`), 1 where it is 0; None without


class Start(NamedTuple):
    """Where the restarts begin, leaves (R, ...)."""

    params: Any  # prior draws
    labels: Any  # (R, N) index of the nearest centre
    from_data: Any  # (R,) bool: at those clusters, else at the prior draw
    evenly: Any  # (R,) share of each point spread evenly over the components: above 0, or a cluster may have no scale


class Settings(NamedTuple):
    tolerance: Any
    annealing: Any  # inverse temperature at the start


def first_state(model, params, accelerate: bool) -> Restart:
    """The state before the first step at `params`, leaves (R, ...)."""
    R = len(jax.tree.leaves(params)[0])
    infinite, none, no = jnp.full(R, jnp.inf), jnp.zeros(R, jnp.int32), jnp.zeros(R, bool)
    cycle = None
    if accelerate:
        u = jax.vmap(space.space_of(model).inside)(params)
        cycle = Cycle(none, u, u, jnp.zeros_like(u), params, u, jnp.ones(R))
    return Restart(
        params=params,
        at=params,
        log_density=-infinite,
        gradient_norm=infinite,
        smallest=infinite,
        fewest=infinite,
        step=none,
        num_steps=none,
        converged=no,
        stopped=no,
        fallen=jnp.zeros(R),
        rounding=infinite,
        change=infinite,
        enough=infinite,
        waited=none,
        gradients=none,
        cycle=cycle,
    )


def extrapolated(u, change, bend, longest):
    """u + 2 a change + a^2 bend and its length a = |change| / |bend|, between 1, two plain steps, and `longest`."""
    length = jnp.linalg.norm(change) / jnp.linalg.norm(bend)
    length = jnp.clip(jnp.nan_to_num(length, nan=1.0, posinf=1.0), 1.0, longest)
    return u + 2 * length * change + length**2 * bend, length


def rounding(size, magnitude):
    """Error unit of a log density whose terms add up to `size`: inside them are terms of the `magnitude` of x that
    cancel, such as x log(rate), or x - mean."""
    return jnp.finfo(jnp.result_type(float)).eps * (1 + size + magnitude)


SCALED = {"Normal": "scale", "StudentT": "scale", "LogNormal": "scale", "MultivariateNormalDiag": "scale_diag"}
FULL = "MultivariateNormalFullCovariance"


def scaled(model) -> tuple[str, ...]:
    """The sites of the observation whose components have a location and a scale."""
    sites = model.observation_shapes.items()
    return tuple(name for name, shape in sites if name != "z" and shape.family in (*SCALED, FULL))


def scales(model, params):
    """Scales of Normal, log-normal and Student-t components, those of every site side by side, (K, F); of a full
    covariance those of each coordinate given the others, which show when it becomes singular; None where no site has
    any."""
    found = []
    for of in scaled(model):
        arguments, family = conditionals.component_arguments(model, params, of), model.observation_shapes[of].family
        each = _given_others(arguments["covariance_matrix"]) if family == FULL else arguments[SCALED[family]]
        found.append(by_column(model, of, each))
    return jnp.concatenate(found, axis=1) if found else None


def by_column(model, of, argument):
    """An argument of every component of site `of`, (K, F), where it is one number for all columns too."""
    K, size = model.num_components, int(np.prod(model.observation_shapes[of].shape, dtype=int))
    return jnp.broadcast_to(argument.reshape(K, -1), (K, size))


def columns_of(model, of, x):
    """What the scales of site `of` are of, (N, F): its columns, a log-normal's on the log scale."""
    leaf = jnp.asarray(x[of] if isinstance(x, dict) else x)
    leaf = leaf.reshape(len(leaf), -1)
    return jnp.log(leaf) if model.observation_shapes[of].family == "LogNormal" else leaf


def data_scales(model, x):
    """What `scales` are compared with: the same of all the data at once, (1, F); None where no site has any."""
    found = []
    for of in scaled(model):
        one = columns_of(model, of, x)
        full = model.observation_shapes[of].family == FULL
        sd = _given_others(jnp.atleast_2d(jnp.cov(one.T, bias=True))) if full else jnp.std(one, axis=0)
        found.append(jnp.where(sd > 0, sd, 1.0).reshape(1, -1))  # a NaN is not above 0
    return jnp.concatenate(found, axis=1) if found else None


def _given_others(covariance):
    """Standard deviation of each coordinate given the others, (..., D): the inverse's diagonal to the power -1/2."""
    return jnp.diagonal(jnp.linalg.inv(covariance), axis1=-2, axis2=-1) ** -0.5


def _like(mask, leaf):
    """`mask` (R,) with as many axes as `leaf` (R, ...)."""
    return mask.reshape(mask.shape + (1,) * (leaf.ndim - 1))


# -- the M-step --------------------------------------------------------------------------------------------------


def _m_step(model, prior, of):
    """The M-step (params, r, x, sum of |x|) -> params, its number at a start, and its tables and gradients."""
    # a rule without a conditional knows the likelihood alone
    closed = tuple(rule for rule in conjugacy.rules(model) if rule.mode and (rule.conditional is not None or not prior))
    others = tuple(name for name in model.param_shapes if name not in {rule.site for rule in closed})
    coordinates = np.concatenate([np.arange(of.size)[of.slices[name]] for name in others] or [np.arange(0)])

    def expected(params, r, x):
        """Q at responsibilities r; cells with r = 0 count nothing, whatever their log density."""
        table = jnp.where(r > 0, model.log_table(params, x), 0.0)
        return (r * table).sum() + (model.log_prior(params) if prior else 0.0)

    def m_step(params, r, x, magnitude):
        for rule in closed:
            value = rule.mode(params, r, x, prior)
            params = {**params, rule.site: value.astype(params[rule.site].dtype)}
        return newton(params, r, x, magnitude) if others else params

    def newton(params, r, x, magnitude):
        """The best of a few fractions of one Newton step for the sites without a closed form, none included."""
        u = of.inside(params)

        def moved(part):
            everything = of.constrain(u.at[coordinates].set(part))
            return {**params, **{name: everything[name].astype(params[name].dtype) for name in others}}

        q = lambda part: expected(moved(part), r, x)
        here = u[coordinates]
        along = jax.vmap(lambda e: jax.jvp(jax.grad(q), (here,), (e,)), out_axes=(None, 0))
        gradient, hessian = along(jnp.eye(len(coordinates), dtype=here.dtype))
        finite = jnp.isfinite(hessian).all() & jnp.isfinite(gradient).all()
        values, vectors = jnp.linalg.eigh(jnp.where(finite, -hessian, jnp.eye(len(coordinates), dtype=here.dtype)))
        values = jnp.maximum(jnp.abs(values), 1e-8 * jnp.abs(values).max() + jnp.finfo(here.dtype).tiny)
        direction = vectors @ ((vectors.T @ jnp.where(finite, gradient, 0.0)) / values)  # uphill: values > 0
        longest = 10 * (1 + jnp.abs(here).max())  # of a flat direction the fractions below must reach the useful part
        direction = direction * jnp.minimum(1, longest / jnp.maximum(jnp.abs(direction).max(), longest))
        tried = here + jnp.array([*STEPS, 0.0], here.dtype)[:, None] * direction
        scores = jax.vmap(q)(tried)
        scores = jnp.where(jnp.isfinite(scores), scores, -jnp.inf)
        # scores that only rounding tells apart are equal, and then the largest step wins: Newton ends the climb
        least = scores.max() - 10 * rounding(jnp.abs(scores.max()), magnitude)
        return moved(tried[jnp.argmax(scores >= least)])

    num_starts = NEWTON_STARTS if others else CLOSED_STARTS
    return m_step, num_starts, *((len(STEPS) + 1, 1 + len(coordinates)) if others else (0, 0))
