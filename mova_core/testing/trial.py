"""Trying an expert: it is built small, held to its promises, and loaded if its weights are here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from mova_core.cards.card import ExpertCard
from mova_core.cards.records import ExpertRecord
from mova_core.errors import MovaError
from mova_core.experts.loading import load_expert
from mova_core.experts.protocol import VisionExpert
from mova_core.model.sources import find_weights
from mova_core.testing import promises
from mova_core.testing.card_checks import BYTES
from mova_core.testing.findings import Finding

TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Trial:
    """One promise put to the test.

    Args:
        promise: in words.
        mend: what to do where it is broken.
        check: raises what the expert's code raises, or `AssertionError`.
    """

    promise: str
    mend: str
    check: Callable[[], object]


def trial_findings(record: ExpertRecord, *, with_weights: bool) -> list[Finding]:
    """Hold an expert to its promises.

    Args:
        record: a usable expert.
        with_weights: also load it with its weights, which are on this machine (or which it does without).

    Returns:
        What it breaks, with what its code said.
    """
    card = record.card
    if card is None:
        return []
    if card.isolation == "process":  # its code can be imported in its environment only
        return _real_findings(card, record.source) if with_weights else []
    try:
        small = promises.build(card, {})
    except Exception as error:  # a plugin's code may raise anything
        mend = _hint(error) or "make `from_config()` build a small expert with random weights"
        return [Finding(card.id, f"cannot be built small: {_said(error)}", mend)]
    findings = _broken(card, _small_trials(card, small, depends=not with_weights))
    if with_weights:
        findings += _real_findings(card, record.source)
    return findings


def _small_trials(card: ExpertCard, small: VisionExpert, *, depends: bool) -> Iterator[Trial]:
    yield Trial(
        "a batch equals its pictures one by one",
        "treat each picture alone: no statistics of the batch, no state between calls",
        partial(promises.a_batch_equals_its_pictures_one_by_one, small, TOLERANCE),
    )
    yield Trial(
        "the same picture gives the same features",
        "leave nothing to chance in `forward`, such as dropout",
        partial(promises.the_same_picture_gives_the_same_features, small),
    )
    dtypes = [getattr(torch, name) for name in card.memory_mb if name in BYTES]
    yield Trial(
        f"features have the dtype asked for ({', '.join(card.memory_mb)})",
        "make `forward` give the dtype of its parameters, or take the dtype out of `[memory_mb]`",
        partial(promises.dtypes_are_honoured, card, {}, dtypes),
    )
    if any(True for _ in small.parameters()):  # one without runs elsewhere, such as in another runtime
        yield Trial(
            "it runs on any device",
            "create tensors on the device of the stream, and register constants as buffers",
            partial(promises.the_device_is_honoured, card, {}),
        )
    yield Trial(
        "its weights go through safetensors",
        "keep all that it knows in parameters and buffers",
        partial(promises.weights_go_through_safetensors, card, {}, small),
    )
    yield Trial(
        "it pickles to another process",
        "keep no lambdas, sessions or open files in the module",
        partial(_pickles, small),
    )
    if card.role == "expert":
        yield Trial(
            "the pool runs it for those who chose it",
            "compare `forward` with the expert contract",
            partial(promises.the_pool_runs_it_for_those_who_chose_it, card, small),
        )
    if depends:
        yield _depends(small)


def _real_findings(card: ExpertCard, source: Path | None) -> list[Finding]:
    try:
        with torch.no_grad():
            expert = load_expert(
                card,
                device=torch.device("cpu"),
                dtype=torch.float32,
                beside=source.parent if source else None,
                find=find_weights,
            ).eval()
    except Exception as error:  # a plugin's code may raise anything
        mend = _hint(error) or "make `from_pretrained` read the weights of the card"
        return [Finding(card.id, f"cannot be loaded: {_said(error)}", mend)]
    return _broken(card, _real_trials(card, expert))


def _real_trials(card: ExpertCard, expert: VisionExpert) -> Iterator[Trial]:
    if any(True for _ in expert.parameters()):
        yield Trial(
            "it has the parameters of its card",
            "correct `[expert] parameters`",
            partial(promises.has_the_parameters_of_the_card, expert, card),
        )
    yield Trial(
        "pictures of every size become streams",
        "make `preprocess` do what `[input]` says, for pictures down to 1x1",
        partial(promises.pictures_of_every_size_become_streams, expert, card),
    )
    yield Trial(
        "it gives the features of its card",
        "correct `[features]`, or the code",
        partial(promises.gives_the_features_of_the_card, expert, card, 2),
    )
    yield _depends(expert)


def _depends(expert: VisionExpert) -> Trial:
    return Trial(
        "features depend on the picture",
        "look for a part that is switched off, or starts at zero",
        partial(promises.features_depend_on_the_picture, expert),
    )


def _pickles(small: VisionExpert) -> None:
    with TemporaryDirectory() as folder:
        promises.it_pickles_to_a_worker(small, Path(folder))


def _broken(card: ExpertCard, trials: Iterator[Trial]) -> list[Finding]:
    findings = []
    for trial in trials:
        try:
            trial.check()
        except Exception as error:  # a plugin's code may raise anything
            what = f"it breaks the promise that {trial.promise}: {_said(error)}"
            findings.append(Finding(card.id, what, trial.mend))
    return findings


def _said(error: Exception) -> str:
    """An error in one line."""
    if isinstance(error, MovaError):
        return str(type(error)(error.message, value=error.value, expected=error.expected))
    words = " ".join(str(error).split()).removesuffix(".")
    return words if isinstance(error, AssertionError) else f"{type(error).__name__}: {words}"


def _hint(error: Exception) -> str | None:
    return error.hint if isinstance(error, MovaError) else None
