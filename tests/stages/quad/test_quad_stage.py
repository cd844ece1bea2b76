"""Quad as a stage: exact budgets, manifests that verify, the same bytes whatever the files, engine and kills."""

from __future__ import annotations

import copy
import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from quadmix.config import QuadConfig, RunConfig, TokenizerConfig
from quadmix.config_checks import cross_checks
from quadmix.engine.local import LocalEngine
from quadmix.errors import BudgetError, ConfigError, QuadmixError
from quadmix.hashing import doc_hash, uniform
from quadmix.manifest.explain import explain
from quadmix.manifest.verify import verify
from quadmix.progress import Progress
from quadmix.scorers.tokens import load_tokenizer
from quadmix.selectors.quad_outcome import Outcome
from quadmix.stages.annotate import Annotated, annotate
from quadmix.stages.plan import make_estimate
from quadmix.stages.quad.cluster_table import cluster_table
from quadmix.stages.quad.foreign_model import check_folder
from quadmix.stages.quad.outcome_file import quad_outcome
from quadmix.stages.quad.stage import measure
from quadmix.stages.quad.store import PURPOSE, quad_store, read_places, stored_fraction
from quadmix.stages.report import make_page
from quadmix.stages.select import Choice, quotas_within, select
from quadmix.stages.selector_sections import selector_sections
from tests.e2e.small_pool import ROOT
from tests.stages.inline_engine import InlineEngine
from tests.stages.quad.quad_runs import quad_values, run_quad, some_documents, write_pool

pytest.importorskip("torch")

EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return some_documents()


