"""The report: its numbers are the manifest's and the search's, it stands alone, and hostile names stay text."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from quadmix.search.result import JOINT, ConstraintFact, KlFact
from quadmix.stages import figures
from quadmix.stages.diversity.facts import DiversityFacts
from quadmix.stages.report import _constraints
from tests.e2e.command_line import quadmix
from tests.e2e.scored_pool import DOMAINS, scored_config, theta, write_scored_pool
from tests.e2e.small_pool import write_config
from tests.e2e.whole_run import WholeRun
from tests.stages.inline_engine import InlineEngine

HOSTILE = (
    "<script>alert(1)</script>",
    '"onload="alert(1)" x=\'',
    "$x^2$ & $\\frac{",
    "_hidden",
    "語 ✓ ‮reversed",
    "long " + "x" * 250,
    "</svg></figure><img src=https://example.org/a.png>",
)


class Page(HTMLParser):
    """Tables by section, and everything in the page that could fetch something or run."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: dict[str, list[list[str]]] = {}
        self.tags: list[str] = []
        self.links: list[str] = []
        self.section = ""
        self.cell = False
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.tags.append(tag)
        self.links += [
            value or "" for name, value in attributes
            if name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster") or name.startswith("on")
        ]  # fmt: skip
        self.links += re.findall(r"url\(([^)]*)\)", " ".join(value or "" for value in values.values()))
        if tag == "h2":
            self.section = values["id"] or ""
            self.rows[self.section] = []
        elif tag == "tr" and self.section:
            self.rows[self.section].append([])
        self.cell = tag in ("td", "th")
        if self.cell:
            self.rows[self.section][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.cell = False

    def handle_data(self, data: str) -> None:
        if self.cell:
            self.rows[self.section][-1][-1] += data


def stands_alone(html: str) -> Page:
    """The page, after making sure that nothing in it reaches outside or runs."""
    page = Page(html)
    # heat maps are pictures of their own inside the SVG: held in the page as data
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links), page.links
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert "@import" not in html
    return page


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quadmix.cli.make_engine", lambda config, progress: InlineEngine())


def report_of(base: Path, domains: tuple[str, ...], **changes: object) -> str:
    write_scored_pool(base / "pool", docs=60 * len(domains), domains=domains)
    config = scored_config(base / "pool", base / "out", **changes)
    config["pool"]["unit_bytes"] = "1MiB"
    done = quadmix("run", write_config(base / "run.yaml", config))
    assert done.code == 0, done.err
    return (base / "out" / "report.html").read_text(encoding="utf-8")


def test_it_needs_nothing_from_outside(whole_run: WholeRun) -> None:
    stands_alone(whole_run.html)


def test_the_tables_hold_the_manifests_numbers(whole_run: WholeRun) -> None:
    manifest, page = whole_run.manifest, stands_alone(whole_run.html)
    rows = {row[0]: row for row in page.rows["budget"][1:]}
    for name, share in manifest.domains.items():
        assert rows[name][2] == f"{share.realised:,}"
        assert rows[name][4:6] == [f"{share.documents:,}", f"{share.copies:,}"]
    assert rows["all"][1:3] == [f"{manifest.requested_tokens:,}", f"{manifest.realised_tokens:,}"]
    assert int(rows["all"][3].replace("−", "-")) == manifest.realised_tokens - manifest.requested_tokens
    shares = {row[0]: row for row in page.rows["domains"][1:]}
    for name, share in manifest.domains.items():
        assert shares[name][1] == f"{share.available:,}"
        assert shares[name][-1] == f"{100 * share.realised / manifest.realised_tokens:.1f} %"
    quarantine = {row[0]: row[1] for row in page.rows["quarantine"]}
    assert quarantine["DUP_ID_SAME"] == quarantine["EMPTY_TEXT"] == "1"
    assert manifest.digest[:16] in whole_run.html


