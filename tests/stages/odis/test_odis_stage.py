"""ODiS as a stage: exact budgets, manifests that verify, the same bytes whatever the files, engine and kills."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from quadmix.config import RunConfig
from quadmix.config_checks import cross_checks
from quadmix.engine.local import LocalEngine
from quadmix.errors import ConfigError, InputError
from quadmix.manifest.verify import verify
from quadmix.progress import Progress
from quadmix.stages.annotate import annotate
from quadmix.stages.odis.examples import Ends
from quadmix.stages.odis.fit_file import fit_behind
from quadmix.stages.plan import make_estimate
from quadmix.stages.report import make_page
from quadmix.stages.select import select
from quadmix.stages.selector_sections import selector_sections
from tests.stages.inline_engine import InlineEngine
from tests.stages.odis.odis_runs import SIGNALS, odis_values
from tests.stages.quad.quad_runs import run_quad as run
from tests.stages.quad.quad_runs import some_documents, write_pool


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return some_documents()


@pytest.fixture(scope="module")
def pool(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pool(tmp_path_factory.mktemp("odis") / "pool", rows, 5)


@pytest.fixture(scope="module")
def done(pool: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run(odis_values(pool, tmp_path_factory.mktemp("alone") / "out"), InlineEngine())


def annotated_scores(annotated: Any) -> np.ndarray:
    tables = [pq.read_table(path) for path in annotated.files]
    table = pa.concat_tables(tables, promote_options="permissive")
    table = table.filter(pc.equal(table["status"].cast(pa.string()), "ok"))
    return np.stack([table[f"score_{name}"].to_numpy() for name in SIGNALS], axis=1).astype(np.float64)


def test_the_budget_is_met_and_every_number_of_the_manifest_recomputed(done: Any) -> None:
    _, annotated, manifest = done
    longest = max(pq.read_table(path)["n_tokens"].to_numpy().max() for path in annotated.files)
    assert abs(manifest.realised_tokens - 60_000) <= longest / 2
    found = verify(manifest)
    assert found.ok, found.findings


def test_correlations_and_eigenvalues_are_numpys_of_the_annotated_scores(done: Any) -> None:
    config, annotated, manifest = done
    outcome, _ = fit_behind(config, manifest)
    correlation = np.corrcoef(annotated_scores(annotated).T)
    np.testing.assert_allclose(outcome.correlation, correlation, atol=1e-7)
    np.testing.assert_allclose(outcome.eigenvalues, np.linalg.eigvalsh(correlation)[::-1], atol=1e-7)
    kept = len(outcome.components)
    assert kept == min(4, int((np.cumsum(outcome.explained) < 0.8).sum()) + 1)


def test_the_report_shows_variance_loadings_tokens_overlap_and_both_ends(done: Any) -> None:
    config, annotated, manifest = done
    page = make_page(annotated.summary, annotated.record.summary, None, manifest, selector_sections(config, manifest))
    sections = {section.id: section for section in page.sections}
    outcome, ends = fit_behind(config, manifest)
    kept = len(outcome.components)
    assert kept > 1
    assert "<svg" in sections["variance"].figure
    assert "form · heuristic_quality" in sections["loadings"].figure
    taken = [int(row[4].replace(",", "")) for row in sections["components"].tables[0].rows]
    assert sum(taken) == manifest.realised_tokens
    overlap = sections["overlap"].tables[0].rows
    measured, alone = outcome.overlap(1, 0)
    assert overlap[1][2] == f"{100 * measured:.2f} % ({100 * alone:.2f} %)"
    assert len(sections["ends"].tables) == 2 * kept
    texts = {row["id"]: row["text"] for row in some_documents()}
    for one in ends:
        assert len(one.low) == len(one.high) == 3
        assert one.high[0].value >= one.high[-1].value > one.low[-1].value >= one.low[0].value
        for example in (*one.low, *one.high):
            assert " ".join(texts[example.doc_id].split()).startswith(example.text.rstrip("…"))


def test_ends_are_the_outermost_documents_however_they_are_dealt() -> None:
    rng = np.random.default_rng(0)
    values = np.round(rng.normal(size=(200, 2)), 1).astype(np.float32)  # many ties
    hashes = rng.permutation(200).astype(np.uint64)
    merged = Ends.empty(2, 4)
    for part in np.split(rng.permutation(200), [50, 51, 130]):
        merged = Ends.of(values[part], hashes[part], "file", 4).merge(merged)
    for k in range(2):
        order = sorted(range(200), key=lambda x: (values[x, k], hashes[x]))
        assert [doc for _, doc, _ in merged.low[k]] == [int(hashes[x]) for x in order[:4]]
        order = sorted(range(200), key=lambda x: (-values[x, k], hashes[x]))
        assert [doc for _, doc, _ in merged.high[k]] == [int(hashes[x]) for x in order[:4]]


def test_processes_give_the_same_bytes(done: Any, pool: Path, tmp_path: Path) -> None:
    with LocalEngine(2) as engine:
        config, _, again = run(odis_values(pool, tmp_path / "out"), engine)
    assert again.digest == done[2].digest
    assert fit_behind(config, again) == fit_behind(done[0], done[2])


@pytest.mark.long
def test_other_files_and_units_give_the_same_documents(done: Any, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    shuffled = list(rows)
    random.Random(3).shuffle(shuffled)
    values = odis_values(write_pool(tmp_path / "pool", shuffled, 3), tmp_path / "out")
    values["pool"]["unit_bytes"] = "1MiB"
    again = run(values, InlineEngine())

    def chosen(manifest: Any) -> list[tuple[str, str]]:
        tables = [pq.read_table(manifest.part_path(part), columns=["doc_id", "stratum"]) for part in manifest.files]
        return sorted((row["doc_id"], row["stratum"]) for table in tables for row in table.to_pylist())

    assert chosen(again[2]) == chosen(done[2])
    assert again[2].plan["odis"] == done[2].plan["odis"]
    assert fit_behind(again[0], again[2]) == fit_behind(done[0], done[2])


@pytest.mark.parametrize(
    "label",
    ["odis: reading examples", pytest.param("odis: what belongs to each component", marks=pytest.mark.long)],
)
def test_a_killed_run_goes_on_to_the_same_bytes(label: str, done: Any, pool: Path, tmp_path: Path) -> None:
    config = RunConfig.model_validate(odis_values(pool, tmp_path / "out"))
    annotated = annotate(config, InlineEngine(), Progress.silent())
    with pytest.raises(KeyboardInterrupt):
        select(config, StopsAnywhere(fail_in=label), Progress.silent(), annotated, None)
    assert not (tmp_path / "out" / "CURRENT.json").exists()
    assert select(config, InlineEngine(), Progress.silent(), annotated, None).digest == done[2].digest


def test_a_finished_fit_is_reused_until_its_config_changes(done: Any) -> None:
    config, annotated, manifest = done
    engine = StopsAnywhere(fail_in="odis: moments of the scores")
    assert select(config, engine, Progress.silent(), annotated, None).digest == manifest.digest
    changed = config.model_copy(update={"odis": config.odis.model_copy(update={"components": 1})})
    with pytest.raises(KeyboardInterrupt):
        select(changed, engine, Progress.silent(), annotated, None)


class StopsAnywhere(InlineEngine):
    """Stops in reductions as well."""

    def reduce(self, task: Any, items: Any, merge: Any, *, label: str) -> Any:
        if label == self.fail_in:
            raise KeyboardInterrupt
        return super().reduce(task, items, merge, label=label)


@pytest.mark.long
def test_within_the_quotas_of_a_mixture_every_domain_gets_its_tokens(pool: Path, tmp_path: Path) -> None:
    _, annotated, manifest = run(odis_values(pool, tmp_path / "out", "natural"), InlineEngine())
    total = annotated.summary.total_tokens
    longest = max(pq.read_table(path)["n_tokens"].to_numpy().max() for path in annotated.files)
    for name, share in manifest.domains.items():
        held = int(annotated.summary.tokens[annotated.summary.domains.index(name)])
        assert share.requested == pytest.approx(60_000 * held / total, abs=1)
        assert abs(share.realised - share.requested) <= longest
    found = verify(manifest)
    assert found.ok, found.findings


def test_what_a_config_lacks_is_said_before_anything_runs(pool: Path, tmp_path: Path) -> None:
    values = odis_values(
        pool, tmp_path / "out", dimensions=["heuristic_quality", "mean_word_lenght"], quality_dimensions=["word_count"],
        shares=[0.0, 0.0], groups={"a": ["heuristic_quality"], "b": ["heuristic_quality"]},
    )  # fmt: skip
    config = RunConfig.model_validate(values)
    sections = {name: getattr(config, name) for name in RunConfig.model_fields}
    problems = {".".join(map(str, path)): text for path, text in cross_checks(sections)}
    assert {"odis.dimensions.1", "odis.quality_dimensions.0", "odis.shares", "odis.groups.b.0"} <= set(problems)
    assert "did you mean 'mean_word_length'" in problems["odis.dimensions.1"]
    one = config.model_copy(update={"odis": config.odis.model_copy(update={"dimensions": ("heuristic_quality",)})})
    sections = {name: getattr(one, name) for name in RunConfig.model_fields}
    assert any(path == ("odis", "dimensions") for path, _ in cross_checks(sections))


def test_dimensions_that_were_not_annotated_or_never_vary_are_refused(done: Any, pool: Path, tmp_path: Path) -> None:
    config, annotated, _ = done
    strange = config.model_copy(update={"odis": config.odis.model_copy(update={"dimensions": ("fluency", "depth")})})
    with pytest.raises(ConfigError, match=r"odis.dimensions: found fluency, depth"):
        select(strange, InlineEngine(), Progress.silent(), annotated, None)
    values = odis_values(pool, tmp_path / "out", dimensions=["heuristic_quality", "lorem_ipsum"], groups={})
    values["annotate"]["scorers"][0]["outputs"] = ["heuristic_quality", "lorem_ipsum"]
    with pytest.raises(InputError, match="lorem_ipsum: the same score on all"):
        run(values, InlineEngine())


def test_an_estimate_takes_every_document_once(done: Any) -> None:
    config = done[0].model_copy(update={"mixture": done[0].mixture.model_copy(update={"max_copies": 4})})
    estimate = make_estimate(config)
    assert estimate.reachable == estimate.tokens
    assert estimate.seconds["odis"] > 0
