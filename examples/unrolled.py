"""Mystery bentos as tutorials write them, an address for each box: five back ends on one posterior.

    mu_k ~ Normal(400, 50)          grams, for k = 0, 1
    z_n  ~ Categorical(1/2, 1/2)    which kind box n is
    x_n  ~ Normal(mu_z_n, 2)        its weight

Run `python examples/unrolled.py`, or `zoo compare --model examples/unrolled.py:bentos`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from genjax import categorical, gen, normal

from zoo import Dataset, from_unrolled

GRAMS = np.array([498.0, 352.0, 501.0, 349.0, 497.0, 503.0])


@gen
def unrolled():
    mu_0 = normal(400.0, 50.0) @ "mu_0"
    mu_1 = normal(400.0, 50.0) @ "mu_1"
    means = jnp.array([mu_0, mu_1])
    for n in range(len(GRAMS)):
        z = categorical(probs=np.array([0.5, 0.5])) @ f"z_{n}"  # named: a bare argument means logits
        normal(means[z], 2.0) @ f"x_{n}"


bentos = from_unrolled(unrolled, name="six_bentos", data=Dataset(name="six bentos", x=GRAMS, units="g"))

if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)

    from diagnostics import compare

    names = ["quadrature", "importance", "metropolis", "gibbs", "em", "nuts"]  # the first is the exact answer
    found = compare(bentos, backends=names, seed=1)
    table = found.to_frame()
    shown = table[table.functional.str.startswith("sorted_means")]
    print(shown[["backend", "functional", "mean", "sd", "z"]].to_string(index=False))
    for name in names:
        print(f"{name}: {found.backends[name]['verdict']}")
