"""One runtime for every test: the older CPU runtime (small arrays), float64, nothing cached on disk."""

import os

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_thunk_runtime=false".strip()

import jax  # noqa: E402

jax.config.update("jax_enable_x64", True)
