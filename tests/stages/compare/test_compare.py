"""`quadmix compare` from its config to its files, on a pool of which the better half is known."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch.utils.flop_counter import FlopCounterMode

from proxy_models.model import Decoder
from proxy_models.train import backward
from quadmix.config_proxy import ProxyConfig
from quadmix.config_reader import check_config, read_config
from quadmix.errors import ConfigError, VerificationError
from quadmix.hashing import doc_hash
from quadmix.manifest.model import Manifest
from quadmix.manifest.rows import read_rows
from quadmix.manifest.verify import verify
from quadmix.stages.compare.costs import parameters, training_flops
from quadmix.stages.compare.documents import Draw, read_reading
from quadmix.stages.compare.result import BETTER, FAILED, TIE, WORSE, Comparison, judged, with_mean
from quadmix.stages.diversity.facts import DiversityFacts
from quadmix.stages.plan import make_estimate
from tests.e2e.command_line import Done, quadmix, start
from tests.e2e.small_pool import ROOT, write_config
from tests.stages.compare.made_up import MODEL, entry, values, write_pool
from tests.stages.inline_engine import InlineEngine

TRAINING = "compare: training target models"
# the engine of a driver that is killed: its tasks run in it
_TASKS_HERE = """
import quadmix.cli
from tests.stages.inline_engine import InlineEngine
quadmix.cli.make_engine = lambda config, progress: InlineEngine()
"""
ENTRIES = (
    entry("random", mixture="natural"),
    entry("random_again", mixture="natural"),
    entry("sound", mixture="topk", criterion="sound"),
    entry("like_howto", mixture="topk", criterion="like_howto"),
)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare") / "pool"
    write_pool(folder)
    return folder


class Ran:
    """A finished comparison: its config, output and what the command said."""

    def __init__(self, file: Path, done: Done, engine: InlineEngine) -> None:
        self.file, self.done, self.items = file, done, dict(engine.items)
        self.output = file.parent / "out"

    @property
    def found(self) -> Comparison:
        return Comparison.from_json((self.output / "compare.json").read_bytes())


@pytest.fixture(scope="module")
def ran(pool: Path) -> Iterator[Ran]:
    engine = InlineEngine()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("quadmix.cli.make_engine", lambda config, progress: engine)
        file = write_config(pool.parent / "run.yaml", values(pool, pool.parent / "out", *ENTRIES))
        yield Ran(file, quadmix("compare", file), engine)


# ------------------------------------------------------------------------------------------ what it finds


def test_the_right_score_beats_random_and_random_ties_with_itself(ran: Ran) -> None:
    assert ran.done.code == 0, ran.done.err
    by_name = {one.name: one for one in ran.found.entries}
    lead = by_name["sound"].lead["howto"]
    assert lead.mean is not None
    assert lead.half_width is not None
    assert lead.mean + lead.half_width < 0
    assert by_name["sound"].verdict["howto"] == BETTER
    assert by_name["random_again"].verdict["howto"] == TIE
    assert by_name["random_again"].bits == by_name["random"].bits  # paired: the same draws, so the same documents
    # the same selections under another name are trained once: three different entries, three seeds
    assert ran.items[TRAINING] == 9


def test_every_seed_draws_anew_and_every_manifest_verifies_in_its_folder(ran: Ran) -> None:
    for one in ran.found.entries:
        folder = ran.output / "compare" / one.name
        assert len(one.manifests) == 3
        assert Manifest.load(folder).digest == one.manifests[0]
        assert verify(Manifest.load(folder), lambda text: None).ok
    natural = next(one for one in ran.found.entries if one.name == "random")
    folders = [ran.output / "compare" / "random" / "manifests" / digest[:16] for digest in natural.manifests]
    chosen = [frozenset(_copies(Manifest.load(folder))) for folder in folders]
    assert len(set(chosen)) == 3
    assert not (ran.output / "CURRENT.json").exists()  # what the run published itself is its own


def test_every_entrys_diversity_is_measured_and_drawn_against_its_loss(ran: Ran) -> None:
    assert ran.found.diversity is not None
    facts = DiversityFacts.from_json(ran.found.diversity)
    assert [one.name for one in facts.selections] == [one["name"] for one in ENTRIES]
    assert facts.selections[0].found["vendi_1"] == facts.selections[1].found["vendi_1"]  # the same documents
    page = (ran.output / "compare.html").read_text(encoding="utf-8")
    section = page[page.index('id="diversity"') :]
    assert "howto, bits per byte" in section
    assert section.count('id="dot') >= len(ENTRIES)


def test_models_on_behalf_of_an_entry_are_counted(ran: Ran) -> None:
    """A linear scorer read the whole pool for one entry; columns and random documents cost nothing."""
    found = ran.found
    tokens = {one.name: one.scored_tokens for one in found.entries}
    assert tokens == {"random": 0, "random_again": 0, "sound": 0, "like_howto": found.pool_tokens}
    (cost,) = next(one for one in found.entries if one.name == "like_howto").costs
    assert (cost.what, cost.documents, cost.flops) == ("scoring like_howto", 300, 2.0 * 2 * found.pool_tokens)


def test_table_page_and_markdown_say_the_same(ran: Ran) -> None:
    html = (ran.output / "compare.html").read_text(encoding="utf-8")
    markdown = (ran.output / "compare.md").read_text(encoding="utf-8")
    for one in ran.found.entries:
        assert one.level["howto"].mean is not None
        level = f"{one.level['howto'].mean:.3f} ± {one.level['howto'].half_width:.3f}"
        assert all(level in text and one.name in text for text in (ran.done.out, html, markdown))
    assert "random_again" in ran.done.out.split("not told apart from random")[0].rsplit(";", 1)[-1]
    assert "3 seeds" in ran.done.out
    assert html.count("<svg") == 3
    assert "mathdefault" not in html


def test_again_trains_nothing_and_changes_no_byte(ran: Ran) -> None:
    before = {name: (ran.output / name).read_bytes() for name in ("compare.json", "compare.html", "compare.md")}
    engine = InlineEngine()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("quadmix.cli.make_engine", lambda config, progress: engine)
        assert quadmix("compare", ran.file).code == 0
    assert TRAINING not in engine.items
    assert "annotate" not in engine.items
    assert {name: (ran.output / name).read_bytes() for name in before} == before


def test_a_killed_comparison_goes_on_to_the_same_bytes(ran: Ran, tmp_path: Path, inline: InlineEngine) -> None:
    """It was begun by another process, elsewhere."""
    file = write_config(tmp_path / "run.yaml", values(ran.file.parent / "pool", tmp_path / "out", *ENTRIES))
    process = start("compare", file, before=_TASKS_HERE)
    deadline = time.monotonic() + 240
    journals: list[Path] = []
    while not journals or journals[0].read_bytes().count(b"\n") < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
        journals = list((tmp_path / "out" / "stages").glob("compare-*/journal.jsonl"))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    done = quadmix("compare", file)
    assert done.code == 0, done.err
    assert inline.items[TRAINING] <= 7
    assert "annotate" not in inline.items
    assert (tmp_path / "out" / "compare.json").read_bytes() == (ran.output / "compare.json").read_bytes()


@pytest.mark.long
def test_quad_selects_once_and_its_passes_are_costs(pool: Path, tmp_path: Path, inline: InlineEngine) -> None:
    config = values(pool, tmp_path / "out", ENTRIES[0], entry("quad", selector="quad", mixture="free"))
    config["annotate"]["clusters"] = {"kind": "embeddings", "k": 6, "embedder": {"kind": "lsa", "dimensions": 8}}
    config["quad"] = {
        "max_scored": 0.5, "docs_per_pull": 4, "reference_tokens": 2_000, "max_tokens": 32,
        "model": {"kind": "proxy", "train_tokens": 5_000, "proxy": MODEL},
    }  # fmt: skip
    done = quadmix("compare", write_config(tmp_path / "run.yaml", config), "--json")
    assert done.code == 0, done.err
    quad = next(one for one in done.json["entries"] if one["name"] == "quad")
    assert len(quad["manifests"]) == 1
    assert "selected once" in quad["note"]
    assert [cost["what"] for cost in quad["costs"]] == [
        "embedding for clusters", "training quad's proxy", "quad's references", "quad's benefits",
    ]  # fmt: skip
    assert all(cost["tokens"] > 0 and cost["flops"] > 0 for cost in quad["costs"])
    assert verify(Manifest.load(tmp_path / "out" / "compare" / "quad"), lambda text: None).ok


@pytest.mark.long
@pytest.mark.spark
def test_processes_and_spark_give_the_same_bytes(ran: Ran, tmp_path: Path) -> None:
    for name, engine in (
        ("local", {"kind": "local", "workers": 2}),
        ("spark", {"kind": "spark", "master": "local[2]"}),
    ):
        config = values(ran.file.parent / "pool", tmp_path / name, *ENTRIES) | {"engine": engine}
        done = quadmix("compare", write_config(tmp_path / f"{name}.yaml", config))
        assert done.code == 0, done.err
        assert (tmp_path / name / "compare.json").read_bytes() == (ran.output / "compare.json").read_bytes()


# ------------------------------------------------------------------------------------------ refusals


def test_an_entry_that_cannot_be_built_is_told_before_anything_is_trained(
    pool: Path, tmp_path: Path, inline: InlineEngine
) -> None:
    """Twice the documents make this budget, and top-k takes each once; the search has not begun."""
    config = values(
        pool, tmp_path / "out", ENTRIES[0], ENTRIES[2], entry("wrong", mixture="topk", criterion="wrong"),
        entry("quadmix", mixture="proposal"),
    )  # fmt: skip
    config["mixture"]["budget"] = 250_000
    config["search"] = {"trials": 8, "tokens_per_trial": 20_000, "proxy": MODEL}
    done = quadmix("compare", write_config(tmp_path / "run.yaml", config))
    assert done.code == 2
    for place, name in ((1, "sound"), (2, "wrong")):
        assert f"compare.entries.{place} ('{name}') cannot be built: mixture.budget: asked 250,000 tokens" in done.err
    assert not [label for label in inline.items if "train" in label or "search" in label]
    assert "resume at stage 'select'" in done.last_line


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"against": "nobody"}, "compare.against: found 'nobody', wanted the name of the entry"),
        ({"train_tokens": 50_000}, "compare.train_tokens: found 50,000, wanted at most mixture.budget, 40,000"),
        ({"train_tokens": 32}, "compare.train_tokens: found 32, wanted more than one row of the target model"),
        ({"entries": [ENTRIES[0], entry("Random", mixture="uniform")]}, "compare.entries.1.name: found 'Random' a sec"),
        (
            {"entries": [ENTRIES[0], entry("top", mixture="topk", criterion="sond")]},
            "compare.entries.1.select.criterion: found 'sond', wanted one of mixture.criteria",
        ),
        ({"entries": [ENTRIES[0], entry("best")]}, "search: missing, but select.mixture is 'winner'"),
        (
            {"entries": [ENTRIES[0], entry("quad", selector="quad", mixture="free")]},
            "annotate.clusters: missing, but select.selector is quad",
        ),
        (
            {"entries": [ENTRIES[0], {**entry("o", selector="odis", mixture="free"), "odis": {"dimensions": ["x"]}}]},
            "compare.entries.1.odis.dimensions",
        ),
    ],
)
def test_a_config_is_refused_with_the_place_in_it(pool: Path, tmp_path: Path, change: Any, problem: str) -> None:
    config = values(pool, tmp_path / "out", *ENTRIES)
    config["compare"] |= change
    with pytest.raises(ConfigError) as error:
        check_config(config)
    assert any(line.startswith(problem) for line in error.value.problems), error.value.problems


def test_counts_of_the_users_own_are_refused(pool: Path, tmp_path: Path) -> None:
    """Documents are thinned by their counts, and target models must read equal numbers of tokens."""
    config = values(pool, tmp_path / "out", *ENTRIES)
    config["pool"]["columns"]["tokens"] = "words"
    with pytest.raises(ConfigError, match=r"pool\.columns\.tokens: found 'words'"):
        check_config(config)


def test_an_entry_replaces_single_keys_of_a_section(pool: Path, tmp_path: Path) -> None:
    odis = entry("odis", selector="odis", mixture="free")
    config = values(pool, tmp_path / "out", ENTRIES[0], {**odis, "odis": {"floor": None}})
    config["odis"] = {"dimensions": ["sound", "wrong"], "components": 2, "floor": 0.5}
    checked = check_config(config)
    assert checked.compare is not None
    own = checked.compare.entries[1].sections(dict(checked))
    assert (own["odis"].floor, own["odis"].components) == (None, 2)
    assert own["select"].selector == "odis"


def test_without_a_section_the_command_says_what_is_missing(tmp_path: Path) -> None:
    where = f"output={tmp_path / 'out'}"
    done = quadmix("compare", ROOT / "configs" / "quickstart.yaml", "--set", where)
    assert done.code == 2
    assert "compare: missing, wanted a section with `entries`" in done.err


def test_plan_counts_target_models_and_refuses_a_budget_by_entry(pool: Path, tmp_path: Path) -> None:
    config = values(pool, tmp_path / "out", *ENTRIES)
    estimate = make_estimate(check_config(config))
    assert (estimate.target_models, estimate.target_tokens) == (12, 12 * 10_000)
    assert estimate.seconds["compare"] > 0
    assert estimate.problems == ()
    assert any("12 target models" in line for line in estimate.lines())
    config["mixture"]["budget"] = 10**9
    problems = make_estimate(check_config(config)).problems
    assert any(line.startswith("compare.entries.2 ('sound'): mixture.budget: asked 1,000,000,000") for line in problems)


def test_the_shipped_config_is_sound() -> None:
    compare = read_config(ROOT / "configs" / "compare.yaml").compare
    assert compare is not None
    assert compare.against in {one.name for one in compare.entries}


# ------------------------------------------------------------------------------------------ its parts


def test_intervals_are_those_of_a_paired_t_test() -> None:
    rng = np.random.default_rng(1)
    mine, theirs = rng.normal(2.0, 0.1, (2, 5)), rng.normal(2.1, 0.1, (2, 5))
    bits, reference = (with_mean({"a": part[0].tolist(), "b": part[1].tolist()}) for part in (mine, theirs))
    level, lead, words = judged(bits, reference, 0.9)
    for key, one, other in (("a", mine[0], theirs[0]), ("mean", mine.mean(axis=0), theirs.mean(axis=0))):
        low, high = stats.ttest_rel(one, other).confidence_interval(0.9)
        assert lead[key].mean == pytest.approx((low + high) / 2)
        assert lead[key].half_width == pytest.approx((high - low) / 2)
        assert level[key].mean == pytest.approx(one.mean())
        assert words[key] == (BETTER if high < 0 else WORSE if low > 0 else TIE)


def test_a_failed_model_takes_its_seed_out_of_means_and_pairs() -> None:
    bits = with_mean({"a": [1.0, None, 3.0], "b": [2.0, 2.0, 2.0]})
    assert bits["mean"] == [1.5, None, 2.5]
    _, lead, words = judged(bits, with_mean({"a": [1.0] * 3, "b": [1.0] * 3}), 0.95)
    assert (lead["a"].n, lead["mean"].n, lead["b"].n) == (2, 2, 3)
    assert words["b"] == WORSE  # one everywhere, without spread
    assert judged(with_mean({"a": [None, 1.0]}), with_mean({"a": [1.0, 1.0]}), 0.95)[2]["a"] == FAILED


def test_a_model_reads_documents_with_all_of_their_copies(ran: Ran, tmp_path: Path) -> None:
    """Drawn down to a third, then to all: tokens are met, copies are the manifest's."""
    manifest = Manifest.load(ran.output / "compare" / "random")
    held = _copies(manifest)
    copies = {int(doc_hash([name])[0]): count for name, count in held.items()}
    for tokens in (13_000, 10**6):
        reading = Draw(tuple(sorted(manifest.domains)), tokens)(
            (str(tmp_path / f"{tokens}.npy"), str(manifest.folder), 3)
        )
        rows = read_reading(reading.file)
        assert all(copies[int(row["doc_hash"])] == int(row["copies"]) for row in rows)
        assert reading.tokens <= min(tokens, manifest.realised_tokens)
    assert reading.documents == len(copies)
    assert reading.tokens == manifest.realised_tokens


