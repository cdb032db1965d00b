"""Masks from elsewhere: every format gives the masks that were written, and whatever is wrong is said."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from pydantic import ValidationError

from mdp_core.api import Context, DataError, ImageRecord, Images, Instances, Silence, to_polygons
from mdp_core.settings import step_settings
from mdp_handcrafted.annotations import run_lengths
from mdp_handcrafted.mask_folder import MaskFolder, matching, read_png
from mdp_handcrafted.settings.mask_folder import MaskFolderConfig

H, W = 30, 40


class Heard(Silence):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def blobs(seed: int = 0) -> np.ndarray:
    """Three masks that do not overlap, one with a hole."""
    masks = np.zeros((3, H, W), bool)
    shift = seed % 4
    masks[0, 2 + shift : 12, 3:17] = True
    masks[0, 6:9, 7:10] = False
    masks[1, 15:28, 5 : 20 + shift] = True
    masks[2, 10:20, 25:39] = True
    return masks


def records(*names: str) -> list[ImageRecord]:
    return [ImageRecord(name, H, W) for name in names]


def load(path: Path, images: list[ImageRecord], listener: Silence | None = None, **given: object) -> list[Instances]:
    def never(record: ImageRecord) -> np.ndarray:
        raise AssertionError(f"{record.id} was read: masks are all that is needed")

    prior = MaskFolder(MaskFolderConfig(path=str(path), **given), Context(listener=listener or Silence()))
    return list(prior.mine(Images(images, never)))


def check(found: Instances, wanted: np.ndarray, scores: list[float] | None = None) -> None:
    assert found.to_masks().tolist() == wanted.tolist()
    assert found.boxes.tolist() == Instances.from_masks(wanted).boxes.tolist()
    assert found.labels.tolist() == [-1] * len(wanted)
    np.testing.assert_allclose(found.scores, scores or [1.0] * len(wanted), rtol=1e-6)


def numbered(masks: np.ndarray, values: list[int]) -> np.ndarray:
    return sum(mask * np.int64(value) for mask, value in zip(masks, values, strict=True))


def compressed(mask: np.ndarray) -> dict:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def uncompressed(mask: np.ndarray) -> dict:
    counts, current = [0], False
    for pixel in mask.T.ravel().tolist():
        if pixel != current:
            counts.append(0)
            current = pixel
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


@pytest.mark.parametrize("kind", ["grey", "palette", "16 bits", "colours", "binary", "bits", "several files"])
def test_png_files_of_every_kind(tmp_path, kind):
    wanted = blobs()
    match kind:
        case "grey":
            Image.fromarray(numbered(wanted, [1, 2, 3]).astype(np.uint8)).save(tmp_path / "a.png")
        case "palette":
            image = Image.fromarray(numbered(wanted, [1, 5, 9]).astype(np.uint8)).convert("P")
            image.putpalette([0, 0, 0, *range(200), *([7] * 565)][:768])
            image.putdata(numbered(wanted, [1, 5, 9]).ravel().tolist())
            image.save(tmp_path / "a.png")
        case "16 bits":
            Image.fromarray(numbered(wanted, [300, 1000, 60000]).astype(np.uint16)).save(tmp_path / "a.png")
        case "colours":
            colours = np.zeros((H, W, 3), np.uint8)
            for mask, colour in zip(wanted, [(200, 1, 0), (3, 2, 0), (0, 0, 4)], strict=True):
                colours[mask] = colour
            Image.fromarray(colours).save(tmp_path / "a.png")
        case "binary":
            wanted = wanted[:1]
            Image.fromarray(wanted[0].astype(np.uint8) * 255).save(tmp_path / "a.png")
        case "bits":
            wanted = wanted[:1]
            Image.fromarray(wanted[0]).save(tmp_path / "a.png")
        case "several files":
            for index, mask in enumerate(wanted):
                Image.fromarray(mask).save(tmp_path / f"a_{index}.png")
            Image.fromarray(~wanted[0]).save(tmp_path / "ab_0.png")
    found = load(tmp_path, records("a.jpg"), pattern="{stem}_*.png" if kind == "several files" else "{stem}.png")
    if kind == "colours":
        wanted = wanted[[0, 1, 2]][np.argsort([200 + 256, 3 + 512, 4 * 65536])]
    check(found[0], wanted)


def test_values_of_a_png_that_are_no_mask_and_soft_maps(tmp_path):
    masks = blobs()
    Image.fromarray(numbered(masks, [1, 255, 3]).astype(np.uint8)).save(tmp_path / "a.png")
    check(load(tmp_path, records("a"), void=[255])[0], masks[[0, 2]])
    check(load(tmp_path, records("a"), values="binary")[0], masks.any(axis=0)[None])
    check(load(tmp_path, records("a"), values="binary", above=2, void=[255])[0], masks[[2]])
    soft = np.linspace(0, 255, H * W).reshape(H, W).astype(np.uint8)
    Image.fromarray(soft).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: 255 different values, which is no image of instances\n.*values: binary"):
        load(tmp_path, records("a"))
    check(load(tmp_path, records("a"), values="binary", above=127)[0], soft[None] > 127)
    many = np.arange(H * W).reshape(H, W)
    Image.fromarray(many.astype(np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="1199 different values"):
        load(tmp_path, records("a"))


def test_images_in_folders_are_found_by_id_stem_and_name(tmp_path):
    image = records("train/x/7.jpg")
    for place in ("train/x/7.jpg.png", "train/x/7.png", "flat/7.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(blobs()[0]).save(tmp_path / "train/x/7.jpg.png")
    Image.fromarray(blobs()[1]).save(tmp_path / "train/x/7.png")
    Image.fromarray(blobs()[2]).save(tmp_path / "flat/7.png")
    for index, pattern in enumerate(("{id}.png", "{stem}.png", "flat/{name}.png")):
        check(load(tmp_path, image, pattern=pattern)[0], blobs()[[index]])
    check(load(tmp_path, image, pattern="train/*/{name}.png")[0], blobs()[[1]])


@settings(max_examples=100, deadline=None)
@given(
    names=st.lists(st.text("ab[*?]/_.1", min_size=1, max_size=8), max_size=12, unique=True),
    stem=st.text("ab[]_1", min_size=1, max_size=3),
    pattern=st.sampled_from(["{stem}*.png", "{stem}_?.png", "*/{stem}.png", "{stem}/*.png", "a?{stem}*b.png"]),
)
def test_matching_by_characters(names, stem, pattern):
    def literal(text: str, wanted: list[tuple[str, bool]]) -> bool:
        if not wanted:
            return not text
        (first, plain), rest = wanted[0], wanted[1:]
        if not plain and first == "*":
            return literal(text, rest) or (text[:1] not in ("", "/") and literal(text[1:], wanted))
        return text != "" and (text[0] == first if plain else text[0] != "/") and literal(text[1:], rest)

    names = sorted({f"{name}.png" for name in names} | {f"{stem}_1.png", f"{stem}.png", f"a/{stem}.png", f"{stem}/b.png"})
    before, after = pattern.split("{stem}")
    tokens = [(c, c not in "*?") for c in before] + [(c, True) for c in stem] + [(c, c not in "*?") for c in after]
    assert matching(names, pattern, {"stem": stem}) == [name for name in names if literal(name, tokens)]


def coco(masks_of: dict[str, np.ndarray], segmentation, **more: object) -> dict:
    images = [{"id": 10 + index, "file_name": name, "height": H, "width": W} for index, name in enumerate(masks_of)]
    annotations = [
        {"id": 100 * index + k, "image_id": 10 + index, "category_id": 3, "segmentation": segmentation(mask), **more}
        for index, masks in enumerate(masks_of.values())
        for k, mask in enumerate(masks)
    ]
    return {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "thing"}]}


@pytest.mark.parametrize("segmentation", [compressed, uncompressed])
def test_one_coco_file(tmp_path, segmentation):
    file = tmp_path / "masks.json"
    given = coco({"a.jpg": blobs(0), "sub/b.jpg": blobs(1)[:2], "none.jpg": blobs()[:0]}, segmentation, score=0.25)
    given["annotations"].insert(1, {**given["annotations"][0], "iscrowd": 1})
    file.write_text(json.dumps(given))
    first, second, none = load(file, records("a.jpg", "b.png", "none.jpg"))
    check(first, blobs(0), [0.25] * 3)
    check(second, blobs(1)[:2], [0.25] * 2)
    check(none, blobs()[:0])
    assert [len(one) for one in load(file, records("a.jpg", "b.png"), min_score=0.5)] == [0, 0]


def test_polygons_are_what_pycocotools_draws(tmp_path):
    file = tmp_path / "masks.json"
    file.write_text(json.dumps(coco({"a.jpg": blobs()[1:]}, to_polygons)))
    wanted = [
        coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(to_polygons(mask), H, W))).astype(bool) for mask in blobs()[1:]
    ]
    check(load(file, records("a.jpg"))[0], np.stack(wanted))


@pytest.mark.parametrize("key", [139, "000000000139", "000000000139.jpg"])
def test_results_without_a_list_of_images(tmp_path, key):
    file = tmp_path / "results.json"
    file.write_text(json.dumps([{"image_id": key, "segmentation": compressed(mask), "score": 0.5} for mask in blobs()]))
    check(load(file, records("000000000139.jpg"))[0], blobs(), [0.5] * 3)
    with pytest.raises(DataError, match=r"results\.json: not listed for 1 of 2 images: other\.jpg"):
        load(file, records("000000000139.jpg", "other.jpg"))


@pytest.mark.parametrize("form", ["annotations", "list", "run lengths", "one"])
def test_a_folder_of_json_files(tmp_path, form):
    masks = blobs()[:1] if form == "one" else blobs()
    items = [{"segmentation": uncompressed(mask), "predicted_iou": 0.75} for mask in masks]
    plain = [compressed(mask) for mask in masks]
    written = {"annotations": {"annotations": items}, "list": items, "run lengths": plain, "one": plain[0]}[form]
    (tmp_path / "a.json").write_text(json.dumps(written))
    wanted = [0.75] * 3 if form in ("annotations", "list") else None
    check(load(tmp_path, records("a.jpg"), pattern="{stem}.json")[0], masks, wanted)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.tuples(st.integers(1, 30), st.integers(1, 30)), share=st.floats(0, 1))
def test_run_lengths_as_pycocotools_writes_them(seed, size, share):
    mask = np.random.default_rng(seed).random(size) < share
    assert run_lengths(compressed(mask)["counts"]) == uncompressed(mask)["counts"]


@settings(max_examples=200, deadline=None)
@given(text=st.one_of(st.text(max_size=12), st.none(), st.integers(), st.binary(max_size=4)))
def test_damaged_run_lengths_are_an_error_and_never_a_random_mask(tmp_path_factory, text):
    lengths = run_lengths(text)
    assume_wrong = lengths is None or sum(lengths) != H * W or min(lengths) < 0
    if not assume_wrong or isinstance(text, bytes):
        return
    file = tmp_path_factory.mktemp("damaged") / "m.json"
    file.write_text(json.dumps([{"image_id": "a", "segmentation": {"size": [H, W], "counts": text}}]))
    with pytest.raises(DataError, match=r"image a: (damaged run lengths|run lengths of -?[0-9]+ pixels)"):
        load(file, records("a"))


WRONG = {
    "no segmentation": ({}, "an annotation without a mask"),
    "polygons of words": ({"segmentation": [["a"] * 6]}, "a segmentation that is none"),
    "no size": ({"segmentation": {"counts": [1200]}}, "run lengths of size None"),
    "too short": ({"segmentation": {"size": [H, W], "counts": [1100]}}, "run lengths of 1100 pixels for a mask of 30 × 40"),
    "fractions": ({"segmentation": {"size": [H, W], "counts": [0.5, 1199.5]}}, "damaged run lengths"),
    "negative": ({"segmentation": {"size": [H, W], "counts": [-5, 1205]}}, "damaged run lengths"),
    "score": ({"segmentation": [], "score": 1.5}, "the score of a mask is 1.5"),
    "score of words": ({"segmentation": [], "score": "good"}, "the score of a mask is 'good'"),
    "another size": (
        {"segmentation": {"size": [15, 20], "counts": [0, 300]}},
        r"a mask of 20 × 15 pixels \(width × height\) for image a\.jpg of 40 × 30",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_annotations_are_said(tmp_path, case):
    item, message = WRONG[case]
    file = tmp_path / "m.json"
    file.write_text(json.dumps([{"image_id": "a", **item}]))
    with pytest.raises(DataError, match=message) as raised:
        load(file, records("a.jpg"))
    assert str(file) in str(raised.value)
    assert "image a.jpg" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [],\n "annotations": [1,,]}', r"m\.json:2: damaged JSON at column"),
        ('[{"image_id": 1,', r"m\.json:1: damaged JSON"),
        ("", r"m\.json:1: damaged JSON"),
        ("3", "no list 'annotations'"),
        ('{"images": []}', "no list 'annotations'"),
        ('{"images": 3, "annotations": []}', "no list 'images'"),
        ('{"images": [3], "annotations": []}', "an entry of images without id"),
        ('{"images": [{"id": 1}, {"id": 1}], "annotations": []}', "lists image 1 twice"),
        ('{"images": [{"id": 1}], "annotations": [{"image_id": 2}]}', "an annotation is of image 2"),
        ('{"annotations": [{"id": 2}]}', "an annotation without image_id"),
        (
            '{"images": [{"id": 1, "file_name": "x/a.jpg"}, {"id": 2, "file_name": "y/a.jpg"}], "annotations": []}',
            "2 images named a.jpg",
        ),
    ],
)
def test_damaged_files_are_said(tmp_path, text, message):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(DataError, match=message):
        load(tmp_path / "m.json", records("a.jpg"))


def test_formats_that_are_none(tmp_path):
    (tmp_path / "masks.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"masks\.npz: unknown format\n.*folder of PNG or JSON"):
        load(tmp_path / "masks.npz", records("a"))
    (tmp_path / "a.png").write_bytes(b"\xff\xd8\xff\xe0 JPEG")
    with pytest.raises(DataError, match=r"a\.png: cannot be read as PNG"):
        load(tmp_path, records("a"))
    Image.fromarray(blobs()[0]).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"a\.png: cannot be read as PNG"):
        load(tmp_path, records("a"))
    Image.new("RGBA", (W, H)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: a PNG with transparency"):
        load(tmp_path, records("a"))
    (tmp_path / "a.json").write_text("[3]")
    with pytest.raises(DataError, match=r"a\.json: an annotation that is none: 3"):
        load(tmp_path, records("a"), pattern="{stem}.json")


@pytest.mark.parametrize(
    "pattern", ["{stem}.jpg", "masks.png", "{stem", "{nome}.png", "../{stem}.png", "/{stem}.png", "{}.png"]
)
def test_patterns_that_are_none(tmp_path, pattern):
    with pytest.raises(ValidationError):
        MaskFolderConfig(path=str(tmp_path), pattern=pattern)


def test_images_without_masks(tmp_path):
    for name in "abc":
        Image.fromarray(blobs()[0]).save(tmp_path / f"image_{name}.png")
    names = records("image_a.jpg", "image_x.jpg", "image_y.jpg", "u.jpg", "v.jpg")
    with pytest.raises(DataError) as raised:
        load(tmp_path, names)
    assert "no file {stem}.png for 4 of 5 images: image_x.jpg, image_y.jpg, u.jpg, …" in str(raised.value)
    assert "such as image_" in raised.value.hint
    heard = Heard()
    assert [len(one) for one in load(tmp_path, names, heard, missing="empty")] == [1, 0, 0, 0, 0]
    assert not heard.warnings
    assert [len(one) for one in load(tmp_path, names[1:], heard, missing="empty")] == [0, 0, 0, 0]
    assert "is the right folder or pattern named?" in heard.warnings[0]


def test_another_size_is_an_error_or_resized(tmp_path):
    small = np.zeros((H // 2, W // 2), bool)
    small[3:9, 5:12] = True
    Image.fromarray(small).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: a mask of 20 × 15 pixels \(width × height\) for image a\.jpg of 40 × 30"):
        load(tmp_path, records("a.jpg"))
    check(load(tmp_path, records("a.jpg"), resize=True)[0], small.repeat(2, axis=0).repeat(2, axis=1)[None])


def test_masks_without_a_pixel_are_left_out(tmp_path):
    Image.fromarray(np.zeros((H, W), np.uint8)).save(tmp_path / "a.png")
    assert len(load(tmp_path, records("a"))[0]) == 0
    (tmp_path / "m.json").write_text(json.dumps(coco({"a.jpg": blobs()[:1] & False}, compressed)))
    assert len(load(tmp_path / "m.json", records("a"))[0]) == 0


def test_one_pixel_and_one_row(tmp_path):
    for name, size in (("dot", (1, 1)), ("row", (1, 50)), ("column", (50, 1))):
        Image.fromarray(np.full(size, 7, np.uint8)).save(tmp_path / f"{name}.png")
        (found,) = load(tmp_path, [ImageRecord(name, *size)])
        assert found.to_masks().all()
        assert found.boxes.tolist() == [[0, 0, size[1], size[0]]]


def keyed(**given: object) -> dict:
    return step_settings(MaskFolderConfig(**given), "mine", ["mine"])


def test_keys_hold_contents_and_not_paths(tmp_path, monkeypatch):
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    Image.fromarray(blobs()[0]).save(one / "a.png")
    shutil.copytree(one, other)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert keyed(path=str(one)) == keyed(path="other") == keyed(path="~/one")
    assert keyed(path=str(one)) != keyed(path=str(one), pattern="{id}.png")
    assert keyed(path=str(one)) == keyed(path=str(one), supervision="masks by hand")
    Image.fromarray(blobs()[1]).save(other / "a.png")
    assert keyed(path=str(one)) != keyed(path=str(other))
    assert len(load(Path("~/one"), records("a"))[0]) == len(load(Path("other"), records("a"))[0]) == 1


@pytest.mark.parametrize(("stated", "wanted"), [("none", None), ("None", None), ("BASNet", "made elsewhere with: BASNet")])
def test_supervision_is_what_is_stated(tmp_path, stated, wanted):
    assert MaskFolderConfig(path=str(tmp_path), supervision=stated).labels_used() == wanted
    assert "not stated" in MaskFolderConfig(path=str(tmp_path)).labels_used()


def test_greys_written_as_colours_are_greys(tmp_path):
    grey = numbered(blobs(), [1, 2, 3]).astype(np.uint8)
    Image.fromarray(grey[..., None].repeat(3, axis=-1)).save(tmp_path / "a.png")
    values, eight_bits = read_png(tmp_path / "a.png")
    assert eight_bits
    assert values.tolist() == grey.tolist()


def test_class_maps_of_voc(voc_root):
    """Ten real label maps: each value is a mask, those of a loop over the values."""
    folder = voc_root / "VOC2012" / "SegmentationClass"
    files = sorted(folder.glob("*.png"))[:10]
    images = [ImageRecord(file.stem, *np.asarray(Image.open(file)).shape) for file in files]
    for file, found in zip(files, load(folder, images, void=[255]), strict=True):
        stored = np.asarray(Image.open(file))
        values = [value for value in range(1, 255) if (stored == value).any()]
        assert found.to_masks().tolist() == [(stored == value).tolist() for value in values]
