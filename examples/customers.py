"""Kinds of customers: which brands of Scotch 2,218 households bought in a year, and who buys what.

Fitted is the zoo's `scotch` model (zoo/models/latent_class.py): a household belongs to one of three segments, and a
segment buys brand j with a probability of its own, whatever else is bought. EM climbs to the maximum of the likelihood;
standard errors are those of the observed information there.

Data: Simmons Study of Media and Markets 1997; Edwards & Allenby 2003, Journal of Marketing Research 40.

Run `python examples/customers.py`; the picture is out/examples/customers.png.
"""

import pathlib
import string

import jax
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from diagnostics.pictures import COLOURS, INK, PALE, STYLE
from inference import fit
from zoo import MODELS


def shown(name):
    """A brand as one reads it, from the name of its column."""
    return string.capwords(name.replace("...", " & ").replace(".s.", "'s ").replace(".", " "))


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    model = MODELS["scotch"]
    found = fit(model, "em", seed=1, prior=False, num_restarts=16)
    print(f"log likelihood: {found.log_density[0]:.6f} ({found.ended[0]})")
    weights, probs = (np.asarray(found.params[name][0]) for name in ("weights", "probs"))
    weights_error, probs_error = (np.asarray(found.standard_errors[name]) for name in ("weights", "probs"))
    bought = model.data.x.mean(axis=0)
    brands = [shown(name) for name in model.data.feature_names]
    segments = np.argsort(-weights)
    for place, k in enumerate(segments):
        print(
            f"segment {place + 1}: {weights[k]:.4f} ± {weights_error[k]:.4f}, {probs[k].sum():.2f} brands a household"
        )
        most = np.argsort(-probs[k])[:4]
        print("    " + ", ".join(f"{brands[j]} {probs[k, j]:.2f}" for j in most))

    matplotlib.rcParams.update(STYLE)
    figure = Figure(figsize=(8, 6.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 3.2))
    rows = np.argsort(np.argsort(-bought))  # the brand that most buy on top
    right.barh(rows, bought, color=PALE, label="all households")
    for place, k in enumerate(segments):
        style = {"color": COLOURS[place], "fmt": "os^"[place], "ms": 5, "lw": 1.2, "label": f"segment {place + 1}"}
        right.errorbar(probs[k], rows, xerr=probs_error[k], **style)
        left.bar(place + 1, weights[k], yerr=weights_error[k], color=COLOURS[place], ecolor=INK, capsize=3)
    right.set_yticks(rows, brands)
    right.set_ylim(len(brands) - 0.4, -0.6)
    right.set_xlim(-0.01, 0.9)
    right.set_xlabel("probability of buying the brand within a year (± standard error)")
    right.set_title("what each segment buys")
    right.legend(loc="lower right")
    left.set_xticks(range(1, len(segments) + 1))
    left.set_xlabel("segment")
    left.set_ylabel("share of the households (± standard error)")
    left.set_title("how large it is")
    figure.suptitle(
        "Most households buy a few blends, a quarter single malts, one in twenty many brands", fontweight="bold"
    )
    out = pathlib.Path("out/examples")
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "customers.png", dpi=150)
