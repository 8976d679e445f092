"""One self-contained HTML page about a comparison: the verdict in words first, then what it stands on."""

import pathlib
import re
import shlex
from typing import Any, NamedTuple

import jinja2

import inference
from diagnostics import plots, report_tables, starts, verdicts
from diagnostics.compare import full_settings
from diagnostics.pictures import data_uri
from diagnostics.report_tables import DASH, number
from zoo.dataset import PER_UNIT

KINDS = {
    "exact": "computes the posterior itself, up to a numerical error",
    "mcmc": "correlated draws from the posterior, by Markov chains",
    "weighted": "draws weighted by how well they fit",
    "point": "the single best point, without a spread",
    "approximate": "draws from an approximation of the posterior",
}
# word on the badge -> its colour: a class of the style sheet
TONES = {
    "reference": "good",
    "agrees": "good",
    "at the optimum": "good",
    "disagrees": "bad",
    "not at the optimum": "bad",
    "failed": "bad",
    "not mixed": "doubt",
    "cannot tell": "doubt",
    "not usable": "doubt",
    "ran": "plain",
    "refused": "plain",
}
NOT_FINITE = "Some of its draws are not finite numbers, so its averages are not to be used."
COMMON = {"num_chains": "--chains", "num_warmup": "--warmup", "num_draws": "--draws"}


class Standing(NamedTuple):
    """How one back end came out: a word, a sentence for everybody, and the figures behind it."""

    name: str
    word: str
    sentence: str
    detail: str

    @property
    def tone(self):
        return TONES[self.word]


class Picture(NamedTuple):
    """A figure of the page; `uri` is None where it could not be drawn, and the caption says why."""

    uri: str | None
    alt: str
    caption: str


def write(comparison, path) -> pathlib.Path:
    """Writes the page to `path` and returns it. Nothing in it is loaded from elsewhere; everything is escaped."""
    path = pathlib.Path(path)
    path.write_text(render(comparison), encoding="utf-8")
    return path


