"""What `erank` can be asked."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cast_server.evaluators.base import Params
from cast_server.evaluators.subject import Initialisation
from cast_server.evaluators.texts import LayerParam, TextParams

Seed = Annotated[int, Field(ge=0, lt=2**31)]


class NoBaseline(Params):
    """The model alone."""

    mode: Literal["none"] = "none"


class RandomInit(Params):
    """Beside untrained twins, in evaluation mode."""

    mode: Literal["random_init"]
    seeds: tuple[Seed, ...] = Field(
        (0, 1, 2), min_length=1, max_length=16, description="One untrained twin each."
    )
    std: float | None = Field(
        None,
        gt=0,
        le=1,  # transformers takes no more
        description="Standard deviation of the initial weights (initializer_range); null for "
        "the one of the model's configuration. It decides the sign of Diff-eRank.",
    )

    @model_validator(mode="after")
    def _seeds_differ(self) -> RandomInit:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds must differ from each other")
        return self


class OfficialCompat(Params):
    """As the official code of Diff-eRank does it: one untrained twin with dropout active."""

    mode: Literal["official_compat"]
    seed: Seed = Field(0, description="Of the weights and of the dropout; there they have none.")


class Provided(Params):
    """Beside entropies that were measured elsewhere."""

    mode: Literal["provided"]
    entropies: tuple[Annotated[float, Field(ge=0, le=100)], ...] = Field(
        min_length=1, description="Of the untrained model, in nats, one a text."
    )


Baseline = Annotated[
    NoBaseline | RandomInit | OfficialCompat | Provided, Field(discriminator="mode")
]


class ErankParams(TextParams):
    """Which hidden states, and what to compare them with."""

    layers: tuple[LayerParam, ...] = Field(
        ("last_normed",),
        min_length=1,
        max_length=256,
        description="Hidden states behind this many layers (0: the embeddings), or behind the "
        "final norm. An item's own numbers are those of the first one.",
    )
    drop_first: int = Field(
        0,
        ge=0,
        le=4096,
        description="Tokens at the beginning that do not count: a first token that all others "
        "attend to can be a hundred times as long as they are in middle layers.",
    )
    spectrum: int = Field(
        64, ge=0, le=4096, description="How many of the largest eigenvalues are told of each text."
    )
    baseline: Baseline = Field(NoBaseline(), description="The untrained side of Diff-eRank.")
    bootstrap_seed: Seed = Field(0, description="Of the intervals.")

    @model_validator(mode="after")
    def _makes_sense(self) -> ErankParams:
        if len(set(self.layers)) < len(self.layers):
            raise ValueError("layers must differ from each other")
        if self.baseline.mode == "provided" and len(self.layers) > 1:
            raise ValueError("entropies can be provided for one layer only")
        return self

    @property
    def twins(self) -> list[Initialisation]:
        """The untrained models to be read, in this order."""
        match self.baseline:
            case RandomInit(seeds=seeds, std=std):
                return [Initialisation(seed, std) for seed in seeds]
            case OfficialCompat(seed=seed):
                return [Initialisation(seed, is_training=True)]
        return []
