"""A `@gen` function whose pairs (z_n, x_n) depend on each other given the parameters: a hidden Markov chain, say.

No (N, K) table says what it is, so it is no `Mixture`: it has a joint density and forward draws, and `inference.fit`
serves it by scan Gibbs and importance sampling (`inference.scan`).
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from zoo.dataset import Dataset
from zoo.mixture import Mixture, Params
from zoo.support import numbers

FIT_ALONE = ": its rows depend on each other given the parameters, and inference.fit alone serves it, from Python"


@dataclass(frozen=True, eq=False, kw_only=True)
class Dependent:
    """p(params) prod over the function's sites in their order; N observations, as many as it has addresses for.

    Made by `zoo.from_unrolled`. Methods are pure and safe under jit and vmap unless their docstring says otherwise.
    """

    name: str
    num_components: int
    parts: Any  # `zoo.unrolled.Parts`: the walk over the function
    prior: Mixture  # of the same parameters; its rows are independent, and only their shapes and supports are used
    data: Dataset | None = None

    @property
    def param_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The parameters: name -> shape and dtype."""
        return self.prior.param_shapes

    def log_joint(self, params: Params, assignments, x, floor: float | None = None):
        """log p(params, assignments, x), a scalar; assignments (N,), x (N, ...). `floor`: no z_n, x_n counts less."""
        prior, *rows = self.parts.scores(params, assignments, x)
        if floor is not None:
            rows = [jnp.maximum(jnp.where(jnp.isnan(row), floor, row), floor) for row in rows]
        return prior + sum(row.sum() for row in rows)

    def propose(self, key, x) -> tuple[Params, Any, Any]:
        """What comes before x, drawn in the function's order with every x_n at its value: params, assignments (N,)
        int32, and the log weight sum_n log p(x_n | all that comes before x_n).
        """
        return self._walk(key, dict(zip(self.parts.x, x, strict=True)))[:3]

    def simulate(self, key) -> tuple[Params, Any, Any]:
        """A forward draw: params, assignments (N,) int32, x (N, ...)."""
        params, assignments, _, x = self._walk(key, {})
        return params, assignments, x

    def _walk(self, key, observed):
        parts, values, log_weight = self.parts, {}, jnp.zeros(())

        def visit(address, distribution, arguments):
            nonlocal log_weight
            if address in observed:
                values[address] = jnp.asarray(observed[address], parts.sites[address].value.dtype)
                log_weight += parts.score(values[address], distribution, arguments)
            else:
                values[address] = distribution.simulate(jax.random.fold_in(key, len(values)), arguments).get_retval()
            return values[address]

        parts.source.run(visit)
        stacked = lambda at: jnp.stack([values[a] for a in at]) if isinstance(at, tuple) else values[at]
        found = {name: stacked(at) for name, at in parts.members.items()}
        return found, stacked(parts.z).astype(jnp.int32), log_weight, stacked(parts.x)

    def check(self, x, name: str = "x"):
        """`x` as an array (N, ...) of this function's N, or ValueError with one sentence. Host side.

        Rows may be unlike each other, so supports are not asked here: what has no density gives gibbs no start.
        """
        checked = numbers(x, self.prior.observation_shapes["x"].shape, name, self.name)
        if len(checked) != len(self.parts.x):
            raise ValueError(
                f"{name} has {len(checked)} rows, and {self.name} has addresses for {len(self.parts.x)} observations"
            )
        return checked
