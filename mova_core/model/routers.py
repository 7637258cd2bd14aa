"""Routers made of a model's own parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from PIL import Image
from torch import Tensor

from mova_core.model.modeling import MovaForConditionalGeneration
from mova_core.model.processing import MovaProcessor
from mova_core.model.settings import RouterSettings
from mova_core.routing.base import Router
from mova_core.routing.calibration import Calibration
from mova_core.routing.free import FreeRouter
from mova_core.routing.language import RoutingLanguageModel
from mova_core.routing.listwise import ListwiseRouter
from mova_core.routing.pointwise import PointwiseRouter
from mova_core.routing.prompt import ChatFormat, ListwisePrompt, PointwisePrompt
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
        model.language_model,
        processor.tokenizer,
        see=see,
        adapter=lambda: model.loras.on("router"),
        start=tuple(processor.begin_ids()),
    )


def pointwise_router(model: MovaForConditionalGeneration, processor: MovaProcessor) -> PointwiseRouter:
    """The pointwise router with the checkpoint's words and calibration."""
    settings = model.config.router_settings
    own = PointwisePrompt(chat=_chat(processor)[0])
    calibration = Calibration(settings.bias, settings.temperature, settings.threshold)
    return PointwiseRouter(
        routing_language(model, processor),
        prompt=own if settings.branch is None else replace(own, branch=settings.branch),
        calibration=calibration,
        k=settings.max_experts,
    )


def own_router(model: MovaForConditionalGeneration, processor: MovaProcessor) -> Router:
    """The router that the checkpoint asks for."""
    kinds: dict[str, Callable[[MovaForConditionalGeneration, MovaProcessor], Router]]
    kinds = {"pointwise": pointwise_router, "listwise": listwise_router, "free": free_router}
    return kinds[model.config.router_settings.kind](model, processor)


def listwise_router(model: MovaForConditionalGeneration, processor: MovaProcessor) -> ListwiseRouter:
    """The paper's router: the language model writes the labels of the experts it wants."""
    settings = model.config.router_settings
    language = routing_language(model, processor)
    return ListwiseRouter(language, k=settings.max_experts, **_words(settings, processor))


def free_router(model: MovaForConditionalGeneration, processor: MovaProcessor) -> FreeRouter:
    """The released MoVA's way: the language model writes freely, and letters are read out of that."""
    return FreeRouter(routing_language(model, processor), **_words(model.config.router_settings, processor))


def _words(settings: RouterSettings, processor: MovaProcessor) -> dict[str, Any]:
    """How a listwise or free router asks, by the checkpoint."""
    chat, before_question = _chat(processor)
    words = settings.listwise
    if words is None:
        return {"prompt": ListwisePrompt(chat=chat)}
    prompt = ListwisePrompt(
        chat=chat,
        before_image=words.before_image,
        after_image=before_question + words.after_image,
        line=words.line,
        separator=words.separator,
        none=words.none,
    )
    return {"prompt": prompt, "order": words.order or "id", "descriptions": words.descriptions}


def _chat(processor: MovaProcessor) -> tuple[ChatFormat, str]:
    """The marks of a user's turn as the answering pass writes them, and what stands after the image."""
    prompt = processor.prompt
    opening, _, rest = prompt.user.partition("{images}")
    between, _, closing = rest.partition("{question}")
    chat = ChatFormat(prefix=prompt.begin + opening, suffix=closing, end=prompt.stop)
    return chat, prompt.image_end + between


def similarity_router(model: MovaForConditionalGeneration, processor: MovaProcessor) -> SimilarityRouter:
    """The one expert whose description is nearest to the question in the adapter's text encoder."""

    def encode(texts: Sequence[str]) -> Tensor:
        tokens = processor.question_tokens.tokenizer(
            list(texts), padding=True, truncation=True, return_tensors="pt"
        )
        return model.encode_text(tokens["input_ids"], tokens["attention_mask"])

    return SimilarityRouter(encode, k=1)
