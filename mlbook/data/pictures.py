"""One picture: from the bytes of a file to a small square of pixels, whatever the format and the mode."""

from __future__ import annotations

import re
import warnings
from functools import cache
from io import BytesIO

import torch
from torch import Tensor

from mlbook.data.files import shown
from mlbook.errors import DataError, UserError

ORIENTATION = 0x0112
"""EXIF tag: how the camera was held, 1 (upright) to 8."""
BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
"""TIFF tags: bits per sample; 0 where white is the least value; 1 for unsigned, 2 for signed numbers, 3 for real ones."""
SIGNED = 2


FORMATS = ("PNG", "JPEG", "MPO", "JPEG2000", "BMP", "GIF", "WEBP", "TIFF", "PPM", "AVIF")
"""What a picture may be, whatever its name says: PIL hands others (EPS) to programs outside."""


@cache
def _formats() -> list[str]:
    """Those of ``FORMATS`` that this PIL knows."""
    from PIL import Image

    Image.init()
    return [kind for kind in FORMATS if kind in Image.OPEN]


def open_image(content: bytes, name: object):
    """A PIL image from the bytes of a file, read completely; ``DataError`` if they are not an image, or one that is too large."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures and of odd metadata, which do not matter here
            image = Image.open(BytesIO(content), formats=_formats())
            image.load()
    except Image.DecompressionBombError:
        raise DataError(
            f"{shown(name)} has too many pixels (more than {2 * Image.MAX_IMAGE_PIXELS:,}); make it smaller; "
            "nothing was imported"
        ) from None
    except (
        Exception
    ) as error:  # damaged pictures make Pillow raise errors of many kinds (SyntaxError, struct.error, ...)
        raise _unreadable(name, error) from None
    return image


def converted(image, mode: str, name: object):
    """The image in another mode of PIL; ``DataError`` if there is no such conversion."""
    try:
        return image.convert(mode)
    except Exception as error:
        raise _unreadable(name, error) from None


def square(content: bytes, name: object, size: int, grey: bool) -> Tensor:
    """A picture's central square at size × size: uint8 [1 or 3, size, size].

    content: the bytes of a file. name: what messages call it. The picture is turned as its EXIF orientation says. White lies
    under transparent parts. Numbers of 16 and 32 bits are scaled by the largest one of their type; real numbers go from 0 to
    1. Raises ``DataError`` if the bytes are no picture, or numbers are below 0 or (real ones) above 1; ``UserError`` on a
    bad size.
    """
    import numpy as np
    from PIL import Image

    if size < 1:
        raise UserError(f"the size of a picture must be at least 1 pixel, got {size}")
    image = open_image(content, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            orientation = image.getexif().get(ORIENTATION, 1)
            if image.mode == "F" or image.mode.startswith("I"):
                image = _eight_bits(image, name)
            if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
                image = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("L" if grey else "RGB")
            turn = _turns().get(orientation)
            if turn is not None:
                image = image.transpose(turn)
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            if image.size != (size, size):
                image = image.crop((left, top, left + side, top + side)).resize((size, size), Image.LANCZOS)
            pixels = torch.from_numpy(np.array(image))
    except DataError:
        raise
    except Exception as error:  # modes without a conversion, damaged metadata
        raise _unreadable(name, error) from None
    return pixels[None] if grey else pixels.permute(2, 0, 1)


def _unreadable(name: object, error: Exception) -> DataError:
    reason = re.sub(r" <_io\.BytesIO[^>]*>", "", " ".join(str(error).split())) or type(error).__name__
    return DataError(f"{shown(name)} is not a readable image ({reason}); nothing was imported")


def _turns() -> dict[int, int]:
    """What makes a picture of each EXIF orientation upright."""
    from PIL import Image

    return {
        2: Image.FLIP_LEFT_RIGHT,
        3: Image.ROTATE_180,
        4: Image.FLIP_TOP_BOTTOM,
        5: Image.TRANSPOSE,
        6: Image.ROTATE_270,
        7: Image.TRANSVERSE,
        8: Image.ROTATE_90,
    }


def _eight_bits(image, name: object):
    """A picture of larger numbers as one of grey values from 0 to 255, rounded. PIL's own conversion cuts them off."""
    import numpy as np
    from PIL import Image

    numbers = np.array(image)
    tags = getattr(image, "tag_v2", None)  # a TIFF has them
    if image.mode == "F":
        if not np.isfinite(numbers).all() or numbers.min() < 0 or numbers.max() > 1:
            raise DataError(
                f"{shown(name)} holds real numbers from {numbers.min():g} to {numbers.max():g}; a picture of real numbers "
                "needs them from 0 to 1; nothing was imported"
            )
        largest = 1.0
    else:
        bits, signed = 16, False  # PNG and PGM have no others
        if tags is not None:
            bits, signed = int(tags[BITS][0]), tags.get(SAMPLE_FORMAT, (1,))[0] == SIGNED
        elif image.format not in ("PNG", "PPM") and not image.mode.startswith("I;16"):
            raise DataError(
                f"{shown(name)} is a {image.format} of whole numbers whose largest one is not known; nothing was imported"
            )
        if numbers.dtype == np.int32 and not signed:
            numbers = numbers.view(np.uint32)  # PIL knows signed ones only
        if numbers.min() < 0:
            raise DataError(f"{shown(name)} holds numbers below 0; nothing was imported")
        largest = 2.0 ** (bits - signed) - 1
    values = np.round(numbers.astype(np.float64) * (255 / largest))
    if tags is not None and tags.get(PHOTOMETRIC) == 0:
        values = 255 - values
    if isinstance(image.info.get("transparency"), int):  # the one value of a PNG that is transparent
        values[numbers == image.info["transparency"]] = 255
    return Image.fromarray(values.astype(np.uint8))
