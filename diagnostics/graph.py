"""The graph of a model: its sites with their plates and parents, found by probing the declaration.

A site is a parent of another when the other's distribution moves as it is replaced and all else stays: its arguments
by name, or, where a density of its own has none, its log density.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from zoo.probe import NUM_DRAWS, draw_observations, outside_traces

NUM_POINTS = 32  # prior draws at which a site is replaced; each is looked at in one component, in turn
COMPONENTS, OBSERVATIONS = "components", "observations"  # the plates


class Node(NamedTuple):
    """A site of the declaration, or the covariates."""

    name: str
    family: str  # "" where the density is of its own, and for covariates
    shape: tuple[int, ...]  # of its value: for those in the plate of observations, of one of them
    plate: str  # COMPONENTS, OBSERVATIONS, or "" for neither
    parents: tuple[str, ...]
    role: str  # "parameter", "assignment", "observed" or "covariates"


@functools.cache
def graph(model) -> tuple[Node, ...]:
    """Every site of `model`, parents first: the prior's in their order, covariates, z and what is observed.

    A site of the prior is in the plate of components where its rows are drawn apart, one for each component. A parent
    of z is one of its probabilities; a parent of x moves x in some component. Compiles one small program.
    """
    return outside_traces(_graph, model)


def _graph(model) -> tuple[Node, ...]:
    K, sites = model.num_components, {}
    covariates = _covariates(model)
    names = [name for name in model.observation_shapes if name != "z"]

    def look(at):
        """What every site's distribution is given the values `at`: name -> its arguments, or its log density."""
        params = {name: at[name] for name in model.param_shapes}
        row = {name: at[name] for name in names}
        found = {
            **model.prior_sites(params),
            **model.observation_sites(params, at["z"], row, at.get("covariates")),
        }
        sites.update({name: (site.family, _drawn_apart(site, K)) for name, site in found.items()})
        arrays = {name: {k: jnp.asarray(v) for k, v in site.parameters.items()} for name, site in found.items()}
        return {name: given or {"": found[name].score} for name, given in arrays.items()}

    @jax.jit
    def program(draws, keys, here, there):
        def rows(at):
            drawn = draw_observations(model, at[0], at[1], 1)[1]
            drawn = drawn if isinstance(drawn, dict) else {"x": drawn}
            return {name: drawn[name][0] for name in names}

        half = lambda i: {name: leaf[i * NUM_POINTS : (i + 1) * NUM_POINTS] for name, leaf in draws.items()}
        first, second = half(0), half(1)
        x = jax.lax.map(rows, (first, keys))
        before = {**first, **x, **here}
        after = {**second, **{name: jnp.roll(leaf, 1, axis=0) for name, leaf in x.items()}, **there}
        tries = [before, *({**before, name: after[name]} for name in sorted(before))]
        return jax.vmap(jax.vmap(look))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *tries))

    z = np.arange(NUM_POINTS, dtype=np.int32) % K
    here, there = {"z": z}, {"z": ((z + 1) % K).astype(np.int32)}
    if covariates is not None:
        here["covariates"], there["covariates"] = covariates
    draws = model.prior_draws(jax.random.key(3), NUM_DRAWS)
    every = jax.tree.map(np.asarray, program(draws, jax.random.split(jax.random.key(4), NUM_POINTS), here, there))
    replaced = sorted([*model.param_shapes, *names, *here])

    def parents(name):
        def moved(i):
            return any(not np.array_equal(leaf[0], leaf[i], equal_nan=True) for leaf in every[name].values())

        return [other for i, other in enumerate(replaced, 1) if other != name and moved(i)]

    above, below = ([name for name in sites if (name in model.param_shapes) == prior] for prior in (True, False))
    order = [*above, *(["covariates"] if covariates is not None else []), *below]  # as declared, so parents first
    shapes = {**model.param_shapes, **model.observation_shapes}
    nodes, relabelled = [], _relabelled(model)
    for name in order:
        if name == "covariates":
            nodes.append(Node(name, "", _shape_of_covariates(model), OBSERVATIONS, (), "covariates"))
            continue
        family, apart = sites[name]
        prior = name in model.param_shapes
        plate = (COMPONENTS if apart and name in relabelled else "") if prior else OBSERVATIONS
        role = "parameter" if prior else "assignment" if name == "z" else "observed"
        over = tuple(sorted(parents(name), key=order.index))
        nodes.append(Node(name, family, tuple(shapes[name].shape), plate, over, role))
    return tuple(nodes)


def _relabelled(model) -> set[str]:
    """The parameters whose rows `permute` moves."""
    params = {name: np.arange(np.prod(s.shape, dtype=int)).reshape(s.shape) for name, s in model.param_shapes.items()}
    moved = model.permute(params, np.roll(np.arange(model.num_components), 1))
    return {name for name, leaf in params.items() if not np.array_equal(leaf, moved[name])}


def _drawn_apart(site, K) -> bool:
    """Whether row k is a draw of its own: the leading axis K is one of the batch, not of one joint draw."""
    return site.distribution is None or tuple(site.distribution.batch_shape)[:1] == (K,)


def _covariates(model):
    """NUM_POINTS rows of the data's covariates from all over them, and as many others; None for a model without."""
    if model.covariates_row is None:
        return None
    every = model.data.x["covariates"]
    N = len(jax.tree.leaves(every)[0])
    rows = np.linspace(0, N - 1, NUM_POINTS).astype(int)
    take = lambda rows: jax.tree.map(lambda leaf: np.asarray(leaf)[rows], every)
    return take(rows), take(np.roll(rows, NUM_POINTS // 2))


def _shape_of_covariates(model) -> tuple[int, ...]:
    leaves = jax.tree.leaves(model.covariates_row)
    return tuple(np.shape(leaves[0])) if len(leaves) == 1 else (len(leaves),)


def lines(nodes, num_components, num_observations=None) -> list[str]:
    """The graph as text, a site a line: name, family, shape, plate, and its parents behind an arrow."""
    plates = {
        COMPONENTS: f"each of K = {num_components}",
        OBSERVATIONS: "each of N" + ("" if num_observations is None else f" = {num_observations:,}"),
        "": "",
    }
    rows = []
    for node in nodes:
        family = node.family or ("given" if node.role == "covariates" else "a density of its own")
        shape = f"({', '.join(map(str, node.shape))}{',' if len(node.shape) == 1 else ''})" if node.shape else ""
        above = f"<- {', '.join(node.parents)}" if node.parents else ""
        rows.append((node.name, family, shape, plates[node.plate], above))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
