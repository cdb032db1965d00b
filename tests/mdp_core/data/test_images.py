from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mdp_core.data.images import IMAGE_SUFFIXES, ImageRecord, Images, read_image
from mdp_core.errors import DataError

RNG = np.random.default_rng(7)
COLOURS = RNG.integers(0, 256, (12, 20, 3), np.uint8)

# EXIF 2.32, tag 274: where the stored row 0 and column 0 lie in the picture as it should be seen.
SHOWN = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: stored[::-1].transpose(1, 0, 2),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: stored[:, ::-1].transpose(1, 0, 2),
}


def save_with_orientation(path: Path, stored: np.ndarray, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(stored).save(path, exif=exif, **({"quality": 100, "subsampling": 0} if path.suffix == ".jpg" else {}))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    smooth = cv2.resize(COLOURS[:3, :5], (40, 24), interpolation=cv2.INTER_LINEAR)
    path = tmp_path / f"image{suffix}"
    save_with_orientation(path, smooth, orientation)
    expected = SHOWN[orientation](smooth)
    pixels = read_image(path)
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= (8 if suffix == ".jpg" else 0)


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_orientation_that_does_not_exist_changes_nothing(tmp_path: Path, orientation: int) -> None:
    save_with_orientation(tmp_path / "image.png", COLOURS, orientation)
    np.testing.assert_array_equal(read_image(tmp_path / "image.png"), COLOURS)


def test_grey(tmp_path: Path) -> None:
    Image.fromarray(COLOURS[..., 0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.stack([COLOURS[..., 0]] * 3, axis=2))


def test_one_bit(tmp_path: Path) -> None:
    black_white = COLOURS[..., 0] > 127
    Image.fromarray(black_white).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_image(tmp_path / "bits.png")[..., 1], black_white * 255)


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    rgba = np.concatenate([COLOURS, RNG.integers(0, 256, (12, 20, 1), np.uint8)], axis=2)
    rgba[0, 0, 3], rgba[0, 1, 3] = 0, 255
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    pixels = read_image(tmp_path / "rgba.png")
    alpha = rgba[..., 3:] / 255.0
    assert np.abs(pixels - (alpha * rgba[..., :3] + (1 - alpha) * 255.0)).max() <= 1.0
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 1].tolist() == COLOURS[0, 1].tolist()


def test_grey_with_alpha(tmp_path: Path) -> None:
    grey_alpha = np.stack([np.full((2, 3), 10, np.uint8), np.array([[0, 255, 0], [255, 0, 255]], np.uint8)], axis=2)
    Image.fromarray(grey_alpha).save(tmp_path / "la.png")
    assert read_image(tmp_path / "la.png")[..., 0].tolist() == [[255, 10, 255], [10, 255, 10]]


def test_palette_with_a_transparent_entry(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette([9, 8, 7, 200, 0, 0, 0, 50, 0])
    image.save(tmp_path / "palette.png", transparency=1)
    assert read_image(tmp_path / "palette.png").tolist() == [[[9, 8, 7], [255, 255, 255], [0, 50, 0]]]
    image.save(tmp_path / "opaque.png")
    assert read_image(tmp_path / "opaque.png").tolist() == [[[9, 8, 7], [200, 0, 0], [0, 50, 0]]]


def test_16_bit_grey_is_scaled_from_65535(tmp_path: Path) -> None:
    wide = np.array([[0, 257, 32896, 65535]], np.uint16)
    assert cv2.imwrite(str(tmp_path / "wide.png"), wide)
    assert read_image(tmp_path / "wide.png")[0, :, 0].tolist() == [0, 1, 128, 255]
    assert cv2.imwrite(str(tmp_path / "wide.tif"), wide)
    assert read_image(tmp_path / "wide.tif")[0, :, 0].tolist() == [0, 1, 128, 255]


def test_8_bits_in_a_16_bit_file_are_left_as_they_are(tmp_path: Path) -> None:
    assert cv2.imwrite(str(tmp_path / "narrow.png"), np.array([[0, 100, 255]], np.uint16))
    assert read_image(tmp_path / "narrow.png")[0, :, 0].tolist() == [0, 100, 255]


def test_16_bit_colour(tmp_path: Path) -> None:
    wide = RNG.integers(0, 65536, (5, 6, 3)).astype(np.uint16)
    assert cv2.imwrite(str(tmp_path / "wide.png"), wide[..., ::-1])
    assert np.abs(read_image(tmp_path / "wide.png").astype(float) - wide / 257.0).max() <= 1.0


def test_float_grey_with_nan(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.0, 0.5, 1.0, np.nan]], np.float32)).save(tmp_path / "unit.tif")
    assert read_image(tmp_path / "unit.tif")[0, :, 0].tolist() == [0, 128, 255, 0]
    Image.fromarray(np.array([[0.0, 100.0, 400.0]], np.float32)).save(tmp_path / "large.tif")
    assert read_image(tmp_path / "large.tif")[0, :, 0].tolist() == [0, 64, 255]