def test_estimated_flops_are_those_that_torch_counts() -> None:
    """Of a training step. torch's counter does not know products that are added in place, as the embedding's gradient
    is: that one is counted here."""
    target = ProxyConfig(preset="custom", d_model=128, layers=2, heads=4, d_ff=384, seq_len=128, batch=8)
    for config in (ProxyConfig(), target):
        model = Decoder(config, 2048)
        rows = torch.zeros((config.batch, config.seq_len), dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            backward(model, rows, rows, 1.0)
        counted = counter.get_total_flops() / rows.numel() + 2.0 * 2048 * config.d_model
        assert training_flops(config, 2048) == pytest.approx(counted, rel=0.01)
        assert parameters(config, 2048) == sum(part.numel() for part in model.parameters())


def test_a_stored_comparison_is_read_back_whole(ran: Ran) -> None:
    raw = (ran.output / "compare.json").read_bytes()
    assert Comparison.from_json(raw).to_json() == raw
    with pytest.raises(VerificationError, match="not a comparison"):
        Comparison.from_json(raw.replace(b'"version": 1', b'"version": 0'))


def _copies(manifest: Manifest) -> dict[str, int]:
    batches = [batch for _, _, batch in read_rows(manifest, ("doc_id", "copies"))]
    pairs = [zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True) for batch in batches]
    return dict(itertools.chain.from_iterable(pairs))
