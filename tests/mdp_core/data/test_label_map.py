from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from mdp_core.data.instances import Instances
from mdp_core.data.label_map import IGNORE, LabelMap, palette
from mdp_core.errors import DataError


def literal_paint(masks: np.ndarray, scores: list[float], labels: list[int]) -> np.ndarray:
    """Pixel by pixel: the label + 1 of the most confident mask that covers it, of the earlier one where scores are equal."""
    values = np.zeros(masks.shape[1:], int)
    for y in range(masks.shape[1]):
        for x in range(masks.shape[2]):
            best = -1.0
            for mask, score, label in zip(masks, scores, labels, strict=True):
                if mask[y, x] and score > best:
                    best, values[y, x] = score, label + 1
    return values


def write_grey_png(path: Path, values: list[list[int]], bits: int) -> None:
    """Writes a grey PNG of 1, 2, 4, 8 or 16 bits by hand (PNG specification, third edition)."""
    rows = b""
    for row in values:
        packed = "".join(format(value, f"0{bits}b") for value in row)
        packed += "0" * (-len(packed) % 8)
        rows += b"\0" + bytes(int(packed[i : i + 8], 2) for i in range(0, len(packed), 8))
    header = struct.pack(">IIBBBBB", len(values[0]), len(values), bits, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@settings(max_examples=80, deadline=None)
@given(
    hnp.arrays(np.bool_, st.tuples(st.integers(0, 6), st.integers(1, 9), st.integers(1, 9))),
    st.randoms(use_true_random=False),
    st.sampled_from([3, 254, 255, 600]),
)
def test_paint_equals_the_literal_loop(masks: np.ndarray, random, clusters: int) -> None:
    scores = [random.choice([0.0, 0.25, 0.25, 0.5, 1.0]) for _ in masks]
    labels = [random.choice([random.randrange(clusters), clusters - 1]) for _ in masks]
    painted = LabelMap.paint(Instances.from_masks(masks, scores=scores, labels=labels))
    np.testing.assert_array_equal(painted.values, literal_paint(masks, scores, labels))
    assert painted.values.dtype == (np.uint8 if max(labels, default=0) + 1 <= 254 else np.uint16)


def test_most_confident_wins_and_the_earlier_of_equals() -> None:
    masks = np.ones((4, 1, 1), bool)
    scores_labels = [([0.2, 0.9, 0.9, 0.1], 5), ([0.9, 0.2, 0.9, 0.9], 3), ([0.1, 0.1, 0.1, 0.2], 9)]
    for scores, expected in scores_labels:
        painted = LabelMap.paint(Instances.from_masks(masks, scores=scores, labels=[2, 4, 6, 8]))
        assert painted.values.item() == expected


def test_paint_refuses_instances_without_a_cluster() -> None:
    with pytest.raises(ValueError, match="without a cluster"):
        LabelMap.paint(Instances.from_masks(np.ones((1, 2, 2), bool)))


def test_paint_nothing_is_background() -> None:
    np.testing.assert_array_equal(LabelMap.paint(Instances.empty(3, 4)).values, LabelMap.background(3, 4).values)


def literal_colour(index: int) -> tuple[int, int, int]:
    """The colour map of the VOC development kit (VOClabelcolormap.m)."""
    red = green = blue = 0
    for place in range(8):
        red |= ((index >> 0) & 1) << (7 - place)
        green |= ((index >> 1) & 1) << (7 - place)
        blue |= ((index >> 2) & 1) << (7 - place)
        index >>= 3
    return red, green, blue


def test_palette_is_that_of_voc() -> None:
    colours = palette()
    assert (colours.shape, colours.dtype) == ((256, 3), np.uint8)
    assert colours[0].tolist() == [0, 0, 0]
    assert colours[1].tolist() == [128, 0, 0]
    assert colours[15].tolist() == [192, 128, 128]
    assert colours[255].tolist() == [224, 224, 192]
    assert [tuple(colour) for colour in colours.tolist()] == [literal_colour(index) for index in range(256)]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_round_trip(tmp_path: Path, dtype: type) -> None:
    top = np.iinfo(dtype).max
    values = np.random.default_rng(1).integers(0, top + 1, (17, 300)).astype(dtype)
    values[0, :4] = 0, 1, 255, top
    (tmp_path / "labels.png").write_bytes(LabelMap(values).to_png())
    again = LabelMap.from_png(tmp_path / "labels.png")
    assert again.values.dtype == dtype
    assert again.ignore == top
    np.testing.assert_array_equal(again.values, values)
    np.testing.assert_array_equal(LabelMap.from_png(str(tmp_path / "labels.png")).values, values)


def test_png_shows_the_palette(tmp_path: Path) -> None:
    (tmp_path / "labels.png").write_bytes(LabelMap(np.array([[0, 1, 15, 255]], np.uint8)).to_png())
    with Image.open(tmp_path / "labels.png") as image:
        assert image.mode == "P"
    shown = cv2.imread(str(tmp_path / "labels.png"), cv2.IMREAD_COLOR)[..., ::-1]
    assert shown.tolist() == [[[0, 0, 0], [128, 0, 0], [192, 128, 128], [224, 224, 192]]]


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_png_of_any_depth_holds_plain_numbers(tmp_path: Path, bits: int) -> None:
    top = 2**bits - 1
    values = np.random.default_rng(bits).integers(0, top + 1, (4, 9))
    values[0, :2] = 0, top
    write_grey_png(tmp_path / "labels.png", values.tolist(), bits)
    labels = LabelMap.from_png(tmp_path / "labels.png")
    np.testing.assert_array_equal(labels.values, values)
    assert labels.values.dtype == (np.uint16 if bits == 16 else np.uint8)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_palette_png_of_few_bits(tmp_path: Path, bits: int) -> None:
    values = np.random.default_rng(bits).integers(0, 2**bits, (4, 9)).astype(np.uint8)
    image = Image.fromarray(values)
    image.putpalette(palette()[: 2**bits].tobytes())
    image.save(tmp_path / "labels.png", bits=bits)
    np.testing.assert_array_equal(LabelMap.from_png(tmp_path / "labels.png").values, values)


def test_colours_are_not_labels(tmp_path: Path) -> None:
    Image.new("RGB", (3, 3)).save(tmp_path / "colours.png")
    with pytest.raises(DataError, match=r"colours\.png.*RGB.*\n.*class numbers, not colours"):
        LabelMap.from_png(tmp_path / "colours.png")


def test_unreadable_label_maps_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no")
    Image.new("L", (3, 3)).save(tmp_path / "lossy.jpg")
    Image.new("L", (3, 3)).save(tmp_path / "short.png")
    (tmp_path / "short.png").write_bytes((tmp_path / "short.png").read_bytes()[:45])
    bomb = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    (tmp_path / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + b"IHDR"
        + bomb
        + struct.pack(">I", zlib.crc32(b"IHDR" + bomb))
        + b"\0" * 12
    )
    for name in ("text.png", "lossy.jpg", "short.png", "bomb.png"):
        with pytest.raises(DataError, match=f"{name}: cannot be read as a label map"):
            LabelMap.from_png(tmp_path / name)
    with pytest.raises(DataError, match=r"absent\.png: no such label map"):
        LabelMap.from_png(tmp_path / "absent.png")


@pytest.mark.parametrize(
    ("top", "clusters", "dtype"),
    [(0, None, np.uint8), (254, None, np.uint8), (255, None, np.uint8), (256, None, np.uint16), (3, 254, np.uint8),
     (255, 20, np.uint8), (3, 255, np.uint16), (255, 300, np.uint16)],
)  # fmt: skip
def test_from_array_chooses_the_type(top: int, clusters: int | None, dtype: type) -> None:
    values = np.array([[0, 1, top]])
    labels = LabelMap.from_array(values, clusters=clusters)
    assert labels.values.dtype == dtype
    np.testing.assert_array_equal(labels.values, values)


def test_from_array_keeps_ignore() -> None:
    truth = np.array([[0, 20, IGNORE]], np.uint8)
    assert LabelMap.from_array(truth).ignore == IGNORE


@pytest.mark.parametrize(("values", "clusters"), [([[-1, 0]], None), ([[0, 256]], 20), ([[0, 65536]], None), ([[-1]], 300)])
def test_from_array_refuses_what_does_not_fit(values: list[list[int]], clusters: int | None) -> None:
    with pytest.raises(ValueError, match="where only 0 to"):
        LabelMap.from_array(np.array(values), clusters=clusters)


@pytest.mark.parametrize("values", [np.zeros((2, 2), np.int64), np.zeros((2, 2, 1), np.uint8), np.zeros((2, 2), bool)])
def test_only_uint8_and_uint16_planes(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8 or uint16"):
        LabelMap(values)
