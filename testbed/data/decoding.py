"""Decodes and resizes one image."""

import io
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from testbed.core.errors import UserError
from testbed.data.images import content_key

Mode = Literal["L", "RGB"]

READ_AS_THEY_ARE = ("1", "L", "RGB")  # and 16-bit grey, of several names
WORDS = {
    "CMYK": "is in CMYK (mode CMYK)",
    "LA": "is grey with transparency (mode LA)",
    "P": "has a palette (mode P)",
    "RGBA": "has transparency (mode RGBA)",
}
MODE_OPTION = "mode: RGB (or L, for grey) in the data.options of data.name=parquet_folder"


def to_channels_first(image: Image.Image, image_size_px: int | None) -> NDArray[np.uint8]:
    """Return a grey or RGB Pillow image as uint8 (C, H, W), resized to a square when asked."""
    if image_size_px is not None and image.size != (image_size_px, image_size_px):
        image = image.resize((image_size_px, image_size_px), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def picture_key(image: Image.Image) -> int:
    """Return the content key of a picture: equal pixels have equal keys, however encoded."""
    return content_key(image.convert("RGB").tobytes())


def decode_image(content: bytes, where: str, convert: bool) -> Image.Image:
    """Decode a JPEG or PNG as a viewer shows it, in 8 bits: mode "L" or "RGB".

    An orientation tag is applied. Grey of 16 bits is scaled to 8 (65535 is white), and grey of 1
    bit is black and white.

    Parameters
    ----------
    content : the encoded bytes.
    where : file and row, for messages.
    convert : also decode palettes, CMYK and transparency (over white); else they are refused,
        since a scenario has to say so.

    Raises
    ------
    UserError : not a JPEG or PNG, truncated, or to be converted.
    """
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            image.load()
            deep = image.mode.startswith("I")
            plain = deep or (image.mode in READ_AS_THEY_ARE and not image.has_transparency_data)
            if not (plain or convert):
                words = WORDS.get(image.mode, f"has transparency (mode {image.mode})")
                raise UserError(f"{where}: the image {words}; to read it, set {MODE_OPTION}")
            return _in_eight_bits(_upright(image))
    except UnidentifiedImageError:
        raise UserError(f"{where}: not a readable JPEG or PNG image (of another format)") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{where}: not a readable JPEG or PNG image ({reason:.120})") from None


def _upright(image: Image.Image) -> Image.Image:
    """Apply the orientation tag; a damaged tag says nothing, and is ignored as viewers do."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # Pillow parses tags without checks and raises errors of many kinds
        return image


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """Return a decoded image in mode "L" or "RGB", transparent parts over white."""
    if image.mode.startswith("I"):
        pixels = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((pixels + 128) // 257).astype(np.uint8))
    if image.mode == "1":
        return image.convert("L")
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
    return image if image.mode == "L" else image.convert("RGB")
