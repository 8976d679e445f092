"""Gradients per second of NUTS: `inference.nuts` against NumPyro's on models written by hand, in one process.

    python benchmarks/nuts.py [repeats]

The model is `three_gaussians` (N = 1,000, K = 3, assignments summed out), 4 chains by vmap, dense mass, float64. Each
sampler warms up once; then 2,000 draws a chain are timed, the samplers taking turns, nothing compiling. A gradient is a
leapfrog step. NumPyro's kernel runs in a compiled loop of our own: `MCMC.run` compiles at every call. Ours also draws
the assignments and evaluates the log density of every draw, which NumPyro does not. Processor seconds stand beside
those of the clock, since other load moves them less.
"""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import NUTS, init_to_value

CHAINS, WARMUP, CHUNK, DRAWS = 4, 500, 250, 2000
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
    """num_draws -> gradients, from NumPyro's kernel in a compiled loop that keeps the parameters of every draw."""
    kernel = NUTS(model, dense_mass=True, init_strategy=init_to_value(values=start))
    state = kernel.init(jax.random.split(jax.random.key(1), CHAINS), WARMUP, None, (x,), {})

    @jax.jit
    def program(state, x):
        def advance(state, _):
            state = kernel.sample(state, (x,), {})
            return state, (state.num_steps, state.z)

        return jax.lax.scan(advance, state, length=CHUNK)

    def run(state, num_draws):
        steps = 0
        for _ in range(num_draws // CHUNK):
            state, out = program(state, x)
            steps += int(jax.tree.map(np.asarray, out)[0].sum())
        return state, steps

    warm = run(state, WARMUP)[0]
    return lambda num_draws: run(warm, num_draws)[1]


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
    """Gradients per second, by the clock and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    count = gradients(DRAWS)
    return count / (time.perf_counter() - clock), count / (time.process_time() - processor)


def main(repeats: int) -> None:
    from zoo import MODELS

    model = MODELS["three_gaussians"]
    x = jnp.asarray(model.data.x)
    start = {name: jnp.asarray(value) for name, value in model.data.params.items()}
    contestants = {
        "NumPyro, mixture": numpyros(by_mixture, x, start),
        "NumPyro, likelihood as a formula": numpyros(by_factor, x, start),
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
