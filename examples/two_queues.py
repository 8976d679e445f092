"""Waiting times in two queues: a mixture model added in one file.

    rates ~ Gamma(2, 1)                 per minute, for each queue
    z[n]  ~ Categorical(1/2, 1/2)       the queue that customer n joined
    x[n]  ~ Exponential(rates[z[n]])    minutes waited

Run `zoo compare --model examples/two_queues.py:two_queues`.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from genjax import categorical, exponential, gamma, gen

from zoo import Dataset, Mixture

HALF = np.array([0.5, 0.5])


@gen
def prior():
    rates = gamma(np.full(2, 2.0), 1.0) @ "rates"
    return {"rates": rates}


@gen
def observation(params):
    z = categorical(probs=HALF) @ "z"  # named: a bare argument means logits
    return exponential(params["rates"][z]) @ "x"


def twin(x):
    rates = numpyro.sample("rates", dist.Gamma(np.full(2, 2.0), 1.0).to_event(1))
    with numpyro.plate("customers", len(x)):
        queues = dist.Categorical(probs=jnp.asarray(HALF))
        numpyro.sample("x", dist.MixtureSameFamily(queues, dist.Exponential(rates)), obs=x)


two_queues = Mixture(
    name="two_queues",
    num_components=2,
    exchangeable=True,
    prior=prior,
    observation=observation,
    twin=twin,
    family="exponential",
    data=Dataset(
        name="two_queues",
        x=np.array([0.2, 4.1, 0.3, 0.9, 6.5, 0.1, 2.8, 0.4, 9.7, 0.6, 0.2, 3.3]),
        units="minutes",
        source="made up for this example",
    ),
)
