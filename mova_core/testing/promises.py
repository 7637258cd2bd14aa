"""What every expert promises, each promise as a function that raises `AssertionError` where it is broken.

The suite for plugins' tests (`mova_core.testing.conformance`) and `mova experts check --load` share them.
"""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load, load_file, save
from torch import Tensor

from mova_core.cards.card import ExpertCard
from mova_core.experts.features import ExpertFeatures
from mova_core.experts.loading import expert_class
from mova_core.experts.pool import ExpertPool
from mova_core.experts.protocol import VisionExpert, check_features
from mova_core.routing.route import Route
from mova_core.testing.pictures import picture, printed, some_pictures
from mova_core.testing.recording import recorded_streams

PARAMETERS_OFF = 0.005
"""How far the number of parameters may be from the card's, as a share."""


def build(card: ExpertCard, sizes: Mapping[str, object]) -> VisionExpert:
    """The expert at the given sizes with seeded random weights, in evaluation mode."""
    torch.manual_seed(0)
    expert = expert_class(card).from_config(**sizes).eval()
    for parameter in expert.parameters():  # a part that starts at zero would hide what comes before it
        if parameter.dim() > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    return expert


@torch.no_grad()
def run(expert: VisionExpert, stream: Tensor) -> ExpertFeatures:
    """Features of a stream, placed as the pool does it."""
    like = next(expert.parameters(), stream)
    features: ExpertFeatures = expert(expert.placed(stream, device=like.device, dtype=like.dtype))
    return features


# Of the expert at the sizes of its card, with weights or on the meta device


def has_the_parameters_of_the_card(expert: VisionExpert, card: ExpertCard) -> None:
    """The card says how many parameters there are."""
    counted = sum(p.numel() for p in expert.parameters())
    off = abs(counted - card.parameters)
    _check(
        off <= PARAMETERS_OFF * card.parameters, f"the card says {card.parameters}, and should say {counted}"
    )


@torch.no_grad()
def gives_the_features_of_the_card(expert: VisionExpert, card: ExpertCard, pictures: int) -> None:
    """Channels and grid are those of the card, for one picture and for several."""
    stream = expert.preprocess([picture(640, 333, seed) for seed in range(pictures)])
    check_features(run(expert, stream), card.features, expert=card.id, images=pictures)


def pictures_of_every_size_become_streams(expert: VisionExpert, card: ExpertCard) -> None:
    """Preprocessing takes any picture, and gives float32 on the CPU in the size of the card."""
    streams = expert.preprocess(some_pictures())
    _check(
        streams.dtype == torch.float32 and streams.device.type == "cpu",
        f"streams are {streams.dtype} on {streams.device}",
    )
    _check(
        streams.shape[0] == len(some_pictures()), f"{len(some_pictures())} pictures gave {len(streams)} rows"
    )
    _check(bool(streams.isfinite().all()), "a stream has values that are not finite")
    if card.input.kind == "pixels":
        wanted = (3, *(card.input.size or ()))
        _check(
            tuple(streams.shape[1:]) == wanted, f"streams are {tuple(streams.shape[1:])} instead of {wanted}"
        )


def preprocesses_as_recorded(expert: VisionExpert, file: Path) -> None:
    """Streams are those that were recorded when their author looked at them."""
    stored = load_file(file)
    streams = recorded_streams(expert)
    _check(streams.keys() == stored.keys(), f"{file} holds other pictures: record it again")
    for name, stream in streams.items():
        torch.testing.assert_close(stream, stored[name], rtol=0, atol=1e-5)


def features_depend_on_the_picture(expert: VisionExpert) -> None:
    """Of two patterns and a printed word, not all have the same features, and all features are finite."""
    pictures = [picture(96, 64), picture(64, 96, 1), printed("HELLO 123")]
    features = run(expert, expert.preprocess(pictures)).tokens
    _check(bool(features.isfinite().all()), "features are not finite")
    _check(not torch.equal(features, features[:1].expand_as(features)), "all pictures have the same features")


