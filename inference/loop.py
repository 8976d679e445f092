"""The only sampling loop: chains by vmap, steps by scan, chunks of one length, compiling timed apart from running."""

import contextlib
import functools
import re
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg  # noqa: F401  loads the BLAS that compiled programs call, so that its threads are known
from threadpoolctl import threadpool_limits

from inference import space
from inference.results import INTERRUPTED, Cost, Draws

CHUNK = 250  # steps of one compiled chunk, fewer where ...
MAX_ENTRIES = 2**22  # ... assignments of a chunk, all chains together, would be more: an interrupt waits for a chunk


class Sampler(NamedTuple):
    """One Markov chain. Data are an argument, so that new data of the same shape compile nothing.

    `i` is the number of the step, warmup included, the same for all chains: conditions on it stay cheap.
    """

    init: Callable  # (key, params, x) -> state, from the chain's first parameters
    step: Callable  # (key, i, state, x) -> (state, out)


class Run(NamedTuple):
    """What `run` did: `out` leaves (C, num_done - start, ...) as NumPy arrays."""

    out: Any
    state: Any  # of every chain after step num_done - 1
    num_done: int
    interrupted: bool
    cost: Cost  # seconds and bytes only: the back end knows its evaluations


def sample(
    model, sampler, key, x, *, num_chains, num_warmup, num_draws, progress=None, resume=None, starts=None
) -> Draws:
    """Draws of a Markov chain back end, from `starts` (params, leaves (C, ...); default `space.starts`) or going on
    from `resume`.

    `resume`: Draws of an earlier, shorter run of the same sampler with the same key, data and settings; num_draws
    counts its draws too. The result is bit for bit that of one run without a break. Raises KeyboardInterrupt when
    interrupted before the first draw after warmup, ValueError when `resume` cannot be continued.
    """
    key_start, key_chains = jax.random.split(key)
    keys, num_steps = jax.random.split(key_chains, num_chains), num_warmup + num_draws
    if resume is None:
        began = time.perf_counter()
        params = space.starts(model, key_start, x, num_chains) if starts is None else starts
        setting_up = Cost(time.perf_counter() - began)  # next to nothing but compiling
        draws = to_draws(run(sampler, keys, num_steps, x, params=params, on_chunk=progress), num_warmup)
        return draws._replace(cost=draws.cost + setting_up, starts=jax.tree.map(np.asarray, params))
    _check_resume(resume, model, x, num_chains, num_warmup, num_draws)
    state = _restored(sampler, resume.state, model, keys, x)
    rest = run(sampler, keys, num_steps, x, start=resume.num_done, state=state, on_chunk=progress)
    if rest.out is None:  # nothing was left to do, or Ctrl-C came before anything was done
        return resume._replace(interrupted=rest.interrupted, warnings=(INTERRUPTED,) * rest.interrupted)
    return _joined(resume, to_draws(rest, 0))


