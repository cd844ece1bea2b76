"""The further commands of `quadmix search`: somebody else's swarm, and trials for somebody else's trainer."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from quadmix.config import RegressorConfig, RunConfig
from quadmix.config_reader import read_config
from quadmix.config_values import parse_count
from quadmix.engine import make_engine
from quadmix.progress import Progress

ConfigCommand = Callable[[Any, str, str], argparse.ArgumentParser]

FROM_TRIALS = "--from-trials"
SEARCH_WORDS = ("search ask", "search tell", f"search {FROM_TRIALS}")


def add_search_commands(commands: Any, config_command: ConfigCommand) -> None:
    """Add them to a parser's commands. config_command: adds a command that reads a run configuration."""
    _ask(commands, config_command)
    _tell(commands, config_command)
    _from_trials(commands)


def _ask(commands: Any, config_command: ConfigCommand) -> None:
    command = config_command(commands, "search ask", "write trials as manifests, for a trainer of your own")
    add = command.add_argument
    add(
        "--n", type=_count, required=True, metavar="N", help="trials that shall wait for losses; missing ones are added"
    )
    add("--out", type=Path, required=True, help="directory of the trials; the same one again after `search tell`")
    add("--tokens", type=_count, metavar="T", help="of a trial: its pool shrinks alike (default: mixture.budget)")
    add(
        "--targets", type=_names, default=(), metavar="A,B", help="names of your losses (default: the config's targets)"
    )
    command.set_defaults(command=_run_ask, until="ask")


def _tell(commands: Any, config_command: ConfigCommand) -> None:
    command = config_command(commands, "search tell", "take the losses of asked trials back, and propose a mixture")
    command.add_argument(
        "losses",
        type=Path,
        help="CSV or Parquet: trial, one column a loss (lower is better; nan: failed), `seed` for repeated runs",
    )
    command.add_argument(
        "--from", dest="out", type=Path, required=True, metavar="DIR", help="directory of `search ask`"
    )
    command.set_defaults(command=_run_tell, until="tell")


def _run_ask(args: argparse.Namespace) -> int:
    from quadmix.stages.ask_tell import ask

    progress = _progress(args)
    config = _config(args)
    engine = make_engine(config.engine, progress)
    try:
        asked = ask(config, engine, progress, args.out, args.n, args.tokens, args.targets, _marks(args, "ask"))
    finally:
        engine.close()
    _print(asdict(asked), args)
    return 0


def _run_tell(args: argparse.Namespace) -> int:
    from quadmix.stages.ask_tell import PROPOSAL_FILE, RESULT_FILE, tell

    progress = _progress(args)
    config = _config(args)
    engine = make_engine(config.engine, progress)
    try:
        result = tell(config, engine, progress, args.out, args.losses, _marks(args, "tell"))
    finally:
        engine.close()
    if args.json:
        print(json.dumps(result, indent=1))
    elif result["proposals"]:
        _print({"result": str(args.out / RESULT_FILE), "proposal": str(args.out / PROPOSAL_FILE)}, args)
    return 0


