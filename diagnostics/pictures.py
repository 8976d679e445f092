"""What the figures of `plots` are made of: the style, equal-weight draws, densities on a grid, axes and labels."""

import base64
import functools
import io
import math
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

from diagnostics.functionals import _sort_leaf, in_blocks
from diagnostics.to_arviz import resample
from inference.results import Draws, Exact, PointMass
from zoo import support
from zoo.dataset import checksum

# Okabe & Ito (2008), without yellow, which is too light for lines on white
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#666666", "#8B5A2B"),
    *("#882255", "#999933", "#332288", "#DD8888", "#117733"),
)
MARKERS = "os^DvPX*"
INK, GREY, PALE = "#222222", "#8a8a8a", "#d9d9d9"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib, so that a page looks the same wherever it was made
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "axes.formatter.useoffset": False,
    "axes.facecolor": "none",  # panels side by side must not cover each other's text
}
WIDTH = 8.0  # inches
DPI = 150
NUM_DRAWS = 400  # draws behind a curve and its band
NUM_POINTS = 1200  # of the grid
MAX_BARS = 60  # observations drawn one by one
MAX_HEAT = 200  # observations along each side of a heat map
MAX_TRACE = 400  # draws of each chain in a trace
MAX_COMPONENTS = 12  # curves of single components
BAND = (0.05, 0.95)
PLAIN = FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")


