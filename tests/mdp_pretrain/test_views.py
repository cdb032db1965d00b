import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdp_pretrain import views
from mdp_pretrain.settings import ColourConfig, ObjectsConfig, ViewsConfig
from mdp_pretrain.views import Batch, Crops, blur, crop, recolour, turn

MEAN = torch.tensor([0.485, 0.456, 0.406])
STILL = ColourConfig(hue=0, saturation=0, contrast=0, brightness=0, grey=0, invert=0, blur=0)


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int, side: int = 24, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=gen(seed))


def batch(count: int, side: int = 24, aspect: float = 1.0, *, boxes: list[float] | None = None) -> Batch:
    masks = None
    if boxes is not None:
        x, y, w, h = boxes
        places = (torch.arange(side) + 0.5) * 2 / side - 1
        inside = ((places[:, None] - y).abs() <= h) & ((places[None] - x).abs() <= w)
        masks = inside.float().expand(count, 1, side, side)
    return Batch(
        images(count, side),
        torch.full((count,), aspect),
        masks,
        None if boxes is None else torch.tensor(boxes).expand(count, 4),
    )


def none(count: int) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.bool)


def reflected(index: int, side: int) -> int:
    period = index % (2 * side)
    return period if period < side else 2 * side - 1 - period


def literal_sample(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Bilinear sampling, pixel by pixel, in float64: -1 and 1 are the outer edges of the outer pixels."""
    side = image.shape[-1]
    out = np.zeros((3, size, size))
    for i in range(size):
        for j in range(size):
            u, v = (2 * j + 1) / size - 1, (2 * i + 1) / size - 1
            x, y = matrix @ np.array([u, v, 1.0])
            x, y = ((x + 1) * side - 1) / 2, ((y + 1) * side - 1) / 2
            x0, y0 = math.floor(x), math.floor(y)
            for dy in (0, 1):
                for dx in (0, 1):
                    weight = (x - x0 if dx else 1 - (x - x0)) * (y - y0 if dy else 1 - (y - y0))
                    out[:, i, j] += weight * image[:, reflected(y0 + dy, side), reflected(x0 + dx, side)]
    return out


def test_the_whole_image_at_its_own_size_is_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "ASPECT", 0.0)
    some = batch(3)
    cut = crop(some, ViewsConfig(size=24, scale=(1, 1), flip="none"), local=False, objects=none(3), draw=gen())
    assert torch.allclose(cut.pixels, some.pixels, atol=1e-5)
    assert cut.outside is None


def test_half_of_the_views_are_mirrored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "ASPECT", 0.0)
    some = batch(60)
    cut = crop(some, ViewsConfig(size=24, scale=(1, 1)), local=False, objects=none(60), draw=gen())
    as_is = (cut.pixels - some.pixels).abs().amax(dim=(1, 2, 3)) < 1e-5
    mirrored = (cut.pixels - some.pixels.flip(-1)).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert torch.equal(as_is, ~mirrored)
    assert 15 < mirrored.sum() < 45


@pytest.mark.parametrize(("rotation", "aspect"), [(0.0, 1.0), (180.0, 1.0), (40.0, 2.0), (180.0, 0.6)])
@pytest.mark.parametrize("local", [False, True])
def test_crops_are_a_literal_bilinear_sampling_of_their_map(rotation: float, aspect: float, local: bool) -> None:
    config = ViewsConfig(size=18, local_size=16, rotation=rotation, scale=(0.3, 1.0), local_scale=(0.05, 0.3))
    some = batch(4, aspect=aspect)
    cut = crop(some, config, local=local, objects=none(4), draw=gen(5)).pixels
    matrix = views._placement(some, config, local, none(4), gen(5))
    for found, image, one in zip(cut, some.pixels, matrix, strict=True):
        expected = literal_sample(image.double().numpy(), one.double().numpy(), 16 if local else 18)
        assert np.abs(found.numpy() - expected).max() < 2e-4


@settings(max_examples=30, deadline=None)
@given(
    aspect=st.floats(0.3, 3.0),
    rotation=st.floats(0, 180),
    low=st.floats(0.05, 1.0),
    span=st.floats(0, 1.0),
    seed=st.integers(0, 999),
)
def test_maps_keep_the_pictures_proportions(aspect: float, rotation: float, low: float, span: float, seed: int) -> None:
    """In the picture as it was before it was squeezed, a view is an upright rectangle that was turned, of the area asked for."""
    scale = (low, low + span * (1 - low))
    some = batch(8, 16, aspect)
    config = ViewsConfig(size=16, scale=scale, rotation=rotation)
    matrix = views._placement(some, config, False, none(8), gen(seed)).double().numpy()
    wide, high = max(aspect, 1.0), max(1 / aspect, 1.0)
    for one in matrix:
        across, down, centre = (one * np.array([[wide], [high]])).T
        half_x, half_y = np.hypot(*across), np.hypot(*down)
        assert abs(across @ down) < 1e-5 * half_x * half_y + 1e-9
        clipped = math.isclose(half_x, wide, rel_tol=1e-5) or math.isclose(half_y, high, rel_tol=1e-5)
        assert half_x <= wide * (1 + 1e-6) and half_y <= high * (1 + 1e-6)
        assert half_x * half_y <= scale[1] * wide * high * (1 + 1e-5)
        assert 3 / 4 - 2e-3 <= half_x / half_y <= 4 / 3 + 2e-3
        if not clipped:
            assert half_x * half_y >= scale[0] * wide * high * (1 - 1e-5)
        angle = math.degrees(math.atan2(-down[0], down[1]))
        assert abs(angle) <= rotation + 1e-3
        assert abs(centre[0]) <= wide - half_x + 1e-5 and abs(centre[1]) <= high - half_y + 1e-5


def test_without_rotation_scene_views_stay_within_the_picture() -> None:
    some = batch(200, 16, 1.7)
    matrix = views._placement(some, ViewsConfig(size=16), False, none(200), gen())
    corners = torch.tensor([[-1.0, -1, 1, 1], [-1, 1, -1, 1], [1, 1, 1, 1]])
    assert (matrix @ corners).abs().max() <= 1 + 1e-5


def test_a_disc_in_a_wide_picture_is_round_in_its_views(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "ASPECT", 0.0)
    y, x = np.mgrid[:64, :128] + 0.5
    picture = (((x - 64) ** 2 + (y - 32) ** 2) < 20**2).astype(np.float32)
    squeezed = picture.reshape(64, 64, 2).mean(axis=2)  # half as wide
    some = Batch(torch.from_numpy(squeezed).expand(30, 3, 64, 64), torch.full((30,), 2.0))
    seen = crop(some, ViewsConfig(size=64), local=False, objects=none(30), draw=gen()).pixels[:, 0] > 0.5
    whole = seen[~(seen[:, 0].any(1) | seen[:, -1].any(1) | seen[:, :, 0].any(1) | seen[:, :, -1].any(1))]
    assert len(whole) > 3
    for view in whole:
        width, height = int(view.any(dim=0).sum()), int(view.any(dim=1).sum())
        assert abs(width - height) <= 2 and width >= 39


@pytest.mark.parametrize("aspect", [1.0, 2.0, 0.5])
def test_large_views_around_a_mask_contain_its_box(aspect: float) -> None:
    boxes = [0.2, -0.1, 0.15, 0.3]
    some = batch(100, 24, aspect, boxes=boxes)
    config = ViewsConfig(size=16, objects=ObjectsConfig(scale=(1.5, 1.6)))
    matrix = views._placement(some, config, False, torch.ones(100, dtype=torch.bool), gen())
    for one in matrix.double():
        for sx in (-1, 1):
            for sy in (-1, 1):
                corner = torch.tensor([boxes[0] + sx * boxes[2], boxes[1] + sy * boxes[3]], dtype=torch.float64)
                inside = torch.linalg.solve(one[:, :2], corner - one[:, 2])
                assert inside.abs().max() <= 1 + 1e-6


def test_views_around_a_mask_are_of_its_size_and_only_where_asked() -> None:
    some = batch(40, 24, 1.0, boxes=[0.5, 0.5, 0.1, 0.2])
    chosen = torch.arange(40) % 2 == 0
    config = ViewsConfig(size=16, scale=(1, 1), objects=ObjectsConfig(scale=(1, 1), local_scale=(0.5, 0.5)))
    sides = views._placement(some, config, False, chosen, gen())[:, :, :2].norm(dim=1)
    assert torch.allclose(sides[chosen].prod(dim=1), torch.tensor(0.2**2)), "the square of the box's longer side"
    assert (sides[~chosen].prod(dim=1) > 0.7).all()
    local = views._placement(some, config, True, chosen, gen())[:, :, :2].norm(dim=1)
    assert torch.allclose(local[chosen].prod(dim=1), torch.tensor(0.1**2))


def test_outside_the_mask_is_the_mean_colour_in_the_share_of_views_asked_for() -> None:
    some = batch(50, 24, boxes=[0.0, 0.0, 0.4, 0.4])
    config = ViewsConfig(size=24, rotation=180, objects=ObjectsConfig(scale=(1.5, 1.5), fill=0.5))
    chosen = torch.arange(50) < 40
    cut = crop(some, config, local=False, objects=chosen, draw=gen())
    assert cut.outside is not None and cut.outside.shape == (50, 1, 24, 24)
    filled = cut.outside.flatten(1).any(dim=1)
    assert not filled[40:].any()
    assert 10 <= filled[:40].sum() <= 30
    coloured = recolour(cut, STILL, MEAN, gen())
    expected = torch.where(cut.outside, MEAN[:, None, None], cut.pixels)
    assert torch.allclose(coloured, expected, atol=1e-6)
    matrix = views._placement(some, config, False, chosen, gen())
    assert some.masks is not None
    for index in filled.nonzero()[:3, 0].tolist():
        mask = some.masks[index].expand(3, -1, -1).double().numpy()
        inside = literal_sample(mask, matrix[index].double().numpy(), 24)[0]
        agree = (inside < 0.5) == cut.outside[index, 0].numpy()
        assert agree[np.abs(inside - 0.5) > 1e-3].all()


def test_the_same_generator_gives_the_same_views() -> None:
    some = batch(4, boxes=[0.0, 0.0, 0.4, 0.4])
    objects = torch.tensor([True, False, True, False])

    def view(seed: int) -> torch.Tensor:
        draw = gen(seed)
        return recolour(crop(some, ViewsConfig(size=16), local=False, objects=objects, draw=draw), ColourConfig(), MEAN, draw)

    first = view(1)
    torch.rand(5)  # the global generator has no part in it
    assert torch.equal(first, view(1))
    assert not torch.equal(first, view(2))


def test_each_view_draws_its_own() -> None:
    one = images(1).expand(6, 3, 24, 24)
    cut = crop(Batch(one, torch.ones(6)), ViewsConfig(size=16), local=False, objects=none(6), draw=gen()).pixels
    assert len({tuple(view.flatten()[:50].tolist()) for view in cut}) == 6


@pytest.mark.parametrize("quarters", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_turned_crops_keep_what_is_outside_aligned(quarters: int, mirrored: bool) -> None:
    pixels = images(2, 16)
    crops = Crops(pixels, pixels[:, :1] > 0.5).turned(quarters, mirrored)
    literal = np.rot90(pixels.numpy(), quarters, (2, 3))
    literal = literal[..., ::-1] if mirrored else literal
    assert np.array_equal(crops.pixels.numpy(), literal)
    assert crops.outside is not None
    assert torch.equal(crops.outside, crops.pixels[:, :1] > 0.5)
    assert torch.equal(turn(pixels, quarters, mirrored), crops.pixels)


def only(**changes: float) -> ColourConfig:
    return STILL.model_copy(update=changes)


def test_no_change_of_colour_is_none() -> None:
    pixels = images(3)
    assert torch.allclose(recolour(Crops(pixels, None), STILL, MEAN, gen()), pixels, atol=1e-6)


def test_a_turn_of_the_hue_keeps_greys_and_the_mean_of_the_channels() -> None:
    pixels = 0.4 + 0.2 * images(8)  # far from black and white, nothing is cut off
    pixels[:, :, 0, 0] = 0.55
    turned = recolour(Crops(pixels, None), only(hue=0.5), MEAN, gen())
    assert torch.allclose(turned[:, :, 0, 0], pixels[:, :, 0, 0], atol=1e-6)
    assert torch.allclose(turned.mean(dim=1), pixels.mean(dim=1), atol=1e-6)
    assert ((turned - pixels).abs().amax(dim=(1, 2, 3)) > 0.01).sum() >= 6
    chroma = (pixels - pixels.mean(dim=1, keepdim=True)).norm(dim=1)
    assert torch.allclose((turned - turned.mean(dim=1, keepdim=True)).norm(dim=1), chroma, atol=1e-5)


def test_a_third_of_a_turn_exchanges_the_channels() -> None:
    pixels = 0.4 + 0.2 * images(400, 2)
    turned = recolour(Crops(pixels, None), only(hue=0.5), MEAN, gen())
    angles = (torch.rand(400, generator=gen()) - 0.5) * 2 * math.pi
    nearest = (angles - 2 * math.pi / 3).abs().argmin()
    assert (angles[nearest] - 2 * math.pi / 3).abs() < 0.05
    assert (turned[nearest] - pixels[nearest].roll(1, dims=0)).abs().max() < 0.02


def test_grey_views_have_equal_channels_of_the_same_mean() -> None:
    pixels = images(5)
    grey = recolour(Crops(pixels, None), only(grey=1), MEAN, gen())
    assert torch.allclose(grey[:, 0], grey[:, 1], atol=1e-6) and torch.allclose(grey[:, 1], grey[:, 2], atol=1e-6)
    assert torch.allclose(grey.mean(dim=1), pixels.mean(dim=1), atol=1e-6)


def test_a_negative_is_the_image_turned_about_its_mean() -> None:
    pixels = 0.4 + 0.2 * images(3)
    negative = recolour(Crops(pixels, None), only(invert=1), MEAN, gen())
    assert torch.allclose(negative, 2 * pixels.mean(dim=(1, 2, 3), keepdim=True) - pixels, atol=1e-6)


def test_brightness_contrast_and_saturation_stay_within_their_ranges() -> None:
    pixels = 0.45 + 0.1 * images(200, 6)
    middle = pixels.mean(dim=(1, 2, 3), keepdim=True)
    lifted = (recolour(Crops(pixels, None), only(brightness=0.3), MEAN, gen()) - pixels).flatten(1)
    assert torch.allclose(lifted, lifted[:, :1].expand_as(lifted), atol=1e-6)
    assert 0.28 < lifted.max() <= 0.3 + 1e-6 and -0.3 - 1e-6 <= lifted.min() < -0.28
    stretched = (recolour(Crops(pixels, None), only(contrast=0.5), MEAN, gen()) - middle) / (pixels - middle)
    factors = stretched.flatten(1).median(dim=1).values
    assert 0.49 < factors.min() < 0.55 and 1.45 < factors.max() < 1.51
    luminance = pixels.mean(dim=1)
    assert torch.allclose(recolour(Crops(pixels, None), only(saturation=1), MEAN, gen()).mean(dim=1), luminance, atol=1e-6)


def test_colours_end_at_black_and_white() -> None:
    strong = ColourConfig(hue=0.5, saturation=1, contrast=1, brightness=1, grey=0.2, invert=0.5, blur=0.5)
    coloured = recolour(Crops(images(50), None), strong, MEAN, gen())
    assert coloured.min() >= 0 and coloured.max() <= 1 and torch.isfinite(coloured).all()


def literal_blur(image: np.ndarray, sigma: float, reach: int) -> np.ndarray:
    side = image.shape[-1]
    weights = np.array([math.exp(-0.5 * (k / sigma) ** 2) for k in range(-reach, reach + 1)])
    weights /= weights.sum()

    def bounced(index: int) -> int:
        index = abs(index)
        return index if index < side else 2 * (side - 1) - index

    out = np.zeros_like(image)
    for i in range(side):
        for j in range(side):
            for di in range(-reach, reach + 1):
                for dj in range(-reach, reach + 1):
                    out[:, i, j] += weights[di + reach] * weights[dj + reach] * image[:, bounced(i + di), bounced(j + dj)]
    return out


def test_blur_is_a_gaussian_of_each_images_own_width() -> None:
    pixels, sigma = images(3, 12), torch.tensor([0.3, 0.9, 1.7])
    found = blur(pixels, sigma)
    for one, image, width in zip(found, pixels, sigma.tolist(), strict=True):
        assert np.abs(one.numpy() - literal_blur(image.double().numpy(), width, 4)).max() < 1e-5
    assert torch.allclose(blur(pixels, torch.full((3,), 1e-2)), pixels, atol=1e-6)


def test_the_share_of_views_asked_for_is_blurred() -> None:
    pixels = images(200, 64)
    blurred = recolour(Crops(pixels, None), only(blur=0.3), MEAN, gen())
    changed = (blurred - pixels).abs().amax(dim=(1, 2, 3)) > 1e-6
    assert 25 <= changed.sum() <= 85
    assert torch.allclose(blurred[~changed], pixels[~changed], atol=1e-6)


def test_light_and_noise_are_each_views_own_and_as_strong_as_asked_for() -> None:
    pixels = torch.full((300, 3, 32, 32), 0.5)
    shaded = recolour(Crops(pixels, None), only(shade=0.05), MEAN, gen()) - pixels
    steps = (shaded[..., 1:] - shaded[..., :-1]).abs().amax(dim=(1, 2, 3))
    assert (steps <= 0.25 * (shaded.amax(dim=(1, 2, 3)) - shaded.amin(dim=(1, 2, 3))) + 1e-6).all(), "smooth"
    assert abs(float(shaded.mean())) < 0.005
    strengths = shaded.flatten(1).std(dim=1)
    assert strengths.max() < 0.11 and strengths.min() < 0.005 and strengths.max() > 0.04
    light, colour = shaded.mean(dim=1, keepdim=True), shaded - shaded.mean(dim=1, keepdim=True)
    assert 0 < colour.std() < 0.5 * light.std()
    noisy = (recolour(Crops(pixels, None), only(noise=0.1), MEAN, gen()) - pixels).flatten(1)
    levels = noisy.std(dim=1)
    assert 0 <= levels.min() < 0.005 and 0.095 < levels.max() < 0.105 and 0.04 < levels.mean() < 0.06
    assert (noisy[:, 1:] * noisy[:, :-1]).mean().abs() < 1e-4, "pixel by pixel"
