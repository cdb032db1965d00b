"""What every prior on patches shares, with a method that is as simple as can be."""

import numpy as np
import pytest
import torch
from pydantic import Field
from torch.utils._python_dispatch import TorchDispatchMode

from mdp_backbones.preprocess import pad_to_multiple, resize
from mdp_core.api import Context, ImageRecord, Images, Silence, WeightsError
from mdp_core.settings import step_settings
from mdp_dino.patches import Grouping, Patches, PatchPrior, images_together, within
from mdp_dino.settings.affinity import DinoAffinityConfig
from mdp_dino.settings.vit import VitAffinityConfig, VitPriorConfig

SIZES = [(64, 96), (96, 64), (63, 95), (64, 80), (50, 50)]


class HalvesConfig(VitAffinityConfig):
    """Settings of ``Halves``."""

    scales: tuple[float, ...] = Field((1.0,))
    """As in dino-affinity."""


class Halves(PatchPrior[HalvesConfig]):
    """Splits patches by the sign of their first centred number; remembers what it saw."""

    Config = HalvesConfig

    def __init__(self, config: HalvesConfig, context: Context) -> None:
        super().__init__(config, context)
        self.seen: list[Patches] = []

    def group(self, patches: Patches) -> Grouping:
        self.seen.append(patches)
        positive = (patches.features(self.config.facet, centred=True)[:, 0] > 0).numpy().reshape(patches.grid)
        return Grouping(np.stack([positive, ~positive]), np.array([0.75, 0.25], np.float32), patches.patch)


class Fixed(Halves):
    """Answers what it is told."""

    def __init__(self, answer, **settings) -> None:
        super().__init__(config_of(**settings), Context(listener=Heard()))
        self.answer = answer

    def group(self, patches: Patches) -> Grouping:
        return self.answer(patches)


class Heard(Silence):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def config_of(**settings) -> HalvesConfig:
    return HalvesConfig(**{"weights": "builtin:random", "short_side": 48, **settings})


def prior_of(**settings) -> Halves:
    return Halves(config_of(**settings), Context(listener=Heard()))


def images_of(arrays: list[np.ndarray]) -> Images:
    records = [ImageRecord(str(i), *array.shape[:2]) for i, array in enumerate(arrays)]
    return Images(records, lambda record: arrays[int(record.id)])


def noise(*sizes: tuple[int, int]) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def same(found, wanted) -> bool:
    return found.masks == wanted.masks and found.size == wanted.size and found.scores.tolist() == wanted.scores.tolist()


@pytest.mark.parametrize("settings", [{}, {"scales": (1.0, 0.5)}, {"padding": "zeros"}, {"short_side": None}])
def test_a_batch_equals_its_images_alone_in_their_order(settings):
    arrays = noise(*(SIZES[index % 5] for index in range(13)))
    alone = [next(prior_of(**settings).mine(images_of([array]))) for array in arrays]
    assert len({one.masks for one in alone}) == 13
    for more in ({"batch": 1}, {"batch": 3}, {"batch": 8}, {"batch": 8, "batch_megapixels": 0.01}):
        together = list(prior_of(**settings, **more).mine(images_of(arrays)))
        assert all(same(found, wanted) for found, wanted in zip(together, alone, strict=True))


def test_the_method_sees_each_image_once_whatever_the_batch():
    arrays = noise(*[(48, 64)] * 7)
    for settings, calls in (({"batch": 4}, [4, 3]), ({"batch": 4, "batch_megapixels": 0.0062}, [2, 2, 2, 1])):
        prior, sizes = prior_of(**settings), []
        read = prior.read
        prior.read = lambda batch, read=read, sizes=sizes: (sizes.append(len(batch)), read(batch))[1]
        list(prior.mine(images_of(arrays)))
        assert sizes == calls
        for patches, pixels in zip(prior.seen, arrays, strict=True):
            assert (patches.pixels == pixels).all()


def test_how_many_images_go_together():
    assert images_together(640 * 864, 5.0) == 9
    assert images_together(1024 * 1376, 5.0) == 3
    assert images_together(10**8, 5.0) == 1


