"""A photograph cut into regions of like colour: every pixel goes to the component that it most probably comes from.

    weights   ~ Dirichlet(1, ..., 1)
    means[k]  ~ Normal(.5, .5)                      red, green and blue, each from 0 to 1
    precision ~ Wishart(5, S^-1), S = .05^2 I       one for all segments: E precision^-1 = .05^2 I
    z[n]      ~ Categorical(weights)
    x[n]      ~ MultivariateNormal(means[z[n]], precision^-1)

x[n] is the colour of pixel n; where it lies in the picture is not part of the model. Light and shade stretch all
colours in one direction, which the common covariance learns, so that segments differ in hue. The mixture is fitted, by
EM, to 1,000 of the 273,280 pixels, drawn at random; then all of them are classified. The photograph, of a palace in
Beijing, comes with scikit-learn (`load_sample_image("china.jpg")`).

Run `python examples/image_segmentation.py`; the picture is out/examples/image_segmentation.png.
"""

import pathlib

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from genjax import categorical, dirichlet, gen, mv_normal, normal
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_image

from diagnostics.pictures import STYLE
from inference import fit
from zoo import Mixture
from zoo.models.multivariate_gaussian import scale_tril, wishart

K = 8
NUM_FITTED = 1000
ROOT = scale_tril(5.0, np.full(3, 0.05))  # of S^-1


@gen
def prior():
    weights = dirichlet(np.ones(K)) @ "weights"
    means = normal(np.full((K, 3), 0.5), 0.5) @ "means"
    precision = wishart(5.0, jnp.asarray(ROOT)) @ "precision"
    return {"weights": weights, "means": means, "covariance": jnp.linalg.inv(precision)}


@gen
def observation(params):
    z = categorical(probs=params["weights"]) @ "z"  # named: a bare argument means logits
    return mv_normal(params["means"][z], params["covariance"]) @ "x"


colours = Mixture(name="colours", num_components=K, exchangeable=True, prior=prior, observation=observation)


def photograph():
    """The picture (427, 640, 3), values from 0 to 1, and the pixels (1000, 3) that the mixture is fitted to."""
    picture = load_sample_image("china.jpg") / 255.0
    pixels = picture.reshape(-1, 3)
    return picture, pixels[np.random.default_rng(0).choice(len(pixels), NUM_FITTED, replace=False)]


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    picture, some = photograph()
    pixels = picture.reshape(-1, 3)

    found = fit(colours, "em", x=some, seed=1, num_restarts=4, max_steps=300)
    best = {name: leaf[0] for name, leaf in found.params.items()}
    segments = np.asarray(jax.jit(colours.responsibilities)(best, pixels)).argmax(axis=1)

    shares = np.bincount(segments, minlength=K) / len(pixels)
    shown = np.array([pixels[segments == k].mean(axis=0) for k in range(K)])[segments]
    kept = 1 - ((pixels - shown) ** 2).sum() / ((pixels - pixels.mean(axis=0)) ** 2).sum()
    print(f"log density: {found.log_density[0]:.6f} ({found.ended[0]}, {found.num_steps[0]} steps)")
    print(f"variance of the colours kept: {kept:.4f}")
    for k in np.argsort(-shares):
        red, green, blue = np.round(255 * np.asarray(best["means"])[k]).astype(int)
        print(f"segment of {shares[k]:.4f} of the pixels: mean colour ({red}, {green}, {blue})")

    matplotlib.rcParams.update(STYLE)
    figure = Figure(figsize=(10, 3.9), layout="constrained")
    titles = (f"the photograph: {len(pixels):,} pixels", f"each pixel in the mean colour of its segment, {K} in all")
    for axis, title, image in zip(figure.subplots(1, 2), titles, (pixels, shown), strict=True):
        axis.imshow(image.reshape(picture.shape))
        axis.set_title(title)
        axis.set_axis_off()
    figure.suptitle(
        f"A mixture of {K} colours, fitted to {NUM_FITTED:,} pixels, segments the picture", fontweight="bold"
    )
    out = pathlib.Path("out/examples")
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "image_segmentation.png", dpi=150)
