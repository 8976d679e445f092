"""Figures of a comparison. Each function returns a matplotlib Figure, or None where the picture would mean nothing.

Components have no names of their own in a picture: they are numbered in ascending order of the parameter that
`functionals` sorts by, draw by draw, and the titles say so. Nothing here enters a verdict. No pyplot state is used.
"""

import math

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from diagnostics import pictures, verdicts
from diagnostics.pictures import COLOURS, GREY, INK, WIDTH, equal_weight, sorted_by
from zoo.mixture import num_observations

FAMILIES = (  # prefix, heading: the order of functionals in tables and pictures
    ("sorted_", "Components, sorted"),
    ("", "Parameters"),  # what no other prefix takes
    ("mixture_", "Mean and variance of the mixture"),
    ("log_density", "Log density"),
    ("log_predictive", "Log density of single observations"),
    ("co_clustering", "Probability that two observations share a component"),
    ("entropy", "Uncertainty of the assignments"),
    ("occupied", "Components in use"),
)


# -- the data and the fit -----------------------------------------------------------------------------------------


@pictures.styled
def fitted_density(result, model, x, name="", data=None) -> Figure | None:
    """Histogram, posterior mean density with its 90% band, and the weighted components with theirs; 1-D data only.

    `data` has the "columns" and "units" of x, which name the axes (default: those of the model's own data, if x is it).
    """
    data = data or pictures.known(model, x)
    fit = pictures.fit(result, model, x)
    if fit is None:
        return None
    figure, axes = pictures.panels([fit.segments], 3.5)
    low, middle, high = pictures.band(fit.curves.sum(axis=-1))
    K = fit.curves.shape[-1]
    several = 1 < K <= pictures.MAX_COMPONENTS
    for axis, piece in zip(axes[0], fit.segments, strict=True):
        here = (fit.grid >= piece[0]) & (fit.grid <= piece[1])
        grid = fit.grid[here]
        pictures.histogram(axis, x, fit.edges)
        if not several:
            axis.fill_between(grid, low[here], high[here], color=COLOURS[0], alpha=0.25, lw=0)
        for k in range(K) if several else ():
            a, b, c = (curve[here] for curve in pictures.band(fit.curves[..., k]))
            seen = b > 1e-4 * middle.max()  # a curve along the axis would hide the rug
            axis.fill_between(grid, a, c, where=seen, color=pictures.shade(k, K), alpha=0.28, lw=0)
            axis.plot(
                grid, np.where(seen, b, np.nan), color=pictures.shade(k, K), lw=2.6, label=pictures.component(model, k)
            )
        axis.plot(grid, middle[here], color=INK, lw=1.1, ls=(0, (4, 2)), label="mixture")
    pictures.cut_marks(axes[0])
    axes[0][0].set_ylabel(pictures.height(model, data))
    axes[0][0].set_ylim(0, None)
    for axis in axes[0]:
        axis.set_xlabel(pictures.quantity(data))
    handles, labels = axes[0][0].get_legend_handles_labels()
    order = np.argsort([not label.startswith("data") for label in labels], kind="stable")
    figure.legend(
        [handles[i] for i in order], [labels[i] for i in order], loc="outside lower center", ncols=6, handlelength=2.4
    )
    bands = ", with 90% bands" if len(fit.curves) > 1 else ""
    pictures.title(figure, f"Data and fitted density{f' by {name}' if name else ''}{bands}")
    return figure


