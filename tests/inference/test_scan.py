"""Scan Gibbs and importance on functions whose rows depend on each other, against sums over every path by NumPy."""

import functools
import itertools
import warnings

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from genjax import categorical, exponential, gen, normal
from scipy import stats
from scipy.special import logsumexp

from diagnostics import compare
from inference import Refused, fit
from zoo import Dataset, from_unrolled
from zoo.dependent import Dependent
from zoo.distributions import beta, binomial
from zoo.load import load

FIRST, NEXT = np.array([0.6, 0.4]), np.array([[0.8, 0.2], [0.3, 0.7]])
PRIOR_SD, SD = 2.0, 1.0
X = np.array([-1.3, -0.4, 1.9, 2.2, 0.7, -0.9])


@gen
def hidden_chain():
    """A hidden Markov chain of two states with unknown means."""
    means = jnp.array([normal(np.float64(-1), PRIOR_SD) @ "mu_0", normal(np.float64(1), PRIOR_SD) @ "mu_1"])
    probs = jnp.asarray(FIRST)
    for n in range(len(X)):
        z = categorical(probs=probs) @ f"z_{n}"
        normal(means[z], SD) @ f"x_{n}"
        probs = jnp.asarray(NEXT)[z]


@gen
def echoes():
    """Every observation leans on the one before."""
    means = jnp.array([normal(np.float64(-1), PRIOR_SD) @ "mu_0", normal(np.float64(1), PRIOR_SD) @ "mu_1"])
    before = 0.0
    for n in range(3):
        before = normal(means[categorical(probs=FIRST) @ f"z_{n}"] + 0.5 * before, SD) @ f"x_{n}"


@functools.cache
def declared(function):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return from_unrolled(function, name="chain")


@functools.cache
def exact():
    """By summing over all 2^6 paths: given one, each mean has its conjugate normal, and the evidence is Gaussian."""
    paths, log_p, means, seconds = list(itertools.product(range(2), repeat=len(X))), [], [], []
    for path in paths:
        z = np.array(path)
        total = np.log(FIRST[z[0]]) + np.log(NEXT[z[:-1], z[1:]]).sum()
        mean, second = np.zeros(2), np.zeros(2)
        for k, centre in enumerate((-1.0, 1.0)):
            own = X[z == k]
            covariance = SD**2 * np.eye(len(own)) + PRIOR_SD**2
            total += stats.multivariate_normal(np.full(len(own), centre), covariance).logpdf(own) if len(own) else 0.0
            precision = 1 / PRIOR_SD**2 + len(own) / SD**2
            mean[k] = (centre / PRIOR_SD**2 + own.sum() / SD**2) / precision
            second[k] = mean[k] ** 2 + 1 / precision
        log_p.append(total)
        means.append(mean)
        seconds.append(second)
    share = np.exp(log_p - logsumexp(log_p))
    return {
        "log_evidence": logsumexp(log_p),
        "z": share @ np.array(paths),
        "means": share @ np.array(means),
        "squares": share @ np.array(seconds),
        "both": share @ np.array([path[1] * path[2] for path in paths]),
    }


def test_a_chain_is_declared_as_what_it_is_with_the_density_of_the_function():
    with pytest.warns(UserWarning, match="z_1 depends on other assignments .* so chain is no mixture: gibbs and impor"):
        model = from_unrolled(hidden_chain, name="chain")
    assert isinstance(model, Dependent)
    params, z, x = jax.jit(jax.vmap(model.simulate))(jax.random.split(jax.random.key(0), 20))
    found = jax.jit(jax.vmap(model.log_joint))(params, z, x)
    for n in range(20):
        path, mu = np.asarray(z[n]), np.asarray(params["means"][n])
        by_hand = np.log(FIRST[path[0]]) + np.log(NEXT[path[:-1], path[1:]]).sum()
        by_hand += stats.norm([-1.0, 1.0], PRIOR_SD).logpdf(mu).sum() + stats.norm(mu[path], SD).logpdf(x[n]).sum()
        assert abs(found[n] - by_hand) < 1e-10 * (1 + abs(by_hand))


