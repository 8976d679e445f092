"""The report of hand-made back ends, whose verdicts are known beforehand, held to what a reader is promised."""

import dataclasses
import html.parser
import importlib
import re
import shlex
import sys
import types

import numpy as np
import pytest

import inference
from diagnostics import arguments, cli, pictures, plots, report, report_tables
from diagnostics.compare import Reference, compare
from inference.results import Cost, Draws, Exact, PointMass
from zoo import dataset
from zoo.models.bento import bento, bento_known
from zoo.models.coffee import coffee

MEANS, SDS = np.array([350.25994801, 499.98666844]), np.array([0.70703608, 0.57731178])
COST = Cost(1.0, 2.0, 100, 0, 1000)
REFUSAL = "2**99 assignments are too many <for> anyone"


def chains(rng, shift=0.0, apart=0.0):
    """Independent draws of bento's posterior in random labels; the lower mean moved by `shift`, or by chain, in sds."""
    means = MEANS + SDS * rng.standard_normal((4, 1000, 2))
    means[..., 0] += SDS[0] * (shift + apart * np.arange(4)[:, None])
    flip = rng.random((4, 1000)) < 0.5
    means = np.where(flip[..., None], means[..., ::-1], means)
    x = np.asarray(bento().data.x)
    z = np.abs(x[:, None] - means[..., None, :]).argmin(axis=-1).astype(np.int32)
    return Draws(params={"means": means}, assignments=z, cost=COST)


def grid():
    """The posterior as weighted nodes, in both labellings."""
    a, b = (g.ravel() for g in np.meshgrid(*[np.linspace(-6, 6, 49)] * 2, indexing="ij"))
    means = MEANS + SDS * np.stack([a, b], axis=-1)
    nodes = {"means": np.concatenate([means, means[:, ::-1]])}
    log_weights = np.tile(-0.5 * (a**2 + b**2), 2)
    log_weights -= np.logaddexp.reduce(log_weights)
    return Exact(-65.31374998980641, 1e-12, COST, nodes=nodes, log_weights=log_weights, missed_mass=3e-13)


def collapsed(rng):
    """Weighted draws of which one has all the weight."""
    means = MEANS + 5 * SDS * rng.standard_normal((1, 500, 2))
    log_weights = 1000.0 * rng.standard_normal((1, 500))
    return Draws({"means": means}, None, COST, log_weights=log_weights, log_evidence=-900.0, log_evidence_se=1.0)


def point():
    means = np.array([[350.25990, 499.98668], [350.0, 350.0]])
    densities = np.array([float(bento().log_density({"means": m}, bento().data.x)) for m in means])
    yes = np.array([True, True])
    ended = np.array(["converged", "converged"])
    return PointMass({"means": means}, densities, np.array([5, 9]), yes, yes, np.zeros(2), COST, ended=ended)


def everything():
    rng = np.random.default_rng(0)
    return {
        "enumeration": ("exact", REFUSAL),
        "quadrature": ("exact", grid()),
        "good": ("mcmc", chains(rng)),
        "shifted": ("mcmc", chains(rng, shift=0.5)),
        "stuck": ("mcmc", chains(rng, apart=1.0)),
        "em": ("point", point()),
        "weights": ("weighted", collapsed(rng)),
        "broken": ("mcmc", RuntimeError("out of <b>luck</b>")),
    }


def returning(outcome):
    def run(model, x, key, *, num_draws=10, progress=None):
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return run


def made(fakes, model=None, **settings):
    """The real comparison of hand-made back ends: name -> (kind, result or exception or refusal)."""
    with pytest.MonkeyPatch.context() as patch:
        table = {}
        for name, (kind, outcome) in fakes.items():
            module = types.ModuleType(f"fake_{name}")
            setattr(module, name, returning(outcome))
            module.refuses = lambda model, x, outcome=outcome: outcome if isinstance(outcome, str) else None
            patch.setitem(sys.modules, module.__name__, module)
            table[name] = (module.__name__, kind, True)
        patch.setattr(inference, "TABLE", table)
        return compare(model or bento(), **settings)


@pytest.fixture(scope="module")
def comparison():
    return made(everything())


@pytest.fixture(scope="module")
def page(comparison):
    return report.render(comparison)


