"""One forward pass of one expert, held to its card.

Notation for tensor shapes:
    m: pictures, n: tokens of the feature grid, c: feature channels
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mova_core.errors import ExpertRunError, MovaError
from mova_core.experts.batch import ImageBatch
from mova_core.experts.features import ExpertFeatures
from mova_core.experts.protocol import VisionExpert, check_features


def run_expert(
    expert: VisionExpert,
    batch: ImageBatch,
    digests: Sequence[str],
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> ExpertFeatures:
    """Encode some pictures of a batch, whatever autocast the caller is under.

    Args:
        expert: a loaded expert, bound to its card.
        batch: the pictures.
        digests: which of them, in the order wanted.
        device: where the expert is.
        dtype: dtype of the expert and of the features.

    Returns:
        Features of those pictures.

    Raises:
        ExpertRunError: the expert fails, or gives other features than its card promises.
    """
    try:
        stream = expert.placed(batch.stream(expert, digests), device=device, dtype=dtype)
        with torch.autocast(device.type, enabled=False):
            features = expert(stream)
        spec = expert.card.features
        features = check_features(features, spec, expert=expert.card.id, images=len(digests))
    except ExpertRunError:
        raise
    except Exception as error:  # a plugin's code may raise anything; the expert's name belongs to it
        raise _run_error(expert.card.id, len(digests), error) from error
    return ExpertFeatures(features.tokens.to(dtype), features.grid)


def join_features(features: Sequence[ExpertFeatures], *, expert: str) -> ExpertFeatures:
    """Features [m, n, c] from those of m single pictures [1, n, c], at least one.

    Raises:
        ExpertRunError: their grids differ.
    """
    grids = sorted({each.grid for each in features})
    if len(grids) > 1:
        raise ExpertRunError(
            f"expert {expert!r} gave pictures of one batch different grids",
            value=grids,
            expected="one grid",
            hint="Ask about these pictures one at a time.",
        )
    return ExpertFeatures(torch.cat([each.tokens for each in features]), grids[0])


def _run_error(id: str, pictures: int, error: Exception) -> ExpertRunError:
    failure = f"expert {id!r} failed on {pictures} picture{'' if pictures == 1 else 's'}"
    if isinstance(error, MovaError):
        return ExpertRunError(
            f"{failure}: {error.message}", value=error.value, expected=error.expected, hint=error.hint
        )
    return ExpertRunError(
        failure,
        value=f"{type(error).__name__}: {error}",
        expected="features",
        hint='Leave it out of the pool, or set on_expert_error = "skip".',
    )
