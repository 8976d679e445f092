"""Figures of a model before any fit: what its prior expects beside its data, and its graph. Each returns a Figure."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import MaxNLocator

from diagnostics import pictures
from diagnostics.graph import COMPONENTS, OBSERVATIONS
from diagnostics.graph import graph as graph_of
from diagnostics.pictures import COLOURS, GREY, INK, PALE, WIDTH
from zoo import support
from zoo.probe import NUM_DRAWS, draw_observations

NUM_CURVES = 25  # prior draws shown as curves
NUM_SETS = 40  # prior draws at which data sets are simulated
MAX_ROWS = 1000  # observations of a simulated data set
NUM_ROWS = 200  # of one, for a model without data
MAX_PANELS = 6  # columns drawn, each on its own
MAX_NAMES = 30  # items whose names fit below their bars
MAX_VALUES = 25  # values of a count that get a bar each
REACH = 1.5  # spans of the data that an axis goes beyond them to show more of the prior
MIDDLE = (0.05, 0.95)  # of the prior predictive, where it is an interval
SEED = 11


# -- the prior predictive -----------------------------------------------------------------------------------------


@pictures.styled
def prior_predictive(model) -> Figure:
    """What the prior expects of the data, beside the model's own where it has any.

    One number: mixture densities (of counts: probabilities) at prior draws, over a histogram. Two or more, or one
    that follows a covariate: data sets simulated at prior draws beside the data, the first two features. Items of 0
    and 1: the share of ones of each. Columns of several kinds: each on its own.
    """
    names = [name for name in model.observation_shapes if name != "z"]
    shape = model.observation_shapes["x"] if names == ["x"] else None
    if shape is not None and shape.shape == () and model.covariates_row is None:
        return _densities(model, shape.family in support.COUNTS)
    if shape is not None and shape.shape == () or shape is not None and shape.family not in support.COUNTS:
        return _scatters(model)
    if shape is not None and shape.family == "Bernoulli":
        return _shares(model)
    return _columns(model)


def _densities(model, counts) -> Figure:
    x = None if model.data is None else np.asarray(model.data.x, float)
    _, simulated = _simulate(model, NUM_SETS, 50)
    low, high = _limits(x, simulated["x"])
    if counts:
        low, high = max(0.0, np.floor(low)), np.ceil(high)
        grid = np.arange(low, high + 1)
    else:
        grid = np.linspace(low, high, pictures.NUM_POINTS)
    grid = np.delete(grid, support.outside(model, grid))
    curves = _curves(model, grid)
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    peaks = np.nanmax(curves[:NUM_CURVES], axis=1)
    top = float(np.quantile(peaks, 0.9))
    if x is not None:
        height = _data_bars(axis, x) if counts else _histogram(axis, x)
        top = max(1.15 * height, min(top, 3 * height))
    for i, curve in enumerate(curves[:NUM_CURVES] if len(curves) > 1 else ()):
        label = f"mixture {'probabilities' if counts else 'density'} at one of {NUM_CURVES} prior draws"
        axis.plot(grid, curve, color=COLOURS[0], lw=0.9, alpha=0.45, label=None if i else label)
    label = f"mean over {len(curves)} prior draws" if len(curves) > 1 else "density: nothing is unknown"
    marker = "o" if counts and len(grid) <= 60 else None
    axis.plot(grid, curves.mean(axis=0), color=COLOURS[1], lw=1.8, marker=marker, ms=3, label=label)
    axis.set_ylim(0, 1.05 * top)
    axis.set_xlim(grid[0] - 0.6 * counts, grid[-1] + 0.6 * counts)
    if counts:
        axis.xaxis.set_major_locator(MaxNLocator(9, integer=True))
    data = pictures.known(model, model.data.x) if x is not None else {"columns": [], "units": ""}
    axis.set_xlabel(pictures.quantity(data))
    axis.set_ylabel(pictures.height(model, data))
    beyond = np.mean((simulated["x"] < grid[0]) | (simulated["x"] > grid[-1]))
    said = [f"{beyond:.0%} of the prior predictive lies beyond this axis"] if beyond >= 0.005 else []
    said += ["the highest peaks are cut"] if peaks.max() > 1.05 * top else []
    axis.set_title("; ".join(said), color=GREY)
    _legend(figure, [axis])
    pictures.title(figure, f"{model.name}: what the prior expects" + ("" if x is None else ", and the data"))
    return figure


def _scatters(model) -> Figure:
    """The data beside three data sets simulated at prior draws; a covariate is the horizontal axis."""
    z, simulated = _simulate(model, NUM_SETS, _num_rows(model))
    columns = [_pair(model, {name: leaf[i] for name, leaf in simulated.items()}) for i in range(NUM_SETS)]
    own = None if model.data is None else _pair(model, model.data.x)
    first = columns[0] if own is None else own
    names = list(first)
    every = {name: np.concatenate([c[name] for c in columns]) for name in names}
    limits = [_limits(None if own is None else own[name], every[name]) for name in names]
    shown = 3 if own is not None else 4
    figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, 4, sharex=True, sharey=True))
    size = {"ms": 3.2 if len(first[names[0]]) <= 400 else 1.8, "mew": 0, "alpha": 0.65, "ls": "none", "marker": "o"}
    if own is not None:
        axes[0].plot(*own.values(), color=INK, **size)
        axes[0].set_title("data", fontsize=8.5)
    for i, axis in enumerate(axes[-shown:]):
        horizontal, vertical = columns[i].values()
        for k in range(model.num_components):
            mine = z[i] == k
            axis.plot(horizontal[mine], vertical[mine], color=pictures.shade(k, model.num_components), **size)
        inside = np.all([(v >= a) & (v <= b) for v, (a, b) in zip(columns[i].values(), limits, strict=True)], axis=0)
        beyond = 1 - inside.mean()
        said = f"prior draw {i + 1}" + (f", {beyond:.0%} beyond" if beyond >= 0.005 else "")
        axis.set_title(said, fontsize=8.5)
    axes[0].set_xlim(*limits[0])
    axes[0].set_ylim(*limits[1])
    axes[0].set_ylabel(_label(model, names[1]))
    for axis in axes:
        axis.xaxis.set_major_locator(MaxNLocator(3))
    figure.supxlabel(_label(model, names[0]), fontsize=9)
    D = model.data.num_features if model.data is not None else 2
    which = f", the first two of {D} features" if D > 2 and model.covariates_row is None else ""
    pictures.title(figure, f"{model.name}: data sets that the prior expects{which}; colours: components")
    return figure


def _shares(model) -> Figure:
    """The share of ones of every item: the data's as bars, the prior's as intervals."""
    _, simulated = _simulate(model, NUM_SETS, _num_rows(model))
    ones = simulated["x"].mean(axis=1)  # (M, D)
    D = ones.shape[1]
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    if model.data is not None:
        axis.bar(np.arange(D), np.asarray(model.data.x).mean(axis=0), 0.85, color=PALE, label="data")
    _intervals(axis, np.arange(D), ones)
    axis.set_ylim(0, 1)
    axis.set_xlim(-0.7, D - 0.3)
    axis.set_ylabel("share of ones")
    names = model.data.feature_names if model.data is not None else ()
    if len(names) == D <= MAX_NAMES:
        axis.set_xticks(np.arange(D), names, rotation=45, ha="right", rotation_mode="anchor")
    else:
        axis.set_xlabel(f"item, 0 to {D - 1}")
    _legend(figure, [axis])
    pictures.title(figure, f"{model.name}: share of ones of each item, as the prior expects it and in the data")
    return figure


def _columns(model) -> Figure:
    """Every column on its own: bars and intervals for counts and categories, histograms for numbers."""
    _, simulated = _simulate(model, NUM_SETS, _num_rows(model))
    own = {} if model.data is None else _by_column(model, model.data.x)
    columns = list(_by_column(model, {name: leaf[0] for name, leaf in simulated.items()}).items())[:MAX_PANELS]
    every = [_by_column(model, {name: leaf[i] for name, leaf in simulated.items()}) for i in range(NUM_SETS)]
    rows = -(-len(columns) // 3)
    figure = Figure(figsize=(WIDTH, 0.7 + 2.5 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, min(3, len(columns)), squeeze=False).ravel()
    for axis in axes[len(columns) :]:
        axis.set_axis_off()
    for axis, (name, (family, _)) in zip(axes, columns, strict=False):
        values = own[name][1] if name in own else None
        sets = np.stack([c[name][1] for c in every])
        words = model.data.categories.get(name, ()) if model.data is not None else ()
        top = _counts_panel(axis, values, sets, words) if family in support.COUNTS else None
        if top is None:
            _number_panel(axis, values, sets)
        axis.set_xlabel(_label(model, name) if not words else name)
    _legend(figure, axes)
    total = len(_by_column(model, {name: leaf[0] for name, leaf in simulated.items()}))
    which = f", the first {MAX_PANELS} of {total} columns" if total > MAX_PANELS else ", column by column"
    pictures.title(figure, f"{model.name}: what the prior expects, and the data{which}")
    return figure


def _counts_panel(axis, values, sets, words) -> float | None:
    """Shares of 0, 1, ...; None, and nothing drawn, where they are too many for a bar each."""
    top = int(sets.max() if values is None else max(values.max(), min(sets.max(), REACH * values.max() + 1)))
    if top >= MAX_VALUES:
        return None
    ticks = np.arange(top + 1)
    if values is not None:
        axis.bar(ticks, [np.mean(values == t) for t in ticks], 0.8, color=PALE, label="data")
    _intervals(axis, ticks, np.stack([(sets == t).mean(axis=1) for t in ticks], axis=1))
    if len(words) == len(ticks):
        axis.set_xticks(ticks, words, rotation=90 if len(words) > 3 else 0, fontsize=7 if len(words) > 3 else 8)
    else:
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.set_ylim(0, None)
    axis.set_ylabel("share")
    return float(top)


def _number_panel(axis, values, sets):
    """A histogram of the data, and of every simulated data set as a line."""
    low, high = _limits(values, sets)
    edges = np.linspace(low, high, 25)
    height = 0.0
    if values is not None:
        heights, _, _ = axis.hist(values, bins=edges, density=True, color=PALE, edgecolor="white", lw=0.5, label="data")
        height = heights.max()
    shown = []
    for i, one in enumerate(sets[: NUM_CURVES // 2]):
        counts = np.histogram(one, edges)[0] / (len(one) * np.diff(edges))
        shown.append(counts.max())
        label = None if i else "histogram of a data set simulated at a prior draw"
        axis.stairs(counts, edges, color=COLOURS[0], lw=0.9, alpha=0.5, label=label)
    axis.set_ylim(0, 1.1 * max(height, min(np.quantile(shown, 0.9), 3 * height or np.inf)))
    axis.set_ylabel("density")


def _intervals(axis, places, shares):
    """The middle of `shares` (M, D) over prior draws, place by place."""
    low, high = np.quantile(shares, MIDDLE, axis=0)
    middle = np.median(shares, axis=0)
    colour = COLOURS[0]
    label = f"prior: median, and the middle {MIDDLE[1] - MIDDLE[0]:.0%} of {len(shares)} draws"
    axis.vlines(places, low, high, color=colour, lw=1.6, alpha=0.8)
    axis.plot(places, middle, "o", color=colour, ms=3.5, label=label)


def _legend(figure, axes):
    """One legend of all axes below the figure, the data first."""
    found = {label: h for axis in axes for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    order = sorted(found, key=lambda label: label != "data")
    figure.legend([found[label] for label in order], order, loc="outside lower center", ncols=3)


# -- what they are drawn from -------------------------------------------------------------------------------------


def _simulate(model, num_sets, n):
    """Data sets of n observations at prior draws: assignments (M, n), and every observed site's values (M, n, ...)."""
    draws = {name: leaf[:num_sets] for name, leaf in model.prior_draws(jax.random.key(SEED), NUM_DRAWS).items()}
    keys = jax.random.split(jax.random.key(SEED + 1), num_sets)
    z, x = jax.tree.map(np.asarray, _simulator(model, n)(draws, keys))
    x = x if isinstance(x, dict) else {"x": x}
    return z, {name: np.asarray(leaf, float) if name != "covariates" else leaf for name, leaf in x.items()}


