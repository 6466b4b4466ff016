"""One picture: every mode and depth against what numpy says it should be; what is no picture is one sentence."""

import io
import warnings

import numpy as np
import pytest
import torch
from package_fixtures import one_line, rng
from PIL import Image

from mlbook.data.pictures import open_image, square
from mlbook.errors import DataError, UserError

SIZE = 16
RAMP = np.arange(SIZE * SIZE).reshape(SIZE, SIZE)
"""0 to 255: every eight-bit grey once."""


def encoded(image, kind="png", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def grey(content, size=SIZE):
    return square(content, "x", size, True)[0].numpy()


def colour(content, size=SIZE):
    return square(content, "x", size, False).permute(1, 2, 0).numpy()


# -- depth ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["png", "tiff", "ppm"])
def test_sixteen_bits_are_scaled(kind):
    numbers = (RAMP * 257).astype(np.uint16)
    assert np.array_equal(grey(encoded(Image.fromarray(numbers), kind)), RAMP)
    dark = (RAMP * 4).astype(np.uint16)  # a scanner of 10 bits: the range is the type's, not the picture's
    assert np.array_equal(grey(encoded(Image.fromarray(dark), kind)), np.round(RAMP * 4 / 257))


def tiff(numbers, bits, sample_format=1, photometric=1):
    """A TIFF written by hand: one strip of grey numbers, little-endian."""
    data = numbers.tobytes()
    tags = [
        (256, 4, SIZE), (257, 4, SIZE), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8),
        (277, 3, 1), (278, 4, SIZE), (279, 4, len(data)), (339, 3, sample_format),
    ]  # fmt: skip
    directory = len(tags).to_bytes(2, "little")
    for tag, kind, value in tags:
        directory += b"".join(n.to_bytes(w, "little") for n, w in ((tag, 2), (kind, 2), (1, 4), (value, 4)))
    return b"II*\0" + (8 + len(data)).to_bytes(4, "little") + data + directory + bytes(4)