def test_the_tables_hold_the_searchs_numbers(whole_run: WholeRun) -> None:
    search, page = whole_run.search, stands_alone(whole_run.html)
    regression = {row[0]: row for row in page.rows["regression"][1:4]}
    for name in (JOINT, *search.targets):
        found = search.cross_validation.scores[name]
        assert float(regression[name][1].replace("−", "-")) == pytest.approx(found.spearman, abs=6e-4)
        assert float(regression[name][3]) == pytest.approx(found.mae, abs=6e-4)
    confirmed = {row[0]: row for row in page.rows["confirmation"][1 : 1 + len(search.confirmation.mixtures)]}
    for mixture in search.confirmation.mixtures:
        for cell, name in zip(confirmed[mixture.name][1:], (JOINT, *search.targets), strict=False):
            interval = mixture.loss[name]
            assert cell == f"{interval.mean:.3f} ± {interval.half_width:.3f}"
    assert search.confirmation.verdict in whole_run.html


def test_every_domain_has_its_curve_and_the_pictures_are_text(whole_run: WholeRun) -> None:
    svgs = re.findall(r"<svg.*?</svg>", whole_run.html, re.S)
    assert len(svgs) == 8
    for name in whole_run.manifest.domains:
        assert sum(name in svg for svg in svgs) >= 3  # shares, curves, weights


def test_the_front_over_targets_is_drawn_and_listed(whole_run: WholeRun) -> None:
    search, page = whole_run.search, stands_alone(whole_run.html)
    targets = list(search.targets)
    assert page.rows["pareto"][0][1:3] == targets
    listed = [tuple(row[1:3]) for row in page.rows["pareto"][1:]]
    assert listed == [tuple(f"{point.predicted[name]:.3f}" for name in targets) for point in search.pareto]


def test_constraints_of_a_search_are_listed_with_their_prices(whole_run: WholeRun) -> None:
    facts = [
        ConstraintFact("max_share.a", "a", 0.2, 1000.0, 0.2, True, 0.0123),
        ConstraintFact("min_share.b", "b", 0.1, 500.0, 0.3, False, None),
    ]
    section = _constraints(replace(whole_run.search, constraints=facts, prices="screened again"))
    assert section.tables[0].rows == (
        ("max_share.a", "0.2", "1,000", "20.00 %", "binds", "+0.0123"),
        ("min_share.b", "0.1", "500", "30.00 %", "–", "–"),
    )
    assert section.text.endswith("screened again.")
    told = _constraints(replace(whole_run.search, constraints=[], kl=KlFact(0.05, 0.31, 0.0155, 0.0021)))
    assert "0.310 nats (KL) from the natural ones; without the penalty of weight 0.05" in told.text
    assert "changes by −0.0021 nats" in told.text


def test_diversity_is_shown_beside_random_selections(whole_run: WholeRun) -> None:
    page = stands_alone(whole_run.html)
    facts = DiversityFacts.from_json(
        json.loads(next(whole_run.output.glob("stages/diversity-*/diversity.json")).read_bytes())
    )
    rows = {row[0]: row for row in page.rows["diversity"]}
    assert rows[""][1:] == [whole_run.manifest.selector, "random selections, 95 %", "than random"]
    assert len(rows) - 1 == len(facts.measures()) >= 9
    for measure in facts.measures():
        found, band = facts.selections[0].found[measure.name], facts.random.found[measure.name]
        shown = [cell.replace("−", "-") for cell in rows[measure.title][1:3]]
        assert shown[0] == f"{found.mean:.{measure.digits}f} ± {found.half_width:.{measure.digits}f}"
        assert shown[1] == f"{band.low:.{measure.digits}f} to {band.high:.{measure.digits}f}"
    picture = next(svg for svg in re.findall(r"<svg.*?</svg>", whole_run.html, re.S) if 'id="band"' in svg)
    assert whole_run.manifest.selector in picture
    assert "NovelSum" in picture


@pytest.mark.parametrize("mixture", ["natural", "uniform", "topk"])
def test_a_mixture_without_a_search_has_a_report(tmp_path: Path, inline: None, mixture: str) -> None:
    select = {"mixture": mixture, **({"criterion": "score"} if mixture == "topk" else {})}
    page = stands_alone(report_of(tmp_path, DOMAINS, select=select))
    assert list(page.rows) == ["domains", "budget", "repeats", "quarantine"]
    asked = {row[1] for row in page.rows["budget"][1:4]}
    assert ("–" in asked) == (mixture != "uniform")