@functools.cache
def _simulator(model, n):
    return jax.jit(lambda draws, keys: jax.lax.map(lambda at: draw_observations(model, *at, n), (draws, keys)))


def _curves(model, grid):
    """The mixture's density on the grid at every prior draw, (M, G); (1, G) where nothing is unknown."""
    density = lambda params: jnp.exp(model.pointwise_log_likelihood(params, jnp.asarray(grid)))
    draws = model.prior_draws(jax.random.key(SEED), NUM_DRAWS)
    found = jax.jit(lambda draws: jax.lax.map(density, draws) if draws else density({})[None])(draws)
    return np.where(np.isfinite(found), found, np.nan)


def _num_rows(model) -> int:
    return NUM_ROWS if model.data is None else min(model.data.num_observations, MAX_ROWS)


def _limits(x, simulated):
    """Ends of an axis: the data and the middle of the prior predictive, but REACH spans beyond the data at most."""
    finite = simulated[np.isfinite(simulated)]
    low, high = np.quantile(finite, MIDDLE) if finite.size else (0.0, 1.0)
    if x is not None:
        span = float(np.ptp(x)) or max(1.0, 0.1 * abs(float(np.mean(x))))
        low = max(min(low, x.min()), x.min() - REACH * span)
        high = min(max(high, x.max()), x.max() + REACH * span)
    pad = 0.04 * (high - low) or 0.5
    return float(low - pad), float(high + pad)


