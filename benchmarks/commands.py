"""Times the commands of the house as whole processes: wall seconds (median and range) and the largest memory.

    python benchmarks/commands.py [runs]

Each command runs in a fresh process, nothing cached on disk. Needs the package installed (`make demo` does that).
"""

import os
import statistics
import sys
import tempfile
import time

ENUMERATION = "from inference import fit; from zoo import MODELS; fit(MODELS['bento'], 'enumeration')"
ENVIRONMENT = {**os.environ, "JAX_ENABLE_X64": "1"}


def commands(folder):
    """What is timed, and the seconds it may take."""
    zoo = [sys.executable, "-c", "import sys; from diagnostics.cli import main; sys.exit(main(sys.argv[1:]))"]
    return {
        "zoo --help": (zoo + ["--help"], 0.15),
        "zoo list": (zoo + ["list"], 0.15),
        "enumeration of bento (imports included)": ([sys.executable, "-c", ENUMERATION], 5.0),
        "zoo compare bento": (zoo + ["compare", "bento", "--out", folder, "--quiet"], 60.0),
    }


def measure(command) -> tuple[float, float]:
    """Wall seconds and peak MiB of one process."""
    started = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1)
        os.execve(command[0], command, ENVIRONMENT)
    _, status, usage = os.wait4(pid, 0)
    if status != 0:
        raise SystemExit(f"failed with status {os.waitstatus_to_exitcode(status)}: {' '.join(command)}")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def main(runs: int) -> None:
    print("| command | seconds: median (range) | at most | peak MiB |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name, (command, limit) in commands(folder).items():
            seconds, memory = zip(*(measure(command) for _ in range(runs)), strict=True)
            middle, low, high = statistics.median(seconds), min(seconds), max(seconds)
            print(f"| `{name}` | {middle:.2f} ({low:.2f}-{high:.2f}) | {limit:g} | {max(memory):.0f} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