def render(comparison) -> str:
    """The page as a string."""
    loader = jinja2.PackageLoader("diagnostics", "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.undefined = jinja2.StrictUndefined
    return environment.get_template("report.html").render(**_context(comparison))


def _context(comparison) -> dict[str, Any]:
    model, reference = comparison.model, comparison.reference
    standings = [standing(comparison, name) for name in comparison.backends]
    return {
        "title": model.title or model.name,
        "model": model,
        "story": (model.description or "").strip("\n"),
        "maths": _maths(model),
        "graph": _graph(model, comparison.data["N"]),
        "data": comparison.data,
        "seed": comparison.seed,
        "settings": {name: _settings(given) for name, given in comparison.settings.items()},
        "headline": headline(standings, reference),
        "standings": standings,
        "kinds": {name: KINDS.get(entry["kind"], entry["kind"]) for name, entry in comparison.backends.items()},
        "colours": {name: plots.colour_of(comparison, name) for name in comparison.backends},
        "reference": reference,
        "reference_says": _reference_says(comparison),
        "fits": _fit_pictures(comparison),
        "intervals": _intervals_picture(comparison),
        "matrix": report_tables.matrix(comparison),
        "unusable": [name for name in comparison.results if not comparison.backends[name]["usable"]],
        "groups": report_tables.groups(comparison),
        "evidence": report_tables.evidence(comparison),
        "labellings": report_tables.labellings(comparison),
        "starts": _starts(comparison),
        "chains": _chain_pictures(comparison),
        "restarts": report_tables.restarts(comparison),
        "assignments": _assignment_picture(comparison),
        "costs": report_tables.costs(comparison),
        "cost_picture": _cost_picture(comparison),
        "warnings": {n: list(e["warnings"]) for n, e in comparison.backends.items() if e["warnings"]},
        "interrupted": getattr(comparison, "interrupted", False),
        "versions": comparison.versions,
        "command": command(comparison),
        "dash": DASH,
    }


# -- the verdict in words -----------------------------------------------------------------------------------------


def standing(comparison, name) -> Standing:
    """What became of one back end."""
    entry, reference = comparison.backends[name], comparison.reference
    verdict, source = entry.get("verdict") or "", reference.label
    word = _word(entry, verdict, name == reference.source)
    detail = "" if word in ("refused", "failed") else re.sub(r"\binf\b", "infinite", verdict.replace("+-", "±"))
    reason = (entry["reason"] or "no reason given").rstrip(".")
    if word == "refused":
        text = f"Did not run: {reason}."
    elif word == "failed":
        text = f"Broke off: {reason}."
    elif word == "reference":
        text = "The others are held against this one."
    elif word == "disagrees":
        off = plots.in_order(report_tables.differing(comparison, name))
        where = ", ".join(off[:3]) + (f" and {len(off) - 3} more" if len(off) > 3 else "")
        where = where or ("its log evidence" if "off by more than 4" in verdict else "some quantity")
        text = f"Its answer differs from {source} by more than chance explains, in {where}."
    elif word == "agrees":
        close = f"{verdicts.CLOSE:g} posterior standard deviations"
        text = f"Every quantity compared is within {close} of {source}, allowing for chance."
        text += " Some could not be compared." if "left out" in verdict else ""
    elif word == "not mixed":
        text = "Its chains have not settled on one answer, so its numbers are not to be trusted yet."
        if verdicts.NO_RHAT in verdict or "too few draws to judge)" in verdict:
            text = "One chain, or a few draws, cannot show whether it has settled on one answer."
        elif "agrees with" in verdict:
            text = f"What it found agrees with {source}, but its run was too short to rely on."
        elif "not finite" in verdict:
            text = NOT_FINITE
    elif word == "cannot tell":
        text = f"It gave too few effective draws to say whether it agrees with {source}."
    elif word == "not usable" and entry["kind"] == "point":
        text = "No restart ended at an optimum that can be believed: its values are no estimate."
    elif word == "not usable" and "not finite" in verdict:
        text = NOT_FINITE
    elif word == "not usable" and verdict.startswith("not usable: "):
        text = "Its independent runs do not agree, or did not all end: do not use their evidence or averages."
    elif word == "not usable":
        text = "Its weights are too uneven for its averages to be trusted."
        if "Pareto k above" in verdict:
            text = "A few large weights decide its averages, however many draws there are: do not use them."
        if "collapsed" in verdict:
            text = "Nearly all of its weight lies on a few draws: do not use its averages."
        elif "right within its error" in verdict:
            text = "Its draws are worth too few to use its averages, though its log evidence is right within its error."
    elif word in ("at the optimum", "not at the optimum"):
        text = "One best point, to be read as such: it says nothing about uncertainty."
        if word == "not at the optimum":
            text = "It stopped short of the best point known."
        elif "best of " in verdict:
            text = "The best of its restarts, and nothing known is higher; it says nothing about uncertainty."
    else:
        text = "It ran; there is nothing to hold it against."
    return Standing(name, word, text, detail)


def _word(entry, verdict, is_reference) -> str:
    if entry["status"] in ("refused", "failed"):
        return entry["status"]
    if is_reference:
        return "reference"
    if verdict.startswith("not usable"):
        return "not usable"
    if entry["kind"] == "point":
        if not entry["usable"]:
            return "not usable"
        known = (("at ", "at the optimum"), ("not at ", "not at the optimum"))
        return next((word for start, word in known if verdict.startswith(start)), "ran")
    if "disagrees with" in verdict or "off by more than 4 standard errors" in verdict:  # of its draws, or its evidence
        return "disagrees"
    if verdict.startswith("not mixed"):
        return "not mixed"
    if "cannot tell" in verdict:
        return "cannot tell"
    return "agrees" if "agrees with" in verdict else "ran"


def headline(standings, reference) -> str:
    """The whole comparison in a few sentences."""
    by: dict[str, list[str]] = {}
    for s in standings:
        by.setdefault(s.word, []).append(s.name)
    source = reference.label
    what = {"exact": ", which is exact", "long run": ", a long run"}.get(reference.kind, "")
    again = "" if "agrees" in by else what
    said: list[str] = []
    for word, one, several in (
        ("agrees", f"agrees with {source}{what}", f"agree with {source}{what}"),
        ("disagrees", f"disagrees with {source}{again}", f"disagree with {source}{again}"),
        ("not mixed", "has not mixed", "have not mixed"),
        ("cannot tell", "has too few effective draws to tell", "have too few effective draws to tell"),
        ("not usable", "is not usable", "are not usable"),
        ("at the optimum", "found the best point known", "found the best point known"),
        ("not at the optimum", "missed the best point known", "missed the best point known"),
        ("ran", "ran, with no reference to hold it against", "ran, with no reference to hold them against"),
        ("failed", "failed", "failed"),
        ("refused", "does not serve this model", "do not serve this model"),
    ):
        names = by.get(word, [])
        if names:
            noun = " back end" + ("s" if len(names) > 1 else "") if not said else ""
            said.append(f"{_count(len(names))}{noun} {one if len(names) == 1 else several}: {_and(names)}.")
    if "reference" in by and not any(word in by for word in ("agrees", "disagrees")):
        said.insert(0, f"The posterior is known from {by['reference'][0]}{what}.")
    return " ".join(said)


def _count(num: int) -> str:
    words = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
    return words[num] if num < len(words) else str(num)


def _and(names) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _reference_says(comparison) -> list[str]:
    """The reference and its own error, as sentences."""
    reference = comparison.reference
    if not reference.values:
        return ["There is no reference: nothing here says which answer is right, only whether they differ."]
    kind = {"exact": "exact", "stored": "stored with the package", "long run": "a long run"}.get(
        reference.kind, reference.kind
    )
    said = [f"The reference is {reference.source} ({kind})."]
    if reference.kind == "another back end":
        said.append("It is not known better than the others: a difference says that one is off, not which.")
    errors = [v.error / v.sd for v in reference.values.values() if v.error is not None and v.sd and v.sd > 1e-9]
    if errors:
        least = f"at most {report_tables.power(max(errors))} of its standard deviation"
        said.append(f"Its own error in the mean of a quantity is {least}, over {len(errors)} quantities that vary.")
    missed = getattr(comparison.results.get(reference.source), "missed_mass", None)
    if missed is not None:
        said.append(f"At most {report_tables.power(missed)} of the posterior's mass can lie outside its grid.")
    if reference.log_evidence is not None:
        error = reference.log_evidence_se
        allowed = f", numerical error {report_tables.power(error)}" if error else ""
        said.append(f"Its log evidence is {number(reference.log_evidence, None, 13)}{allowed}.")
    return said


# -- pictures -----------------------------------------------------------------------------------------------------


def _picture(draw, alt, caption) -> Picture | None:
    """A figure, or the reason why there is none: a picture must not cost the reader the numbers."""
    try:
        figure = draw()
        return None if figure is None else Picture(data_uri(figure), alt, caption)
    except Exception as error:  # a stranger's model may break what the zoo's do not
        return Picture(None, "", f"This picture could not be drawn: {type(error).__name__}: {error}")


def _speaker(comparison) -> str | None:
    """The result that pictures of the posterior show: the reference's, else the best back end's."""
    if comparison.reference.source in comparison.results:
        return comparison.reference.source
    order = ("agrees", "ran", "cannot tell", "not mixed", "disagrees", "at the optimum", "not at the optimum")
    words = {name: standing(comparison, name).word for name in comparison.results}
    return min(words, key=lambda n: order.index(words[n]) if words[n] in order else len(order), default=None)


def _fit_pictures(comparison) -> list[Picture]:
    name = _speaker(comparison)
    if name is None:
        return []
    model, x, N = comparison.model, comparison.x, f"{comparison.data['N']:,}"
    leaf = plots.sorted_by(model)
    numbered = f" Components are numbered in ascending order of their {leaf}, draw by draw." if leaf else ""
    means = [row for row in comparison.rows if row["backend"] == name and row["functional"].startswith("sorted_means")]
    where = ", ".join(number(row["mean"], (row["sd"] or 0) / 10 or None, 4) for row in means)
    where = f"; component means {where}" if means else ""
    dashed = ""
    if comparison.reference.source in comparison.results:
        dashed = " Dashed: the reference's density; where they agree, the two lines coincide."
    pictures = [
        _picture(
            lambda: plots.fitted_density(comparison.results[name], model, x, name, comparison.data),
            f"Histogram of the {N} observations with the fitted density by {name}{where}.",
            f"Grey: the {N} observations as a histogram of area one, with a tick for each where they are few. "
            "Coloured: each component times its weight, averaged over the posterior; dashed: their sum, the fitted "
            f"density. At each value a shaded band holds 90% of the posterior.{numbered} A cut axis leaves out a "
            "stretch without data.",
        )
    ]
    if len(comparison.results) > 1:
        pictures.append(
            _picture(
                lambda: plots.fitted_densities(comparison),
                f"The fitted density of {_and(list(comparison.results))}, one row each, over the same histogram.",
                "The same picture for each back end: the fitted density averaged over its draws, and its 90% band."
                + dashed,
            )
        )
    return [picture for picture in pictures if picture is not None]


def _intervals_picture(comparison) -> Picture | None:
    source, _ = plots.ruler_of(comparison)
    names = [name for name in comparison.results if name != source]
    held = "the reference" if comparison.reference.values else f"{source} (there is no reference)"
    return _picture(
        lambda: plots.intervals(comparison),
        f"Means and spreads of the quantities that vary by {_and(names or [source])}, relative to {source}.",
        f"One row per quantity, one column per back end. The dot is the posterior mean, the thin line reaches one "
        f"posterior standard deviation to either side, and the thick line (often hidden by the dot) is two standard "
        f"errors of the mean. All are relative to {held}, whose own range is the grey band: dots at 0 and lines that "
        "fill the band mean agreement; an arrowhead points to what lies outside. A single best point has no lines.",
    )


def _chain_pictures(comparison) -> list[Picture]:
    pictures = []
    for name in comparison.results:
        if comparison.backends[name]["kind"] != "mcmc":
            continue
        figures = standing(comparison, name).detail.partition(";")[0]
        pictures.append(
            _picture(
                lambda name=name: plots.traces(comparison, name),
                f"Traces and rank histograms of the chains of {name}: {figures}.",
                f"{name}: {figures}.",
            )
        )
    return [picture for picture in pictures if picture is not None]


def _assignment_picture(comparison) -> Picture | None:
    name = _speaker(comparison)
    if name is None:
        return None
    leaf = plots.sorted_by(comparison.model)
    if leaf is not None:
        used = f"Relabelling used: components sorted by {leaf} in every draw, so that number 0 is always the lowest."
    elif comparison.model.param_shapes:
        used = "The components cannot be put in order, so only what needs no labels is shown."
    else:
        used = "No relabelling: the components' parameters are known, so their numbers mean something."
    return _picture(
        lambda: plots.assignments(comparison.results[name], comparison.model, comparison.x, name, comparison.data),
        f"Assignment probabilities of the {comparison.data['N']:,} observations by {name}, and the matrix of the "
        "probabilities that two observations share a component.",
        f"Bars or curves: how the probability of each observation is shared among the components. {used} Matrix: the "
        "probability that two observations belong together, whatever the components are called.",
    )


def _cost_picture(comparison) -> Picture | None:
    return _picture(
        lambda: plots.costs(comparison),
        "Seconds against the largest error of a posterior mean, and effective draws per second.",
        "Seconds, compiling included, against the largest distance of a posterior mean from the reference, in the "
        "reference's standard deviations; an open mark is a back end that is not usable. A single best point is not a "
        "mean, so it stays away from the reference however long it runs. Speed: how many independent draws a second "
        "of running is worth.",
    )


# -- what was asked -----------------------------------------------------------------------------------------------


def _maths(model) -> list[str]:
    """The declaration with its constants as built, where it can be read off."""
    try:
        from diagnostics.describe import maths

        prior, observation = maths(model)
    except Exception:  # reading a stranger's declaration is a courtesy
        return []
    return [*prior, *observation]


def _starts(comparison) -> list[str]:
    """Where the chains began, where EM can climb from there."""
    try:
        return starts.sentences(comparison)
    except Exception as error:  # must not cost the reader the report
        return [f"Where the chains began is not known: EM from their starts failed ({type(error).__name__}: {error})."]


def _graph(model, num_observations) -> list[str]:
    """Sites, plates and parents as text, where they can be found."""
    try:
        from diagnostics.graph import graph, lines

        return lines(graph(model), model.num_components, num_observations)
    except Exception:  # as of `_maths`
        return []


def _reading(data, scales) -> list[str]:
    """The options that read a user's file as it was read; `scales` are those of the model's own data."""
    is_file = pathlib.PurePath(data["source"]).stem == data["name"]
    words = [f"--data {shlex.quote(data['source']) if is_file else 'FILE.csv'}"]
    if data["columns"]:
        words.append(f"--column {shlex.quote(','.join(data['columns']))}")
    if data["variant"].startswith(PER_UNIT):
        words.append(f"--frequency {shlex.quote(data['variant'].removeprefix(PER_UNIT))}")
    taken = [(one["mean"], one["sd"]) for one in data["standardized"].values()]
    if taken != list(scales.values()):
        words.append("--standardize" if taken else "--no-standardize")
    units = data["units"].removeprefix("standardised").removeprefix(", from ") if taken else data["units"]
    if units:
        words.append(f"--units {shlex.quote(units)}")
    return words


def command(comparison) -> str:
    """The command line that repeats the comparison."""
    from zoo import catalogue

    base, _, constants = comparison.model.name.partition("[")
    known = base in catalogue()
    words = ["zoo compare", base if known else "--model FILE.py:NAME"]
    for part in re.split(r",(?![^(\[]*[)\]])", constants.removesuffix("]")) if constants else ():
        name, _, value = part.partition("=")
        value = value.replace("(", "[").replace(",)", "]").replace(")", "]")
        words.append(f"--set {name}={value}")
    if comparison.data.get("sha256") != getattr(comparison.model.data, "sha256", None):
        words += _reading(comparison.data, comparison.model.scales)
    ran = [name for name, entry in comparison.backends.items() if entry["status"] != "refused"]
    if list(comparison.backends) != [name for name, (_, _, default) in inference.TABLE.items() if default]:
        words.append(f"--backends {','.join(ran)}")
    words.append(f"--seed {comparison.seed}")
    changed = _changed(comparison.settings)
    for option, flag in COMMON.items():
        values = {name: s[option] for name, s in comparison.settings.items() if option in s}
        different = {name for name in values if (name, option) in changed}
        if different and different == set(values) and len(set(values.values())) == 1:
            words.append(f"{flag} {next(iter(values.values()))}")
            changed = {key: value for key, value in changed.items() if key[1] != option}
    words += [f"--option {name}.{option}={_toml(value)}" for (name, option), value in changed.items()]
    if comparison.precision == "float32":
        words.append("--precision float32")
    return " ".join([*words, "--out out"])


def _changed(settings) -> dict[tuple[str, str], Any]:
    """(back end, option) -> value, where it is not the default."""
    found: dict[tuple[str, str], Any] = {}
    for name, options in settings.items():
        try:
            defaults = full_settings(name, {})
        except (KeyError, ImportError):
            continue
        found |= {(name, option): v for option, v in options.items() if defaults.get(option) != v}
    return found


def _toml(value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"'\"{value}\"'" if isinstance(value, str) else str(value)


def _settings(given) -> list[str]:
    return [f"{name} = {_setting(value)}" for name, value in given.items()]


def _setting(value) -> str:
    return _toml(value) if isinstance(value, bool) else "none" if value is None else str(value)
