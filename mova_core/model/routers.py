"""Routers made of a model's own parts."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from mova_core.model.modeling import MovaForConditionalGeneration
from mova_core.model.processing import MovaProcessor
from mova_core.routing.base import Router
from mova_core.routing.calibration import Calibration
from mova_core.routing.language import RoutingLanguageModel
from mova_core.routing.listwise import ListwiseRouter
from mova_core.routing.pointwise import PointwiseRouter
from mova_core.routing.similarity import SimilarityRouter


def routing_language(model: MovaForConditionalGeneration, processor: MovaProcessor) -> RoutingLanguageModel:
    """The model's language model with its `router` LoRA, on during the routing pass only.

    Pictures are seen without a question's text feature where none is given; callers that have the question
    hand in ready routing tokens instead.
    """

    def see(images: Sequence[Image.Image]) -> Tensor:
        text = processor.question_tokens([[""]] * len(images))
        feature = model.encode_text(text["input_ids"], text["attention_mask"])
        return model.routing_tokens(model.encode_base(processor.pixels(images)), feature)

    return RoutingLanguageModel(
        model.language_model, processor.tokenizer, see=see, adapter=lambda: model.loras.on("router")
    )


def pointwise_router(model: MovaForConditionalGeneration, processor: MovaProcessor) -> PointwiseRouter:
    """The pointwise router with the checkpoint's calibration."""
    settings = model.config.router_settings
    calibration = Calibration(settings.bias, settings.temperature, settings.threshold)
    return PointwiseRouter(
        routing_language(model, processor), calibration=calibration, k=settings.max_experts
    )


def own_router(model: MovaForConditionalGeneration, processor: MovaProcessor) -> Router:
    """The router that the checkpoint asks for."""
    if model.config.router_settings.kind == "listwise":
        return listwise_router(model, processor)
    return pointwise_router(model, processor)


def listwise_router(model: MovaForConditionalGeneration, processor: MovaProcessor) -> ListwiseRouter:
    """The paper's router: the language model writes the labels of the experts it wants."""
    return ListwiseRouter(routing_language(model, processor), k=model.config.router_settings.max_experts)


def similarity_router(model: MovaForConditionalGeneration, processor: MovaProcessor) -> SimilarityRouter:
    """The one expert whose description is nearest to the question in the adapter's text encoder."""

    def encode(texts: Sequence[str]) -> Tensor:
        tokens = processor.question_tokens.tokenizer(
            list(texts), padding=True, truncation=True, return_tensors="pt"
        )
        return model.encode_text(tokens["input_ids"], tokens["attention_mask"])

    return SimilarityRouter(encode, k=1)
