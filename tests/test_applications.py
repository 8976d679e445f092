"""The applications in examples/ run as they stand, draw a picture, and find what another way finds in the same data."""

import hashlib
import importlib
import pathlib
import re

import jax
import numpy as np
import pytest
from matplotlib.image import imread
from scipy.special import logsumexp
from sklearn.mixture import GaussianMixture

from diagnostics import truth
from inference.em import climb_from
from zoo import MODELS

Z = 4.4  # standard errors
EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


def number(text, after, nth=0):
    """The nth number that `text` has behind the words `after`."""
    line = re.search(re.escape(after) + r"(.*)", text)
    assert line, f"{after!r} is not in\n{text}"
    return float(re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", line[1])[nth])


def binomial_error(successes, num):
    """Standard error of a number of successes; two of each kind are added, so that it is not 0 at 0 (Agresti 1998)."""
    p = (successes + 2) / (num + 4)
    return np.sqrt(num * p * (1 - p))


def segments_of_the_picture(text, example):
    """No optimum of scikit-learn's leads to a higher posterior density; every pixel has its segment."""
    picture, some = example.photograph()
    other = GaussianMixture(example.K, covariance_type="tied", n_init=5, random_state=0).fit(some)
    start = {"weights": other.weights_, "means": other.means_, "precision": other.precisions_}
    there, _ = climb_from(example.colours, some, jax.tree.map(lambda leaf: leaf[None], start), max_steps=100)
    assert "(converged" in text and number(text, "log density:") > there[0] - 1e-5
    shares = [number(line, "segment of") for line in text.splitlines() if line.startswith("segment of")]
    assert len(shares) == example.K and abs(sum(shares) - 1) < example.K * 5e-5  # rounded to four digits
    few = GaussianMixture(2, covariance_type="tied", random_state=0).fit(some).predict(picture.reshape(-1, 3))
    assert number(text, "colours kept:") > kept(picture.reshape(-1, 3), few), "eight segments say more than two"


def kept(pixels, segments):
    """Share of the variance between segments."""
    within = sum(((pixels[segments == k] - pixels[segments == k].mean(axis=0)) ** 2).sum() for k in np.unique(segments))
    return 1 - within / ((pixels - pixels.mean(axis=0)) ** 2).sum()


def voices_that_are_known(text, example):
    """Better than chance by far, and as well as scikit-learn's mixtures of the same kind."""
    known, unknown = example.recorded()
    num, D = unknown.shape[0] * unknown.shape[1], unknown.shape[-1]
    right, chance = number(text, "identified:"), 1 / len(known)
    assert right > num * chance + Z * np.sqrt(num * chance * (1 - chance))
    other = [GaussianMixture(example.K, covariance_type="diag", n_init=3, random_state=0) for _ in known]
    fitted = [mixture.fit(own.reshape(-1, D)) for mixture, own in zip(other, known, strict=True)]
    scores = [
        mixture.score_samples(unknown.reshape(-1, D)).reshape(unknown.shape[:3]).sum(axis=2) for mixture in fitted
    ]
    theirs = int((np.argmax(scores, axis=0) == np.arange(len(known))[:, None]).sum())
    assert right > theirs - Z * np.hypot(binomial_error(right, num), binomial_error(theirs, num))


def patients_who_stand_out(text, example):
    """False alarms at the stated rate; recall and precision of scikit-learn's mixture of the same kind."""
    learnt, new, diagnosis, words = example.patients()
    ill = diagnosis != words.index("Normal")
    alarms, hits, called = number(text, "false alarms:"), number(text, "recall:"), number(text, "precision:", 1)
    expected, num = example.LEVEL * (~ill).sum(), (~ill).sum()
    assert abs(alarms - expected) < Z * np.sqrt(expected * (1 - example.LEVEL)), "one in twenty"
    assert called == hits + alarms
    other = GaussianMixture(3, covariance_type="diag", n_init=5, random_state=0).fit(learnt)
    edge = np.quantile(other.score_samples(other.sample(20_000)[0]), example.LEVEL)
    below = other.score_samples(new) < edge
    theirs, false = int((below & ill).sum()), int((below & ~ill).sum())
    assert hits > theirs - Z * np.hypot(binomial_error(hits, ill.sum()), binomial_error(theirs, ill.sum()))
    assert alarms < false + Z * np.hypot(binomial_error(alarms, num), binomial_error(false, num))


def kinds_of_customers(text, example):
    """Likelihood and sizes of the segments by a plain EM, written for this test alone."""
    best = max((latent_classes(MODELS["scotch"].data.x, 3, seed) for seed in range(10)), key=lambda found: found[0])
    assert abs(number(text, "log likelihood:") - best[0]) < 1e-3
    sizes = [number(line, ":") for line in text.splitlines() if line.startswith("segment")]
    np.testing.assert_allclose(sizes, np.sort(best[1])[::-1], atol=1e-3)  # a tenth of their standard errors


def latent_classes(x, K, seed):
    """Log likelihood and weights where EM ends: x (N, J) of 0 and 1, each pattern once and counted."""
    x, counts = np.unique(x, axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    r = rng.dirichlet(np.ones(K), len(x))
    before, here = -np.inf, -np.finfo(float).max
    while here - before > 1e-9:
        r = r * counts[:, None]
        weights, probs = r.sum(axis=0) / counts.sum(), (r.T @ x) / r.sum(axis=0)[:, None]
        with np.errstate(divide="ignore"):
            log = np.log([probs, 1 - probs])
        table = np.log(weights) + np.where(x[:, None] > 0, log[0], log[1]).sum(axis=2)
        each = logsumexp(table, axis=1)
        r, before, here = np.exp(table - each[:, None]), here, float(counts @ each)
    return here, weights


def steps_of_the_walk(text, example):
    """The true density is the stored one, and the posterior of the parameters too, each within its errors."""
    record = truth.stored("three_gaussians_em")["blog.marginal_pdf"]
    at = [number(text, "density at 7:"), number(text, "density at 7:", 1)]
    np.testing.assert_allclose(at, [record["value"][0], max(record["value"])], rtol=1e-11)
    reference = truth.stored_reference(MODELS["three_gaussians"], MODELS["three_gaussians"].data.x).values
    for name in ("weights", "means", "scales"):
        for k in range(3):
            mean, error, sd = (number(text, f"{name}[{k}]:", i) for i in range(3))
            stored, _, stored_error = reference[f"sorted_{name}[{k}]"][:3]
            assert error < 0.1 * sd and abs(mean - stored) < Z * np.hypot(error, stored_error), f"{name}[{k}]"


APPLICATIONS = {
    "image_segmentation": segments_of_the_picture,
    "speakers": voices_that_are_known,
    "anomalies": patients_who_stand_out,
    "customers": kinds_of_customers,
    "walkthrough": steps_of_the_walk,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
def test_an_application_draws_its_picture_and_finds_what_another_way_finds(name, tmp_path, printed_by, monkeypatch):
    text = printed_by(f"{name}.py")
    picture = imread(tmp_path / "out" / "examples" / f"{name}.png")[..., :3]
    drawn = (picture < 1).any(axis=2)
    assert len(np.unique(picture[drawn], axis=0)) > 100 and drawn.mean() > 0.01, "the picture is blank"
    monkeypatch.syspath_prepend(EXAMPLES)
    APPLICATIONS[name](text, importlib.import_module(name))


def test_the_voices_are_those_of_their_recipe(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    voices = importlib.import_module("voices")
    content = voices.FILE.read_bytes()
    assert hashlib.sha256(content).hexdigest() == voices.SHA256 and len(content) < 300_000
    kept = np.load(voices.FILE)["hundredths"]
    assert np.abs(voices.features() - kept).max() <= 1  # on another machine a last digit may be rounded otherwise