@pictures.styled
def fitted_densities(comparison) -> Figure | None:
    """The fitted density of every back end, one row each, over the data and the reference's."""
    model, x, data = comparison.model, comparison.x, comparison.data
    fits = {name: pictures.fit(result, model, x) for name, result in comparison.results.items()}
    fits = {name: fit for name, fit in fits.items() if fit is not None}
    if not fits:
        return None
    ruler = fits.get(comparison.reference.source)
    usable = [fit for name, fit in fits.items() if comparison.backends[name]["usable"]] or list(fits.values())
    segments = pictures.segments(usable[0].grid, np.any([fit.shown for fit in usable], axis=0), np.asarray(x, float))
    figure, axes = pictures.panels([segments] * len(fits), 0.95 * len(fits) + 0.9)
    edges = (ruler or usable[0]).edges
    top = max(np.histogram(np.asarray(x), edges, density=True)[0].max(), *(fit.middle.max() for fit in usable))
    for row, (name, fit) in zip(axes, fits.items(), strict=True):
        low, middle, high = pictures.band(fit.curves.sum(axis=-1))
        for axis, piece in zip(row, segments, strict=True):
            here = (fit.grid >= piece[0]) & (fit.grid <= piece[1])
            pictures.histogram(axis, x, edges)
            colour = colour_of(comparison, name)
            axis.fill_between(fit.grid[here], low[here], high[here], color=colour, alpha=0.3, lw=0)
            axis.plot(fit.grid[here], middle[here], color=colour, lw=1.6)
            if ruler is not None and fit is not ruler:
                axis.plot(ruler.grid, ruler.middle, color=INK, lw=0.9, ls=(0, (4, 3)))
                axis.set_xlim(*piece)
            axis.set_ylim(0, 1.4 * top)
            axis.yaxis.set_major_locator(MaxNLocator(2))
        shown = np.any([(fit.grid >= a) & (fit.grid <= b) for a, b in segments], axis=0)
        elsewhere = middle[shown].sum() < 0.5 * middle.sum()
        mark = "the reference" if name == comparison.reference.source else ""
        mark = mark or ("" if comparison.backends[name]["usable"] else "not usable")
        mark = "; ".join(filter(None, (mark, "most of it lies outside this picture" if elsewhere else "")))
        text = f"{name} ({mark})" if mark else name
        # not part of the layout: a long name would take width from the panels
        row[0].text(0.012, 0.97, text, transform=row[0].transAxes, va="top", fontsize=9, in_layout=False, zorder=5)
        pictures.cut_marks(row)
    for row in axes[:-1]:
        for axis in row:
            axis.tick_params(labelbottom=False)
    figure.supxlabel(pictures.quantity(data), fontsize=9)
    figure.supylabel(pictures.height(model, data), fontsize=9)
    pictures.title(figure, "Fitted density by back end" + ("; dashed: the reference" if ruler is not None else ""))
    return figure


# -- chains -------------------------------------------------------------------------------------------------------


