"""What was published of the zoo's data, and what the models here make of them."""

import numpy as np
import pytest

from inference import fit
from zoo.models.counts import london_deaths


@pytest.mark.slow
def test_the_maximum_likelihood_of_the_death_notices_is_the_published_one():
    # Hasselblad 1969; to these digits in Titterington, Smith & Makov 1985, Statistical Analysis of Finite Mixture
    # Distributions, and in Varadhan & Roland 2008
    found = fit(london_deaths(), "em", prior=False, num_restarts=4)
    best = {name: leaf[0][np.argsort(found.params["rates"][0])] for name, leaf in found.params.items()}
    assert abs(found.log_density[0] + 1989.946) < 5e-4
    assert np.all(np.abs(best["weights"] - [0.3599, 0.6401]) < 5e-5 + 1e-6)
    assert np.all(np.abs(best["rates"] - [1.256, 2.663]) < 5e-4 + 1e-6)