@pytest.mark.parametrize("padding", ["edge", "zeros"])
def test_what_the_method_sees(padding):
    arrays = noise((61, 90))
    prior = prior_of(padding=padding, facet="v", short_side=50)
    list(prior.mine(images_of(arrays)))
    patches = prior.seen[0]
    small = resize(arrays[0], 50, 73)
    assert patches.grid == (7, 10)
    assert patches.patch == 8
    assert patches.scales == 1
    assert patches.heads == prior.reader.heads
    assert set(patches.values) == {"v"}
    assert patches.values["v"].shape == (70, prior.reader.dim)
    assert patches.values["v"].dtype == torch.float32
    assert patches.prefix["v"].shape == (1, prior.reader.dim)
    assert (patches.pixels == (pad_to_multiple(small, 8) if padding == "edge" else small)).all()
    assert patches.features("v", centred=True).mean(dim=0).abs().max() < 1e-5
    assert torch.equal(patches.features("v"), patches.values["v"])


def test_several_scales_are_seen_as_one_with_longer_features():
    arrays = noise((61, 90))
    prior = prior_of(short_side=50, scales=(0.5, 1.0, 2.0))
    list(prior.mine(images_of(arrays)))
    (patches,) = prior.seen
    assert patches.grid == (7, 10)
    assert patches.scales == 3
    assert patches.values["k"].shape == (70, 3 * prior.reader.dim)
    assert patches.prefix["k"].shape == (1, 3 * prior.reader.dim)
    assert (patches.pixels == pad_to_multiple(resize(arrays[0], 50, 73), 8)).all()
    one = prior_of(short_side=50)
    list(one.mine(images_of(arrays)))
    middle = patches.values["k"].chunk(3, dim=1)[1]
    ratio = one.seen[0].values["k"] / middle  # of scale 1 nothing but the length changes
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-4, atol=0)


def test_images_of_one_colour_are_known_and_others_are_not():
    arrays = [np.full((20, 33, 3), (10, 20, 30), np.uint8), np.full((20, 33, 3), (10, 20, 30), np.uint8), *noise((20, 33))]
    arrays[1][3:9, 3:9] += 9
    for padding in ("edge", "zeros"):
        prior = prior_of(padding=padding)
        list(prior.mine(images_of(arrays)))
        assert [patches.plain for patches in prior.seen] == [True, False, False]


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (2000, 1), (7, 300), (3, 3), (33, 31)])
@pytest.mark.parametrize("settings", [{}, {"scales": (0.3, 1.0)}, {"padding": "zeros"}, {"longest": 1}, {"short_side": None}])
def test_odd_sizes(size, settings):
    if settings.get("padding") == "zeros" and size[0] * size[1] == 1:
        settings = {**settings, "short_side": 16}
    prior = prior_of(**{"short_side": 16, **settings})
    (found,) = prior.mine(images_of(noise(size)))
    assert found.size == size
    assert len(found) in (0, 1, 2)
    assert (found.areas() > 0).all()
    assert len(prior.seen[0].values["k"]) <= max(2 * 16, 2 * 260)


def test_a_long_strip_is_shrunk_as_a_whole():
    assert within((640, 853), 8) == (640, 853)
    assert within((640, 5120), 8) == (640, 5120)
    assert within((640, 12800), 8) == (256, 5120)
    assert within((12800, 640), 8) == (5120, 256)
    assert within((640, 10**9), 8) == (1, 5120)
    assert within((16, 20), 1) == (13, 16)
    assert within((16, 16), 1) == (16, 16)
    assert prior_of(longest=4).input_size((10, 400)) == (5, 192)
    assert prior_of(short_side=None).input_size((10, 4000)) == (10, 4000)


def one_mask(where: tuple[slice, slice], score: float):
    def answer(patches: Patches) -> Grouping:
        mask = np.zeros((1, *patches.grid), np.bool_)
        mask[0][where] = True
        return Grouping(mask, np.full(1, score, np.float32), patches.patch)

    return answer


def test_min_score_leaves_out_what_scores_lower():
    images = images_of(noise((48, 48)))
    assert len(next(prior_of(min_score=0.75).mine(images))) == 1
    assert len(next(prior_of(min_score=0.76).mine(images))) == 0
    both, better = (next(prior_of(min_score=least).mine(images)) for least in (0.25, 0.5))
    assert both.scores.tolist() == [0.75, 0.25]
    assert better.masks == both.masks[:1]
    keys = [step_settings(config_of(min_score=least), "mine", ["mine"]) for least in (0.0, 0.5)]
    assert keys[0] != keys[1]


def test_a_score_that_is_no_number_is_not_hidden():
    answer = one_mask((slice(0, 2), slice(0, 2)), float("nan"))
    found = next(Fixed(answer, min_score=0.5).mine(images_of(noise((48, 48)))))
    assert np.isnan(found.scores).all()
    assert len(found) == 1


