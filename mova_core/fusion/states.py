"""Loading a state dict exactly: every name present, none too many, every shape as expected."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from mova_core.errors import CheckpointError


def load_exactly(
    module: nn.Module, state: Mapping[str, Tensor], *, what: str, ignore: str | None = None
) -> None:
    """Copy a state dict into a module, or say by name why it does not fit and change nothing.

    Args and errors are those of `check_fit`.
    """
    check_fit(module, state, what=what, ignore=ignore)
    module.load_state_dict(dict(state), strict=False)


def check_fit(
    module: nn.Module, state: Mapping[str, Tensor], *, what: str, ignore: str | None = None
) -> None:
    """Compare a state dict with a module by names and shapes.

    Args:
        module: what the weights are for; it may be on the meta device.
        state: weights by name.
        what: what the state dict is, for the error ("the pack of sam").
        ignore: prefix of the module's own names that the state dict does not cover.

    Raises:
        CheckpointError: naming the first offending weights.
    """
    wanted = {
        name: tensor.shape
        for name, tensor in module.state_dict().items()
        if ignore is None or not name.startswith(ignore)
    }
    _refuse(f"{what} lacks", sorted(wanted.keys() - state.keys()))
    _refuse(f"{what} has, of no use here,", sorted(state.keys() - wanted.keys()))
    for name, shape in wanted.items():
        if state[name].shape != shape:
            raise CheckpointError(
                f"{what} has a weight of another shape",
                value=f"{name} {list(state[name].shape)}",
                expected=f"{list(shape)}",
                hint="It was made for another model, or its config is not its own.",
            )


def _refuse(message: str, names: list[str]) -> None:
    if names:
        raise CheckpointError(
            f"{message} {len(names)} weight{'s' if len(names) > 1 else ''}",
            value=names[0] if len(names) == 1 else f"{names[0]}, ...",
            expected="the same names on both sides",
            hint="It was made for another model, or the file is incomplete.",
        )
