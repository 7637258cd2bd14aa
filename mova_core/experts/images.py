"""Reading pictures that nobody vouches for.

A picture is judged by its size on disk and by its header before a single pixel is decoded; whatever is wrong
with it becomes an `InputError`. What comes out is always 8-bit RGB, upright, without metadata.
"""

from __future__ import annotations

import hashlib
import warnings
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from mova_core.errors import InputError

MAX_PIXELS: Final = 80_000_000
"""Default bound of a picture in pixels; decoded to RGB this is 240 MB."""

MAX_FILE_BYTES: Final = 256 * 2**20
"""Default bound of a picture's file in bytes."""

# The formats people send. Pillow knows more; some of them start other programs (EPS), most are rarely tried.
_FORMATS: Final = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
_READABLE: Final = "a whole PNG, JPEG, WebP, GIF, TIFF, BMP or AVIF picture of at least 1x1 pixel"
_SAVE_AGAIN: Final = "Open it in an image program and save it as PNG or JPEG."

_ORIENTATION_TAG: Final = 0x0112
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns each EXIF orientation upright."""


def load_image(
    source: str | Path | bytes | Image.Image,
    *,
    max_pixels: int = MAX_PIXELS,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> Image.Image:
    """Read a picture as upright 8-bit RGB.

    Of an animation the first frame is taken; transparency is laid on white; 16-bit grey is scaled to 8 bits;
    colour profiles are not applied. A picture that this function has returned comes back as it is.

    Args:
        source: a path, the bytes of a picture file, or a Pillow picture.
        max_pixels: refuse pictures of more pixels than this, before decoding them.
        max_file_bytes: refuse files of more bytes than this, before reading them.

    Returns:
        A picture of mode "RGB" without metadata.

    Raises:
        InputError: the picture is missing, empty, too large, broken, or of a kind that cannot be read.
    """
    if isinstance(source, Image.Image):
        name, image = f"{source.format or 'Pillow'} picture", source
    else:
        if isinstance(source, bytes):
            name, data = f"of {len(source):,} bytes", source
        else:
            name, data = f"{str(source)!r}", _read(source, max_file_bytes)
        _check_bytes(data, name, max_file_bytes)
        image = _open(data, name, max_pixels)
    _check_size(image, name, max_pixels)
    return _decode(image, name)


def image_digest(image: Image.Image) -> str:
    """SHA-256 of a picture's size and pixels: equal for equal RGB pictures, whatever file they came from.

    Args:
        image: a picture from `load_image`.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256(f"{image.mode} {image.width}x{image.height} ".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def _read(source: str | Path, max_file_bytes: int) -> bytes:
    path, name = Path(source), f"{str(source)!r}"
    hint = "Download it first and pass the file." if "://" in str(source) else "Check the path."
    try:
        if path.is_dir():
            raise InputError(
                f"image {name} is a folder", expected="a picture file", hint="Name a file in it."
            )
        if not path.exists():
            raise InputError(f"image {name} does not exist", expected="the path of a picture file", hint=hint)
        if not path.is_file():
            raise InputError(f"image {name} is a device or pipe", expected="a picture file")
        with path.open("rb") as file:
            # One byte more than allowed, so that a file that grows is still found out.
            return file.read(max_file_bytes + 1)
    except (OSError, ValueError) as error:
        raise InputError(
            f"image {name} cannot be opened",
            value=getattr(error, "strerror", None) or str(error),
            expected="the path of a picture file",
            hint="Check the path and its permissions.",
        ) from error


def _check_bytes(data: bytes, name: str, max_file_bytes: int) -> None:
    if not data:
        raise InputError(
            f"image {name} is empty", value="0 bytes", expected=_READABLE, hint="Fetch it again."
        )
    if len(data) > max_file_bytes:
        raise InputError(
            f"image {name} is too large a file",
            value=f"more than {max_file_bytes:,} bytes",
            expected=f"at most {max_file_bytes:,} bytes",
            hint="Scale it down first.",
        )


def _open(data: bytes, name: str, max_pixels: int) -> Image.Image:
    """Parse the header; no pixel is decoded yet."""
    Image.init()
    formats = tuple(format for format in _FORMATS if format in Image.OPEN)
    try:
        with warnings.catch_warnings():
            # Pillow warns of sizes that `_check_size` judges a moment later.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(BytesIO(data), formats=formats)
    except Image.DecompressionBombError as error:
        size = str(error).partition(" exceeds")[0].removeprefix("Image size ").strip("()")
        raise _too_many_pixels(name, size, max_pixels) from error
    except Exception as error:  # Pillow's parsers raise whatever their input provokes
        raise InputError(
            f"image {name} cannot be read",
            value=f"a file that begins with {data[:16]!r}",
            expected=_READABLE,
            hint=_SAVE_AGAIN,
        ) from error


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise InputError(f"image {name} has no pixels", value=f"{width}x{height}", expected=_READABLE)
    if width * height > max_pixels:
        raise _too_many_pixels(name, f"{width}x{height}", max_pixels)


def _too_many_pixels(name: str, size: str, max_pixels: int) -> InputError:
    return InputError(
        f"image {name} has too many pixels to be decoded safely",
        value=size,
        expected=f"at most {max_pixels:,} pixels",
        hint="Scale it down first, or cut out the part you ask about.",
    )


def _decode(image: Image.Image, name: str) -> Image.Image:
    try:
        image.load()
        if image.mode == "RGB" and not image.info:
            return image
        orientation = _orientation(image)
        picture = _to_rgb(image, name)
        if orientation in _UPRIGHT:
            picture = picture.transpose(_UPRIGHT[orientation])
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever their input provokes
        raise InputError(
            f"image {name} is broken or cut short ({error})", expected=_READABLE, hint=_SAVE_AGAIN
        ) from error
    picture.info = {}
    return picture


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # unreadable metadata is no reason to refuse a readable picture: it stands as stored
        return 1


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.has_transparency_data:
        rgba = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_to_8_bit(image, name)).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(image: Image.Image, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Grey of 16 bits (0..65535) or floats (0..1) to 0..255."""
    values = np.asarray(image, dtype=np.float32)
    white = 1.0 if image.mode == "F" else 65535.0
    low, high = float(values.min()), float(values.max())
    if not (low >= 0.0 and high <= white):  # written so that NaN is refused too
        raise InputError(
            f"image {name} has grey values of unknown range",
            value=f"{low:g} to {high:g}",
            expected=f"0 to {white:g}",
            hint="Scale its values to 8 bits first.",
        )
    grey: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = np.rint(values * (255.0 / white)).astype(np.uint8)
    return grey
