from __future__ import annotations

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mova_core.errors import RoutingError
from mova_core.routing import (
    POOL_FIRST,
    ChatFormat,
    ListwisePrompt,
    ListwiseRouter,
    Offer,
    PointwisePrompt,
    PointwiseRouter,
    RoutingLanguageModel,
    plain_offers,
)
from mova_core.routing.labels import encode, labels

QUESTIONS = ["what does the small print say?", "how many?", ""]


class Reference:
    """Constrained greedy decoding by the book: every legal answer is written out, each token is a pass."""

    def __init__(self, language, image, question, pool, k, prompt):
        self.model, self.image = language.model, image
        self.prompt = prompt
        told = [expert.descriptions[0] for expert in pool]
        self.head = language.encode(self.prompt.head(told))
        self.tail = language.encode(self.prompt.ask(question, told))
        self.end = language.encode(self.prompt.chat.end)
        names = labels(len(pool))
        chosen = [(), *(some for size in range(1, k + 1) for some in permutations(names, size))]
        self.answers = {
            encode(language.tokenizer, ", ".join(some) or "none") + self.end: some for some in chosen
        }
        self.names = names

    def shares(self, said):
        """Probabilities of the tokens that may legally follow what was said."""
        legal = sorted({path[len(said)] for path in self.answers if path[: len(said)] == said})
        table = self.model.get_input_embeddings()
        text = torch.cat([table(torch.tensor(self.head)), self.image, table(torch.tensor(self.tail + said))])
        logits = self.model(inputs_embeds=text[None]).logits[0, -1, legal].double()
        return dict(zip(legal, logits.softmax(0).tolist(), strict=True))

    def answer(self):
        said = ()
        while said not in self.answers:
            shares = self.shares(said)
            said += (max(shares, key=shares.get),)
        return self.answers[said]

    def first(self, name, language):
        """Probability that an answer begins with a label and not with a longer one."""
        path, probability = encode(language.tokenizer, name), 1.0
        for depth, token in enumerate(path):
            probability *= self.shares(path[:depth])[token]
        separator = encode(language.tokenizer, "A, B")[1]
        ends = self.shares(path)
        return probability * (ends.get(self.end[0], 0.0) + ends.get(separator, 0.0))


@torch.no_grad()
@pytest.mark.parametrize(("kind", "attention"), [("llama", "sdpa"), ("qwen2", "eager")])
@pytest.mark.parametrize(
    ("n", "k", "prompt"),
    [
        (1, 3, ListwisePrompt()),
        (2, 1, ListwisePrompt()),
        (4, 3, ListwisePrompt()),
        (4, 3, POOL_FIRST),
        (28, 1, ListwisePrompt()),
        (28, 2, ListwisePrompt()),
    ],
    ids=["1-3", "2-1", "4-3", "4-3-pool-first", "28-1", "28-2"],
)
def test_routes_are_those_of_decoding_by_the_book(
    tiny_language, tiny_images, tiny_pool, kind, attention, n, k, prompt
):
    for seed in range(3 if n < 5 else 1):
        language, pool, images = tiny_language(kind, seed, attention), tiny_pool(n), tiny_images(3, seed)
        routes = ListwiseRouter(language, prompt=prompt, k=k).route(images, QUESTIONS, pool)
        for image, question, route in zip(images, QUESTIONS, routes, strict=True):
            reference = Reference(language, image, question, pool, k, prompt)
            chosen = [pool[reference.names.index(name)].id for name in reference.answer()]
            assert set(route.experts) == set(chosen)
            told = range(n) if n < 5 else (0, 1, n - 2, n - 1)  # "A" and "B" begin "AA" and "AB"
            for place in told:
                expected = reference.first(reference.names[place], language)
                assert route.probabilities[pool[place].id] == pytest.approx(expected, abs=1e-4)


@given(
    kind=st.sampled_from(["llama", "qwen2"]),
    seed=st.integers(0, 30),
    n=st.integers(0, 30),
    k=st.integers(1, 5),
)
@settings(deadline=None, max_examples=25)
def test_no_illegal_route_comes_out_of_any_model(tiny_language, tiny_images, tiny_pool, kind, seed, n, k):
    routes = ListwiseRouter(tiny_language(kind, seed), k=k).route(
        tiny_images(3, seed), QUESTIONS, tiny_pool(n)
    )
    ids = {expert.id for expert in tiny_pool(n)}
    for route in routes:
        assert len(set(route.experts)) == len(route.experts) <= k
        assert set(route.experts) <= ids == set(route.probabilities)
        assert all(0 <= p <= 1 for p in route.probabilities.values())
        assert sum(route.probabilities.values()) <= 1 + 1e-9
        ranks = [route.probabilities[name] for name in route.experts]
        assert ranks == sorted(ranks, reverse=True)


