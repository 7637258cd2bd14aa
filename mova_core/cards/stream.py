"""The input stream: how a picture becomes the tensor an expert reads.

Two experts whose streams are equal share one tensor, so everything that changes a pixel is said here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mova_core.cards.spec import Spec

PositiveInt = Annotated[int, Field(gt=0)]
Byte = Annotated[int, Field(ge=0, le=255)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class InputStream(Spec):
    """One way of preparing a picture.

    Args:
        kind: "pixels" gives [b, 3, h, w]; "patches" gives flattened patches with their row and column ids
            (Pix2Struct), standardised by the picture's own mean and deviation.
        size: (h, w) in pixels; only "patches" may leave it out.
        fit: "stretch" ignores the aspect ratio; "pad" centres the picture on a square of `pad_colour` first;
            "crop" resizes the shorter side to size / `crop_ratio` and cuts the centre; "keep" leaves the
            aspect ratio alone ("patches" only).
        mean, std: by channel (RGB), applied after `scale`: x -> (x * scale - mean) / std. "pixels" only.
        scale: factor that brings 0..255 to the range of mean and std.
        interpolation: resampling filter.
        pad_colour: RGB, 0..255; needed by "pad" and only by it.
        crop_ratio: share of the resized shorter side that "crop" keeps.
        patches: largest number of patches; "patches" only.
        patch_size: side of a patch in pixels; "patches" only.
    """

    kind: Literal["pixels", "patches"] = "pixels"
    size: tuple[PositiveInt, PositiveInt] | None = None
    fit: Literal["stretch", "pad", "crop", "keep"]
    mean: tuple[Finite, Finite, Finite] | None = None
    std: tuple[Positive, Positive, Positive] | None = None
    scale: Positive = 1 / 255
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    pad_colour: tuple[Byte, Byte, Byte] | None = None
    crop_ratio: Annotated[float, Field(gt=0, le=1)] = 1.0
    patches: PositiveInt | None = None
    patch_size: PositiveInt | None = None

    @model_validator(mode="after")
    def _fields_fit_the_kind(self) -> InputStream:
        pixels = ("size", "mean", "std")
        patches = ("patches", "patch_size")
        needed, foreign = (pixels, patches) if self.kind == "pixels" else (patches, ("mean", "std"))
        for name in needed:
            if getattr(self, name) is None:
                raise ValueError(f"kind {self.kind!r} needs {name!r}")
        for name in foreign:
            if getattr(self, name) is not None:
                raise ValueError(f"kind {self.kind!r} has no {name!r}")
        if self.kind == "pixels" and self.fit == "keep":
            raise ValueError("fit 'keep' is for kind 'patches'; a pixel tensor has one size")
        if (self.fit == "pad") != (self.pad_colour is not None):
            raise ValueError("fit 'pad' needs 'pad_colour', and nothing else does")
        if self.fit != "crop" and self.crop_ratio != 1.0:
            raise ValueError("'crop_ratio' is for fit 'crop'")
        return self
