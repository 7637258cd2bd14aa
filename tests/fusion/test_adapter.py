"""Packs come and go; only what was chosen is computed; every dtype and grid that is declared works."""

from __future__ import annotations

import pytest
import torch

from mova_core.errors import CheckpointError, ConfigError, ExpertRunError, PoolError
from mova_core.experts.features import ExpertFeatures, RoutedFeatures
from mova_core.fusion.adapter import MovAdapter
from mova_core.fusion.packs import ExpertPack


def test_packs_are_known_by_name(lab):
    adapter = lab.adapter(["gamma", "alpha"])
    assert adapter.pack_ids == ("alpha", "gamma")
    pack = adapter.remove_pack("gamma")
    assert adapter.pack_ids == ("alpha",)
    adapter.add_pack("gamma", pack)
    assert adapter.pack("gamma") is pack


def test_a_pack_moves_to_the_adapter_dtype(lab):
    adapter = lab.adapter([]).to(torch.bfloat16)
    adapter.add_pack("alpha", lab.pack("alpha"))
    assert {parameter.dtype for parameter in adapter.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("id", ["alpha", "Alpha", "", "a.b", "a/b", "train", "values"])
def test_an_id_that_cannot_name_a_pack_is_refused(lab, id):
    adapter = lab.adapter(["alpha"])
    with pytest.raises(PoolError, match="pack"):
        adapter.add_pack(id, lab.pack("alpha"))
    assert adapter.pack_ids == ("alpha",)


@pytest.mark.parametrize("numbers", [{"width": 32}, {"heads": 1}, {"depth": 3}])
def test_a_pack_for_another_adapter_is_refused(lab, numbers):
    pack = ExpertPack(**({"width": 16, "channels": 4, "heads": 2, "depth": 2} | numbers))
    with pytest.raises(PoolError, match=f"{next(iter(numbers))} .*expected"):
        lab.adapter([]).add_pack("alpha", pack)


def test_removing_or_asking_for_an_unknown_pack_names_the_known_ones(lab):
    with pytest.raises(PoolError, match="got beta; expected alpha, gamma"):
        lab.adapter(["alpha", "gamma"]).remove_pack("beta")


def test_features_without_a_pack_are_an_error(lab):
    base, text = lab.inputs(1)
    with pytest.raises(PoolError, match="got beta; expected one of alpha. .mova experts list."):
        lab.adapter(["alpha"])(base, lab.features([{"alpha", "beta"}]), text)


def test_features_with_other_channels_are_an_error(lab):
    base, text = lab.inputs(1)
    features = {"alpha": RoutedFeatures(ExpertFeatures(torch.zeros(1, 4, 3), (2, 2)), (0,))}
    with pytest.raises(ExpertRunError, match="alpha.*got 3 channels; expected 4"):
        lab.adapter()(base, features, text)


def test_rows_outside_the_batch_are_an_error(lab):
    base, text = lab.inputs(1)
    with pytest.raises(ValueError, match="batch of 1"):
        lab.adapter()(base, lab.features([set(), {"alpha"}]), text)


def test_inputs_of_another_shape_are_an_error(lab):
    base, text = lab.inputs(2)
    adapter = lab.adapter([])
    with pytest.raises(ValueError, match="base tokens"):
        adapter(base[:, :9], {}, text)
    with pytest.raises(ValueError, match="text feature"):
        adapter(base, {}, text[:1])


def test_sizes_that_cannot_work_are_an_error():
    sizes = {"width": 16, "heads": 2, "grid": (4, 4), "text_dim": 6, "out_dim": 10}
    with pytest.raises(ConfigError, match="positive"):
        MovAdapter(**(sizes | {"grid": (0, 4)}))
    with pytest.raises(ConfigError, match="heads"):
        MovAdapter(**(sizes | {"heads": 3}))


def test_an_expert_without_samples_counts_as_not_chosen(lab):
    base, text = lab.inputs(1)
    features = {"alpha": RoutedFeatures(ExpertFeatures(torch.zeros(0, 16, 4), (4, 4)), ())}
    output = lab.adapter()(base, features, text, explain=True)
    assert torch.equal(output.tokens, lab.adapter()(base, {}, text).tokens)
    assert output.gates == {} == output.attention


@pytest.mark.parametrize(
    "grid, half", [((4, 4), (2, 2)), ((5, 5), (2, 2)), ((3, 6), (1, 3)), ((1, 2), (1, 1))]
)
def test_any_declared_grid_works(lab, grid, half):
    adapter = lab.adapter(grid=grid)
    base, text = lab.inputs(2, grid=grid)
    output = adapter(base, lab.features([{"beta"}, {"alpha", "beta"}]), text)
    assert output.grid == adapter.out_grid == half
    assert output.tokens.shape == (2, half[0] * half[1], adapter.out_dim)
    assert output.tokens.isfinite().all()


def test_only_the_samples_that_chose_an_expert_are_computed(lab):
    adapter = lab.adapter()
    rows: dict[str, list[int]] = {}
    for id in adapter.pack_ids:
        for block in range(adapter.depth):
            for module in adapter.pack(id).layer(block).extractor.modules():
                module.register_forward_hook(
                    lambda _m, inputs, _out, id=id: rows.setdefault(id, []).append(len(inputs[0]))
                )
    base, text = lab.inputs(4)
    adapter(base, lab.features([{"alpha"}, {"alpha", "beta"}, set(), {"alpha"}]), text)
    assert {id: set(sizes) for id, sizes in rows.items()} == {"alpha": {3}, "beta": {1}}


def test_an_expert_that_all_samples_chose_reads_the_batch_without_a_copy(lab):
    adapter = lab.adapter()
    block, pack = adapter.blocks[0], adapter.pack("alpha")
    seen = {}
    block.register_forward_pre_hook(lambda _m, inputs: seen.update(block=inputs[0]))
    pack.layer(0).extractor.register_forward_pre_hook(lambda _m, inputs: seen.update(pack=inputs[0]))
    base, text = lab.inputs(2)
    adapter(base, lab.features([{"alpha"}, {"alpha"}]), text)
    assert seen["pack"] is seen["block"]


def test_gradients_reach_the_core_and_the_chosen_packs_only(lab):
    adapter = lab.adapter()
    base, text = lab.inputs(2)
    adapter(base, lab.features([{"alpha", "beta"}, {"beta"}]), text).tokens.square().sum().backward()
    without = {name.split(".")[1] for name, p in adapter.named_parameters() if p.grad is None}
    assert without == {"gamma", "delta-2", "9-epsilon"}
    assert all(p.grad is None or p.grad.any() for p in adapter.parameters())


def test_tables_first_made_under_inference_mode_serve_training(lab):
    adapter = lab.adapter(["alpha"], grid=(7, 3))  # a grid that no other test uses
    base, text = lab.inputs(1, grid=(7, 3))
    features = lab.features([{"alpha"}])
    with torch.inference_mode():
        answered = adapter(base, features, text).tokens
    trained = adapter(base, features, text).tokens
    trained.sum().backward()
    assert torch.equal(trained, answered)


def test_a_core_moves_between_pools_and_says_what_does_not_fit(lab):
    adapter, other = lab.adapter(["alpha"]), lab.adapter(["beta"])
    state = adapter.core_state()
    assert state.keys() == other.core_state().keys()
    torch.nn.init.zeros_(other.position)
    other.load_core(state)
    assert torch.equal(other.position, adapter.position)
    with pytest.raises(CheckpointError, match="lacks 1 weight; got position;"):
        other.load_core({name: tensor for name, tensor in state.items() if name != "position"})
    with pytest.raises(CheckpointError, match="no use here, 2[0-9] weights; got packs.alpha"):
        other.load_core(adapter.state_dict())
    with pytest.raises(CheckpointError, match=r"position \[1, 4, 16\]; expected \[1, 16, 16\]"):
        other.load_core(state | {"position": torch.zeros(1, 4, 16)})


@pytest.mark.parametrize("way", ["pure", "autocast"])
def test_bfloat16_is_close_to_float32(lab, way):
    adapter = lab.adapter()
    base, text = lab.inputs(3)
    features = lab.features([{"alpha", "beta"}, {"beta"}, set()])
    exact = adapter(base, features, text)
    if way == "pure":
        rough = adapter.to(torch.bfloat16)(base, features, text)
    else:
        with torch.autocast("cpu", torch.bfloat16):
            rough = adapter(base, features, text)
    assert rough.tokens.dtype == torch.bfloat16
    error = (rough.tokens.float() - exact.tokens).norm() / exact.tokens.norm()
    assert 0 < error < 0.03
    for id, gate in exact.gates.items():
        assert rough.gates[id].dtype == torch.float32
        torch.testing.assert_close(rough.gates[id], gate, atol=0.02, rtol=0)


def test_attention_maps_show_where_each_expert_was_read(lab):
    adapter = lab.adapter()
    base, text = lab.inputs(2)
    features = lab.features([{"alpha", "beta"}, {"beta"}])
    plain, explained = adapter(base, features, text), adapter(base, features, text, explain=True)
    assert torch.equal(plain.tokens, explained.tokens)
    assert plain.attention == {}
    assert {id: of.shape for id, of in explained.attention.items()} == dict.fromkeys(
        ["alpha", "beta"], (2, 2, 4, 4)
    )
    totals = {id: of.sum(dim=(2, 3)) for id, of in explained.attention.items()}
    torch.testing.assert_close(totals["alpha"], torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    torch.testing.assert_close(totals["beta"], torch.ones(2, 2))


@pytest.mark.filterwarnings("error")
def test_the_adapter_compiles_into_one_graph(lab):
    adapter = lab.adapter()
    base, text = lab.inputs(2)
    features = lab.features([{"alpha", "beta"}, {"beta"}])
    compiled = torch.compile(adapter, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(base, features, text).tokens, adapter(base, features, text).tokens)
