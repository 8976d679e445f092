"""What NUTS says of its own run, the ordering of its components, and where its chains start."""

import jax
import numpy as np
import pytest

from diagnostics import to_arviz
from inference import Refused, em, fit, labels, nuts
from inference.results import Cost, PointMass
from zoo.models.bento import bento, bento_full
from zoo.models.coffee import coffee

SHORT = dict(num_chains=2, num_warmup=50, num_draws=50)


def test_draws_that_use_the_whole_tree_are_warned_of_and_others_not():
    cut = fit(coffee(), "nuts", max_tree_depth=1, **SHORT)
    assert cut.warnings == ("100 of 100 draws used the whole tree of depth 1: raise max_tree_depth",)
    assert (cut.stats["n_steps"] == 1).all()
    assert fit(coffee(), "nuts", **SHORT).warnings == ()


@pytest.mark.slow
def test_ordered_draws_are_the_draws_relabelled_and_nothing_else():
    free, ordered = fit(bento_full(), "nuts", permute=False, **SHORT), fit(bento_full(), "nuts", ordered=True, **SHORT)
    assert (np.diff(ordered.params["means"], axis=-1) > 0).all()
    assert (np.diff(free.params["means"], axis=-1) < 0).any()
    order = np.argsort(free.params["means"], axis=-1)
    for name, leaf in free.params.items():
        np.testing.assert_allclose(ordered.params[name], np.take_along_axis(leaf, order, axis=-1), rtol=1e-12)
    np.testing.assert_allclose(ordered.stats["lp"], free.stats["lp"], rtol=1e-10)
    np.testing.assert_array_equal(ordered.stats["n_steps"], free.stats["n_steps"])
    heavy = (ordered.assignments == 1).mean(axis=(0, 1))[[0, 1]]  # 498 g and 352 g
    np.testing.assert_array_equal(heavy, [1.0, 0.0])


def test_ordering_a_model_whose_labels_mean_something_is_refused():
    with pytest.raises(Refused, match="ordered=True is not for coffee: its labels mean something"):
        fit(coffee(), "nuts", ordered=True, **SHORT)
    assert labels.order_by(bento()) == "means"
    assert labels.why_not_ordered(bento(weights=(0.7, 0.3))) is not None


def test_chains_start_at_different_admissible_em_restarts_never_all_at_the_best(monkeypatch):
    level = np.array([-10.0] * 5 + [-11.0] * 2 + [-15.0])  # the last restart, at -9, is not admissible
    found = PointMass(
        params={"means": np.arange(27.0).reshape(9, 3)},
        log_density=np.append(level, -9.0),
        num_steps=np.ones(9),
        converged=np.ones(9, bool),
        admissible=np.arange(9) < 8,
        gradient_norm=np.zeros(9),
        cost=Cost(0.0, 1.0, 7, 7),
    )
    monkeypatch.setattr(em, "em", lambda *args, **settings: found)
    for seed in range(5):
        began = nuts.em_starts(coffee(), jax.random.key(seed), coffee().data.x, 4)
        rows = np.asarray(began.params["means"])[:, 0] / 3
        assert len(set(rows)) == 4 and 8 not in rows
        assert set(level[rows.astype(int)]) == {-10.0, -11.0, -15.0}
        assert began.cost.table_evaluations == 7 and began.warnings == ()


def test_chains_without_an_admissible_restart_start_from_the_prior_and_it_is_said(monkeypatch):
    real = em.em
    none = lambda *args, **settings: (found := real(*args, **settings))._replace(
        admissible=np.arange(len(found.admissible)) == 0
    )
    monkeypatch.setattr(em, "em", none)
    began = nuts.em_starts(coffee(), jax.random.key(0), coffee().data.x, 3)
    assert began.params["means"].shape == (3, 3) and np.isfinite(began.params["means"]).all()
    assert began.warnings == ("only 1 of 12 EM restarts are admissible: the other chains start elsewhere",)


def test_the_same_seed_gives_the_same_draws_from_em_starts_and_a_break_changes_no_bit():
    how = dict(num_chains=2, num_warmup=20, starts="em", seed=4)
    short = fit(coffee(), "nuts", num_draws=10, **how)
    whole = fit(coffee(), "nuts", num_draws=25, **how)
    resumed = fit(coffee(), "nuts", num_draws=25, resume=short, **how)
    for one, two in zip(jax.tree.leaves(whole.params), jax.tree.leaves(resumed.params), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("dense", [True, False])
def test_what_warmup_adapted_is_carried_by_arviz(dense):
    model = coffee()
    draws = fit(model, "nuts", dense_mass=dense, **SHORT)
    data = to_arviz(draws, model, model.data.x, backend="nuts")
    state, stats = data["sampler_state"], data["sample_stats"]
    assert {"step_size", "tree_depth", "diverging", "energy", "n_steps", "acceptance_rate", "lp"} <= set(stats)
    mass = state["kernel_adapt_state_inverse_mass_matrix"].values
    assert mass.shape == ((2, 3, 3) if dense else (2, 3))
    assert (np.linalg.eigvalsh(mass) > 0).all() if dense else (mass > 0).all()
    np.testing.assert_array_equal(state["kernel_adapt_state_step_size"].values, stats["step_size"].values[:, -1])
    assert (stats["step_size"].values == stats["step_size"].values[:, :1]).all()


@pytest.mark.parametrize("starts, sentence", [("map", "starts should be 'prior' or 'em', got 'map'"), (1, "got 1")])
def test_starts_that_do_not_exist_are_refused(starts, sentence):
    with pytest.raises(ValueError, match=sentence):
        fit(coffee(), "nuts", starts=starts)
