from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file

from mdp_core.api import Context, ImageRecord, Images, LabelMap, StageError
from mdp_mmengine.weights import load_published
from mdp_mmseg.deeplabv3 import DeepLabV3
from mdp_mmseg.settings import DeepLabV3Config
from mdp_probe import knn
from mdp_probe.knn import KnnProbe
from mdp_probe.settings import KnnConfig

spec = spec_from_file_location("probe_toy", Path(__file__).with_name("toy.py"))
assert spec is not None
assert spec.loader is not None
toy = module_from_spec(spec)
spec.loader.exec_module(toy)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    return toy.deeplab(tmp_path_factory.mktemp("segmenter"), clusters=4)


def _stage(**settings):
    listener = toy.Recorder()
    return KnnProbe(KnnConfig(**settings), Context(listener=listener)), listener


def _fit(root, segmenter, pictures, truth, **settings):
    folder, work = root / "probe", root / "work"
    folder.mkdir(parents=True, exist_ok=True)
    work.mkdir(exist_ok=True)
    stage, listener = _stage(**settings)
    stage.fit(pictures, truth, 3, segmenter, folder, work)
    return stage, folder, listener


def _literal_regions(segmenter, images):
    """(image, label) → mean feature of the region's pixels, one pixel after the other, and the segmenter's own prediction."""
    model, _ = load_published(segmenter, "cpu")
    seen = []
    model.decode_head.conv_seg.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    maps = list(DeepLabV3(DeepLabV3Config(arch="r18"), Context()).predict(segmenter, images))
    means = {}
    for i, image in enumerate(images):
        inputs = model.data_preprocessor({"inputs": [torch.from_numpy(image.transpose(2, 0, 1).copy())]}, False)["inputs"]
        with torch.no_grad():
            model(inputs, mode="tensor")
        large = F.interpolate(seen.pop(), size=image.shape[:2], mode="bilinear", align_corners=False)[0].numpy().astype(float)
        for label in np.unique(maps[i].values):
            if label:
                mean = large[:, maps[i].values == label].mean(1)
                means[i, int(label)] = mean / np.linalg.norm(mean)
    return means, maps


def test_equals_a_literal_retrieval(tmp_path, segmenter):
    images, truth = toy.data(5)
    others, _ = toy.data(3, first=40)
    stage, folder, listener = _fit(tmp_path, segmenter, images, truth, images={"batch": 2})
    memory = []
    means, maps = _literal_regions(segmenter, images)
    for (i, label), mean in means.items():
        classes = [int(c) for c in truth[i].values[maps[i].values == label]]
        memory.append((mean, max(sorted(set(classes)), key=classes.count)))
    assert len(memory) > 6
    stored = load_file(folder / "memory.safetensors")
    np.testing.assert_allclose(stored["means"], np.stack([mean for mean, _ in memory]), atol=1e-4)
    assert stored["classes"].tolist() == [name for _, name in memory]
    assert listener.notes["regions"].startswith(f"{len(memory)} ")
    means, maps = _literal_regions(segmenter, others)
    expected = [np.zeros_like(m.values) for m in maps]
    for (i, label), mean in means.items():
        expected[i][maps[i].values == label] = max(memory, key=lambda item: float(item[0] @ mean))[1]
    found = list(stage.predict(folder, segmenter, others))
    agreement = np.mean([(one.values == other).mean() for one, other in zip(found, expected, strict=True)])
    assert agreement > 0.999
    assert len({int(v) for one in found for v in np.unique(one.values)}) > 1
    assert all((one.values[m.values == 0] == 0).mean() > 0.999 for one, m in zip(found, maps, strict=True))


def test_sizes_other_features_and_votes(tmp_path, segmenter):
    images, truth = toy.data(4)
    sizes = [(40, 56), (33, 47), (56, 40)]
    photos = Images(
        [ImageRecord(str(i), *size) for i, size in enumerate(sizes)],
        lambda r: np.random.default_rng(int(r.id)).integers(0, 256, (r.height, r.width, 3), dtype=np.uint8),
    )
    for name, settings in {"tiny": {"features": "builtin:tiny"}, "square": {"images": {"size": 64}, "k": 5}}.items():
        stage, folder, _ = _fit(tmp_path / name, segmenter, images, truth, **settings)
        found = list(stage.predict(folder, segmenter, photos))
        assert [one.size for one in found] == sizes
        assert max(int(one.values.max()) for one in found) <= 2
    assert load_file(tmp_path / "tiny/probe/memory.safetensors")["means"].shape[1] == 128


def test_goes_on_where_it_stopped(tmp_path, segmenter, monkeypatch):
    monkeypatch.setattr(knn, "_CHUNK", 2)
    images, truth = toy.data(5)
    _fit(tmp_path / "straight", segmenter, images, truth)
    folder, work = tmp_path / "probe", tmp_path / "work"
    folder.mkdir()
    work.mkdir()
    read = []
    broken = Images(images.records, lambda record: read.append(record.id) or toy.scene(int(record.id))[0])
    stage = KnnProbe(KnnConfig(), Context(listener=toy.Recorder(stop=4)))
    with pytest.raises(KeyboardInterrupt):
        stage.fit(broken, truth, 3, segmenter, folder, work)
    assert set(read) == {"0", "1", "2", "3"}
    read.clear()
    stage, _ = _stage()
    stage.fit(broken, truth, 3, segmenter, folder, work)
    assert set(read) == {"4"}
    straight, resumed = (load_file(root / "probe/memory.safetensors") for root in (tmp_path / "straight", tmp_path))
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_unknown_truth_is_passed_over_and_mistakes_are_said(tmp_path, segmenter):
    images, truth = toy.data(3)
    unknown = LabelMap(np.full((64, 64), 255, np.uint8))
    for i, missing in enumerate((None, unknown)):
        _, folder, _ = _fit(tmp_path / f"some {i}", segmenter, images, [truth[0], missing, truth[2]])
        alone = _fit(tmp_path / f"alone {i}", segmenter, images.subset([0, 2]), [truth[0], truth[2]])[1]
        assert (folder / "memory.safetensors").read_bytes() == (alone / "memory.safetensors").read_bytes()
        with pytest.raises(StageError, match="none of the 3 training images has true classes"):
            _fit(tmp_path / f"none {i}", segmenter, images, [missing] * 3)
    with pytest.raises(StageError, match="none before it"):
        _fit(tmp_path / "a", None, images, truth)
    with pytest.raises(StageError, match="0: its ground truth is 8×9 px, the image 64×64"):
        _fit(tmp_path / "b", segmenter, images, [LabelMap.background(9, 8), *truth[1:]])
    with pytest.raises(StageError, match=r"holds class 7, but there are 3"):
        _fit(tmp_path / "c", segmenter, images, [LabelMap(np.full((64, 64), 7, np.uint8)), *truth[1:]])


def test_a_segmenter_that_sees_background_alone_leaves_no_regions(tmp_path):
    from safetensors.torch import save_file

    folder = toy.deeplab(tmp_path / "model")
    state = load_file(folder / "model.safetensors")
    state["decode_head.conv_seg.bias"] = torch.tensor([1e6, 0, 0, 0])
    save_file(state, folder / "model.safetensors")
    images, truth = toy.data(2)
    with pytest.raises(StageError, match="nothing but background"):
        _fit(tmp_path, folder, images, truth)
