"""What no weight file of a release tells: how its language model is built and spoken to.

A profile is a TOML file. Those of the three language models of the paper come with the package; a file of
one's own serves for other sizes.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from mova_core.cards.spec import Spec, Text
from mova_core.errors import ConfigError
from mova_core.model.own_cards import CardChanges
from mova_core.model.settings import ListwiseSettings, PositiveInt, PromptSettings

Tower = Literal["clip", "dinov2", "vary", "codetr", "pix2struct", "deplot", "biomedclip", "sam"]
"""Base encoder and experts of a release."""


class ReleaseProfile(Spec):
    """One language model's way into MoVA.

    Args:
        title: for people.
        conversation: name of its conversation template in the released code.
        language_model: configuration of the language model in transformers' terms, for releases whose own
            `config.json` does not say it.
        prompt: how a conversation is written.
        routing: how it is asked for experts.
        routing_tokens: image tokens in the routing pass, unless the release says otherwise.
        cards: by expert, changes of its card; see `mova_core.model.own_cards`.
        towers: by expert, a `config.json` to put beside its weights, for towers of other sizes.
        text_encoder: the same for the text encoder.
    """

    title: Text
    conversation: Text
    language_model: dict[str, Any]
    prompt: PromptSettings
    routing: ListwiseSettings
    routing_tokens: PositiveInt = 144
    cards: dict[Tower, CardChanges] = {}
    towers: dict[Tower, dict[str, Any]] = {}
    text_encoder: dict[str, Any] = {}


_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers")


def profile_names() -> tuple[str, ...]:
    """Profiles that come with the package."""
    return tuple(sorted(file.name.removesuffix(".toml") for file in _folder() if file.name.endswith(".toml")))


def read_profile(name: str | Path) -> ReleaseProfile:
    """A profile of the package by its name, or of one's own by its path.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    own = Path(name)
    known = profile_names()
    if str(name) in known:
        text = resources.files(__package__).joinpath("profiles", f"{name}.toml").read_bytes()
    elif own.is_file():
        text = own.read_bytes()
    else:
        raise ConfigError(
            "no such profile", value=str(name), expected=" or ".join([*known, "the path of a TOML file"])
        )
    try:
        return ReleaseProfile.model_validate(tomllib.loads(text.decode()))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, ValidationError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        place = ".".join(map(str, first["loc"])) + f": {first['msg']}" if first else str(error)
        raise ConfigError("the profile cannot be used", value=f"{name}: {place}") from error


def fitting_profile(sizes: Mapping[str, Any]) -> ReleaseProfile:
    """The profile of the package whose language model has these sizes.

    Args:
        sizes: a configuration of transformers, of which hidden, intermediate and layer sizes are compared.

    Raises:
        ConfigError: none has.
    """
    profiles = {name: read_profile(name) for name in profile_names()}
    for profile in profiles.values():
        if all(profile.language_model[size] == sizes.get(size) for size in _SIZES):
            return profile
    raise ConfigError(
        "no profile fits this language model",
        value=", ".join(f"{size} {sizes.get(size)}" for size in _SIZES),
        expected=" or ".join(
            f"{name} ({', '.join(str(p.language_model[size]) for size in _SIZES)})"
            for name, p in profiles.items()
        ),
        hint="Name one with --profile, or a TOML file of your own.",
    )


def _folder() -> list[Any]:
    return list(resources.files(__package__).joinpath("profiles").iterdir())
