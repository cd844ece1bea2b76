"""What no single key of `compare` can show: every entry is checked as the run that it would be by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from quadmix.config import CompareConfig, MixtureConfig, PoolConfig, SearchConfig, TargetConfig, TokenizerConfig
from quadmix.strict_yaml import Path

Problem = tuple[Path, str]


def entry_problems(
    sections: Mapping[str, Any], check: Callable[[Mapping[str, Any]], Iterator[Problem]]
) -> Iterator[Problem]:
    """Problems of every entry's own sections beside the run's other ones, told where the entry stands.

    sections: those that are right in themselves; check: the problems between the sections of one run.
    """
    compare = sections.get("compare")
    if compare is None:
        return
    run = {**sections, "compare": None}
    known = set(check(sections))
    for index, entry in enumerate(compare.entries):
        own = entry.sections(run)
        place: Path = ("compare", "entries", index)
        given = {"select", *(key for key in own if getattr(entry, key) is not None)}
        for path, text in check({**run, **own}):
            if path[0] in given:
                yield (*place, *path), text
            elif (path, text) not in known:
                yield path, f"{text} (for compare.entries.{index}, {entry.name!r})"


def contest(compare: CompareConfig | None, mixture: MixtureConfig) -> Iterator[Problem]:
    """Names, the entry that the others are compared with, and what target models can read."""
    if compare is None:
        return
    names = [entry.name for entry in compare.entries]
    for index, name in enumerate(names):
        # folders are named after entries, on file systems that may not tell cases apart
        if name.casefold() in [other.casefold() for other in names[:index]]:
            yield ("compare", "entries", index, "name"), f"found {name!r} a second time, wanted each name once"
    if compare.against not in names:
        text = f"found {compare.against!r}, wanted the name of the entry that differences are taken to"
        yield ("compare", "against"), f"{text}: one of {', '.join(names)}"
    read = compare.train_tokens or mixture.budget
    path: Path = ("compare", "train_tokens") if compare.train_tokens else ("mixture", "budget")
    if read > mixture.budget:
        text = f"found {read:,}, wanted at most mixture.budget, {mixture.budget:,}: a target model reads its selection"
        yield path, f"{text} once"
    if read <= compare.model.seq_len:
        text = f"found {read:,}, wanted more than one row of the target model (compare.model.seq_len), "
        yield path, f"{text}{compare.model.seq_len:,}"


def charged(compare: CompareConfig | None, search: SearchConfig | None) -> Iterator[Problem]:
    """A search that an entry is charged for must be one of this run's, and proxies are of its size."""
    for index, entry in enumerate(compare.entries if compare is not None and search is None else ()):
        if entry.charge_search or entry.charge_proxies:
            what = "a search" if entry.charge_search else "proxies of the search's size"
            yield ("search",), f"missing, but compare.entries.{index} ({entry.name!r}) is charged for {what}"


def counted(compare: CompareConfig | None, pool: PoolConfig) -> Iterator[Problem]:
    """Target models must read equal numbers of tokens, of their own tokenizer."""
    if compare is not None and pool.columns.tokens is not None:
        text = (
            f"found {pool.columns.tokens!r}, but a comparison cuts what its target models read by the run's tokenizer"
        )
        yield ("pool", "columns", "tokens"), f"{text}; wanted none, so that documents are counted with it"


def measured(
    compare: CompareConfig | None, targets: tuple[TargetConfig, ...], tokenizer: TokenizerConfig | None
) -> Iterator[Problem]:
    """What target models are measured on, and with."""
    if compare is None:
        return
    if not targets:
        yield ("targets",), "missing, but a comparison measures its target models on at least one target"
    if tokenizer is None:
        yield ("tokenizer",), "missing, but a comparison trains target models on tokens"
