"""The declaration of a finite mixture, and everything that follows from its (N, K) table.

A mixture is two GenJAX `@gen` functions: `prior()` returns what the components need, and
`observation(params)` draws one pair, `z` then `x`. All else comes from
log p(z_n = k, x_n | params), row n, column k: `Mixture.log_table`.
"""

import functools
import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from genjax import ChoiceMap, Mask, gen
from jax.scipy.special import logsumexp

from zoo import introspect, nearest, probe, support, tables
from zoo.dataset import Dataset, of_table
from zoo.probe import outside_traces
from zoo.support import Shape

Params = dict[str, Any]


@dataclass(frozen=True, eq=False, kw_only=True)
class Mixture:
    """p(params) prod_n p(z_n | params) p(x_n | z_n, params), declared once.

    `params` always means the prior's choices, name -> array; `x` is an array with leading axis N, or a dict
    of such arrays whose keys are the observation's addresses, the key "covariates" being its second argument.
    Methods are pure and safe under jit, vmap and grad unless their docstring says otherwise.
    """

    name: str
    num_components: int
    exchangeable: bool  # relabelling the components leaves the joint density as it is
    prior: Any  # @gen () -> what `observation` receives
    observation: Any  # @gen (params) -> x, with the sites "z" and "x"
    family: str = ""
    title: str = ""
    description: str = ""
    source: str = ""
    twin: Callable | None = None  # NumPyro model of the same density, twin(x), assignments summed out; None: derived
    data: Dataset | None = None
    table: Callable | None = None  # a faster log_table(params, x), held to the derived one by a contract test
    component_params: tuple[str, ...] | None = None  # declared; `component_leaves` probes where this is None
    permute: Callable = None  # type: ignore[assignment]  # permute(params, s): old component k becomes component s[k]
    order_by: str | None = None  # the component parameter that sorts 1-D atoms

    def __post_init__(self):
        if self.permute is None or not self.own_permute:  # a copy with other parts has leaves of its own
            object.__setattr__(self, "permute", functools.partial(_permute_leaves, self))

    # -- the declaration ----------------------------------------------------------------------------------

    @functools.cached_property
    def param_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The prior's choices: name -> shape and dtype."""
        return jax.eval_shape(lambda key: introspect.sample(self.prior, (), key)[0], jax.random.key(0))

    @functools.cached_property
    def prior_families(self) -> dict[str, str]:
        """The prior's choices: name -> distribution family. Compiles nothing."""
        found: dict[str, str] = {}

        def look(params):
            found.update({name: site.family for name, site in self.prior_sites(params).items()})
            return 0

        jax.eval_shape(look, self.param_shapes)
        return found

    @functools.cached_property
    def observation_shapes(self) -> dict[str, Shape]:
        """The observation's sites, "z" included: name -> shape, dtype, distribution family. Compiles nothing."""
        families = {}

        def draw(key):
            params, _ = introspect.sample(self.prior, (), key)
            arguments = self._arguments(params, self.covariates_row)
            drawn, _ = introspect.sample(self.observation, arguments, key)
            found, _ = introspect.sites(self.observation, arguments, drawn)
            families.update({name: (site.family, support.num_categories(site)) for name, site in found.items()})
            return drawn

        shapes = jax.eval_shape(draw, jax.random.key(0))
        return {name: Shape(s.shape, s.dtype, *families[name]) for name, s in shapes.items()}

    @property
    def assignment_dtype(self):
        """Dtype of the site z: int32 for a categorical, bool for a flip."""
        return self.observation_shapes["z"].dtype

    @property
    def num_assignments(self) -> int | None:
        """How many values the site z has, where its distribution says so."""
        z = self.observation_shapes["z"]
        return 2 if z.family == "Bernoulli" or z.dtype == bool else z.num_categories

    @functools.cached_property
    def covariates_row(self):
        """The first row of the data's covariates, or None: what shape inference and probing stand on."""
        x = self.data.x if self.data is not None else None
        if not isinstance(x, dict) or "covariates" not in x:
            return None
        return jax.tree.map(lambda leaf: np.asarray(leaf)[0], x["covariates"])

    @property
    def data_shapes(self) -> dict[str, tuple[int, ...]]:
        """What `x` holds: key -> shape of one row, the covariates included; {"x": ()} for an array (N,)."""
        shapes = {name: self.observation_shapes[name].shape for name in self.observation_names}
        if isinstance(self.covariates_row, dict):
            raise ValueError(f"{self.name} has several arrays of covariates: give its data from Python, as a dict")
        return shapes if self.covariates_row is None else {**shapes, "covariates": np.shape(self.covariates_row)}

    @property
    def categories(self) -> dict[str, tuple[str, ...]]:
        """What the codes 0, 1, ... of a column of the data mean, by its name; empty without data."""
        return self.data.categories if self.data is not None else {}

    @property
    def scales(self) -> dict[str, tuple[float, float]]:
        """Mean and sd that the model's data were standardised by, by their column; its priors are for such columns."""
        return self.data.standardized if self.data is not None else {}

    def covariates(self, n: int):
        """n rows of the data's covariates, from the first on and as often as it takes; None for a model without."""
        if self.data is None or self.covariates_row is None:
            return None
        return jax.tree.map(lambda leaf: np.resize(leaf, (n, *np.shape(leaf)[1:])), self.data.x["covariates"])

    def joint(self, n: int, covariates=None):
        """The GenJAX generative function of all N observations: the prior's addresses, ("obs", "z"), ("obs", "x").

        `n` is a Python int (the shape is static); `covariates` default to those of the data. Not a jit-safe call
        itself: it builds a function, once per n.
        """
        return _joint(self, n) if covariates is None else _build_joint(self, n, covariates)

    def simulate(self, key, n: int, covariates=None) -> tuple[Params, Any, Any]:
        """A forward draw: params, assignments (N,) int32, x (N, ...); covariates default to those of the data."""
        covariates = jax.tree.map(jnp.asarray, self.covariates(n) if covariates is None else covariates)
        trace = self.joint(n, covariates).simulate(key, ())
        choices = trace.get_choices()
        params = {name: choices[_address(name)] for name in self.param_shapes}
        observed = {name: _plain(choices[("obs", *_address(name))]) for name in self.observation_names}
        x = observed["x"] if set(observed) == {"x"} else observed
        if covariates is not None:
            x = {**(x if isinstance(x, dict) else {"x": x}), "covariates": covariates}
        return params, choices["obs", "z"].astype(jnp.int32), x

    @property
    def observation_names(self) -> tuple[str, ...]:
        return tuple(name for name in self.observation_shapes if name != "z")

    def prior_draw(self, key) -> Params:
        """A draw from the prior; shares that underflow are just inside their simplex (`zoo.support.inside`)."""
        return self.inside(introspect.sample(self.prior, (), key)[0])

    def inside(self, params: Params) -> Params:
        """A draw of the parameters, its shares off the border."""
        return {name: support.inside(self.prior_families[name], leaf) for name, leaf in params.items()}

    def prior_draws(self, key, n: int) -> Params:
        """n independent draws from the prior, leaves (n, ...). Host side; one compilation per (model, n)."""
        return _prior_draws(self)(jax.random.split(key, n))

    # -- densities ----------------------------------------------------------------------------------------

    def log_prior(self, params: Params):
        """log p(params), a scalar."""
        return self.prior.assess(_choices(params), ())[0] + jnp.zeros(())

    def log_table(self, params: Params, x):
        """log p(z_n = k, x_n | params), shape (N, K)."""
        if self.table is not None:
            return self.table(params, x)
        observed, covariates = split(x)
        returned = self.prior_return(params)

        def cell(k, x_n, c_n):
            args = (returned,) if covariates is None else (returned, c_n)
            return self.observation.assess(_choices({"z": k.astype(self.assignment_dtype), **x_n}), args)[0]

        rows = jax.vmap(cell, in_axes=(None, 0, 0))
        return jax.vmap(rows, in_axes=(0, None, None), out_axes=1)(self._components, observed, covariates)

    def log_weights_table(self, params: Params, x):
        """log p(z_n = k | params), shape (N, K): the score of the site z alone."""
        return self._half(params, x, lambda found: found["z"].score)

    def log_components(self, params: Params, x):
        """log p(x_n | z_n = k, params), shape (N, K): the scores of the other sites."""
        return self._half(params, x, lambda found: sum(site.score for name, site in found.items() if name != "z"))

    def _half(self, params, x, pick):
        observed, covariates = split(x)

        def cell(k, x_n, c_n):
            return pick(self.observation_sites(params, k, x_n, c_n))

        rows = jax.vmap(cell, in_axes=(None, 0, 0))
        return jax.vmap(rows, in_axes=(0, None, None), out_axes=1)(self._components, observed, covariates)

    def observation_sites(self, params: Params, k, x_n: dict, covariates_n=None) -> dict[str, introspect.Site]:
        """The sites of one observation at z = k: distributions with named arguments, and scores."""
        choices = {"z": jnp.asarray(k).astype(self.assignment_dtype), **x_n}
        return introspect.sites(self.observation, self._arguments(params, covariates_n), choices)[0]

    def prior_sites(self, params: Params) -> dict[str, introspect.Site]:
        """The sites of the prior at `params`."""
        return introspect.sites(self.prior, (), params)[0]

    def pointwise_log_likelihood(self, params: Params, x):
        """log p(x_n | params), assignments summed out, shape (N,)."""
        return logsumexp(self.log_table(params, x), axis=1)

    def log_likelihood(self, params: Params, x):
        """log p(x | params), assignments summed out, a scalar."""
        return self.pointwise_log_likelihood(params, x).sum()

    def log_density(self, params: Params, x):
        """log p(params, x) = log_prior + log_likelihood, a scalar."""
        return self.log_prior(params) + self.log_likelihood(params, x)

    def log_joint(self, params: Params, assignments, x):
        """log p(params, assignments, x), the prior included; assignments (N,) in 0..K-1. A scalar."""
        observed, covariates = split(x)
        returned = self.prior_return(params)

        def one(z_n, x_n, c_n):
            args = (returned,) if covariates is None else (returned, c_n)
            return self.observation.assess(_choices({"z": z_n.astype(self.assignment_dtype), **x_n}), args)[0]

        return self.log_prior(params) + jax.vmap(one)(jnp.asarray(assignments), observed, covariates).sum()

    def responsibilities(self, params: Params, x):
        """p(z_n = k | x_n, params), shape (N, K); rows sum to 1."""
        return jax.nn.softmax(self.log_table(params, x), axis=1)

    def derived(self, params: Params) -> Params:
        """What `prior` returns beside its choices (scales from variances, weights from sticks)."""
        returned = self.prior_return(params)
        return {k: v for k, v in returned.items() if k not in params} if isinstance(returned, dict) else {}

    def weights(self, params: Params, x):
        """Mixing weights (K,) when they are the same for every observation: those of the first."""
        return jnp.exp(self.log_weights_table(params, jax.tree.map(lambda leaf: leaf[:1], x))[0])

    def prior_return(self, params: Params):
        """What `prior` returns at these choices: the argument of `observation`."""
        return self.prior.assess(_choices(params), ())[1]

    def _arguments(self, params, covariates_n=None):
        returned = self.prior_return(params)
        return (returned,) if covariates_n is None else (returned, covariates_n)

    @property
    def _components(self):
        return jnp.arange(self.num_components, dtype=jnp.int32)

    # -- labels and shapes --------------------------------------------------------------------------------

    @functools.cached_property
    def component_leaves(self) -> tuple[str, ...]:
        """Parameters whose row k belongs to component k, the mixing weights included: declared, or probed.

        Host side; compiles one small program the first time.
        """
        if self.component_params is not None:
            return self.component_params
        return outside_traces(probe.component_leaves, self)

    @property
    def own_permute(self) -> bool:
        """Whether `permute` was declared, and not derived from `component_leaves`."""
        return getattr(self.permute, "func", None) is not _permute_leaves

    @functools.cached_property
    def relabels(self) -> bool:
        """Whether `permute` relabels the components and keeps volumes, probed: else there is no label permutation move.

        A `permute` of one's own that stretches (of stick-breaking proportions, say) would need its Jacobian in every
        density of a relabelled point, so it is not used.
        """
        known = self.num_components > 1 and (self.own_permute or bool(self.component_leaves))
        return known and outside_traces(probe.relabels, self)

    @functools.cached_property
    def exchanges(self) -> bool:
        """Whether relabelling changes nothing, probed: what a declared `exchangeable` is held to before it is used."""
        return outside_traces(probe.exchanges, self)

    @functools.cached_property
    def numpyro_model(self) -> Callable:
        """The hand-written twin, else one derived from the declaration and held to it (`zoo.twin`).

        Raises ValueError where none can be derived. Host side; deriving compiles one small program.
        """
        from zoo.twin import derived

        return self.twin if self.twin is not None else outside_traces(derived, self)

    @functools.cached_property
    def lacks_twin(self) -> str | None:
        """The sentence why there is no NumPyro model, or None."""
        try:
            twin_supports(self)
        except ValueError as error:
            return str(error)
        except Exception:  # a hand-written twin that fails shows its own error where it is used
            pass
        return None

    @functools.cached_property
    def num_free_parameters(self) -> int:
        """Dimension of the parameter space: a simplex of K counts K - 1, a whole number 1, fixed constants nothing.

        Read off the supports of the twin's sites; host side.
        """
        from numpyro.distributions import biject_to

        shapes = [s if c.is_discrete else biject_to(c).inverse_shape(s) for c, s in twin_supports(self).values()]
        return int(sum(np.prod(shape, dtype=int) for shape in shapes))

    def check(self, x, name: str = "x") -> Any:
        """`x` as arrays of the model's shape, or ValueError with one sentence (`zoo.support`).

        Host side; compiles nothing for families whose support is known, else one small program.
        """
        return support.check(self, x, name)

    def of_frame(self, frame, name: str = "x") -> Dataset:
        """A pandas object as data: the columns called as the features of the model's data are, else all, in order.

        Where the model's data are standardised, the frame's columns of these names have the same mean and sd taken out;
        ValueError for others, and for columns that are standardised already: give those as an array.
        """
        table, shapes = tables.of_frame(frame), self.data_shapes
        options: dict[str, Any] = {"model": self.name, "scales": self.scales, "where": name}
        if set(shapes) != {"x"}:
            return of_table(table, name, keys=shapes, words=self.categories, **options)
        features = tuple(self.data.columns) if self.data is not None else ()
        return of_table(table, name, (), int(np.prod(shapes["x"], dtype=int)), names=features, **options)