# Of a small one with random weights


def a_batch_equals_its_pictures_one_by_one(small: VisionExpert, tolerance: float) -> None:
    """What stands beside a picture in a batch changes nothing."""
    stream = small.preprocess(some_pictures())
    together = run(small, stream)
    for row in range(stream.shape[0]):
        alone = run(small, stream[row : row + 1])
        _check(alone.grid == together.grid, f"grids {together.grid} together, {alone.grid} alone")
        torch.testing.assert_close(together.tokens[row : row + 1], alone.tokens, rtol=0, atol=tolerance)


def the_same_picture_gives_the_same_features(small: VisionExpert) -> None:
    """Nothing is left to chance."""
    stream = small.preprocess([picture(96, 64)])
    _check(
        torch.equal(run(small, stream).tokens, run(small, stream).tokens), "features differ from run to run"
    )


def dtypes_are_honoured(card: ExpertCard, sizes: Mapping[str, object], dtypes: Sequence[torch.dtype]) -> None:
    """Features have the dtype that the expert was put into."""
    for dtype in dtypes:
        expert = build(card, sizes).to(dtype)
        given = run(expert, expert.preprocess([picture(96, 64)])).tokens.dtype
        _check(given == dtype, f"features are {given} instead of {dtype}")


def the_device_is_honoured(card: ExpertCard, sizes: Mapping[str, object]) -> None:
    """Everything moves along; the meta device stands for any other."""
    expert = build(card, sizes)
    stream = expert.preprocess([picture(96, 64)])
    given = expert.to("meta")(stream.to("meta")).tokens.device.type
    _check(given == "meta", f"features are on {given}, the expert is not")


def weights_go_through_safetensors(
    card: ExpertCard, sizes: Mapping[str, object], small: VisionExpert
) -> None:
    """All that an expert knows is in its state, and that can be written and read."""
    torch.manual_seed(1)
    other = expert_class(card).from_config(**sizes).eval()
    stream = small.preprocess([picture(96, 64)])
    other.load_state_dict(load(save({k: v.contiguous() for k, v in small.state_dict().items()})))
    same = torch.equal(run(other, stream).tokens, run(small, stream).tokens)
    _check(same, "an expert with the same weights gives other features")


def it_pickles_to_a_worker(small: VisionExpert, folder: Path) -> None:
    """Another process gets the same expert; `folder` holds what is exchanged."""
    stream = small.preprocess([picture(96, 64)])
    (folder / "expert.pickle").write_bytes(pickle.dumps((small, stream)))
    code = (
        "import pathlib, pickle, torch; "
        "expert, stream = pickle.loads(pathlib.Path('expert.pickle').read_bytes()); "
        "torch.save(expert(stream).tokens.detach(), 'tokens.pt')"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    _check(not ran.returncode, f"a worker failed: {ran.stderr.strip().rpartition(chr(10))[2]}")
    tokens = torch.load(io.BytesIO((folder / "tokens.pt").read_bytes()), weights_only=True)
    torch.testing.assert_close(tokens, run(small, stream).tokens)


def the_pool_runs_it_for_those_who_chose_it(card: ExpertCard, small: VisionExpert) -> None:
    """In a batch, the pool runs the expert for the one picture whose route has it."""
    given = run(small, small.preprocess([picture(96, 64)]))
    spec = card.features.model_copy(update={"channels": given.channels, "grid": given.grid})
    tiny_card = card.model_copy(update={"features": spec, "input": small.stream})
    pool = ExpertPool([tiny_card], loader=lambda _: small)
    encoded = pool.encode([picture(96, 64), picture(64, 96, 1)], [Route((card.id,)), Route(())])
    _check(encoded[card.id].rows == (0,), f"the pool ran it for rows {encoded[card.id].rows}")
    torch.testing.assert_close(encoded[card.id].features.tokens, given.tokens)


def _check(kept: bool, otherwise: str) -> None:
    """`assert` that `python -O` cannot switch off."""
    if not kept:
        raise AssertionError(otherwise)