def run(sampler, keys, num_steps, x, *, params=None, start=0, state=None, chunk=None, on_chunk=None) -> Run:
    """Steps start..num_steps-1 of every chain; step i of a chain uses fold_in(chain_key, i).

    Without `state` the chains begin at `params` (C, ...), by `sampler.init`. The program runs `chunk` steps at a
    time whatever is asked (default: by the size of the data), so chunking and resuming change no bit. After each
    chunk `on_chunk(done, num_steps)`.
    Ctrl-C between or within chunks returns the finished chunks, marked `interrupted`.
    """
    x = jax.tree.map(jnp.asarray, x)
    cost, done, interrupted = Cost(), start, False
    outs: list = []
    if state is None:
        init, seconds, size = compiled(_init_program(sampler.init), keys, params, x)
        started = time.perf_counter()
        state = jax.block_until_ready(init(keys, params, x))
        cost += Cost(seconds, time.perf_counter() - started, 0, 0, size)
    rows = len(keys) * max((len(leaf) for leaf in jax.tree.leaves(x)), default=1)
    chunk = chunk or max(1, min(CHUNK, MAX_ENTRIES // rows))
    args = (keys, jnp.int32(start), jnp.int32(num_steps), state, x)
    program, seconds, size = compiled(_chunk_program(sampler.step, chunk), *args)
    cost += Cost(seconds, 0.0, 0, 0, size)
    started = time.perf_counter()
    try:
        while done < num_steps:
            state_next, out = program(keys, jnp.int32(done), jnp.int32(num_steps), state, x)
            kept = min(chunk, num_steps - done)
            out = jax.tree.map(lambda leaf: np.asarray(leaf)[:kept], out)  # noqa: B023
            outs, state, done = [*outs, out], state_next, done + kept  # together: an interrupt leaves all or none
            if on_chunk is not None:
                on_chunk(done, num_steps)
    except KeyboardInterrupt:
        interrupted = True
    cost += Cost(0.0, time.perf_counter() - started)
    out = jax.tree.map(lambda *leaves: np.swapaxes(np.concatenate(leaves), 0, 1), *outs) if outs else None
    return Run(out, state, done, interrupted, cost)


def to_draws(run, num_warmup, warnings=()) -> Draws:
    """The draws after warmup of a run whose `out` has params, assignments, num_evaluations and stats (each (C, S))."""
    if run.out is None or run.num_done <= num_warmup:
        raise KeyboardInterrupt("interrupted before the first draw after warmup: there is nothing to keep")
    kept = jax.tree.map(lambda leaf: leaf[:, num_warmup:], run.out)
    stats = {k: v for k, v in kept.items() if k not in ("params", "assignments")}
    if "conjugacy_error" in stats:  # measured in warmup only
        stats["conjugacy_error"] = np.broadcast_to(run.out["conjugacy_error"].max(axis=1)[:, None], stats["lp"].shape)
    stats = {k: v for k, v in stats.items() if k not in ("num_evaluations", "num_gradients")}
    gradients = int(run.out["num_gradients"].sum()) if "num_gradients" in run.out else 0
    warnings += (INTERRUPTED,) * run.interrupted
    return Draws(
        params=kept["params"],
        assignments=kept["assignments"],
        cost=run.cost._replace(table_evaluations=int(run.out["num_evaluations"].sum()), gradient_evaluations=gradients),
        stats=stats,
        state=run.state,
        num_done=run.num_done,
        interrupted=run.interrupted,
        warnings=warnings,
    )


# -- going on with an earlier run -------------------------------------------------------------------------


def state_leaves(state) -> dict:
    """Every array of a sampler's state under a plain name; keys of random numbers as their words."""
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        is_key = jnp.issubdtype(getattr(leaf, "dtype", np.float64), jax.dtypes.prng_key)
        name = _plain(path)
        found[name] = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
    return found


def _plain(path) -> str:
    return re.sub(r"\W+", "_", jax.tree_util.keystr(path)).strip("_") or "state"


def _restored(sampler, state, model, keys, x):
    """The state as the sampler's own structure, where it comes as leaves by name (read from a file)."""
    if not isinstance(state, dict):
        return state
    params = {k: jax.ShapeDtypeStruct((len(keys), *s.shape), s.dtype) for k, s in model.param_shapes.items()}
    template = jax.eval_shape(_init_program(sampler.init), keys, params, jax.tree.map(jnp.asarray, x))
    wanted = jax.tree_util.tree_flatten_with_path(template)[0]
    leaves = []
    for path, leaf in wanted:
        name = _plain(path)
        if name not in state:
            raise ValueError(f"resume: the saved state has no {name}; it is of another sampler or version")
        value = jnp.asarray(state[name])
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        value = jax.random.wrap_key_data(value) if is_key else value.astype(leaf.dtype)
        if value.shape != leaf.shape:
            raise ValueError(
                f"resume: the saved {name} has shape {value.shape}, not {leaf.shape}: other data or chains"
            )
        leaves.append(value)
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _check_resume(earlier, model, x, num_chains, num_warmup, num_draws):
    if earlier.state is None or earlier.assignments is None:
        raise ValueError("resume: the earlier run has no sampler state or no assignments, so it cannot be continued")
    chains, kept = np.shape(earlier.assignments)[:2]
    if chains != num_chains or earlier.num_done != num_warmup + kept:
        raise ValueError(
            f"resume: the earlier run has {chains} chains and {earlier.num_done - kept} warmup steps, this one "
            f"{num_chains} and {num_warmup}; they should be the same"
        )
    if kept > num_draws:
        raise ValueError(f"resume: the earlier run has {kept} draws per chain already; num_draws should be more")
    last = {name: jnp.asarray(leaf)[:, -1] for name, leaf in earlier.params.items()}
    x = jax.tree.map(jnp.asarray, x)
    density = jax.jit(lambda p, x: jax.vmap(lambda p: model.log_density(p, x))(p))(last, x) if last else None
    tolerance = 1e-8 if jnp.result_type(float) == jnp.float64 else 1e-4
    if last and not np.allclose(density, earlier.stats["lp"][:, -1], rtol=tolerance, atol=tolerance):
        raise ValueError("resume: the earlier run's draws have another density here: it is of another model or data")


def _joined(earlier, later) -> Draws:
    join = lambda a, b: np.concatenate([np.asarray(a), np.asarray(b)], axis=1)
    stats = {name: join(earlier.stats[name], leaf) for name, leaf in later.stats.items()}
    if "conjugacy_error" in stats:  # measured in warmup, the same for every draw
        stats["conjugacy_error"] = np.broadcast_to(earlier.stats["conjugacy_error"][:, :1], stats["lp"].shape)
    return later._replace(
        params={name: join(earlier.params[name], leaf) for name, leaf in later.params.items()},
        assignments=join(earlier.assignments, later.assignments),
        stats=stats,
        cost=earlier.cost + later.cost,
        starts=earlier.starts,
    )


@contextlib.contextmanager
def one_blas_thread():
    """The linear algebra that compiled programs call stays on the thread that calls it.

    Its matrices are small, and its threads wait for each other: with other work on the machine, or other threads of the
    same run, triangular solves of 4 x 4 matrices were measured to take 500 times as long. The limit is the process's:
    the first to come sets it, the last to go lifts it.
    """
    with _LOCK:
        _INSIDE.append(None if _INSIDE else threadpool_limits(1, "blas"))
    try:
        yield
    finally:
        with _LOCK:
            limit = _INSIDE.pop()  # the first, when all others have gone
            if limit is not None:
                limit.restore_original_limits()


_LOCK, _INSIDE = threading.Lock(), []  # type: ignore[var-annotated]


# -- programs ---------------------------------------------------------------------------------------------


def compiled(function, *args):
    """The program of a jitted `function` at the shapes of `args`, seconds compiling it now (0: ready), its bytes."""
    leaves, tree = jax.tree.flatten(args)
    return _ready(function, tree, tuple((leaf.shape, leaf.dtype) for leaf in map(jnp.asarray, leaves)), args)


def _ready(function, tree, shapes, args):
    key = (function, tree, shapes, jax.config.jax_enable_x64)
    if key in _PROGRAMS:
        program, size = _PROGRAMS[key]
        return program, 0.0, size
    started = time.perf_counter()
    program = function.lower(*args).compile()
    seconds = time.perf_counter() - started
    _PROGRAMS[key] = program, program_bytes(program)
    return program, seconds, _PROGRAMS[key][1]


_PROGRAMS: dict = {}  # program and its bytes, one per (function, shapes); functions are cached per (model, settings)


def forget_programs():
    """Frees every compiled program, JAX's own included; what is needed again compiles again.

    A program takes hundreds of memory maps, of which Linux gives a process 65,530, and the compiler has crashed in a
    process that ran very many.
    """
    _PROGRAMS.clear()
    jax.clear_caches()


def program_bytes(program) -> int:
    """Arguments + outputs + temporaries of a compiled program, as XLA reports them; 0 where it does not."""
    sizes = program.memory_analysis()
    if sizes is None:
        return 0
    return sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes


@functools.cache
def _init_program(init):
    def one(key, params, x):
        return init(jax.random.fold_in(key, 2**31 - 1), params, x)  # apart from the key of every step

    return jax.jit(jax.vmap(one, in_axes=(0, 0, None)))


@functools.cache
def _chunk_program(step, chunk):
    def program(keys, first, stop, state, x):
        @jax.jit  # traced once, though used twice
        def advance(state, i):
            return jax.vmap(lambda key, s: step(jax.random.fold_in(key, i), i, s, x))(keys, state)

        empty = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(advance, state, first)[1])

        def body(state, i):  # steps past the last are skipped, so the state is that of step stop - 1
            return jax.lax.cond(i < stop, advance, lambda state, i: (state, empty), state, i)

        return jax.lax.scan(body, state, first + jnp.arange(chunk, dtype=jnp.int32))

    return jax.jit(program)
