"""Mistakes planted in the samplers, one at a time, and whether the tests of `calibration` and `enumeration` see them.

    python -m diagnostics.mutations [FILE.md]

A test that passes says something only if it fails when the code is wrong. Each mistake is one that published samplers
have had, or that is easily made here.
"""

import contextlib
import functools
import importlib
import math
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

import inference
from diagnostics import calibration
from inference import collapsed, conjugacy, enumeration, importance, labels, nuts, smc, space, tempering

LEVEL = 0.01  # of all joint tests together
EVIDENCE = 4.0  # standard errors that an estimate of log evidence may be off
RATIO = 1e-12  # largest error of a conjugate conditional that is rounding


class Found(NamedTuple):
    """What one test says: it catches a mistake when `value` is beyond `allowed`."""

    test: str
    value: float  # |z|, or the error of a ratio test
    allowed: float
    functional: str = ""

    @property
    def fails(self) -> bool:
        return not self.value <= self.allowed


class Mutation(NamedTuple):
    """One mistake. `plant(model)` is a context in which code is wrong; it yields the sampler built there."""

    name: str
    backend: str
    model: Callable[[], Any]
    plant: Callable
    site: str = ""  # of a conjugate rule: the ratio test is run too
    num_steps: int | None = None
    num_replicates: int | None = None  # more than `calibration.SIZES`, where the mistake changes little


class Changed:
    """A model some of whose functions are others: what a sampler built on it believes."""

    def __init__(self, model, **functions):
        self.__dict__.update(functions, model=model)

    def __getattr__(self, name):
        return getattr(self.model, name)


# -- planting ----------------------------------------------------------------------------------------------------------


def build(backend, model, **how):
    """A sampler on `model` as `calibration.kernels` builds it, but new, so that what is planted is in it."""
    if backend == "smc":
        return calibration.smc_move.__wrapped__(model)
    kernel = importlib.import_module(inference.TABLE[backend][0]).build
    return kernel.__wrapped__(model, **calibration.frozen(kernel, model), **how)


@contextlib.contextmanager
def wrong_rule(model, site, change, accept=False):
    """The conditional of `site` is `change(conditional)`."""
    real = conjugacy.rules

    def rules(model):
        def conditional(rule, params, r, x):
            return change(rule.conditional(params, r, x))

        wrong = lambda rule: rule._replace(conditional=functools.partial(conditional, rule))
        return tuple(wrong(rule) if rule.site == site else rule for rule in real(model))

    with mock.patch.object(conjugacy, "rules", rules):
        yield build("gibbs", model, accept=accept)


@contextlib.contextmanager
def replaced(model, backend, module, name, other):
    """`module.name` is `other(what it was)`."""
    with mock.patch.object(module, name, other(getattr(module, name))):
        yield build(backend, model)


@contextlib.contextmanager
def believing(model, backend, **functions):
    """The sampler takes `functions(model)` for the model's own."""
    yield build(backend, Changed(model, **{name: make(model) for name, make in functions.items()}))


@contextlib.contextmanager
def after_each_step(model, backend, change, **how):
    """`change(key, model, before, after, x)` gives the state after a step: params and assignments other than right."""
    sampler = build(backend, model, **how)

    def step(key, i, state, x):
        after, out = sampler.step(jax.random.fold_in(key, 0), i, state, x)
        after, params, z = change(jax.random.fold_in(key, 1), model, state, after, out, x)
        return after, out | {"params": params, "assignments": z}

    yield sampler._replace(step=step)


class NoRatio:
    """A proposal whose density is forgotten."""

    def __init__(self, q):
        self.q = q

    def sample(self, key):
        return self.q.sample(key)

    def log_prob(self, value):
        return jnp.zeros_like(value)


def no_jacobian(real):
    return lambda model: real(model)._replace(log_det=lambda u: jnp.zeros(()))


def one_too_many(real):
    def shifted(key, table):
        assignments, log_likelihoods = real(key, table)
        return jnp.minimum(assignments + 1, table.shape[1] - 1), log_likelihoods

    return shifted


