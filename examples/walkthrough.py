"""A mixture of three normals, step by step: components, their sum, a thousand points from it, and the way back.

    p(x) = .2 Normal(x; 10, 1) + .7 Normal(x; 15, 2) + .1 Normal(x; 21, .5)

First what is known: the components, scaled by their weights, and the marginal density, their sum, on 200 points from 7
to 23. Then what a thousand points tell of it: the zoo's `three_gaussians` (zoo/models/three_gaussians.py) knows nothing
of the nine parameters and finds their posterior by NUTS, with the assignments summed out. The predictive density
p(x | data), averaged over the draws, is held against the histogram and the truth; P(z = k | x, data) cuts it into the
components that were found, after relabelling.

The points are simulated: NumPy's legacy generator, seed 42.

Run `python examples/walkthrough.py`; the picture is out/examples/walkthrough.png.
"""

import pathlib

import jax
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from diagnostics import classification, prediction, saved, to_arviz
from diagnostics.pictures import COLOURS, INK, PALE, STYLE
from inference import fit
from zoo import MODELS, gaussian

if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    model = MODELS["three_gaussians"]
    truth = model.data.params
    points = np.linspace(7, 23, 200)
    components = np.exp(gaussian.log_table(truth["weights"], truth["means"], truth["scales"], points))  # (200, 3)
    marginal = components.sum(axis=1)

    draws = fit(model, "nuts", seed=1)
    posterior = saved.of_data(to_arviz(draws, model, model.data.x, backend="nuts"), model)
    _, predictive = prediction.grid(posterior, 7, 23, 200)
    density = np.exp(predictive.value)
    parts = density[:, None] * classification.classify(posterior, points).probabilities.value  # (200, 3)

    order = np.argsort(posterior.params["means"], axis=-1)  # of every draw: its labels are as they come
    for name in ("weights", "means", "scales"):
        leaf = np.take_along_axis(posterior.params[name], order, axis=-1)
        for k in range(3):
            mean, error, _ = posterior.estimate(leaf[..., k])
            print(f"{name}[{k}]: {mean:.5f} ± {error:.5f}, sd {leaf[..., k].std():.4f}, truth {truth[name][k]:g}")
    print(f"density at 7: {marginal[0]:.12g}, highest {marginal.max():.12g}")
    print(f"largest difference of the predictive density from the truth: {np.abs(density - marginal).max():.5f}")

    matplotlib.rcParams.update(STYLE)
    figure = Figure(figsize=(8, 7.5), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True, sharey=True)
    for k in range(3):
        own = f"{truth['weights'][k]:g} × Normal({truth['means'][k]:g}, {truth['scales'][k]:g})"
        top.plot(points, components[:, k], color=COLOURS[k], lw=2, label=own)
        top.fill_between(points, components[:, k], color=COLOURS[k], alpha=0.2, lw=0)
        middle.plot(points, components[:, k], color=COLOURS[k], lw=1, ls=":")
        bottom.plot(points, parts[:, k], color=COLOURS[k], lw=1.6, label=f"component {k} that was found")
    middle.plot(points, marginal, color=INK, lw=2, label="their sum")
    bottom.hist(model.data.x, bins=60, range=(7, 23), density=True, color=PALE, label="1,000 points")
    bottom.plot(points, marginal, color=INK, lw=1.2, ls="--", label="true density")
    bottom.plot(points, density, color=INK, lw=2, label="predictive density")
    top.set_title("three components, each scaled by its weight")
    middle.set_title("the marginal density: their sum")
    bottom.set_title("a thousand points, and the density that NUTS finds from them")
    top.set_xlim(7, 23)
    for axis in (top, middle, bottom):
        axis.set_ylabel("density")
        axis.legend(loc="upper right")
    bottom.set_xlabel("x")
    figure.suptitle("From three normals to data, and back", fontweight="bold")
    out = pathlib.Path("out/examples")
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "walkthrough.png", dpi=150)
