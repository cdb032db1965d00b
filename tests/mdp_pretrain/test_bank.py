import numpy as np
import pytest
import torch
from PIL import Image

from mdp_core.api import Context, ImageRecord, Images, Instances, StageError
from mdp_pretrain.bank import ImageBank, box_of

SIZES = [(40, 60), (60, 40), (50, 50), (33, 71), (64, 32)]


def pictures() -> tuple[Images, list[Instances]]:
    rng = np.random.default_rng(0)
    made, masks = [], []
    for height, width in SIZES:
        made.append(rng.integers(0, 256, (height, width, 3)).astype(np.uint8))
        mask = np.zeros((2, height, width), bool)
        mask[0, height // 4 : height // 2, width // 2 : width - 3] = True
        mask[1] = True  # the first one counts
        masks.append(Instances.from_masks(mask))
    masks[2] = Instances.empty(*SIZES[2])
    records = [ImageRecord(str(index), *size) for index, size in enumerate(SIZES)]
    return Images(records, lambda record: made[int(record.id)]), masks


def bank(memory: float, instances: list[Instances] | None = None) -> ImageBank:
    return ImageBank(pictures()[0], instances, side=24, memory=memory, workers=3, context=Context())


def test_in_memory_and_on_demand_give_the_same() -> None:
    instances = pictures()[1]
    held, read = bank(1.0, instances), bank(0.0, instances)
    assert held.in_memory and not read.in_memory
    assert len(held) == len(read) == len(SIZES)
    indices = torch.tensor([4, 0, 0, 2])
    one, other = held.batch(indices), read.batch(indices)
    assert torch.equal(one.pixels, other.pixels) and torch.equal(one.aspect, other.aspect)
    assert one.masks is not None and other.masks is not None and torch.equal(one.masks, other.masks)
    assert one.boxes is not None and other.boxes is not None and torch.equal(one.boxes, other.boxes)


def test_images_are_squeezed_into_squares_and_their_proportions_kept_in_mind() -> None:
    images, _ = pictures()
    batch = bank(1.0).batch(torch.arange(len(SIZES)))
    assert batch.pixels.shape == (len(SIZES), 3, 24, 24) and batch.pixels.dtype == torch.float32
    for index, (height, width) in enumerate(SIZES):
        expected = np.asarray(Image.fromarray(images.read(index)).resize((24, 24), Image.Resampling.BILINEAR)) / 255
        assert np.allclose(batch.pixels[index].permute(1, 2, 0).numpy(), expected, atol=1e-6)
        assert float(batch.aspect[index]) == pytest.approx(width / height)
    assert batch.masks is None and batch.boxes is None


def test_masks_and_their_boxes() -> None:
    instances = pictures()[1]
    batch = bank(1.0, instances).batch(torch.arange(len(SIZES)))
    assert batch.masks is not None and batch.boxes is not None and batch.masks.dtype == torch.float32
    for index in range(len(SIZES)):
        mask = batch.masks[index, 0].numpy().astype(bool)
        ys, xs = np.nonzero(mask)
        low, high = np.array([xs.min(), ys.min()]) / 12 - 1, np.array([xs.max() + 1, ys.max() + 1]) / 12 - 1
        assert np.allclose(batch.boxes[index], [*(low + high) / 2, *(high - low) / 2], atol=1e-6)
        if index != 2:
            height, width = SIZES[index]
            whole = instances[index].mask(0)
            assert mask.mean() == pytest.approx(whole.mean(), abs=0.04)
            assert np.allclose(low, [2 * (width // 2) / width - 1, 2 * (height // 4) / height - 1], atol=2 / 24 + 1e-6)
    assert batch.masks[2].all(), "an image without a mask is taken whole"
    assert batch.boxes[2].tolist() == [0, 0, 1, 1]


def test_a_mask_that_vanishes_in_the_square_is_the_whole_image() -> None:
    mask = np.zeros((1, 400, 400), bool)
    mask[0, 0, 0] = True
    images = Images([ImageRecord("a", 400, 400)], lambda _: np.zeros((400, 400, 3), np.uint8))
    made = ImageBank(images, [Instances.from_masks(mask)], side=16, memory=1, workers=1, context=Context())
    masks = made.batch(torch.tensor([0])).masks
    assert masks is not None and (masks.all() or masks.sum() == 1)
    assert masks.any()


def test_the_box_of_one_pixel_is_that_pixel() -> None:
    mask = np.zeros((8, 8), bool)
    mask[2, 5] = True
    assert box_of(mask).tolist() == [5.5 / 4 - 1, 2.5 / 4 - 1, 1 / 8, 1 / 8]


def test_no_images() -> None:
    with pytest.raises(StageError, match="no images"):
        ImageBank(Images([], lambda _: np.zeros((1, 1, 3), np.uint8)), None, side=16, memory=1, workers=1, context=Context())