def without_ratio(real):
    return lambda model, key, s, log_density: jax.random.permutation(key, model.num_components).astype(jnp.int32)


def without_assignments(real):
    return lambda model, params, z, x: lambda s: model.log_density(model.permute(params, s), x)


def from_the_table_before(key, model, before, after, out, x):
    z = labels.draw_assignments(key, model.log_table(before.params, x))
    return after._replace(assignments=z), after.params, z


def parameters_permuted_alone(key, model, before, after, out, x):
    s = jax.random.permutation(key, model.num_components).astype(jnp.int32)
    params = model.permute(after.params, s)
    return after._replace(params=params), params, after.assignments


def assigned_before_the_permutation(key, model, before, after, out, x):
    unpermuted = space.space_of(model).constrain(after.kernel.z)
    return after, out["params"], labels.draw_assignments(key, model.log_table(unpermuted, x))


def all_but_the_weights(model):
    return lambda params, s: {**model.permute(params, s), "weights": params["weights"]}


def marginal(model):
    return lambda params, z, x: model.log_density(params, x)


def centred_on_the_data(model):
    """As if the constants of bento's prior were computed anew from every data set that the model is given."""

    def log_joint(params, z, x):
        moved = {"means": params["means"] - jnp.mean(x) + 400.0}
        return model.log_joint(params, z, x) - model.log_prior(params) + model.log_prior(moved)

    return log_joint


def tempered_weights(model):
    return lambda params, x: 0.5 * model.log_weights_table(params, x) + model.log_components(params, x)


def not_taken_out(real):
    return lambda total, own, belongs: total


def kept(real):
    return lambda kernel, potential, x, s: kernel


def mutations() -> list[Mutation]:
    """Every mistake that a joint test must see."""
    wide = lambda name, **constants: functools.partial(calibration.wide, name, **constants)
    bento, unequal, full = wide("bento"), wide("bento", weights=(0.7, 0.3)), wide("bento_full")
    coffee, three = wide("coffee"), wide("three_gaussians")
    often = wide("coffee", scale=40.0, prior_sd=30.0)  # permuted often, each time to another potential

    wider = lambda q: dist.Normal(q.loc, 1.1 * q.scale)
    aside = lambda q: dist.Normal(q.loc + 0.1 * q.scale, q.scale)
    shape = lambda q: dist.InverseGamma(q.concentration + 0.5, q.rate)
    counts = lambda q: dist.Dirichlet(q.concentration + 0.5)
    forgotten = lambda q: NoRatio(dist.Normal(q.loc, 1.5 * q.scale))

    def rule(name, model, site, change, accept=False):
        plant = functools.partial(wrong_rule, site=site, change=change, accept=accept)
        return Mutation(name, "gibbs", model, plant, "" if accept else site)

    def patch(name, backend, model, module, function, other, **how):
        plant = functools.partial(replaced, backend=backend, module=module, name=function, other=other)
        return Mutation(name, backend, model, plant, **how)

    def belief(name, backend, model, **functions):
        return Mutation(name, backend, model, functools.partial(believing, backend=backend, **functions))

    def after(name, backend, model, change, **how):
        return Mutation(name, backend, model, functools.partial(after_each_step, backend=backend, change=change, **how))

    jacobian, no_ratio = "missing Jacobian", "permutation without its ratio"
    complete = "marginal density where the complete-data joint belongs"
    return [
        rule("wrong posterior variance: sd of a mean times 1.1", bento, "means", wider),
        rule("wrong posterior mean: off by .1 of its sd", bento, "means", aside),
        rule("wrong posterior shape of a variance: n/2 + 1/2", full, "variances", shape),
        rule("wrong Dirichlet count: n + 1/2", full, "weights", counts),
        patch(jacobian, "gibbs", three, space, "space_of", no_jacobian),
        patch(jacobian, "metropolis", full, space, "space_of", no_jacobian),
        patch(jacobian, "nuts", full, space, "space_of", no_jacobian),
        patch(jacobian, "smc", full, space, "space_of", no_jacobian),
        rule("missing Hastings ratio", bento, "means", forgotten, accept=True),
        after("stale table: of the parameters before", "gibbs", bento, from_the_table_before, permute=False),
        patch(
            "stale gradient: of the labelling before",
            "nuts",
            often,
            nuts,
            "refresh",
            kept,
            num_steps=6,
            num_replicates=60_000,
        ),
        patch(
            "observation counted with the others",
            "collapsed",
            bento,
            collapsed,
            "left",
            not_taken_out,
            num_replicates=100_000,
        ),
        patch("off-by-one assignment", "gibbs", bento, labels, "draw_and_sum", one_too_many),
        *(patch(no_ratio, b, coffee, labels, "redraw", without_ratio) for b in ("gibbs", "metropolis", "nuts", "smc")),
        *(belief("means permuted, weights not", b, full, permute=all_but_the_weights) for b in ("metropolis", "nuts")),
        after("parameters permuted, assignments not", "gibbs", bento, parameters_permuted_alone, permute=False),
        patch(complete, "gibbs", unequal, labels, "log_labelling", without_assignments),
        belief(complete, "metropolis", bento, log_joint=marginal),
        after("assignments drawn before the permutation", "nuts", bento, assigned_before_the_permutation),
        belief("data-dependent prior, recomputed", "metropolis", bento, log_joint=centred_on_the_data),
        belief("weights in the table tempered", "gibbs", full, log_table=tempered_weights),
    ]


