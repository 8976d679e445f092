"""Seconds that every back end takes to trace and compile, at 20 observations and at 2,000, each in a fresh process.

    python benchmarks/compiling.py [runs [model ...]]

Compile seconds are those that `fit` reports in `cost`, at default settings but for few draws, restarts or particles:
programs are those of a full run. `enumeration` and `quadrature` serve few observations only, and are left out at many.
"""

import os
import statistics
import subprocess
import sys

MODELS, NUMS, AT_MOST = ("bento", "bento_full"), (20, 2_000), 15.0
FEW = {"num_warmup": 10, "num_draws": 10, "num_restarts": 4, "num_particles": 1_000}
PROGRAM = """
import inspect, jax, inference
from zoo import MODELS
model, n = MODELS[{model!r}], {n}
x = model.data.x if n == model.data.num_observations else model.simulate(jax.random.key(0), n)[2]
back_end = inference.BACKENDS[{backend!r}]
if back_end.refuses(model, x):
    raise SystemExit("refused")
taken = inspect.signature(back_end.run).parameters
few = {{name: value for name, value in {few}.items() if name in taken}}
print(inference.fit(model, {backend!r}, x, **few).cost.compile_seconds)
"""


def compile_seconds(model, backend, n):
    """None where the back end does not serve the model with n observations."""
    command = [sys.executable, "-c", PROGRAM.format(model=model, backend=backend, n=n, few=FEW)]
    found = subprocess.run(command, env={**os.environ, "JAX_ENABLE_X64": "1"}, capture_output=True, text=True)
    if found.returncode and "refused" not in found.stderr:
        raise RuntimeError(found.stderr)
    return None if found.returncode else float(found.stdout)


def main(runs: int, models) -> None:
    import inference

    print("| model | back end | N = 20: median (range) | N = 2,000 | at most |\n| --- | --- | --- | --- | --- |")
    for model in models:
        for backend in inference.TABLE:
            cells = []
            for n in NUMS:
                each = [compile_seconds(model, backend, n) for _ in range(runs)]
                clock = "" if None in each else f"{statistics.median(each):.1f} ({min(each):.1f}-{max(each):.1f})"
                cells.append(clock)
            if any(cells):
                print(f"| {model} | {backend} | {cells[0]} | {cells[1]} | {AT_MOST:g} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3, sys.argv[2:] or MODELS)
