"""Which component a new observation belongs to, where components mean something; a sentence where they do not.

C chains, S draws, N new observations, K components.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp

from diagnostics import relabel
from diagnostics.functionals import _inputs, _sort_leaf, angles, one_row
from diagnostics.prediction import Average, average, num_rows, ratio, spread, tables, take, thinned
from diagnostics.saved import Posterior
from diagnostics.to_arviz import derived

NUM_MATCHED = 1000  # draws that a relabelling is made from
UNSETTLED = 0.01  # share of draws above which the labels of a model that tells them apart get a warning
NUM_CLASSIFIED = 4000  # draws that probabilities of components are averaged over


class Labelling(NamedTuple):
    """What the number of a component means."""

    labels: Callable | None  # draws, a Posterior (C, S), -> the label of component k of each, (C, S, K); None: nothing
    rule: str  # what it means, or why it means nothing, in a sentence
    warning: str | None = None


class Classes(NamedTuple):
    """P(component | x_n, data), where the components mean something."""

    probabilities: Average | None  # (N, K); None: `rule` says why
    rule: str
    clusters: tuple[dict[str, Any], ...] = ()  # the components by label: name of a parameter -> its mean
    warning: str | None = None


def labelling(posterior: Posterior) -> Labelling:
    """The model's own labels, those of one point, those after relabelling, or none."""
    model = posterior.model
    K = model.num_components
    own = lambda draws: np.broadcast_to(np.arange(K), (*draws.shape, K))
    if K == 1:
        return Labelling(own, "there is one component")
    if not model.exchangeable:
        moved = 0.0 if posterior.kind == "point" else _pivot(posterior).moved
        if moved <= relabel.REFUSED:  # above it the draws are matched: the declared labels are those of no component
            rule = "labels as the model declares them: its prior or weights tell the components apart"
            says = f"in {moved:.0%} of the draws the components are in another order than in most: they are not settled"
            return Labelling(own, rule, says if moved > UNSETTLED else None)
    if not model.param_shapes:
        return Labelling(None, "no classification: neither parameters nor weights tell the components apart")
    if posterior.kind == "point":
        number = np.argsort(_ascending(model, posterior.params))
        by_point = lambda draws: np.broadcast_to(number, (*draws.shape, K))
        return Labelling(by_point, f"labels number the components of one point estimate, {_sorted_by(model)}")
    found = _pivot(posterior)
    if found.reason is not None:
        return Labelling(None, f"no classification: the labels of the draws cannot be matched; {found.reason}")
    matched = lambda draws: relabel.matched(_responsibilities(draws), found.pivot).reshape(*draws.shape, K)
    rule = (
        f"labels after relabelling: each draw's components are matched to the mean responsibilities of the data "
        f"(Stephens 2000), numbered {_sorted_by(model)}"
    )
    return Labelling(matched, rule, found.warning)


def classify(posterior: Posterior, x, seen=None, how: Labelling | None = None) -> Classes:
    """P(z_n = k | x_n, data) = E p(z_n = k, x_n | params) / E p(x_n | params) by label; never 1/K."""
    how = labelling(posterior) if how is None else how
    if how.labels is None:
        return Classes(None, how.rule)
    K = posterior.model.num_components
    used = posterior if posterior.kind == "point" else thinned(posterior, NUM_CLASSIFIED)
    labels = how.labels(used).reshape(-1, K)
    rows = []
    for table in tables(used, x, seen):
        table = relabel.relabelled(table.reshape(-1, *table.shape[2:]), labels).reshape(table.shape)
        top = table.max(axis=(0, 1, 3), keepdims=True)
        joint = np.exp(table - np.where(np.isfinite(top), top, 0.0))
        for n in range(table.shape[2]):
            rows.append([ratio(used, joint[:, :, n, k], joint[:, :, n].sum(axis=-1)) for k in range(K)])
    return Classes(average(rows), how.rule, _clusters(used, labels), how.warning)


def _pivot(posterior) -> relabel.Relabelling:
    model, few = posterior.model, spread(posterior, NUM_MATCHED)
    values = {**derived(model, few.params, few.shape), **few.params}
    flat = {name: np.asarray(leaf)[0] for name, leaf in values.items()}
    weights = _inputs(lambda p, x: model.log_weights_table(p, x), model, one_row(model))
    around = lambda angle: np.stack([np.sin(angle), np.cos(angle)], axis=-1)  # the circle has no cut
    circular = angles(model)
    own = [around(flat[n]) if n in circular else flat[n] for n in model.component_leaves if n not in weights]
    R = _responsibilities(few)
    order = flat[_sorting(model)] if _sorting(model) else R.sum(axis=1)
    return relabel.fit(R, own, order.reshape(*order.shape[:2], -1)[..., 0])


def _responsibilities(posterior) -> np.ndarray:
    """Of the data, or of 500 of them evenly spread, flat over draws: (M, n, K)."""
    N = num_rows(posterior.x)
    rows = np.arange(min(N, relabel.NUM_ROWS)) * N // min(N, relabel.NUM_ROWS)
    table = np.concatenate(list(tables(posterior, take(posterior.x, rows))), axis=2)
    table = table.reshape(-1, *table.shape[2:])
    return np.exp(table - logsumexp(table, axis=-1, keepdims=True))


def _sorting(model) -> str | None:
    """The parameter whose first number orders the components."""
    return _sort_leaf(model) or next(iter(model.component_leaves), None)


def _ascending(model, params):
    """The components of one point in that order."""
    one = {k: jnp.asarray(v[0, 0]) for k, v in params.items()}
    values = {**model.derived(one), **one}
    if _sorting(model) is None:
        return np.arange(model.num_components)
    return np.argsort(np.reshape(values[_sorting(model)], (model.num_components, -1))[:, 0], kind="stable")


def _sorted_by(model) -> str:
    return f"in ascending order of {_sorting(model)}" if _sorting(model) else "in the order of their size"


def _clusters(posterior, labels) -> tuple[dict[str, Any], ...]:
    """The posterior means of the components' own parameters, by label (M, K); those of at most ten numbers each.

    Of an angle the mean direction, atan2(E sin, E cos) (Mardia & Jupp 2000, Directional Statistics, section 2.2).
    """
    model = posterior.model
    circular = angles(model)
    K = model.num_components
    clusters: list[dict[str, Any]] = [{} for _ in range(K)]
    for name in model.component_leaves if posterior.params else ():
        leaf = np.asarray(posterior.params[name])
        if leaf[0, 0].size > 10 * K:
            continue
        flat = relabel.relabelled(leaf.reshape(-1, *leaf.shape[2:]), labels, axis=1)
        mean = lambda values: np.tensordot(posterior.share.ravel(), values, axes=1)  # noqa: B023
        means = np.arctan2(mean(np.sin(flat)), mean(np.cos(flat))) if name in circular else mean(flat)
        for k in range(K):
            clusters[k][name] = means[k].tolist()
    return tuple(clusters)