@pytest.fixture(scope="module")
def pool(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pool(tmp_path_factory.mktemp("quad") / "pool", rows, 5)


@pytest.fixture(scope="module")
def done(pool: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run_quad(quad_values(pool, tmp_path_factory.mktemp("alone") / "out"), InlineEngine())


def outcome_of(done: Any) -> Outcome:
    config, _, manifest = done
    found = quad_outcome(config, manifest)
    assert found is not None
    return found


def test_the_budget_is_met_and_every_number_of_the_manifest_recomputed(done: Any) -> None:
    _, annotated, manifest = done
    longest = max(pq.read_table(path)["n_tokens"].to_numpy().max() for path in annotated.files)
    assert abs(manifest.realised_tokens - 60_000) <= longest / 2
    assert manifest.selector == "quad"
    found = verify(manifest)
    assert found.ok, found.findings


def test_only_a_part_was_scored_and_what_is_said_of_clusters_adds_up(done: Any) -> None:
    _, annotated, _ = done
    outcome = outcome_of(done)
    usable = int(annotated.summary.docs.sum())
    assert 0 < outcome.scored <= int(0.3 * usable)
    assert outcome.scored == sum(pull.n for entry in outcome.rounds for pull in entry.pulls)
    assert sum(cluster.documents for cluster in outcome.clusters) == usable
    assert sum(cluster.tokens for cluster in outcome.clusters) == annotated.summary.total_tokens
    assert sum(cluster.granted + cluster.fill for cluster in outcome.clusters) == 60_000
    assert len({round(cluster.mean or 0.0, 12) for cluster in outcome.clusters}) > 6


def test_a_document_is_explained_by_its_cluster(done: Any) -> None:
    _, _, manifest = done
    row = pq.read_table(manifest.part_path(manifest.files[0])).to_pylist()[0]
    found = explain(manifest, row["doc_id"])
    assert found.cluster == row["stratum"]
    assert found.pulls is not None
    assert "documents scored in" in found.why


def test_the_report_draws_clusters_and_rounds(done: Any) -> None:
    config, annotated, manifest = done
    chosen = selector_sections(config, manifest)
    page = make_page(annotated.summary, annotated.record.summary, None, manifest, chosen)
    sections = {section.id: section for section in page.sections}
    assert "<svg" in sections["clusters"].figure
    assert "<svg" in sections["rounds"].figure
    assert "documents were scored" in sections["clusters"].text
    assert len(sections["clusters"].tables[0].rows) == len(outcome_of(done).clusters)


def test_the_report_draws_no_rounds_of_another_run(done: Any) -> None:
    config, _, manifest = done
    other = copy.deepcopy(manifest.plan)
    other["outcome"]["clusters"][0]["pulls"] += 1
    found = quad_outcome(config, replace(manifest, plan=other))
    assert found is not None
    assert found.rounds == ()
    assert found.clusters[0].pulls == other["outcome"]["clusters"][0]["pulls"]
    assert outcome_of(done).rounds


@pytest.mark.long
def test_other_files_and_units_give_the_same_documents(done: Any, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    shuffled = list(rows)
    random.Random(3).shuffle(shuffled)
    values = quad_values(write_pool(tmp_path / "pool", shuffled, 3), tmp_path / "out")
    values["pool"]["unit_bytes"] = "1MiB"
    _, _, again = run_quad(values, InlineEngine())

    def chosen(manifest: Any) -> list[str]:
        return sorted(
            doc for part in manifest.files for doc in pq.read_table(manifest.part_path(part))["doc_id"].to_pylist()
        )

    assert chosen(again) == chosen(done[2])


def test_processes_give_the_same_bytes(done: Any, pool: Path, tmp_path: Path) -> None:
    with LocalEngine(2) as engine:
        config, _, again = run_quad(quad_values(pool, tmp_path / "out"), engine)
    assert again.digest == done[2].digest
    assert quad_outcome(config, again) == outcome_of(done)


@pytest.mark.parametrize(
    "label",
    [
        "quad: round 2",
        pytest.param("quad: round 0", marks=pytest.mark.long),
        pytest.param("quad: curvature, eigenvalues", marks=pytest.mark.long),
    ],
)
def test_a_killed_run_goes_on_to_the_same_bytes(label: str, done: Any, pool: Path, tmp_path: Path) -> None:
    values = quad_values(pool, tmp_path / "out")
    config = RunConfig.model_validate(values)
    annotated = annotate(config, InlineEngine(), Progress.silent())
    broken = Reduces(fail_in=label)
    with pytest.raises(KeyboardInterrupt):
        select(config, broken, Progress.silent(), annotated, None)
    assert not (tmp_path / "out" / "CURRENT.json").exists()
    engine = InlineEngine()
    manifest = select(config, engine, Progress.silent(), annotated, None)
    assert manifest.digest == done[2].digest
    assert "quad: tokenising" not in engine.items
    assert ("quad: round 0" in engine.items) == (label != "quad: round 2")


class Reduces(InlineEngine):
    """Stops in reductions as well."""

    def reduce(self, task: Any, items: Any, merge: Any, *, label: str) -> Any:
        if label == self.fail_in:
            raise KeyboardInterrupt
        return super().reduce(task, items, merge, label=label)


def test_within_the_quotas_of_a_mixture_every_domain_gets_its_tokens(pool: Path, tmp_path: Path) -> None:
    run, annotated, manifest = run_quad(quad_values(pool, tmp_path / "out", "natural"), InlineEngine())
    drawn = quad_outcome(run, manifest)
    assert drawn is not None
    assert drawn.fill_tokens == sum(manifest.plan["fill"].values())
    assert drawn.granted_tokens + drawn.fill_tokens == 60_000
    total = annotated.summary.total_tokens
    longest = max(pq.read_table(path)["n_tokens"].to_numpy().max() for path in annotated.files)
    for name, share in manifest.domains.items():
        held = int(annotated.summary.tokens[annotated.summary.domains.index(name)])
        assert share.requested == pytest.approx(60_000 * held / total, abs=1)
        assert abs(share.realised - share.requested) <= longest
    found = verify(manifest)
    assert found.ok, found.findings


def test_domains_that_hold_too_little_are_refused_before_anything_is_measured(
    done: Any, pool: Path, tmp_path: Path
) -> None:
    _, annotated, _ = done
    held = annotated.summary.tokens
    values = quad_values(pool, tmp_path / "out", "uniform")
    smallest = annotated.summary.domains[int(held.argmin())]
    values["mixture"].update(budget=int(held.min()) * len(held) + 4 * len(held), max_copies=4)
    config = RunConfig.model_validate(values)
    engine = InlineEngine()
    counted = annotate(config, engine, Progress.silent())
    assert any(f"domain '{smallest}' has a quota" in problem for problem in make_estimate(config).problems)
    engine.items.clear()
    with pytest.raises(BudgetError, match=f"domain '{smallest}' has a quota"):
        select(config, engine, Progress.silent(), counted, None)
    assert not [label for label in engine.items if "quad" in label]


def test_a_winner_without_domains_is_refused_before_anything_is_measured(done: Any) -> None:
    config, annotated, _ = done
    engine = InlineEngine()
    with pytest.raises(ConfigError, match="the confirmed winner, top, takes the best documents by score_a"):
        quotas_within(config, engine, annotated, Choice("topk", "the confirmed winner, top", criterion="score_a"))
    assert not engine.items


def test_a_column_of_ones_own_is_an_arm_each(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    own = [{**row, "topic": len(row["text"]) % 5} for row in rows]
    values = quad_values(
        write_pool(tmp_path / "pool", own, 2), tmp_path / "out",
        annotate={"clusters": {"kind": "column", "column": "topic"}},
    )  # fmt: skip
    done = run_quad(values, InlineEngine())
    assert [cluster.name for cluster in outcome_of(done).clusters] == ["0", "1", "2", "3", "4"]
    assert verify(done[2]).ok


def saved_model(folder: Path, vocabulary: int = 4096, **shape: Any) -> Path:
    """A tiny Llama of random weights with the run's own tokenizer beside it."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, **shape}
    transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=vocabulary, **sizes)).save_pretrained(folder)
    shutil.copy(EXAMPLES / "tokenizer" / "tokenizer.json", folder / "tokenizer.json")
    return folder


def with_model(folder: Path) -> dict[str, Any]:
    return {"model": {"kind": "huggingface", "path": str(folder)}}


def test_a_hugging_face_model_from_a_folder(pool: Path, tmp_path: Path) -> None:
    quad = with_model(saved_model(tmp_path / "model"))
    done = run_quad(quad_values(pool, tmp_path / "out", quad=quad), InlineEngine())
    assert verify(done[2]).ok
    assert outcome_of(done).scored > 0


def other_words(folder: Path) -> None:
    file = folder / "tokenizer.json"
    words = json.loads(file.read_text("utf-8"))
    vocabulary = words["model"]["vocab"]
    first, second = sorted(vocabulary, key=vocabulary.get)[300:302]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    file.write_text(json.dumps(words), "utf-8")


@pytest.mark.parametrize(
    ("shape", "spoil", "said"),
    [
        ({"max_position_embeddings": 16}, None, r"quad\.max_tokens: found 32, but .* 16 positions"),
        ({}, other_words, r"trained on other tokens than the run's: .* differ in model"),
        ({"vocabulary": 512}, None, "knows 512 words, the run's tokenizer 2,048"),
    ],
    ids=["positions", "tokenizer", "words"],
)
def test_a_model_that_contradicts_the_run_is_refused_before_anything_is_tokenised(
    shape: dict[str, int], spoil: Any, said: str, done: Any, pool: Path, tmp_path: Path
) -> None:
    folder = saved_model(tmp_path / "model", **shape)
    if spoil is not None:
        spoil(folder)
    _, annotated, _ = done
    asked = quad_values(pool, tmp_path / "out", quad=with_model(folder))
    with pytest.raises(QuadmixError, match=said):
        measure(RunConfig.model_validate(asked), InlineEngine(), Progress.silent(), annotated)
    assert not list((tmp_path / "out").glob("stages/quad_store-*"))


def test_plan_says_how_much_is_scored_and_what_a_model_from_a_folder_contradicts(pool: Path, tmp_path: Path) -> None:
    folder = saved_model(tmp_path / "model")
    config = RunConfig.model_validate(quad_values(pool, tmp_path / "out", quad=with_model(folder)))
    told = make_estimate(config)
    assert told.quad == {"scored": int(told.documents * 0.3), "tokenised": round(told.documents * 0.9)}
    lines = "\n".join(told.lines())
    assert f"up to {told.quad['scored']:,} documents scored (29.9% of the pool)" in lines
    assert "how fast the model" in lines
    assert not told.problems
    other_words(folder)
    (problem,) = make_estimate(config).problems
    assert "trained on other tokens" in problem


def test_a_tokenizer_that_another_release_wrote_is_the_same(tmp_path: Path) -> None:
    """Merges as strings or as pairs, other padding and templates: ids do not change."""
    file = EXAMPLES / "tokenizer" / "tokenizer.json"
    words = json.loads(file.read_text("utf-8"))
    words["model"]["merges"] = [
        merge.split(" ") if isinstance(merge, str) else " ".join(merge) for merge in words["model"]["merges"]
    ]
    words["post_processor"] = None
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text(json.dumps(words), "utf-8")
    tokenizer = load_tokenizer(TokenizerConfig(path=str(file)))
    assert check_folder(str(tmp_path), tokenizer, 32) == ()
    (tmp_path / "tokenizer.json").unlink()
    (doubt,) = check_folder(str(tmp_path), tokenizer, 32)
    assert "not checked" in doubt


@pytest.mark.parametrize(
    ("change", "fraction"),
    [
        ({"max_scored": 0.1}, 0.3),
        ({"max_scored": 0.001}, 1.5 * 600_000 / 100 / 100_000),  # the proxy's tokens decide
        ({"max_scored": 0.001, "max_tokens": 64}, 1.5 * 600_000 / 64 / 100_000),
        ({"max_scored": 0.001, "curvature": "ekfac", "factor_docs": 20_000}, 0.3),  # the curvature's documents do
        ({"max_scored": 0.9}, 1.0),
    ],
    ids=str,
)
def test_few_scored_documents_leave_the_proxy_its_text(change: dict[str, Any], fraction: float) -> None:
    found = stored_fraction(QuadConfig.model_validate(change), documents=100_000, tokens=10_000_000)
    assert found == pytest.approx(fraction)


@pytest.mark.parametrize(
    "change",
    [
        {"curvature": "identity"},
        *(
            pytest.param(change, marks=pytest.mark.long)
            for change in (
                {"curvature": "kfac"},
                {"curvature": "diagonal"},
                {"reference_rule": "max"},
                {"layers": "mlp"},
                {"references": ["howto"]},
            )
        ),
    ],
    ids=str,
)
def test_every_choice_changes_what_is_measured(change: dict[str, Any], done: Any, pool: Path, tmp_path: Path) -> None:
    other = run_quad(quad_values(pool, tmp_path / "out", quad=change), InlineEngine())
    mine, theirs = (
        np.array([cluster.mean or 0.0 for cluster in outcome_of(found).clusters]) for found in (done, other)
    )
    assert not np.allclose(mine, theirs, rtol=1e-3)


def test_the_store_holds_the_smallest_draws_by_cluster(done: Any, rows: list[dict[str, Any]]) -> None:
    config, annotated, _ = done
    engine = InlineEngine()
    table = cluster_table(engine, annotated.files, annotated.summary.domains)
    tokenizer = load_tokenizer(config.tokenizer)
    store = quad_store(config, engine, Progress.silent(), annotated, table, tokenizer, 0.9, 32)
    clusters = _clusters(annotated)
    texts = {row["id"]: row["text"] for row in rows}
    draws = dict(zip(clusters, uniform(doc_hash(list(clusters)), config.seed, PURPOSE).tolist(), strict=True))
    for place, name in enumerate(table.names):
        wanted = sorted((one for one in clusters if clusters[one] == name and draws[one] < 0.9), key=draws.__getitem__)
        assert store.documents[place] == len(wanted)
        found, hashes = read_places(store, store.places(place, 0, len(wanted)))
        assert hashes.tolist() == doc_hash(wanted).tolist()
        for tokens, one in zip(found, wanted, strict=True):
            assert tokens.tolist() == tokenizer.encode_batch([texts[one]])[0][:32].tolist()


def _clusters(annotated: Annotated) -> dict[str, str]:
    """Usable documents and their clusters."""
    found = {}
    for path in annotated.files:
        for row in pq.read_table(path, columns=["doc_id", "cluster", "status"]).to_pylist():
            if row["status"] == "ok":
                found[row["doc_id"]] = row["cluster"]
    return found


def test_the_sample_is_in_the_order_of_draws_and_long_enough(done: Any) -> None:
    config, annotated, _ = done
    engine = InlineEngine()
    table = cluster_table(engine, annotated.files, annotated.summary.domains)
    store = quad_store(config, engine, Progress.silent(), annotated, table, load_tokenizer(config.tokenizer), 0.9, 32)
    found, hashes = read_places(store, store.drawn("some", 3, tokens=5_000))
    held = np.cumsum([len(tokens) for tokens in found])
    assert held[-1] >= 5_000 > held[-2]
    order = uniform(hashes, 3, "some")
    assert (np.diff(order) > 0).all()
    few, _ = read_places(store, store.drawn("some", 3, docs=7))
    assert [tokens.tolist() for tokens in few] == [tokens.tolist() for tokens in found[:7]]


def test_what_a_config_lacks_is_said_before_anything_runs(pool: Path, tmp_path: Path) -> None:
    values = quad_values(pool, tmp_path / "out", quad={"references": ["nowhere"], "max_tokens": 64})
    values["annotate"]["clusters"] = None
    config = RunConfig.model_validate(values)
    sections = {name: getattr(config, name) for name in RunConfig.model_fields}
    problems = {".".join(map(str, path)): text for path, text in cross_checks(sections)}
    assert {"annotate.clusters", "quad.references.0", "quad.model.proxy.seq_len"} <= set(problems)
    assert "howto" in problems["quad.references.0"]
