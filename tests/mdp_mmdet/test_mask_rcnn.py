from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from mdp_core.api import Context, ImageRecord, Images, Instances, Silence, StageError, WeightsError
from mdp_mmdet.configs import model_config
from mdp_mmdet.mask_rcnn import MaskRCNN, _groups
from mdp_mmdet.samples import TrainingSamples
from mdp_mmdet.settings import FitSettings, MaskRCNNConfig, PredictSettings
from mdp_mmengine.models import build_model

SIZE = 96
COLOURS = ((230, 40, 40), (40, 40, 230))


def scene(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, Instances]:
    pixels = rng.integers(100, 120, (height, width, 3)).astype(np.uint8)
    masks, labels = [], []
    for half in range(2):
        h, w = rng.integers(28, 42, 2)
        y, x = rng.integers(0, height - h), half * width // 2 + rng.integers(0, max(1, width // 2 - w))
        mask = np.zeros((height, width), bool)
        mask[y : y + h, x : x + w] = True
        labels.append(int(rng.integers(2)))
        pixels[mask] = COLOURS[labels[-1]]
        masks.append(mask)
    return pixels, Instances.from_masks(np.array(masks), labels=labels)


def scenes(count: int, *, sizes: tuple[tuple[int, int], ...] = ((SIZE, SIZE),)) -> tuple[Images, list[Instances]]:
    rng = np.random.default_rng(0)
    made = [scene(rng, *sizes[i % len(sizes)]) for i in range(count)]
    records = [ImageRecord(str(i), *pixels.shape[:2]) for i, (pixels, _) in enumerate(made)]
    return Images(records, lambda record: made[int(record.id)][0]), [instances for _, instances in made]


def small(**changes) -> MaskRCNNConfig:
    fit = {
        "iters": 6,
        "batch": 2,
        "lr": 0.01,
        "warmup": 4,
        "train_sides": (64, SIZE),
        "rpn_samples": 32,
        "rcnn_samples": 16,
        "proposals": 50,
        "workers": 0,
        "checkpoint_every": 3,
    } | changes
    predict = PredictSettings(side=SIZE, proposals=50, max_per_image=20)
    return MaskRCNNConfig(arch="r18-fpn", anchor_scale=4, fpn_channels=32, fit=FitSettings(**fit), predict=predict)


class Recorder(Silence):
    def __init__(self, stop: int | None = None) -> None:
        self.losses: list[float] = []
        self.notes: dict[str, str] = {}
        self.stop = stop

    def progress(self, done, total, metrics) -> None:
        if "loss" in metrics:
            self.losses.append(metrics["loss"])
            if done == self.stop:
                raise KeyboardInterrupt

    def note(self, name: str, value: str) -> None:
        self.notes[name] = value


def folders(root: Path, name: str) -> tuple[Path, Path]:
    made = root / name / "model", root / name / "work"
    for folder in made:
        folder.mkdir(parents=True)
    return made


def test_resumed_training_is_bit_exact(tmp_path: Path) -> None:
    images, instances = scenes(5)
    folder, work = folders(tmp_path, "undisturbed")
    MaskRCNN(small(), Context(seed=3)).fit(images, instances, 2, folder, work)
    undisturbed = load_file(folder / "model.safetensors")
    folder, work = folders(tmp_path, "stopped")
    with pytest.raises(KeyboardInterrupt):
        MaskRCNN(small(), Context(seed=3, listener=Recorder(4))).fit(images, instances, 2, folder, work)
    MaskRCNN(small(workers=2), Context(seed=3)).fit(images, instances, 2, folder, work)
    resumed = load_file(folder / "model.safetensors")
    assert undisturbed.keys() == resumed.keys()
    different = [name for name in resumed if not torch.equal(undisturbed[name], resumed[name])]
    assert not different
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors", "training.jsonl"]


@pytest.mark.slow
def test_it_learns_rectangles(tmp_path: Path) -> None:
    """A few dozen iterations make the loss fall, and what is found lies on the rectangles."""
    images, instances = scenes(8)
    folder, work = folders(tmp_path, "a")
    listener = Recorder()
    detector = MaskRCNN(
        small(iters=50, batch=4, lr=0.02, train_sides=(SIZE,), rcnn_samples=32), Context(seed=1, listener=listener)
    )
    detector.fit(images, instances, 2, folder, work)
    assert np.mean(listener.losses[-10:]) < 0.85 * np.mean(listener.losses[:4])
    overlaps = []
    for found, truth in zip(detector.predict(folder, images), instances, strict=True):
        objects = truth.to_masks().any(axis=0)
        assert len(found) > 0
        mask = found.mask(0)
        overlaps.append((mask & objects).sum() / mask.sum())
    background_share = np.mean([truth.to_masks().any(axis=0).mean() for truth in instances])
    assert np.mean(overlaps) > background_share + 0.25


