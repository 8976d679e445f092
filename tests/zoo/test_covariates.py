"""A model with covariates draws data at those of its own data, row by row."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diagnostics import contract
from zoo import probe
from zoo.models.counts import betablocker, london_deaths
from zoo.models.regression import tone


def test_the_datas_covariates_come_first_and_again_where_more_rows_are_asked_for():
    given = tone().data.x["covariates"]
    assert np.array_equal(tone().covariates(151), np.r_[given, given[:1]])
    assert london_deaths().covariates(3) is None


def test_a_forward_draw_has_the_datas_covariates_and_the_response_follows_them():
    given = tone().data.x["covariates"]
    params, z, x = jax.jit(lambda key: tone().simulate(key, 150))(jax.random.key(0))
    assert np.array_equal(x["covariates"], given)
    coefficients, sd = params["coefficients"][z], jnp.sqrt(params["variances"])[z]
    standard = (x["x"] - coefficients[:, 0] - coefficients[:, 1] * (given - 2)) / sd
    assert abs(float(standard.mean())) < 5 / np.sqrt(150) and abs(float((standard**2).mean()) - 1) < 5 * np.sqrt(
        2 / 150
    )


def test_the_probes_draws_have_covariates_of_their_own_row_each():
    params = {name: leaf[0] for name, leaf in tone().prior_draws(jax.random.key(0), 256).items()}
    _, x = probe.draw_observations(tone(), params, jax.random.key(1), 5)
    assert np.array_equal(x["covariates"], tone().data.x["covariates"][:5]) and x["x"].shape == (5,)


def test_the_contract_catches_a_table_that_takes_another_rows_covariate():
    slow = tone().log_table
    swapped = lambda params, x: slow(params, {**x, "covariates": jnp.roll(x["covariates"], 1)})
    found = contract.table_equals_enumeration(dataclasses.replace(tone(), table=swapped))
    assert not found.holds, found.detail


def test_more_deaths_than_patients_are_refused_with_the_reason():
    x = betablocker().data.x
    with pytest.raises(ValueError, match="x row 2 is .*: a count is from 0 to its number of trials, 93"):
        betablocker().check({**x, "x": np.where(np.arange(len(x["x"])) == 2, 94, x["x"])})


def test_trials_that_are_no_whole_numbers_are_refused():
    x = betablocker().data.x
    for trials in (10.5, -3.0):
        covariates = np.where(np.arange(len(x["x"])) == 2, trials, x["covariates"])
        with pytest.raises(ValueError, match=f"x row 2 is .* has {trials:g} trials of x; trials are 0, 1, 2, ..."):
            betablocker().check({**x, "covariates": covariates})
