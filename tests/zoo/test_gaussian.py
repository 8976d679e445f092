"""zoo/gaussian.py and bento_known against 40-digit arithmetic (known_parameters.json)."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import expit

from diagnostics.truth import stored, tolerance
from zoo import gaussian
from zoo.models.bento import bento_known

RECORDS = stored("known_parameters")


def parameters(record):
    inputs = record["inputs"]
    weights = [inputs["theta"], round(1 - inputs["theta"], 12)]
    return [np.array(values, float) for values in (weights, inputs["mu"], inputs["sd"])]


def records(ending):
    return pytest.mark.parametrize("record", [r for name, r in RECORDS.items() if name.endswith(ending)], ids=str)


def model_of(record):
    weights, means, scales = (tuple(values) for values in parameters(record))
    return bento_known(weights=weights, means=means, scales=scales)


def test_every_record_is_used_here():
    endings = ("marginal_pdf", "boundary", "posterior_c1", "moments_and_modes")
    assert all(name.endswith(endings) for name in RECORDS)


@records("marginal_pdf")
def test_the_marginal_density_is_right_down_to_the_smallest_doubles(record):
    log_density = gaussian.log_density(*parameters(record), record["inputs"]["x"])
    assert_allclose(log_density, record["value"]["log_pdf"], **tolerance(record))
    assert_allclose(np.exp(log_density), record["value"]["pdf"], **tolerance(record))


@records("boundary")
def test_boundaries_are_all_the_points_of_even_odds(record):
    assert_allclose(gaussian.boundaries(*parameters(record)), record["value"], **tolerance(record))


def test_the_posterior_of_the_first_component_stays_right_in_logs():
    record = RECORDS["known.A_bento.posterior_c1"]
    table = gaussian.log_table(*parameters(record), record["inputs"]["x"])
    assert_allclose(table[:, 0] - table[:, 1], record["value"]["log_odds_c1"], **tolerance(record))
    assert_allclose(expit(table[:, 0] - table[:, 1]), record["value"]["p_c1"], **tolerance(record))


def test_moments_and_critical_points_are_those_of_the_mixture():
    record = RECORDS["known.A_bento.moments_and_modes"]
    mean, sd = gaussian.moments(*parameters(record))
    assert_allclose([mean, sd], [record["value"]["mean"], record["value"]["sd"]], **tolerance(record))
    points = gaussian.critical_points(*parameters(record))
    assert [kind for _, kind in points] == [kind for _, kind in record["value"]["critical_points"]]
    assert_allclose([x for x, _ in points], [x for x, _ in record["value"]["critical_points"]], **tolerance(record))
    assert sum(kind == "max" for _, kind in points) == record["value"]["n_modes"]


@records("marginal_pdf")
def test_bento_known_has_the_marginal_density_as_its_pointwise_log_likelihood(record):
    x = np.array(record["inputs"]["x"])
    log_density = model_of(record).pointwise_log_likelihood({}, x)
    assert_allclose(log_density, record["value"]["log_pdf"], **tolerance(record))


def test_bento_known_responsibilities_are_bayes_rule():
    record = RECORDS["known.A_bento.posterior_c1"]
    model, x = model_of(record), np.array(record["inputs"]["x"])
    assert model is bento_known()  # its default constants
    assert_allclose(model.responsibilities({}, x)[:, 0], record["value"]["p_c1"], **tolerance(record))
    table = np.asarray(model.log_table({}, x))
    assert_allclose(table[:, 0] - table[:, 1], record["value"]["log_odds_c1"], **tolerance(record))


@records("boundary")
def test_bento_known_is_undecided_on_the_boundaries(record):
    responsibilities = model_of(record).responsibilities({}, np.array(record["value"]))
    assert_allclose(responsibilities, 0.5, atol=1e-8)


def test_there_are_no_boundaries_when_one_component_wins_everywhere():
    assert len(gaussian.boundaries([0.9, 0.1], [0.0, 0.0], [1.0, 1.0])) == 0
    assert len(gaussian.boundaries([0.99, 0.01], [0.0, 0.1], [2.0, 1.9])) == 0


def test_boundaries_need_exactly_two_components():
    with pytest.raises(ValueError, match="between two components, got 3"):
        gaussian.boundaries([0.2, 0.3, 0.5], [0.0, 1.0, 2.0], [1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("weights", "means", "scales", "sentence"),
    [
        ([0.5, 0.6], [0, 1], [1, 1], "sum to 1"),
        ([0.5, 0.5], [0, 1], [1, -1], "positive standard deviations"),
        ([0.5, 0.5], [0, 1, 2], [1, 1], "shape"),
    ],
)
def test_impossible_parameters_get_one_sentence(weights, means, scales, sentence):
    with pytest.raises(ValueError, match=sentence):
        gaussian.log_density(weights, means, scales, [0.0])


def test_a_merged_pair_has_one_mode_and_a_separate_pair_three_critical_points():
    assert [kind for _, kind in gaussian.critical_points([0.5, 0.5], [0.0, 1.0], [1.0, 1.0])] == ["max"]
    # equal weights and scales: two modes exactly when the means are more than two scales apart
    points = gaussian.critical_points([0.5, 0.5], [0.0, 2.5], [1.0, 1.0])
    assert [kind for _, kind in points] == ["max", "min", "max"]
    assert_allclose(points[1][0], 1.25, atol=1e-10)
