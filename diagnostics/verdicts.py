"""What a comparison says in words. Pure functions on rows (see `compare.COLUMNS`); the rules are numbers here.

A back end is *mixed* when bulk and tail effective sample sizes are at least 1,000 and R-hat is below 1.01 on every
functional that varies; R-hat needs two chains of four draws, and without it nothing is mixed. Against the reference,
the first rule that applies:
a draw that is not finite: cannot be compared;
R-hat above 1.01: cannot tell, chains disagree;
the simultaneous interval (Bonferroni over functionals, level .01, both Monte Carlo errors) of difference / reference sd
excludes 0 and reaches beyond .05: disagrees;
every interval inside +-.3: agrees; else cannot tell, with the draws needed.
The spread is judged alike, by E[(f - reference mean)^2] / (2 reference variance) - 1/2, the relative error of the sd.
"""

import math
from statistics import NormalDist
from typing import NamedTuple

from scipy.stats import t as student

from inference.importance import ENOUGH, FEW_ESS, MAX_K, MIN_ESS

MIXED_ESS = 1000
MIXED_RHAT = 1.01
LEVEL = 0.01  # of the simultaneous intervals
TEST_LEVEL = 0.001  # of `failures`
TEST_ESS = 400
NEGLIGIBLE = 0.05  # reference standard deviations
CLOSE = 0.3
SAME = 1e-6  # constants: absolute, and relative to the reference
EVIDENCE_SE = 4.0
LARGEST_SE = {"weighted": ENOUGH, "runs": 0.1}  # of a log evidence, by what it comes from: above, it says too little
SHARE_OFF = 0.01  # of the draws in one labelling
RARE = 1e-3  # a probability never seen may be so large that missing it had this probability
MANY = 100  # draws: with fewer, that the standard error of a mean rests on few of them says nothing about its tail
NO_RHAT = "R-hat needs at least two chains of four draws"
PROBABILITIES = ("co_clustering", "occupied")  # functionals whose distance from a constant is a probability
SHARES = ("co_clustering", "sorted_weights")  # functionals from 0 to 1


class Interval(NamedTuple):
    """A difference from the reference, in units of the reference's standard deviation, with its half width."""

    name: str
    difference: float
    half: float

    @property
    def differs(self):
        """The interval excludes 0 and reaches beyond what is negligible."""
        return abs(self.difference) > self.half and abs(self.difference) + self.half > NEGLIGIBLE

    @property
    def close(self):
        return abs(self.difference) + self.half <= CLOSE

    @property
    def factor(self):
        """How many times the draws would shrink the interval until it is decided."""
        room = max(CLOSE - abs(self.difference), abs(self.difference))
        return (self.half / room) ** 2


def quantile(num: int, level: float, degrees: int | None = None) -> float:
    """Bonferroni: the two-sided normal quantile at level / num; 4.4 for 100 comparisons at .001, 5.3 for 10,000.

    `degrees` of freedom of the standard errors, where few runs make them up: Student's quantile.
    """
    tail = 1 - level / (2 * max(num, 1))
    return NormalDist().inv_cdf(tail) if degrees is None else float(student.ppf(tail, degrees))


def varies(row: dict) -> bool:
    """Whether the draws of a row differ from each other; the sd of a constant is 0, and a point has none."""
    return row["mcse"] is not None or bool(row["sd"])


def failures(rows: list[dict], num: int | None = None, degrees: int | None = None) -> list[str]:
    """The rows that fail a test at level .001, as sentences; `num` comparisons are in the table (default: in `rows`).

    |z| above the Bonferroni quantile fails; so do bulk or tail ESS below 400, draws that are not finite, draws too few
    to have an ESS, constants that are not the reference's, and what is `missed`. `degrees` as in `quantile`: of
    independent runs, their number less one.
    """
    num = num or sum(row[name] is not None for row in rows for name in ("z", "z_sd"))
    limit, least = quantile(num, TEST_LEVEL, degrees), least_ess(rows)
    failed = []
    for row in rows:
        if row["mean"] is None:
            failed.append(f"{row['functional']}: not finite in some draws")
            continue
        if varies(row) and row["mcse"] is None:
            failed.append(f"{row['functional']}: too few draws to test")
            continue
        ess = [e for e in (row["ess_bulk"], row["ess_tail"]) if e is not None]
        if ess and min(ess) < TEST_ESS:
            failed.append(f"{row['functional']}: effective sample size {min(ess):.0f} is too small to test")
            continue
        failed += [
            f"{row['functional']}: {name} = {row[name]:.1f}, beyond {limit:.1f}"
            for name in ("z", "z_sd")
            if row[name] is not None and abs(row[name]) > limit
        ]
        if constant_differs(row, least):
            values = f"{row['mean']:.8g} in every draw, reference {row['reference_mean']:.8g}"
            failed.append(f"{row['functional']}: {values}")
        if missed(row, num, TEST_LEVEL):
            failed.append(f"{row['functional']}: {row['mean']:.3g} by few draws, reference {row['reference_mean']:.3g}")
    return failed