def _from_trials(commands: Any) -> None:
    text = "domain weights from runs that were trained elsewhere: regression and proposal only, no config"
    command = commands.add_parser(f"search {FROM_TRIALS}", help=text, description=text)
    add = command.add_argument
    add("mixtures", type=Path, help="CSV or Parquet, one row a run, one column a domain; or a directory of both files")
    add("losses", type=Path, nargs="?", help="CSV or Parquet with the same ids; without it, losses are in MIXTURES")
    add("--out", type=Path, required=True, help="directory for trials_search.json and domain_weights.csv")
    add(
        "--id-column",
        metavar="NAME",
        help="column that names a run in both files (default: found where only one can be)",
    )
    add("--domains", type=_names, default=(), metavar="A,B*", help="columns of shares, patterns allowed")
    add("--targets", type=_names, default=(), metavar="A,B*", help="columns of losses to fit, patterns allowed")
    add("--objective", type=_weights, default=(), metavar="A=1,B=2", help="weights of metrics (default: all equal)")
    worst = "instead of the mean: the metric that is worst off, beside what is predicted for the prior"
    add("--worst-case", action="store_true", help=worst)
    add("--higher-is-better", type=_names, default=(), metavar="A,B*", help="metrics of which more is better")
    add("--domain-tokens", type=Path, metavar="FILE", help="CSV of domain, tokens: the prior, and what repeats count")
    add("--budget", type=_count, metavar="10B", help="tokens of the run; caps repeats (needs --domain-tokens)")
    add("--max-copies", type=_finite, metavar="K", help="a domain's tokens are read at most so often (default: 4)")
    add(
        "--prior",
        type=Path,
        metavar="FILE",
        help="CSV of domain, share (default: --domain-tokens, else the runs' mean)",
    )
    add(
        "--regressor",
        default=RegressorConfig().kind,
        metavar="KIND",
        help="what maps shares to losses: auto, gaussian_process, lightgbm, log_linear (default: %(default)s)",
    )
    add(
        "--preset",
        default=RegressorConfig().preset,
        metavar="NAME",
        help="of LightGBM, also within auto: small, or regmix for RegMix's own trees (default: %(default)s)",
    )
    share = "patterns allowed; proposals keep it, the observed run and the prior are shown as they are"
    add("--min-share", type=_weights, default=(), metavar="A=0.1,B*=0.05", help=f"least share of domains; {share}")
    add("--max-share", type=_weights, default=(), metavar="A=0.3", help="largest share of domains, in the same way")
    add(
        "--fixed-share",
        type=_weights,
        default=(),
        metavar="A=0.2",
        help="share that domains shall have, in the same way",
    )
    add("--kl", type=_finite, default=0.0, metavar="W", help="nats a nat of KL(share || prior): a pull to the prior")
    add("--candidates", type=_count, metavar="N", help="mixtures that are predicted (default: 100K)")
    add("--average-top", type=_count, metavar="N", help="of these, the best N are averaged (default: 100)")
    add("--folds", type=_count, metavar="N", help="of the cross-validation (default: 5)")
    add("--seed", type=int, default=0, help="of the candidates and folds")
    add("--json", action="store_true", help="one JSON object on standard output, no progress")
    command.set_defaults(command=_run_from_trials)


def _run_from_trials(args: argparse.Namespace) -> int:
    from quadmix.search.trial_columns import ColumnChoice
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
        preset=args.preset,
        min_share=args.min_share,
        max_share=args.max_share,
        fixed_share=args.fixed_share,
        kl=args.kl,
        worst_case=args.worst_case,
        seed=args.seed,
        **{name: value for name, value in given.items() if value is not None},
    )
    result = search_from_trials(asked, _progress(args))
    files = {"result": str(args.out / RESULT_FILE), "weights": str(args.out / WEIGHTS_FILE)}
    _print(files | result if args.json else files, args)
    return 0


def _marks(args: argparse.Namespace, stage: str) -> Callable[[], None]:
    """Called where a command has something to resume: an error after that says so."""

    def mark() -> None:
        args.at = stage

    return mark


def _config(args: argparse.Namespace) -> RunConfig:
    overrides = [*args.set, *([f"engine.kind={args.engine}"] if args.engine else [])]
    return read_config(args.config, overrides, own_trainer=True)


def _progress(args: argparse.Namespace) -> Progress:
    return Progress.silent() if args.json else Progress.for_terminal()


def _print(outcome: dict[str, Any], args: argparse.Namespace) -> None:
    if args.json:
        print(json.dumps(outcome, indent=1))
        return
    width = max(map(len, outcome))
    print("\n".join(f"{key:<{width}}  {value}" for key, value in outcome.items()))


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted names separated by commas")
    return names


def _weights(text: str) -> tuple[tuple[str, float], ...]:
    pairs = []
    for item in _names(text):
        name, found, weight = item.rpartition("=")
        if not found or not name:
            raise argparse.ArgumentTypeError(f"found {item!r}, wanted name=number")
        pairs.append((name, _finite(weight)))
    return tuple(pairs)


def _finite(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted a finite number")
    return value


def _count(text: str) -> int:
    try:
        count = parse_count(int(text) if text.lstrip("-").isdigit() else text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if count < 1:
        raise argparse.ArgumentTypeError(f"found {count}, wanted at least 1")
    return count
