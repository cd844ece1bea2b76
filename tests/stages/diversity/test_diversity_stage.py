"""The stage on real text: a natural selection is like random ones, planted copies are not, and what cannot be measured
is refused in words."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quadmix.config import DiversityConfig, RunConfig
from quadmix.config_reader import check_config
from quadmix.errors import ConfigError, InputError
from quadmix.progress import Progress
from quadmix.stages.annotate import Annotated
from quadmix.stages.diversity.facts import MEASURES, DiversityFacts, Found, NothingToMeasure
from quadmix.stages.diversity.measuring import Selection, measure_diversity
from quadmix.stages.diversity.sections import diversity_picture, diversity_section
from quadmix.stages.pipeline import Pipeline
from tests.e2e.command_line import quadmix
from tests.e2e.scored_pool import scored_config, write_scored_pool
from tests.e2e.small_pool import config, documents, write_config, write_shards
from tests.stages.inline_engine import InlineEngine

ASKED = DiversityConfig(sample_docs=60, repeats=4)
BUDGET = 60_000


def values(pool: Path, output: Path, **changes: Any) -> dict[str, Any]:
    whole = config(pool, output)
    del whole["search"]
    whole["annotate"] = {
        "scorers": [{"kind": "heuristics"}], "clusters": {"kind": "embeddings", "k": 6, "embedder": {"kind": "lsa"}},
    }  # fmt: skip
    whole["mixture"] = {"criteria": ["heuristic_quality"], "budget": BUDGET}
    whole["select"] = {"mixture": "natural"}
    whole["diversity"] = {"sample_docs": 60, "repeats": 4}
    return whole | changes


@dataclass(frozen=True)
class Measured:
    """A run up to `diversity` over 200 documents of real text."""

    base: Path
    config: RunConfig
    annotated: Annotated
    facts: DiversityFacts

    def of(self, selected: Mapping[str, Sequence[tuple[str, int]]], **asked: Any) -> DiversityFacts:
        """Measure documents with copies, by name of the selection."""
        engine = InlineEngine()
        selections = []
        for name, rows in selected.items():
            table = pa.table(
                {"doc_id": [row[0] for row in rows], "copies": pa.array([row[1] for row in rows], pa.int32())}
            )
            path = self.base / f"{name}.parquet"
            pq.write_table(table, path, write_page_checksum=True)
            selections.append(Selection(name, (str(path),) if rows else (), name))
        return measure_diversity(
            self.config, ASKED.model_copy(update=asked), engine, self.annotated, selections, BUDGET, self.base
        )


@pytest.fixture(scope="module")
def ids() -> list[str]:
    return [doc["id"] for doc in itertools.islice(documents(), 0, 12_000, 60)]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    base = tmp_path_factory.mktemp("diversity")
    write_shards(base / "pool", list(itertools.islice(documents(), 0, 12_000, 60)), 5)
    checked = check_config(values(base / "pool", base / "out"))
    return run(base, checked)


def run(base: Path, checked: RunConfig) -> Measured:
    pipeline = Pipeline(checked, InlineEngine(), Progress.silent(), "diversity")
    pipeline.run()
    assert pipeline.annotated is not None
    assert pipeline.diversity is not None
    return Measured(base, checked, pipeline.annotated, pipeline.diversity)


def test_every_measure_is_taken_and_a_natural_selection_is_like_random_ones(measured: Measured) -> None:
    facts = measured.facts
    assert [one.name for one in facts.measures()] == [one.name for one in MEASURES]
    (natural,) = facts.selections
    for measure in MEASURES:
        found, band = natural.found[measure.name], facts.random.found[measure.name]
        assert len(found.values) == len(band.values) == facts.repeats == 4
        assert band.low <= found.high, measure
        assert found.low <= band.high, measure
    assert facts.random.found["quality"].low < 0.5 < facts.random.found["quality"].high
    assert facts.sample_docs == 60
    assert "clusters" in facts.embedder


def test_facts_survive_json(measured: Measured) -> None:
    assert DiversityFacts.from_json(measured.facts.to_json()) == measured.facts
    assert len(measured.facts.lines()) == len(MEASURES)


def test_neither_units_nor_the_order_of_documents_show(measured: Measured, tmp_path: Path) -> None:
    write_shards(tmp_path / "pool", list(itertools.islice(documents(), 0, 12_000, 60))[::-1], 2)
    changed = values(tmp_path / "pool", tmp_path / "out")
    changed["pool"]["unit_bytes"] = "64MiB"
    again = run(tmp_path, check_config(changed))
    assert len(again.annotated.units) < len(measured.annotated.units)
    assert again.facts == measured.facts


def test_planted_copies_are_less_diverse_and_near_duplicates(measured: Measured, ids: list[str]) -> None:
    facts = measured.of({"varied": [(one, 1) for one in ids[:200]], "copied": [(one, 10) for one in ids[:200:10]]})
    varied, copied = (one.found for one in facts.selections)
    for name in ("vendi_1", "vendi_2", "novelsum"):
        assert copied[name].high < varied[name].low, name
    assert copied["near_duplicates"].low > 80.0 > 20.0 > varied["near_duplicates"].high
    assert facts.sample_docs == 60
    section = diversity_section(facts)
    assert [row[0] for row in section.tables[0].rows] == [one.title for one in MEASURES]
    assert section.figure.count('id="dot') == 2 * section.figure.count('id="band') == 6


def test_the_smallest_selection_decides_the_size_of_all_samples(measured: Measured, ids: list[str]) -> None:
    facts = measured.of({"few": [(one, 1) for one in ids[:20]], "many": [(one, 1) for one in ids]})
    assert facts.sample_docs == 20
    few, many = facts.selections
    assert few.found["vendi_1"].half_width == 0.0  # all samples are the whole selection
    assert many.found["vendi_1"].half_width > 0.0


def test_a_narrow_selection_is_told_from_random_ones(measured: Measured) -> None:
    table = pa.concat_tables([pq.read_table(path) for path in measured.annotated.files])
    domain = table["domain"].cast(pa.string()).to_pylist()
    pages = [(doc_id, 1) for doc_id, name in zip(table["doc_id"].to_pylist(), domain, strict=True) if name == "api"]
    facts = measured.of({"pages": pages}, sample_docs=30)
    verdict = {row[0]: row[-1] for row in diversity_section(facts).tables[0].rows}
    for title in ("entropy of domains, nats", "KL of domains to the pool, nats", "NovelSum"):
        assert verdict[title] == "less diverse", title
    assert facts.selections[0].found["effective_domains"].mean == 1.0
    assert facts.selections[0].found["vendi_1"].high < facts.random.found["vendi_1"].mean


def test_losses_in_place_of_quality_make_the_picture_of_a_comparison(measured: Measured) -> None:
    svg = diversity_picture(measured.facts, {"natural": (4.25, 0.02)}, "loss of howto, nats per token")
    assert "loss of howto, nats per token" in svg
    assert svg.count('id="dot') == 3


@pytest.mark.parametrize(
    ("selected", "message"),
    [
        ([], "holds 0 copies of documents, wanted two"),
        (["one"], "holds 1 copies of documents, wanted two"),
    ],
)
def test_nothing_and_a_single_document_are_refused(
    measured: Measured, ids: list[str], selected: list[str], message: str
) -> None:
    with pytest.raises(NothingToMeasure, match=message):
        measured.of({"lonely": [(ids[0], 1) for _ in selected]})


def test_documents_of_another_pool_are_refused(measured: Measured, ids: list[str]) -> None:
    with pytest.raises(InputError, match=r"1 of [0-9]+ sampled documents are not in the pool"):
        measured.of({"strange": [(one, 1) for one in [*ids[:30], "somebody else's"]]})


def test_intervals_are_students() -> None:
    vendi = next(one for one in MEASURES if one.name == "vendi_1")
    values = [10.0, 12.0, 11.0, 13.0]
    mean, band = Found.of_mean(vendi, values), Found.of_next(vendi, values)
    sd = (5 / 3) ** 0.5
    assert mean.half_width == pytest.approx(3.182446 * sd / 2, rel=1e-6)
    assert band.half_width == pytest.approx(3.182446 * sd * (1 + 1 / 4) ** 0.5, rel=1e-6)
    assert Found.of_next(vendi, [1.0, 1.2, 1.1]).low == 1.0  # a Vendi score is never less


def test_the_command_prints_a_table_and_a_second_one_measures_nothing(tmp_path: Path, inline: InlineEngine) -> None:
    """Also: another run of the pool beside it, and one of another budget refused."""
    write_scored_pool(tmp_path / "pool")
    asked = {"sample_docs": 30, "repeats": 3, "beside": []}
    file = write_config(tmp_path / "run.yaml", scored_config(tmp_path / "pool", tmp_path / "out", diversity=asked))
    done = quadmix("diversity", file)
    assert done.code == 0, done.err
    assert "Vendi score, q = 1" in done.out
    before = dict(inline.items)
    again = quadmix("diversity", file, "--json")
    assert "diversity: reading samples" in before
    assert inline.items == before
    assert again.json["diversity"]["sample_docs"] == 30

    top = ("--set", f"output={tmp_path / 'top'}", "--set", "select={mixture: topk, criterion: score}")
    beside = (*top, "--set", f"diversity.beside=[{tmp_path / 'out'}]")
    done = quadmix("diversity", file, *beside)
    assert done.code == 0, done.err
    assert "topk" in done.out
    assert "; out " in done.out
    other = quadmix("diversity", file, *beside, "--set", "mixture.budget=3000")
    assert other.code == 2
    assert "selected for 4,000 tokens, wanted this run's budget of 3,000" in other.err


def test_what_is_no_part_of_the_choice_keeps_the_manifest(tmp_path: Path, inline: InlineEngine) -> None:
    write_scored_pool(tmp_path / "pool")
    file = write_config(tmp_path / "run.yaml", scored_config(tmp_path / "pool", tmp_path / "out"))
    first = quadmix("select", file, "--json").json["digest"]
    again = quadmix("select", file, "--json", "--set", "diversity={sample_docs: 44}").json["digest"]
    assert first == again


def test_a_report_says_why_nothing_was_measured(tmp_path: Path, inline: InlineEngine) -> None:
    write_scored_pool(tmp_path / "pool", docs=12)
    values = scored_config(
        tmp_path / "pool", tmp_path / "out", diversity={}, mixture={"criteria": ["score"], "budget": 20}
    )
    file = write_config(tmp_path / "run.yaml", values)
    done = quadmix("report", file)
    assert done.code == 0, done.err
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "has no diversity" in html
    refused = quadmix("diversity", file)
    assert refused.code == 3
    assert "has no diversity" in refused.err


def test_a_null_section_measures_nothing(tmp_path: Path, inline: InlineEngine) -> None:
    write_scored_pool(tmp_path / "pool")
    file = write_config(tmp_path / "run.yaml", scored_config(tmp_path / "pool", tmp_path / "out"))
    done = quadmix("report", file)
    assert done.code == 0, done.err
    assert 'id="diversity"' not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    refused = quadmix("diversity", file)
    assert (refused.code, "diversity: null in the config" in refused.err) == (2, True)


def test_two_runs_of_one_name_keep_their_paths_and_the_same_one_twice_is_refused(
    tmp_path: Path, inline: InlineEngine
) -> None:
    write_scored_pool(tmp_path / "pool")
    file = write_config(tmp_path / "run.yaml", scored_config(tmp_path / "pool", tmp_path / "a" / "out"))
    for folder in ("a", "b"):
        assert quadmix("select", file, "--set", f"output={tmp_path / folder / 'out'}").code == 0
    runs = [str(tmp_path / folder / "out") for folder in ("a", "b")]
    asked = ("--set", f"diversity={{sample_docs: 20, repeats: 3, beside: [{', '.join(runs)}]}}")
    done = quadmix("diversity", file, *asked, "--json")
    assert [one["name"] for one in done.json["diversity"]["selections"]] == ["natural", "out", runs[1]]
    twice = ("--set", f"diversity={{beside: [{', '.join([runs[0]] * 3)}]}}")
    done = quadmix("diversity", file, *twice)
    assert done.code == ConfigError.exit_code
    assert "twice, wanted every run once" in done.err
