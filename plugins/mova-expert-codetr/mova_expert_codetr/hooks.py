"""What `mova doctor` says of detectron2, for which the backbone can be registered; see `register`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from mova_core.hookspecs import hookimpl


@hookimpl
def mova_notes() -> Mapping[str, str]:
    """Whether detectron2 is there, and how to get it: no package index has it."""
    if find_spec("detectron2"):
        return {"detectron2": "installed; mova_expert_codetr.register makes codetr's backbone known to it"}
    return {
        "detectron2": "not installed, and needed only to use codetr's backbone in its configurations; "
        "pip install 'git+https://github.com/facebookresearch/detectron2.git'"
    }
