"""Single images: kinds that a manifest test does not reach."""

import io

import numpy as np
import pytest
from PIL import Image

from wbcbench.data.decode import UndecodableError, decode_square, read_header

WIDE = (np.arange(8 * 8 * 3).reshape(8, 8, 3) * 300).astype(np.uint16)


def tiff(pixels: np.ndarray, **options: str) -> bytes:
    tifffile = pytest.importorskip("tifffile")
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def test_big_endian_sixteen_bits() -> None:
    data = tiff(WIDE[..., 0], byteorder=">")
    assert read_header(data).bits == 16
    np.testing.assert_array_equal(decode_square(data, 1, None)[0], WIDE[..., 0])


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_other_depths_are_refused(kind: type) -> None:
    with pytest.raises(UndecodableError, match=r"8 or 16 bits"):
        decode_square(tiff(WIDE[..., 0].astype(kind) * 1000), 1, None)


def test_a_photo_with_a_preview_is_its_first_frame() -> None:
    file = io.BytesIO()
    photo = Image.fromarray(np.full((16, 16), 200, np.uint8))
    photo.save(file, "MPO", save_all=True, append_images=[Image.fromarray(np.zeros((8, 8), np.uint8))])
    assert read_header(file.getvalue()).width == 16
    assert (decode_square(file.getvalue(), 1, 4) > 195).all()