def test_predictions_keep_the_contract(tmp_path: Path) -> None:
    sizes = ((70, 110), (SIZE, SIZE), (131, 67))
    images, instances = scenes(4, sizes=((SIZE, SIZE),))
    folder, work = folders(tmp_path, "a")
    MaskRCNN(small(iters=3), Context(seed=1)).fit(images, instances, 2, folder, work)
    others, _ = scenes(7, sizes=sizes)
    config = small().model_copy(update={"predict": PredictSettings(side=SIZE, proposals=50, max_per_image=20, batch=3)})
    found = list(MaskRCNN(config, Context()).predict(folder, others))
    assert [of_image.size for of_image in found] == [sizes[i % 3] for i in range(7)]
    for of_image in found:
        height, width = of_image.size
        assert 0 < len(of_image) <= 20
        assert (np.diff(of_image.scores) <= 0).all()
        assert of_image.scores.min() >= 0.05
        assert of_image.scores.max() <= 1
        assert of_image.scores.dtype == np.float32
        assert set(of_image.labels.tolist()) <= {0, 1}
        assert (of_image.areas() > 0).all()
        assert (of_image.boxes[:, :2] < of_image.boxes[:, 2:]).all()
        assert (of_image.boxes >= 0).all()
        assert (of_image.boxes <= [width, height, width, height]).all()
    one_by_one = small().model_copy(update={"predict": PredictSettings(side=SIZE, proposals=50, max_per_image=20, batch=1)})
    for together, alone in zip(found, MaskRCNN(one_by_one, Context()).predict(folder, others), strict=True):
        assert len(together) == len(alone)
        np.testing.assert_allclose(together.scores, alone.scores, atol=1e-4)


def test_an_image_whose_instances_vanish_can_be_trained_on() -> None:
    masks = np.zeros((1, 400, 400), bool)
    masks[0, 7:10, 7:10] = True
    images = Images([ImageRecord("a", 400, 400)], lambda _: np.full((400, 400, 3), 90, np.uint8))
    config = small(train_sides=(32,))
    data = TrainingSamples(images, [Instances.from_masks(masks, labels=[0])], [0], config.fit).load(0)
    model = build_model(model_config(config, 2), "mmdet", initialise=True)
    model.train()
    assert all(np.isfinite(float(value)) for value in losses(model, [data, data]).values())


def losses(model, samples) -> dict[str, torch.Tensor]:
    batch = {name: [sample[name] for sample in samples] for name in samples[0]}
    total, parsed = model.parse_losses(model._run_forward(model.data_preprocessor(batch, True), mode="loss"))
    total.backward()
    return {name: value.detach() for name, value in parsed.items()}


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["r50-c4", "r50-fpn"])
def test_large_networks_make_a_step(arch: str) -> None:
    images, instances = scenes(2, sizes=((64, 64),))
    config = small(train_sides=(64,)).model_copy(update={"arch": arch, "anchor_scale": 2.0})
    model = build_model(model_config(config, 3), "mmdet", initialise=True)
    model.train()
    samples = TrainingSamples(images, instances, range(2), config.fit)
    parsed = losses(model, [samples.load(0), samples.load(1)])
    assert {"loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox", "loss_mask", "loss"} <= parsed.keys()
    assert all(np.isfinite(float(value)) for value in parsed.values())
    stuck = [name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]
    assert not stuck
    if arch == "r50-c4":
        head = model.roi_head.shared_head
        assert head.norm.num_features == 2048
        assert head.layer4[0].conv2.stride == (2, 2)
        assert model.test_cfg.rpn.nms_pre == 6000


