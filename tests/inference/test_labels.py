"""The permutation move and the draw of assignments, against what they must be."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logsumexp
from scipy import stats
from scipy.special import softmax

from inference import fit, labels
from zoo import MODELS
from zoo.mixture import permutations
from zoo.models.bento import bento
from zoo.models.coffee import coffee


def frequencies(draws, num):
    return np.bincount(np.asarray(draws), minlength=num) / len(draws)


def test_assignments_follow_the_softmax_of_the_table():
    table = jnp.log(jnp.array([[0.1, 0.6, 0.3], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.25, 0.25, 0.5]])) + 7.0
    keys = jax.random.split(jax.random.key(0), 20_000)
    z = jax.jit(jax.vmap(lambda key: labels.draw_assignments(key, table)))(keys)
    p = jax.nn.softmax(table, axis=1)
    for n in range(4):
        found = frequencies(z[:, n], 3)
        error = np.sqrt(p[n] * (1 - p[n]) / len(keys))
        assert np.all(np.abs(found - p[n]) <= 4.4 * error)


def test_uniforms_fill_the_interval_and_neighbours_of_one_word_are_independent():
    for dtype in (jnp.float32, jnp.float64):
        u = np.asarray(labels.uniforms(jax.random.key(3), 99_999, dtype))
        assert u.shape == (99_999,) and u.dtype == dtype and 0 <= u.min() and u.max() < 1
        assert stats.kstest(u, "uniform").pvalue > 1e-4
        cells = (10 * u[:-1]).astype(int).reshape(-1, 2) @ np.array([10, 1])  # both halves of a word
        assert stats.chisquare(np.bincount(cells, minlength=100)).pvalue > 1e-4


def test_a_component_of_weight_zero_is_never_drawn():
    table = jnp.log(jnp.tile(jnp.array([0.0, 0.5, 0.0, 0.5, 0.0]), (20_000, 1)))
    z, log_sums = labels.draw_and_sum(jax.random.key(4), table)
    assert set(np.unique(z)) == {1, 3}
    np.testing.assert_allclose(log_sums, 0.0, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_entries_far_apart_are_drawn_and_summed_right(dtype):
    inf = np.inf
    rows = [[-2000, 0, 0], [0, -2000, 1], [-inf, 3, 2], [5, -inf, -inf], [-800, -1600, -799], [1000, 1050, 1052]]
    table = np.array(rows, dtype)
    z = jax.vmap(lambda key: labels.draw_assignments(key, jnp.asarray(table)))(
        jax.random.split(jax.random.key(6), 9000)
    )
    p = softmax(table.astype(float), axis=1)
    for n in range(len(rows)):
        assert np.all(np.abs(frequencies(z[:, n], 3) - p[n]) <= 4.4 * np.sqrt(p[n] * (1 - p[n]) / len(z)))
    log_sums = labels.draw_and_sum(jax.random.key(7), jnp.asarray(table))[1]
    np.testing.assert_allclose(log_sums, logsumexp(table.astype(float), axis=1), rtol=30 * np.finfo(dtype).eps)


@pytest.mark.parametrize(
    "model", [coffee(), bento(weights=(0.7, 0.3)), pytest.param(MODELS["tone_experts"], marks=pytest.mark.slow)]
)
def test_the_density_of_a_labelling_is_the_joint_density_but_for_a_constant(model):
    assert labels.moves(model, True)
    params, z, x = model.simulate(jax.random.key(5), 40)
    found = labels.log_labelling(model, params, z, x)
    every = [jnp.asarray(s) for s in permutations(model.num_components)]
    exact = np.array([model.log_joint(model.permute(params, s), s[z], x) for s in every])
    np.testing.assert_allclose(np.array([found(s) for s in every]) - found(every[0]), exact - exact[0], atol=1e-9)


def test_permutation_is_drawn_from_its_full_conditional():
    model = MODELS["coffee"]
    params = {"means": jnp.array([105.0, 110.0, 128.0])}
    z = jnp.array([0, 1, 2, 2, 1])
    x = jnp.array([104.0, 112.0, 127.0, 130.0, 109.0])
    every = permutations(3)
    log_density = lambda s: model.log_joint(model.permute(params, s), s[z], x)
    exact = np.asarray([log_density(jnp.asarray(s)) for s in every])
    exact = np.exp(exact - logsumexp(exact))
    assert 0.002 < exact.min() and exact.max() < 0.9  # every labelling is seen
    keys = jax.random.split(jax.random.key(1), 20_000)
    drawn = jax.jit(jax.vmap(lambda key: labels.redraw(model, key, jnp.arange(3), log_density)))(keys)
    code = np.asarray(drawn) @ np.array([9, 3, 1])
    found = np.array([np.mean(code == s @ np.array([9, 3, 1])) for s in every])
    assert stats.chisquare(found * len(keys), exact * len(keys)).pvalue > 1e-4


def test_exchangeable_models_permute_uniformly():
    keys = jax.random.split(jax.random.key(2), 20_000)
    model = MODELS["three_gaussians"]
    drawn = jax.vmap(lambda key: labels.redraw(model, key, None, None))(keys)
    code = np.asarray(drawn) @ np.array([9, 3, 1])
    counts = np.array([np.sum(code == s @ np.array([9, 3, 1])) for s in permutations(3)])
    assert counts.sum() == len(keys)
    assert stats.chisquare(counts).pvalue > 1e-4


def test_transpositions_leave_the_conditional_of_six_labels_invariant(monkeypatch):
    # beyond 5 components the move is a Metropolis-Hastings chain: start it in its law, and it must stay there
    monkeypatch.setattr(labels, "MAX_EXACT", 1)
    model = MODELS["coffee"]
    logits = jnp.array([0.0, 1.0, 2.0])
    log_density = lambda s: jnp.sum(logits * s)
    every = permutations(3)
    law = jnp.asarray([log_density(s) for s in every])

    def one(key):
        key_start, key_move = jax.random.split(key)
        start = jnp.asarray(every)[jax.random.categorical(key_start, law)]
        return labels.redraw(model, key_move, start, log_density)

    drawn = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(3), 20_000))
    code = np.asarray(drawn) @ np.array([9, 3, 1])
    counts = np.array([np.sum(code == s @ np.array([9, 3, 1])) for s in every])
    expected = np.asarray(jax.nn.softmax(law)) * counts.sum()
    assert stats.chisquare(counts, expected).pvalue > 1e-4


def test_a_relabelled_draw_has_the_same_joint_density_in_an_exchangeable_model():
    model = MODELS["three_gaussians"]
    params, z, x = model.simulate(jax.random.key(4), 5)
    for s in permutations(3):
        moved = model.log_joint(model.permute(params, jnp.asarray(s)), jnp.asarray(s)[z], x)
        np.testing.assert_allclose(moved, model.log_joint(params, z, x), rtol=1e-12)


def test_a_false_claim_of_exchangeability_is_refused_by_every_sampler_that_would_believe_it():
    liar = dataclasses.replace(coffee(), exchangeable=True)
    for backend in ("gibbs", "metropolis", "nuts", "smc", "cavi", "advi"):
        with pytest.raises(ValueError, match="declare exchangeable=False"):
            fit(liar, backend)
    assert labels.moves(bento(), True) and labels.moves(coffee(), True) and not labels.moves(liar, False)