def _permute_leaves(model: Mixture, params: Params, s) -> Params:
    """`permute` where none is declared; probing waits until the first call."""
    return probe.permute_leaves(params, s, model.component_leaves)


def permutations(num_components: int) -> np.ndarray:
    """All K! permutations of 0..K-1, shape (K!, K), the identity first."""
    return np.array(list(itertools.permutations(range(num_components))), dtype=np.int32)


def twin_supports(model: Mixture) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """The NumPyro model's unobserved sites: name -> (constraint, shape). Host side.

    Raises ValueError where a support depends on other parameters.
    """
    import numpyro

    found, twin = {}, model.numpyro_model

    def run(key, x):
        trace = numpyro.handlers.trace(numpyro.handlers.seed(twin, key)).get_trace(x)
        sites = {k: s for k, s in trace.items() if s["type"] == "sample" and not s["is_observed"]}
        found.update({k: (s["fn"].support, jnp.shape(s["value"])) for k, s in sites.items()})
        return 0

    x = model.data.x if model.data is not None else jax.eval_shape(lambda k: model.simulate(k, 2)[2], jax.random.key(0))
    x = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), x)
    jax.eval_shape(run, jax.random.key(0), x)
    traced = [name for name, (support, _) in found.items() if _has_tracer(support)]
    if traced:  # bounds that JAX computed: numbers if the model is run, and the same in every run

        def another(seed, values):  # of the rows, alike in all columns
            row = lambda leaf, value: np.full((1, *leaf.shape[1:]), value, leaf.dtype)
            rows = jax.tree.map(lambda leaf: np.concatenate([row(leaf, value) for value in values]), x)
            outside_traces(lambda: run(jax.random.key(seed), rows))
            return dict(found)

        first, *others = another(0, (1, 1)), another(1, (1, 1)), another(0, (0, 3))
        for name in traced:
            cures = (f"declare {name} relative to them, such as a share of its bound", "give it constant bounds")
            for other, on, cure in zip(others, ("other parameters", "the data"), cures, strict=True):
                if not jax.tree.all(jax.tree.map(np.array_equal, first[name][0], other[name][0])):
                    raise ValueError(
                        f"the support of {name} in {model.name} depends on {on}, which no change of variables here "
                        f"follows; {cure}"
                    )
    return found


