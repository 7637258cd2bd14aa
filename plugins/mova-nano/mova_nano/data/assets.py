"""Fonts and sprites that the drawn pictures are made of, split so that tests see unseen ones."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageFont

from mova_core.errors import ConfigError
from mova_nano.data.words import THINGS

TEST_FAMILIES = ("Carlito", "EBGaramond", "Comfortaa", "Vollkorn", "OpenSans")
"""Font families that only held-out pictures use."""

TRAIN_FAMILIES = (
    "DejaVuSans",
    "DejaVuSerif",
    "Liberation",
    "Roboto",
    "Lato",
    "Cantarell",
    "Quicksand",
    "FiraCode",
    "Inconsolata",
    "Nimbus",
    "C059",
    "P052",
    "URW",
)
"""Font families of training pictures."""

_UNREADABLE = ("Thin", "Hairline", "ExtraLight", "MathTeX", "Light")
_TILE = 96
_SHEET_COLUMNS = 8
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Assets:
    """Where fonts and sprite sheets are found.

    Args:
        sprites: folder with `objects-<style>.png`.
        fonts: folders searched for font files; without any, Pillow's built-in font is used.
    """

    sprites: Path
    fonts: tuple[Path, ...] = field(default=(Path("/usr/share/fonts"),))

    def font(self, rng: random.Random, size: int, split: str = "train") -> Font:
        """A font of the split's families at `size` pixels."""
        files = _font_files(self.fonts, TEST_FAMILIES if split == "test" else TRAIN_FAMILIES)
        return _load_font(rng.choice(files), size) if files else ImageFont.load_default(size)

    def sprite(self, thing: str, style: str) -> Image.Image:
        """One object as RGBA, 96 px square.

        Raises:
            ConfigError: if the sheet of this style is missing.
        """
        index = THINGS.index(thing)
        x, y = index % _SHEET_COLUMNS * _TILE, index // _SHEET_COLUMNS * _TILE
        return _sheet(self.sprites / f"objects-{style}.png").crop((x, y, x + _TILE, y + _TILE))


@lru_cache(maxsize=8)
def _sheet(path: Path) -> Image.Image:
    if not path.is_file():
        raise ConfigError("sprite sheet not found", value=str(path), expected="a file of mova_nano/assets")
    return Image.open(path).convert("RGBA")


@lru_cache(maxsize=8)
def _font_files(folders: tuple[Path, ...], families: tuple[str, ...]) -> tuple[Path, ...]:
    files = (p for folder in folders if folder.is_dir() for p in folder.rglob("*.[to]tf"))
    return tuple(
        sorted(p for p in files if p.name.startswith(families) and not any(w in p.name for w in _UNREADABLE))
    )


@lru_cache(maxsize=4096)
def _load_font(path: Path, size: int) -> Font:
    return ImageFont.truetype(str(path), size)
