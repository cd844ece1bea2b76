"""A comparison that takes mixtures from a search: it is shared, and what its proxies read is a cost."""

from __future__ import annotations

import json
from pathlib import Path

from quadmix.manifest.model import Manifest
from tests.e2e.command_line import quadmix
from tests.e2e.whole_run import WholeRun
from tests.stages.compare.made_up import MODEL, entry
from tests.stages.inline_engine import InlineEngine

STRICT = {"least_quantile": 0.999}


def test_a_search_is_shared_and_its_proxies_are_a_cost(
    whole_run: WholeRun, tmp_path: Path, inline: InlineEngine
) -> None:
    output = whole_run.copy(tmp_path / "out")
    published = whole_run.manifest.digest
    entries = json.dumps([
        entry("random", mixture="natural"), entry("winner"), entry("quadmix", mixture="proposal"),
        {**entry("uniform", mixture="uniform"), "charge_search": True},
        {**entry("own_proxies", mixture="uniform"), "charge_proxies": 7},
        entry("strict", mixture="proposal", selector="threshold", criterion="like_howto", threshold=STRICT),
    ])  # fmt: skip
    done = quadmix(
        "compare", whole_run.config, "--set", f"output={output}", "--set", f"compare.entries={entries}",
        "--set", f"compare.model={json.dumps(MODEL)}", "--set", "compare.train_tokens=6000",
        "--set", "compare.seeds=3", "--set", "compare.eval_tokens=1000", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert not [label for label in inline.items if label.startswith("search")]
    by_name = {one["name"]: one for one in done.json["entries"]}
    search = whole_run.search
    assert search.noise is not None
    swarm = len(search.trials) + search.noise.mixtures * (search.noise.seeds - 1)
    confirmed = len(search.confirmation.mixtures) * search.confirmation.seeds
    for name, proxies in (("quadmix", swarm), ("uniform", swarm), ("winner", swarm + confirmed)):
        searched = next(cost for cost in by_name[name]["costs"] if cost["what"].endswith("of the search"))
        assert searched["tokens"] == proxies * search.tokens_per_trial
    assert by_name["random"]["costs"] == []
    (own,) = by_name["own_proxies"]["costs"]  # and none of scores that it does not read
    assert own["tokens"] == 7 * search.tokens_per_trial
    assert own["flops"] / own["tokens"] == searched["flops"] / searched["tokens"]
    assert "chosen on the halves" in by_name["winner"]["note"]
    assert set(by_name["random"]["bits"]) == {"mean", "encyclopedia", "howto"}
    assert Manifest.load(output).digest == published
    # it takes documents once, where the shares that were found need some twice: that entry fails, the others do not
    strict = by_name["strict"]
    assert strict["verdict"] == dict.fromkeys(["mean", "encyclopedia", "howto"], "failed")
    assert strict["manifests"] == []
    assert "each document is taken once at most" in strict["errors"][0]
    assert [cost["tokens"] for cost in strict["costs"]] == [cost["tokens"] for cost in by_name["quadmix"]["costs"]]
