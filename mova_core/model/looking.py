"""The first look at the images of a batch: all that is known of them before anybody is chosen.

Notation for tensor shapes:
    i: images of the batch in order, n: base tokens, c: base channels, t: width of the text feature,
    n_r: routing tokens, d: width of the language model
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from mova_core.experts.batch import ImageBatch
from mova_core.fusion.grids import pool_tokens
from mova_core.fusion.output import FusionOutput
from mova_core.routing.base import ImageInput, Router, looks

if TYPE_CHECKING:
    from mova_core.experts.encoded import Encoded
    from mova_core.experts.pool import ExpertPool
    from mova_core.model.modeling import MovaForConditionalGeneration
    from mova_core.model.processing import MovaProcessor, Turn


@dataclass(slots=True, eq=False)
class Looked:
    """Images with what both passes need of them, each part computed once.

    Args:
        model: the model.
        batch: the images by content.
        images: the images, in order.
        questions: for each image the question that is asked now.
        base: [i, n, c].
        text: [i, t].
        bare: what fusion gives without experts, from when a router has needed it.
    """

    model: MovaForConditionalGeneration
    batch: ImageBatch
    images: list[Image.Image]
    questions: list[str]
    base: Tensor
    text: Tensor
    bare: FusionOutput | None = None

    @torch.no_grad()
    def shown(self, router: Router) -> Sequence[ImageInput]:
        """What a router is given to see: routing tokens [n_r, d], or the image itself if it does not look."""
        if not self.images or not looks(router):
            return self.images
        self.bare = self.model.fuse(self.base, {}, self.text)
        grid = self.model.config.adapter_settings.routing_grid
        return list(pool_tokens(self.bare.tokens, self.bare.grid, grid))

    def fused(self, encoded: Encoded, *, explain: bool) -> FusionOutput | None:
        """The image tokens for those experts; None without images."""
        if not self.images:
            return None
        if not encoded and self.bare is not None:
            return self.bare
        return self.model.fuse(self.base, encoded, self.text, explain=explain)


@torch.no_grad()
def look(
    model: MovaForConditionalGeneration,
    processor: MovaProcessor,
    pool: ExpertPool,
    conversations: Sequence[Sequence[Turn]],
) -> Looked:
    """Look at all images of some conversations, for the question that each ends in."""
    images, questions, asked = [], [], []
    for turns in conversations:
        for image in (image for turn in turns for image in turn.images):
            images.append(image)
            questions.append(turns[-1].question)
            asked.append(tuple(turn.question for turn in turns))
    batch = ImageBatch(images)
    if not images:
        return Looked(model, batch, [], [], torch.empty(0), torch.empty(0))
    texts = list(dict.fromkeys(asked))  # images of one conversation share theirs
    tokens = processor.question_tokens(texts)
    feature = model.encode_text(tokens["input_ids"], tokens["attention_mask"])
    text = feature[[texts.index(own) for own in asked]]  # [i, t]
    return Looked(model, batch, images, questions, pool.encode_all(batch, model.config.base).tokens, text)