@pytest.mark.slow
def test_gibbs_finds_the_exact_posterior_of_a_hidden_markov_chain():
    draws = fit(declared(hidden_chain), "gibbs", X, seed=1, num_draws=4000, thin=2)
    z, mu = np.asarray(draws.assignments, float), np.asarray(draws.params["means"])
    found = {"z": z, "means": mu, "squares": mu**2, "both": (z[..., 1] * z[..., 2])[..., None]}
    for name, values in found.items():
        for d in range(values.shape[-1]):
            one, truth = values[..., d], np.ravel(exact()[name])[d]
            assert az.rhat(one) < 1.01, f"{name}[{d}] mixes"
            assert abs(one.mean() - truth) < 4 * az.mcse(one), f"{name}[{d}]: {one.mean()} against {truth}"


def test_importance_finds_the_exact_evidence_and_posterior_of_a_hidden_markov_chain():
    draws = fit(declared(hidden_chain), "importance", X, seed=1, num_resampled=50)
    assert abs(draws.log_evidence - exact()["log_evidence"]) < 4 * draws.log_evidence_se < 0.2
    w = np.exp(draws.log_weights[0] - logsumexp(draws.log_weights[0]))
    for name, values in (("z", draws.assignments[0]), ("means", draws.params["means"][0])):
        estimate = w @ values
        error = np.sqrt(w**2 @ (values - estimate) ** 2)
        assert (np.abs(estimate - exact()[name]) < 4 * error).all()
    assert draws.resampled.assignments.shape == (1, 50, len(X))


MOVES, SHOWS = np.array([[0.7, 0.3], [0.4, 0.6]]), np.array([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]])
SEEN = np.array([0, 2, 0, 1, 2, 2])


@functools.cache
def hard_states(moves):
    @gen
    def states():
        probs = jnp.array([0.5, 0.5])
        for n in range(len(SEEN)):
            z = categorical(probs=probs) @ f"z_{n}"
            categorical(probs=jnp.asarray(SHOWS)[z]) @ f"x_{n}"
            probs = jnp.asarray(np.array(moves))[z]

    with pytest.warns(UserWarning, match="is no mixture"):
        return from_unrolled(states, parameters={}, name="states")


def test_gibbs_is_exact_where_observations_rule_states_out():
    total, share = 0.0, np.zeros(len(SEEN))
    for path in itertools.product(range(2), repeat=len(SEEN)):
        z = np.array(path)
        p = 0.5 * MOVES[z[:-1], z[1:]].prod() * SHOWS[z, SEEN].prod()
        total, share = total + p, share + p * z
    draws = fit(hard_states(tuple(map(tuple, MOVES))), "gibbs", SEEN, seed=1, num_draws=2000)
    z = np.asarray(draws.assignments, float)
    assert np.isfinite(draws.stats["log_joint"]).all() and draws.warnings == ()
    found, exact = z.mean(axis=(0, 1)), share / total
    sure = (exact == 0) | (exact == 1)
    assert sure.sum() == 5 and np.array_equal(found[sure], exact[sure])
    assert abs(found[3] - exact[3]) < 4 * az.mcse(z[..., 3])


def test_paths_that_one_assignment_at_a_time_may_not_reach_have_a_warning():
    draws = fit(hard_states(((0.0, 1.0), (1.0, 0.0))), "gibbs", np.array([1, 1, 1, 1, 1, 1]), seed=1, num_draws=20)
    assert draws.warnings[0].startswith("some paths of assignments are impossible, and these draws move one assignment")


