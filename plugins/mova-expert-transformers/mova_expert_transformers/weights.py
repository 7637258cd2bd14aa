"""Filling transformers' vision networks with the weights of a folder.

Weights are read by transformers itself, since it alone knows how its older names become its present ones. It
would draw at random what a file lacks; here that is an error.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from mova_core.errors import ExpertLoadError
from mova_core.experts.files import WeightFiles
from mova_core.experts.weights import some
from mova_expert_transformers.networks import class_of, configuration, headless

_LOG = logging.getLogger(__name__)

_NESTS: Final = ("model.vision_tower.", "vision_tower.", "vision_model.")
"""Where larger models keep their vision tower."""


def loaded(folder: Path, *, dtype: torch.dtype) -> PreTrainedModel:
    """The vision network of a folder with its weights; heads and other towers are not needed.

    Args:
        folder: with `config.json` and the weights.
        dtype: of its floating-point tensors.

    Raises:
        ExpertLoadError: the network cannot be built, or the weights do not fit; lists what is missing,
            surplus or of another shape.
    """
    config = configuration(folder)
    kind, arguments = class_of(config)
    with WeightFiles(folder) as files:
        nest = next((nest for nest in _NESTS if any(name.startswith(nest) for name in files)), None)
    if nest:
        arguments["key_mapping"] = {"^" + nest.replace(".", r"\."): ""}
    network: PreTrainedModel
    try:
        with _unreported():
            network, report = kind.from_pretrained(
                folder,
                config=headless(config),
                dtype=dtype,
                local_files_only=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # listed, and refused below
                output_loading_info=True,
                **arguments,
            )
    except Exception as error:  # transformers raises whatever a broken file provokes
        raise ExpertLoadError(
            f"transformers cannot read the weights of {folder}",
            value=f"{type(error).__name__}: {error}",
            hint="Fetch them again.",
        ) from error
    _check(network, report, folder)
    return network


@contextmanager
def _unreported() -> Iterator[None]:
    """Without transformers' table of every tensor that it did not use, such as a whole text tower's."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)


def _check(network: PreTrainedModel, report: dict[str, Any], folder: Path) -> None:
    """Refuse a network that was not filled by exactly the tensors of its part of the files."""
    surplus = set(_own(network, report["unexpected_keys"]))
    wrong = [
        f"{name} {tuple(found)} instead of {tuple(wanted)}"
        for name, found, wanted in report["mismatched_keys"]
    ]
    problems = [
        f"{len(names)} {label} ({some(sorted(names))})"
        for label, names in (
            ("missing", report["missing_keys"]),
            ("surplus", surplus),
            ("of another shape", wrong),
        )
        if names
    ]
    if problems:
        raise ExpertLoadError(
            f"the weights of {folder} do not fit {type(network).__name__}: {', '.join(problems)}",
            expected=f"exactly its {len(network.state_dict())} tensors",
            hint="Check that weights and config.json belong together.",
        )
    if unused := set(report["unexpected_keys"]) - surplus:
        _LOG.info("%s: %d tensors not needed (%s)", folder, len(unused), some(sorted(unused)))


def _own(network: PreTrainedModel, names: Iterable[str]) -> Iterator[str]:
    """Of tensors that were not used, those that claim to be the network's: neither a head's, another tower's,
    nor tables that the network computes."""
    parts = {name for name, _ in network.named_children()} | {name for name, _ in network.named_parameters()}
    computed = {name for name, _ in network.named_buffers()}
    for name in names:
        short = name.removeprefix(f"{network.base_model_prefix}.")
        if short.partition(".")[0] in parts and short not in computed:
            yield name
