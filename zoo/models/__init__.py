"""One file per story: prior, one observation, twin, data. Each lists its builders in `MODELS`."""