def test_initial_weights_and_frozen_stages(tmp_path: Path) -> None:
    torch.manual_seed(5)
    state = timm.create_model("resnet18", pretrained=False).state_dict()
    state["layer1.0.bn1.running_mean"] += 0.3
    save_file(state, tmp_path / "r18.safetensors")
    images, instances = scenes(3)
    folder, work = folders(tmp_path, "a")
    listener = Recorder()
    config = small(iters=2, warmup=0, init=f"file:{tmp_path / 'r18.safetensors'}")
    MaskRCNN(config, Context(seed=1, listener=listener)).fit(images, instances, 2, folder, work)
    trained = load_file(folder / "model.safetensors")
    for name, value in state.items():
        if name.startswith("fc."):
            continue
        if name.startswith(("conv1.", "bn1.", "layer1.")):
            assert torch.equal(trained[f"backbone.{name}"], value), name
    assert not torch.equal(trained["backbone.layer4.1.conv2.weight"], state["layer4.1.conv2.weight"])
    assert "sha256:" in listener.notes["backbone weights"]


def test_nothing_to_learn_from(tmp_path: Path) -> None:
    images, instances = scenes(2)
    folder, work = folders(tmp_path, "a")
    with pytest.raises(StageError, match="none of the 2 training images"):
        MaskRCNN(small(), Context()).fit(images, [Instances.empty(SIZE, SIZE)] * 2, 2, folder, work)
    with pytest.raises(StageError, match="label"):
        MaskRCNN(small(), Context()).fit(images, [i.with_labels([0, 5]) for i in instances], 2, folder, work)


def test_overrides_reach_the_model_or_are_refused() -> None:
    config = small(mm_overrides={"roi_head": {"mask_head": {"num_convs": 1}}})
    assert model_config(config, 2)["roi_head"]["mask_head"]["num_convs"] == 1
    assert model_config(config, 2)["roi_head"]["mask_head"]["num_classes"] == 2
    with pytest.raises(StageError, match="mmdet cannot build the model"):
        build_model(model_config(small(mm_overrides={"neck": {"type": "NoSuchNeck"}}), 2), "mmdet")


def test_folder_that_is_no_model(tmp_path: Path) -> None:
    images, _ = scenes(1)
    with pytest.raises(WeightsError, match=r"no model\.safetensors"):
        next(MaskRCNN(small(), Context()).predict(tmp_path, images))


def test_groups_are_of_equal_padded_size() -> None:
    shapes = [(3, 60, 90), (3, 64, 96), (3, 65, 96), (3, 33, 70), (3, 64, 65)]
    assert list(_groups(shapes, 2)) == [[0, 1], [3, 4], [2]]


def test_boxes_are_not_rounded_under_mixed_precision() -> None:
    from mdp_mmdet.mmdet_parts import ExactRoIExtractor

    layer = {"type": "RoIAlign", "output_size": 4, "sampling_ratio": 2}
    extractor = ExactRoIExtractor(roi_layer=layer, out_channels=1, featmap_strides=[8])
    ramp = torch.arange(100.0).expand(1, 1, 100, 100)
    rois = torch.tensor([[0, 401.3, 403.7, 497.1, 505.9]])
    pooled = extractor((ramp.bfloat16(),), rois)
    centres = 401.3 + (497.1 - 401.3) / 4 * (torch.arange(4) + 0.5)
    torch.testing.assert_close(pooled[0, 0, 0], centres / 8 - 0.5, atol=1e-3, rtol=0)


def test_precise_bn_changes_the_statistics_of_trained_layers_alone(tmp_path):
    torch.manual_seed(0)
    torch.save(timm.create_model("resnet18", pretrained=False).state_dict(), tmp_path / "r18.pth")
    images, instances = scenes(4)
    states = []
    for batches in (0, 2):
        folder, work = folders(tmp_path, f"bn {batches}")
        recorder = Recorder()
        settings = small(iters=2, precise_bn=batches, init=f"file:{tmp_path / 'r18.pth'}", frozen_stages=2)
        MaskRCNN(settings, Context(seed=1, listener=recorder)).fit(images, instances, 2, folder, work)
        states.append(load_file(folder / "model.safetensors"))
        assert ("precise batch norm" in recorder.notes) == bool(batches)
    plain, precise = states
    changed = {name for name, value in plain.items() if not torch.equal(value, precise[name])}
    statistics = {name for name in plain if name.endswith(("running_mean", "running_var"))}
    frozen = {name for name in statistics if name.startswith(("backbone.bn1.", "backbone.layer1.", "backbone.layer2."))}
    assert frozen
    assert changed == statistics - frozen
