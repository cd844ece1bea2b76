"""Bad configurations are refused with every problem at once; good ones are read as written."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from quadmix.config import SparkEngineConfig
from quadmix.config_annotate import ColumnScorerConfig
from quadmix.config_reader import read_config
from quadmix.errors import ConfigError
from tests.conftest import ROOT

GOOD = """
output: {place}/out
pool:
  inputs: [{place}/pool]
  columns: {{id: id, text: text, domain: source}}
targets:
  - {{name: howto, path: {place}/target.jsonl}}
  - {{name: reference, path: {place}/target.jsonl}}
tokenizer: {{path: {place}/tokenizer.json}}
annotate:
  scorers:
    - {{kind: columns, columns: {{edu: scores.edu, odd: scores.odd}}, lower_is_better: [odd]}}
    - {{kind: linear, name: like_howto, positives: ["target:howto"]}}
    - {{kind: perplexity, train_on: [pool]}}
mixture: {{criteria: [edu, odd, like_howto, fluency], budget: 10M}}
search: {{trials: 16}}
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "pool").mkdir()
    (tmp_path / "target.jsonl").write_text("")
    (tmp_path / "tokenizer.json").write_text("{}")
    return tmp_path


def problems(place: Path, text: str = GOOD, *overrides: str) -> list[str]:
    path = place / "run.yaml"
    path.write_text(text.format(place=place), encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        read_config(path, list(overrides))
    assert raised.value.exit_code == 2
    return raised.value.problems


def test_a_good_configuration_is_read_as_written(place: Path) -> None:
    path = place / "run.yaml"
    path.write_text(GOOD.format(place=place))
    config = read_config(path)
    assert config.mixture.budget == 10_000_000
    scorer = config.annotate.scorers[0]
    assert isinstance(scorer, ColumnScorerConfig)
    assert scorer.columns == {"edu": "scores.edu", "odd": "scores.odd"}
    assert config.engine.kind == "local"
    as_json = place / "run.json"
    as_json.write_text(json.dumps(yaml.safe_load(path.read_text())))
    assert read_config(as_json) == config


def test_overrides_change_one_value(place: Path) -> None:
    path = place / "run.yaml"
    path.write_text(GOOD.format(place=place))
    overrides = [
        "seed=7",
        "annotate.scorers.1.epochs=2",
        "mixture.budget=1.5M",
        "search.proxy.lr=4e-3",
        "engine.conf.spark.executor.memory=2g",
        "engine.kind=spark",
        "select={mixture: natural}",
    ]
    config = read_config(path, overrides)
    assert (config.seed, config.mixture.budget, config.select.mixture) == (7, 1_500_000, "natural")
    assert config.annotate.scorers[1].epochs == 2  # type: ignore[union-attr]
    assert config.search is not None
    assert config.search.proxy.lr == 0.004
    assert config.engine == SparkEngineConfig(kind="spark", conf={"spark.executor.memory": "2g"})


def test_another_kind_replaces_its_section(place: Path) -> None:
    path = place / "run.yaml"
    path.write_text(GOOD.format(place=place) + "engine: {kind: local, workers: 3}\n")
    assert read_config(path, ["engine.kind=spark"]).engine == SparkEngineConfig(kind="spark")
    assert read_config(path, ["engine.kind=local"]).engine.workers == 3  # type: ignore[union-attr]


# one problem a row: the override that plants it, and what the line must hold
ONE_PROBLEM = [
    # budgets (catalogue 83)
    ("mixture.budget=0", "mixture.budget: found 0, wanted more than 0"),
    ("mixture.budget=-5", "mixture.budget: found -5, wanted more than 0"),
    ("mixture.budget=1.5", "mixture.budget: found 1.5, wanted a whole number or a form such as 500M or 10B"),
    ("mixture.budget=1e9", "mixture.budget: found 1000000000.0, wanted a whole number or a form such as 500M or 10B"),
    ("mixture.budget='1e9'", "mixture.budget: found '1e9', wanted a whole number or a form such as 500M or 10B"),
    ("mixture.budget=10Q", "mixture.budget: found '10Q', wanted"),
    ("mixture.budget=true", "mixture.budget: found a boolean, wanted"),
    # types are not guessed
    ("seed='5'", "seed: found '5', wanted a whole number"),
    ("seed=yes", "seed: found true, wanted a whole number"),
    ("seed=1.0", "seed: found 1.0, wanted a whole number"),
    ("seed=010", "seed: found '010', wanted a whole number"),
    ("seed=-1", "seed: found -1, wanted at least 0"),
    ("seed=9223372036854775808", "seed: found 9223372036854775808, wanted"),
    ("pool.recursive=1", "pool.recursive: found 1, wanted true or false"),
    ("pool.columns.text=no", "pool.columns.text: found false, wanted text; quote it"),
    ("pool.inputs=here", "pool.inputs: found 'here', wanted a list"),
    ("pool.inputs=[]", "pool.inputs: found 0 entries, wanted at least 1"),
    ("pool.unit_bytes=64 parsecs", "pool.unit_bytes: found '64 parsecs', wanted"),
    ("search.proxy.lr=.nan", "search.proxy.lr: found NaN, wanted a finite number"),
    ("search.proxy.lr=1e400", "search.proxy.lr: found Infinity, wanted a finite number"),
    ("pool.max_quarantine_fraction=2", "pool.max_quarantine_fraction: found 2, wanted at most 1"),
    ("mixture=3", "mixture: found 3, wanted a mapping of keys to values"),
    # names, with the nearest (catalogue 89)
    ("pol.inputs=[a]", "pol: unknown key; did you mean 'pool'?"),
    ("budget=5", "budget: unknown key; did you mean 'mixture.budget'?"),
    ("pool.domain=x", "pool.domain: unknown key; did you mean 'pool.columns.domain'?"),
    ("annotate.scorers.1.epocs=7", "annotate.scorers.1.epocs: unknown key; did you mean 'epochs'?"),
    ("engine={kind: spark, workers: 2}", "engine.workers: unknown key; wanted one of kind, master, conf"),
    ("engine.workers=2", "engine.kind: missing, wanted one of local, spark"),
    ("engine={kind: sparc}", "engine.kind: found 'sparc', wanted one of local, spark; did you mean 'spark'?"),
    ("annotate.domains={kind: cluster}", "annotate.domains.kind: found 'cluster', wanted one of column, linear, "),
    (
        "mixture.rank=intervall",
        "mixture.rank: found 'intervall', wanted 'interval' or 'paper'; did you mean 'interval'?",
    ),
    # between sections
    ("mixture.criteria=[edo]", "mixture.criteria.0: found 'edo', wanted a criterion of annotate.scorers"),
    ("mixture.criteria=[edu, edu]", "mixture.criteria.1: found 'edu' a second time"),
    ("annotate.scorers.1.name=edu", "annotate.scorers.1: found criterion 'edu' a second time"),
    ("annotate.scorers.1.positives=['target:howt']", "found 'target:howt'; did you mean 'howto'?"),
    ("annotate.scorers.1.positives=[gone.jsonl]", "annotate.scorers.1.positives.0: found 'gone.jsonl', which does not"),
    ("annotate.scorers.0.lower_is_better=[od]", "annotate.scorers.0.lower_is_better.0: found 'od', wanted"),
    ("annotate.scorers.0.ranges={edu: [5, 0]}", "annotate.scorers.0.ranges.edu: found [5.0, 0.0], wanted the smaller"),
    ("targets.1.name=howto", "targets.1.name: found 'howto' a second time"),
    ("targets.0.path=gone.jsonl", "targets.0.path: found 'gone.jsonl', which does not exist"),
    ("tokenizer.path=model.pkl", "tokenizer.path: UNSUPPORTED_FORMAT: found 'model.pkl'"),
    ("pool.columns.domain=null", "pool.columns.domain: missing, but annotate.domains takes labels from a column"),
    ("annotate.domains={kind: column, allowed: [a], unknown: default}", "annotate.domains.default: missing"),
    ("annotate.domains={kind: column, allowed: [a], default: a}", "which does nothing unless `unknown: default`"),
    ("annotate.domains={kind: linear}", "annotate.domains: wanted either `labelled` (to train) or `model`"),
    ("search=null", "search: missing, but select.mixture is 'winner'"),
    ("search.objective={howto: 1, refrence: 2}", "search.objective.refrence: found 'refrence', wanted the name of a"),
    ("search.rounds=8", "search.rounds: found 8, wanted at most trials / 8"),
    ("search.finalists=5", "search.average_top: found 10, wanted at most search.finalists, which is 5"),
    (
        "search.regressor={kind: log_linear, features: theta}",
        "search.regressor.kind: found 'log_linear' with features 'theta'",
    ),
    ("search.tokens_per_trial=300M", "search.tokens_per_trial: found 300,000,000, wanted at most search.pool_tokens"),
    ("mixture.space.cutoff=[0.5, 0.1]", "mixture.space.cutoff: found [0.5, 0.1], wanted the smaller bound first"),
    ("mixture.space.cutoff=[0.5, 1.5]", "mixture.space.cutoff: found [0.5, 1.5], wanted bounds within [0, 1]"),
    (
        "mixture.constraints={max_share: {a: 0.1}, min_share: {a: 0.2}}",
        "min_share.a: found 0.2, wanted at most max_share",
    ),
    ("mixture.constraints={fixed_share: {a: 0.1}, max_share: {a: 0.2}}", "fixed_share.a: found it bounded as well"),
    ("mixture.constraints={min_share: {a: 0.7, b: 0.6}}", "constraints.min_share: found shares that sum to 1.3"),
    ("mixture={criteria: [edu], budget: 9, rank: paper, constraints: {max_repeats: 2}}", "beside `rank: paper`"),
    (
        "mixture={criteria: [edu], budget: 9, rank: paper}",
        "mixture.rank: found 'paper' beside a search, wanted 'interval'",
    ),
    ("mixture={criteria: [edu], budget: 9, meet_budget: scale, constraints: {max_repeats: 2}}", "wanted `omega`"),
    ("mixture.constraints.max_repeats=0", "max_repeats"),
    ("search.objective_rule=best", "search.objective_rule: "),
    ("search={objective: {howto: 1}, objective_rule: worst}", "search.objective: found weights beside"),
    ("search={objective_rule: worst, confirm: {rivals: [uniform]}}", "search.confirm.rivals: wanted `natural` among"),
    ("targets.0.prompt=ask", "`prompt` and `completion` belong together"),
    ("select={mixture: topk, criterion: edo}", "select.criterion: found 'edo', wanted one of mixture.criteria"),
    ("select={mixture: theta}", "select: one of `theta` and `theta_file` must be given when, and"),
    ("engine={kind: spark, master: 'local[x]'}", "engine.master: found 'local[x]', wanted local[N]"),
    ("engine={kind: spark, conf: {executor.memory: 2g}}", "engine.conf.executor.memory: found a property that is not"),
    # the output must be a place of its own (catalogue 95)
    ("output=/", "output: UNSAFE_OUTPUT: found '/'"),
    ("output=~/runs", "output: UNSAFE_OUTPUT: found '~/runs'"),
    ("output={place}/pool", "output: UNSAFE_OUTPUT"),
    ("output={place}/pool/out", "which lies in, around or at pool.inputs.0"),
    ("output={place}", "output: UNSAFE_OUTPUT"),
    ("output={place}/target.jsonl", "which is a file; wanted a directory"),
    # overrides themselves
    ("seed", "--set seed: wanted path.to.key=value"),
    ("seed=[1", "--set seed line 1, column 3: not valid YAML"),
    ("pool.inputs.4=x", "--set pool.inputs.4: found a list of 1 (entries 0 to 0) at pool.inputs, which has no '4'"),
    ("seed.x=1", "seed: found"),
    ("seed=!!python/object/apply:os.system [ls]", "seed: UNSAFE_TAG: found !!python/object/apply:os.system"),
]


@pytest.mark.parametrize(("override", "wanted"), ONE_PROBLEM, ids=[row[0][:40] for row in ONE_PROBLEM])
def test_a_bad_value_is_refused_by_name(place: Path, override: str, wanted: str) -> None:
    found = problems(place, GOOD, override.replace("{place}", str(place)))
    if "target:howt'" in override:
        assert any("found 'howt', wanted the name of a target" in line and "'howto'" in line for line in found), found
    else:
        assert any(wanted in line for line in found), found


# traps of the text itself: the line appended to a good file, and what must be said
TRAPS = [
    ("seed: 1\nseed: 2", "seed: DUPLICATE_KEY"),
    ("select: {{theta: {{merge_weights: {{no: {{edu: 1}}}}}}}}", 'key parsed as a boolean; quote it: "no":'),
    ("select: {{theta: {{cutoff: {{1: 0.5}}}}}}", 'key parsed as a whole number; quote it: "1":'),
    ("select: {{theta: {{cutoff: {{~: 0.5}}}}}}", 'key parsed as null; quote it: "~":'),
    ("? [a, b]\n: 1", "found a list or mapping as a key"),
    ("seed: !!python/name:os.system x", "UNSAFE_TAG"),
    ("engine: &e [*e]", "an alias that contains itself"),
    ("seed: !thing 3", "UNSAFE_TAG: found !thing"),
]


@pytest.mark.parametrize(("trap", "wanted"), TRAPS, ids=[row[0][:30] for row in TRAPS])
def test_traps_of_yaml_are_refused_with_their_line(place: Path, trap: str, wanted: str) -> None:
    found = problems(place, GOOD + trap)
    matching = [line for line in found if wanted in line]
    assert len(matching) == 1, found
    assert " line " in matching[0]


LAUGHS = "a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8]\n" + "\n".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 8)}]" for level in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "found an empty file"),
        ("# nothing\n", "found an empty file"),
        ("[1, 2]", "wanted a mapping of keys to values at the top"),
        ("output: [a", "line 1, column 11: not valid YAML"),
        ("output: a\n---\noutput: b", "not valid YAML"),
        ("output: *nobody", "found undefined alias"),
        ("\toutput: a", "not valid YAML"),
        ("[" * 5000, "nested too deeply"),
        ("a: " + "x" * 300_000, "wanted a configuration of at most"),
        (LAUGHS, "aliases expand"),
    ],
    ids=["empty", "comment", "list", "cut", "two documents", "alias", "tab", "deep", "long", "laughs"],
)
def test_a_text_that_is_no_configuration_is_one_problem(place: Path, text: str, wanted: str) -> None:
    found = problems(place, text.replace("{", "{{").replace("}", "}}"))
    assert len(found) == 1
    assert wanted in found[0]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"quickstrat.yaml: cannot be read .*; did you mean 'quickstart.yaml'"):
        read_config(tmp_path / "quickstrat.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"output: caf\xe9")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_config(tmp_path / "latin.yaml")


def test_all_problems_are_told_at_once(place: Path) -> None:
    """Type errors, unknown keys, YAML traps and cross-checks of sound sections, in one go, with lines."""
    text = GOOD + "sed: 3\nseed: x\nselect: {{mixture: natural}}\nselect: {{mixture: topk}}\n"
    found = problems(place, text, "mixture.criteria=[edo]", "search.trials=three", "targets.1.name=howto")
    for wanted in (
        "sed: unknown key",
        "seed: found 'x'",
        "select: DUPLICATE_KEY",
        "search.trials",
        "edo",
        "targets.1.name",
    ):
        assert sum(wanted in line for line in found) == 1, (wanted, found)
    assert len(found) == 6
    lines = text.format(place=place).splitlines()
    assert f"(line {lines.index('sed: 3') + 1})" in next(line for line in found if line.startswith("sed"))
    assert next(line for line in found if "trials" in line).endswith("(from --set)")


def test_passwords_are_not_repeated(place: Path) -> None:
    found = problems(place, GOOD, "output=s3://user:secret@bucket/x", "seed=https://me:secret@host/")
    assert found
    assert "secret" not in "\n".join(found)


def test_plain_text_stays_text(place: Path) -> None:
    path = place / "run.yaml"
    path.write_text(GOOD.format(place=place) + "")
    config = read_config(path, ["pool.columns.text=2024-01-01", "pool.columns.id=1:30", "pool.columns.domain=0x10"])
    assert (config.pool.columns.text, config.pool.columns.id, config.pool.columns.domain) == (
        "2024-01-01",
        "1:30",
        "0x10",
    )


def test_anchors_and_merge_keys_work(place: Path) -> None:
    path = place / "run.yaml"
    path.write_text(
        GOOD.format(place=place).replace("search: {trials: 16}", "")
        + "search:\n  trials: 16\n  proxy: &p {preset: tiny}\n  regressor: {<<: {folds: 3}, folds: 4}\n"
    )
    config = read_config(path)
    assert config.search is not None
    assert config.search.regressor.folds == 4


def test_refusing_takes_under_two_seconds_and_no_jvm(place: Path) -> None:
    path = place / "run.yaml"
    path.write_text(GOOD.format(place=place) + "engine: {kind: spark, mastr: x}\n")
    script = (
        "import sys\n"
        "from quadmix.config_reader import read_config\n"
        "from quadmix.errors import ConfigError\n"
        f"try:\n    read_config({str(path)!r})\n"
        "except ConfigError as error:\n    print(error)\n"
        "heavy = {'pyspark', 'torch', 'lightgbm', 'numpy', 'pyarrow'} & {n.split('.')[0] for n in sys.modules}\n"
        "assert not heavy, heavy\n"
        "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_utime)"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    message, seconds = done.stdout.strip().splitlines()
    assert message.startswith("engine.mastr: unknown key; did you mean 'master'?")
    # CPU time: the wall clock of a busy machine says nothing
    assert float(seconds) < 2.0, f"{seconds} s of CPU, {time.monotonic() - started:.1f} s in all"


def test_pairs_of_a_proxy_are_read_like_all_other_values(place: Path) -> None:
    text = GOOD.format(place=place).replace("trials: 16", "trials: 16, proxy: {preset: tiny, betas: [0.8, 0.99]}")
    (place / "run.yaml").write_text(text)
    search = read_config(place / "run.yaml").search
    assert search is not None
    assert search.proxy.betas == (0.8, 0.99)
