"""The section `labels`: a sample of the pool, rated by a model behind an OpenAI-compatible endpoint.

`quadmix label` asks; no other command does, since asking costs money. The key is read from an environment variable
whose name stands here, and is never written anywhere; names are in capitals, which keys are not.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from quadmix.config_values import Count, Name, Section

Money = Annotated[float, Field(ge=0.0)]


class EndpointConfig(Section):
    """Where the model answers: `url` is the base (`https://api.example.com/v1`), to which `/chat/completions` is added.

    api_key_env: the environment variable that holds the key; null: none is sent. retries: after 429, 5xx and broken or
    slow connections, with waits that double from one second. concurrency: requests at once. answer_tokens: at most, of
    an answer. parameters: added to every request, in place of what is sent otherwise; null takes a parameter out
    (`{max_tokens: null, max_completion_tokens: 500}` for models that want that).
    """

    url: str
    model: str
    api_key_env: Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]{0,63}$")] | None = "OPENAI_API_KEY"
    timeout_seconds: Annotated[float, Field(gt=0.0, le=3600.0)] = 60.0
    retries: Annotated[int, Field(ge=0, le=50)] = 6
    concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    answer_tokens: Annotated[int, Field(ge=1, le=65_536)] = 16
    parameters: dict[str, bool | int | float | str | None] = {}


class PriceConfig(Section):
    """Per million tokens, in whatever money `max_cost` is in; both 0 for a server of one's own."""

    input: Money
    output: Money


class RubricConfig(Section):
    """What one dimension means: the text that the model is given, and the numbers between which it answers."""

    text: str = Field(min_length=1)
    scale: tuple[float, float] = (1.0, 5.0)

    @model_validator(mode="after")
    def _ordered(self) -> RubricConfig:
        if not self.scale[0] < self.scale[1]:
            raise ValueError(f"found scale {list(self.scale)}, wanted the smaller bound first")
        return self


class LabelsConfig(Section):
    """A sample by document hash, one question for each of its documents and dimensions, and the file of answers.

    file: JSON lines with the pool's own id and text columns and one column a dimension, for `{kind: heads}`.
    rubric_file: YAML, dimension -> {text, scale}; null: the one that ships, for the dimensions of configs/odis.yaml.
    rubrics: more of them, or others in their place. dimensions: those that are asked, all that have a rubric where none
    is named. max_tokens: of a document, by the run's tokenizer; the rest is cut. attempts: at a number, before an
    answer counts as missing. max_cost: of all answers together, those of earlier attempts included.
    """

    file: str
    endpoint: EndpointConfig
    price: PriceConfig
    max_cost: Money = 10.0
    sample_docs: Count = 2_000
    max_tokens: Annotated[int, Field(ge=16, le=1_000_000)] = 1_000
    attempts: Annotated[int, Field(ge=1, le=10)] = 2
    dimensions: tuple[Name, ...] = ()
    rubric_file: str | None = None
    rubrics: dict[Name, RubricConfig] = {}
