"""A model described: the declaration as maths, its labels, conjugate rules, data and back ends."""

MAX_NUMBERS = 9  # equal ones that `maths` writes out


def describe(model) -> dict:
    """What `zoo show --json` holds: the declaration as maths, labels, data, back ends."""
    import inference
    from diagnostics.graph import graph
    from inference import conjugacy

    prior, observation = maths(model)
    data = model.data
    backends = {}
    if data is not None:
        x = model.check(data.x)
        backends = {name: inference.BACKENDS[name].refuses(model, x) for name in inference.BACKENDS}
    return {
        "name": model.name,
        "title": model.title,
        "family": model.family,
        "description": model.description,
        "source": model.source,
        "num_components": model.num_components,
        "num_free_parameters": None if model.lacks_twin else model.num_free_parameters,
        "exchangeable": bool(model.exchangeable),
        "prior": prior,
        "observation": observation,
        "graph": [node._asdict() for node in graph(model)],
        "component_parameters": list(model.component_leaves),
        "order_by": model.order_by,
        "relabels": bool(model.relabels),
        "conjugate": {rule.site: _gives(model, rule) for rule in conjugacy.rules(model)},
        "data": None
        if data is None
        else {
            "name": data.name,
            "N": data.num_observations,
            "D": data.num_features,
            "units": data.units,
            "source": data.source,
            "licence": data.licence,
            "sha256": data.sha256,
            "variant": data.variant,
        },
        "backends": backends,
    }


def _gives(model, rule) -> dict:
    """What a conjugate rule is good for in this model."""
    from inference import cavi, marginal

    return {
        "rule": rule.name,
        "draw": rule.conditional is not None,
        "m_step": rule.mode is not None,
        "variational": rule in cavi.served(model),
        "marginal": rule.collapsed is not None and marginal.collapsible(model) is None,
    }


def maths(model) -> tuple[list[str], list[str]]:
    """The prior's sites and the observation's as lines, `means ~ Normal(loc=[400, 400], scale=50)`.

    Numbers are shown where an argument is the same at two prior draws, a parameter's name where it equals that
    parameter (name[k] where it equals row k), "..." where it is computed from parameters otherwise.
    """
    import jax
    import numpy as np

    from diagnostics.functionals import one_row
    from zoo import introspect

    row = one_row(model)
    rows = row if isinstance(row, dict) else {"x": row}
    observed = {name: np.asarray(leaf)[0] for name, leaf in rows.items() if name != "covariates"}
    families = {}

    @jax.jit
    @jax.vmap
    def draw(key):
        params = introspect.sample(model.prior, (), key)[0]
        prior = model.prior_sites(params)

        def component(k):
            sites = model.observation_sites(params, k, observed, model.covariates_row)
            families.update({("observation", name): site.family for name, site in sites.items()})
            return {name: site.parameters for name, site in sites.items()}

        families.update({("prior", name): site.family for name, site in prior.items()})
        each = jax.vmap(component)(np.arange(model.num_components, dtype=np.int32))
        return {**model.derived(params), **params}, {name: site.parameters for name, site in prior.items()}, each

    values, prior, each = jax.tree.map(np.asarray, draw(jax.random.split(jax.random.key(3))))

    def number(array):
        if np.ndim(array) == 0:
            return f"{float(array):.6g}"
        if np.size(array) > MAX_NUMBERS and np.all(array == array.flat[0]):
            return f"{float(array.flat[0]):.6g} ({' x '.join(map(str, array.shape))} times)"
        return "[" + ", ".join(number(a) for a in array) + "]"

    def argument(pair, by_component):
        """`pair`: the argument at two draws, (2, ...), or (2, K, ...) by component."""
        flat = pair[:, 0] if by_component and np.all(pair == pair[:, :1]) else pair
        names = [name for name, leaf in values.items() if leaf.shape == flat.shape and np.array_equal(leaf, flat)]
        rowwise = by_component and flat is pair
        if names:
            return names[0] + ("[k]" if rowwise else "")
        if np.array_equal(flat[0], flat[1]):
            return number(flat[0]) + ("[k]" if rowwise else "")
        return "..."

    def line(kind, name, arguments):
        family = families[kind, name] or "a density of its own"
        inside = ", ".join(f"{k}={argument(v, kind == 'observation')}" for k, v in arguments.items())
        given = " | z = k" if kind == "observation" and name != "z" else ""
        return f"{name}{given} ~ {family}({inside})"

    order = [name for name in families if name[0] == "prior"]  # as declared; JAX sorts the keys of dictionaries
    lines = [line("prior", name, prior[name]) for _, name in order]
    sites = [name for kind, name in families if kind == "observation"]
    return lines, [line("observation", name, each[name]) for name in sites]
