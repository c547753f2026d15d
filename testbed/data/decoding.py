"""Decodes and resizes one image."""

import io
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from testbed.core.errors import UserError

Mode = Literal["L", "RGB"]


def to_channels_first(image: Image.Image, image_size_px: int | None) -> NDArray[np.uint8]:
    """Return a grey or RGB Pillow image as uint8 (C, H, W), resized to a square when asked."""
    if image_size_px is not None and image.size != (image_size_px, image_size_px):
        image = image.resize((image_size_px, image_size_px), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def decode_image(
    content: bytes | None, where: str, image_size_px: int | None, mode: Mode | None = None
) -> NDArray[np.uint8]:
    """Decode a JPEG or PNG to uint8 (C, H, W).

    Parameters
    ----------
    content : the encoded bytes.
    where : file and row, for messages.
    image_size_px : side of the square to resize to; None keeps the size.
    mode : convert to grey ("L") or "RGB"; None refuses every other mode.

    Raises
    ------
    UserError : no bytes, not a JPEG or PNG, truncated, or a mode that needs converting.
    """
    if content is None:
        raise UserError(f"{where}: the row holds no image bytes")
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            image.load()
            if mode is not None and image.mode != mode:
                return to_channels_first(image.convert(mode), image_size_px)
            if image.mode not in ("L", "RGB"):
                raise UserError(
                    f"{where}: the image has mode {image.mode}; grey (L) and RGB are read"
                )
            return to_channels_first(image, image_size_px)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{where}: not a readable JPEG or PNG image ({reason:.120})") from None