@pytest.mark.slow
def test_rows_may_be_unlike_each_other():
    @gen
    def trials():
        p, before = beta(concentration1=2.0, concentration0=2.0) @ "p", 0
        for n, count in enumerate((10.0, 50.0)):
            before = categorical(probs=jnp.asarray(NEXT)[before]) @ f"z_{n}"
            binomial(total_count=count, probs=jnp.stack([p, 0.5 * p])[before]) @ f"x_{n}"

    with pytest.warns(UserWarning, match="is no mixture"):
        model = from_unrolled(trials, parameters={})
    assert model.check(np.array([5.0, 30.0])).tolist() == [5.0, 30.0]
    assert np.isfinite(fit(model, "importance", np.array([5.0, 30.0]), num_particles=1000).log_evidence)


@pytest.mark.slow
def test_observations_that_lean_on_each_other_are_a_mixture_of_what_is_left_of_them():
    model, x = declared(echoes), np.array([-0.7, 1.2, 0.3])
    left = x - 0.5 * np.r_[0.0, x[:-1]]
    log_p = []
    for path in itertools.product(range(2), repeat=3):
        z, total = np.array(path), 0.0
        for k, centre in enumerate((-1.0, 1.0)):
            own = left[z == k]
            covariance = SD**2 * np.eye(len(own)) + PRIOR_SD**2
            total += stats.multivariate_normal(np.full(len(own), centre), covariance).logpdf(own) if len(own) else 0.0
        log_p.append(total + np.log(FIRST[z]).sum())
    draws = fit(model, "importance", x, seed=2)
    assert abs(draws.log_evidence - logsumexp(log_p)) < 4 * draws.log_evidence_se < 0.1


@pytest.mark.slow
def test_the_same_seed_gives_the_same_draws_and_parameters_keep_their_support():
    @gen
    def waits():
        rates = jnp.array([exponential(np.float64(1)) @ "rate_0", exponential(np.float64(1)) @ "rate_1"])
        before = 0
        for n in range(3):
            before = categorical(probs=jnp.asarray(NEXT)[before]) @ f"z_{n}"
            exponential(rates[before]) @ f"x_{n}"

    with pytest.warns(UserWarning, match="is no mixture"):
        model = from_unrolled(waits, parameters={"rates": "rate_{}"}, data=Dataset(name="waits", x=np.ones(3)))
    short = {"num_chains": 2, "num_warmup": 10, "num_draws": 20}
    one, again, other = (fit(model, "gibbs", seed=seed, **short) for seed in (3, 3, 4))
    assert np.array_equal(one.params["rates"], again.params["rates"]) and (one.params["rates"] > 0).all()
    assert one.params["rates"].shape == (2, 20, 2) and one.assignments.shape == (2, 20, 3)
    assert not np.array_equal(one.params["rates"], other.params["rates"])


def test_what_does_not_serve_a_chain_says_so_in_a_sentence():
    model = declared(hidden_chain)
    with pytest.raises(Refused, match=r"nuts refuses .*depend on each other .*; gibbs, importance serve it"):
        fit(model, "nuts", X)
    with pytest.raises(ValueError, match="x has 5 rows, and .* has addresses for 6 observations"):
        fit(model, "gibbs", X[:5])
    with pytest.raises(ValueError, match="1 rows with NaN"):
        fit(model, "gibbs", np.where(np.arange(6) == 2, np.nan, X))
    with pytest.raises(ValueError, match="gibbs has no setting 'permute'"):
        fit(model, "gibbs", X, permute=False)
    with pytest.raises(ValueError, match="no data of its own; give x"):
        fit(model, "gibbs")
    with pytest.raises(ValueError, match="model should be a Mixture, got Dependent: its rows depend .* inference.fit"):
        compare(model, ["gibbs"], X)


def test_the_command_line_says_that_a_chain_is_for_python(tmp_path):
    model = "from tests.inference.test_scan import declared, hidden_chain\nmodel = declared(hidden_chain)\n"
    (tmp_path / "chain.py").write_text(model)
    with pytest.raises(ValueError, match="chain.py:model is no mixture: its rows depend on each other"):
        load(f"{tmp_path / 'chain.py'}:model")
