"""`Mova`: a loaded model with its pool, asked in plain Python.

One question goes through the house like this: look (base features), route, run the chosen experts, fuse,
answer. The features of base and experts are cached by picture; fused tokens depend on the question and never
are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mova_core.errors import InputError, PoolError
from mova_core.fusion.output import FusionOutput
from mova_core.model.answer import Answer, ImageTrace
from mova_core.model.given import ImageLike, check_question, load_images
from mova_core.model.looking import Looked, look
from mova_core.model.modeling import MovaForConditionalGeneration
from mova_core.model.processing import MovaProcessor, Turn
from mova_core.model.routers import own_router
from mova_core.model.timeline import Clock
from mova_core.routing.base import Candidate, Router
from mova_core.routing.baselines import FixedRouter
from mova_core.routing.eager import Decided, route_in_steps
from mova_core.routing.placed import execution_device
from mova_core.routing.route import Route

if TYPE_CHECKING:
    from mova_core.experts.pending import PendingEncoding
    from mova_core.experts.pool import ExpertPool
    from mova_core.hookspecs import Hooks

MAX_NEW_TOKENS = 64


class Mova:
    """Answers questions about pictures.

    Args:
        model: the model.
        processor: its processor.
        pool: the model's experts and its base encoder.
        router: decides when no route is given; the checkpoint's own by default.
        hooks: behaviour plugins that are told of routes and fused tokens.
        early_experts: whether experts start as soon as a router has decided for them, while it decides about
            others. By default they do if the pool is on another device than the language model: on one device
            they would take from the router what they gain.
    """

    def __init__(
        self,
        model: MovaForConditionalGeneration,
        processor: MovaProcessor,
        pool: ExpertPool,
        *,
        router: Router | None = None,
        hooks: Hooks | None = None,
        early_experts: bool | None = None,
    ) -> None:
        self.model = model
        self.processor = processor
        self.pool = pool
        self.router = router or own_router(model, processor)
        self.hooks = hooks
        self.early_experts = early_experts

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
        looked, chosen = self._look([turns]), router or self.router
        return chosen.route(looked.shown(chosen), [question], offered)[0]

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
        clock = Clock()
        inputs = self.processor.tokens([self.processor.write(turns) for turns in conversations])
        self._check_length(inputs["input_ids"].shape[1])
        with clock.step("look", str(self.pool.device)):
            looked = self._look(conversations)
        with self.pool.begin(looked.batch) as pending:
            with clock.step("route", str(self._device)):
                routes = self._routes(looked, router or self.router, self._follow(clock, pending))
            with clock.step("experts", None):
                encoded = pending.finish(routes)
        for run in encoded.runs:
            clock.add(f"expert {run.id}", run.start, run.end, run.device)
        with clock.step("fuse", str(self.model.adapter.position.device)):
            fused = looked.fused(encoded, explain=explain)
        if self.hooks is not None and fused is not None:
            self.hooks.manager.hook.mova_after_fuse(routes=routes, output=fused)
        with clock.step("answer", str(self._device)):
            texts = self._write(inputs, fused, max_new_tokens)
        traces = [_trace(fused, row, route, explain) for row, route in enumerate(routes)] if fused else []
        answers, first = [], 0
        for text, turns in zip(texts, conversations, strict=True):
            count = sum(len(turn.images) for turn in turns)
            own = tuple(traces[first : first + count])
            wanted = {id for trace in own for id in trace.route.experts}
            skipped = {id: why for id, why in encoded.skipped.items() if id in wanted}
            answers.append(Answer(text, own, dict(clock.seconds), skipped, clock.events))
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

    def _look(self, conversations: Sequence[Sequence[Turn]]) -> Looked:
        return look(self.model, self.processor, self.pool, conversations)

    def _routes(self, looked: Looked, router: Router, decided: Decided) -> list[Route]:
        if not looked.images:
            return []
        routes = route_in_steps(router, looked.shown(router), looked.questions, self.pool, decided)
        if self.hooks is not None:
            self.hooks.manager.hook.mova_on_route(questions=looked.questions, routes=routes)
        return routes

    def _follow(self, clock: Clock, pending: PendingEncoding) -> Decided:
        """Writes the router's steps down, and starts experts if they may start early."""
        lap, early = clock.laps("route step", str(self._device)), self._starts_early()

        def decided(chosen: Mapping[int, str]) -> None:
            lap()
            if early:
                pending.start(chosen)

        return decided

    def _starts_early(self) -> bool:
        if self.early_experts is not None:
            return self.early_experts
        return _numbered(self.pool.device) != _numbered(self._device)

    @property
    def _device(self) -> torch.device:
        """Where the language model begins."""
        return execution_device(self.model.get_input_embeddings())

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


def _trace(fused: FusionOutput, row: int, route: Route, explain: bool) -> ImageTrace:
    chosen = [id for id in route.experts if id in fused.gates]
    gates = {id: tuple(fused.gates[id][:, row].tolist()) for id in chosen}
    return ImageTrace(route, gates, {id: fused.attention[id][:, row] for id in chosen} if explain else {})


def _numbered(device: torch.device) -> torch.device:
    """A device with its number: "cuda" is the current one."""
    return torch.empty(0, device=device).device