def _has_tracer(support) -> bool:
    return any(isinstance(bound, jax.core.Tracer) for bound in jax.tree.leaves(support))


def builder(function: Callable) -> Callable:
    """A model builder with keyword constants: cached, so that equal constants give the identical model.

    Constants are coerced to the type of their default (25 -> 25.0, [.7, .3] -> (.7, .3)); a variant is named
    `bento[scale=25.0]`. Raises ValueError for an unknown constant or one of the wrong type.
    """
    defaults = {name: p.default for name, p in inspect.signature(function).parameters.items()}

    @functools.cache
    def build(changed: tuple) -> Mixture:
        model = function(**dict(changed))
        suffix = ",".join(f"{k}={v}".replace(" ", "") for k, v in changed)
        return replace(model, name=f"{model.name}[{suffix}]") if changed else model

    @functools.wraps(function)
    def wrapper(**constants) -> Mixture:
        for name in constants:
            if name not in defaults:
                raise ValueError(f"{function.__name__} has no constant {name!r}: {nearest(name, defaults)}")
        coerced = {k: _coerce(constants[k], defaults[k], f"{function.__name__}: {k}") for k in sorted(constants)}
        return build(tuple((k, v) for k, v in coerced.items() if v != defaults[k]))

    return wrapper


def _coerce(value, default, name):
    try:
        if isinstance(default, tuple):
            try:
                result = tuple(float(v) for v in np.ravel(np.asarray(value, float)))
            except ValueError:
                raise TypeError from None
            if len(result) != len(default):
                raise ValueError(f"{name} should have {len(default)} values, got {len(result)}")
            finite = all(np.isfinite(v) for v in result)
        elif isinstance(value, bool) or isinstance(value, str) != isinstance(default, str):
            raise TypeError
        else:
            result = type(default)(value)
            if isinstance(default, int) and result != value:
                raise TypeError
            finite = isinstance(result, str) or bool(np.isfinite(result))
    except TypeError:
        raise ValueError(f"{name} should be a {type(default).__name__} like {default}, got {value!r}") from None
    if not finite:
        raise ValueError(f"{name} should be finite, got {value!r}")
    return result


