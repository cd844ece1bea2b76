"""The model whose gradients say what helps: a proxy trained on a random sample of the store, or one from a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from quadmix import __version__
from quadmix.config import HuggingFaceModelConfig, RunConfig, TrainedModelConfig
from quadmix.config_proxy import ARITHMETIC, ProxyConfig
from quadmix.engine.base import Engine
from quadmix.errors import InputError
from quadmix.hashing import folder_digest, seed_for
from quadmix.progress import Progress
from quadmix.scorers.tokens import FileTokenizer
from quadmix.stages.quad.foreign_model import check_folder
from quadmix.stages.quad.store import Place, Store, read_places
from quadmix.stages.records import StageRecord, begin, commit, file_entry, find, stage_directory, stage_fingerprint

STAGE = "quad_model"


@dataclass(frozen=True)
class ModelRef:
    """Where a model is, and its identity."""

    kind: str
    path: str
    digest: str

    def load(self) -> Any:
        """The model (a torch module), at most once a process."""
        return _loaded(self)


@lru_cache(maxsize=1)
def _loaded(ref: ModelRef) -> Any:
    from proxy_models.loading import load_causal

    return load_causal(ref.kind, ref.path)


def own_model(config: RunConfig, progress: Progress, tokenizer: FileTokenizer) -> ModelRef | None:
    """The user's model, loaded once and found fit for the run, or None where a proxy is to be trained: seconds, before
    the pool is tokenised. Raises ConfigError and InputError for one that cannot serve."""
    from proxy_models.influence import Layers

    chosen = config.quad.model
    if not isinstance(chosen, HuggingFaceModelConfig):
        return None
    for doubt in check_folder(chosen.path, tokenizer, config.quad.max_tokens):
        progress.say(doubt)
    found = ModelRef("huggingface", str(Path(chosen.path).absolute()), folder_digest(chosen.path))
    model = found.load()
    Layers.of(model, config.quad.layers)
    words = model.get_input_embeddings().num_embeddings
    if words < tokenizer.vocab_size:
        raise InputError(
            f"quad.model.path: the model in {chosen.path} knows {words:,} words, the run's tokenizer "
            f"{tokenizer.vocab_size:,}; wanted a model that was trained with it"
        )
    return found


def quad_model(
    config: RunConfig, engine: Engine, progress: Progress, tokenizer: FileTokenizer, store: Store
) -> ModelRef:
    """Train the proxy, or reuse it."""
    chosen = config.quad.model
    assert isinstance(chosen, TrainedModelConfig)  # any other is `own_model`'s
    root = Path(config.output)
    parts = {
        "version": __version__,
        "arithmetic": str(ARITHMETIC),
        "store": store.digest,
        "config.quad.model": chosen.model_dump_json(),
        "seed": str(config.seed),
    }
    reuse = find(root, STAGE, parts)
    progress.say(reuse.why)
    record = reuse.record
    if record is None:
        directory = begin(root, STAGE, parts)
        record = _trained(config, chosen, engine, progress, tokenizer, store, directory, parts)
        commit(root, record)
    return ModelRef("proxy", str(stage_directory(root, STAGE, record.fingerprint)), record.summary["digest"])


def _trained(
    config: RunConfig,
    chosen: TrainedModelConfig,
    engine: Engine,
    progress: Progress,
    tokenizer: FileTokenizer,
    store: Store,
    directory: Path,
    parts: dict[str, str],
) -> StageRecord:
    places = store.drawn("quad-train", config.seed, tokens=chosen.train_tokens)
    task = TrainModel(
        str(directory), store, chosen.proxy, tokenizer.vocab_size, tokenizer.end_id, config.quad.max_tokens, config.seed
    )
    ((_, (digest, tokens)),) = engine.map(task, [tuple(places)], label="quad: training the proxy")
    if tokens < chosen.train_tokens:
        progress.say(
            f"quad: the proxy read {tokens:,} tokens of {chosen.train_tokens:,} asked (quad.model.train_tokens): all "
            "that the documents of the store hold"
        )
    names = sorted(path.name for path in directory.iterdir() if path.name.startswith("model."))
    files = tuple(file_entry(directory, name, 0) for name in names)
    return StageRecord(STAGE, stage_fingerprint(STAGE, parts), parts, files, {"digest": digest, "tokens": tokens})


@dataclass(frozen=True)
class TrainModel:
    """Task: places in the store -> (digest of the trained model in `directory`, tokens it read)."""

    directory: str
    store: Store
    proxy: ProxyConfig
    vocab_size: int
    end_id: int | None
    max_tokens: int
    seed: int
    uses_gpu: ClassVar[bool] = True

    def __call__(self, places: Sequence[Place]) -> tuple[str, int]:
        from proxy_models.scoring import fit_language_model

        documents: list[Any] = read_places(self.store, places)[0]
        model = fit_language_model(
            documents, self.proxy, self.vocab_size, end_id=self.end_id, max_tokens=self.max_tokens,
            seed=seed_for(self.seed, "quad-model"),
        )  # fmt: skip
        return model.save(Path(self.directory)), sum(map(len, documents))