def styled(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        with matplotlib.rc_context(STYLE):
            return function(*args, **kwargs)

    return wrapper


# -- draws for pictures -------------------------------------------------------------------------------------------


def equal_weight(result, num=NUM_DRAWS):
    """At most `num` equal-weight draws of the parameters, leaves (1, M, ...): thinned, resampled, or the best point."""
    if isinstance(result, PointMass):
        best = int(np.argmax(np.asarray(result.admissible)))  # sorted: the first admissible
        return {name: np.asarray(leaf)[best][None, None] for name, leaf in result.params.items()}
    if isinstance(result, Exact):
        if result.nodes and result.log_weights is not None:
            log_weights = np.asarray(result.log_weights)
            nodes = {name: np.asarray(leaf)[None] for name, leaf in result.nodes.items()}
            return resample(Draws(nodes, None, result.cost, log_weights=log_weights[None]), 0, num).params
        if result.draws is None:
            return None
        result = result.draws
    if not isinstance(result, Draws):
        return None
    if not result.params:
        return {}
    if result.log_weights is not None:
        return resample(result, 0, num).params
    flat = {name: np.asarray(leaf).reshape(-1, *np.shape(leaf)[2:]) for name, leaf in result.params.items()}
    M = len(next(iter(flat.values())))
    kept = np.unique(np.linspace(0, M - 1, min(M, num)).astype(int))
    return {name: leaf[kept][None] for name, leaf in flat.items()}


def sorted_tables(model, params, x, what):
    """exp(log p(z = k, x_n | params)) or p(z_n = k | x_n, params), components sorted draw by draw, shape (M, N, K)."""
    M = np.shape(next(iter(params.values())))[1] if params else 1
    return in_blocks(_table_program(model, what), params, (1, M), model, x)[0]


@functools.cache
def _table_program(model, what):
    leaf = sorted_by(model)

    def one(_, params, x):
        table = model.log_table(params, x)
        table = jnp.exp(table) if what == "density" else jax.nn.softmax(table, axis=1)
        if leaf is None:
            return table
        return table[:, jnp.argsort({**model.derived(params), **params}[leaf])]

    return jax.jit(jax.vmap(one, in_axes=(0, 0, None)))


@functools.cache
def sorted_by(model) -> str | None:
    """The parameter that numbers the components in pictures; None where they keep the model's own numbers."""
    return _sort_leaf(model) if model.param_shapes and model.num_components > 1 else None


def numbered(model) -> bool:
    """Whether components can be numbered at all: by sorting, or because their parameters are known."""
    return not model.param_shapes or sorted_by(model) is not None


# -- a fitted density ---------------------------------------------------------------------------------------------


class Fit:
    """Weighted component densities on a grid: curves (M, G, K), and where along the axis there is anything to see."""

    def __init__(self, grid, curves, x):
        self.grid, self.curves = grid, curves
        self.middle = curves.sum(axis=-1).mean(axis=0)
        self.shown = self.middle > 1e-3 * self.middle.max()
        r = curves.mean(axis=0)  # (G, K): which component owns a value, on average
        owner = r.argmax(axis=1)[np.clip(np.searchsorted(grid, x), 0, len(grid) - 1)]
        within = [x[owner == k] - np.median(x[owner == k]) for k in set(owner.tolist())]
        mass = r / np.maximum(r.sum(axis=0), np.finfo(float).tiny)
        centre = grid @ mass
        fitted = np.sqrt(np.sum(mass * (grid[:, None] - centre) ** 2, axis=0)).min()  # sd of the narrowest component
        self.edges = _edges(x, np.concatenate(within), len(within), fitted / 2)
        self.segments = segments(grid, self.shown, x)


def fit(result, model, x):
    if isinstance(x, dict) or np.ndim(x) != 1:
        return None
    draws = equal_weight(result)
    if draws is None:
        return None
    x = np.asarray(x, float)
    span = float(np.ptp(x)) or max(1.0, abs(float(x[0])) * 0.1)
    if model.observation_shapes["x"].family in support.COUNTS:
        grid = np.arange(max(0, math.floor(x.min() - 0.1 * span)), math.ceil(x.max() + 0.1 * span) + 1).astype(float)
    else:
        grid = np.linspace(x.min() - 0.25 * span, x.max() + 0.25 * span, NUM_POINTS)
    curves = sorted_tables(model, draws, grid, "density")
    curves[:, support.outside(model, grid)] = 0.0  # where a density function may say anything
    return Fit(grid, curves, x) if np.isfinite(curves).all() else None


def segments(grid, shown, x):
    """Stretches of the axis worth drawing: one, unless most of it is empty."""
    keep = shown.copy()
    step = grid[1] - grid[0]
    for value in x:
        keep |= np.abs(grid - value) <= 2 * step
    total = grid[keep][-1] - grid[keep][0]
    starts = np.flatnonzero(np.diff(np.r_[0, keep.astype(int)]) == 1)
    ends = np.flatnonzero(np.diff(np.r_[keep.astype(int), 0]) == -1)
    pieces: list[list[float]] = []
    for a, b in zip(grid[starts], grid[ends], strict=True):
        if pieces and a - pieces[-1][1] < 0.15 * total:
            pieces[-1][1] = b
        else:
            pieces.append([a, b])
    used = sum(b - a for a, b in pieces)
    if len(pieces) > 4 or used > 0.6 * total:
        pieces = [[pieces[0][0], pieces[-1][1]]]
    pad = 0.04 * max(b - a for a, b in pieces) + step
    return [(a - pad, b + pad) for a, b in pieces]


def _edges(x, residuals, num_groups, least):
    """Histogram bins as wide as one component asks for (Scott's rule within them), at least `least`, beside whose
    fitted density narrower bars would tower; whole for whole-numbered data."""
    per_group = max(len(x) / num_groups, 2)
    width = 2.6 * float(np.std(residuals)) * per_group ** (-1 / 3)
    span = float(np.ptp(x)) or 1.0
    width = min(max(width, span / 400, least), span) or 1.0
    if np.all(x == np.round(x)):
        width = max(1.0, round(width))
        return np.arange(x.min() - 0.5, x.max() + 0.5 + width, width)
    return np.arange(x.min() - width / 2, x.max() + 1.5 * width, width)


def histogram(axis, x, edges):
    axis.hist(np.asarray(x), bins=edges, density=True, color=PALE, edgecolor="white", lw=0.6, label="data")
    low, high = axis.get_xlim()
    inside = np.asarray(x)[(x >= low) & (x <= high)]
    if len(x) <= 100:  # a rug, so that single values are seen
        axis.plot(inside, np.zeros(len(inside)), "|", color=INK, ms=7, mew=0.8, clip_on=False, zorder=4)


# -- small parts --------------------------------------------------------------------------------------------------


def data_uri(figure: Figure) -> str:
    """The figure as a PNG data URI of at most 256 colours, which makes it a third of the size."""
    with matplotlib.rc_context(STYLE):
        figure.set_dpi(DPI)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    buffer = io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(buffer, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def save(figure: Figure, path):
    """Writes the figure to a file, in the style that its layout needs."""
    with matplotlib.rc_context(STYLE):
        figure.savefig(path, dpi=DPI)


def panels(rows, height):
    """A figure with one row of axes per list of segments, widths in proportion; axes share y along a row."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    segments = rows[0]
    axes = figure.subplots(
        len(rows), len(segments), sharey="row", squeeze=False, width_ratios=[b - a for a, b in segments]
    )
    for row in axes:
        for axis, (a, b) in zip(row, segments, strict=True):
            axis.set_xlim(a, b)
            axis.xaxis.set_major_locator(MaxNLocator(max(2, round(7 * (b - a) / sum(q - p for p, q in segments)))))
    return figure, axes


def cut_marks(row):
    """Slanted strokes where the axis leaves out an empty stretch."""
    for i, axis in enumerate(row):
        stroke = {"marker": [(-0.6, -1), (0.6, 1)], "ms": 8, "ls": "none", "color": GREY, "mew": 1, "clip_on": False}
        if i > 0:
            axis.spines["left"].set_visible(False)
            axis.tick_params(axis="y", left=False, labelleft=False)
            axis.plot([0], [0], transform=axis.transAxes, **stroke)
        if i < len(row) - 1:
            axis.plot([1], [0], transform=axis.transAxes, **stroke)


def band(curves):
    """5% quantile, mean, 95% quantile over draws (M, G)."""
    low, high = np.quantile(curves, BAND, axis=0)
    return low, curves.mean(axis=0), high


def title(figure, text):
    figure.suptitle(text, x=0.01, ha="left", fontsize=10.5, fontweight="bold")


def shade(k, K):
    """Components are ordered, so their colours are too: along viridis, short of its pale end."""
    return matplotlib.colormaps["viridis"](0.08 + 0.74 * k / max(K - 1, 1))


def dash(k):
    return ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1.5, 1.5)))[k % 4]


def component(model, k, noun="component "):
    """What a legend calls component k: its place, where components are sorted. Numbers count from 0, as in tables."""
    last = model.num_components - 1
    place = {0: " (lowest)", last: " (highest)"}.get(k, "") if sorted_by(model) else ""
    return f"{noun}{k}{place}"


def known(model, x) -> dict:
    """Columns and units of `x` where it is the model's own data: another's are not called by the same names."""
    own = model.data
    if own is None or own.sha256 != checksum(x):
        return {"columns": [], "units": ""}
    return {"columns": list(own.feature_names), "units": own.units}


def quantity(data):
    """Axis label: the feature and its unit; `data` has "columns" and "units"."""
    name = data["columns"][0] if data["columns"] else "x"
    return f"{name} ({data['units']})" if data["units"] not in ("", "dimensionless") else name


def height(model, data):
    """Axis label of a density, or of a probability where the observations are counts."""
    if model.observation_shapes["x"].family in support.COUNTS:
        return "probability"
    unit = data["units"].split(" per ")[0]
    return f"density (per {unit})" if unit not in ("", "dimensionless", "standardised") else "density"


def data_order(x):
    leaf = np.asarray(next(iter(x.values())) if isinstance(x, dict) else x)
    return np.argsort(leaf.reshape(len(leaf), -1)[:, 0], kind="stable")


def value_labels(x, index):
    if isinstance(x, dict) or np.ndim(x) != 1:
        return [""] * len(index)
    return [f"{value:.4g}" for value in np.asarray(x)[index]]