def mixing(rows: list[dict], stuck: tuple[str, ...] = (), shape: tuple[int, int] | None = None) -> tuple[bool, str]:
    """Whether chains mixed, and the figures.

    `stuck`: functionals constant in each chain but not over chains; `shape`: chains and draws of each, where known.
    """
    if shape is not None and (shape[0] < 2 or shape[1] < 4):
        return False, NO_RHAT
    if stuck:
        return False, f"every chain keeps its own value of {_list(stuck)}"
    varying = [row for row in rows if varies(row)]
    if not varying:
        return (True, "nothing varies") if any(row["mean"] is not None for row in rows) else (False, "no R-hat")
    if any(row["rhat"] is None for row in varying):
        return False, NO_RHAT if shape is None else "too few draws to judge"
    worst = max(varying, key=lambda row: row["rhat"])
    ess, name = min((row[kind], row["functional"]) for row in varying for kind in ("ess_bulk", "ess_tail"))
    if worst["rhat"] >= MIXED_RHAT:
        return False, f"R-hat {worst['rhat']:.3f} for {worst['functional']}"
    if ess < MIXED_ESS:
        return False, f"effective sample size {ess:.0f} for {name}"
    return True, f"R-hat at most {worst['rhat']:.3f}, effective sample sizes at least {ess:,.0f}"


def chains_disagree(rows: list[dict], stuck: tuple[str, ...] = ()) -> bool:
    """R-hat above 1.01 on a functional, or chains that never leave different values."""
    return bool(stuck) or any(row["rhat"] is not None and row["rhat"] > MIXED_RHAT for row in rows)


def intervals(rows: list[dict], degrees: int | None = None) -> list[Interval]:
    """Simultaneous intervals of every mean (where z exists) and spread (where z_sd exists) against the reference."""
    num = sum(row[name] is not None for row in rows for name in ("z", "z_sd"))
    q, found = quantile(num, LEVEL, degrees), []
    for row in rows:
        sd = row["reference_sd"] or row["sd"]
        if row["z"] is not None and sd:
            se = (row["mcse"] ** 2 + row["reference_error"] ** 2) ** 0.5
            found.append(Interval(row["functional"], (row["mean"] - row["reference_mean"]) / sd, q * se / sd))
        if row["z_sd"] and row["reference_sd"]:
            second = row["sd"] ** 2 + (row["mean"] - row["reference_mean"]) ** 2
            error = (second / row["reference_sd"] ** 2 - 1) / 2
            half = q * abs(error / row["z_sd"])
            found.append(Interval(f"the spread of {row['functional']}", error, half))
    return found


def constant_differs(row: dict, ess: float) -> bool:
    """Whether a functional that never varied has another value than the reference.

    Equal to 1e-6 passes, the reference's own error allowed for; so does a probability p never (always) seen in `ess`
    effective draws when (1 - p)^ess >= .001.
    """
    if varies(row) or row["mean"] is None or row["reference_mean"] is None:
        return False
    distance = abs(row["mean"] - row["reference_mean"])
    allowed = SAME * max(1.0, abs(row["reference_mean"])) + quantile(1, TEST_LEVEL) * (row["reference_error"] or 0.0)
    if distance <= allowed:
        return False
    rare = row["functional"].startswith(PROBABILITIES) and distance <= 1
    return not (rare and (1 - distance) ** ess >= RARE)


def least_ess(rows: list[dict], num_draws: float = math.inf) -> float:
    """The smallest effective sample size of the rows; `num_draws` where nothing varies.

    Of rows without one, (sd / mcse)^2: the number of independent draws, and of runs of particles what their spread
    between runs is worth, whatever the number of copies.
    """
    each = [_ess(row) for row in rows]
    return min((ess for ess in each if ess is not None), default=num_draws)


def _ess(row: dict) -> float | None:
    if row["ess_bulk"] is not None:
        return row["ess_bulk"]
    return (row["sd"] / row["mcse"]) ** 2 if row["sd"] and row["mcse"] else None