WHOLE = {
    "16 bits": (np.uint16, 16, 1, 65535),
    "signed 16 bits": (np.int16, 16, 2, 32767),
    "32 bits": (np.uint32, 32, 1, 2**32 - 1),
    "signed 32 bits": (np.int32, 32, 2, 2**31 - 1),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_whole_numbers_of_a_tiff_are_scaled_by_the_largest_of_their_type(kind):
    dtype, bits, sample_format, largest = WHOLE[kind]
    numbers = np.round(RAMP / 255 * largest).astype(dtype)
    assert np.array_equal(grey(tiff(numbers, bits, sample_format)), RAMP)
    if sample_format == 2:
        numbers[3, 4] = -1
        with pytest.raises(DataError, match="numbers below 0"):
            grey(tiff(numbers, bits, sample_format))


def test_white_may_be_the_least_number():
    assert np.array_equal(grey(tiff((RAMP * 257).astype("<u2"), 16, photometric=0)), 255 - RAMP)
    assert np.array_equal(grey(tiff((RAMP / 255).astype("<f4"), 32, 3, photometric=0)), 255 - RAMP)
    assert np.array_equal(grey(tiff(RAMP.astype(np.uint8), 8, photometric=0)), 255 - RAMP)


def test_big_endian_numbers_are_the_same():
    image = Image.frombytes("I;16B", (SIZE, SIZE), (RAMP * 257).astype(">u2").tobytes())
    assert np.array_equal(grey(encoded(image, "tiff")), RAMP)


def test_real_numbers_go_from_0_to_1():
    numbers = (RAMP / 255).astype(np.float32)
    assert np.array_equal(grey(encoded(Image.fromarray(numbers), "tiff")), RAMP)
    for value in (1.5, -0.1, float("nan"), float("inf"), 255.0):
        bad = numbers.copy()
        bad[2, 3] = value
        with pytest.raises(DataError, match="needs them from 0 to 1") as refused:
            grey(encoded(Image.fromarray(bad), "tiff"))
        one_line(refused.value)


def test_colours_of_sixteen_bits():
    """PIL keeps the higher eight bits."""
    import struct
    import zlib

    pixels = np.random.default_rng(0).integers(0, 65536, (SIZE, SIZE, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", SIZE, SIZE, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks
    )
    assert np.array_equal(colour(png), (pixels >> 8).astype(np.uint8))


# -- modes ----------------------------------------------------------------------------------------------------------


def test_every_mode_is_what_it_looks_like():
    g = np.random.default_rng(1)
    rgb = g.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    alpha = g.choice(np.array([0, 255], np.uint8), (SIZE, SIZE, 1))
    over_white = np.where(alpha == 255, rgb, 255).astype(np.uint8)
    assert np.array_equal(colour(encoded(Image.fromarray(np.concatenate([rgb, alpha], 2)))), over_white)
    level = rgb[..., :1]
    la = Image.merge("LA", [Image.fromarray(level[..., 0]), Image.fromarray(alpha[..., 0])])
    assert np.array_equal(grey(encoded(la)), np.where(alpha == 255, level, 255)[..., 0])
    bits = g.random((SIZE, SIZE)) < 0.5
    for kind in ("png", "tiff", "bmp", "ppm"):
        assert np.array_equal(grey(encoded(Image.fromarray(bits), kind)), 255 * bits)
    palette = Image.fromarray(level[..., 0]).quantize(256)
    assert np.array_equal(colour(encoded(palette)), np.array(palette.convert("RGB")))
    clear = palette.copy()
    clear.info["transparency"] = int(np.array(palette)[0, 0])
    assert (colour(encoded(clear, transparency=clear.info["transparency"]))[0, 0] == 255).all()
    ink = Image.merge("CMYK", [Image.fromarray(np.full((SIZE, SIZE), v, np.uint8)) for v in (0, 255, 255, 0)])
    assert np.array_equal(colour(encoded(ink, "tiff"))[0, 0], [255, 0, 0])
    assert abs(colour(encoded(ink, "jpeg"))[0, 0].astype(int) - [255, 0, 0]).max() < 8
    assert np.array_equal(colour(encoded(Image.fromarray(level[..., 0]))), np.repeat(level, 3, 2))


def test_the_transparent_grey_of_sixteen_bits_is_white():
    numbers = (RAMP * 257).astype(np.uint16)
    found = grey(encoded(Image.fromarray(numbers), transparency=int(numbers[5, 5])))
    assert found[5, 5] == 255 and np.array_equal(np.delete(found, 85), np.delete(RAMP, 85))


# -- orientation ----------------------------------------------------------------------------------------------------

UPRIGHT = np.zeros((SIZE, SIZE), np.uint8)
UPRIGHT[:8, :8], UPRIGHT[:8, 8:], UPRIGHT[8:, :8] = 255, 170, 85
AS_STORED = {  # how a camera that was held so stores the picture
    1: UPRIGHT, 2: UPRIGHT[:, ::-1], 3: UPRIGHT[::-1, ::-1], 4: UPRIGHT[::-1], 5: UPRIGHT.T,
    6: np.rot90(UPRIGHT), 7: UPRIGHT[::-1, ::-1].T, 8: np.rot90(UPRIGHT, -1),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff"])
@pytest.mark.parametrize("orientation", AS_STORED)
def test_pictures_are_turned_as_the_camera_was_held(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"jpeg": {"quality": 100}, "webp": {"lossless": True}}.get(kind, {})
    stored = Image.fromarray(np.ascontiguousarray(AS_STORED[orientation]))
    found = grey(encoded(stored, kind, exif=exif, **lossless))
    assert abs(found.astype(int) - UPRIGHT).max() < 4


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_deep_pictures_are_turned_too(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.rot90(UPRIGHT).astype(np.uint16) * 257)
    assert np.array_equal(grey(encoded(stored, kind, exif=exif)), UPRIGHT)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0", b"nonsense", b"Exif\0\0MM\0*\0\0\xff\xff"]
)
def test_damaged_metadata_leaves_the_picture_as_it_is_or_is_one_sentence(exif):
    content = encoded(Image.fromarray(UPRIGHT), "jpeg", exif=exif, quality=100)
    try:
        assert abs(grey(content).astype(int) - UPRIGHT).max() < 4
    except DataError as error:
        one_line(error)


# -- what is no picture ---------------------------------------------------------------------------------------------


def test_a_picture_of_too_many_pixels_is_one_sentence(monkeypatch):
    content = encoded(Image.new("1", (300, 300)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40_000)
    for use in (lambda: open_image(content, "big.png"), lambda: square(content, "big.png", SIZE, True)):
        with pytest.raises(DataError, match="big.png has too many pixels .more than 80,000") as refused:
            use()
        one_line(refused.value)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_image(content, "large.png").size == (300, 300)  # large, but not too large: no warning


def test_damaged_pictures_are_one_sentence_or_a_picture():
    g = rng()
    pixels = np.random.default_rng(2).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    refused = 0
    for kind in ("png", "jpeg", "gif", "bmp", "tiff", "webp", "ppm"):
        good = encoded(Image.fromarray(pixels), kind)
        for _ in range(40):
            bad = bytearray(good[: int(torch.randint(1, len(good) + 1, (), generator=g))])
            for _ in range(3):
                bad[int(torch.randint(len(bad), (), generator=g))] = int(torch.randint(256, (), generator=g))
            try:
                assert square(bytes(bad), "x", SIZE, False).shape == (3, SIZE, SIZE)
            except DataError as error:
                refused += 1
                assert "nothing was imported" in one_line(error)
    assert refused > 100


def test_what_other_programs_would_have_to_read_is_no_picture(monkeypatch):
    from PIL import EpsImagePlugin

    def never(*arguments, **options):
        raise AssertionError("another program was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", never)
    content = encoded(Image.new("RGB", (20, 20)), "eps")
    with pytest.raises(DataError, match="x is not a readable image"):
        square(content, "x", SIZE, True)


def test_odd_sizes():
    assert square(encoded(Image.new("L", (1, 1), 9)), "x", SIZE, True).unique().tolist() == [9]
    assert square(encoded(Image.new("RGB", (500, 1))), "x", SIZE, False).shape == (3, SIZE, SIZE)
    with pytest.raises(UserError, match="at least 1 pixel"):
        square(encoded(Image.new("L", (4, 4))), "x", 0, True)
