"""`@gen` models written one address per observation ("z_0", "x_0", scalar "mu_0"), as tutorials write them.

`from_unrolled` finds the prior and one pair (z_n, x_n) in such a function and declares them as a `Mixture`. That is
the same model only where the pairs are independent given the parameters, and alike; both are checked numerically, with
the log density of the function itself, before anything is returned. Where pairs depend on each other the function
stays what it is, a `Dependent`.
"""

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from genjax import ChoiceMap, gen
from jax.experimental import enable_x64

from zoo import addresses, introspect, probe
from zoo.addresses import MEANS, VECTORISED
from zoo.dataset import Dataset
from zoo.dependent import Dependent
from zoo.mixture import Mixture

NUM_POINTS = 16  # prior draws at which the function and the mixture are compared, with two sets of observations each
TOLERANCE = {4: 1e-4, 8: 1e-10}  # relative to 1 + |log density|, by the bytes of the coarser of the two


def from_unrolled(
    gen_fn,
    num_components: int = 2,
    assignments: str = "z_{}",
    observations: str = "x_{}",
    parameters: Mapping[str, str] = MEANS,
    *,
    name: str = "unrolled",
    data: Dataset | None = None,
) -> Mixture | Dependent:
    """The mixture that a `@gen` function without arguments states with an address for every assignment and observation.

    `assignments` and `observations` are the addresses with {} for the number, 0, 1, ..., N - 1. `parameters`: name ->
    address of a scalar with {} for the component; its K values become one array (K,), row k the one that z = k picks
    (for `where(z, mu_0, mu_1)` that is mu_1, then mu_0). Every other address is a parameter under its own name.

    The mixture has no address per observation any more: it serves any number of rows, at the speed of one declared as
    such. Only this call takes time that grows with N: it warns above 60 observations.

    Where the pairs (z_n, x_n) depend on each other given the parameters, as in a hidden Markov chain, it is no mixture:
    a warning says so, and what is returned is a `Dependent`, which `inference.fit` serves by gibbs and importance.

    Raises ValueError, in one sentence, for addresses that are missing, not scalar or of another number of components;
    for more than 150 observations; where independent pairs differ.
    """
    addresses.check_call(gen_fn, num_components, assignments, observations, parameters, data)
    source = _source(gen_fn, jnp.result_type(float))
    z = addresses.in_order(assignments, "assignments", source.sites)
    x = addresses.in_order(observations, "observations", source.sites)
    addresses.check_rows(source.sites, z, x, num_components, data)
    members = addresses.members(source.sites, z, x, num_components, parameters)
    part = functools.partial(Parts, gen_fn, num_components, z, x)
    found = part(members)
    by_component = {key: found.by_component(key) for key in members}
    found = found if by_component == members else part(by_component)
    declare = functools.partial(
        Mixture,
        name=name,
        num_components=num_components,
        prior=found.prior,
        observation=found.observation,
        description=inspect.getdoc(introspect.function_of(gen_fn)) or "",
        data=data,
    )
    depends, points = _check_density(found)
    if depends is not None:
        warnings.warn(
            f"{depends} depends on other assignments or observations given the parameters, so {name} is no mixture: "
            "gibbs and importance alone serve it, by inference.fit",
            stacklevel=2,
        )
        prior = declare(exchangeable=False, component_params=(), data=None)
        return Dependent(name=name, num_components=num_components, parts=found, prior=prior, data=data)
    leaves = declare(exchangeable=False).component_leaves
    with enable_x64():  # on a declaration of its own, which remembers the dtypes that it is first asked for
        exchangeable = _exchanges(declare(exchangeable=False, component_params=leaves), leaves, *points)
    return declare(exchangeable=exchangeable, component_params=leaves)


# -- the function's sites ------------------------------------------------------------------------------------------


class Site(NamedTuple):
    distribution: Any  # what GenJAX calls a generative function
    value: Any  # shape and dtype
    arguments: Any  # shapes and dtypes
    family: str
    num_categories: int | None


class Source(NamedTuple):
    run: Callable  # of visit(address, distribution, arguments) -> value
    sites: dict[str, Site]  # in the order in which they are reached


@functools.cache
def _source(gen_fn, precision) -> Source:
    """What the function consists of in one precision; nothing is compiled."""
    run, sites, values = introspect.staged(gen_fn), {}, {}

    def drawn(distribution, arguments):
        leaves, tree = jax.tree.flatten((distribution, arguments))
        kind = tree, tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
        if kind not in values:  # most sites are alike
            draw = lambda key: distribution.simulate(key, arguments).get_retval()
            values[kind] = jax.eval_shape(draw, jax.random.key(0))
        return values[kind]

    def visit(address, distribution, arguments):
        if address in sites:
            raise ValueError(f"gen_fn has the address {address} twice; every choice needs its own")
        value = drawn(distribution, arguments)
        if not isinstance(value, jax.ShapeDtypeStruct):
            raise ValueError(f"gen_fn: the choice at {address} is no array; every address should be one distribution's")
        behind = introspect.distribution_of(distribution, arguments)
        tables = [] if behind is None else [behind.parameters.get(k) for k in ("probs", "logits")]
        lengths = [jnp.shape(table)[-1] for table in tables if table is not None and jnp.ndim(table)]
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), arguments)
        family = type(behind).__name__ if behind is not None else ""
        sites[address] = Site(distribution, value, shapes, family, lengths[0] if lengths else None)
        return jnp.zeros(value.shape, value.dtype)

    jax.eval_shape(lambda: run(visit))
    return Source(run, sites)


