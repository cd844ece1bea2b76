"""The command line: `quadmix COMMAND …`.

Exit codes: 0 done, 2 bad config, 3 bad input or a manifest that does not verify, 4 locked, 5 resource,
130 interrupted. The last line on standard error always says what is safe to do next. Results go to standard output,
everything else to standard error.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from quadmix import __version__
from quadmix.config import RunConfig
from quadmix.config_reader import read_config
from quadmix.engine import make_engine
from quadmix.engine.base import CountsResults, Engine
from quadmix.errors import QuadmixError, VerificationError
from quadmix.manifest.model import Manifest
from quadmix.progress import Progress
from quadmix.search_commands import FROM_TRIALS, SEARCH_WORDS, add_search_commands

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.EMFILE, errno.ENFILE, errno.EIO)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = _parser().parse_args(_with_search_words(sys.argv[1:] if argv is None else argv))
    args.at = ""
    try:
        command: Callable[[argparse.Namespace], int] = args.command
        return command(args)
    except QuadmixError as error:
        _say(f"error: {error}")
        _say(_next_step(error.exit_code, args))
        return error.exit_code
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.split(".")[0] in ("quadmix", "proxy_models"):
            raise
        _say(f"error: the package {missing.name} is not installed; pip install '.[score,search,report]' has all")
        _say(_next_step(2, args))
        return 2
    except BrokenPipeError:  # `quadmix … | head`: whoever read has read enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, the interpreter flushes it at exit
        return 0
    except KeyboardInterrupt:
        _say("interrupted")
        _say(_next_step(130, args))
        return 130
    except MemoryError:
        _say("error: out of memory; lower pool.unit_bytes or engine.workers")
        _say(_next_step(5, args))
        return 5
    except OSError as error:
        if error.errno not in (*_FULL, *_REFUSED):
            raise
        _say(f"error: {'the disk is full' if error.errno in _FULL else 'the system refused'}: {error}")
        _say(_next_step(5, args))
        return 5


def run_stages(config: RunConfig, progress: Progress, until: str, args: argparse.Namespace) -> int:
    """Bring the stages up to `until` up to date on the config's engine, and print what came of it."""
    from quadmix.stages.pipeline import Pipeline

    engine = make_engine(config.engine, progress)
    pipeline = Pipeline(config, engine, progress, until)
    try:
        pipeline.run()
    finally:
        args.at = pipeline.stage
        engine.close()
    outcome = pipeline_outcome(pipeline) | _engine_facts(engine)
    facts = pipeline.diversity if until == "diversity" else None
    if facts is not None and args.json:
        outcome["diversity"] = facts.to_json()
    _print_outcome(outcome, args.json)
    if facts is not None and not args.json:
        print("\n".join(facts.lines()))
    return 0


def _engine_facts(engine: Engine) -> dict[str, Any]:
    """Where the work was done; Spark also counts what its executors did and what reached the driver."""
    facts: dict[str, Any] = {"engine": engine.name}
    if isinstance(engine, CountsResults):
        facts |= {"tasks_by_worker": dict(engine.workers_seen), "result_bytes": engine.result_bytes}
    return facts


def pipeline_outcome(pipeline: Any) -> dict[str, Any]:
    """What a finished pipeline tells its caller, as JSON values."""
    outcome: dict[str, Any] = {"output": pipeline.config.output, "stage": pipeline.stage}
    if pipeline.annotated is not None:
        summary = pipeline.annotated.summary
        outcome |= {"pool_documents": int(summary.docs.sum()), "pool_tokens": summary.total_tokens}
    if pipeline.search is not None:
        outcome |= {"winner": pipeline.search.confirmation.winner, "verdict": pipeline.search.confirmation.verdict}
    if pipeline.manifest is not None:
        manifest = pipeline.manifest
        outcome |= {
            "manifest": str(manifest.folder / "manifest.json"),
            "digest": manifest.digest,
            "documents": manifest.documents,
            "requested_tokens": manifest.requested_tokens,
            "realised_tokens": manifest.realised_tokens,
        }
    if pipeline.report is not None:
        outcome["report"] = str(pipeline.report)
    return outcome


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="quadmix", description="Decides what a language model is pretrained on: score, search, select, prove."
    )
    parser.add_argument("--version", action="version", version=f"quadmix {__version__}")
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")
    for name, until, text in (
        ("run", "report", "all stages: annotate, search, select, report"),
        ("annotate", "annotate", "scores, domains and token counts for every document"),
        ("search", "search", "proxy models look for the best mixture (annotates first where needed)"),
        ("select", "select", "publish the token-exact manifest (brings earlier stages up to date)"),
        ("diversity", "diversity", "how diverse the selection is (brings earlier stages up to date)"),
        ("report", "report", "write report.html (brings earlier stages up to date)"),
    ):
        command = _config_command(commands, name, text)
        command.set_defaults(command=_stages, until=until)
        if name == "search":
            command.epilog = f"see also: {', '.join(f'quadmix {other} --help' for other in SEARCH_WORDS)}"
            add_search_commands(commands, _config_command)
    _config_command(commands, "plan", "feasibility, cost and time estimate, without doing any work").set_defaults(
        command=_plan
    )
    text = "have a sample of the pool rated by a model behind an endpoint: the section `labels`; this costs money"
    _config_command(commands, "label", text).set_defaults(command=_label)
    _config_command(commands, "compare", "selections side by side, judged by target models").set_defaults(
        command=_compare, until="compare"
    )
    _manifest_commands(commands)
    return parser


