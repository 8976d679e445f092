"""An interrupted run that goes on is the uninterrupted one, bit for bit."""

import functools

import jax
import numpy as np
import pytest

from inference import conjugacy, fit, gibbs, loop
from inference.results import Draws
from zoo.models.bento import bento
from zoo.models.coffee import coffee

CHAINS = ("gibbs", "collapsed", "metropolis", "nuts")
SETTINGS = dict(num_chains=2, num_warmup=20, num_draws=40)


def numbers(draws: Draws):
    """Everything but the seconds: parameters, assignments, statistics and the last state."""
    return draws.params, draws.assignments, draws.stats, loop.state_leaves(draws.state)


def assert_same(one: Draws, two: Draws):
    assert jax.tree.structure(numbers(one)) == jax.tree.structure(numbers(two))
    for a, b in zip(jax.tree.leaves(numbers(one)), jax.tree.leaves(numbers(two)), strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.asarray(a).dtype == np.asarray(b).dtype
    assert (one.num_done, one.interrupted) == (two.num_done, two.interrupted)
    assert one.cost.table_evaluations == two.cost.table_evaluations


@functools.cache
def whole(model, backend):
    return fit(model, backend, seed=5, **SETTINGS)


def interrupted(model, backend, monkeypatch, after=30, chunk=10):
    """A run cut by Ctrl-C after `after` steps, in chunks of another length."""
    monkeypatch.setattr(loop, "CHUNK", chunk)

    def stop(done, total):
        if done >= after:
            raise KeyboardInterrupt

    draws = fit(model, backend, seed=5, progress=stop, **SETTINGS)
    monkeypatch.undo()
    return draws


@pytest.mark.parametrize("backend", CHAINS)
@pytest.mark.parametrize("model", [bento(), pytest.param(coffee(), marks=pytest.mark.slow)], ids=["bento", "coffee"])
def test_a_run_cut_by_ctrl_c_goes_on_to_the_same_bits(model, backend, monkeypatch):
    first = interrupted(model, backend, monkeypatch)
    assert first.interrupted and first.num_done == 30 and first.assignments.shape[:2] == (2, 10)
    assert_same(fit(model, backend, seed=5, resume=first, **SETTINGS), whole(model, backend))


@pytest.mark.parametrize("backend", CHAINS)
def test_a_finished_run_is_extended_as_if_more_draws_had_been_asked_for(backend):
    short = fit(coffee(), backend, seed=5, **SETTINGS | {"num_draws": 15})
    assert_same(fit(coffee(), backend, seed=5, resume=short, **SETTINGS), whole(coffee(), backend))


def test_nothing_more_to_do_gives_the_same_draws_back():
    assert_same(fit(coffee(), "gibbs", seed=5, resume=whole(coffee(), "gibbs"), **SETTINGS), whole(coffee(), "gibbs"))


def test_an_interrupted_run_that_is_asked_for_no_more_draws_is_whole(monkeypatch):
    first = interrupted(coffee(), "gibbs", monkeypatch)
    again = fit(coffee(), "gibbs", seed=5, resume=first, **SETTINGS | {"num_draws": 10})
    assert "interrupted" in first.warnings[-1] and not again.interrupted and again.warnings == ()
    np.testing.assert_array_equal(again.assignments, first.assignments)


@pytest.mark.parametrize("x", [coffee().data.x[::-1], coffee().data.x + 1], ids=["another order", "others"])
def test_a_run_on_other_data_is_not_gone_on_with(x):
    with pytest.raises(ValueError, match="has checksum of x ="):
        fit(coffee(), "gibbs", x, seed=5, resume=whole(coffee(), "gibbs"), **SETTINGS)


def test_a_conjugate_rule_found_wrong_stays_a_proposal_after_the_break(monkeypatch):
    wrong = lambda rule, params, r, x: type(rule.conditional(params, r, x))(rule.conditional(params, r, x).loc, 3.0)
    real = conjugacy.rules
    bent = lambda model: tuple(rule._replace(conditional=functools.partial(wrong, rule)) for rule in real(model))
    monkeypatch.setattr(conjugacy, "rules", bent)
    run = functools.partial(gibbs.gibbs, bento(scale=38.0), bento().data.x, jax.random.key(0))
    full, short = run(**SETTINGS), run(**SETTINGS | {"num_draws": 15})
    again = run(resume=short, **SETTINGS)
    assert "Metropolis-Hastings" in again.warnings[0] and full.stats["conjugacy_error"].min() > 1e-3
    assert_same(again, full)


@pytest.mark.parametrize(
    "settings, sentence",
    [
        (SETTINGS | {"num_chains": 3}, "has num_chains = 2, this one 3"),
        (SETTINGS | {"num_warmup": 10}, "has num_warmup = 20, this one 10"),
        (SETTINGS | {"num_draws": 5}, "has 40 draws per chain already"),
    ],
)
def test_a_run_that_does_not_continue_the_earlier_one_is_refused_in_a_sentence(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        fit(coffee(), "gibbs", seed=5, resume=whole(coffee(), "gibbs"), **settings)


@pytest.mark.parametrize(
    "seed, settings, sentence",
    [
        (6, {}, "has seed = 5, this one 6"),
        (5, {"thin": 2}, "has thin = 5, this one 2"),
        (5, {"permute": False}, "has permute = True, this one False"),
    ],
)
def test_a_run_of_another_seed_or_setting_is_not_gone_on_with(seed, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        fit(coffee(), "gibbs", seed=seed, resume=whole(coffee(), "gibbs"), **SETTINGS | settings)


def test_a_run_of_another_back_end_is_not_gone_on_with():
    with pytest.raises(ValueError, match="has backend = 'gibbs', this one 'nuts'"):
        fit(coffee(), "nuts", seed=5, resume=whole(coffee(), "gibbs"), **SETTINGS)


def test_other_data_of_the_same_shape_are_refused_where_the_draws_do_not_say_what_they_are_of():
    with pytest.raises(ValueError, match="another model or data"):
        nameless = whole(coffee(), "gibbs")._replace(origin={})
        fit(coffee(), "gibbs", coffee().data.x + 5, seed=5, resume=nameless, **SETTINGS)


def test_only_chains_can_go_on():
    with pytest.raises(ValueError, match="em has none"):
        fit(coffee(), "em", resume=whole(coffee(), "gibbs"))
