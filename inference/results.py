"""What back ends return: plain data. C chains, S draws, N observations, K components, R restarts."""

from collections.abc import Callable
from typing import Any, NamedTuple

Params = dict[str, Any]
INTERRUPTED = "interrupted: only the finished part is here"  # among the warnings


class Cost(NamedTuple):
    """What a run took. A pass over all N observations counts one evaluation, whether K columns or one are needed, and
    whether equal observations are looked at once (`smc`) or each.
    """

    compile_seconds: float = 0.0  # tracing, lowering and compiling
    run_seconds: float = 0.0  # running, warmup included
    table_evaluations: int = 0  # passes without gradient
    gradient_evaluations: int = 0  # passes with gradient
    program_bytes: int = 0  # arguments + outputs + temporaries of the largest compiled program

    def __add__(self, other):
        return Cost(*(a + b for a, b in zip(self[:4], other[:4], strict=True)), max(self[4], other[4]))


class Draws(NamedTuple):
    """Draws from the posterior: correlated (chains), or weighted (`log_weights`)."""

    params: Params  # every leaf (C, S, ...)
    assignments: Any  # (C, S, N) int32, or None where not kept
    cost: Cost
    log_weights: Any = None  # (C, S) importance weights, unnormalised logs; None for chains
    log_evidence: float | None = None
    log_evidence_se: float | None = None
    stats: dict[str, Any] = {}  # (C, S) each, under ArviZ's names
    state: Any = None  # last state of every chain, its adaptation included; read from a file: its leaves by name
    num_done: int = 0  # steps finished per chain, warmup included
    interrupted: bool = False
    warnings: tuple[str, ...] = ()
    origin: dict[str, Any] = {}  # chains only: back end, model, data, seed, precision, settings; {} where from a file
    resampled: Any = None  # weighted draws only: equal-weight Draws resampled from them
    starts: Any = None  # chains only: params (C, ...) at which they began; None where read from a file


class PointMass(NamedTuple):
    """Where EM stopped, for R restarts, best admissible first."""

    params: Params  # every leaf (R, ...)
    log_density: Any  # (R,) log likelihood, plus log prior for MAP
    num_steps: Any  # (R,)
    converged: Any  # (R,) bool: the stated criterion was met before max_steps
    admissible: Any  # (R,) bool: converged to a maximum, no component empty, every scale above the floor
    gradient_norm: Any  # (R,) largest entry of the gradient per observation, unconstrained space
    cost: Cost
    prior: bool = True  # MAP, else maximum likelihood
    floor: float = 0.0  # smallest admissible scale, in units of the data's standard deviation
    warnings: tuple[str, ...] = ()
    ended: Any = ()  # (R,) str: "converged" where admissible, else what disqualified the restart
    standard_errors: Params | None = None  # like one restart's params: observed information at the best admissible one
    bounded: bool = True  # whether a finite maximum exists
    interrupted: bool = False  # restarts that had not ended are left out


class Exact(NamedTuple):
    """The posterior itself, up to a stated numerical error."""

    log_evidence: float
    log_evidence_se: float  # numerical error
    cost: Cost
    nodes: Params | None = None  # leaves (M, ...): expectations are sums over them ...
    log_weights: Any = None  # ... with these normalised log weights (M,)
    draws: Draws | None = None  # independent exact draws
    assignment_probabilities: Any = None  # (N, K)
    co_clustering: Any = None  # (N, N): P(z_i = z_j | x)
    warnings: tuple[str, ...] = ()
    missed_mass: float | None = None  # quadrature: bound on the posterior mass outside its grid


class Backend(NamedTuple):
    """One way to the posterior. `kind` alone decides which columns of a comparison are null."""

    run: Callable  # (model, x, key, *, settings...) -> Draws | PointMass | Exact
    refuses: Callable  # (model, x) -> the sentence why it cannot serve them, or None
    kind: str  # "exact", "mcmc", "weighted", "point" or "approximate"
    default: bool = True  # part of a comparison that names no back ends
