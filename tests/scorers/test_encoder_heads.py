"""Heads on an encoder: they see word order, which embeddings of words do not, and keep the contract of all scorers."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError
from scipy.stats import spearmanr
from tokenizers import Tokenizer, models, pre_tokenizers

from quadmix.config import TokenizerConfig
from quadmix.config_annotate import HeadsScorerConfig
from quadmix.errors import ConfigError, InputError
from quadmix.scorers.context import Document
from quadmix.scorers.heads import HeadsScorer
from quadmix.scorers.model_files import load_model
from quadmix.scorers.tokens import FileTokenizer, load_tokenizer
from tests.scorers.list_context import ListContext

PAIRS = ("cause effect", "question answer")
NOISE = [f"word{number}" for number in range(15)]
ENCODER = {
    "kind": "encoder", "d_model": 32, "layers": 1, "heads": 2, "d_ff": 64, "max_tokens": 48, "epochs": 14, "lr": 6e-3,
}  # fmt: skip


def documents(n: int, seed: int) -> list[Document]:
    """Six pairs of each kind a document; a label says in how many the first word comes first."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(n):
        right = rng.uniform(size=(2, 6)) < rng.uniform(size=(2, 1))
        pairs = [PAIRS[kind].split()[:: 1 if yes else -1] for kind in range(2) for yes in right[kind]]
        rng.shuffle(pairs)
        text = " ".join(f"{rng.choice(NOISE)} {one} {other}" for one, other in pairs)
        labels = {"reason": 10.0 + 3.0 * right[0].sum(), "reply": float(right[1].sum())}
        found.append(Document(f"doc-{seed}-{index}", text, None, labels))
    return found


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> FileTokenizer:
    """One token a word."""
    words = ["<|endoftext|>", *" ".join(PAIRS).split(), *NOISE, "[UNK]"]
    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(["<|endoftext|>"])
    path = tmp_path_factory.mktemp("words") / "tokenizer.json"
    made.save(str(path))
    return load_tokenizer(TokenizerConfig(path=str(path)))


def fit(folder: Path, tokenizer: FileTokenizer | None, pool: list[Document], **changes: object) -> HeadsScorer:
    folder.mkdir(exist_ok=True)
    config = HeadsScorerConfig.model_validate(
        {
            "kind": "heads",
            "labelled": ["labelled"],
            "labels": {"reason": "reason", "reply": "reply"},
            "explained_variance": 1.0,
            "model": ENCODER,
            **changes,
        }
    )
    return HeadsScorer.from_config(config, ListContext(folder, [], paths={"labelled": pool}, tokenizer=tokenizer))


@pytest.fixture(scope="module")
def scorer(tokenizer: FileTokenizer, tmp_path_factory: pytest.TempPathFactory) -> HeadsScorer:
    return fit(tmp_path_factory.mktemp("heads"), tokenizer, documents(500, 0))


def scores(scorer: HeadsScorer, texts: list[str]) -> np.ndarray:
    scorer.load()
    found = scorer.score(pa.record_batch({"text": pa.array(texts, pa.large_string())}))
    assert found.schema.types == [pa.float32()] * 2
    return np.stack([column.to_numpy() for column in found.columns], axis=1)


def test_word_order_is_seen_and_ridge_on_words_is_refused(
    scorer: HeadsScorer, tokenizer: FileTokenizer, tmp_path: Path
) -> None:
    fresh = documents(200, 1)
    found = scores(scorer, [document.text for document in fresh])
    for place, name in enumerate(("reason", "reply")):
        labels = np.array([document.columns[name] for document in fresh])
        assert spearmanr(found[:, place], labels).statistic > 0.75
        assert found[:, place].std() == pytest.approx(labels.std(), rel=0.25)
        assert found[:, place].mean() == pytest.approx(labels.mean(), abs=0.3 * labels.std())
    with pytest.raises(InputError, match="the heads do not predict component 1"):
        fit(tmp_path, tokenizer, documents(500, 0), model={"kind": "ridge"})


def test_the_model_file_says_what_it_is_worth_and_how_it_was_made(scorer: HeadsScorer) -> None:
    arrays, facts = load_model(scorer.model, "heads")
    assert (facts["model"], facts["held_out"], facts["left_out"]) == ("encoder", 100, 0)
    assert facts["encoder"]["d_model"] == 32
    assert facts["device"] in ("cpu", "cuda")
    assert [check["name"] for check in facts["checks"]] == ["component 1", "component 2"]
    assert all(check["spearman"] > 0.5 for check in facts["checks"])
    assert arrays["embedding"].dtype == np.float32


def test_scores_do_not_depend_on_the_batch_or_the_process(scorer: HeadsScorer) -> None:
    texts = [document.text for document in documents(40, 2)] + ["", "cause", "no such word", "effect " * 500]
    whole = scores(scorer, texts)
    assert np.isfinite(whole).all()
    assert np.array_equal(scores(scorer, texts[::-1])[::-1], whole)
    cut = [scores(scorer, texts[start : start + 7]) for start in range(0, len(texts), 7)]
    assert np.array_equal(np.concatenate(cut), whole)
    again = pickle.loads(pickle.dumps(scorer))
    assert again == scorer
    assert np.array_equal(scores(again, texts[-6:]), whole[-6:])
    assert scores(scorer, []).shape == (0, 2)


def test_the_same_fit_gives_the_same_file_and_another_tokenizer_another_scorer(
    tokenizer: FileTokenizer, tmp_path: Path
) -> None:
    few = {"model": {**ENCODER, "epochs": 1}, "least_spearman": -1.0}
    first, again = (fit(tmp_path / name, tokenizer, documents(80, 3), **few) for name in "ab")
    assert (first.model.sha256, first.fingerprint) == (again.model.sha256, again.fingerprint)
    assert {path.suffix for path in (tmp_path / "a").iterdir()} == {".json", ".safetensors"}


def test_an_encoder_wants_a_tokenizer_and_no_embedder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="an encoder needs the section `tokenizer`"):
        fit(tmp_path, None, documents(80, 3))
    with pytest.raises(ValidationError, match="`embedder` does nothing"):
        fit(tmp_path, None, documents(80, 3), embedder={"kind": "lsa", "dimensions": 8})