def positive(**constants):
    """ValueError unless every constant (or each entry of a tuple) is above 0; for builders."""
    for name, value in constants.items():
        if not np.all(np.asarray(value) > 0):
            raise ValueError(f"{name} should be positive, got {value}")


def simplex(**constants):
    """ValueError unless each constant is positive weights that sum to 1; for builders."""
    positive(**constants)
    for name, value in constants.items():
        if abs(sum(value) - 1) > 1e-9:
            raise ValueError(f"{name} should sum to 1, got {value} which sums to {sum(value):.6g}")


# -- private ----------------------------------------------------------------------------------------------


def _plain(value):
    """The value of a choice: GenJAX wraps that of a `switch` in a Mask, always valid where each branch has it."""
    return value.value if isinstance(value, Mask) else value


def _address(name: str) -> tuple[str, ...]:
    return tuple(name.split("."))


def _choices(values: dict[str, Any]) -> ChoiceMap:
    nested = {(_address(k) if "." in k else k): jnp.asarray(v) for k, v in values.items()}
    return ChoiceMap.d(nested)


def num_observations(x) -> int:
    """N of an array (N, ...) or of a dict of such."""
    return len(jax.tree.leaves(x)[0])


def split(x) -> tuple[dict, Any]:
    """Observed addresses and covariates of `x`."""
    if not isinstance(x, dict):
        return {"x": jnp.asarray(x)}, None
    observed = {k: jnp.asarray(v) for k, v in x.items() if k != "covariates"}
    return observed, (jax.tree.map(jnp.asarray, x["covariates"]) if "covariates" in x else None)


@functools.cache
def _prior_draws(model: Mixture):
    # one draw at a time: the gamma samplers compile several times slower under vmap
    return jax.jit(lambda keys: jax.lax.map(model.prior_draw, keys))


@functools.cache
def _joint(model: Mixture, n: int):
    _check_number(n)
    return _build_joint(model, n, model.covariates(n))


def _check_number(n):
    if not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"n should be a positive whole number of observations, got {n!r}")


def _build_joint(model, n, covariates):
    _check_number(n)

    @gen
    def joint():
        params = model.prior.inline()
        if covariates is None:
            model.observation.repeat(n=int(n))(params) @ "obs"
        else:
            # not outside: `joint` is kept beyond the trace that it may be built in
            rows = jax.tree.map(jnp.asarray, covariates)
            model.observation.vmap(in_axes=(None, 0))(params, rows) @ "obs"
        return params

    return joint
