from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mova_core.errors import InputError
from mova_core.experts.images import MAX_PIXELS, image_digest, load_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def _encoded(image: Image.Image, format: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = _chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + data + _chunk(b"IEND", b"")


def _missing(folder: Path) -> Path:
    return folder / "missing.png"


def _folder(folder: Path) -> Path:
    (folder / "folder.png").mkdir()
    return folder / "folder.png"


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.png")
    return folder / "pipe.png"


def _file(data: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "picture.png").write_bytes(data)
        return folder / "picture.png"

    return write


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))

REFUSED = {
    "missing": (_missing, "does not exist"),
    "folder": (_folder, "is a folder"),
    "pipe": (_pipe, "is a device or pipe"),
    "empty": (_file(b""), "is empty"),
    "text": (_file(b"hello, I am text\n" * 9), "got a file that begins with b'hello, I am text'"),
    "unknown bytes": (_file(bytes(range(256))), "cannot be read"),
    "png cut short": (_file(_encoded(NOISE, "PNG")[:5000]), "broken or cut short"),
    "png header only": (_file(_encoded(NOISE, "PNG")[:20]), "cannot be read"),
    "jpeg cut short": (_file(_encoded(NOISE, "JPEG")[:1500]), "broken or cut short"),
    "webp cut short": (_file(_encoded(NOISE, "WEBP")[:900]), "whole PNG"),
    "gif cut short": (_file(_encoded(NOISE, "GIF")[:1200]), "broken or cut short"),
    "bomb": (
        _file(_png_header(30_000, 30_000)),
        "too many pixels to be decoded safely; got 900000000 pixels",
    ),
    "smaller bomb": (_file(_png_header(10_000, 10_000)), "got 10000x10000"),
    "0x0": (_file(_png_header(0, 0)), "at least 1x1 pixel"),
    "postscript": (_file(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n"), "cannot be read"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_file_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    make, said = REFUSED[case]
    path = make(tmp_path)
    with pytest.raises(InputError) as caught:
        load_image(path)
    line = str(caught.value)
    assert said in line
    assert str(path) in line and "expected" in line and "\n" not in line


@pytest.mark.parametrize("source", ["a\0b", "x" * 5000, "", "https://example.org/cat.png"])
def test_a_bad_path_is_refused(source: str) -> None:
    with pytest.raises(InputError, match="image"):
        load_image(source)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(self: Image.Image) -> None:
        raise AssertionError("decoded")

    path = _file(_png_header(8_001, 10_000))(tmp_path)
    assert MAX_PIXELS < 8_001 * 10_000
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    with pytest.raises(InputError, match="too many pixels"):
        load_image(path)


@pytest.mark.filterwarnings("error")
def test_refusing_a_large_picture_prints_no_warning() -> None:
    with pytest.raises(InputError, match="too many pixels"):
        load_image(_png_header(10_000, 10_000))


def test_bounds_can_be_set(tmp_path: Path) -> None:
    path = _file(_encoded(NOISE, "PNG"))(tmp_path)
    assert load_image(path, max_pixels=64 * 64).size == (64, 64)
    with pytest.raises(InputError, match="at most 4,095 pixels"):
        load_image(path, max_pixels=64 * 64 - 1)
    with pytest.raises(InputError, match="too large a file.*at most 1,000 bytes"):
        load_image(path, max_file_bytes=1_000)


def test_a_pillow_picture_without_pixels_is_refused() -> None:
    with pytest.raises(InputError, match="has no pixels; got 0x0"):
        load_image(Image.new("RGB", (0, 0)))


def test_path_bytes_and_picture_give_the_same(tmp_path: Path) -> None:
    data = _encoded(NOISE, "PNG")
    path = _file(data)(tmp_path)
    for source in (str(path), path, data, Image.open(path), NOISE):
        assert image_digest(load_image(source)) == image_digest(NOISE)


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in (RED, GREEN, BLUE)]
    data = _encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert getattr(Image.open(BytesIO(data)), "n_frames", 1) == 3
    image = load_image(data)
    assert (image.mode, image.size, image.getpixel((3, 3))) == ("RGB", (8, 6), RED)


def test_cmyk_becomes_rgb() -> None:
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    image = load_image(_encoded(cyan, "TIFF"))
    assert (image.mode, image.getpixel((4, 4))) == ("RGB", (0, 255, 255))
    pixel = np.asarray(load_image(_encoded(cyan, "JPEG")))[4, 4]
    assert np.allclose(pixel, (0, 255, 255), atol=8)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_and_not_clipped(format: str) -> None:
    values = np.array([[0, 128, 129, 257], [32768, 65278, 65406, 65535]], dtype=np.uint16)
    image = load_image(_encoded(Image.fromarray(values), format))
    assert image.mode == "RGB"
    expected = [[0, 0, 1, 1], [128, 254, 254, 255]]
    assert np.array_equal(np.asarray(image), np.repeat(np.array(expected)[..., None], 3, axis=2))


def _floats(*values: float) -> np.ndarray:
    return np.array([values], dtype=np.float32)


def test_grey_of_unknown_range_is_refused() -> None:
    for values in (_floats(0.0, 300.0), _floats(0.0, np.nan), np.array([[-5, 9]], dtype=np.int32)):
        with pytest.raises(InputError, match="unknown range"):
            load_image(Image.fromarray(values))
    assert load_image(Image.fromarray(_floats(0.0, 1.0))).getpixel((1, 0)) == WHITE


def test_transparency_is_laid_on_white() -> None:
    rgba = Image.new("RGBA", (3, 1), (*RED, 255))
    rgba.putpixel((1, 0), (*RED, 0))
    rgba.putpixel((2, 0), (0, 0, 0, 51))
    image = load_image(_encoded(rgba, "PNG"))
    assert [image.getpixel((x, 0)) for x in range(3)] == [RED, WHITE, (204, 204, 204)]
    grey = load_image(_encoded(Image.new("LA", (2, 2), (0, 0)), "PNG"))
    assert grey.getpixel((0, 0)) == WHITE


def test_palettes_keep_their_colours_and_their_holes() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([*BLUE, *GREEN])
    palette.putpixel((1, 0), 1)
    opaque = load_image(_encoded(palette, "PNG"))
    holed = load_image(_encoded(palette, "GIF", transparency=1))
    assert [opaque.getpixel((x, 0)) for x in range(2)] == [BLUE, GREEN]
    assert [holed.getpixel((x, 0)) for x in range(2)] == [BLUE, WHITE]


@pytest.mark.parametrize(
    ("orientation", "corners"),  # colours of the upright picture's top left and bottom right corner
    [(1, "rb"), (2, "gw"), (3, "br"), (4, "wg"), (5, "rb"), (6, "wg"), (7, "br"), (8, "gw")],
)
def test_exif_orientation_is_applied(orientation: int, corners: str) -> None:
    stored = Image.new("RGB", (2, 3), RED)  # top row r g, bottom row w b
    stored.putpixel((1, 0), GREEN)
    stored.putpixel((0, 2), WHITE)
    stored.putpixel((1, 2), BLUE)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = load_image(_encoded(stored, "PNG", exif=exif))
    assert image.size == ((3, 2) if orientation > 4 else (2, 3))
    names = {RED: "r", GREEN: "g", WHITE: "w", BLUE: "b"}
    pixels = np.asarray(image)
    assert names[tuple(pixels[0, 0].tolist())] + names[tuple(pixels[-1, -1].tolist())] == corners
    assert load_image(image) is image, "a second pass must not turn it again"


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_unreadable_exif_is_no_reason_to_refuse() -> None:
    data = _encoded(NOISE, "PNG", exif=b"Exif\0\0MM\0*\0\0\xff\xff")
    assert image_digest(load_image(data)) == image_digest(NOISE)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_picture_or_an_input_error(data: bytes) -> None:
    try:
        image = load_image(data)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert image.mode == "RGB"


@given(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"]), st.data())
def test_damaged_files_give_a_picture_or_an_input_error(format: str, data: st.DataObject) -> None:
    whole = bytearray(_encoded(NOISE.resize((16, 16)), format))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert load_image(bytes(whole)).mode == "RGB"
    except InputError as error:
        assert "\n" not in str(error)


def test_the_digest_tells_pictures_apart() -> None:
    flat = Image.new("RGB", (6, 2), RED)
    assert image_digest(flat) == image_digest(flat.copy())
    others = [Image.new("RGB", (2, 6), RED), Image.new("RGB", (6, 2), (254, 0, 0))]
    assert len({image_digest(image) for image in (flat, *others)}) == 3
