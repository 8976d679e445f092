"""Declare nothing, choose a posterior, run two back ends on it, and hold both against the exact answer."""

import jax

jax.config.update("jax_enable_x64", True)

from diagnostics import compare  # noqa: E402
from inference import fit  # noqa: E402
from zoo import MODELS  # noqa: E402

model = MODELS["bento"]  # 20 bentos of two kinds, means unknown
draws = fit(model, "gibbs", seed=1, num_draws=500)  # params: name -> (chains, draws, ...)
print(draws.params["means"].shape, draws.cost)

comparison = compare(model, backends=["gibbs", "enumeration"], seed=1)
print(comparison.to_frame()[["backend", "functional", "mean", "sd", "z"]].head(12))
comparison.save("out/example")  # comparison.json, comparison.csv, one .nc per back end
