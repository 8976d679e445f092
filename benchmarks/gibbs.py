"""Microseconds per Gibbs sweep: `inference.gibbs` against a sampler written by hand for the one model, in one process.

    python benchmarks/gibbs.py [repeats]

The model is `coffee_full` with 1,000 cups: K = 3, weights, means and variances unknown, all conditionals known; with
one prior for all blends (exchangeable) and with its own. Both samplers draw the parameters in the same order, every
categorical by inverse CDF, keep parameters, assignments and log density of every sweep (thin=1), and run 4 chains by
vmap in float64. `permute=False` is the same work; the label move comes on top, and under a model that is not
exchangeable evaluates K! priors and weights. The difference of a long and a short run is timed, the samplers taking
turns, so compiling and starting are left out; processor seconds beside those of the clock, since other load moves them
less.
"""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

CHAINS, SHORT, LONG = 4, 250, 2250
AT_MOST = 1.5
SAME = dict(prior_means=(120.0, 120.0, 120.0), prior_sd=40.0)


def by_hand(model, x):
    """The sampler of `coffee_full(**SAME)`: a program (keys, first sweep, state) of SHORT sweeps."""
    m, s2, a, b = SAME["prior_means"][0], SAME["prior_sd"] ** 2, 3.0, 50.0

    def sweep(key, state):
        key_w, key_m, key_v, key_z = jax.random.split(key, 4)
        weights, means, variances, z = state
        r = jax.nn.one_hot(z, 3, dtype=x.dtype)
        n = r.sum(0)
        g = jax.random.gamma(key_w, 1 + n)
        weights = g / g.sum()
        precision = 1 / s2 + n / variances
        means = (m / s2 + x @ r / variances) / precision + jax.random.normal(key_m, (3,), x.dtype) / jnp.sqrt(precision)
        squares = (x[:, None] - means) ** 2
        variances = (b + (r * squares).sum(0) / 2) / jax.random.gamma(key_v, a + n / 2)
        table = jnp.log(weights) - 0.5 * jnp.log(2 * jnp.pi * variances) - squares / (2 * variances)
        top = table.max(axis=1, keepdims=True)
        p = jnp.exp(table - top)
        upto1, upto2 = p[:, 0], p[:, 0] + p[:, 1]
        total = upto2 + p[:, 2]
        u = jax.random.uniform(key_z, x.shape, x.dtype) * total
        z = (u >= upto1).astype(jnp.int32) + (u >= upto2)
        lp = (top[:, 0] + jnp.log(total)).sum() + model.log_prior(
            dict(weights=weights, means=means, variances=variances)
        )
        state = (weights, means, variances, z)
        return state, (state, lp)

    @jax.jit
    def program(keys, first, state):
        def advance(state, i):
            return jax.vmap(lambda key, state: sweep(jax.random.fold_in(key, i), state))(keys, state)

        return jax.lax.scan(advance, state, first + jnp.arange(SHORT, dtype=jnp.int32))

    return program


def run_by_hand(program, keys, state, num_sweeps):
    """Every draw as NumPy arrays."""
    outs = []
    for first in range(0, num_sweeps, SHORT):
        state, out = program(keys, jnp.int32(first), state)
        outs.append(jax.tree.map(np.asarray, out))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *outs)


def seconds(run):
    """(by the clock, of the processor) of LONG sweeps less SHORT ones, and what the long run gave."""
    marks = [(time.perf_counter(), time.process_time())]
    for num_sweeps in (SHORT, LONG):
        result = run(num_sweeps)
        marks.append((time.perf_counter(), time.process_time()))
    first, second, third = np.array(marks)
    return (third - second) - (second - first), result


def main(repeats: int) -> None:
    from inference import gibbs, loop
    from zoo.models.coffee import coffee_full

    model = coffee_full(**SAME)
    truth = {"weights": [0.2, 0.3, 0.5], "means": [80.0, 120.0, 160.0], "variances": [25.0, 36.0, 16.0]}
    rng = np.random.default_rng(0)
    z = rng.choice(3, 1000, p=truth["weights"])
    x = jnp.asarray(np.asarray(truth["means"])[z] + np.sqrt(truth["variances"])[z] * rng.standard_normal(1000))
    params = {name: jnp.tile(jnp.asarray(value), (CHAINS, 1)) for name, value in truth.items()}
    keys = jax.random.split(jax.random.key(0), CHAINS)
    program = by_hand(model, x)
    start = (
        *(params[name] for name in ("weights", "means", "variances")),
        jnp.tile(jnp.asarray(z, jnp.int32), (CHAINS, 1)),
    )

    def ours(model, permute):
        sampler = gibbs.build(model, 0, permute, 1)
        run = lambda num_sweeps: loop.run(sampler, keys, num_sweeps, x, params=params)
        return lambda num_sweeps: run(num_sweeps).out["params"]["means"].mean(axis=(0, 1))

    contestants = {
        "by hand": lambda num_sweeps: run_by_hand(program, keys, start, num_sweeps)[0][1].mean(axis=(0, 1)),
        "gibbs, permute=False": ours(model, False),
        "gibbs": ours(model, True),
        "gibbs, not exchangeable": ours(coffee_full(), True),
    }
    means = {name: seconds(run)[1] for name, run in contestants.items()}  # compiles
    found = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            found[name].append(seconds(run)[0])
    print("| sampler | us per sweep: median (range) | times by hand | processor us | times by hand | at most |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, times in found.items():
        ratios = np.median(np.array(times) / np.array(found["by hand"]), axis=0)
        us = np.array(times) * 1e6 / ((LONG - SHORT) * CHAINS)
        (middle, processor), low, high = np.median(us, axis=0), us[:, 0].min(), us[:, 0].max()
        limit = "" if name == "by hand" else f"{AT_MOST}"
        clock = f"{middle:.0f} ({low:.0f}-{high:.0f}) | {ratios[0]:.2f}"
        print(f"| {name} | {clock} | {processor:.0f} | {ratios[1]:.2f} | {limit} |")
    print("\nposterior means of the three means: " + "; ".join(f"{k} {np.round(v, 2)}" for k, v in means.items()))


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
