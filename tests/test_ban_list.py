"""What must not be in the code: chance, clocks, orders that vary, data on the driver, input that runs as code.

Each finding is either removed or named in ALLOWED with the reason why it can reach no result; an entry that matches
nothing any more fails as well.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGES = ("quadmix", "jobs", "proxy_models")

# (file, rule): why it is harmless
ALLOWED: dict[tuple[str, str], str] = {
    ("quadmix/progress.py", "clock"): "time left, for display",
    ("quadmix/stages/records.py", "clock"): "the lock file says since when; no record holds it",
    ("proxy_models/data.py", "chance"): "name of a temporary file",
    ("proxy_models/curvature.py", "chance"): "name of a temporary file",
    ("quadmix/scorers/model_files.py", "chance"): "name of a temporary file",
    ("quadmix/scorers/language_models.py", "chance"): "name of a temporary directory",
    ("quadmix/scorers/clusters.py", "spark order"): "FitContext.sample chooses by document hash",
    ("quadmix/scorers/linear.py", "spark order"): "FitContext.sample chooses by document hash",
    ("quadmix/scorers/language_models.py", "spark order"): "FitContext.sample chooses by document hash",
    ("quadmix/scorers/density.py", "spark order"): "FitContext.sample chooses by document hash",
    ("quadmix/scorers/dsir.py", "spark order"): "FitContext.sample chooses by document hash",
    ("quadmix/scorers/rarity.py", "spark order"): "FitContext.sample chooses by document hash",
    ("quadmix/stages/label.py", "spark order"): "FitContext.sample chooses by document hash",
    ("quadmix/manifest/publish.py", "listing"): "removes what a killed attempt left",
    ("quadmix/stages/annotate.py", "listing"): "removes what a killed attempt left",
    ("quadmix/engine/spark.py", "clock"): "paces the size of Spark jobs; results are keyed by item",
    ("quadmix/engine/failures.py", "pickle"): "exceptions on their way from a worker of this run",
    ("quadmix/engine/local.py", "pickle"): "answers from workers of this run",
    ("quadmix/engine/spark.py", "pickle"): "answers from executors of this run",
    ("quadmix/engine/worker.py", "pickle"): "tasks and items from the parent process",
    ("quadmix/engine/shared_file.py", "pickle"): "a message between processes of one run, in a private directory",
}

_SPARK_CHANCE = {"sample", "sampleBy", "randomSplit", "monotonically_increasing_id", "dropDuplicates", "first", "limit"}
_ON_DRIVER = {"collect", "toPandas", "toLocalIterator", "applyInPandas", "rdd"}
_CLOCKS = {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns"}
_LISTINGS = {"listdir", "scandir", "glob", "iglob", "rglob", "iterdir", "walk"}
_ORDERED = {
    "sorted",
    "set",
    "frozenset",
    "any",
    "all",
    "len",
    "sum",
    "min",
    "max",
}  # what they give has no order to vary
_RANDOM_MODULES = {"random", "np.random", "numpy.random"}
_SEEDED = {"default_rng", "Generator", "PCG64", "Philox", "SeedSequence", "RandomState", "Random"}
_TORCH_CHANCE = {"rand", "randn", "randint", "randperm", "multinomial", "bernoulli", "normal"}


def findings(source: str) -> list[tuple[str, int]]:
    """(rule, line) of everything banned in a source text."""
    tree = ast.parse(source)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    return [(rule, node.lineno) for node in ast.walk(tree) for rule in _rules(node, parents) if hasattr(node, "lineno")]


def _rules(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> Iterator[str]:
    if isinstance(node, ast.Call):
        yield from _call_rules(node, parents)
    if isinstance(node, ast.Attribute) and node.attr == "rdd":
        yield "driver"
    if isinstance(node, ast.Attribute) and node.attr in _CLOCKS and ast.unparse(node.value) == "time":
        yield "clock"
    if isinstance(node, ast.Import | ast.ImportFrom):
        module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        names = (
            {alias.name.split(".")[0] for alias in node.names}
            if isinstance(node, ast.Import)
            else {module.split(".")[0]}
        )
        if names & {"random", "uuid", "secrets"}:
            yield "chance"
        if names & {"joblib", "marshal", "shelve", "dill"}:
            yield "pickle"
    iterated = [node.iter] if isinstance(node, ast.For | ast.comprehension) else []
    if any(_is_set(expression) for expression in iterated) and not _in_ordered(node, parents):
        yield "set order"


def _call_rules(node: ast.Call, parents: dict[ast.AST, ast.AST]) -> Iterator[str]:
    name = ast.unparse(node.func)
    receiver, _, last = name.rpartition(".")
    keywords = {keyword.arg: keyword.value for keyword in node.keywords}
    if receiver in _RANDOM_MODULES and last not in _SEEDED:
        yield "chance"
    if last in _SEEDED and last not in ("Generator", "PCG64", "Philox") and not node.args and not node.keywords:
        yield "chance"  # a generator without a seed
    if receiver == "torch" and last in _TORCH_CHANCE and "generator" not in keywords:
        yield "chance"
    if receiver.split(".")[0] in ("uuid", "secrets") or name == "os.urandom":
        yield "chance"
    if receiver and last in _SPARK_CHANCE:
        yield "spark order"
    if name == "hash":
        yield "python hash"
    if last in ("now", "utcnow", "today") and "date" in receiver:
        yield "clock"
    if receiver and last in _ON_DRIVER:
        yield "driver"
    if last in _LISTINGS and receiver and not _in_ordered(node, parents):
        yield "listing"
    if name in ("list", "tuple", "enumerate", "iter") and node.args and _is_set(node.args[0]):
        yield "set order"
    if last == "join" and node.args and _is_set(node.args[0]):
        yield "set order"
    if name in ("eval", "exec", "compile", "__import__", "os.system", "os.popen"):
        yield "code from data"
    if name in ("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load", "pickle.dump"):
        yield "pickle"
    for keyword in ("allow_pickle", "trust_remote_code", "shell"):
        if keyword in keywords and not (isinstance(keywords[keyword], ast.Constant) and not keywords[keyword].value):
            yield "code from data"
    if name in ("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"):
        yield "code from data"


def _is_set(node: ast.AST) -> bool:
    if isinstance(node, ast.Set | ast.SetComp):
        return True
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr | ast.BitAnd | ast.Sub | ast.BitXor):
        return _is_set(node.left) or _is_set(node.right)
    return isinstance(node, ast.Call) and ast.unparse(node.func) in ("set", "frozenset")


def _in_ordered(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    """Whether the expression ends in something that has no order of its own: sorted(...), a set, a count."""
    while node in parents and not isinstance(node, ast.stmt):
        node = parents[node]
        if isinstance(node, ast.SetComp):
            return True
        if isinstance(node, ast.Call) and ast.unparse(node.func) in _ORDERED:
            return True
    return False


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def test_nothing_banned_is_in_the_code() -> None:
    found: dict[tuple[str, str], list[int]] = {}
    for path in sources():
        for rule, line in findings(path.read_text(encoding="utf-8")):
            found.setdefault((path.relative_to(ROOT).as_posix(), rule), []).append(line)
    surprises = [
        f"{file}:{', '.join(map(str, lines))}: {rule}"
        for (file, rule), lines in found.items()
        if (file, rule) not in ALLOWED
    ]
    assert not surprises, "remove these, or name them in ALLOWED with the reason:\n" + "\n".join(surprises)
    stale = sorted(entry for entry in ALLOWED if entry not in found)
    assert not stale, f"these entries of ALLOWED match nothing any more: {stale}"


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("import random", "chance"),
        ("from uuid import uuid4", "chance"),
        ("np.random.shuffle(x)", "chance"),
        ("rng = np.random.default_rng()", "chance"),
        ("torch.randperm(5)", "chance"),
        ("os.urandom(8)", "chance"),
        ("df.sample(0.1)", "spark order"),
        ("df.dropDuplicates(['id'])", "spark order"),
        ("F.monotonically_increasing_id()", "spark order"),
        ("df.limit(5)", "spark order"),
        ("hash(doc_id) % 10", "python hash"),
        ("seed = time.time()", "clock"),
        ("datetime.datetime.now()", "clock"),
        ("rows = df.collect()", "driver"),
        ("df.toPandas()", "driver"),
        ("df.rdd.map(f)", "driver"),
        ("for path in directory.iterdir(): pass", "listing"),
        ("[p for p in os.listdir(d)]", "listing"),
        ("for name in {a, b}: pass", "set order"),
        ("for name in set(names): pass", "set order"),
        ("names = list(set(a) | set(b))", "set order"),
        ("','.join(set(names))", "set order"),
        ("eval(text)", "code from data"),
        ("np.load(path, allow_pickle=True)", "code from data"),
        ("yaml.load(text, Loader=L)", "code from data"),
        ("subprocess.run(c, shell=True)", "code from data"),
        ("torch.load(path)", "pickle"),
        ("pickle.loads(raw)", "pickle"),
        ("import joblib", "pickle"),
    ],
)
def test_each_rule_bites(source: str, rule: str) -> None:
    assert rule in [found for found, _ in findings(source)]


@pytest.mark.parametrize(
    "source",
    [
        "rng = np.random.default_rng(seed)",
        "torch.randperm(5, generator=g)",
        "for path in sorted(directory.iterdir()): pass",
        "names = sorted({a, b})",
        "known = {p.name for p in directory.iterdir()}",
        "hashing.doc_hash(ids)",
        "np.load(path, allow_pickle=False)",
        "x in set(names)",
        "re.sub('a', 'b', c)",
    ],
)
def test_the_rules_leave_the_harmless_alone(source: str) -> None:
    assert findings(source) == []