def _by_column(model, x) -> dict:
    """column -> (family, values (N,)) of everything observed; features are called as those of the model's data."""
    x = x if isinstance(x, dict) else {"x": x}
    found: dict = {}
    for name in (name for name in model.observation_shapes if name != "z"):
        family, leaf = model.observation_shapes[name].family, np.asarray(x[name], float)
        flat = leaf.reshape(len(leaf), -1)
        own = model.data.feature_names if model.data is not None and not isinstance(model.data.x, dict) else ()
        names = [name] if leaf.ndim == 1 else [f"{name}[{d}]" for d in range(flat.shape[1])]
        names = list(own) if leaf.ndim > 1 and len(own) == len(names) else names
        found |= {column: (family, values) for column, values in zip(names, flat.T, strict=True)}
    return found


def _pair(model, x) -> dict:
    """The two columns of a scatter plot: the first covariate and what is observed, or the first two features."""
    values = {name: values for name, (_, values) in _by_column(model, x).items()}
    if model.covariates_row is not None:
        covariate = np.asarray(jax.tree.leaves(x["covariates"])[0], float)
        covariate = covariate.reshape(len(covariate), -1)[:, 0]
        values = {"covariates": covariate, **values}
    return dict(list(values.items())[:2])


def _label(model, column) -> str:
    """The column with its unit, where that is recorded."""
    units = model.data.units if model.data is not None else ""
    named = dict(part.split(": ", 1) for part in units.split("; ")) if ": " in units else {}
    unit = named.get(column, named.get("others", "") if named else units)
    return f"{column} ({unit})" if unit not in ("", "dimensionless", "code", "not stated") else column