@pictures.styled
def traces(comparison, name) -> Figure | None:
    """Traces and rank histograms of a few functionals of one chain back end."""
    values = comparison.functionals.get(name, {})
    chosen = _key_functionals(comparison, name)
    if not chosen:
        return None
    figure = Figure(figsize=(WIDTH, 1.05 * len(chosen) + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(chosen), 2, width_ratios=(3, 1.25), squeeze=False)
    rows = {row["functional"]: row for row in comparison.rows if row["backend"] == name}
    for (left, right), functional in zip(axes, chosen, strict=True):
        f = np.asarray(values[functional])
        C, S = f.shape
        kept = np.arange(0, S, max(1, math.ceil(S / pictures.MAX_TRACE)))
        for c in range(C):
            left.plot(kept, f[c, kept], color=COLOURS[c % len(COLOURS)], lw=0.5, alpha=0.75, label=f"chain {c + 1}")
        rhat = rows.get(functional, {}).get("rhat")
        left.set_title(f"{functional}" + (f"   R-hat {rhat:.3f}" if rhat is not None else ""), pad=2)
        left.yaxis.set_major_locator(MaxNLocator(3))
        left.set_xlim(0, S)
        _ranks(right, f)
        if functional != chosen[-1]:
            left.tick_params(labelbottom=False)
            right.tick_params(labelbottom=False)
    axes[0][1].set_title("ranks, by chain", pad=2)
    axes[-1][0].set_xlabel("draw after warmup")
    axes[-1][1].set_xlabel("rank among all draws")
    chains = "1 chain" if C == 1 else f"{C} chains"
    pictures.title(figure, f"{name}: traces and ranks, {chains} of {S:,} draws")
    return figure


def _key_functionals(comparison, name):
    """Log density, what atoms are sorted by, a labelled parameter where labels mean something, the slowest to mix."""
    rows = {r["functional"]: r for r in comparison.rows if r["backend"] == name and r["mcse"] is not None}
    varying = [f for f in rows if f in comparison.functionals.get(name, {})]
    if not varying:
        return []
    atoms = [f for f in varying if f.startswith(f"sorted_{sorted_by(comparison.model)}")]
    chosen = [f for f in ("log_density",) if f in varying]
    chosen += atoms if len(atoms) <= 3 else atoms[:3]
    chosen += [f for f in varying if heading_of(f) == "Parameters"][:1]
    slowest = sorted((f for f in varying if rows[f]["ess_bulk"] is not None), key=lambda f: rows[f]["ess_bulk"])
    chosen += slowest[:1]
    return list(dict.fromkeys(chosen or varying[:3]))[:6]


def _ranks(axis, f, bins=20):
    """Rank histogram of each chain (Vehtari et al. 2021, section 4.3), one above the other; flat when chains agree."""
    C, S = f.shape
    if S < 2:
        axis.set_axis_off()
        return
    ties = np.random.default_rng(0).random(f.size)  # ties get random order, else they look like structure
    order = np.lexsort((ties, f.ravel()))
    ranks = np.empty(f.size)
    ranks[order] = np.arange(f.size)
    edges = np.linspace(0, f.size, min(bins, max(2, S // 10)) + 1)
    expected = S / (len(edges) - 1)
    for c in range(C):
        counts = np.histogram(ranks.reshape(C, S)[c], edges)[0] / expected
        base = (C - 1 - c) * 1.9
        colour = COLOURS[c % len(COLOURS)]
        axis.bar(edges[:-1], counts, np.diff(edges), bottom=base, align="edge", color=colour, alpha=0.6)
        axis.axhline(base + 1, color=INK, lw=0.6, ls=":")
    axis.set_yticks([(C - 1 - c) * 1.9 + 0.5 for c in range(C)], [f"{c + 1}" for c in range(C)])
    axis.set_xlim(0, f.size)
    axis.xaxis.set_major_locator(MaxNLocator(2))
    axis.set_ylim(0, (C - 1) * 1.9 + 2.2)
    axis.tick_params(axis="y", length=0)


# -- assignments --------------------------------------------------------------------------------------------------


@pictures.styled
def assignments(result, model, x, name="", data=None) -> Figure | None:
    """P(z_n = component k), components sorted draw by draw, and the co-clustering matrix, which needs no labels.

    `data` as of `fitted_density`.
    """
    data = data or pictures.known(model, x)
    draws = equal_weight(result)
    if draws is None or model.num_components < 2:
        return None
    N = num_observations(x)
    r = pictures.sorted_tables(model, draws, x, "responsibilities")
    if not np.isfinite(r).all():
        return None
    order = pictures.data_order(x)
    numbered = pictures.numbered(model)
    figure = Figure(figsize=(WIDTH, 3.5 if numbered else 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    if numbered:
        left, right = figure.subplots(1, 2, width_ratios=(1.45, 1))
        _assignment_panel(left, r.mean(axis=0)[order], model, x, order, data)
    else:
        right = figure.subplots()
    shown = order[np.unique(np.linspace(0, N - 1, min(N, pictures.MAX_HEAT)).astype(int))]
    together = getattr(result, "co_clustering", None)
    if together is not None:
        together = np.asarray(together)[np.ix_(shown, shown)]
    else:
        together = np.einsum("mik,mjk->ij", r[:, shown], r[:, shown]) / len(r)
        np.fill_diagonal(together, 1.0)
    blues = LinearSegmentedColormap.from_list("white to blue", ["#ffffff", "#56B4E9", "#00304d"])
    image = right.imshow(together, vmin=0, vmax=1, cmap=blues, origin="lower", interpolation="nearest", aspect="equal")
    ticks = np.unique(np.linspace(0, len(shown) - 1, min(len(shown), 6)).astype(int))
    labels = pictures.value_labels(x, shown[ticks])
    right.set_xticks(ticks if labels[0] else [], labels if labels[0] else [])
    right.set_yticks(ticks if labels[0] else [], labels if labels[0] else [])
    for side in ("top", "right", "left", "bottom"):
        right.spines[side].set_visible(False)
    right.set_xlabel(f"observation: {pictures.quantity(data)}" if labels[0] else "observation, in order")
    right.set_title("shared component, P(z$_i$ = z$_j$ | data)")
    figure.colorbar(image, ax=right, shrink=0.85, label="probability")
    pictures.title(figure, f"Which observation belongs where{f', by {name}' if name else ''}")
    return figure


def _assignment_panel(axis, r, model, x, order, data):
    """r (N, K), rows in the order of the data."""
    N, K = r.shape
    which = "components sorted in every draw" if sorted_by(model) else "components as the model numbers them"
    if N <= pictures.MAX_BARS:
        base = np.zeros(N)
        for k in range(K):
            axis.bar(
                np.arange(N),
                r[:, k],
                0.9,
                bottom=base,
                color=pictures.shade(k, K),
                label=pictures.component(model, k, ""),
            )
            base += r[:, k]
        labels = pictures.value_labels(x, order)
        if labels[0]:
            axis.set_xticks(np.arange(N), labels, rotation=90, fontsize=7)
        axis.set_xlim(-0.7, N - 0.3)
        axis.set_xlabel(f"observation, smallest first: {pictures.quantity(data)}")
    else:
        position = np.arange(N) if isinstance(x, dict) or np.ndim(x) != 1 else np.asarray(x)[order]
        for k in range(K):
            axis.plot(
                position,
                r[:, k],
                color=pictures.shade(k, K),
                ls=pictures.dash(k),
                lw=1.6,
                label=pictures.component(model, k, ""),
            )
        axis.set_xlabel(pictures.quantity(data))
    axis.set_ylim(0, 1.0 if N <= pictures.MAX_BARS else 1.03)
    axis.set_ylabel("P(z$_n$ = component | data)")
    axis.set_title(which, pad=20)
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=min(K, 6), borderaxespad=0.1, handlelength=1.2)


# -- comparison ---------------------------------------------------------------------------------------------------


@pictures.styled
def intervals(comparison) -> Figure | None:
    """Every functional that varies, one column per back end: distance from the reference in its standard deviations."""
    source, ruler = ruler_of(comparison)
    cells = {(row["backend"], row["functional"]): row for row in comparison.rows}
    names = [n for n in comparison.results if n != source]
    names = [n for n in names if any((n, f) in cells and cells[n, f]["mean"] is not None for f in ruler)]
    shown = [f for f in in_order(ruler) if any((n, f) in cells for n in names)]
    if not names or not shown:
        return None
    y, depth = {}, 0.0
    for i, f in enumerate(shown):
        depth += (0.7 if i and heading_of(f) != heading_of(shown[i - 1]) else 0.0) + 1
        y[f] = -depth
    figure = Figure(figsize=(WIDTH, 1.1 + 0.19 * depth), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    limit = 2.6
    for axis, name in zip(axes, names, strict=True):
        colour = colour_of(comparison, name)
        axis.axvspan(-1, 1, color="#efefef", lw=0)
        axis.axvline(0, color=INK, lw=0.7)
        for f in shown:
            row = cells.get((name, f))
            if row is None or row["mean"] is None:
                continue
            mean, sd = ruler[f]
            centre = (row["mean"] - mean) / sd
            if abs(centre) > limit:
                side = math.copysign(limit * 0.96, centre)
                axis.plot(side, y[f], ">" if centre > 0 else "<", color=colour, ms=6, clip_on=False)
                continue
            if row["sd"]:
                spread = row["sd"] / sd
                axis.plot([centre - spread, centre + spread], [y[f]] * 2, color=colour, lw=1.1, solid_capstyle="butt")
            if row["mcse"] is not None:
                error = 2 * math.hypot(row["mcse"], row["reference_error"] or 0.0) / sd
                axis.plot([centre - error, centre + error], [y[f]] * 2, color=colour, lw=4, solid_capstyle="butt")
            axis.plot(centre, y[f], "o", color=colour, ms=4.2, mec="white", mew=0.6, clip_on=False)
        usable = comparison.backends.get(name, {}).get("usable", True)
        head = name.replace("_", "_\n") if len(names) > 4 else name
        axis.set_title(head + ("" if usable else "\n(not usable)"), loc="center", fontsize=8.5)
        axis.set_xlim(-limit, limit)
        axis.set_xticks([-2, -1, 0, 1, 2] if len(names) <= 4 else [-2, 0, 2])
        axis.spines["left"].set_visible(False)
        axis.tick_params(axis="y", length=0)
    axes[0].set_yticks([y[f] for f in shown], shown)
    axes[0].set_ylim(-depth - 0.8, -0.2)
    figure.supxlabel(f"difference from {source}, in its posterior standard deviations", fontsize=9)
    pictures.title(figure, f"Posterior mean and spread of every varying quantity against {source}")
    return figure


@pictures.styled
def costs(comparison) -> Figure | None:
    """Seconds against the largest error of a posterior mean, and effective draws per second of running."""
    figures = {name: cost_of(comparison, name) for name in comparison.results}
    errors = {n: c for n, c in figures.items() if c["error"] is not None and c["seconds"] > 0}
    speeds = {n: c["ess_per_second"] for n, c in figures.items() if c["ess_per_second"]}
    if not errors and not speeds:
        return None
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    num = bool(errors) + bool(speeds)
    axes = list(figure.subplots(1, num, width_ratios=(1.25, 1)[:num], squeeze=False)[0])
    if errors:
        axis = axes.pop(0)
        _cost_panel(axis, comparison, errors)
        figure.legend(*axis.get_legend_handles_labels(), loc="outside lower left", ncols=5, handletextpad=0.2)
    if speeds:
        axis = axes.pop(0)
        names = sorted(speeds, key=lambda name: speeds[name])
        axis.barh(names, [speeds[n] for n in names], color=[colour_of(comparison, n) for n in names], height=0.6)
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(pictures.PLAIN)
        axis.xaxis.set_minor_formatter(NullFormatter())
        low = 10 ** math.floor(math.log10(min(speeds.values())) - 0.3)
        axis.set_xlim(low, max(speeds.values()) * 8)
        for i, n in enumerate(names):
            rounded = float(f"{speeds[n]:.2g}")
            text = f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"
            axis.text(speeds[n] * 1.15, i, text, va="center", fontsize=8)
        axis.set_xlabel("effective draws per second of running\n(the slowest quantity; compiling left out)")
        axis.tick_params(axis="y", length=0)
        axis.set_title("Speed")
    return figure


def _cost_panel(axis, comparison, errors):
    axis.set_xscale("log")
    axis.set_yscale("log")
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(pictures.PLAIN)
        side.set_minor_formatter(NullFormatter())
    for name, cost in errors.items():
        colour, usable = colour_of(comparison, name), comparison.backends[name]["usable"]
        shape = pictures.MARKERS[list(comparison.backends).index(name) % len(pictures.MARKERS)]
        place = (cost["seconds"], max(cost["error"], 1e-6))
        label = name if usable else f"{name} (not usable)"
        axis.plot(*place, shape, ms=8, color=colour, mfc=colour if usable else "white", mew=1.5, label=label)
    seconds = [cost["seconds"] for cost in errors.values()]
    worst = [max(cost["error"], 1e-6) for cost in errors.values()]
    axis.set_xlim(min(seconds) / 2, max(seconds) * 2)
    axis.set_ylim(min(*worst, verdicts.CLOSE) / 2.5, max(*worst, verdicts.CLOSE) * 2.5)
    if max(seconds) < 10 * min(seconds):
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.axhline(verdicts.CLOSE, color=GREY, lw=0.8, ls=(0, (4, 3)), zorder=0)
    axis.text(max(seconds) * 1.9, verdicts.CLOSE, f"{verdicts.CLOSE:g} sd", fontsize=7.5, va="bottom", ha="right")
    axis.set_xlabel("seconds, compiling and running")
    axis.set_ylabel("largest error of a mean\n(reference standard deviations)")
    axis.set_title("Cost against accuracy: lower left is better")


# -- what report and plots both read off a comparison -------------------------------------------------------------


def heading_of(functional: str) -> str:
    """The family of a functional: what tables and pictures group by."""
    return next((head for prefix, head in FAMILIES if prefix and functional.startswith(prefix)), "Parameters")


def in_order(functionals) -> list[str]:
    """Functionals by family, in their own order within a family."""
    heads = [head for _, head in FAMILIES]
    return sorted(functionals, key=lambda f: heads.index(heading_of(f)))


def ruler_of(comparison) -> tuple[str, dict[str, tuple[float, float]]]:
    """What differences are measured by: its name, and functional -> (mean, sd) for those that vary under it.

    The reference; without one, the first back end that has a spread, a usable one if there is any.
    """
    reference = comparison.reference
    values = {f: (v.mean, v.sd) for f, v in reference.values.items()}
    source = reference.label
    if not values:
        rows = [r for r in comparison.rows if r["mcse"] is not None]
        rows = [r for r in rows if comparison.backends[r["backend"]]["usable"]] or rows
        source = rows[0]["backend"] if rows else ""
        values = {r["functional"]: (r["mean"], r["sd"]) for r in rows if r["backend"] == source}
    varying = {f: (m, s) for f, (m, s) in values.items() if s is not None and s > _least_sd(f, m)}
    return source, varying


def _least_sd(functional, mean):
    flat = 1e-5 if functional.startswith(("co_clustering", "entropy", "occupied")) else 0.0
    return max(flat, 1e-9 * (1 + abs(mean)))


def cost_of(comparison, name) -> dict:
    """Seconds, evaluations, the largest error of a mean in reference sds, and the least effective sample size."""
    cost = comparison.backends[name].get("cost") or {}
    source, ruler = ruler_of(comparison)
    rows = [row for row in comparison.rows if row["backend"] == name]
    errors = [
        abs(row["mean"] - ruler[row["functional"]][0]) / ruler[row["functional"]][1]
        for row in rows
        if row["mean"] is not None and row["functional"] in ruler
    ]
    ess = [row["ess_bulk"] for row in rows if row["ess_bulk"] is not None]
    speed = [row["ess_per_second"] for row in rows if row["ess_per_second"] is not None]
    return {
        "seconds": (cost.get("compile_seconds") or 0.0) + (cost.get("run_seconds") or 0.0),
        "error": max(errors) if errors and comparison.reference.values and name != source else None,
        "ess": min(ess, default=None),
        "ess_per_second": min(speed, default=None),
        **cost,
    }


def colour_of(comparison, name) -> str:
    return COLOURS[list(comparison.backends).index(name) % len(COLOURS)]