class Reader(html.parser.HTMLParser):
    """What a browser sees: text, tags with their attributes, and whether every tag is closed in its turn."""

    VOID = {"meta", "link", "img", "br"}

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.open, self.wrong, self.words = [], [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


def verdict_of(page, name):
    """The line of one back end in the list at the top, as text."""
    lines = re.findall(r"<li><span class=\"name\">.*?</li>", page, re.S)
    (line,) = [text for text in (Reader(line).text.strip() for line in lines) if text.startswith(name)]
    return line


# -- the verdict --------------------------------------------------------------------------------------------------


def test_every_back_end_is_named_with_its_verdict_in_words(page):
    assert verdict_of(page, "good").startswith("good agrees Every quantity compared is within 0.3 posterior standard")
    assert "disagrees Its answer differs from quadrature by more than chance" in verdict_of(page, "shifted")
    assert "sorted_means[0]" in verdict_of(page, "shifted")
    assert "not mixed Its chains have not settled" in verdict_of(page, "stuck")
    assert "reference The others are held against this one" in verdict_of(page, "quadrature")
    assert "at the optimum The best of its restarts, and nothing known is higher" in verdict_of(page, "em")
    assert "not usable Nearly all of its weight lies on a few draws" in verdict_of(page, "weights")


def test_refused_and_failed_back_ends_say_why(page):
    assert verdict_of(page, "enumeration") == f"enumeration refused Did not run: {REFUSAL}."
    assert verdict_of(page, "broken") == "broken failed Broke off: RuntimeError: out of <b>luck</b>."


def test_the_headline_counts_every_back_end_once(page, comparison):
    said = Reader(re.search(r"<p class=\"headline\">(.*?)</p>", page, re.S)[1]).text
    assert said.startswith(
        "One back end agrees with quadrature, which is exact: good. One disagrees with quadrature: s"
    )
    others = set(comparison.backends) - {"quadrature"}
    assert {name for name in others if len(re.findall(rf"\b{name}\b", said)) == 1} == others


def test_a_cell_is_marked_exactly_where_the_verdict_counts_a_difference(page, comparison):
    assert "disagrees with quadrature in" in comparison.backends["shifted"]["verdict"]
    matrix = report_tables.matrix(comparison)
    column = matrix["names"].index("shifted")
    marked = {line["functional"]: line["cells"][column]["off"] for _, group in matrix["groups"] for line in group}
    assert marked["sorted_means[0]"] == "mean differs" and marked["sorted_means[1]"] == ""
    good = matrix["names"].index("good")
    assert not any(line["cells"][good]["off"] for _, group in matrix["groups"] for line in group)
    assert 'class="off"' in page


# -- the page -----------------------------------------------------------------------------------------------------


def test_nothing_is_loaded_from_elsewhere_and_nothing_runs(page):
    seen = Reader(page)
    links = [value for _, attributes in seen.tags for key, value in attributes.items() if key in ("src", "href")]
    assert len(links) > 5 and all(link.startswith(("data:", "#")) for link in links)
    assert not re.search(r"https?:|@import|url\(", re.sub(r"data:image/png;base64,[\w+/=]+", "", page))
    assert "script" not in {tag for tag, _ in seen.tags}
    assert not [key for _, attributes in seen.tags for key in attributes if key.startswith("on")]


def test_the_page_is_well_formed_with_headings_in_order_and_every_picture_described(page):
    seen = Reader(page)
    assert seen.wrong == [] and seen.open == []
    levels = [int(tag[1]) for tag, _ in seen.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and max(np.diff(levels)) <= 1
    pictures = [attributes for tag, attributes in seen.tags if tag == "img"]
    assert len(pictures) == 8  # two of the fit, intervals, assignments, three chains, cost
    assert all(len(picture["alt"]) > 20 for picture in pictures)
    assert dict(seen.tags)["html"]["lang"] == "en" and len(page) < 2e6


def test_missing_numbers_are_dashes_and_never_nan_none_or_inf(page):
    words = set(re.findall(r"[\w.]+", Reader(page).text))
    assert not words & {"nan", "NaN", "None", "inf", "Infinity", "null"}
    rows = {line["name"]: line["cells"] for line in report_lines(page, "sorted_means[0]")}
    assert rows["em"][1:] == ["–"] * 8 and rows["good"][1] != "–"


def report_lines(page, functional):
    """The lines of one functional in the table of all figures."""
    (block,) = [b for b in re.findall(r"<tbody class=\"group\">.*?</tbody>", page, re.S) if f">{functional}<" in b]
    for line in re.findall(r"<tr.*?</tr>", block, re.S):
        cells = [Reader(cell).text.strip() for cell in re.findall(r"<td.*?</td>", line, re.S)]
        yield {"name": cells[0], "cells": cells[1:]}


def test_model_data_checksum_seed_settings_and_versions_are_all_there(page, comparison):
    text = Reader(page).text
    for part in ("Mystery bentos, means unknown", comparison.data["sha256"], "num_draws = 10", "N = 20"):
        assert part in text
    assert "means ~ Normal(loc=[400, 400], scale=50)" in text and "−65.31374998981" in text
    assert all(
        f"{name}\xa0{version}" in page or f"{name}&nbsp;{version}" in page
        for name, version in comparison.versions.items()
    )


def test_a_hostile_title_reason_and_name_are_escaped(comparison):
    model = dataclasses.replace(
        comparison.model, title="<script>alert(1)</script>", description="</pre><img src=x onerror=alert(2)>"
    )
    entries = {name: {**entry} for name, entry in comparison.backends.items()}
    entries["broken"]["reason"] = '"><svg onload=alert(3)>'
    entries["good"]["warnings"] = ["<iframe src=javascript:alert(4)>"]
    data = {**comparison.data, "name": "<b>data</b>"}
    page = report.render(dataclasses.replace(comparison, model=model, backends=entries, data=data))
    seen = Reader(page)
    assert not {"script", "svg", "iframe", "b"} & {tag for tag, _ in seen.tags}
    assert "<script>alert(1)</script>" in seen.text and "<iframe src=javascript:alert(4)>" in seen.text
    assert seen.wrong == [] and seen.open == []


def test_write_leaves_one_file_that_says_the_same(comparison, page, tmp_path):
    path = report.write(comparison, tmp_path / "report.html")
    assert path == tmp_path / "report.html" and [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert Reader(path.read_text(encoding="utf-8")).text == Reader(page).text


def test_a_users_file_is_described_and_the_command_reads_it_as_it_was_read(tmp_path):
    (tmp_path / "lunch.csv").write_text("kilos,times,kind\n0.35,3,a\n0.5,4,b\n")
    data = dataset.read(tmp_path / "lunch.csv", ("kilos",), frequency="times", standardize=True)
    found = compare(bento(), ["enumeration"], data)
    args = cli.parse(shlex.split(report.command(found))[1:])
    assert (args.data, args.column, args.frequency, args.standardize) == ("lunch.csv", "kilos", "times", True)
    assert "standardize" not in report.command(compare(bento(), ["enumeration"], bento().data.x[:5]))
    text = Reader(report.render(found)).text
    assert "lunch (a row per unit of times), N = 7, D = 1; kilos (standardised)" in text
    assert "kilos: mean 0.435714, standard deviation 0.0742307" in text
    assert "weight (g)" not in text


def test_axes_are_named_after_the_data_shown_not_the_models_own():
    model = bento()
    assert pictures.quantity(pictures.known(model, model.data.x)) == "weight (g)"
    assert pictures.quantity(pictures.known(model, model.data.x + 1)) == "x"
    galaxy = {"columns": ["velocity"], "units": "1000 km/s"}
    assert pictures.quantity(galaxy) == "velocity (1000 km/s)"
    assert pictures.height(model, galaxy) == "density (per 1000 km/s)"
    assert pictures.height(model, {"columns": ["a"], "units": "standardised"}) == "density"


# -- any subset of back ends --------------------------------------------------------------------------------------


def read(fakes, model=None, **settings):
    seen = Reader(report.render(made(fakes, model, **settings)))
    assert seen.wrong == [] and not set(re.findall(r"[\w.]+", seen.text)) & {"nan", "NaN", "None", "inf"}
    return seen


def test_only_refused_back_ends():
    seen = read({"enumeration": ("exact", REFUSAL), "quadrature": ("exact", "no unknown parameter")}, reference="none")
    assert "Two back ends do not serve this model: enumeration and quadrature." in seen.text
    assert "There is no reference" in seen.text and "img" not in {tag for tag, _ in seen.tags}


def test_only_failed_back_ends():
    assert "One back end failed: good." in read({"good": ("mcmc", ValueError("no luck"))}).text


def test_without_a_reference_nothing_is_said_to_agree():
    rng = np.random.default_rng(1)
    seen = read({"one": ("mcmc", chains(rng)), "two": ("mcmc", chains(rng))}, reference="none")
    assert "Two back ends ran, with no reference to hold them against: one and two." in seen.text
    assert "agrees" not in seen.text and "standard deviations of the reference" not in seen.text


def test_only_weighted_draws():
    seen = read({"weights": ("weighted", collapsed(np.random.default_rng(2)))})
    assert "One back end is not usable: weights." in seen.text


@pytest.mark.parametrize("converged", [True, False])
def test_a_point_that_is_not_usable_has_a_reason_of_its_own(converged):
    no = np.array([False, False])
    said = read(
        {"em": ("point", point()._replace(admissible=no, converged=~no if converged else no))}, reference="none"
    )
    assert "No restart ended at an optimum that can be believed" in said.text and "uneven" not in said.text


def test_draws_that_are_not_finite_and_single_chains_say_so():
    rng = np.random.default_rng(1)
    broken, single = chains(rng), chains(rng)
    broken.params["means"][0, 0] = np.nan
    single = Draws({"means": single.params["means"][:1]}, single.assignments[:1], COST)
    page = report.render(made({"quadrature": ("exact", grid()), "a": ("mcmc", broken), "b": ("mcmc", single)}))
    assert "not mixed Some of its draws are not finite numbers" in verdict_of(page, "a")
    assert "not mixed One chain, or a few draws, cannot show" in verdict_of(page, "b")
    assert "agrees with quadrature, which is exact: a" not in page


def test_a_point_has_no_largest_error_of_a_mean_in_the_table_of_costs(comparison):
    error = {line["name"]: line["error"] for line in report_tables.costs(comparison)}
    assert error["em"] == "–" and error["good"] != "–"


def test_the_restarts_of_a_point_are_listed_with_how_they_ended(comparison, page):
    same = np.repeat(point().log_density[0], 25)
    many = point()._replace(
        log_density=np.r_[same, -900.0 - np.arange(30)],
        num_steps=np.arange(55),
        gradient_norm=np.full(55, 1e-9),
        ended=np.array(["converged"] * 25 + ["below the floor"] * 30),
    )
    lines = report_tables.restarts(types.SimpleNamespace(results={"em": many, "good": comparison.results["good"]}))
    assert list(lines) == ["em"] and len(lines["em"]) == 20
    assert lines["em"][0] == ("converged", f"{same[0]:.6f}", "25", "0-24", "1.0e-09")
    assert lines["em"][1] == ("below the floor", "-900.000000", "1", "25-25", "1.0e-09")
    assert "Where the restarts of em ended" in page and "restarts of good" not in page


def test_only_a_point():
    said = read({"em": ("point", point())}, reference="none").text
    assert "One back end ran, with no reference to hold it against: em." in said and "best point known:" not in said


def test_a_model_without_parameters():
    z = np.tile((np.asarray(bento_known().data.x) < 425).astype(np.int32), (4, 100, 1))
    exact = Exact(-54.9, 0.0, COST, draws=Draws({}, z, COST))
    seen = read({"enumeration": ("exact", exact), "gibbs": ("mcmc", Draws({}, z, COST))}, bento_known())
    assert "One back end agrees with enumeration, which is exact: gibbs." in seen.text
    assert "No relabelling: the components' parameters are known" in seen.text


def test_a_picture_that_cannot_be_drawn_costs_no_numbers(comparison, monkeypatch):
    def broken(*args):
        raise ZeroDivisionError("no <i>ink</i>")

    monkeypatch.setattr(plots, "intervals", broken)
    page = report.render(comparison)
    assert "This picture could not be drawn: ZeroDivisionError: no &lt;i&gt;ink&lt;/i&gt;" in page
    assert verdict_of(page, "good") and 'id="comparison"' in page


def test_masses_and_shares_of_labellings_stand_side_by_side_where_labels_mean_something(comparison):
    masses = {"reference": {(0, 1, 2): 0.9559399, (0, 2, 1): 1.2e-5}, "good": {(0, 1, 2): 0.95, (0, 2, 1): 0.0}}
    shares = {"good": {(0, 1, 2): (0.75, 0.02), (0, 2, 1): (0.0, None)}}
    changed = dataclasses.replace(comparison, model=coffee(), labellings=masses, labelling_shares=shares)
    assert report_tables.labellings(changed) == {
        "columns": [("reference", "mass"), ("good", "mass"), ("good", "share")],
        "rows": [
            ("0 < 1 < 2", ["0.9559", "0.9500", "0.750 ± 0.020"]),
            ("0 < 2 < 1", ["1.2\xa0×\xa010⁻⁵", "0", "0"]),
        ],
    }
    assert report_tables.labellings(comparison) is None


# -- numbers and the command --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (350.25994801, 0.016, "350.260"),
        (350.25994801, 0.16, "350.26"),
        (-67.94872, 0.013, "−67.949"),
        (5608.731, 1.1, "5608.7"),
        (123456.0, 1300.0, "123,500"),
        (-0.0001, 0.16, "0.00"),
        (0.0, None, "0"),
        (1.0, None, "1"),
        (7.2e-31, None, "7.2\xa0×\xa010⁻³¹"),
        (None, 0.1, "–"),
        (float("nan"), None, "–"),
    ],
)
def test_numbers_are_rounded_to_two_figures_of_their_error(value, error, shown):
    assert report.number(value, error) == shown


def test_the_command_names_data_called_as_the_models_own_and_the_precision(comparison):
    other = comparison.data | {"sha256": "0" * 64, "source": "bento.csv", "name": "bento", "columns": ["kg"]}
    changed = dataclasses.replace(comparison, model=bento(), data=other, precision="float32")
    args = cli.parse(shlex.split(report.command(changed))[1:])
    assert (args.data, args.column, args.precision) == ("bento.csv", "kg", "float32")
    own = dataclasses.replace(comparison, model=bento(), data=comparison.data | {"sha256": bento().data.sha256})
    assert "--data" not in report.command(own) and "--precision" not in report.command(own)


@pytest.mark.parametrize("constants", [{}, {"scale": 25.0}, {"weights": (0.6, 0.4), "prior_mean": 410.0}])
def test_the_command_names_the_very_model_and_settings(comparison, constants):
    full_settings = importlib.import_module("diagnostics.compare").full_settings
    settings = {
        "gibbs": full_settings("gibbs", {"num_draws": 200, "permute": False}),
        "nuts": full_settings("nuts", {"num_draws": 200}),
    }
    entries = {name: comparison.backends["good"] for name in settings}
    changed = dataclasses.replace(comparison, model=bento(**constants), settings=settings, backends=entries, seed=7)
    args = cli.parse(shlex.split(report.command(changed))[1:])
    assert bento(**arguments.constants_of(args)).name == bento(**constants).name
    assert (args.seed, args.draws, args.backends) == (7, 200, "gibbs,nuts")
    assert arguments.settings_of(args) == {"gibbs": {"permute": False}}


# -- pictures -----------------------------------------------------------------------------------------------------


def test_assignment_probabilities_are_of_sorted_components_and_never_one_over_k(comparison):
    x, model = comparison.x, comparison.model
    params = pictures.equal_weight(comparison.results["good"])
    lowest_first = (params["means"][0, :, 0] < params["means"][0, :, 1]).mean()
    assert 0.4 < lowest_first < 0.6  # the draws themselves do switch labels
    r = pictures.sorted_tables(model, params, x, "responsibilities").mean(axis=0)
    np.testing.assert_allclose(r[:, 0], np.asarray(x) < 425, atol=1e-9)


def test_equal_weight_draws_of_nodes_have_the_mean_and_spread_of_the_posterior(comparison):
    drawn = np.sort(pictures.equal_weight(comparison.results["quadrature"], 2000)["means"][0], axis=1)
    np.testing.assert_allclose(drawn.mean(axis=0), MEANS, atol=4 * SDS.max() / np.sqrt(2000))
    np.testing.assert_allclose(drawn.std(axis=0), SDS, rtol=4 / np.sqrt(2 * 2000))


def test_the_drawn_density_integrates_to_one_and_the_empty_stretch_is_cut_out(comparison):
    fit = pictures.fit(comparison.results["good"], comparison.model, comparison.x)
    mass = fit.curves.sum(axis=-1).mean(axis=0).sum() * (fit.grid[1] - fit.grid[0])
    assert abs(mass - 1) < 1e-3
    assert len(fit.segments) == 2 and fit.segments[0][1] < 400 < 450 < fit.segments[1][0]


def test_without_a_reference_differences_are_measured_by_the_first_usable_back_end(comparison):
    rows = [row for row in comparison.rows if row["backend"] in ("weights", "em", "good")]
    none = dataclasses.replace(comparison, reference=Reference("none", "no reference", {}), rows=rows)
    source, ruler = plots.ruler_of(none)
    assert source == "good" and "sorted_means[0]" in ruler and "co_clustering[3,6]" not in ruler


def test_draws_that_agree_with_an_evidence_that_does_not_are_no_agreement():
    verdict = "8 independent runs; agrees with quadrature (to within 0.3 sd) on 28 functionals; log evidence "
    entry = {"status": "ok", "kind": "weighted", "usable": True}
    assert report._word(entry, verdict + "-65.3 +- 0.03 (reference -65.3) is right within its error", False) == "agrees"
    off = verdict + "-64.6 +- 0.03 (reference -65.3) is off by more than 4 standard errors"
    assert report._word(entry, off, False) == "disagrees"
