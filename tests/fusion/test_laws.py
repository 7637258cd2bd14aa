"""What must hold of the MoV-Adapter whatever the pool, the route and the batch, for a fixed route."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mova_core.fusion.output import FusionOutput

IDS = ("alpha", "beta", "gamma", "delta-2", "9-epsilon")
ROUTES = st.lists(st.sets(st.sampled_from(IDS), max_size=4), min_size=1, max_size=3)
pytestmark = pytest.mark.filterwarnings("error")
small = settings(max_examples=25, deadline=None)


def same_bits(one: FusionOutput, other: FusionOutput) -> bool:
    return (
        torch.equal(one.tokens, other.tokens)
        and one.gates.keys() == other.gates.keys()
        and all(torch.equal(one.gates[id], other.gates[id]) for id in one.gates)
    )


@small
@given(routes=ROUTES, order=st.permutations(IDS), seed=st.integers(0, 9))
def test_packs_that_are_not_chosen_change_nothing(lab, routes, order, seed):
    chosen = set().union(*routes)
    base, text = lab.inputs(len(routes), seed=seed)
    features = lab.features(routes, seed=seed)
    alone = lab.adapter(sorted(chosen))(base, features, text)

    crowded = lab.adapter(order)
    for id in set(IDS) - chosen:  # whoever reads them shows it
        for parameter in crowded.pack(id).parameters():
            torch.nn.init.constant_(parameter, float("nan"))
    assert same_bits(crowded(base, features, text), alone)
    for id in set(IDS) - chosen:
        crowded.remove_pack(id)
    assert same_bits(crowded(base, features, text), alone)


@small
@given(routes=ROUTES, order=st.permutations(IDS))
def test_the_order_in_which_features_come_changes_nothing(lab, routes, order):
    adapter = lab.adapter()
    base, text = lab.inputs(len(routes))
    features = lab.features(routes)
    shuffled = {id: features[id] for id in order if id in features}
    assert same_bits(adapter(base, shuffled, text), adapter(base, features, text))


@small
@given(id=st.sampled_from(IDS), seed=st.integers(0, 9))
def test_an_untrained_pack_chosen_alone_equals_choosing_none(lab, id, seed):
    adapter = lab.adapter([id], trained=False)
    base, text = lab.inputs(2, seed=seed)
    alone = adapter(base, lab.features([{id}, set()], seed=seed), text)
    assert torch.equal(alone.tokens, adapter(base, {}, text).tokens)
    assert alone.gates[id].tolist() == [[1.0, 0.0], [1.0, 0.0]]


@small
@given(routes=ROUTES, seed=st.integers(0, 9))
def test_a_batch_equals_its_samples_one_by_one(lab, routes, seed):
    adapter = lab.adapter()
    base, text = lab.inputs(len(routes), seed=seed)
    together = adapter(base, lab.features(routes, seed=seed), text)
    for row, route in enumerate(routes):
        features = lab.features([route], seed=seed, samples=[row])
        single = adapter(base[row : row + 1], features, text[row : row + 1])
        torch.testing.assert_close(together.tokens[row], single.tokens[0], atol=1e-5, rtol=1e-5)
        for id in route:
            torch.testing.assert_close(together.gates[id][:, row], single.gates[id][:, 0], atol=1e-5, rtol=0)


@small
@given(routes=ROUTES)
def test_each_sample_shares_a_weight_of_one_among_at_most_three_of_its_experts(lab, routes):
    adapter = lab.adapter()
    base, text = lab.inputs(len(routes))
    gates = adapter(base, lab.features(routes), text).gates
    assert gates.keys() == set().union(*routes)
    for row, route in enumerate(routes):
        weights = {id: gate[:, row] for id, gate in gates.items()}  # [l] each
        assert all(not weights[id].any() for id in weights.keys() - route)
        if route:
            kept = torch.stack([weights[id] for id in sorted(route)])  # [k, l]
            torch.testing.assert_close(kept.sum(dim=0), torch.ones(2))
            assert (kept > 0).sum(dim=0).tolist() == [min(3, len(route))] * 2