def missed(row: dict, num: int, level: float = LEVEL) -> bool:
    """Whether a functional from 0 to 1 that too few draws carry for a standard error (z is None) is further from the
    reference than its effective draws allow: so does a sampler that hardly met a part of the posterior.

    By Bernstein's inequality under the reference's sd, P(|mean - p| > t) <= 2 exp(-n t^2 / (2 (sd^2 + t / 3))) for n
    independent draws (Boucheron, Lugosi & Massart 2013, Concentration Inequalities, section 2.8), at level / num.
    """
    known = row["reference_mean"] is not None and row["reference_error"] is not None and row["mean"] is not None
    if row["z"] is not None or not known or not varies(row) or not row["functional"].startswith(SHARES):
        return False
    n, log_tail = _ess(row), math.log(2 * max(num, 1) / level)
    if n is None:
        return False
    third = log_tail / (3 * n)
    allowed = third + math.sqrt(third**2 + 2 * row["reference_sd"] ** 2 * log_tail / n)
    return abs(row["mean"] - row["reference_mean"]) > allowed + quantile(num, level) * row["reference_error"]


def not_finite(rows: list[dict]) -> list[str]:
    """Functionals that are not finite in every draw: they have no mean."""
    return [row["functional"] for row in rows if row["mean"] is None]


def agreement(rows: list[dict], source: str, num_draws: int, degrees: int | None = None) -> str:
    """agrees / disagrees in ... / cannot tell, of draws whose standard errors can be trusted."""
    held = [row for row in rows if row["reference_mean"] is not None]
    if not held:
        return "there is no reference to compare with"
    if not_finite(held):
        return f"cannot tell: not finite in some draws: {_list(not_finite(held))}"
    each, least = intervals(held, degrees), least_ess(held, num_draws)
    wrong = [i.name for i in each if i.differs]
    wrong += [row["functional"] for row in held if constant_differs(row, least) or missed(row, len(held))]
    if wrong:
        return f"disagrees with {source} in {_list(wrong)}"
    untested = [row["functional"] for row in held if varies(row) and row["z"] is None]
    besides = _left_out(held, untested, num_draws)
    if len(held) < len(rows):
        besides += f"; {len(rows) - len(held)} functionals have no reference"
    unclear = [i for i in each if not i.close]
    if unclear:
        factor = max(i.factor for i in unclear)
        return f"cannot tell: effective sample size too small, about {num_draws * factor:,.0f} draws needed{besides}"
    compared, constants = len(held) - len(untested), sum(not varies(row) for row in held)
    if untested and not each:  # that the constants agree says nothing of what varies
        return "cannot tell" + besides.replace("; left out, ", ": ", 1)
    noun = "functional" if compared == 1 else "functionals"
    of_them = f" ({constants} constant)" if constants else ""
    return f"agrees with {source} (to within {CLOSE:g} sd) on {compared} {noun}{of_them}{besides}"


def _left_out(held, untested, num_draws) -> str:
    """Means whose standard errors mean nothing, and spreads beside means that were compared."""
    why = "too few draws to judge" if num_draws < MANY else "since rare draws make up their mean"
    spreads = [
        row["functional"] for row in held if row["z"] is not None and row["z_sd"] is None and row["reference_sd"]
    ]
    said = f"; left out, {why}: {_list(untested)}" if untested else ""
    why = "" if untested else f", {why.replace('their mean', 'them')}"
    return said + (f"; spreads left out{why}: {_list(spreads)}" if spreads else "")


def of_chains(rows, source, shape, stuck=()) -> str:
    """`shape`: chains, and draws of each."""
    broken = not_finite(rows)
    if broken:
        return f"not mixed (not finite in some draws: {_list(broken)}): its draws cannot be compared"
    mixed, figures = mixing(rows, stuck, shape)
    start = f"{'mixed' if mixed else 'not mixed'} ({figures})"
    if chains_disagree(rows, stuck):
        return f"{start}: cannot tell, chains disagree"
    return f"{start}; {agreement(rows, source, shape[0] * shape[1])}"


def of_shares(shares, masses, ess: float) -> str:
    """What a chain back end's share of draws in each labelling says against the labellings' masses, where one is off:
    by more than .01, and by more than 4 standard errors or, where the share never varies, by more than `ess` draws can
    miss (`constant_differs`)."""
    for labelling, mass in masses.items():
        share, error = shares.get(labelling, (mass, None))
        distance = abs(share - mass)
        beyond = (1 - distance) ** ess < RARE if error is None else distance > EVIDENCE_SE * error
        if distance > SHARE_OFF and beyond:
            part = "every draw has" if share == 1 else f"a share {share:.3g} of its draws has"
            return f"; {part} the labelling {labelling}, whose mass is {mass:.3g}"
    return ""