def test_hostile_domain_names_stay_text(tmp_path: Path, inline: None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        html = report_of(tmp_path, HOSTILE, select={"mixture": "theta", "theta": theta(HOSTILE)})
    page = stands_alone(html)
    for section in ("domains", "budget"):
        assert {row[0] for row in page.rows[section][1:]} - {"all"} == set(HOSTILE)
    assert "$x^2$ &amp; $\\frac{" in html  # in the pictures too: dollars are no mathematics
    assert "alert(1)</script>" not in html


def test_sixty_domains_stay_legible() -> None:
    names = [f"domain number {number:02d}" for number in range(60)]
    values = list(np.linspace(1e3, 1e6, 60))
    shares = figures.domain_shares(names, {"natural": values, "proposed": values[::-1], "realised": values})
    ranks = np.linspace(0, 1, 11)
    curves = figures.sampling_curves(dict.fromkeys(names, (ranks, 1 - ranks, 0.5)))
    weights = figures.merge_weights(names, ["a", "b"], np.full((60, 2), 0.5))
    for svg, least in ((shares, 10), (curves, 70), (weights, 10)):
        height = float(re.search(r'height="([\d.]+)pt"', svg)[1])  # type: ignore[index]
        assert least * 60 / (6 if svg is curves else 1) <= height <= 72 * 25
        assert "Glyph" not in svg
    sizes = {float(size) for size in re.findall(r"font-size: ([\d.]+)px", shares + curves + weights)}
    assert min(sizes) >= 6
    for name in names:
        assert name in shares
        assert name in weights


def test_pictures_have_the_same_bytes_every_time() -> None:
    draw = [figures.domain_shares(["a", "b"], {"natural": [1.0, 2.0], "realised": [2.0, 1.0]}) for _ in range(2)]
    assert draw[0] == draw[1]
    assert "dc:date" not in draw[0]


def test_many_kinds_of_copies_share_a_last_bar() -> None:
    svg = figures.repeats(dict.fromkeys(range(1, 500), 2))
    assert "10 or more" in svg
    assert ">980<" in svg


def open_in_browser(file: Path, work: Path) -> tuple[str, set[str]]:
    """The DOM that Chromium made of a page, and the hosts that anything in it was asked of (browser's own aside)."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium here: install it (Debian: apt-get install chromium) to open the report in a browser")
    work.mkdir()
    done = subprocess.run(
        [
            chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={work / 'profile'}",
            f"--log-net-log={work / 'net.json'}", "--dump-dom", file.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    log = (work / "net.json").read_text(encoding="utf-8", errors="replace")
    hosts = set(re.findall(r'"url":"(?:https?|wss?)://([^/":]+)', log))
    return done.stdout, {host for host in hosts if not re.search(r"(^|\.)(google|googleapis|gvt1)\.com$", host)}


@pytest.mark.browser
def test_a_browser_shows_it_without_asking_the_network(whole_run: WholeRun, tmp_path: Path) -> None:
    dom, hosts = open_in_browser(whole_run.output / "report.html", tmp_path / "report")
    assert hosts == set()
    assert "<title>QuaDMix: 150K tokens" in dom
    assert dom.count("<svg") == 8
    assert Page(dom).tags.count("table") == whole_run.html.count("<table")


@pytest.mark.browser
def test_the_browsers_log_would_show_a_request(tmp_path: Path) -> None:
    """The control of the test above."""
    page = tmp_path / "page.html"
    page.write_text('<img src="http://pictures.example.org/a.png">')
    assert open_in_browser(page, tmp_path / "control")[1] == {"pictures.example.org"}


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(999_865, "1M"), (999_499, "999K"), (1_234_567, "1.23M"), (999.6, "1K"), (12, "12"), (-2e9, "-2B"), (0, "0")],
)
def test_numbers_in_short_have_three_figures(value: float, wanted: str) -> None:
    assert figures.short(value) == wanted