def _histogram(axis, x) -> float:
    bins = int(np.clip(3 * np.sqrt(len(x)), 15, 40))
    edges = np.linspace(x.min(), x.max(), bins + 1) if np.ptp(x) else np.array([x[0] - 0.5, x[0] + 0.5])
    pictures.histogram(axis, x, edges)
    return float(np.histogram(x, edges, density=True)[0].max())


def _data_bars(axis, x) -> float:
    values, times = np.unique(x, return_counts=True)
    axis.bar(values, times / len(x), 0.85, color=PALE, label="data")
    return float(times.max() / len(x))


# -- the graph ----------------------------------------------------------------------------------------------------

BOX = (1.9, 0.62)  # of a site
STEP = (2.25, 1.25)  # between the centres of two


@pictures.styled
def graph(model) -> Figure:
    """Sites as boxes (observed ones grey), plates as frames, and an arrow from every parent to its child."""
    nodes = {node.name: node for node in graph_of(model)}
    places = _places(nodes)
    left, right = (end(x for x, _ in places.values()) for end in (min, max))
    low, high = (end(y for _, y in places.values()) for end in (min, max))
    width, height = right - left + STEP[0], high - low + STEP[1] + 0.5
    scale = min(0.62, WIDTH / width)
    figure = Figure(figsize=(max(width * scale, 4.5), height * scale + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.set_axis_off()
    axis.set_aspect("equal")
    boxes = {}
    for name, (x, y) in places.items():
        node = nodes[name]
        colour = {"observed": PALE, "covariates": "#f2f2f2"}.get(node.role, "white")
        corner = (x - BOX[0] / 2, y - BOX[1] / 2)
        boxes[name] = FancyBboxPatch(corner, *BOX, boxstyle="round,pad=0,rounding_size=0.18", fc=colour, ec=INK, lw=1)
        axis.add_patch(boxes[name])
        size = 12.5 * scale / 0.62
        shape = f" ({', '.join(map(str, node.shape))})" if node.shape else ""
        axis.text(x, y + 0.11, name, ha="center", va="center", fontsize=size * 0.76, fontweight="bold")
        family = re.sub("(FullCovariance|Diag|TriL)$", "", node.family)  # how it is given, which no box has room for
        family = (family or ("given" if node.role == "covariates" else "own density")) + shape
        axis.text(
            x, y - 0.15, family, ha="center", va="center", fontsize=size * min(0.6, 13 / len(family)), color="#555555"
        )
    for name, node in nodes.items():
        for parent in node.parents:
            arrow = {"arrowstyle": "-|>", "color": INK, "lw": 0.9, "shrinkA": 0, "shrinkB": 1}
            arrow |= {"patchA": boxes[parent], "patchB": boxes[name]}
            axis.annotate("", places[name], places[parent], arrowprops=arrow, zorder=1)
    for plate, text in ((COMPONENTS, f"K = {model.num_components}"), (OBSERVATIONS, _rows_of(model))):
        inside = [places[name] for name, node in nodes.items() if node.plate == plate]
        if inside:
            (x0, y0), (x1, y1) = np.min(inside, axis=0), np.max(inside, axis=0)
            x0, y0, x1, y1 = x0 - 1.06, y0 - 0.62, x1 + 1.06, y1 + 0.42
            frame = FancyBboxPatch((x0, y0), x1 - x0, y1 - y0, boxstyle="round,pad=0,rounding_size=0.12", fc="none")
            frame.set(ec=GREY, lw=0.9, zorder=0)
            axis.add_patch(frame)
            axis.text(x1 - 0.1, y0 + 0.12, text, ha="right", va="center", fontsize=size * 0.6, color="#555555")
    axis.set_xlim(left - STEP[0] / 2 - 0.1, right + STEP[0] / 2 + 0.1)
    axis.set_ylim(low - 0.75, high + 0.6)
    pictures.title(figure, f"{model.name}: its graph")
    return figure


def _rows_of(model) -> str:
    return "N" if model.data is None else f"N = {model.data.num_observations:,}"


def _places(nodes) -> dict:
    """name -> (x, y): a column for each site of the prior, those in no plate first; parents above children.

    Below them the plate of observations: z, then what is observed, with the covariates at the end of z's row.
    """
    prior = [node for node in nodes.values() if node.role == "parameter"]
    depth: dict = {}
    for node in prior:  # in the order of the declaration, so parents come first
        depth[node.name] = 1 + max((depth[p] for p in node.parents if p in depth), default=-1)
    deepest = max(depth.values(), default=-1)
    ordered = sorted(prior, key=lambda node: node.plate == COMPONENTS)
    first = 0 if ordered and ordered[0].plate != COMPONENTS else 1  # the column of z is left free for its parents
    observed = [node.name for node in nodes.values() if node.role == "observed"]
    rise = 1 + 0.35 * (len(observed) - 1)  # so high that an arrow from z to the last of them passes over the others
    places = {}
    for column, node in enumerate(ordered, first):
        places[node.name] = (column * STEP[0], (deepest - depth[node.name] + rise + 1.35) * STEP[1])
    last = max(first + len(prior) - 1, len(observed), 1) * STEP[0]
    places["z"] = (0.0, rise * STEP[1])
    if "covariates" in nodes:
        last = max(last, 2 * STEP[0])
        places["covariates"] = (last, rise * STEP[1])
    for i, name in enumerate(observed, 1):
        places[name] = (max(last / 2, STEP[0]) if len(observed) == 1 else i * STEP[0], 0.0)
    return places