def test_random_models_do_use_the_freedom_they_have(tiny_language, tiny_images, tiny_pool):
    sizes = {
        len(route.experts)
        for seed in range(12)
        for route in ListwiseRouter(tiny_language("llama", seed)).route(
            tiny_images(3, seed), QUESTIONS, tiny_pool(5)
        )
    }
    assert sizes >= {0, 1, 3}


@given(seed=st.integers(0, 20), n=st.sampled_from([3, 5, 28]))
@settings(deadline=None, max_examples=10)
def test_a_batch_equals_its_samples_one_by_one(tiny_language, tiny_images, tiny_pool, seed, n):
    router, images = ListwiseRouter(tiny_language(seed=seed)), tiny_images(3, seed)
    batch = router.route(images, QUESTIONS, tiny_pool(n))
    for image, question, together in zip(images, QUESTIONS, batch, strict=True):
        (alone,) = router.route([image], [question], tiny_pool(n))
        assert alone.experts == together.experts
        assert alone.probabilities == pytest.approx(together.probabilities, abs=1e-5)


@pytest.mark.parametrize("n", [5, 28])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_whole_batch_takes_at_most_k_forward_passes(tiny_language, tiny_images, tiny_pool, n, k):
    for seed in range(4):
        language, passes = tiny_language(seed=seed), []
        handle = language.model.get_decoder().register_forward_pre_hook(lambda *_, to=passes: to.append(1))
        try:
            routes = ListwiseRouter(language, k=k).route(tiny_images(3), QUESTIONS, tiny_pool(n))
        finally:
            handle.remove()
        longest = max(len(route.experts) for route in routes)
        assert len(passes) == min(longest + 1, k)


def test_labels_follow_ids_or_the_order_of_the_pool(tiny_language, tiny_images, tiny_pool):
    pool, args = tiny_pool(4), (tiny_images(2), QUESTIONS[:2])
    by_id, by_pool = ListwiseRouter(tiny_language()), ListwiseRouter(tiny_language(), order="pool")
    assert by_id.route(*args, pool) == by_id.route(*args, pool[::-1]) == by_pool.route(*args, pool)
    assert by_pool.route(*args, pool) != by_pool.route(*args, pool[::-1])


def test_an_order_of_ids_and_other_descriptions_reach_the_prompt(tiny_language, tiny_images, tiny_pool):
    pool, args = tiny_pool(4), (tiny_images(2), QUESTIONS[:2])
    moved = [pool[2], pool[0], pool[1], pool[3]]
    by_hand = ListwiseRouter(tiny_language(), order="pool").route(*args, moved)
    assert ListwiseRouter(tiny_language(), order=["expert-02", "elsewhere"]).route(*args, pool) == by_hand
    renamed = [type(pool[0])(expert.id, (f"{place}?",)) for place, expert in enumerate(pool)]
    told = ListwiseRouter(tiny_language(), descriptions={e.id: e.descriptions[0] for e in renamed})
    assert told.route(*args, pool) == ListwiseRouter(tiny_language()).route(*args, renamed)
    with pytest.raises(RoutingError, match="twice"):
        ListwiseRouter(tiny_language(), order=["expert-02", "expert-02"])


@pytest.mark.parametrize("make", [ListwiseRouter, PointwiseRouter])
def test_a_system_turn_may_open_the_prompt(tiny_language, tiny_images, tiny_pool, make):
    system = "<|im_start|>system\nYou know experts.<|im_end|>\n"
    chat = ChatFormat(prefix=system + ChatFormat().prefix)
    prompts = {ListwiseRouter: ListwisePrompt, PointwiseRouter: PointwisePrompt}
    args = (tiny_images(3), QUESTIONS, tiny_pool(4))
    with_system = make(tiny_language(), prompt=prompts[make](chat=chat))
    batch = with_system.route(*args)
    assert batch != make(tiny_language()).route(*args)
    for image, question, together in zip(args[0], args[1], batch, strict=True):
        (alone,) = with_system.route([image], [question], args[2])
        assert alone.probabilities == pytest.approx(together.probabilities, abs=1e-5)


def test_ids_never_enter_the_prompt(tiny_language, tiny_images, tiny_pool):
    pool, router = tiny_pool(3), ListwiseRouter(tiny_language())
    renamed = [type(expert)(f"other-{place}", expert.descriptions) for place, expert in enumerate(pool)]
    (left,), (right,) = (router.route(tiny_images(1), ["why?"], some) for some in (pool, renamed))
    assert list(left.probabilities.values()) == list(right.probabilities.values())


