"""What the `@gen` functions say about themselves: their sites, distributions with named arguments, and scores.

The only file that imports GenJAX's private modules (genjax 0.10.3; `tests/zoo/test_mixture.py` pins what is used).
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from genjax import ChoiceMap
from genjax._src.core.compiler.interpreters.stateful import StatefulInterpreter, stateful
from genjax._src.core.compiler.staging import stage
from genjax._src.generative_functions.static import StaticGenerativeFunction, StaticHandler


class Site(NamedTuple):
    """One random choice at the arguments it was reached with."""

    family: str  # class name of the TensorFlow Probability distribution, "" where there is none
    parameters: dict[str, Any]  # its numeric arguments, by name
    distribution: Any  # the TFP instance, or None
    score: Any  # log density of the choice, a scalar


class _Visitor(StaticHandler):
    def __init__(self, visit: Callable, prefix: tuple = ()):
        super().__init__()
        self.visit, self.prefix = visit, prefix

    def handle_trace(self, addr, gen_fn, args):
        address = self.prefix + (addr if isinstance(addr, tuple) else (addr,))
        if isinstance(gen_fn, StaticGenerativeFunction):
            return walk(gen_fn, args, self.visit, address)
        return self.visit(".".join(map(str, address)), gen_fn, args)


def walk(gen_fn, args, visit: Callable, prefix=()):
    """Runs the source of a `@gen` function; `visit(name, site, args)` supplies the value of every random choice."""
    return stateful(gen_fn.source)(_Visitor(visit, prefix), *args)


def function_of(gen_fn) -> Callable | None:
    """The Python function that `@gen` decorates, what is already applied to it included; None for anything else."""
    if not isinstance(gen_fn, StaticGenerativeFunction):
        return None
    applied = gen_fn.source.dyn_args
    return functools.wraps(gen_fn.source.fn)(functools.partial(gen_fn.source.fn, *applied))


def staged(gen_fn) -> Callable:
    """The source of a `@gen` function without arguments, traced once: a function of `visit`, to be called many times.

    Good for the precision that it was traced in. Arguments come as arrays: a Python number such as `normal(0.0, 1.0)`
    has makes TFP draw in single precision where GenJAX traced a double, and fails in what follows.
    """
    program, _ = stage(gen_fn.source)()

    def run(visit: Callable) -> None:
        visitor = _Visitor(lambda name, site, args: visit(name, site, jax.tree.map(jnp.asarray, args)))
        StatefulInterpreter().eval_jaxpr_stateful(visitor, program.jaxpr, program.literals, [])

    return run


def distribution_of(gen_fn, args):
    """The TFP distribution behind a GenJAX distribution at `args`, or None (`exact_density` has none)."""
    try:
        sample = inspect.getclosurevars(type(gen_fn).sample).nonlocals["sample"]
        build = inspect.getclosurevars(sample).nonlocals["dist"]
    except (KeyError, TypeError, AttributeError):
        return None
    positional, keywords = args, {}
    if len(args) == 2 and isinstance(args[0], tuple) and isinstance(args[1], dict):
        positional, keywords = args  # GenJAX hands keyword calls over as (args, kwargs)
    return build(*positional, **{k: v for k, v in keywords.items() if k != "sample_shape"})


def sites(gen_fn, args: tuple, choices: dict[str, Any]) -> tuple[dict[str, Site], Any]:
    """Every site of `gen_fn(*args)` when its choices are `choices` (name -> value), and what it returns.

    Nested addresses are joined with dots. Safe under jit, vmap and grad.
    """
    found: dict[str, Site] = {}

    def visit(name, site, site_args):
        value = jnp.asarray(choices[name])
        score, _ = site.assess(ChoiceMap.choice(value), site_args)
        found[name] = _describe(site, site_args, score)
        return value

    return found, walk(gen_fn, args, visit)


def sample(gen_fn, args: tuple, key) -> tuple[dict[str, Any], Any]:
    """A forward draw of every choice of `gen_fn(*args)`, name -> value, and what it returns."""
    drawn: dict[str, Any] = {}

    def visit(name, site, site_args):
        drawn[name] = site.simulate(jax.random.fold_in(key, len(drawn)), site_args).get_retval()
        return drawn[name]

    return drawn, walk(gen_fn, args, visit)


def _describe(site, site_args, score) -> Site:
    distribution = distribution_of(site, site_args)
    if distribution is None:
        return Site("", {}, None, score)
    numeric = (jax.Array, np.ndarray, np.generic, float, int)
    listed = {k: jnp.asarray(v) if isinstance(v, list | tuple) else v for k, v in distribution.parameters.items()}
    named = {k: v for k, v in listed.items() if isinstance(v, numeric) and not isinstance(v, bool)}
    return Site(type(distribution).__name__, named, distribution, score)
