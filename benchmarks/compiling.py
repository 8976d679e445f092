"""Seconds that Markov chain back ends take to trace and compile on bento-sized data, each in a fresh process.

    python benchmarks/compiling.py [runs]

Compile seconds are those that `fit` reports in `cost`, at default settings but for few draws.
"""

import os
import statistics
import subprocess
import sys

MODELS, BACKENDS, AT_MOST = ("bento", "bento_full"), ("gibbs", "metropolis", "nuts"), 15.0
PROGRAM = """
from inference import fit
from zoo import MODELS
print(fit(MODELS[{model!r}], {backend!r}, num_warmup=10, num_draws=10).cost.compile_seconds)
"""


def compile_seconds(model, backend):
    command = [sys.executable, "-c", PROGRAM.format(model=model, backend=backend)]
    return float(subprocess.run(command, env={**os.environ, "JAX_ENABLE_X64": "1"}, stdout=-1, check=True).stdout)


def main(runs: int) -> None:
    print("| model | back end | compile seconds: median (range) | at most |\n| --- | --- | --- | --- |")
    for model in MODELS:
        for backend in BACKENDS:
            each = [compile_seconds(model, backend) for _ in range(runs)]
            clock = f"{statistics.median(each):.1f} ({min(each):.1f}-{max(each):.1f})"
            print(f"| {model} | {backend} | {clock} | {AT_MOST:g} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