def test_the_target_is_the_answer_as_it_would_be_written(tiny_language, tiny_pool):
    language = tiny_language()
    router, offers = ListwiseRouter(language), plain_offers(tiny_pool(4))
    written = {
        (): "none<|im_end|>",
        ("expert-03", "expert-00"): "A, D<|im_end|>",
        ("elsewhere", "expert-02"): "C<|im_end|>",
    }
    for useful, text in written.items():
        assert router.target(offers, useful) == language.encode(text)
    with pytest.raises(RoutingError, match="up to 3"):
        router.target(offers, [offer.id for offer in offers])


def test_the_loss_is_that_of_the_stock_model(tiny_language, tiny_images, tiny_pool):
    language, images = tiny_language(), tiny_images(2)
    router = ListwiseRouter(language)
    offers = [plain_offers(tiny_pool(4)), (Offer("x", "reads"), Offer("y", "counts"))]
    useful = [{"expert-01", "expert-03"}, set()]
    with torch.no_grad():
        loss = router.loss(images, QUESTIONS[:2], offers, useful)
        table, terms = language.model.get_input_embeddings(), []
        for image, question, shown, ids in zip(images, QUESTIONS, offers, useful, strict=False):
            answer = router.target(shown, ids)
            told = [offer.description for offer in shown]
            words = language.encode(router.prompt.ask(question, told))
            parts = [language.encode(router.prompt.head(told)), words + answer]
            text = torch.cat([table(torch.tensor(parts[0])), image, table(torch.tensor(parts[1]))])
            logits = language.model(inputs_embeds=text[None]).logits[0, -len(answer) - 1 : -1]
            terms.append(torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="none"))
    assert float(loss) == pytest.approx(float(torch.cat(terms).mean()), abs=1e-4)


def test_a_router_learns_what_its_loss_teaches(tiny_model, tokenizer, tiny_images, tiny_pool):
    language = RoutingLanguageModel(tiny_model(), tokenizer)
    router, images, pool = ListwiseRouter(language), tiny_images(3), tiny_pool(4)
    useful = [{"expert-01", "expert-03"}, set(), {"expert-00"}]
    optimiser = torch.optim.Adam(language.model.parameters(), lr=1e-2)
    for _ in range(30):
        loss = router.loss(images, QUESTIONS, [plain_offers(pool)] * 3, useful)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert [set(route.experts) for route in router.route(images, QUESTIONS, pool)] == useful


def test_an_empty_pool_gives_empty_routes(tiny_language, tiny_images, tiny_pool):
    router = ListwiseRouter(tiny_language())
    assert [route.experts for route in router.route(tiny_images(2), QUESTIONS[:2], [])] == [(), ()]
    assert router.route([], [], tiny_pool(2)) == []


def test_what_does_not_fit_is_refused(tiny_language, tiny_images, tiny_pool):
    router, offers = ListwiseRouter(tiny_language()), plain_offers(tiny_pool(2))
    with pytest.raises(RoutingError, match="pair up"):
        router.route(tiny_images(2), ["why?"], tiny_pool(2))
    with pytest.raises(RoutingError, match="1 and 2 for 2 samples"):
        router.loss(tiny_images(2), QUESTIONS[:2], [offers], [set(), set()])
    with pytest.raises(RoutingError, match="k of at least 1"):
        ListwiseRouter(tiny_language(), k=0)


def test_a_word_for_none_that_begins_with_a_label_is_told_apart_or_refused(
    tiny_language, tiny_images, tiny_pool
):
    language = tiny_language()
    apart = ListwiseRouter(language, prompt=ListwisePrompt(none="BABY"))  # B, then anything but its end
    assert len(apart.route(tiny_images(1), ["why?"], tiny_pool(3))[0].probabilities) == 3
    with pytest.raises(RoutingError, match="cannot tell"):
        ListwiseRouter(language, prompt=ListwisePrompt(none="B")).route(
            tiny_images(1), ["why?"], tiny_pool(3)
        )


def test_broken_weights_are_not_taken_for_an_answer(tiny_model, tokenizer, tiny_images, tiny_pool):
    model = tiny_model()
    model.get_decoder().norm.weight.data.fill_(float("nan"))
    with pytest.raises(RoutingError, match="not finite"):
        ListwiseRouter(RoutingLanguageModel(model, tokenizer)).route(tiny_images(1), ["why?"], tiny_pool(2))
