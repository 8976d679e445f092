"""Addresses with a number in them ("z_0", "z_1", ...): what there is for each observation and each component.

Every function here raises ValueError, in one sentence, for addresses that state no mixture. Compiles nothing.
"""

import inspect
import re
import warnings
from collections.abc import Mapping
from types import MappingProxyType

import jax

from zoo import introspect
from zoo.dataset import Dataset

SLOW, MOST = 60, 150  # observations: above the first a warning, above the second a refusal
MEANS = MappingProxyType({"means": "mu_{}"})
VECTORISED = 'one function for all observations: Mixture(prior=..., observation=...) with the sites "z" and "x"'


def check_call(gen_fn, num_components, assignments, observations, parameters, data):
    """The arguments of `from_unrolled`, before the function is looked into."""
    function = introspect.function_of(gen_fn)
    if function is None:
        raise ValueError(f"gen_fn should be a function decorated with GenJAX's @gen, got {type(gen_fn).__name__}")
    arguments = inspect.signature(function, follow_wrapped=False).parameters.values()
    needs = [argument.name for argument in arguments if argument.default is argument.empty]
    if needs:
        raise ValueError(f"gen_fn takes {', '.join(needs)}; it should have no arguments: close over them")
    if isinstance(num_components, bool) or not isinstance(num_components, int) or num_components < 1:
        raise ValueError(f"num_components should be a whole number, 1 or more, got {num_components!r}")
    if not isinstance(parameters, Mapping):
        raise ValueError(f"parameters should be a dict like {dict(MEANS)}, got {parameters!r}")
    for argument, pattern in (("assignments", assignments), ("observations", observations), *parameters.items()):
        if not isinstance(pattern, str) or pattern.count("{}") != 1:
            where = argument if argument in ("assignments", "observations") else f"parameters[{argument!r}]"
            raise ValueError(
                f"{where} should be an address with {{}} for the number, such as 'z_{{}}', got {pattern!r}"
            )
    if data is not None and not isinstance(data, Dataset):
        raise ValueError(f"data should be a Dataset, got {type(data).__name__}")


def _numbered(pattern, addresses) -> dict[int, str]:
    """number -> address, for the addresses of that pattern."""
    before, after = map(re.escape, pattern.split("{}"))
    matches = ((re.fullmatch(f"{before}(0|[1-9][0-9]*){after}", address), address) for address in addresses)
    return dict(sorted((int(match[1]), address) for match, address in matches if match))


def in_order(pattern, argument, addresses) -> tuple[str, ...]:
    """The addresses of that pattern by their numbers, which should be 0, 1, ..., N - 1."""
    found = _numbered(pattern, addresses)
    if not found:
        raise ValueError(f"{argument}={pattern!r}: gen_fn has no such address, its addresses are {_few(addresses)}")
    missing = sorted(set(range(max(found))) - set(found))
    if missing:
        raise ValueError(
            f"{argument}={pattern!r}: gen_fn has {pattern.format(max(found))} but no {pattern.format(missing[0])}; "
            "number them 0, 1, 2, ... without a gap"
        )
    return tuple(found.values())


def check_rows(sites, z, x, num_components, data):
    """One assignment, of K categories, for every observation; observations of one shape; not too many, which warns."""
    if len(z) != len(x):
        raise ValueError(
            f"gen_fn has {len(z)} assignments, {z[0]} to {z[-1]}, and {len(x)} observations, {x[0]} to {x[-1]}; every "
            "observation should have one assignment"
        )
    n = len(z)
    if n > MOST:
        raise ValueError(
            f"gen_fn has {n} observations, and one address for each is for {MOST} at most; write {VECTORISED}"
        )
    if n > SLOW:
        warnings.warn(
            f"{n} observations with an address each take long to trace and compile; write {VECTORISED}", stacklevel=3
        )
    for address in z:
        site, length = sites[address], sites[address].num_categories
        if site.family not in ("Categorical", "Bernoulli") or site.value.shape:
            what = f"a {site.family or 'distribution'} of shape {site.value.shape}"
            raise ValueError(f"{address} should be one categorical or flip, a component; it is {what}")
        length = 2 if site.family == "Bernoulli" else length
        if length != num_components:
            raise ValueError(f"{address} has {length} categories and num_components is {num_components}; give {length}")
    for address in x[1:]:
        if sites[address].value != sites[x[0]].value:
            raise ValueError(
                f"{address} is {_shape(sites[address])} and {x[0]} is {_shape(sites[x[0]])}; observations should be "
                "alike"
            )
    if data is not None and data.num_observations != n:
        raise ValueError(f"data has {data.num_observations} rows and gen_fn {n} observations; they should be as many")


def members(sites, z, x, num_components, parameters):
    """Parameter -> its address, or the tuple of its K addresses, in the order of the function."""
    K, stacked = num_components, {}
    for name, pattern in parameters.items():
        found = _numbered(pattern, sites)
        where = f"parameters[{name!r}]={pattern!r}"
        if not found:
            raise ValueError(f"{where}: gen_fn has no such address, its addresses are {_few(sites)}")
        if list(found) != list(range(K)):
            raise ValueError(
                f"{where}: gen_fn has {', '.join(found.values())}, and num_components is {K}; it should have one for "
                f"each of 0, ..., {K - 1}"
            )
        for address in found.values():
            if sites[address].value.shape:
                raise ValueError(
                    f"{where}: {address} has shape {sites[address].value.shape}, and an address for each component "
                    f"should be a scalar; give all {K} one address, each component's value a row of one array"
                )
            if sites[address].family != sites[found[0]].family or (
                jax.tree.structure(sites[address].arguments) != jax.tree.structure(sites[found[0]].arguments)
            ):
                raise ValueError(
                    f"{where}: {address} and {found[0]} have priors of two kinds; parameters of one name should have "
                    "the same distribution, whatever its arguments"
                )
        stacked[name] = tuple(found.values())
    taken = [*z, *x, *(address for at in stacked.values() for address in at)]
    twice = sorted({address for address in taken if taken.count(address) > 1})
    if twice:
        raise ValueError(f"the address {twice[0]} is of two patterns; assignments, observations and parameters differ")
    others = [address for address in sites if address not in taken]
    clash = sorted({*stacked} & {*others})
    if clash:
        raise ValueError(f"parameters: {clash[0]!r} is an address of gen_fn already; give another name")
    series = {}
    for address in others:
        series.setdefault(re.sub(r"[0-9]+(?=[^0-9]*$)", "{}", address), []).append(address)
    for pattern, found in series.items():
        if len(found) > 1:
            raise ValueError(
                f"gen_fn has {_few(found)}, of no pattern given; name what there is for each component in parameters: "
                f"parameters={{..., {pattern.replace('{}', '').strip('_.')!r}: {pattern!r}}}"
            )
    first = {at[0]: (name, at) for name, at in stacked.items()}
    order = [a for a in sites if a in first or a in others]
    return dict(first.get(address, (address, address)) for address in order)


def _few(addresses):
    addresses = list(addresses)
    return ", ".join(addresses[:6]) + (f", ... ({len(addresses)} in all)" if len(addresses) > 6 else "")


def _shape(site):
    return f"{site.value.dtype} of shape {site.value.shape}"
