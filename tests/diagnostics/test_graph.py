"""The graph that probing finds, against declarations whose parents are known by reading them."""

import jax.numpy as jnp
import numpy as np
import pytest
from genjax import dirichlet, gen, normal

from diagnostics.graph import graph, lines
from zoo import MODELS, Mixture
from zoo import distributions as gx
from zoo.models.overfitted import galaxy_finite_mixtures


def parents(model):
    return {node.name: set(node.parents) for node in graph(model)}


def plates(model):
    return {node.name: node.plate for node in graph(model)}


def test_weights_lead_to_z_and_means_and_variances_to_x():
    model = MODELS["coffee_full"]
    assert parents(model) == {
        "weights": set(),
        "means": set(),
        "variances": set(),
        "z": {"weights"},
        "x": {"z", "means", "variances"},
    }
    assert plates(model) == {
        "weights": "",
        "means": "components",
        "variances": "components",
        "z": "observations",
        "x": "observations",
    }
    families = {node.name: (node.family, node.shape) for node in graph(model)}
    assert families["weights"] == ("Dirichlet", (3,)) and families["x"] == ("Normal", ())


def test_parents_come_before_their_children():
    order = [node.name for node in graph(MODELS["coffee_full"])]
    assert all(order.index(p) < order.index(node.name) for node in graph(MODELS["coffee_full"]) for p in node.parents)


def test_covariates_of_a_mixture_of_experts_lead_to_z_and_x():
    found = parents(MODELS["tone_experts"])
    assert found["z"] == {"gates", "covariates"}
    assert found["x"] == {"z", "covariates", "coefficients", "variances"}
    assert parents(MODELS["tone"])["z"] == {"weights"}


def chained() -> Mixture:
    """A hyperparameter over the means, an item that depends on another item, and a site that nothing depends on."""

    @gen
    def prior():
        centre = normal(jnp.zeros(()), jnp.ones(())) @ "centre"
        means = normal(centre * jnp.ones(2), np.ones(2)) @ "means"
        idle = normal(jnp.zeros(()), jnp.ones(())) @ "idle"
        weights = dirichlet(np.ones(2)) @ "weights"
        return {"centre": centre, "means": means, "idle": idle, "weights": weights}

    @gen
    def observation(params):
        z = gx.categorical(probs=params["weights"]) @ "z"
        first = normal(params["means"][z], 1.0) @ "first"
        second = normal(first, 1.0) @ "second"
        return {"first": first, "second": second}

    return Mixture(name="chained", num_components=2, exchangeable=True, prior=prior, observation=observation)


def test_hyperparameters_and_chains_of_observations_are_told_apart():
    assert parents(chained()) == {
        "centre": set(),
        "means": {"centre"},
        "idle": set(),
        "weights": set(),
        "z": {"weights"},
        "first": {"means", "z"},
        "second": {"first"},
    }


def test_masses_that_become_weights_are_in_the_plate_of_components():
    found = plates(galaxy_finite_mixtures(num_components=3))
    assert found["masses"] == found["means"] == "components" and found["extra"] == ""
    assert parents(galaxy_finite_mixtures(num_components=3))["z"] == {"extra", "masses"}


def test_a_graph_as_text_has_a_line_a_site_with_its_parents_behind_an_arrow():
    text = lines(graph(MODELS["coffee_full"]), 3, 30)
    assert len(text) == 5
    assert text[0].split() == ["weights", "Dirichlet", "(3,)"]
    assert text[1].split("  ")[0] == "means" and "each of K = 3" in text[1]
    assert text[-1].endswith("<- means, variances, z") and "each of N = 30" in text[-1]


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODELS))
def test_every_models_graph_leads_from_all_of_its_sites_to_what_is_observed(name):
    nodes = {node.name: node for node in graph(MODELS[name])}
    reached = {name for name, node in nodes.items() if node.role == "observed"}
    for node in reversed(nodes.values()):
        reached |= set(node.parents) if node.name in reached else set()
    assert reached == set(nodes)