# log K! missing: one labelling counted; doubled: counted again though all are
EVIDENCE_MUTATIONS: dict[str, Callable] = {
    "log K! missing": lambda model: (
        lambda params, x: jnp.where(params["means"][0] < params["means"][1], model.log_likelihood(params, x), -jnp.inf)
    ),
    "log K! doubled": lambda model: (
        lambda params, x: model.log_likelihood(params, x) + math.lgamma(model.num_components + 1)
    ),
}


# -- testing -----------------------------------------------------------------------------------------------------------


def joint(mutation, planted=True, seed=0) -> Found:
    """The joint test of the sampler with the mistake in it, or of the right one."""
    model = mutation.model()
    replicates, steps = calibration.SIZES.get(mutation.backend, (20_000, 5))
    replicates = mutation.num_replicates or replicates
    how = dict(num_replicates=replicates, num_steps=mutation.num_steps or steps, level=LEVEL / len(mutations()))
    context = mutation.plant(model) if planted else contextlib.nullcontext(build(mutation.backend, model))
    with context as sampler:
        result = calibration.joint_test(model, sampler, jax.random.key(seed), **how)
    name, z = result.worst
    return Found("joint test", abs(z), result.threshold, name)


def ratio(mutation, planted=True) -> Found:
    """The ratio test of the conditional with the mistake in it, or of the right one."""
    model = mutation.model()
    with mutation.plant(model) if planted else contextlib.nullcontext():
        return Found("ratio test", calibration.ratio_test(model, jax.random.key(0))[mutation.site], RATIO)


def evidence(name=None) -> Found:
    """Log evidence of eight observations by importance sampling, with a mistake or without, against enumeration."""
    model = calibration.wide("bento")
    x = calibration.example(model, 8)
    exact = enumeration.enumeration(model, x, jax.random.key(0), num_draws=4).log_evidence
    believed = model if name is None else Changed(model, log_likelihood=EVIDENCE_MUTATIONS[name](model))
    found = importance.importance(believed, x, jax.random.key(1), num_particles=50_000)
    assert found.log_evidence is not None and found.log_evidence_se is not None
    return Found("enumeration", abs(found.log_evidence - exact) / found.log_evidence_se, EVIDENCE, "log evidence")


PATH_MUTATION = "weights in the path tempered: K^N left at temperature 0"


