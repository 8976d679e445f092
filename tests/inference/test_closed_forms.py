"""Closed forms against stored exact values, against each other and against adaptive quadrature."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import integrate, stats
from scipy.special import gammaln

from diagnostics.truth import stored, tolerance
from inference import closed_forms
from inference.declared import Component

CONJUGATE = stored("conjugate")


@pytest.mark.parametrize("name", [name for name in CONJUGATE if name.startswith("conj.normal_known")])
def test_normal_means_with_known_scale_have_the_stored_closed_forms(name):
    record = CONJUGATE[name]
    inputs = record["inputs"]
    known = dict(prior_sd=inputs["s0"], variance=inputs["sigma"] ** 2)
    count, mean, squares = closed_forms.sufficient(inputs["x"])
    post_mean, post_sd = closed_forms.normal_posterior(count, mean, prior_mean=inputs["m0"], **known)
    found = {
        "log_marginal": closed_forms.normal_log_marginal(count, mean, squares, prior_mean=inputs["m0"], **known),
        "post_mean": post_mean,
        "post_sd": post_sd,
        "pred_sd": closed_forms.normal_predictive_sd(count, **known),
    }
    assert_allclose([found[k] for k in record["value"]], list(record["value"].values()), **tolerance(record))


@pytest.mark.parametrize("name", [name for name in CONJUGATE if name.startswith("conj.dirichlet_multinomial")])
def test_dirichlet_multinomial_counts_have_the_stored_closed_forms(name):
    record = CONJUGATE[name]
    counts, concentration = record["inputs"]["counts"], record["inputs"]["alpha"]
    sequence = closed_forms.dirichlet_multinomial_log_marginal(counts, concentration)
    value = record["value"]
    assert_allclose(sequence, value["log_p_sequence"], **tolerance(record))
    found = sequence + closed_forms.log_multinomial_coefficient(counts)
    assert_allclose(found, value["log_p_counts"], **tolerance(record))
    assert_allclose(
        closed_forms.dirichlet_posterior_mean(counts, concentration), value["post_mean"], **tolerance(record)
    )


def test_an_unknown_variance_with_known_mean_has_its_closed_form():
    component = Component(mean=1.5, sd=0.0, variance=None, shape=2.5, scale=3.0)
    rng = np.random.default_rng(2)
    samples = [rng.normal(1.0, 2.0, n) for n in (1, 2, 7, 30, 400)] + [np.array([300.0, -80.0])]
    n, squares = np.array([[len(s), np.sum((s - 1.5) ** 2)] for s in samples]).T
    a, b = 2.5, 3.0
    closed = (
        gammaln(a + n / 2)
        - gammaln(a)
        + a * np.log(b)
        - (a + n / 2) * np.log(b + squares / 2)
        - n / 2 * np.log(2 * np.pi)
    )
    found, error = closed_forms.unknown_variance_log_marginal(
        *np.transpose([closed_forms.sufficient(s) for s in samples]), component
    )
    assert_allclose(found, closed, rtol=1e-10, atol=1e-10)
    assert error < 1e-10 + 1e-13 * np.abs(closed).max()


@pytest.mark.parametrize(
    "values", [[498.0], [401.0, 399.0], [498.0, 501.0, 497.0, 503.0], [600.0, 601.0], [350.0] * 12]
)
def test_unknown_mean_and_variance_agree_with_adaptive_quadrature(values):
    component = Component(mean=400.0, sd=50.0, variance=None, shape=3.0, scale=8.0)
    n, mean, squares = closed_forms.sufficient(values)
    found, _ = closed_forms.unknown_variance_log_marginal(n, mean, squares, component)

    def density(u):  # the joint normal density of the values, not our decomposition
        covariance = np.exp(u) * np.eye(n) + 50.0**2
        normal = stats.multivariate_normal.logpdf(values, np.full(n, 400.0), covariance)
        return normal + stats.invgamma.logpdf(np.exp(u), 3.0, scale=8.0) + u

    top = max(density(u) for u in np.linspace(-3, 12, 40))
    breaks = np.linspace(-3, 20, 24)
    area = sum(
        integrate.quad(lambda u: np.exp(density(u) - top), *ends, epsabs=1e-13)[0]
        for ends in itertools.pairwise(breaks)
    )
    assert_allclose(found, top + np.log(area), atol=1e-9)
