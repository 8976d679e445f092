"""One precision for every test: float64, set before any test module is imported; and a bound on memory."""

import contextlib
import ctypes
import gc
import os
import pathlib
import subprocess
import sys

import jax
import pytest

jax.config.update("jax_enable_x64", True)

# of a worker, above which compiled programs are forgotten: every program takes both, and Linux gives 65,530 maps
MOST_BYTES, MOST_MAPS = 4 * 2**30, 40_000


@pytest.fixture(autouse=True)
def forget_programs():
    """After a test: a worker of the whole suite otherwise grows until it dies."""
    yield
    own = pathlib.Path("/proc/self")
    if not own.is_dir():
        return
    used = int((own / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if used > MOST_BYTES or (own / "maps").read_bytes().count(b"\n") > MOST_MAPS:
        from inference import loop

        loop.forget_programs()
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # else the freed pages stay with the process


@pytest.fixture
def printed_by(tmp_path):
    """example -> what the script of that name in examples/ prints; it runs in `tmp_path`, in a process of its own."""
    root = pathlib.Path(__file__).parent.parent

    def run(example):
        path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
        script = [sys.executable, str(root / "examples" / example)]
        done = subprocess.run(
            script, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
