"""The comparison's page and the corpus' config, from made-up numbers and a corpus of a few documents."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import yaml

from benchmarks.comparison import EXAMPLE, corpus_values, write_page
from benchmarks.regmix_weights import rounded
from benchmarks.results_corpus import TARGETS
from quadmix.config_reader import check_config
from quadmix.stages.compare.result import Comparison, Contestant, Cost, Target, judged, with_mean


def made_up() -> Comparison:
    """Random, ours (better), a rival that ours ties with on `a`, one that beats it."""
    bits = {
        "random": with_mean({"a": [3.0, 3.1, 3.05], "b": [2.0, 2.1, 2.05]}),
        "quadmix": with_mean({"a": [2.5, 2.61, 2.55], "b": [1.9, 1.91, 1.92]}),
        "topk_x": with_mean({"a": [2.6, 2.5, 2.56], "b": [1.7, 1.72, 1.71]}),
    }
    entries = []
    for name, own in bits.items():
        level, lead, words = judged(own, None if name == "random" else bits["random"], 0.95)
        costs = [Cost("search, 8 proxies", None, 1_600_000, 2e12)] if name == "quadmix" else []
        entries.append(Contestant(
            name=name, select={}, selector="natural", manifests=["0" * 64], documents=10.0, copies=12.0, tokens=1e6,
            repeats=1.2, share={"one": 1.0}, read_tokens=[1000] * 3, bits=own, level=level, lead=lead, verdict=words,
            costs=costs, errors=[], note="",
        ))  # fmt: skip
    return Comparison(
        against="random", seeds=3, confidence=0.95, budget=10**6, train_tokens=1000, pool_documents=100,
        pool_tokens=10**7, targets={name: Target(500, 2_000) for name in "ab"}, model={}, model_parameters=10**5,
        model_flops=1e12, entries=entries,
    )  # fmt: skip


def test_the_page_tells_where_ours_does_not_win(tmp_path: Path) -> None:
    stored, page = tmp_path / "comparison", tmp_path / "comparison.md"
    stored.mkdir()
    (stored / "example.json").write_bytes(made_up().to_json())
    write_page(stored, page)
    text = page.read_text(encoding="utf-8")
    assert "- *a*: is not told apart from `topk_x`; beats `random`." in text
    assert "- *b*: loses to `topk_x`; beats `random`." in text
    assert "| `quadmix` |" in text
    assert "2.00 |" in text  # the search cost as much as two target models
    assert "Not run yet" in text  # the corpus
    assert (stored / "example-cost.svg").read_text(encoding="utf-8").startswith("<svg")
    before = {path.name: path.read_bytes() for path in (*stored.iterdir(), page)}
    write_page(stored, page)
    assert {path.name: path.read_bytes() for path in (*stored.iterdir(), page)} == before


def test_a_failed_entry_is_told_and_comes_last(tmp_path: Path) -> None:
    found = made_up()
    failed = with_mean({name: [None, None, None] for name in "ab"})
    level, lead, words = judged(failed, found.entries[0].bits, 0.95)
    broken = replace(
        found.entries[2], bits=failed, level=level, lead=lead, verdict=words, errors=["loss is not finite"]
    )
    found = replace(found, entries=[*found.entries[:2], broken])
    (tmp_path / "comparison").mkdir()
    (tmp_path / "comparison" / "example.json").write_bytes(found.to_json())
    write_page(tmp_path / "comparison", tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert rows[-1].startswith("| `topk_x` | failed")
    assert "- topk_x: loss is not finite." in text


def test_the_corpus_config_has_the_examples_entries_and_its_own_targets(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, source in enumerate((*TARGETS.values(), "other")):
        rows = [
            {"id": f"{source}-{row}", "domain": "one", "text": f"text {number} {row} of {source} " * 30}
            for row in range(9)
        ]
        (corpus / f"{source}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    example = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    (tmp_path / "work").mkdir()
    checked = check_config(corpus_values(corpus, tmp_path / "work", example))
    assert checked.compare is not None
    names = [one.name for one in checked.compare.entries]
    kept = [one["name"] for one in example["compare"]["entries"] if not isinstance(one["select"].get("weights"), dict)]
    assert len(kept) < len(example["compare"]["entries"])  # weights of other domains stay out
    assert [*kept, "topk_manual"] == names
    assert {target.name for target in checked.targets} == set(TARGETS)
    weighted = check_config(corpus_values(corpus, tmp_path / "work", example, {"one": 1.0}))
    assert weighted.compare is not None
    assert len(weighted.compare.entries) == len(example["compare"]["entries"]) + 1
    assert {str(one.select.weights) for one in weighted.compare.entries} == {"None", "{'one': 1.0}"}


def test_rounded_weights_sum_to_one() -> None:
    found = rounded({"a": 1 / 3, "b": 1 / 3 + 1e-9, "c": 1 / 3})
    assert sum(found.values()) == 1.0
    assert all(round(share, 4) == share for share in found.values())