class _Reached(Exception):
    """A walk has seen all it was for."""


class Parts:
    """Prior and observation as `@gen` functions, taken from the walk over the unrolled one.

    `members`: parameter -> its address, or the tuple of its K addresses.
    """

    def __init__(self, gen_fn, num_components, z, x, members):
        self.gen_fn, self.num_components, self.z, self.x, self.members = gen_fn, num_components, z, x, members
        # traced once per precision, however many programs use them; without the sites that they do not need
        prior_arguments = jax.jit(self._prior_arguments, static_argnums=0)
        z_arguments = jax.jit(lambda params: self._arguments((z[0],), self.values(params))[0])
        x_arguments = jax.jit(lambda params, k: self._arguments((x[0],), self.values(params) | {z[0]: k})[0])

        @gen
        def prior():
            params = {}
            for name, at in members.items():
                site = self.sites[at[0] if isinstance(at, tuple) else at].distribution
                params[name] = site(*prior_arguments(name, params)) @ tuple(name.split("."))
            return params

        @gen
        def observation(params):
            k = self.sites[z[0]].distribution(*z_arguments(params)) @ "z"
            return self.sites[x[0]].distribution(*x_arguments(params, k)) @ "x"

        self.prior, self.observation, self.x_arguments = prior, observation, x_arguments

    @property
    def source(self):
        return _source(self.gen_fn, jnp.result_type(float))

    @property
    def sites(self):
        return self.source.sites

    def values(self, params) -> dict:
        """address -> value, of the parameters that are there."""
        found: dict[str, Any] = {}
        for name, at in self.members.items():
            if name in params:
                found |= dict(zip(at, params[name], strict=True)) if isinstance(at, tuple) else {at: params[name]}
        return found

    def _prior_arguments(self, name, params):
        at = self.members[name]
        if not isinstance(at, tuple):
            return self._arguments((at,), self.values(params))[0]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *self._arguments(at, self.values(params)))

    def _arguments(self, wanted, values):
        """The arguments of the distributions at `wanted`; choices that `values` lacks are 1 (or component 0)."""
        found = {}

        def visit(address, distribution, arguments):
            if address in wanted:
                found[address] = arguments
                if len(found) == len(wanted):
                    raise _Reached
            value, neutral = self.sites[address].value, address not in (*self.z, *self.x)
            given = values.get(address, jnp.full(value.shape, neutral))
            return jnp.asarray(given, value.dtype)

        try:
            self.source.run(visit)
        except _Reached:
            pass
        return [found[address] for address in wanted]

    def scores(self, params, z, x):
        """Log densities of the function's own sites: of the parameters together, of each assignment, each observation.

        z (N,), x (N, ...) -> (), (N,), (N,).
        """
        given = self.values(params) | dict(zip((*self.z, *self.x), (*z, *x), strict=True))
        found = {}

        def visit(address, distribution, arguments):
            value = jnp.asarray(given[address], self.sites[address].value.dtype)
            found[address] = self.score(value, distribution, arguments)
            return value

        self.source.run(visit)
        rows = [jnp.stack([found.pop(address) for address in wanted]) for wanted in (self.z, self.x)]
        return sum(found.values(), jnp.zeros(())), *rows

    @staticmethod
    def score(value, distribution, arguments):
        """log density of one choice, a scalar."""
        return distribution.assess(ChoiceMap.choice(value), arguments)[0]

    def by_component(self, name):
        """The addresses of a parameter in the order of the components: first the one that x needs where z = 0.

        As they are where components and addresses do not belong together one by one.
        """
        at, K = self.members[name], self.num_components
        if not isinstance(at, tuple) or K == 1:
            return at
        draw = jax.jit(lambda key: introspect.sample(self.prior, (), key)[0])
        here, there = draw(jax.random.key(0)), draw(jax.random.key(1))
        moved = lambda j: {**here, name: here[name].at[j].set(there[name][j])}
        leaves = lambda params, k: [np.asarray(leaf) for leaf in jax.tree.leaves(self.x_arguments(params, k))]
        moves = np.zeros((K, K), bool)
        for k in range(K):
            before = leaves(here, k)
            for j in range(K):
                moves[k, j] = any(not np.array_equal(a, b) for a, b in zip(before, leaves(moved(j), k), strict=True))
        one_each = (moves.sum(axis=0) == 1).all() and (moves.sum(axis=1) == 1).all()
        return tuple(at[j] for j in moves.argmax(axis=1)) if one_each else at


