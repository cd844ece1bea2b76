"""The quick start's bars: what `make demo` promises after set-up, measured on the run itself.

    python -m benchmarks.quickstart [--output FOLDER]

Runs `quadmix run configs/quickstart.yaml` from nothing into a folder of its own and prints each bar with what was
found; the exit code is 1 where one is missed. Wall time means little on a machine that does other work: the CPU
seconds are printed beside it. Memory is the sum of the resident sets of all processes, an upper bound.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measuring import ROOT, Measured, measure
from quadmix.search.result import JOINT, Interval, SearchResult

_MIB = 1024


@dataclass(frozen=True)
class Bar:
    """One promise: what was found, what was wanted, and whether it holds."""

    name: str
    found: str
    wanted: str
    met: bool


def bars(cost: Measured, result: SearchResult) -> Iterator[Bar]:
    """Every bar of the quick start."""
    yield Bar("wall time", f"{cost.wall:.0f} s ({cost.cpu:.0f} CPU s)", "at most 600 s", cost.wall <= 600)
    yield Bar("peak memory", f"{cost.peak:.0f} MiB", f"under {3 * _MIB} MiB", cost.peak < 3 * _MIB)
    thetas = [trial for trial in result.trials if trial.kind == "theta" and trial.losses is not None]
    yield Bar("trials", str(len(thetas)), "at least 48", len(thetas) >= 48)
    tokens = result.tokens_per_trial
    yield Bar("tokens of a trial", f"{tokens:,}", "at least 200,000", tokens >= 200_000)
    check = result.cross_validation
    spearman, permuted = check.scores[JOINT].spearman, check.permuted[JOINT].spearman
    yield Bar("held-out Spearman, joint", f"{spearman:.3f} (permuted {permuted:.3f})", "at least .85", spearman >= 0.85)
    for name, target in result.targets.items():
        assert target.median_loss is not None
        below = target.unigram_entropy - target.median_loss
        yield Bar(f"median proxy below unigram, {name}", f"{below:.2f} nats", "at least .1", below >= 0.1)
    by_name = {mixture.name: mixture for mixture in result.confirmation.mixtures}
    ours = by_name[result.confirmation.mixtures[0].name].loss[JOINT]
    for name in ("natural", "uniform"):
        loss = by_name[name].loss[JOINT]
        found = f"{_interval(ours)} against {_interval(loss)}"
        yield Bar(f"joint loss, ours against {name}", found, "below, intervals apart", _high(ours) < _low(loss))


def _interval(one: Interval) -> str:
    return f"{one.mean:.3f} ± {one.half_width:.3f}"


def _low(one: Interval) -> float:
    assert one.mean is not None
    assert one.half_width is not None
    return one.mean - one.half_width


def _high(one: Interval) -> float:
    return 2 * (one.mean or 0.0) - _low(one)


def quick_start(folder: Path) -> tuple[Measured, SearchResult]:
    """Run the shipped config with its output in `folder`."""
    values: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "quickstart.yaml").read_text(encoding="utf-8"))
    output = folder / "quickstart"
    file = folder / "quickstart.yaml"
    file.write_text(yaml.safe_dump({**values, "output": str(output)}, sort_keys=False), encoding="utf-8")
    cost = measure([sys.executable, "-m", "quadmix.cli", "run", str(file), "--json"], {})
    (result,) = output.glob("stages/search-*/result*.json")
    return cost, SearchResult.from_json(result.read_bytes())


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--output", type=Path, help="keep the run here; a temporary folder otherwise")
    given = arguments.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.output or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if list(folder.iterdir()):
            raise SystemExit(f"{folder} is not empty; the quick start is measured from nothing")
        cost, result = quick_start(folder.resolve())
    print(f"quick start on {os.cpu_count()} cores, load {load:.1f} before it")
    found = list(bars(cost, result))
    for bar in found:
        print(f"{'met   ' if bar.met else 'MISSED'}  {bar.name:40} {bar.found:36} {bar.wanted}")
    print(json.dumps({"verdict": result.confirmation.verdict}, ensure_ascii=False))
    raise SystemExit(0 if all(bar.met for bar in found) else 1)


if __name__ == "__main__":
    main()
