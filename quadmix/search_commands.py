"""The further commands of `quadmix search`: proposals from a swarm that somebody else trained."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quadmix.config import parse_count
from quadmix.progress import Progress

FROM_TRIALS = "--from-trials"
SEARCH_WORDS = (f"search {FROM_TRIALS}",)


def add_search_commands(commands: Any, config_command: Callable[[Any, str, str], argparse.ArgumentParser]) -> None:
    """Add them to a parser's commands. config_command: adds a command that reads a run configuration."""
    _from_trials(commands)


def _from_trials(commands: Any) -> None:
    text = "domain weights from runs that were trained elsewhere: regression and proposal only, no config"
    command = commands.add_parser(f"search {FROM_TRIALS}", help=text, description=text)
    add = command.add_argument
    add("mixtures", type=Path, help="CSV or Parquet, one row a run, one column a domain; or a directory of both files")
    add("losses", type=Path, nargs="?", help="CSV or Parquet with the same ids; without it, losses are in MIXTURES")
    add("--out", type=Path, required=True, help="directory for trials_search.json and domain_weights.csv")
    add("--id-column", metavar="NAME", help="column that joins the files (default: the first of MIXTURES)")
    add("--domains", type=_names, default=(), metavar="A,B*", help="columns of shares, patterns allowed")
    add("--targets", type=_names, default=(), metavar="A,B*", help="columns of losses to fit, patterns allowed")
    add("--objective", type=_weights, default=(), metavar="A=1,B=2", help="weights of metrics (default: all equal)")
    add("--higher-is-better", type=_names, default=(), metavar="A,B*", help="metrics of which more is better")
    add("--domain-tokens", type=Path, metavar="FILE", help="CSV of domain, tokens: the prior, and what repeats count")
    add("--budget", type=_count, metavar="10B", help="tokens of the run; caps repeats (needs --domain-tokens)")
    add("--max-copies", type=float, metavar="K", help="a domain's tokens are read at most so often (default: 4)")
    add(
        "--prior",
        type=Path,
        metavar="FILE",
        help="CSV of domain, share (default: --domain-tokens, else the runs' mean)",
    )
    add("--regressor", default="lightgbm", metavar="KIND", help="what maps shares to losses (default: %(default)s)")
    add("--candidates", type=_count, metavar="N", help="mixtures that are predicted (default: 100K)")
    add("--average-top", type=_count, metavar="N", help="of these, the best N are averaged (default: 100)")
    add("--folds", type=_count, metavar="N", help="of the cross-validation (default: 5)")
    add("--seed", type=int, default=0, help="of the candidates and folds")
    add("--json", action="store_true", help="one JSON object on standard output, no progress")
    command.set_defaults(command=_run_from_trials)


def _run_from_trials(args: argparse.Namespace) -> int:
    from quadmix.search.trial_files import ColumnChoice
    from quadmix.stages.foreign_trials import RESULT_FILE, WEIGHTS_FILE, TrialsSearch, search_from_trials

    given = {name: getattr(args, name) for name in ("candidates", "average_top", "folds")}
    asked = TrialsSearch(
        mixtures=args.mixtures,
        losses=args.losses,
        out=args.out,
        columns=ColumnChoice(args.id_column, args.domains, args.targets),
        objective=args.objective,
        higher_is_better=args.higher_is_better,
        domain_tokens=args.domain_tokens,
        budget=args.budget,
        max_copies=args.max_copies,
        prior=args.prior,
        regressor=args.regressor,
        seed=args.seed,
        **{name: value for name, value in given.items() if value is not None},
    )
    result = search_from_trials(asked, Progress.silent() if args.json else Progress.for_terminal())
    files = {"result": str(args.out / RESULT_FILE), "weights": str(args.out / WEIGHTS_FILE)}
    print(json.dumps(files | result, indent=1) if args.json else "\n".join(f"{k:<7} {v}" for k, v in files.items()))
    return 0


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted names separated by commas")
    return names


def _weights(text: str) -> tuple[tuple[str, float], ...]:
    pairs = []
    for item in _names(text):
        name, found, weight = item.rpartition("=")
        try:
            pairs.append((name, float(weight)))
        except ValueError:
            found = ""
        if not found or not name:
            raise argparse.ArgumentTypeError(f"found {item!r}, wanted metric=weight")
    return tuple(pairs)


def _count(text: str) -> int:
    try:
        count = parse_count(int(text) if text.lstrip("-").isdigit() else text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if count < 1:
        raise argparse.ArgumentTypeError(f"found {count}, wanted at least 1")
    return count
