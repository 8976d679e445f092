"""Equal observations: where they leave no proper posterior that is said, and where they leave one it is found."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from genjax import categorical, dirichlet, gamma, gen, half_normal, normal
from numpyro.distributions import Categorical, LKJCholesky, LogNormal, MultivariateNormal, Normal
from scipy.special import logsumexp
from scipy.stats import gamma as gamma_law
from scipy.stats import halfnorm, invgamma

from inference import BACKENDS, fit, proper
from inference.closed_forms import normal_log_marginal
from zoo import MODELS
from zoo.distributions import log_normal
from zoo.mixture import Mixture
from zoo.models.bento import bento, bento_full
from zoo.models.multivariate_gaussian import any_covariance, faithful_lkj_6, lkj_cholesky
from zoo.models.three_gaussians import three_gaussians

EQUAL = np.full(20, 400.0)
IMPROPER = three_gaussians()


@gen
def prior():
    weights = dirichlet(np.ones(3)) @ "weights"
    means = normal(np.full(3, 15.0), 10.0) @ "means"
    scales = gamma(np.full(3, 3.0), 1.0) @ "scales"
    return {"weights": weights, "means": means, "scales": scales}


@gen
def shared_prior():
    weights = dirichlet(np.ones(3)) @ "weights"
    means = normal(np.full(3, 15.0), 10.0) @ "means"
    scale = gamma(np.float64(1.0), np.float64(1.0)) @ "scale"
    return {"weights": weights, "means": means, "scales": jnp.full(3, scale)}


@gen
def observation(params):
    z = categorical(probs=params["weights"]) @ "z"
    return normal(params["means"][z], params["scales"][z]) @ "x"


THICK = dataclasses.replace(IMPROPER, name="thick", prior=prior, observation=observation, twin=None, data=None)
SHARED = dataclasses.replace(THICK, name="shared", prior=shared_prior)


def log_mass(m, log_prior, low):
    """log of the integral over the scale from exp(low) of p(m equal rows, scale), location Normal(15, 10) a priori."""
    u = np.arange(low, 3.0, 0.01)
    scale = np.exp(u)
    known = dict(prior_mean=15.0, prior_sd=10.0, variance=scale**2)
    return logsumexp(normal_log_marginal(m, 12.0, 0.0, **known) + log_prior(scale) + u)


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    "model, log_prior",
    [
        (IMPROPER, lambda s: halfnorm.logpdf(s, scale=5.0)),
        (THICK, lambda s: gamma_law.logpdf(s, 3.0)),
        (bento_full(), lambda s: invgamma.logpdf(s**2, 3, scale=8.0) + np.log(2 * s)),
    ],
    ids=["half normal", "gamma", "inverse gamma"],
)
def test_the_warning_comes_where_the_mass_near_scale_zero_grows_without_end(model, log_prior, m):
    infinite = log_mass(m, log_prior, -60.0) - log_mass(m, log_prior, -30.0) > 0.1
    x = np.r_[np.full(m, 12.0), 1.0, 2.0, 3.0, 4.0]
    said = proper.check_proper(model, x)
    assert len(said) == infinite
    if infinite:
        assert said[0].startswith(f"the posterior is improper: {m} rows are equal (row 0, x = 12.0)")


def test_a_scale_that_all_components_share_cannot_shrink_onto_some_rows():
    assert proper.check_proper(SHARED, np.array([12.0, 12.0, 1.0, 2.0, 3.0])) == ()
    with pytest.raises(ValueError, match="no proper posterior: 2 rows are equal"):
        proper.check_proper(SHARED, np.array([12.0, 12.0, 1.0, 1.0, 3.0]))


def test_student_components_shrink_onto_equal_rows_alike():
    model, x = MODELS["galaxy_student"], np.array(MODELS["galaxy_student"].data.x)
    assert proper.check_proper(model, x) == ()
    with pytest.raises(ValueError, match="no proper posterior: 82 rows are equal"):
        proper.check_proper(model, np.full(82, 20.0))
    x[1] = x[0]
    assert proper.check_proper(model, x)[0].startswith("the posterior is improper: 2 rows are equal (row 0, ")


@pytest.mark.parametrize("backend", [n for n in BACKENDS if n != "em" and not BACKENDS[n].refuses(IMPROPER, EQUAL)])
def test_data_that_leave_nothing_but_a_scale_of_zero_are_refused(backend):
    with pytest.raises(ValueError, match=r"no proper posterior: 20 rows are equal \(row 0, x = 400.0\).*InverseGamma"):
        fit(IMPROPER, backend, EQUAL)


def test_em_says_that_there_is_no_maximum_for_such_data():
    found = fit(IMPROPER, "em", EQUAL - 385, num_restarts=4, max_steps=50)
    assert not found.admissible.any() and "nothing here is an estimate" in found.warnings[0]
    assert any("grows without bound as a scale shrinks" in said for said in found.warnings)
    with pytest.raises(ValueError, match="x has 1 distinct points for 3 components"):
        fit(IMPROPER, "em", EQUAL, prior=False)


def test_the_warning_stands_in_the_result():
    x = np.append(IMPROPER.data.x[:20], IMPROPER.data.x[3])
    found = fit(IMPROPER, "importance", x, num_particles=100)
    assert found.warnings[0].startswith("the posterior is improper: 2 rows are equal (row 3, ")


@pytest.mark.parametrize(
    "model, x", [(bento(), EQUAL), (bento(), [450.0]), pytest.param(bento_full(), EQUAL, marks=pytest.mark.slow)]
)
def test_equal_or_few_rows_with_a_proper_posterior_are_served_and_agree_with_enumeration(model, x):
    x = np.array(x)
    exact = fit(model, "enumeration", x)
    draws = fit(model, "gibbs", x, num_draws=2000, seed=1)
    assert draws.warnings == ()
    for name in draws.params:  # sorted: the labels are exchangeable
        one, two = (np.sort(np.asarray(d.params[name]), axis=2)[..., 1] for d in (draws, exact.draws))
        by_chain = one.mean(axis=1)
        error = np.hypot(by_chain.std(ddof=1) / np.sqrt(len(by_chain)), two.std() / np.sqrt(two.size))
        assert abs(one.mean() - two.mean()) < 8 * error  # t with 3 degrees of freedom: 8 is a chance of .004


@gen
def thick_masses():
    weights = dirichlet(np.ones(2)) @ "weights"
    means = normal(np.zeros(2), 2.0) @ "means"
    scales = half_normal(np.full(2, 2.0)) @ "scales"
    return {"weights": weights, "means": means, "scales": scales}


@gen
def thick_heights():
    weights = dirichlet(np.ones(2)) @ "weights"
    heights = normal(np.full(2, 180.0), 20.0) @ "heights"
    scales = half_normal(np.full(2, 20.0)) @ "scales"
    irons = gamma(np.full(2, 2.0), 0.025) @ "irons"
    sizes = gamma(np.full(2, 2.0), 0.5) @ "sizes"
    sports = dirichlet(np.ones((2, 10))) @ "sports"
    return dict(weights=weights, heights=heights, scales=scales, irons=irons, sizes=sizes, sports=sports)


@gen
def thick_matrices():
    weights = dirichlet(np.ones(2)) @ "weights"
    means = normal(np.tile([3.5, 70.0], (2, 1)), np.array([2.0, 20.0])) @ "means"
    scales = half_normal(np.tile([1.0, 10.0], (2, 1))) @ "scales"
    covariances = scales[:, :, None] * np.array([[1.0, 0.3], [0.3, 1.0]]) * scales[:, None, :]
    return {"weights": weights, "means": means, "scales": scales, "covariances": covariances}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, thick, says",
    [
        ("ais", thick_heights, "5 rows are equal (row 5"),
        ("planet_masses", thick_masses, "3 rows are equal (row 25, x = 0.99)"),
        ("faithful_lkj_6", thick_matrices, "8 rows are equal in x[0]"),
    ],
)
def test_equal_numbers_in_one_column_of_a_row_and_of_log_normals_are_seen(name, thick, says):
    model = MODELS[name]
    assert proper.check_proper(model, model.data.x) == ()
    improper = dataclasses.replace(model, name="thick", prior=thick, twin=None, data=None)
    (said,) = proper.check_proper(improper, model.data.x)
    assert said.startswith(f"the posterior is improper: {says}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["faithful", "faithful_spherical", "iris", "wine"])
def test_priors_that_vanish_at_scale_zero_are_proper_whatever_the_ties(name):
    x = np.asarray(MODELS[name].data.x)
    assert len(np.unique(x[:, 0])) < len(x)
    assert proper.check_proper(MODELS[name], x) == ()


def log_mass_along_a_line(rows, eta, delta):
    """log of the mass per unit of log(1 - rho^2) of rows on the line y = 1 + 2 x: one normal component with sd 1 in x,
    LKJ(eta), the mean and the sd in y integrated out by a fine grid around the line."""
    rho, width = np.sqrt(1 - delta), 9 * np.sqrt(delta)
    step = np.linspace(-width, width, 301)
    log_sd, mean_y = np.log(2.0 / rho) + step[:, None], 1.0 + 4 * step[None, :]
    total = 0.0
    for x, y in rows:
        u, v = x, (y - mean_y) / np.exp(log_sd)
        total = total - np.log(2 * np.pi) - log_sd - np.log(delta) / 2 - (u * u - 2 * rho * u * v + v * v) / (2 * delta)
    return logsumexp(total) + 2 * np.log(step[1] - step[0]) + eta * np.log(delta)


@pytest.mark.parametrize("eta", [2.0, *(pytest.param(eta, marks=pytest.mark.slow) for eta in (1.0, 1.5, 6.0))])
def test_the_warning_comes_where_the_mass_of_a_correlation_near_one_grows_without_end(eta):
    model = faithful_lkj_6(lkj=eta)
    away = np.array([[1.0, 9.0], [2.5, 1.0], [-1.5, 3.0], [0.3, -7.0]])
    for m in range(2, 16):
        rows = np.array([[x, 1 + 2 * x] for x in np.linspace(-1.5, 2.0, m)])
        infinite = log_mass_along_a_line(rows, eta, 1e-10) > log_mass_along_a_line(rows, eta, 1e-6) - 0.1
        said = proper.check_proper(model, np.concatenate([away, rows]))
        assert len(said) == infinite == (m >= 2 * eta + 2), (m, said)
        if infinite:
            assert said[0].startswith(f"the posterior is improper: {m} rows lie on one line in x[0] and x[1] (row 4, ")
            with pytest.raises(ValueError, match=f"no proper posterior: {m} rows lie on one line"):
                proper.check_proper(model, rows)
        assert proper.unbounded_along_a_line(model, np.concatenate([away, rows])) == (m >= 2 * eta - 1)


def one_kind(locations=None, scales=None, kind=False):
    """A single component of Old Faithful's, its locations or scales known, or beside a parameter that is a category."""
    shifts, log_sds = np.tile([0.0, 1.0], (1, 1)), np.zeros((1, 2))

    @gen
    def prior():
        means = normal(shifts, 5.0) @ "means" if locations is None else locations
        sds = log_normal(loc=log_sds, scale=0.5) @ "scales" if scales is None else scales
        roots = lkj_cholesky(jnp.ones(1)) @ "roots"
        if kind:
            categorical(probs=np.array([0.5, 0.5])) @ "kind"
        factors = sds[:, :, None] * roots
        return {"weights": jnp.ones(1), "means": means, "covariances": factors @ jnp.swapaxes(factors, 1, 2)}

    def twin(x):
        draw = lambda name, law, known: known if known is not None else numpyro.sample(name, law.to_event(2))
        means, sds = draw("means", Normal(shifts, 5.0), locations), draw("scales", LogNormal(log_sds, 0.5), scales)
        factors = sds[:, :, None] * numpyro.sample("roots", LKJCholesky(2, jnp.ones(1)).to_event(1))
        if kind:
            numpyro.sample("kind", Categorical(np.array([0.5, 0.5])))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", MultivariateNormal(means[0], scale_tril=factors[0]), obs=x)

    about = {"name": "one", "num_components": 1, "exchangeable": True}
    return Mixture(prior=prior, observation=any_covariance, twin=twin, **about)