def _with_search_words(argv: Sequence[str]) -> list[str]:
    """`search ask`, `search tell` and `search ... --from-trials ...` as the commands of those names."""
    words = list(argv)
    if words[:1] != ["search"]:
        return words
    if words[1:2] in (["ask"], ["tell"]):
        return [f"search {words[1]}", *words[2:]]
    for place, word in enumerate(words):
        if word == FROM_TRIALS or word.startswith(f"{FROM_TRIALS}="):
            given = [word.partition("=")[2]] if "=" in word else []
            return [f"search {FROM_TRIALS}", *words[1:place], *given, *words[place + 1 :]]
    return words


def _config_command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.add_argument("config", help="run configuration, YAML or JSON")
    command.add_argument("--set", action="append", default=[], metavar="a.b=value", help="override one value")
    command.add_argument("--engine", choices=("local", "spark"), help="shorthand for --set engine.kind=…")
    command.add_argument("--json", action="store_true", help="one JSON object on standard output, no progress")
    return command


def _manifest_commands(commands: Any) -> None:
    where = "a run's output directory, a manifest directory or manifest.json"
    for name, text, function in (
        ("verify", "re-read and recompute everything that the manifest says", _verify),
        ("explain", "why one document is in or out", _explain),
        ("diff", "what changed between two manifests", _diff),
        ("export", "write the selection for a trainer", _export),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("manifest", help=where)
        command.add_argument("--json", action="store_true", help="one JSON object on standard output")
        command.set_defaults(command=function)
        if name == "explain":
            command.add_argument("doc_id", help="the document's id")
        elif name == "diff":
            command.add_argument("other", help=f"the other one: {where}")
        elif name == "export":
            command.add_argument("--to", required=True, help="format; an unknown one lists those there are")
            command.add_argument("--out", required=True, type=Path, help="file to create")


def _stages(args: argparse.Namespace) -> int:
    return run_stages(_config(args), _progress(args), args.until, args)


def _config(args: argparse.Namespace) -> RunConfig:
    overrides = list(args.set)
    if args.engine:
        overrides.append(f"engine.kind={args.engine}")
    return read_config(args.config, overrides)


def _progress(args: argparse.Namespace) -> Progress:
    return Progress.silent() if args.json else Progress.for_terminal()


def _compare(args: argparse.Namespace) -> int:
    from quadmix.stages.compare.stage import CompareRun
    from quadmix.stages.compare.tables import terminal

    config, progress = _config(args), _progress(args)
    engine = make_engine(config.engine, progress)
    running = CompareRun(config, engine, progress)
    try:
        found = running.run()
    finally:
        args.at = running.stage
        engine.close()
    print(found.to_json().decode("utf-8") if args.json else "\n".join(terminal(found)))
    return 0


def _plan(args: argparse.Namespace) -> int:
    from quadmix.stages.plan import make_estimate

    estimate = make_estimate(_config(args))
    _print_answer(estimate, args.json)
    return 2 if estimate.problems else 0


def _label(args: argparse.Namespace) -> int:
    from quadmix.stages.label import label

    config, progress = _config(args), _progress(args)
    engine = make_engine(config.engine, progress)
    try:
        found = label(config, engine, progress)
    finally:
        engine.close()
    _print_answer(found, args.json)
    return 0


def _verify(args: argparse.Namespace) -> int:
    from quadmix.manifest.verify import verify

    found = verify(Manifest.load(args.manifest), _progress(args).say)
    _print_answer(found, args.json)
    return 0 if found.ok else VerificationError.exit_code


def _explain(args: argparse.Namespace) -> int:
    from quadmix.manifest.explain import explain

    _print_answer(explain(Manifest.load(args.manifest), args.doc_id), args.json)
    return 0


def _diff(args: argparse.Namespace) -> int:
    from quadmix.manifest.diff import diff

    _print_answer(diff(Manifest.load(args.manifest), Manifest.load(args.other)), args.json)
    return 0


def _export(args: argparse.Namespace) -> int:
    from quadmix.manifest.export import export

    documents = export(Manifest.load(args.manifest), args.to, args.out)
    _print_outcome({"file": str(args.out), "documents": documents}, args.json)
    return 0


class _Answer(Protocol):
    """What `verify`, `explain` and `diff` return."""

    def to_json(self) -> dict[str, Any]: ...
    def lines(self) -> list[str]: ...


def _print_answer(answer: _Answer, as_json: bool) -> None:
    print(json.dumps(answer.to_json(), indent=1) if as_json else "\n".join(answer.lines()))


def _print_outcome(outcome: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(outcome, indent=1))
        return
    width = max(map(len, outcome))
    for key, value in outcome.items():
        print(f"{key:<{width}}  {value:,}" if isinstance(value, int) else f"{key:<{width}}  {value}")


def _next_step(code: int, args: argparse.Namespace) -> str:
    if args.name == "label":
        return "no label file was written; answers that were paid for are kept: run the same command again to go on"
    if getattr(args, "until", None) is None:
        return "nothing was changed"
    published = "what was published before is untouched"
    if code == 2 and not args.at:
        return "nothing was started; correct the config and run the same command again"
    at = f" at stage '{args.at}'" if args.at else ""
    if code == 4:
        return "nothing was started; wait for the other run, or give another output"
    again = "run the same command again to resume" + at
    if code in (2, 3):
        again = "correct that, then " + again
    return f"nothing new was published, {published}; {again}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
