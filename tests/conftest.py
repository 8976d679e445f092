"""One precision for every test: float64, set before any test module is imported; and a bound on memory."""

import contextlib
import ctypes
import gc
import os
import pathlib

import jax
import pytest

jax.config.update("jax_enable_x64", True)

MOST = 4 * 2**30  # bytes of a worker above which compiled programs are forgotten


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """After a module: a worker of the whole suite otherwise grows to 9 GB of compiled programs."""
    yield
    statm = pathlib.Path("/proc/self/statm")
    if statm.is_file() and int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > MOST:
        from inference import loop

        loop.forget_programs()
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # else the freed pages stay with the process
