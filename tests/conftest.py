"""One precision for every test: float64, set before any test module is imported."""

import jax

jax.config.update("jax_enable_x64", True)