def test_a_mask_that_no_pixel_is_left_of_is_dropped():
    """2 × 2 pixels seen at 48 × 48: of six by six patches, pixels take the second and the fifth in each direction."""
    images = images_of(noise((2, 2)))
    for where, wanted in (((slice(0, 1), slice(0, 1)), 0), ((slice(1, 2), slice(4, 5)), 1)):
        assert len(next(Fixed(one_mask(where, 0.5)).mine(images))) == wanted

    def both(patches: Patches) -> Grouping:
        one, two = (one_mask((slice(n, n + 1), slice(n, n + 1)), 0.5)(patches).masks for n in (0, 1))
        return Grouping(np.concatenate([one, two]), np.array([0.9, 0.4], np.float32), patches.patch)

    found = next(Fixed(both).mine(images))
    assert found.scores.tolist() == pytest.approx([0.4])
    assert found.mask(0).tolist() == [[True, False], [False, False]]


def test_no_object_is_an_answer():
    found = next(Fixed(lambda patches: Grouping.nothing(patches.grid, patches.patch)).mine(images_of(noise((40, 50)))))
    assert len(found) == 0
    assert found.size == (40, 50)


def test_masks_of_pixels_come_back_as_they_are():
    arrays = noise((48, 60))
    wanted = arrays[0][..., 0] > 128

    def pixels(patches: Patches) -> Grouping:
        mask = patches.pixels[..., 0] > 128
        return Grouping(mask[None], np.ones(1, np.float32), 1)

    assert (next(Fixed(pixels).mine(images_of(arrays))).mask(0) == wanted).all()


@pytest.mark.parametrize(("centre", "remedy"), [(False, "set centre_keys: true"), (True, "nothing that stands out")])
def test_a_mask_of_the_whole_image_is_warned_about_once(centre, remedy):
    prior = Fixed(one_mask((slice(None), slice(None)), 0.5), centre_keys=centre)
    found = list(prior.mine(images_of(noise(*SIZES))))
    assert all(one.mask(0).all() for one in found)
    assert len(prior.context.listener.warnings) == 1
    assert "0 is the whole image" in prior.context.listener.warnings[0]
    assert remedy in prior.context.listener.warnings[0]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_precision_is_that_of_the_network_and_features_stay_float32(precision):
    arrays = noise((48, 64))
    halved, full = prior_of(precision=precision), prior_of()
    for prior in (halved, full):
        list(prior.mine(images_of(arrays)))
    half, whole = (prior.seen[0].values["k"] for prior in (halved, full))
    assert half.dtype == torch.float32
    assert not torch.equal(half, whole)
    torch.testing.assert_close(half, whole, atol=0.1 * float(whole.abs().max()), rtol=0)
    assert next(halved.reader.model.parameters()).dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def test_a_method_that_needs_cls_refuses_a_network_without(monkeypatch):
    class NeedsCls(Halves):
        needs_cls = True

    from timm.models.vision_transformer import VisionTransformer

    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
    without = VisionTransformer(**shape, num_classes=0, class_token=False, global_pool="avg", dynamic_img_size=True)
    monkeypatch.setattr("mdp_backbones.build.random_vit", lambda: without)
    images = images_of(noise((48, 48)))
    with pytest.raises(WeightsError, match="no CLS token"):
        list(NeedsCls(config_of(), Context()).mine(images))
    assert len(next(prior_of().mine(images))) == 2


def test_settings_that_cost_only_time_are_in_no_key():
    one = step_settings(config_of(batch=1, batch_megapixels=0.5), "mine", ["mine"])
    assert one == step_settings(config_of(), "mine", ["mine"])
    assert issubclass(DinoAffinityConfig, VitAffinityConfig)
    assert issubclass(VitAffinityConfig, VitPriorConfig)


class LargestOutput(TorchDispatchMode):
    """Remembers the largest tensor that any operator made."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


def test_no_matrix_of_patches_by_patches_is_made_by_joining_scales():
    prior = prior_of(short_side=384, scales=(1.0, 0.5))
    views = prior._prepare(noise((384, 384))[0])
    patches, dim = 48 * 48, prior.reader.dim
    first = [next(prior.read([picture])) for picture in views.pictures]
    with torch.no_grad(), LargestOutput() as largest:
        joined = prior._joined(views, first)
    assert joined.values["k"].shape == (patches, 2 * dim)
    assert patches * 2 * dim <= largest.elements < patches**2 / 4
