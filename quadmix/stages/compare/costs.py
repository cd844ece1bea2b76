"""What a selection cost before a document was published: tokens that models read for it, and FLOPs as estimates.

Counted for each entry as if it stood alone: the learned scorers of the criteria that its plan reads, the embedder
behind clusters where it reads those, the search behind a proposal (every proxy of the swarm and its repeats; those of
the confirmation for `winner` alone), Quad's proxy, references, curvature and benefits. Not counted: rules and counted
n-grams, which are no models; tokenising; scores, labels and thetas that came with the input or the config; evaluation.
Labels have the tokens of every answer that `quadmix label` asked for under the same output, as the endpoint counted.

FLOPs of a decoder are 2 a weight and token forward, its head among the weights, plus attention over a full row; three
times that for a training step or a document's gradient (Kaplan et al., arXiv 2001.08361, section 2.1). Scorers of
other kinds have tokens and no FLOPs unless they are a product of known size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from quadmix.config import TrainedModelConfig
from quadmix.config_annotate import (
    AskLlmScorerConfig,
    ColorScorerConfig,
    DensityScorerConfig,
    EmbeddingClustersConfig,
    HeadsScorerConfig,
    LinearScorerConfig,
    LsaEmbedderConfig,
    PerplexityScorerConfig,
    ScorerConfig,
)
from quadmix.config_checks import produced_criteria
from quadmix.config_heads import EncoderModelConfig
from quadmix.config_proxy import ProxyConfig
from quadmix.engine.base import Engine
from quadmix.search.result import SearchResult
from quadmix.stages.annotate import MODELS, Annotated
from quadmix.stages.compare.entries import Contender, mentions
from quadmix.stages.compare.result import Cost
from quadmix.stages.records import current
from quadmix.stages.rows import RowReader

_RULES = ("columns", "heuristics", "prose", "rarity", "dsir")  # no models
_CLUSTERED = ("quad", "cluster_quality")  # selectors that read clusters
_GRADIENT = 3.0  # times a forward pass


def forward_flops(config: ProxyConfig, vocab_size: int) -> float:
    """Of one token in a decoder, in a row of config.seq_len."""
    attention = 4.0 * config.layers * config.d_model * config.seq_len
    return 2.0 * parameters(config, vocab_size) + attention


def training_flops(config: ProxyConfig, vocab_size: int) -> float:
    """Of one token in a training step."""
    return _GRADIENT * forward_flops(config, vocab_size)


def parameters(config: ProxyConfig, vocab_size: int) -> int:
    """Weights of a decoder; head and embedding are one matrix."""
    layer = 4 * config.d_model**2 + 3 * config.d_model * config.d_ff
    return config.layers * layer + vocab_size * config.d_model


@dataclass(frozen=True)
class TokensRead:
    """Task: annotation file -> (tokens of its documents of status ok, at most `limit` of each, for every limit)."""

    domains: tuple[str, ...]
    limits: tuple[int, ...]

    def __call__(self, path: str) -> tuple[int, ...]:
        total = np.zeros(len(self.limits), dtype=np.int64)
        for batch, _ in RowReader(self.domains, (), hashes=False).batches(path):
            total += [int(np.minimum(batch.n_tokens, limit).sum()) for limit in self.limits]
        return tuple(total.tolist())


class Costs:
    """Costs of entries over one annotated pool."""

    def __init__(
        self,
        engine: Engine,
        annotated: Annotated,
        search: SearchResult | None,
        vocab_size: int,
        all_of: Sequence[ScorerConfig],
        answered: Mapping[str, int] | None = None,
    ) -> None:
        """answered: tokens of a model's answers by the label file that they are in."""
        self._answered = answered or {}
        self._search, self._vocab, self._models = search, vocab_size, annotated.directory / MODELS
        summary = annotated.summary
        self._documents, self._tokens = int(summary.docs.sum()), summary.total_tokens
        limits = tuple(sorted({limit for scorer in all_of if (limit := _limit(scorer))}))
        self._cut: dict[int, int] = {}
        if limits:
            done = dict(
                engine.map(
                    TokensRead(summary.domains, limits),
                    list(annotated.files),
                    label="compare: tokens that scorers read",
                )
            )
            total = reduce(np.add, [np.array(done[index]) for index in range(len(annotated.files))])
            self._cut = dict(zip(limits, total.tolist(), strict=True))

    def of(self, one: Contender, criteria: Sequence[str], built: bool = True) -> list[Cost]:
        """criteria: that its plan reads. A mixture that was searched for reads all of `mixture.criteria`. built: False
        where it could not be selected, and so nothing was trained by its selector."""
        select = one.config.select
        if one.asks_search or select.mixture == "theta":
            criteria = [*criteria, *one.config.mixture.criteria]
        used = _used(one, criteria)
        found = [cost for scorer in used for cost in self._scorer(scorer)]
        files = {file for scorer in used if isinstance(scorer, HeadsScorerConfig) for file in scorer.labelled}
        found += [Cost("labels", None, self._answered[file], None) for file in sorted(files & set(self._answered))]
        if mentions(select.model_dump(), "selector", _CLUSTERED):
            found += self._clusters(one)
        if one.asks_search and self._search is not None:
            found.append(self._searched(one, self._search))
        if one.entry.charge_proxies:
            found.append(self._proxies(one, one.entry.charge_proxies, "proxies of its own"))
        if one.trains and built:
            found += self._quad(one)
        return found

    def _scorer(self, scorer: ScorerConfig) -> list[Cost]:
        limit = _limit(scorer)
        tokens = self._tokens if limit is None else self._cut[limit]
        name = getattr(scorer, "name", scorer.kind)
        if isinstance(scorer, PerplexityScorerConfig) and scorer.model is None:
            model = (scorer.proxy or ProxyConfig()).model_copy(update={"seq_len": scorer.max_tokens})
            each = forward_flops(model, self._vocab)
            return [
                Cost(f"training {name}", None, scorer.train_tokens, _GRADIENT * each * scorer.train_tokens),
                Cost(f"scoring {name}", self._documents, tokens, each * tokens),
            ]
        if isinstance(scorer, ColorScorerConfig):
            return self._color(scorer, tokens)
        if isinstance(scorer, AskLlmScorerConfig):
            return [self._asked(scorer, tokens)]
        if isinstance(scorer, HeadsScorerConfig) and isinstance(scorer.model, EncoderModelConfig):
            return self._encoder(scorer, scorer.model, tokens)
        flops: float | None = None
        if isinstance(scorer, LinearScorerConfig):
            flops = 2.0 * scorer.ngrams * tokens
        elif isinstance(scorer, DensityScorerConfig | HeadsScorerConfig):
            flops = (
                2.0 * scorer.embedder.dimensions * tokens if isinstance(scorer.embedder, LsaEmbedderConfig) else None
            )
        return [Cost(f"scoring {name}", self._documents, tokens, flops)]

    def _asked(self, scorer: AskLlmScorerConfig, tokens: int) -> Cost:
        """The question is read with every document. Its own tokenizer counts it, the run's counted the documents."""
        from proxy_models.asking import Question, prompt_tokens
        from proxy_models.loading import stored_weights

        question = Question(scorer.prompt, scorer.yes, scorer.no, scorer.max_tokens, scorer.chat)
        tokens += self._documents * prompt_tokens(scorer.path, question)
        return _priced(f"asking {scorer.name}", self._documents, tokens, 2.0 * stored_weights(scorer.path) or None)

    def _encoder(self, scorer: HeadsScorerConfig, model: EncoderModelConfig, tokens: int) -> list[Cost]:
        """No logits over words, so its embedding costs nothing; what it trained on, its file says."""
        weights = model.layers * (4 * model.d_model**2 + 3 * model.d_model * model.d_ff)
        each = 2.0 * weights + 4.0 * model.layers * model.d_model * model.max_tokens
        files = [json.loads(path.read_bytes()) for path in sorted(self._models.glob("heads-*.json"))]
        trained = sum(
            int(file["facts"]["trained_tokens"])
            for file in files
            if file["facts"]["labels"] == list(scorer.labels)
            and file["facts"].get("encoder") == model.model_dump(mode="json")
        )
        return [
            _priced("training heads", None, trained, _GRADIENT * each),
            _priced("scoring heads", self._documents, tokens, each),
        ]

    def _color(self, scorer: ColorScorerConfig, tokens: int) -> list[Cost]:
        """Two models read every document; where they are trained here, the second goes on from the first."""
        if scorer.columns is not None:
            return []
        each = None
        if scorer.models is None:
            model = (scorer.proxy or ProxyConfig()).model_copy(update={"seq_len": scorer.max_tokens})
            each = forward_flops(model, self._vocab)
        found = [_priced(f"scoring {scorer.name}, two models", self._documents, 2 * tokens, each)]
        if each is not None:
            trained = scorer.train_tokens + scorer.target_tokens
            found.insert(0, _priced(f"training {scorer.name}", None, trained, _GRADIENT * each))
        return found

    def _clusters(self, one: Contender) -> list[Cost]:
        asked = one.config.annotate.clusters
        if not isinstance(asked, EmbeddingClustersConfig):
            return []
        lsa = asked.embedder if isinstance(asked.embedder, LsaEmbedderConfig) else None
        flops = None if lsa is None else 2.0 * lsa.dimensions * self._tokens
        return [Cost("embedding for clusters", self._documents, self._tokens, flops)]

    def _searched(self, one: Contender, search: SearchResult) -> Cost:
        proxies = len(search.trials)
        if search.noise is not None:
            proxies += search.noise.mixtures * (search.noise.seeds - 1)
        if one.config.select.mixture == "winner":
            proxies += len(search.confirmation.mixtures) * search.confirmation.seeds
        return self._proxies(one, proxies, "proxies of the search")

    def _proxies(self, one: Contender, count: int, what: str) -> Cost:
        search = one.config.search
        assert search is not None
        tokens = count * search.tokens_per_trial
        return Cost(f"{count} {what}", None, tokens, tokens * training_flops(search.proxy, self._vocab))

    def _quad(self, one: Contender) -> list[Cost]:
        """From what its stages left in the entry's folder; a document is as long as the store's mean."""
        asked = one.config.quad
        records = {name: current(one.output, name) for name in ("quad", "quad_store", "quad_model", "quad_curvature")}
        store, rounds, solved = records["quad_store"], records["quad"], records["quad_curvature"]
        assert store is not None
        assert rounds is not None
        assert solved is not None
        length = store.summary["tokens"] / max(store.summary["docs"], 1)
        model = asked.model.proxy if isinstance(asked.model, TrainedModelConfig) else None
        each = (
            None
            if model is None
            else training_flops(model.model_copy(update={"seq_len": asked.max_tokens}), self._vocab)
        )
        found = []
        trained = records["quad_model"]
        if model is not None and trained is not None:
            found.append(_priced("training quad's proxy", None, trained.summary["tokens"], each))
        reference = sum(solved.summary["references"].values())
        found.append(_priced("quad's references", None, reference, each))
        if asked.curvature != "identity":
            passes = 1 if asked.curvature in ("diagonal", "kfac") else 2
            read = round(passes * min(asked.factor_docs, store.summary["docs"]) * length)
            found.append(_priced("quad's curvature", asked.factor_docs, read, each))
        scored = int(rounds.summary["scored"])
        found.append(_priced("quad's benefits", scored, round(scored * length), each))
        return found


def _limit(scorer: ScorerConfig) -> int | None:
    """Tokens that a scorer reads of a document at most; None: all."""
    model = getattr(scorer, "model", None)
    found = getattr(model if isinstance(model, EncoderModelConfig) else scorer, "max_tokens", None)
    return None if found is None else int(found)


def _priced(what: str, documents: int | None, tokens: int, each: float | None) -> Cost:
    return Cost(what, documents, tokens, None if each is None else each * tokens)


def _used(one: Contender, criteria: Sequence[str]) -> list[ScorerConfig]:
    """The learned scorers that some criterion comes from, in the config's order."""
    scorers = one.config.annotate.scorers
    places = {index for index, name in produced_criteria(scorers) if name in criteria}
    return [scorers[index] for index in sorted(places) if scorers[index].kind not in _RULES]
