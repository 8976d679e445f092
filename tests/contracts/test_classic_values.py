"""Published numbers of classic mixtures, reproduced by the zoo's models on the zoo's data.

Maximum likelihood is a lower bound: an optimum may be better than the published one, which comes of a single start.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from genjax import dirichlet, gen, mv_normal, normal
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from inference import fit
from inference.em import climb_from
from zoo.dataset import shipped
from zoo.distributions import categorical
from zoo.mixture import Mixture
from zoo.models.galaxy import MODELS as GALAXY
from zoo.models.galaxy import galaxy_2_equal, galaxy_3, galaxy_6
from zoo.models.multivariate_gaussian import faithful, iris, scale_tril, wishart
from zoo.models.three_gaussians import three_gaussians

# mclust 6.0.0 (faithful, iris), EM from many starts (galaxy, corrected): log likelihood
OPTIMA = {"galaxy_3": (galaxy_3, -203.48198), "faithful": (faithful, -1130.264068), "iris": (iris, -180.1858)}
# the same for K Normal components on other data: EM from 60 starts polished by BFGS, every scale at least .02 of the
# data's (galaxy, waiting), mclust 6.0.0 (misprint, eruptions)
UNIVARIATE = [
    ("galaxy", None, {2: -220.193144, 3: -203.481980, 4: -197.710311, 5: -196.130634}),
    ("galaxy_misprint", None, {4: -199.254496}),
    ("faithful", "waiting", {2: -1034.001750, 3: -1031.540187, 4: -1029.359962, 5: -1028.342014, 6: -1025.220271}),
    ("faithful", "eruptions", {4: -257.498138}),
]
# the best and the second of six components on galaxy by EM from 60 starts and BFGS
SIX = (-194.950803, -194.961220)
# Neal 1999 on Chib 1995; the digits by symmetrised importance sampling, +- .005
EVIDENCE = {"galaxy_2_equal": -239.763, "galaxy_3_equal": -226.812, "galaxy_3": -226.790}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMA)
def test_maximum_likelihood_is_at_least_the_published_one(name):
    build, published = OPTIMA[name]
    result = fit(build(), "em", prior=False, num_restarts=16)
    assert result.admissible[0]
    found = float(result.log_density[0])
    assert published - 1e-3 < found < published + 1e-2, "the best admissible optimum is the published one"


@pytest.mark.slow
def test_the_classes_of_iris_at_its_maximum_likelihood_are_the_published_ones():
    model = iris()
    result = fit(model, "em", prior=False, num_restarts=16)
    at = {name: leaf[0] for name, leaf in result.params.items()}
    classes = np.asarray(model.responsibilities(at, model.data.x)).argmax(axis=1)
    assert model.num_free_parameters == 44
    assert adjusted_rand_score(model.data.labels, classes) == pytest.approx(0.9039, abs=5e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, column, published", [("acidity", None, -185.949305), ("faithful", "waiting", -1034.002034)]
)
def test_maximum_likelihood_under_one_variance_is_the_published_one(name, column, published):
    # mclust 6.0.0, model E with two components
    x = np.ravel(shipped(name, column and (column,)).x)
    result = fit(galaxy_2_equal(), "em", x=x, prior=False, num_restarts=8)
    assert result.admissible[0] and published - 1e-3 < result.log_density[0] < published + 1e-3


@pytest.mark.slow
def test_maximum_likelihood_of_three_components_with_one_covariance_on_faithful_is_at_least_the_published_one():
    # mclust 6.0.0, its best model of all on faithful: EEE with three components, 11 free parameters; it stops early,
    # scikit-learn's EM run to the end says by how much
    K, data = 3, shipped("faithful")

    @gen
    def prior():
        weights = dirichlet(np.ones(K)) @ "weights"
        means = normal(np.tile([3.5, 70.0], (K, 1)), np.tile([2.0, 30.0], (K, 1))) @ "means"
        precision = wishart(4.0, jnp.asarray(scale_tril(4.0, (0.5, 6.0)))) @ "precision"
        return {"weights": weights, "means": means, "covariance": jnp.linalg.inv(precision)}

    @gen
    def observation(params):
        z = categorical(probs=params["weights"]) @ "z"
        return mv_normal(params["means"][z], params["covariance"]) @ "x"

    model = Mixture(name="tied", num_components=K, exchangeable=True, prior=prior, observation=observation, data=data)
    result = fit(model, "em", prior=False, num_restarts=16)
    assert model.num_free_parameters == 11 and result.admissible[0]
    assert result.log_density[0] > -1126.32623646826 - 1e-3
    to_the_end = {"tol": 1e-10, "max_iter": 10_000, "reg_covar": 0.0, "n_init": 20, "random_state": 0}
    peer = GaussianMixture(K, covariance_type="tied", **to_the_end).fit(data.x)
    assert result.log_density[0] == pytest.approx(peer.score(data.x) * len(data.x), abs=1e-4)


@pytest.mark.slow
def test_maximum_likelihood_of_components_of_equal_shape_on_iris_is_the_published_one():
    # mclust 6.0.0, its best model of all on iris: VEV with two components, covariances v_k D_k A D_k' of one shape A
    # (det A = 1); D_k is a product of plane rotations
    K, D, data = 2, 4, shipped("iris")
    planes = list(itertools.combinations(range(D), 2))

    def rotation(angles):
        turns = [jnp.array([[jnp.cos(a), -jnp.sin(a)], [jnp.sin(a), jnp.cos(a)]]) for a in angles]
        each = [jnp.eye(D).at[np.ix_(ij, ij)].set(turn) for ij, turn in zip(planes, turns, strict=True)]
        return functools.reduce(jnp.matmul, each)

    @gen
    def prior():
        weights = dirichlet(np.ones(K)) @ "weights"
        means = normal(np.tile(data.x.mean(axis=0), (K, 1)), np.tile(data.x.std(axis=0), (K, 1))) @ "means"
        log_volumes = normal(np.full(K, -2.0), np.ones(K)) @ "log_volumes"
        log_shape = normal(np.zeros(D - 1), np.ones(D - 1)) @ "log_shape"
        axes = jax.vmap(rotation)(normal(np.zeros((K, len(planes))), np.ones((K, len(planes)))) @ "angles")
        shape = jnp.exp(jnp.append(log_shape, -log_shape.sum()))
        covariances = jnp.einsum("k,kij,j,klj->kil", jnp.exp(log_volumes), axes, shape, axes)
        return {"weights": weights, "means": means, "covariances": covariances}

    @gen
    def observation(params):
        z = categorical(probs=params["weights"]) @ "z"
        return mv_normal(params["means"][z], params["covariances"][z]) @ "x"

    model = Mixture(name="vev", num_components=K, exchangeable=True, prior=prior, observation=observation, data=data)
    result = fit(model, "em", prior=False, num_restarts=8)
    assert model.num_free_parameters == 26 and result.admissible[0]
    assert result.log_density[0] == pytest.approx(-215.725972234286, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, column, K, published",
    [(name, column, K, value) for name, column, values in UNIVARIATE for K, value in values.items()],
)
def test_maximum_likelihood_of_univariate_mixtures_is_at_least_the_published_one(name, column, K, published):
    x = np.ravel(shipped(name, column and (column,)).x)
    result = fit(galaxy_6(num_components=K), "em", x=x, prior=False, num_restarts=60)
    assert result.admissible[0] and result.log_density[0] > published - 1e-3
    scales = np.asarray(result.params["precisions"])[result.admissible] ** -0.5
    assert scales.min() > 0.02 * np.std(x), "an admissible optimum is no spike"


@pytest.mark.slow
def test_maximum_likelihood_on_three_gaussians_is_at_least_the_published_one():
    # mclust 6.0.0, which stops early; scikit-learn's EM run to the end says by how much
    x = three_gaussians().data.x
    result = fit(galaxy_6(num_components=3), "em", x=x, prior=False, num_restarts=8)
    assert result.admissible[0] and result.log_density[0] > -2517.69064390484 - 1e-3
    peer = GaussianMixture(3, tol=1e-10, max_iter=10_000, reg_covar=0.0, n_init=10, random_state=0).fit(x[:, None])
    assert result.log_density[0] == pytest.approx(peer.score(x[:, None]) * len(x), abs=1e-4)


@pytest.mark.slow
def test_six_components_on_galaxy_reach_the_published_second_best_and_from_random_scales_the_best():
    # the best has a component hardly above the floor (.0934 for .0908): no start at centres was seen to reach it
    model, R = galaxy_6(), 400
    result = fit(model, "em", prior=False, num_restarts=60)
    assert result.admissible[0] and abs(result.log_density[0] - SIX[1]) < 1e-6
    x, rng = np.asarray(model.data.x), np.random.default_rng(1)
    scales = x.std() * np.exp(rng.uniform(np.log(0.02), 0.0, (R, 6)))
    start = {"means": rng.choice(x, (R, 6)), "precisions": scales**-2, "weights": rng.dirichlet(2 * np.ones(6), R)}
    found, is_mode = climb_from(model, x, start | {"beta": np.ones(R)}, prior=False)  # the likelihood knows no beta
    assert abs(found[is_mode].max() - SIX[0]) < 1e-6


@pytest.mark.slow
def test_the_local_maxima_of_four_components_on_galaxy_are_the_published_ones():
    result = fit(galaxy_6(num_components=4), "em", prior=False, num_restarts=60)
    found = np.unique(np.round(result.log_density[result.admissible], 4))[::-1]
    assert set(np.round([-197.71031124, -199.29025026, -202.51609361, -206.82327216], 4)) <= set(found)
    spurious = result.ended == "below the floor"
    assert spurious.any() and result.log_density[spurious].max() > found[0]
    assert any("spurious" in sentence for sentence in result.warnings)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, backend",
    # on galaxy_3 importance_modes says that its weights give no estimate
    [("galaxy_2_equal", "importance_modes"), ("galaxy_3_equal", "importance_modes"), ("galaxy_3", "smc")],
)
def test_evidence_of_the_galaxies_counts_all_labellings(name, backend):
    result = fit(GALAXY[name](), backend)
    error = np.hypot(result.log_evidence_se, 0.005)
    assert abs(result.log_evidence - EVIDENCE[name]) < 3 * error
