"""Which modules influence is about."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from proxy_models.influence import Layers, score
from proxy_models.loading import load_causal
from quadmix.errors import ConfigError, InputError
from tests.proxy_models.influence_cases import decoder, documents, random_vector


def test_our_stacked_matrices_are_taken_apart_into_the_papers_layers() -> None:
    layers = Layers.of(decoder())
    names = [name.split(".", 2)[2] for name in layers.shapes() if name.startswith("blocks.1.")]
    assert names == ["qkv.q", "qkv.k", "qkv.v", "out.o", "gate_up.gate", "gate_up.up", "down.down"]
    assert layers.shapes()["blocks.0.gate_up.up"] == (24, 16)
    assert layers.shapes()["blocks.0.down.down"] == (16, 24)
    rows = [(part.first, part.last) for _, part in layers.parts()][:4]
    assert rows == [(0, 16), (16, 32), (32, 48), (0, 16)]
    assert pickle.loads(pickle.dumps(layers)) == layers


def test_groups_part_the_layers_between_them() -> None:
    model = decoder()
    every = set(Layers.of(model).shapes())
    attention, mlp = (set(Layers.of(model, group).shapes()) for group in ("attention", "mlp"))
    assert attention | mlp == every
    assert not attention & mlp
    assert {name.rpartition(".")[2] for name in attention} == {"q", "k", "v", "o"}
    with pytest.raises(ConfigError, match="wanted one of all, attention, mlp"):
        Layers.of(model, "norms")  # type: ignore[arg-type]


def test_no_known_layer_is_an_error_that_names_what_there_is() -> None:
    class Strange(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mixer = nn.Linear(4, 4)

    with pytest.raises(InputError, match=r"no layers in Strange.*found: mixer"):
        Layers.of(Strange())


class Shared(nn.Module):
    """Logits of tokens through an MLP that runs `times` times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.embedding, self.times = nn.Embedding(9, 4), times
        self.mlp = nn.ModuleDict({"up_proj": nn.Linear(4, 4), "down_proj": nn.Linear(4, 9)})

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        for _ in range(self.times):
            x = torch.tanh(self.mlp["up_proj"](x))
        found: torch.Tensor = self.mlp["down_proj"](x)
        return found


@pytest.mark.parametrize("way", ["hooks", "forward_mode"])
@pytest.mark.parametrize(("times", "message"), [(2, "up_proj was called twice"), (0, "up_proj was not called")])
def test_a_module_called_twice_or_never_is_an_error(way: str, times: int, message: str) -> None:
    model = Shared(times)
    layers = Layers.of(model)
    with pytest.raises(InputError, match=message):
        score(model, layers, random_vector(layers), documents(2, vocab=9), way=way, device="cpu")  # type: ignore[arg-type]
    assert not any(module._forward_hooks for module in model.modules())


def test_two_modules_with_one_weight_are_an_error() -> None:
    model = Shared(1)
    model.mlp["gate_proj"] = nn.Linear(4, 4)
    model.mlp["gate_proj"].weight = model.mlp["up_proj"].weight
    with pytest.raises(InputError, match="share one weight"):
        Layers.of(model)


def test_scoring_leaves_the_model_as_it_was() -> None:
    model = decoder().train()
    layers = Layers.of(model)
    model.embedding.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    score(model, layers, random_vector(layers), documents(3), device="cpu")
    assert model.training
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["embedding"]
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_vector_of_other_layers_is_refused() -> None:
    model = decoder()
    vector = random_vector(Layers.of(model, "mlp"))
    with pytest.raises(InputError, match="the vector has none, the model"):
        score(model, Layers.of(model), vector, documents(2), device="cpu")
    larger = random_vector(Layers.of(decoder(d_ff=26)))
    with pytest.raises(InputError, match=r"the vector has \(16, 26\), the model \(16, 24\)"):
        score(model, Layers.of(model), larger, documents(2), device="cpu")


def test_hugging_face_models_by_name_and_kind() -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers (extra `test`)")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 41}
    llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, intermediate_size=24))
    found = {name.split(".", 3)[3]: shape for name, shape in Layers.of(llama).shapes().items()}
    assert found == {
        "self_attn.q_proj.q": (16, 16),
        "self_attn.k_proj.k": (16, 16),
        "self_attn.v_proj.v": (16, 16),
        "self_attn.o_proj.o": (16, 16),
        "mlp.gate_proj.gate": (24, 16),
        "mlp.up_proj.up": (24, 16),
        "mlp.down_proj.down": (16, 24),
    }
    gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=41))
    found = {name.split(".", 3)[3]: shape for name, shape in Layers.of(gpt2).shapes().items()}
    assert list(found) == [
        "attn.c_attn.q",
        "attn.c_attn.k",
        "attn.c_attn.v",
        "attn.c_proj.o",
        "mlp.c_fc.up",
        "mlp.c_proj.down",
    ]
    assert found["mlp.c_fc.up"] == (64, 16)
    neox = transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**sizes, intermediate_size=24))
    assert [name.rpartition(".")[2] for name in Layers.of(neox).shapes()] == ["qkv", "o", "up", "down"]
    for model in (llama, gpt2, neox):
        assert Layers.of(model).describe(model).endswith("100.0% of the linear weights below the head")
    assert "; not in it: " in Layers.of(llama, "mlp").describe(llama)


def test_a_folder_without_all_weights_is_refused(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers (extra `test`)")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 41}
    config = transformers.LlamaConfig(**sizes, intermediate_size=24, tie_word_embeddings=True)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "whole")
    load_causal("huggingface", str(tmp_path / "whole"))  # its head is its embedding: not in the file, not missing
    config.tie_word_embeddings = False
    transformers.LlamaModel(config).save_pretrained(tmp_path / "headless")
    with pytest.raises(InputError, match=r"lacks 1 weights of LlamaForCausalLM, lm_head\.weight for one"):
        load_causal("huggingface", str(tmp_path / "headless"))


def test_a_layer_that_sees_some_positions_only_is_refused_by_name() -> None:
    class Expert(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.mlp = nn.Embedding(41, 8), nn.ModuleDict({"up_proj": nn.Linear(8, 8)})
            self.head = nn.Linear(8, 41)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            hidden = self.embedding(tokens)
            some = self.mlp["up_proj"](hidden.flatten(0, 1)[::2])
            return self.head(hidden + some.sum())

    model = Expert().eval()
    layers = Layers.of(model)
    with pytest.raises(InputError, match=r"module mlp\.up_proj reads values of shape .*experts"):
        score(model, layers, random_vector(layers), documents(2), device="cpu")
