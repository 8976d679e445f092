"""Which patients are ill? A mixture that has seen healthy ones alone, and how surprising it finds the others.

Fitted is the zoo's `thyroid` model, three diagonal normals in five dimensions (zoo/models/diagonal_gaussian.py), by
Gibbs sampling, to the laboratory tests of 100 patients with a normal thyroid gland. Then come 50 more of them, and the
65 whose gland does too much or too little. The score of a patient is the tail probability of the log predictive
density: how probable it is that a new healthy patient's tests are no more probable than these. Where it is below .05
the patient is called an anomaly; of healthy ones that is to happen to one in twenty.

Data: Coomans, Broeckaert, Jonckheer & Massart 1983, Methods of Information in Medicine 22; shipped with the zoo.

Run `python examples/anomalies.py`; the picture is out/examples/anomalies.png.
"""

import pathlib

import jax
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from diagnostics import prediction, saved, to_arviz
from diagnostics.pictures import COLOURS, INK, STYLE
from inference import fit
from zoo import MODELS
from zoo.dataset import shipped

NUM_TRAINED = 100
LEVEL = 0.05  # tail probability below which a patient is an anomaly


def patients():
    """Tests of 100 normal patients (100, 5) and of all others (115, 5), the others' diagnoses, and the words for these.

    The tests are standardised by the mean and the standard deviation of the 100.
    """
    data = shipped("thyroid")
    words = data.categories["diagnosis"]
    order = np.random.default_rng(0).permutation(len(data.x))
    normal = order[data.labels[order] == words.index("Normal")]
    learnt, rest = normal[:NUM_TRAINED], np.setdiff1d(order, normal[:NUM_TRAINED])
    mean, sd = data.x[learnt].mean(axis=0), data.x[learnt].std(axis=0)
    return (data.x[learnt] - mean) / sd, (data.x[rest] - mean) / sd, data.labels[rest], words


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    learnt, new, diagnosis, words = patients()
    model = MODELS["thyroid"]

    draws = fit(model, "gibbs", x=learnt, seed=1, thin=40)  # three components in one heap: sweeps are slow to mix
    posterior = saved.of_data(to_arviz(draws, model, learnt, backend="gibbs"), model)
    density = prediction.log_predictive(posterior, new)
    tail = prediction.tail(posterior, new, density=density)

    called, ill = tail.value < LEVEL, diagnosis != words.index("Normal")
    hits, alarms = int((called & ill).sum()), int((called & ~ill).sum())
    recall, precision, healthy = hits / ill.sum(), hits / called.sum(), alarms / (~ill).sum()
    error = lambda share, num: np.sqrt(share * (1 - share) / num)
    print(f"recall: {hits} of {ill.sum()} ill = {recall:.3f} ± {error(recall, ill.sum()):.3f}")
    print(f"precision: {hits} of {called.sum()} called = {precision:.3f} ± {error(precision, called.sum()):.3f}")
    print(f"false alarms: {alarms} of {(~ill).sum()} healthy = {healthy:.3f} (to be expected: {LEVEL})")
    near = np.abs(tail.value - LEVEL) < 2 * tail.error
    print(f"undecided: {near.sum()} tail probabilities within two standard errors of {LEVEL}")
    for word in words:
        own = diagnosis == words.index(word)
        typical = np.median(density.value[own])
        print(f"{word}: {(called & own).sum()} of {own.sum()} called, median log density {typical:.1f}")

    matplotlib.rcParams.update(STYLE)
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    surprise = -density.value
    edge = (surprise[called].min() + surprise[~called].max()) / 2  # the rarer, the more surprising
    jitter = np.random.default_rng(0).uniform(-0.3, 0.3, len(new))
    rows = ("Normal", "Hyper", "Hypo")
    for row, word in enumerate(rows):
        own = diagnosis == words.index(word)
        left.plot(surprise[own], row + jitter[own], "os^"[row], color=COLOURS[row], ms=4, alpha=0.7, mew=0)
    left.axvline(edge, color=INK, lw=1, ls="--")
    left.text(1.06 * edge, -0.45, f"tail probability below {LEVEL}:\nan anomaly", va="top")
    left.set_xscale("log")
    left.set_yticks(range(3), [f"{word}\n({(diagnosis == words.index(word)).sum()} patients)" for word in rows])
    left.set_ylim(2.5, -0.5)
    left.set_xlabel("minus log predictive density of a patient's five tests")
    left.set_title("held-out patients by diagnosis")

    levels = np.geomspace(1e-3, 0.5, 200)
    below = tail.value < levels[:, None]
    right.plot(levels, (below & ill).sum(axis=1) / ill.sum(), color=COLOURS[0], lw=2, label="recall")
    right.plot(
        levels, (below & ill).sum(axis=1) / below.sum(axis=1), color=COLOURS[1], lw=2, ls="--", label="precision"
    )
    right.axvline(LEVEL, color=INK, lw=1, ls="--")
    right.set_xscale("log")
    right.set_ylim(0, 1.03)
    right.set_xlabel("threshold on the tail probability")
    right.set_title("what if the line is drawn elsewhere")
    right.legend(loc="lower right")
    figure.suptitle(
        f"Learnt from {NUM_TRAINED} healthy patients: {hits} of {ill.sum()} ill ones stand out, "
        f"and {alarms} of {(~ill).sum()} healthy ones",
        fontweight="bold",
    )
    out = pathlib.Path("out/examples")
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "anomalies.png", dpi=150)
