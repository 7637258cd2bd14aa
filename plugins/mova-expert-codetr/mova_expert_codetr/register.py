"""The backbone for detectron2, where that is installed; nothing of it is imported until `register` is called.

    from detectron2.config import get_cfg
    from mova_expert_codetr.register import add_config, register

    register()
    cfg = get_cfg()
    add_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_codetr_backbone"

A detector trained with it keeps its weights under `backbone.net`, which `CoDetrExpert.from_pretrained` reads.
"""

from __future__ import annotations

from typing import Any, Final

from mova_expert_codetr.backbone import RELEASED_BACKBONE

BACKBONE_NAME: Final = "build_codetr_backbone"
"""What `cfg.MODEL.BACKBONE.NAME` is set to."""


def register() -> bool:
    """Make the backbone known to detectron2 under `BACKBONE_NAME`; doing so again changes nothing.

    Returns:
        Whether detectron2 is installed.

    Raises:
        ImportError: detectron2 is installed, but cannot be imported.
    """
    try:
        from detectron2.modeling import BACKBONE_REGISTRY  # type: ignore[import-not-found]
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "detectron2":
            return False
        raise
    from mova_expert_codetr.detectron import build_codetr_backbone

    if BACKBONE_NAME not in BACKBONE_REGISTRY:
        BACKBONE_REGISTRY.register(build_codetr_backbone)
    return True


def add_config(cfg: Any) -> None:
    """Add the backbone's sizes, the released ones, to a configuration of detectron2.

    Args:
        cfg: a `CfgNode`; gets `MODEL.CODETR` with a key for each size, in capitals.
    """
    cfg.MODEL.CODETR = type(cfg)({name.upper(): size for name, size in RELEASED_BACKBONE.items()})