@pytest.mark.parametrize("colour", [(255, 0, 0), (20, 200, 90), (255, 255, 255), (0, 0, 0)])
def test_cmyk_jpeg(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    Image.new("RGB", (16, 16), colour).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    with Image.open(tmp_path / "cmyk.jpg") as image:
        assert image.mode == "CMYK"
    assert np.abs(read_image(tmp_path / "cmyk.jpg").astype(int) - colour).max() <= 3


def test_first_picture_of_a_multi_picture_jpeg(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (16, 8), colour) for colour in ("white", "black")]
    pictures[0].save(tmp_path / "phone.jpg", format="MPO", save_all=True, append_images=pictures[1:])
    assert read_image(tmp_path / "phone.jpg").min() >= 254


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_every_suffix_can_be_read(tmp_path: Path, suffix: str) -> None:
    Image.new("RGB", (9, 5), (0, 0, 255)).save(tmp_path / f"image{suffix}")
    pixels = read_image(tmp_path / f"image{suffix}")
    assert pixels.shape == (5, 9, 3)
    assert pixels.dtype == np.uint8
    assert pixels[..., 2].min() > 240


def test_one_pixel(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "one.png")
    assert read_image(str(tmp_path / "one.png")).tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.95])
def test_truncated_file_is_named(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"broken{suffix}"
    Image.fromarray(RNG.integers(0, 256, (60, 60, 3), np.uint8)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(DataError, match=f"broken{suffix}: cannot be read as an image"):
        read_image(path)


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    for name in ("text.jpg", "empty.jpg", "folder.jpg"):
        with pytest.raises(DataError, match=name):
            read_image(tmp_path / name)
    with pytest.raises(DataError, match=r"absent.jpg: no such image"):
        read_image(tmp_path / "absent.jpg")


def test_postscript_under_another_name_is_not_interpreted(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with Image.open(path) as image:
        assert image.format == "EPS", "Pillow would hand this file to Ghostscript"
    with pytest.raises(DataError, match="its contents are none of"):
        read_image(path)


@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_never_raise_anything_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    refused = 0
    for trial in range(400):
        path = tmp_path / f"damaged{('.jpg', '.png', '.tif', '.webp', '.bmp')[trial % 5]}"
        save_with_orientation(path, COLOURS, 6) if path.suffix != ".bmp" else Image.fromarray(COLOURS).save(path)
        content = bytearray(path.read_bytes())
        for position in rng.integers(0, len(content), 8):
            content[position] = rng.integers(256)
        path.write_bytes(content)
        try:
            assert read_image(path).ndim == 3
        except DataError:
            refused += 1
    assert 0 < refused < 400


def test_images_read_in_order_and_subset(tmp_path: Path) -> None:
    names = ["a.png", "b.png", "c.png"]
    for value, name in enumerate(names):
        Image.new("RGB", (4, 3), (value, value, value)).save(tmp_path / name)
    records = [ImageRecord(name, 3, 4, str(tmp_path / name)) for name in names]
    images = Images(records, lambda record: read_image(record.path or ""))
    assert [int(pixels.max()) for pixels in images] == [0, 1, 2]
    part = images.subset([2, 0])
    assert (len(part), [record.id for record in part.records]) == (2, ["c.png", "a.png"])
    assert [int(pixels.max()) for pixels in part] == [2, 0]


def test_an_image_that_changed_its_size_is_an_error(tmp_path: Path) -> None:
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    images = Images([ImageRecord("a", 4, 3, str(tmp_path / "a.png"))], lambda record: read_image(record.path or ""))
    with pytest.raises(DataError, match=r"a\.png: 4×3 px now, 3×4 when the dataset was read"):
        images.read(0)
