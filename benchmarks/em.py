"""Times one iteration of `em` against a hand-written JAX program of the same steps, in one run, float64.

    python benchmarks/em.py [runs]

Maximum likelihood of three Normal components with unknown means, scales and weights, from the same start. Seconds per
iteration are (time of many iterations - time of few) / difference, so that compiling and dispatch are not in them;
medians of alternating runs; on a busy machine the processor's seconds are the steadier measure. The compiled loop of
the back end is timed as a fit runs it, gradients included.
"""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from inference.em_step import Settings, Start, build, first_state
from zoo.models.three_gaussians import three_gaussians

FEW = 5
SIZES = {1_000: 45, 1_000_000: 25}  # observations -> many iterations, none of which converges
START = {"weights": [1 / 3] * 3, "means": [9.0, 14.0, 20.0], "scales": [2.0, 2.0, 2.0]}


@jax.jit
def by_hand(weights, means, scales, x, num_steps):
    """The textbook loop over an (N, K) table: log likelihood, responsibilities, and the three weighted averages."""

    def step(_, carry):
        weights, means, variances, _ = carry
        squares = (x[:, None] - means) ** 2
        table = jnp.log(weights) - 0.5 * (squares / variances + jnp.log(2 * jnp.pi * variances))
        highest = table.max(axis=1, keepdims=True)
        share = jnp.exp(table - highest)
        total = share.sum(axis=1, keepdims=True)
        r = share / total
        counts = r.sum(axis=0)
        means = r.T @ x / counts
        variances = r.T @ x**2 / counts - means**2
        return counts / len(x), means, variances, (highest + jnp.log(total)).sum()

    weights, means, variances, value = jax.lax.fori_loop(0, num_steps, step, (weights, means, scales**2, 0.0))
    return {
        "weights": weights,
        "means": means,
        "scales": jnp.sqrt(variances),
    }, value  # unused, it would not be computed


def by_em(params, x, accelerate, lanes):
    """num_steps -> the back end's state after as many steps of `lanes` restarts, all from `params`."""
    model = three_gaussians()
    params = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (lanes, *leaf.shape)), params)
    start = Start(params, jnp.zeros((lanes, len(x)), jnp.int32), jnp.zeros(lanes, bool), jnp.zeros(lanes))
    program, state = build(model, False, accelerate, False).program, first_state(model, params, accelerate)
    settings = Settings(jnp.asarray(1e-8), jnp.asarray(1.0))
    return lambda num_steps: program(state, start, x, jnp.int32(num_steps - 1), settings)


def seconds(run, num_steps, repeats) -> np.ndarray:
    """Wall and processor seconds of one call, the mean of `repeats`."""
    clocks = lambda: np.array([time.perf_counter(), time.process_time()])
    started = clocks()
    for _ in range(repeats):
        jax.block_until_ready(run(num_steps))
    return (clocks() - started) / repeats


def main(runs: int) -> None:
    jax.config.update("jax_enable_x64", True)
    params = {name: jnp.asarray(values) for name, values in START.items()}
    print("| observations | program | microseconds per iteration: wall (range) | processor | over hand-written: both |")
    print("| --- | --- | --- | --- | --- |")
    for size, many in SIZES.items():
        rng = np.random.default_rng(0)
        z = rng.choice(3, size, p=[0.2, 0.7, 0.1])
        x = jnp.asarray(np.array([10.0, 15.0, 21.0])[z] + np.array([1.0, 2.0, 0.5])[z] * rng.standard_normal(size))
        lanes, repeats = (4, 50) if size <= 1_000 else (1, 1)
        programs = {
            "hand-written": (lambda n, x=x: by_hand(*(params[k] for k in ("weights", "means", "scales")), x, n), 1),
            "em": (by_em(params, x, False, 1), 1),
            "em, accelerated": (by_em(params, x, True, 1), 1),
        }
        if lanes > 1:
            for name, accelerate in (("em", False), ("em, accelerated", True)):
                programs[f"{name}, {lanes} restarts at once, each"] = by_em(params, x, accelerate, lanes), lanes
        ends, theirs = {name: run(many) for name, (run, _) in programs.items()}, programs["hand-written"][0](many)[0]
        assert all(np.allclose(ends["em"].params[name][0], theirs[name], rtol=1e-8) for name in theirs), "they differ"
        assert not any(end.converged.any() for name, end in ends.items() if name != "hand-written"), "converged"
        times = {name: [] for name in programs}
        for run, _ in programs.values():
            run(FEW)
        for _ in range(runs):
            for name, (run, share) in programs.items():
                difference = seconds(run, many, repeats) - seconds(run, FEW, repeats)
                times[name].append(difference / (many - FEW) / share * 1e6)
        middles = {name: np.median(found, axis=0) for name, found in times.items()}
        for name, found in times.items():
            (wall, work), ratios = middles[name], middles[name] / middles["hand-written"]
            low, high = np.min(found, axis=0)[0], np.max(found, axis=0)[0]
            figures = f"{wall:,.1f} ({low:,.1f}-{high:,.1f}) | {work:,.1f} | {ratios[0]:.2f}, {ratios[1]:.2f}"
            print(f"| {size:,} | {name} | {figures} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
