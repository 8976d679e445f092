"""The jump of Gibbs warmup: out of traps that sweeps cannot leave, and in detailed balance with the posterior."""

import jax
import numpy as np
import numpyro.distributions as dist
import pytest

from diagnostics import calibration, mutations
from inference import conjugacy, fit, gibbs
from zoo.models.bento import bento_425
from zoo.models.coffee import coffee
from zoo.models.overfitted import galaxy_sparse

IN_WARMUP = 10**6  # warmup steps, more than any test runs: every step has its jump


def share_in_the_wrong_kind(**settings):
    """For each of 32 chains, the share with the bento of 425 g among the twelve near 500 (probability 6e-13)."""
    wrong = []
    for seed in range(8):
        z = fit(bento_425(), "gibbs", seed=seed, num_draws=100, **settings).assignments
        wrong.append(np.mean(z[:, :, 20] == z[:, :, 0], axis=1))
    return np.concatenate(wrong)


def test_no_chain_keeps_the_bento_between_the_kinds_in_the_wrong_one():
    assert np.all(share_in_the_wrong_kind() == 0)


def test_without_the_jumps_of_warmup_a_quarter_of_the_chains_and_more_never_leave():
    wrong = share_in_the_wrong_kind(num_warmup=0)
    assert set(wrong[wrong > 0.5]) == {1.0} and np.mean(wrong == 1) >= 0.25


@pytest.mark.parametrize(
    # 20,000 replicates did not see the reverse density taken at the wrong parameters on coffee_full: z 3.0
    "name, num_replicates",
    [("bento", 20_000), pytest.param("coffee_full", 100_000, marks=pytest.mark.slow)],
)
def test_sweeps_with_jumps_leave_the_joint_law_invariant(name, num_replicates):
    model = calibration.wide(name)
    how = dict(level=0.005, num_replicates=num_replicates)
    result = calibration.joint_test(model, gibbs.build(model, IN_WARMUP), jax.random.key(2), **how)
    assert result.passed, result


def test_a_jump_from_a_rule_that_is_wrong_is_corrected_all_the_same():
    model = calibration.wide("bento")
    with mutations.wrong_rule(model, "means", lambda q: dist.Normal(q.loc, 1.5 * q.scale)):
        sampler = gibbs.build.__wrapped__(model, IN_WARMUP, accept=True)
        result = calibration.joint_test(model, sampler, jax.random.key(1))
    assert result.passed, result


def test_warmup_has_jumps_and_the_draws_after_it_have_none():
    cost = lambda num_warmup, num_draws: (
        fit(coffee(), "gibbs", num_chains=1, num_warmup=num_warmup, num_draws=num_draws, thin=1).cost.table_evaluations
    )
    found = len(conjugacy.rules(coffee()))
    sweep, check = cost(1, 11) - cost(1, 10), found + 1
    assert cost(5, 10) == 15 * sweep + 5 * (2 + check)


def test_draws_that_floats_hardly_hold_keep_their_density():
    """Under Dirichlet(.001, ...) half of the weights of empty components are below every float64, and under
    InverseGamma(.01, .01) a variance in forty is above 1e154, whose square no float64 holds."""
    model = galaxy_sparse(concentration=0.001, num_components=5, variance_shape=0.01, variance_scale=0.01)
    draws = fit(model, "gibbs", num_chains=2, num_warmup=300, num_draws=300)
    smallest = np.finfo(float).tiny
    assert draws.warnings == () and np.isfinite(draws.stats["lp"]).all() and draws.stats["conjugacy_error"].max() < 1e-9
    assert draws.params["weights"].min() == smallest and draws.params["variances"].max() > 1e154
    assert model.prior_draws(jax.random.key(0), 1000)["weights"].min() == smallest
