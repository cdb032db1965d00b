import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from mdp_backbones.checkpoint import Card, read_checkpoint, save_backbone
from mdp_backbones.preprocess import HALF, IMAGENET, to_input
from mdp_backbones.vit import VitReader
from mdp_backbones.weights import load_vit
from mdp_core.api import BACKBONE, Context, StageError, WeightsError
from mdp_mmengine.launch import Place
from mdp_pretrain.bank import ImageBank
from mdp_pretrain.build import build_network
from mdp_pretrain.curve import smooth
from mdp_pretrain.log import LOG_NAME
from mdp_pretrain.trainer import Trainer

SIZE = 32


def pixels(count: int = 2, size: int = SIZE, normalisation=IMAGENET) -> torch.Tensor:
    rng = np.random.default_rng(0)
    made = [rng.integers(0, 256, (size, size, 3)).astype(np.uint8) for _ in range(count)]
    return to_input(made, torch.device("cpu"), normalisation)


def saved(path: Path, arch: str, size: int, **settings) -> torch.nn.Module:
    """Writes random weights of an architecture with a card."""
    torch.manual_seed(9)
    model = timm.create_model(arch, num_classes=0, dynamic_img_size=True, img_size=size, **settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    save_backbone(path, model.state_dict(), Card(arch=arch, arch_settings={"img_size": size, **settings}))
    return model


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One training with two images a batch and whole images for the statistics, and the folder of its work."""
    return small.fit(tmp_path_factory.mktemp("trained"), small.settings())


def test_it_leaves_the_weights_with_a_card_the_log_and_the_curve(small, trained: Path) -> None:
    assert sorted(path.name for path in trained.iterdir()) == sorted([BACKBONE, LOG_NAME, "curve.png"])
    card = read_checkpoint(trained / BACKBONE).card
    assert card is not None
    assert card.arch == "mdp_vit_tiny" and card.arch_settings == {"img_size": 32}
    assert (card.mean, card.std) == (IMAGENET.mean, IMAGENET.std)
    assert "6 iterations of 4 images, 10 images" in card.description and "seed 3" in card.trained_by
    points = [json.loads(line) for line in (trained / LOG_NAME).open()]
    assert [point["iteration"] for point in points] == list(range(1, 7))
    assert all(np.isfinite(value) for point in points for value in point.values())
    assert points[0]["loss"] == pytest.approx(points[0]["class_loss"] + points[0]["patch_loss"])
    with Image.open(trained / "curve.png") as image:
        image.load()
        assert image.format == "PNG" and image.width > 500 and len(set(image.convert("RGB").getdata())) > 10


def test_the_weights_give_the_teachers_features(small, trained: Path) -> None:
    config = small.settings()
    images, instances = small.scenes(10)
    bank = ImageBank(images, instances, side=32, memory=1, workers=1, context=Context())
    trainer = Trainer(config, bank, Context(3), Place(0, 1, torch.device("cpu")), trained.parent / "work")
    assert trainer.iteration == 6
    teacher = trainer.distillation.teacher.eval()
    measured = trainer.backbone().state_dict()
    teacher.backbone.load_state_dict(measured)
    recorder = small.Recorder()
    loaded = load_vit(f"file:{trained / BACKBONE}", Context(0, "cpu", recorder))
    assert loaded.reader.normalisation == IMAGENET
    for size in (32, 48):
        expected = teacher.tokens(pixels(size=size))[0]
        # timm resamples positions with antialiasing, the reader as DINO was published
        assert (loaded.reader.embed(pixels(size=size)) - expected).abs().max() < (1e-5 if size == 32 else 0.1)
    assert "untrained" not in recorder.notes["weights"]


# --- weights to start from


def features_of(small, ref: str, arch: str, size: int = SIZE) -> tuple[torch.Tensor, VitReader]:
    config = small.settings(arch=arch, init=ref, views={"size": size, "local_size": 16})
    network, normalisation = build_network(config, Context())
    assert network.backbone.training and all(p.requires_grad for p in network.backbone.parameters())
    reader = VitReader(network.backbone.eval(), normalisation)
    return reader.embed(pixels(size=size, normalisation=normalisation)), reader


def test_a_training_starts_from_the_weights_of_another(small, trained: Path, tmp_path: Path) -> None:
    ref = f"file:{trained / BACKBONE}"
    expected = load_vit(ref, Context()).reader.embed(pixels())
    assert torch.allclose(features_of(small, ref, "mdp_vit_tiny")[0], expected, atol=1e-5)
    config = small.settings(init=ref, train={"iters": 1, "lr": 1e-9, "ema": (1.0, 1.0)})
    recorder = small.Recorder()
    folder = small.fit(tmp_path, config, listener=recorder)
    assert "file:" in recorder.notes["weights"]
    state, before = load_file(folder / BACKBONE), load_file(trained / BACKBONE)
    assert all(torch.equal(state[name], before[name]) for name in state if "running" not in name and "num_batches" not in name)


def test_positions_are_resampled_to_the_large_views(small, tmp_path: Path) -> None:
    saved(tmp_path / "a.safetensors", "vit_tiny_patch16_224", 64, depth=2)
    saved(tmp_path / "b.safetensors", "mdp_vit_tiny", 64)
    ref = f"file:{tmp_path / 'b.safetensors'}"
    found, reader = features_of(small, ref, "mdp_vit_tiny", 32)
    assert reader.model.pos_embed.shape[1] == 17
    assert torch.allclose(found, load_vit(ref, Context()).reader.embed(pixels(size=32)), atol=1e-4)
    config = small.settings(init=ref, train={"iters": 1})
    folder = small.fit(tmp_path / "fit", config)
    assert load_vit(f"file:{folder / BACKBONE}", Context()).reader.model.pos_embed.shape[1] == 17


def test_weights_without_a_card_are_of_the_architecture_named(small, tmp_path: Path) -> None:
    model = saved(tmp_path / "with.safetensors", "vit_tiny_patch16_224", SIZE)
    torch.save(model.state_dict(), tmp_path / "plain.pth")
    from safetensors.torch import save_file

    save_file(model.state_dict(), tmp_path / "plain.safetensors")
    expected = VitReader(model).embed(pixels())
    for name in ("with.safetensors", "plain.pth", "plain.safetensors"):
        found, _ = features_of(small, f"file:{tmp_path / name}", "vit_tiny_patch16_224")
        assert torch.allclose(found, expected, atol=1e-5), name


@pytest.mark.parametrize("card", [True, False])
def test_weights_of_another_network_than_arch(small, tmp_path: Path, card: bool) -> None:
    model = saved(tmp_path / "a.safetensors", "vit_tiny_patch16_224", SIZE)
    path = tmp_path / "a.safetensors"
    if not card:
        path = tmp_path / "a.pth"
        torch.save(model.state_dict(), path)
    with pytest.raises(WeightsError) as error:
        features_of(small, f"file:{path}", "mdp_vit_tiny")
    assert "mdp_vit_tiny" in error.value.message
    assert "vit_tiny_patch16_224" in str(error.value.hint)


def test_weights_that_fit_but_compute_something_else(small, tmp_path: Path) -> None:
    """MoCo-v3's ViT-S has the tensors of DINO's, but 12 heads."""
    saved(tmp_path / "a.safetensors", "vit_tiny_patch16_224", SIZE, num_heads=6)
    with pytest.raises(WeightsError, match="computes something else") as error:
        features_of(small, f"file:{tmp_path / 'a.safetensors'}", "vit_tiny_patch16_224")
    assert "vit_tiny_patch16_224" in str(error.value.hint)


def test_the_normalisation_of_the_weights_is_kept(small, tmp_path: Path) -> None:
    model = saved(tmp_path / "imagenet.safetensors", "mdp_vit_tiny", SIZE)
    card = Card(arch="mdp_vit_tiny", arch_settings={"img_size": SIZE}, mean=HALF.mean, std=HALF.std)
    save_backbone(tmp_path / "half.safetensors", model.state_dict(), card)
    config = small.settings(init=f"file:{tmp_path / 'half.safetensors'}", train={"iters": 1})
    folder = small.fit(tmp_path / "fit", config)
    found = read_checkpoint(folder / BACKBONE).card
    assert found is not None and (found.mean, found.std) == (HALF.mean, HALF.std)


def test_builtin_weights_of_no_architecture_cannot_be_trained_on(small) -> None:
    with pytest.raises(WeightsError, match="builtin:random"):
        features_of(small, "builtin:random", "mdp_vit_tiny")


# --- images and masks


def test_without_masks_and_without_images(small, tmp_path: Path) -> None:
    images, instances = small.scenes(4)
    from mdp_pretrain.pretrainer import Dino

    for name, masks in (("with", instances), ("without", None)):
        for made in (tmp_path / name / "result", tmp_path / name / "work"):
            made.mkdir(parents=True)
        config = small.settings(train={"iters": 1}, views={"objects": {"share": 1.0}})
        Dino(config, Context(3)).fit(images, masks, tmp_path / name / "result", tmp_path / name / "work")
    one, other = (load_file(tmp_path / name / "result" / BACKBONE) for name in ("with", "without"))
    assert any(not torch.equal(one[name], other[name]) for name in one), "the masks had a part in it"
    with pytest.raises(StageError, match="no images"):
        small.fit(tmp_path / "none", small.settings(), images=images.subset([]), instances=[])


def test_one_image_is_enough(small, tmp_path: Path) -> None:
    images, instances = small.scenes(1)
    folder = small.fit(tmp_path, small.settings(train={"iters": 1, "batch": 2}), images=images, instances=instances)
    assert all(torch.isfinite(value.float()).all() for value in load_file(folder / BACKBONE).values())


def test_the_curve_is_smoothed_by_a_running_mean() -> None:
    values = np.random.default_rng(0).random(20)
    literal = [values[max(0, i - 4) : i + 1].mean() for i in range(20)]
    assert np.allclose(smooth(values, 5), literal)
