"""Answering any number of questions with one loaded model.

Window by window: all questions are looked at and routed, then answered, so that each LoRA is switched on
once, and each batch holds questions that need the same experts and are about equally long. Base and expert
features come from the pool's cache where several questions are about one picture. Whatever the batches, a
question gets the answer that it gets alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from mova_core.errors import ConfigError, MovaError
from mova_core.model.assistant import MAX_NEW_TOKENS, Mova
from mova_core.model.batch.grouping import by_length, by_route, halves
from mova_core.model.batch.request import Request, Result
from mova_core.model.batch.window import Opened, windows
from mova_core.model.looking import look
from mova_core.routing.base import Candidate, ImageInput, Router, looks
from mova_core.routing.baselines import FixedRouter
from mova_core.routing.route import Route

T = TypeVar("T")

BATCH_SIZE = 8
"""Questions in one pass. On a CPU larger batches gain nothing; on a GPU take what its memory allows."""

WINDOW = 8
"""Batches whose questions are opened and sorted together."""


def answer_all(
    mova: Mova,
    requests: Iterable[Request],
    *,
    router: Router | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int = BATCH_SIZE,
    window: int | None = None,
    routed: Callable[[int], None] = lambda number: None,
) -> Iterator[Result]:
    """Answers questions in batches, and gives each result as soon as there is one: not in order.

    Args:
        mova: a loaded model.
        requests: the questions; read window by window, so that there may be any number of them.
        router: decides for requests without experts of their own; the model's own router by default.
        max_new_tokens: bound of the answers' length.
        batch_size: the most questions in one pass.
        window: the most questions that are sorted together; by default as many as make eight batches.
        routed: told how many more questions have been routed, since the first answers of a window come after
            all of its routes.

    Yields:
        One result for each request, with its place. A question that cannot be answered (a broken picture, an
        expert that fails) has an error in its result, and costs the others nothing.

    Raises:
        ConfigError: if a batch or window would be empty.
    """
    window = WINDOW * batch_size if window is None else window
    for name, number in (("batch size", batch_size), ("window", window)):
        if number < 1:
            raise ConfigError(f"the {name} must be positive", value=number, expected="1 or more")
    engine = _Engine(mova, router or mova.router, max_new_tokens, batch_size, routed)
    for some in windows(requests, mova.processor, size=window):
        yield from some.failed
        yield from engine.answer(some.opened)


class _Engine:
    """Routes and answers the questions of one window after the other."""

    def __init__(
        self, mova: Mova, router: Router, max_new_tokens: int, size: int, told: Callable[[int], None]
    ) -> None:
        self.mova, self.router, self.told = mova, router, told
        self.max_new_tokens, self.size = max_new_tokens, size

    def answer(self, opened: Sequence[Opened]) -> Iterator[Result]:
        routed: list[Opened] = []
        for batch in self._to_route(opened):
            for part, done in _attempts(batch, self._route):
                if isinstance(done, MovaError):
                    yield Result(part[0].place, error=done)
                else:
                    routed += done
                    self.told(len(done))
        for batch in by_route(routed, self.size):
            for part, found in _attempts(batch, self._answer):
                if isinstance(found, MovaError):
                    yield Result(part[0].place, error=found)
                else:
                    yield from found

    def _to_route(self, opened: Sequence[Opened]) -> Iterator[Sequence[Opened]]:
        """Batches for the router. Lots are drawn, and fixed routes looked up, in the order of the file."""
        own = [one for one in opened if one.experts is not None]
        others = [one for one in opened if one.experts is None]
        yield from ([one] for one in own)
        if looks(self.router):
            yield from by_length(others, self.size)
        elif others:
            yield others

    def _route(self, batch: Sequence[Opened]) -> Sequence[Opened]:
        fixed = batch[0].experts
        router = self.router if fixed is None else FixedRouter(fixed)
        questions = [one.turn.question for one in batch for _ in one.turn.images]
        if looks(router):
            looked = look(self.mova.model, self.mova.processor, self.mova.pool, [[one.turn] for one in batch])
            shown: Sequence[ImageInput] = looked.shown(router)
        else:
            shown = [image for one in batch for image in one.turn.images]
        routes = iter(router.route(shown, questions, self.mova.pool) if questions else [])
        for one in batch:
            one.routes = [next(routes) for _ in one.turn.images]
        return batch

    def _answer(self, batch: Sequence[Opened]) -> list[Result]:
        known = _KnownRoutes([route for one in batch for route in one.routes])
        answers = self.mova.answer(
            [[one.turn] for one in batch], router=known, max_new_tokens=self.max_new_tokens
        )
        return [Result(one.place, answer) for one, answer in zip(batch, answers, strict=True)]


class _KnownRoutes:
    """Gives the routes that another router has chosen already."""

    looks = False

    def __init__(self, routes: list[Route]) -> None:
        self._routes = routes

    def route(
        self, images: Sequence[ImageInput], questions: Sequence[str], pool: Iterable[Candidate]
    ) -> list[Route]:
        return self._routes


def _attempts(
    batch: Sequence[Opened], work: Callable[[Sequence[Opened]], T]
) -> Iterator[tuple[Sequence[Opened], T | MovaError]]:
    """Does the work; parts of a batch that fails are tried by themselves, down to the question at fault."""
    try:
        done = work(batch)
    except MovaError as error:
        if len(batch) == 1:
            yield batch, error
        else:
            for part in halves(batch):
                yield from _attempts(part, work)
    else:
        yield batch, done
