"""The expert's card: everything the toolkit knows of an expert without importing its code.

Source: MoVA paper, section 3.1 (the pool) and appendix (descriptions in several wordings, without names).
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from mova_core.cards.spec import Identifier, Sha256, Spec, Text, written_as
from mova_core.cards.stream import InputStream, PositiveInt
from mova_core.cards.weights import Source

API_VERSION: Final = 1
"""Version of the expert contract that this toolkit speaks."""

Factory = Annotated[str, written_as(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", "written as 'module:Class'")]
"""Where the code is: `module:Class`."""


Option = int | float | str | bool | tuple[int, ...]
"""An argument of a factory as a TOML file can hold it."""


class FeatureSpec(Spec):
    """Shape of an expert's features.

    Args:
        channels: width c of a token.
        grid: (h, w) tokens, or "dynamic" where it depends on the picture.
    """

    channels: PositiveInt
    grid: tuple[PositiveInt, PositiveInt] | Literal["dynamic"]


class WeightsSpec(Spec):
    """Where an expert's weights come from.

    Args:
        sources: places to look, in order; see `mova_core.cards.weights`. Empty: the expert has no weights.
        revision: commit, tag or release of the weights.
        sha256: digest of the weight file.
        licence: SPDX identifier of the weights.
        notice: what whoever loads them must know, such as a bar on commercial use; said at every load.
        remark: what is worth knowing of the files, such as which of them were never opened; said on request.
    """

    sources: tuple[Source, ...]
    revision: str | None = None
    sha256: Sha256 | None = None
    licence: Text
    notice: Text | None = None
    remark: Text | None = None


class ExpertCard(Spec):
    """Static description of one expert, or of one base encoder.

    Args:
        api_version: version of the expert contract the code was written for.
        id: the expert's name.
        role: "expert" is offered to the router; "base" sees every picture.
        title: the expert in a few words, for people.
        descriptions: what the router is told, in several wordings that never name the expert.
        example_questions: questions it helps with.
        domains: kinds of pictures it is made for.
        factory: `module:Class` of the `VisionExpert`.
        isolation: "process" runs the expert in an interpreter of its own.
        parameters: number of parameters.
        paper: reference or address.
        code_licence: SPDX identifier of the code.
        input: how it wants its pictures.
        features: what it gives.
        memory_mb: memory by dtype name, in MiB.
        weights: where its weights come from.
        options: further arguments of the factory's `from_pretrained`, by name, such as sizes that its weight
            files do not tell.
    """

    api_version: Literal[1] = API_VERSION
    id: Identifier
    role: Literal["expert", "base"]
    title: Text
    descriptions: tuple[Text, ...] = ()
    example_questions: tuple[Text, ...] = ()
    domains: tuple[Text, ...] = ()
    factory: Factory
    isolation: Literal["none", "process"] = "none"
    parameters: Annotated[int, Field(ge=0)]
    paper: str | None = None
    code_licence: Text
    input: InputStream
    features: FeatureSpec
    memory_mb: Annotated[dict[str, Annotated[float, Field(ge=0)]], Field(min_length=1)]
    weights: WeightsSpec
    options: dict[str, Option] = {}

    @model_validator(mode="after")
    def _router_is_told_something(self) -> ExpertCard:
        if self.role == "expert" and not self.descriptions:
            raise ValueError("role 'expert' needs 'descriptions': the router reads them")
        return self
