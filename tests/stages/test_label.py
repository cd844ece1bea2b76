"""`quadmix label` against a server on this machine: the file, what is paid, what a kill costs, what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr

from quadmix.cli import main
from quadmix.config import RunConfig
from quadmix.config_reader import check_config
from quadmix.engine.local import LocalEngine
from quadmix.errors import ConfigError, ResourceError
from quadmix.progress import Progress
from quadmix.stages.label import Labelled, label
from quadmix.stages.pipeline import Pipeline
from quadmix.stages.plan import make_estimate
from tests.e2e.scored_pool import write_scored_pool
from tests.e2e.small_pool import ROOT
from tests.labels.stub_server import Reply, Stub, stub_server
from tests.stages.inline_engine import InlineEngine

RUBRICS = {"depth": {"text": "How deep?"}, "care": {"text": "How careful?", "scale": [0, 10]}}
HEADS = {"kind": "heads", "labelled": ["LABELS"], "labels": {"deep": "depth", "careful": "care"}}


def values(tmp_path: Path, url: str, **changes: Any) -> dict[str, Any]:
    if not (tmp_path / "pool").exists():
        write_scored_pool(tmp_path / "pool", docs=60, shards=3)
    endpoint = {"url": url, "model": "small", "api_key_env": None, "retries": 0, **changes.pop("endpoint", {})}
    labels = {
        "file": str(tmp_path / "labels.jsonl"), "endpoint": endpoint, "price": {"input": 1, "output": 2},
        "sample_docs": 12, "dimensions": ["depth", "care"], "rubrics": RUBRICS, **changes,
    }  # fmt: skip
    scorers = [
        {"kind": "columns", "columns": {"score": "score"}},
        {**HEADS, "labelled": [labels["file"]]},
    ]
    return {
        "output": str(tmp_path / "out"),
        "seed": 3,
        "pool": {
            "inputs": [str(tmp_path / "pool")],
            "columns": {"id": "id", "text": "text", "domain": "domain", "tokens": "n_tokens"},
        },
        "tokenizer": {"path": str(ROOT / "examples" / "tokenizer" / "tokenizer.json")},
        "labels": labels,
        "annotate": {"scorers": scorers},
        "mixture": {"criteria": ["score"], "budget": 100},
        "select": {"mixture": "natural"},
    }


def config(tmp_path: Path, stub: Stub, **changes: Any) -> RunConfig:
    return check_config(values(tmp_path, stub.url, **changes))


def run(asked: RunConfig) -> Labelled:
    return label(asked, InlineEngine(), Progress.silent())


def number_in(body: dict[str, Any]) -> int:
    found = re.search(r"text of document (\d+)", body["messages"][1]["content"])
    assert found is not None
    return int(found[1])


def rate(body: dict[str, Any], before: int) -> Reply:
    """Deep is the document's number modulo 5, careful is ten times its last digit's oddness."""
    number = number_in(body)
    score = 1 + number % 5 if "Dimension: depth" in body["messages"][0]["content"] else 10.0 * (number % 2)
    return Reply(json.dumps({"score": score}), usage={"prompt_tokens": 100, "completion_tokens": 5})


@pytest.fixture
def stub() -> Iterator[Stub]:
    with stub_server(rate) as found:
        yield found


def rows(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]


def test_the_file_has_the_documents_and_their_answers(tmp_path: Path, stub: Stub) -> None:
    found = run(config(tmp_path, stub))
    assert len(rows(tmp_path)) == len({row["id"] for row in rows(tmp_path)}) == 12
    for row in rows(tmp_path):
        number = int(row["id"].removeprefix("doc-"))
        assert row["text"] == f"text of document {number} " * 4
        assert (row["depth"], row["care"]) == (1 + number % 5, 10 * (number % 2))
    assert found.asked == len(stub.requests) == 24
    assert found.cost == pytest.approx(24 * (100 * 1 + 5 * 2) / 1e6)
    assert [(row["dimension"], row["answers"], row["missing"]) for row in found.rows] == [
        ("depth", 12, 0), ("care", 12, 0),
    ]  # fmt: skip
    assert stub.most_at_once <= 8


def test_the_sample_is_a_part_of_a_larger_one_and_answers_are_not_paid_for_twice(tmp_path: Path, stub: Stub) -> None:
    run(config(tmp_path, stub))
    few = rows(tmp_path)
    assert run(config(tmp_path, stub)).asked == 0
    assert len(stub.requests) == 24
    found = run(config(tmp_path, stub, sample_docs=20))
    assert found.asked == 16
    assert rows(tmp_path)[:12] == few
    assert found.cost == pytest.approx(40 * 110 / 1e6)
    assert run(config(tmp_path, stub, rubrics={**RUBRICS, "depth": {"text": "How profound?"}})).asked == 12


def test_a_killed_run_goes_on_and_pays_nothing_twice(tmp_path: Path) -> None:
    def broken_after_nine(body: dict[str, Any], before: int) -> Reply:
        return rate(body, before) if before < 9 else Reply("down", 503)

    with stub_server(broken_after_nine) as stub, pytest.raises(ResourceError, match="no answer in 1 attempts"):
        run(config(tmp_path, stub))
    assert not (tmp_path / "labels.jsonl").exists()
    journal = tmp_path / "out" / "labels" / "answers.jsonl"
    with journal.open("ab") as torn:
        torn.write(b'{"entry":{"key":"half a li')
    with stub_server(rate) as again:
        assert run(config(tmp_path, again)).asked == 24 - 9
        assert len(again.requests) == 24 - 9
    asked_twice = {json.dumps(body["messages"]) for _, body in stub.requests[:9]} & {
        json.dumps(body["messages"]) for _, body in again.requests
    }
    assert not asked_twice
    with stub_server(rate) as whole:
        other = tmp_path / "other"
        other.mkdir()
        run(config(other, whole))
    assert rows(tmp_path) == rows(other)


def test_ctrl_c_keeps_what_was_answered(tmp_path: Path) -> None:
    class Interrupting(Progress):
        def track(self, label: str, total: int) -> Any:
            tracking = super().track(label, total)
            if label != "labels":
                return tracking
            entered = tracking.__enter__()

            def advance(n: int = 1, note: str = "") -> None:
                entered.done += n
                if entered.done == 5:
                    raise KeyboardInterrupt

            entered.advance = advance  # type: ignore[method-assign]
            tracking.__enter__ = lambda: entered
            return _Entered(entered, tracking)

    with stub_server(rate) as stub:
        asked = config(tmp_path, stub, endpoint={"concurrency": 2})
        with pytest.raises(KeyboardInterrupt):
            label(asked, InlineEngine(), Interrupting("silent"))
        sent = len(stub.requests)
        assert 5 <= sent <= 5 + 2 * 2
        assert run(asked).asked == 24 - sent


class _Entered:
    def __init__(self, track: Any, manager: Any) -> None:
        self.track, self.manager = track, manager

    def __enter__(self) -> Any:
        return self.track

    def __exit__(self, *error: Any) -> Any:
        return self.manager.__exit__(*error)


def test_answers_that_are_no_number_are_asked_again_then_missing(tmp_path: Path) -> None:
    def reply(body: dict[str, Any], before: int) -> Reply:
        again = "An earlier answer" in body["messages"][0]["content"]
        number = number_in(body)
        if number % 3 == 0 or (number % 3 == 1 and not again):
            return Reply("I would say 5 out of 5!", usage={"prompt_tokens": 100, "completion_tokens": 5})
        return rate(body, before)

    with stub_server(reply) as stub:
        found = run(config(tmp_path, stub, sample_docs=20))
        kinds = [int(row["id"].removeprefix("doc-")) % 3 for row in rows(tmp_path)]
        assert set(kinds) == {0, 1, 2}
        assert [row["depth"] is None for row in rows(tmp_path)] == [kind == 0 for kind in kinds]
        attempts = 2 * sum(1 if kind == 2 else 2 for kind in kinds)
        assert len(stub.requests) == attempts
        assert found.cost == pytest.approx(attempts * 110 / 1e6)
        assert found.rows[0]["missing"] == kinds.count(0)
        assert run(config(tmp_path, stub, sample_docs=20)).asked == 0
        assert run(config(tmp_path, stub, sample_docs=20, attempts=3)).asked == 2 * kinds.count(0)
    assert any("incomplete: leave_out" in line for line in found.lines())


def test_a_cost_above_the_limit_is_refused_before_anything_is_sent(tmp_path: Path, stub: Stub) -> None:
    with pytest.raises(ConfigError, match=r"labels\.max_cost: 24 questions would cost about 0\.00\d+, allowed are"):
        run(config(tmp_path, stub, max_cost=0.001))
    assert not stub.requests
    estimate = make_estimate(config(tmp_path, stub, max_cost=0.001))
    assert any("labels.max_cost" in problem for problem in estimate.problems)


def test_the_plan_expects_what_the_run_then_counts(tmp_path: Path, stub: Stub) -> None:
    asked = config(tmp_path, stub)
    expected = make_estimate(asked).labels
    said: list[str] = []
    progress = Progress.silent()
    progress.say = said.append  # type: ignore[method-assign]
    label(asked, InlineEngine(), progress)
    assert expected is not None
    assert (expected.documents, expected.dimensions, expected.questions) == (12, 2, 24)
    (counted,) = re.findall(r"24 to ask, ([\d,]+) \+ at most 384 tokens", "\n".join(said))
    assert int(counted.replace(",", "")) == pytest.approx(expected.input_tokens, rel=0.1)
    assert expected.cost == pytest.approx((expected.input_tokens * 1 + 24 * 16 * 2) / 1e6)
    assert make_estimate(asked).labels is None  # the file is there
    with_encoder = values(tmp_path, stub.url)
    with_encoder["annotate"]["scorers"][1]["model"] = {"kind": "encoder", "d_model": 512, "max_tokens": 1024}
    assert make_estimate(check_config(with_encoder)).seconds["annotate"] > make_estimate(asked).seconds["annotate"]


def test_an_endpoint_that_counts_more_than_expected_is_stopped_at_the_limit(tmp_path: Path) -> None:
    def dear(body: dict[str, Any], before: int) -> Reply:
        return Reply('{"score": 1}', usage={"prompt_tokens": 10_000, "completion_tokens": 5})

    with stub_server(dear) as stub:
        with pytest.raises(ConfigError, match=r"are spent, with \d+ questions to go"):
            run(config(tmp_path, stub, max_cost=0.05, endpoint={"concurrency": 1}))
        assert 6 <= len(stub.requests) <= 8


def test_an_edited_file_is_not_written_over(tmp_path: Path, stub: Stub) -> None:
    run(config(tmp_path, stub))
    file = tmp_path / "labels.jsonl"
    file.write_text(file.read_text().replace('"depth": 3.0', '"depth": 2.5'))
    edited = file.read_bytes()
    with pytest.raises(ConfigError, match="it stays as it is"):
        run(config(tmp_path, stub, sample_docs=20))
    assert file.read_bytes() == edited
    assert len(stub.requests) == 24


def test_requests_that_are_all_refused_end_the_run_and_single_ones_do_not(tmp_path: Path) -> None:
    wanted = r"refused 20 requests in a row, at last: 400 .*temperature"
    with (
        stub_server(lambda body, n: Reply("temperature is not supported", 400)) as stub,
        pytest.raises(ConfigError, match=wanted),
    ):
        run(config(tmp_path, stub))
    with stub_server(lambda body, n: Reply("filtered", 400) if number_in(body) % 4 == 0 else rate(body, n)) as stub:
        found = run(config(tmp_path, stub))
    numbers = [int(row["id"].removeprefix("doc-")) for row in rows(tmp_path)]
    assert [row["care"] is None for row in rows(tmp_path)] == [number % 4 == 0 for number in numbers]
    assert len(found.refused) == 1
    assert "filtered" in found.refused[0]


def test_a_run_that_needs_the_file_says_what_to_do(tmp_path: Path, stub: Stub) -> None:
    asked = config(tmp_path, stub)
    with pytest.raises(ConfigError, match=r"scorers\.1\.labelled: .*is not there yet; `quadmix label CONFIG` "):
        Pipeline(asked, InlineEngine(), Progress.silent(), "annotate").run()
    assert not stub.requests


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"endpoint": {"url": "ftp://x/v1"}}, r"labels\.endpoint\.url: found 'ftp://x/v1', wanted the base"),
        ({"endpoint": {"url": "https://me:secret@x/v1"}}, r"labels\.endpoint\.url: found a name or a password"),
        ({"endpoint": {"api_key_env": "sk-abc"}}, r"labels\.endpoint\.api_key_env"),
        ({"endpoint": {"parameters": {"model": "x"}}}, r"labels\.endpoint\.parameters\.model"),
        ({"dimensions": ["depth", "wit"]}, r"labels\.dimensions: no rubric for 'wit'"),
        ({"dimensions": ["depth"]}, r"scorers\.1\.labels\.careful: found 'care', wanted one of the dimensions"),
        ({"rubrics": {**RUBRICS, "id": {"text": "?"}}, "dimensions": ["depth", "care", "id"]}, r"found 'id', the name"),
        ({"file": "labels.csv"}, r"labels\.file: found 'labels\.csv'"),
        ({"rubric_file": "nowhere.yaml"}, r"labels\.rubric_file: cannot read nowhere\.yaml"),
    ],
)
def test_mistakes_of_the_section_are_named(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as refused:
        check_config(values(tmp_path, "http://127.0.0.1:9/v1", **change))
    assert "secret" not in str(refused.value)


def dealt(tmp_path: Path) -> None:
    """A pool whose texts show their numbers: documents of five subjects, careful or not."""
    subjects = ("river trout", "theorem proof", "flour oven", "cookie login", "quark gluon")
    rows = [
        {
            "id": f"doc-{number:05d}",
            "text": f"text of document {number} " + f"{subjects[number % 5]} {('hasty', 'careful')[number % 2]} " * 12,
            "domain": ("forum", "law")[number % 3 == 0],
            "n_tokens": 40,
            "score": float(number % 7),
        }
        for number in range(200)
    ]
    (tmp_path / "pool").mkdir()
    for shard in range(4):
        pq.write_table(pa.Table.from_pylist(rows[shard::4]), tmp_path / "pool" / f"part-{shard}.parquet")


def annotated(asked: dict[str, Any], output: Path, unit_bytes: str, engine: Any) -> dict[str, tuple[float, float]]:
    values = {**asked, "output": str(output), "pool": {**asked["pool"], "unit_bytes": unit_bytes}}
    pipeline = Pipeline(check_config(values), engine, Progress.silent(), "annotate")
    pipeline.run()
    assert pipeline.annotated is not None
    table = pa.concat_tables([pq.read_table(file) for file in pipeline.annotated.files], promote_options="permissive")
    columns = (table[name].to_pylist() for name in ("doc_id", "score_deep", "score_careful"))
    return {doc_id: (deep, careful) for doc_id, deep, careful in zip(*columns, strict=True)}


RIDGE = {"kind": "ridge"}
ENCODER = {
    "kind": "encoder", "d_model": 16, "layers": 1, "heads": 1, "d_ff": 32, "max_tokens": 64, "epochs": 6, "lr": 0.01,
}  # fmt: skip


@pytest.mark.parametrize(
    ("model", "engine"),
    [
        pytest.param(ENCODER, "local", id="encoder, local"),
        pytest.param(RIDGE, "local", id="ridge, local", marks=pytest.mark.long),
        pytest.param(ENCODER, "spark", id="encoder, spark", marks=[pytest.mark.spark, pytest.mark.long]),
    ],
)
def test_heads_learn_from_the_file_and_every_engine_scores_alike(
    tmp_path: Path, stub: Stub, model: dict[str, Any], engine: str, request: pytest.FixtureRequest
) -> None:
    dealt(tmp_path)
    asked = values(tmp_path, stub.url, sample_docs=110)
    asked["annotate"]["scorers"][1] |= {"model": model, "explained_variance": 1.0}
    run(check_config(asked))
    found = annotated(asked, tmp_path / "one", "128MiB", InlineEngine())
    numbers = [int(doc_id.removeprefix("doc-")) for doc_id in found]
    for place, label_of in enumerate((lambda n: 1 + n % 5, lambda n: 10 * (n % 2))):
        assert spearmanr([one[place] for one in found.values()], [label_of(n) for n in numbers]).statistic > 0.8
    other: Any = request.getfixturevalue("spark_engine") if engine == "spark" else LocalEngine(1, Progress.silent())
    assert annotated(asked, tmp_path / "two", "4KiB", other) == found
    if engine == "local":
        other.close()


def test_the_command_prints_the_table_and_says_what_is_kept(
    tmp_path: Path,
    stub: Stub,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    inline: InlineEngine,
) -> None:
    file = tmp_path / "run.yaml"
    asked = values(tmp_path, stub.url, endpoint={"api_key_env": "LABEL_KEY"})
    file.write_text(json.dumps(asked))
    monkeypatch.delenv("LABEL_KEY", raising=False)
    assert main(["label", str(file)]) == 2
    assert "LABEL_KEY is not set" in (said := capsys.readouterr().err)
    assert "answers that were paid for are kept" in said
    monkeypatch.setenv("LABEL_KEY", "not-a-secret-of-anyone")
    assert main(["label", str(file)]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"depth +12 +0 ", out)
    assert out.splitlines()[-1] == asked["labels"]["file"]
    assert "12 documents x 2 dimensions, 24 to ask" in err
    assert main(["label", str(file), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["asked"], again["documents"]) == (0, 12)
    everything = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert b"not-a-secret-of-anyone" not in everything + (tmp_path / "labels.jsonl").read_bytes()
    assert main(["plan", str(file)]) in (0, 2)
    assert "labels  " not in capsys.readouterr().out