def path_evidence(planted=True) -> Found:
    """The same by smc, whose path from the prior tempers the weights too, or as it should not."""
    model = Changed(calibration.wide("bento"))  # programs are kept per model: this one is new
    x = calibration.example(model.model, 8)
    exact = enumeration.enumeration(model.model, x, jax.random.key(0), num_draws=4).log_evidence
    whole = lambda model, params, t, x: jnp.where(t > 0, t * model.log_table(params, x), 0.0)
    with mock.patch.object(tempering, "tempered_table", whole) if planted else contextlib.nullcontext():
        found = smc.smc(model, jnp.asarray(x), jax.random.key(1), num_particles=256, move="gibbs")
    assert found.log_evidence is not None and found.log_evidence_se is not None
    return Found("enumeration", abs(found.log_evidence - exact) / found.log_evidence_se, EVIDENCE, "log evidence")


class Row(NamedTuple):
    """One mistake, and the two verdicts."""

    mutation: str
    backend: str
    model: str
    wrong: Found
    right: Found

    @property
    def caught(self) -> bool:
        """The mistake fails, and the right code does not."""
        return self.wrong.fails and not self.right.fails


def rows(report=None):
    """Every mistake under every test that should see it, each beside the right code; `report(row)` as they come."""
    rights: dict = {}
    made = []

    def add(*row):
        made.append(Row(*row))
        if report is not None:
            report(made[-1])

    for mutation in mutations():
        model = mutation.model()
        for test in (joint, ratio) if mutation.site else (joint,):
            key = (test, mutation.backend, model, mutation.site if test is ratio else mutation[-2:])
            if key not in rights:
                rights[key] = test(mutation, planted=False)
            add(mutation.name, mutation.backend, model.name, test(mutation), rights[key])
    right = evidence()
    for name in EVIDENCE_MUTATIONS:
        add(name, "importance", calibration.wide("bento").name, evidence(name), right)
    add(PATH_MUTATION, "smc", calibration.wide("bento").name, path_evidence(), path_evidence(planted=False))
    return made


NOTES = """\
Made by `python -m diagnostics.mutations docs/mutations.md` (`make mutations`) in {minutes} minutes; {versions}.

Each mistake is planted in a sampler by itself. Joint test: largest z over all functionals, level .01 for all joint
tests of the table together. Ratio test: largest relative error. Enumeration: log evidence of eight observations, in
standard errors. V_n(t) with a wrong gamma does not apply: no sampler across numbers of components is here yet. The
right code under the same test stands beside each mistake: it must pass.
"""


def markdown(made, seconds) -> str:
    """The rows as a page."""
    from diagnostics.calibrate import versions

    number = lambda value: f"{value:.1f}" if value >= 0.05 else f"{value:.0e}"
    lines = [
        "# Planted mistakes, and the tests that catch them",
        "",
        NOTES.format(minutes=f"{seconds / 60:.0f}", versions=versions()),
        "| mistake | back end | model | caught by | value | right code | allowed |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in made:
        seen = row.wrong.test + (f", {row.wrong.functional}" if row.wrong.functional else "")
        caught = seen if row.caught else f"NOT CAUGHT by {seen}" + ", the right code fails too" * row.right.fails
        values = number(row.wrong.value), number(row.right.value), number(row.wrong.allowed)
        lines.append(f"| {' | '.join([row.mutation, row.backend, row.model, caught, *values])} |")
    return "\n".join(lines) + "\n"


def main(argv) -> int:
    jax.config.update("jax_enable_x64", True)
    began = time.perf_counter()

    def report(row):
        verdict = "caught" if row.caught else "NOT CAUGHT"
        values = f"{row.wrong.value:.3g}, right code {row.right.value:.3g}, allowed {row.wrong.allowed:.3g}"
        print(f"{verdict}: {row.mutation}, {row.backend} on {row.model}: {row.wrong.test} {values}", flush=True)

    made = rows(report)
    if argv:
        pathlib.Path(argv[0]).write_text(markdown(made, time.perf_counter() - began), encoding="utf-8")
    missed = sum(not row.caught for row in made)
    print(f"{len(made) - missed} of {len(made)} caught")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
