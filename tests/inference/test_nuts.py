"""What NUTS says of its own run."""

from inference import fit
from zoo.models.coffee import coffee

SHORT = dict(num_chains=2, num_warmup=50, num_draws=50)


def test_draws_that_use_the_whole_tree_are_warned_of_and_others_not():
    cut = fit(coffee(), "nuts", max_tree_depth=1, **SHORT)
    assert cut.warnings == ("100 of 100 draws used the whole tree of depth 1: raise max_tree_depth",)
    assert (cut.stats["n_steps"] == 1).all()
    assert fit(coffee(), "nuts", **SHORT).warnings == ()
