"""Gradients per second of NUTS: `inference.nuts` against NumPyro's MCMC on models written by hand, in one process.

    python benchmarks/nuts.py [repeats]

The model is `three_gaussians` (N = 1,000, K = 3, assignments summed out), 4 chains by vmap, dense mass, float64. Each
sampler warms up once; then the difference of a long and a short run from where warmup ended is timed, the samplers
taking turns: what NumPyro retraces and compiles at every call is in both runs and cancels. A gradient is a leapfrog
step.
"""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS, init_to_value

CHAINS, WARMUP, SHORT, LONG = 4, 500, 250, 2250
AT_LEAST = 0.9


def by_mixture(x):
    """As most would write it."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(3)))
    means = numpyro.sample("means", dist.Normal(15.0, 10.0).expand([3]).to_event(1))
    scales = numpyro.sample("scales", dist.HalfNormal(5.0).expand([3]).to_event(1))
    with numpyro.plate("points", len(x)):
        numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(probs=weights), dist.Normal(means, scales)), obs=x)


def by_factor(x):
    """The likelihood as a formula."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(3)))
    means = numpyro.sample("means", dist.Normal(15.0, 10.0).expand([3]).to_event(1))
    scales = numpyro.sample("scales", dist.HalfNormal(5.0).expand([3]).to_event(1))
    log_p = jnp.log(weights) - jnp.log(scales) - 0.5 * ((x[:, None] - means) / scales) ** 2
    numpyro.factor("x", jax.nn.logsumexp(log_p, axis=1).sum() - 0.5 * len(x) * jnp.log(2 * jnp.pi))


def numpyros(model, x, start):
    """num_draws -> gradients, from NumPyro's own loop."""
    kernel = NUTS(model, dense_mass=True, init_strategy=init_to_value(values=start))
    run = {
        n: MCMC(
            kernel, num_warmup=WARMUP, num_samples=n, num_chains=CHAINS, chain_method="vectorized", progress_bar=False
        )
        for n in (SHORT, LONG)
    }
    run[SHORT].warmup(jax.random.key(1), x)
    warm = run[SHORT].last_state

    def gradients(num_draws):
        run[num_draws].post_warmup_state = warm
        run[num_draws].run(jax.random.key(2), x, extra_fields=("num_steps",))
        return int(run[num_draws].get_extra_fields()["num_steps"].sum())

    return gradients


def ours(model, x, start):
    """num_draws -> gradients, from the loop of `inference`."""
    from inference import loop, nuts

    sampler = nuts.build(model, WARMUP)
    keys = jax.random.split(jax.random.key(1), CHAINS)
    params = {name: jnp.tile(leaf, (CHAINS, 1)) for name, leaf in start.items()}
    warm = loop.run(sampler, keys, WARMUP, x, params=params).state

    def gradients(num_draws):
        out = loop.run(sampler, keys, WARMUP + num_draws, x, start=WARMUP, state=warm).out
        return int(out["num_gradients"].sum())

    return gradients


def rate(gradients):
    """Gradients per second (by the clock, of the processor) of LONG draws less SHORT ones."""
    marks, counts = [(time.perf_counter(), time.process_time())], []
    for num_draws in (SHORT, LONG):
        counts.append(gradients(num_draws))
        marks.append((time.perf_counter(), time.process_time()))
    first, second, third = np.array(marks)
    return (counts[1] - counts[0]) / ((third - second) - (second - first))


def main(repeats: int) -> None:
    from zoo import MODELS

    model = MODELS["three_gaussians"]
    x = jnp.asarray(model.data.x)
    start = {name: jnp.asarray(value) for name, value in model.data.params.items()}
    contestants = {
        "NumPyro, mixture": numpyros(by_mixture, x, start),
        "NumPyro, by formula": numpyros(by_factor, x, start),
        "nuts": ours(model, x, start),
    }
    for run in contestants.values():
        rate(run)  # compiles
    found = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            found[name].append(rate(run))
    print("| sampler | gradients/s: median (range) | to NumPyro | per processor second | to NumPyro | at least |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, rates in found.items():
        ratios = np.median(np.array(rates) / np.array(found["NumPyro, mixture"]), axis=0)
        (clock, processor), each = np.median(rates, axis=0), np.array(rates)[:, 0]
        limit = f"{AT_LEAST}" if name == "nuts" else ""
        wall = f"{clock:,.0f} ({each.min():,.0f}-{each.max():,.0f}) | {ratios[0]:.2f}"
        print(f"| {name} | {wall} | {processor:,.0f} | {ratios[1]:.2f} | {limit} |")


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