def of_spreads(rows) -> str:
    """How many times the reference's sd an approximation's is, over the functionals whose means were compared."""
    held = [row for row in rows if row["z"] is not None and row["reference_sd"]]
    ratios = sorted((row["sd"] / row["reference_sd"], row["functional"]) for row in held)
    if not ratios:
        return ""
    least, median, most = ratios[0], ratios[len(ratios) // 2], ratios[-1]
    return (
        f"; its sd is {median[0]:.2f} times the reference's in the median, "
        f"from {least[0]:.2f} ({least[1]}) to {most[0]:.2f} ({most[1]})"
    )


def usable(weight_ess: float, pareto_k: float) -> bool:
    """Weighted draws: effective sample size of the weights at least 100 and Pareto k at most .7."""
    return weight_ess >= MIN_ESS and pareto_k <= MAX_K


def weight_figures(weight_ess: float, pareto_k: float) -> str:
    size = f"{weight_ess:,.0f}" if weight_ess >= FEW_ESS else f"{weight_ess:.3g}"
    return f"effective sample size of the weights {size}, Pareto k {pareto_k:.2f}"


def of_weights(rows, source, num_draws, weight_ess, pareto_k, evidence, reference_evidence) -> str:
    """`evidence` and `reference_evidence` are (log evidence, standard error), each None where unknown."""
    figures = weight_figures(weight_ess, pareto_k)
    right = evidence_agrees(evidence, reference_evidence)
    most = LARGEST_SE["weighted"] if usable(weight_ess, pareto_k) else math.inf  # others have said that they are few
    says = of_evidence(evidence, reference_evidence, most)
    if usable(weight_ess, pareto_k) and not_finite(rows):
        return f"not usable, not finite in some draws: {_list(not_finite(rows))} ({figures}){says}"
    if usable(weight_ess, pareto_k):
        return f"usable ({figures}); {agreement(rows, source, num_draws)}{says}"
    if FEW_ESS <= weight_ess < MIN_ESS and right:
        return f"not usable, few effective draws ({figures}){says}"
    why = "the weights have collapsed" if weight_ess < FEW_ESS else "too few effective draws"
    if weight_ess >= MIN_ESS:
        why = f"Pareto k above {MAX_K:g}"
    says = "; no estimate of the log evidence" if evidence is None or evidence[0] is None else says
    return f"not usable, {why} ({figures}){says}"


def evidence_agrees(evidence, reference) -> bool | None:
    """|difference| <= 4 standard errors; None where either is unknown or the estimate has no error."""
    if evidence is None or reference is None or None in (evidence[0], evidence[1], reference[0]):
        return None
    se = (evidence[1] ** 2 + (reference[1] or 0.0) ** 2) ** 0.5
    return abs(evidence[0] - reference[0]) <= EVIDENCE_SE * se + 1e-8


def of_evidence(evidence, reference, most=math.inf) -> str:
    """What an estimate of log evidence with its standard error says against the reference's; "" where it cannot."""
    says = evidence_says(evidence, reference, most)
    return says and f"; log evidence {evidence[0]:.3f} +- {evidence[1]:.2g} (reference {reference[0]:.3f}) is {says}"


def evidence_says(evidence, reference, most=math.inf) -> str:
    """The same without the figures. An error above `most` is too large for being within it to count."""
    right = evidence_agrees(evidence, reference)
    if right and evidence[1] > most:
        return f"within its error, which is above {most:g}: too uncertain to count as right"
    return {True: "right within its error", False: "off by more than 4 standard errors", None: ""}[right]


def of_point(
    value, likelihood, best, stored=None, *, map_estimate, admissible, restarts, causes=(), bounded=True
) -> str:
    """What is to be said of the best restart.

    `value`: what it maximised; `likelihood`: its log likelihood; `best`: (highest value of a draw elsewhere, where), or
    None; `stored`: the maximum likelihood where it is known; `restarts`: (as high, all); `causes`: how the restarts
    that are not admissible ended; `bounded`: whether a global maximum exists.
    """
    if not admissible:
        ended = (
            f"all {restarts[1]} restarts ended {' or '.join(causes)}" if causes else f"none of {restarts[1]} restarts"
        )
        return f"no admissible optimum: {ended}"
    what = ("the MAP", "log density") if map_estimate else ("the maximum likelihood", "log likelihood")
    if map_estimate and not bounded:
        what = ("the best admissible mode known", what[1])
    values = f"{what[1]} {value:.6f}" + (f", log likelihood {likelihood:.6f}" if map_estimate else "")
    reached = f"{values}, reached by {restarts[0]} of {restarts[1]} restarts"
    known = [(stored, "the stored maximum likelihood")] if stored is not None else []
    known += [best] if best is not None else []
    if not known:
        return f"a stationary point ({reached}); nothing to hold it against"
    highest, where = max(known)
    if value < highest - SAME * (1 + abs(highest)):
        return f"not at {what[0]} ({reached}): {where} {'is' if highest == stored else 'has'} {highest:.6f}"
    said = [f"best of {restarts[1]} restarts"]
    said += ["no draw of another back end is higher"] if best is not None else []
    said += [f"the stored maximum likelihood is {stored:.6f}"] if stored is not None else []
    return f"at {what[0]} ({reached}): {'; '.join(said)}"


def _list(names) -> str:
    names = list(names)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