@pytest.mark.slow
def test_no_line_is_held_against_a_component_that_cannot_lie_along_it():
    line = np.array([[x, 1 + 2 * x] for x in np.linspace(-1.5, 2.0, 9)])
    free = one_kind()
    with pytest.raises(ValueError, match="no proper posterior: 9 rows lie on one line"):
        proper.check_proper(free, line)
    assert proper.unbounded_along_a_line(free, line)
    beside = np.append(line, [[0.0, 3.0]], axis=0)  # the only component would leave this row alone
    assert proper.check_proper(free, beside) == () and not proper.unbounded_along_a_line(free, beside)
    for known in (one_kind(locations=np.zeros((1, 2))), one_kind(scales=np.ones((1, 2))), one_kind(kind=True)):
        assert proper.check_proper(known, line) == () and not proper.unbounded_along_a_line(known, line)


@pytest.mark.slow
def test_the_waits_for_old_faithful_lie_on_a_line_eight_at_a_time_and_stay_proper():
    x = np.asarray(MODELS["faithful_lkj_6"].data.x)
    rows = proper.on_a_line(x)
    assert len(rows) == 8 and np.array_equal(np.round(1000 * x[rows, 0]) / 100 + 36, x[rows, 1])
    assert np.array_equal(proper.on_a_line(x.astype(np.float32)), rows)
    assert proper.check_proper(MODELS["faithful_lkj_6"], x) == ()
    (said,) = fit(faithful_lkj_6(lkj=2.0), "importance", num_particles=100).warnings[:1]
    assert said.startswith("the posterior is improper: 8 rows lie on one line")
    assert fit(MODELS["faithful_lkj_6"], "em", num_restarts=4).bounded
    assert not fit(faithful_lkj_6(lkj=4.0), "em", num_restarts=4).bounded
