"""`Mova`: a loaded model with its pool, asked in plain Python.

One question goes through the house like this: look (base features), route, run the chosen experts, fuse,
answer. The features of base and experts are cached by picture; fused tokens depend on the question and never
are.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from mova_core.errors import InputError, PoolError
from mova_core.experts.encoded import Encoded
from mova_core.experts.images import load_image
from mova_core.fusion.output import FusionOutput
from mova_core.model.answer import Answer, ImageTrace
from mova_core.model.modeling import MovaForConditionalGeneration
from mova_core.model.processing import MovaProcessor, Turn, check_question
from mova_core.model.routers import own_router
from mova_core.routing.base import Candidate, Router
from mova_core.routing.baselines import FixedRouter
from mova_core.routing.route import Route

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mova_core.experts.pool import ExpertPool
    from mova_core.hookspecs import Hooks

ImageLike = str | Path | bytes | Image.Image
MAX_NEW_TOKENS = 64


class Mova:
    """Answers questions about pictures.

    Args:
        model: the model.
        processor: its processor.
        pool: the model's experts and its base encoder.
        router: decides when no route is given; the checkpoint's own by default.
        hooks: behaviour plugins that are told of routes and fused tokens.
    """

    def __init__(
        self,
        model: MovaForConditionalGeneration,
        processor: MovaProcessor,
        pool: ExpertPool,
        *,
        router: Router | None = None,
        hooks: Hooks | None = None,
    ) -> None:
        self.model = model
        self.processor = processor
        self.pool = pool
        self.router = router or own_router(model, processor)
        self.hooks = hooks

    def ask(
        self,
        image: ImageLike | Sequence[ImageLike] | None,
        question: str,
        *,
        experts: Sequence[str] | None = None,
        router: Router | None = None,
        explain: bool = False,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> Answer:
        """Answers one question.

        Args:
            image: path, bytes or PIL picture; several, or None for a question without a picture.
            question: the question.
            experts: a route of your own; an empty one uses the base encoder only. Without it the router
                decides.
            router: another router for this question.
            explain: also compute where each expert was attended to.
            max_new_tokens: bound of the answer's length.

        Returns:
            The answer with routes, gate weights and timings.

        Raises:
            InputError: for a picture or question that cannot be read.
            UnknownExpertError, PoolError: for an expert that the pool does not have.
            ExpertLoadError, ExpertRunError: if a chosen expert fails.
        """
        turn = Turn(question, load_images(image))
        chosen = router if experts is None else FixedRouter(experts)
        return self.answer([[turn]], router=chosen, explain=explain, max_new_tokens=max_new_tokens)[0]

    def chat(self) -> Conversation:
        """A conversation of several turns, in which later questions may bring further pictures."""
        return Conversation(self)

    def route(
        self,
        image: ImageLike,
        question: str,
        *,
        pool: Iterable[Candidate] | None = None,
        router: Router | None = None,
    ) -> Route:
        """Routes one question without answering it.

        Args:
            image: path, bytes or PIL picture.
            question: the question.
            pool: experts on offer; the model's own by default. Others need no pack here.
            router: another router.

        Raises:
            PoolError: if no expert is on offer.
            InputError: for a picture or question that cannot be read.
        """
        offered = list(self.pool if pool is None else pool)
        if not offered:
            raise PoolError(
                "no expert is on offer",
                expected="at least one",
                hint="Run `mova experts list`, and install one.",
            )
        turns = [Turn(check_question(question), load_images(image))]
        looked = self._look([turns])
        return (router or self.router).route(self._seen(looked), [question], offered)[0]

    @torch.no_grad()
    def answer(
        self,
        conversations: Sequence[Sequence[Turn]],
        *,
        router: Router | None = None,
        explain: bool = False,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> list[Answer]:
        """Answers the last turn of each conversation, all of them in one batch.

        Every image gets a route for the current question, and is fused with the questions so far.

        Args:
            conversations: each with its turns so far, the last one open.
            router: another router.
            explain: also compute where each expert was attended to.
            max_new_tokens: bound of the answers' length.
        """
        clock: dict[str, float] = {}
        inputs = self.processor.tokens([self.processor.write(turns) for turns in conversations])
        self._check_length(inputs["input_ids"].shape[1])
        with _timed(clock, "look"):
            looked = self._look(conversations)
        with _timed(clock, "route"):
            routes = self._routes(looked, router or self.router)
        with _timed(clock, "experts"):
            encoded = self.pool.encode(looked.images, routes) if looked.images else Encoded({})
        with _timed(clock, "fuse"):
            fused = (
                self.model.fuse(looked.base, encoded, looked.text, explain=explain) if looked.images else None
            )
        if self.hooks is not None and fused is not None:
            self.hooks.manager.hook.mova_after_fuse(routes=routes, output=fused)
        with _timed(clock, "answer"):
            texts = self._write(inputs, fused, max_new_tokens)
        traces = [_trace(fused, row, route, explain) for row, route in enumerate(routes)] if fused else []
        answers, first = [], 0
        for text, turns in zip(texts, conversations, strict=True):
            count = sum(len(turn.images) for turn in turns)
            own = tuple(traces[first : first + count])
            wanted = {id for trace in own for id in trace.route.experts}
            skipped = {id: why for id, why in encoded.skipped.items() if id in wanted}
            answers.append(Answer(text, own, dict(clock), skipped))
            first += count
        return answers

    def _check_length(self, tokens: int) -> None:
        reach = getattr(self.model.language_model.config, "max_position_embeddings", None)
        if reach is not None and tokens >= reach:
            raise InputError(
                "the conversation is too long for the language model",
                value=f"{tokens:,} tokens",
                expected=f"fewer than {reach:,}",
                hint="Shorten the question, or begin a new conversation.",
            )

    def _look(self, conversations: Sequence[Sequence[Turn]]) -> _Looked:
        images, questions, asked = [], [], []
        for turns in conversations:
            for turn in turns:
                for image in turn.images:
                    images.append(image)
                    questions.append(turns[-1].question)
                    asked.append([t.question for t in turns])
        if not images:
            return _Looked([], [], torch.empty(0), torch.empty(0))
        text = self.processor.question_tokens(asked)
        feature = self.model.encode_text(text["input_ids"], text["attention_mask"])
        base = self.pool.encode_all(images, self.model.config.base).tokens
        return _Looked(images, questions, base, feature)

    def _seen(self, looked: _Looked) -> list[Tensor]:
        with torch.no_grad():
            return list(self.model.routing_tokens(looked.base, looked.text))

    def _routes(self, looked: _Looked, router: Router) -> list[Route]:
        if not looked.images:
            return []
        routes = router.route(self._seen(looked), looked.questions, self.pool)
        if self.hooks is not None:
            self.hooks.manager.hook.mova_on_route(questions=looked.questions, routes=routes)
        return routes

    def _write(self, inputs: Mapping[str, Tensor], fused: FusionOutput | None, limit: int) -> list[str]:
        tokenizer = self.processor.tokenizer
        written = self.model.generate(
            inputs["input_ids"].to(self.model.device),
            inputs["attention_mask"].to(self.model.device),
            image_tokens=fused.tokens if fused else None,
            max_new_tokens=limit,
            do_sample=False,
            eos_token_id=self.processor.stop_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        return self.processor.read(written)


class Conversation:
    """Several turns with one model. Each turn routes and fuses every picture anew, for the question it asks.

    Args:
        mova: the loaded model.
    """

    def __init__(self, mova: Mova) -> None:
        self._mova = mova
        self.turns: list[Turn] = []

    def ask(
        self,
        question: str,
        images: ImageLike | Sequence[ImageLike] = (),
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> Answer:
        """Asks the next question; `images` come with it and stay in the conversation."""
        turn = Turn(check_question(question), load_images(images))
        answer = self._mova.answer([[*self.turns, turn]], max_new_tokens=max_new_tokens)[0]
        self.turns.append(Turn(turn.question, turn.images, answer.text))
        return answer


class _Looked:
    """Images of a batch with what is known of them before routing."""

    def __init__(self, images: list[Image.Image], questions: list[str], base: Tensor, text: Tensor) -> None:
        self.images = images
        self.questions = questions
        self.base = base  # [i, n, c]
        self.text = text  # [i, t]


def load_images(given: ImageLike | Sequence[ImageLike] | None) -> tuple[Image.Image, ...]:
    """RGB pictures from what a caller may hand in.

    Raises:
        InputError: naming the picture that cannot be read.
    """
    if given is None:
        return ()
    if isinstance(given, (str, Path, bytes, Image.Image)):
        return (load_image(given),)
    return tuple(load_image(each) for each in given)


def _trace(fused: FusionOutput, row: int, route: Route, explain: bool) -> ImageTrace:
    chosen = [id for id in route.experts if id in fused.gates]
    gates = {id: tuple(fused.gates[id][:, row].tolist()) for id in chosen}
    return ImageTrace(route, gates, {id: fused.attention[id][:, row] for id in chosen} if explain else {})


@contextmanager
def _timed(clock: dict[str, float], step: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    clock[step] = time.perf_counter() - start