# -- is it the same model? -----------------------------------------------------------------------------------------


def _check_density(found: Parts):
    """The first address that depends on other rows, or None; and the points of the comparison. ValueError unless
    function and mixture have the same log density, site by site, where none does.

    In double precision, at NUM_POINTS prior draws, each with two sets of assignments (uniform, so that rare components
    are met) and observations, and a third that has some rows of one and some of the other: where the density of a row
    in it is not the one in the set that it is from, the row depends on others.
    """
    n, K = len(found.z), found.num_components

    def rows(key, params):
        key_z, key_x = jax.random.split(key)

        def draw(key, k):
            value = lambda name, site, args: k if name == "z" else site.simulate(key, args).get_retval()
            return introspect.walk(found.observation, (params,), value)

        z = jax.random.randint(key_z, (n,), 0, K).astype(found.sites[found.z[0]].value.dtype)
        return z, jax.vmap(draw)(jax.random.split(key_x, n), z)

    def point(key):
        keys = jax.random.split(key, 4)
        params = introspect.sample(found.prior, (), keys[0])[0]
        one, other = rows(keys[1], params), rows(keys[2], params)
        mask = jax.random.bernoulli(keys[3], 0.5, (n,))
        pick = lambda a, b: jnp.where(mask.reshape((n,) + (1,) * (a.ndim - 1)), a, b)
        return params, mask, jax.tree.map(lambda a, b: jnp.stack([a, b, pick(a, b)]), one, other)

    def ours(params, z, x):
        prior = sum((site.score for site in introspect.sites(found.prior, (), params)[0].values()), jnp.zeros(()))

        def row(z_n, x_n):
            sites, _ = introspect.sites(found.observation, (params,), {"z": z_n, "x": x_n})
            return sites["z"].score, sites["x"].score

        return prior, *jax.vmap(row)(z, x)

    @jax.jit
    def program(keys):
        params, mask, (z, x) = jax.lax.map(point, keys)
        scores = [jax.vmap(jax.vmap(f, in_axes=(None, 0, 0)))(params, z, x) for f in (found.scores, ours)]
        return params, mask, z, x, *scores

    with enable_x64():
        params, mask, z, x, theirs, mine = program(jax.random.split(jax.random.key(0), NUM_POINTS))
        _check_finite(found, theirs)
        if not _close(theirs[0], mine[0]).all():
            names = ", ".join(a for at in found.members.values() for a in (at if isinstance(at, tuple) else (at,)))
            raise ValueError(
                f"the log prior density of {names} is not that of independent draws: parameters of one name should "
                f"not depend on each other, nor on observations; write {VECTORISED}"
            )
        points = params, z[:, 0].astype(jnp.int32), x[:, 0]
        for what, each in ((found.z, theirs[1]), (found.x, theirs[2])):
            by_row = np.asarray(each)
            apart = ~_close(by_row[:, 2], np.where(mask, by_row[:, 0], by_row[:, 1]))
            if apart.any():
                return what[int(apart.any(axis=0).argmax())], points
        for what, their, my in ((found.z, theirs[1], mine[1]), (found.x, theirs[2], mine[2])):
            apart = ~_close(their, my)
            if apart.any():
                n_apart = int(apart.any(axis=(0, 1)).argmax())
                raise ValueError(
                    f"{what[n_apart]} has another distribution than {what[0]}: rows should be alike given the "
                    f"parameters; write {VECTORISED}, what differs being its covariates"
                )
        return None, points


def _check_finite(found, scores):
    for what, each in zip((("the parameters",), found.z, found.x), scores, strict=True):
        by_row = np.asarray(each).reshape(-1, len(what))
        bad = np.flatnonzero(np.isnan(by_row).any(axis=0))
        if len(bad):
            raise ValueError(f"the log density of {what[bad[0]]} is NaN at draws from the prior; check its arguments")


def _close(one, other):
    """Whether log densities are the same to rounding; equal infinities are."""
    tolerance = TOLERANCE[min(one.dtype.itemsize, other.dtype.itemsize)]
    one, other = np.asarray(one), np.asarray(other)
    with np.errstate(invalid="ignore"):
        return (one == other) | (np.abs(one - other) <= tolerance * (1 + np.abs(one)))


def _exchanges(model, leaves, params, z, x) -> bool:
    """Whether a cyclic shift and a transposition of the labels leave the log joint density as it is at all points."""
    K = model.num_components
    shifts = jnp.asarray(np.stack([np.roll(np.arange(K), 1), np.r_[1, 0, np.arange(2, K)][:K]]))

    @jax.jit
    @jax.vmap
    def both(params, z, x):
        moved = lambda s: model.log_joint(probe.permute_leaves(params, s, leaves), s[z], x)
        return model.log_joint(params, z, x), jax.vmap(moved)(shifts)

    here, there = both(params, z, x)
    return K == 1 or bool(_close(here[:, None], there).all())
