import os
from collections import OrderedDict
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from mdp_core.api import Silence, WeightsError
from mdp_mmengine.weights import load_resnet, load_strictly


class Notes(Silence):
    def __init__(self) -> None:
        self.notes: dict[str, str] = {}

    def note(self, name: str, value: str) -> None:
        self.notes[name] = value


@pytest.fixture
def resnet18() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return timm.create_model("resnet18", pretrained=False).state_dict()


def mm_resnet(depth: int = 18, stages: int = 4) -> nn.Module:
    from mmseg.models.backbones import ResNet  # needs no compiled operators

    return ResNet(
        depth=depth, num_stages=stages, strides=(1, 2, 2, 2)[:stages], dilations=(1,) * stages, out_indices=(stages - 1,)
    )


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_timm_keys_load_into_mm_resnet(tmp_path: Path, resnet18, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": resnet18}, path)
    else:
        save_file(resnet18, path)
    model, notes = mm_resnet(), Notes()
    model.eval()
    load_resnet({"": model}, f"file:{path}", notes)
    reference = timm.create_model("resnet18", pretrained=False)
    reference.load_state_dict(resnet18)
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(model(image)[0], reference.eval().forward_features(image))
    assert "sha256:" in notes.notes["backbone weights"]


@pytest.mark.parametrize("prefix", ["module.encoder_q.", "module.base_encoder."])
def test_moco_prefixes(tmp_path: Path, resnet18, prefix: str) -> None:
    content = OrderedDict((prefix + key, value) for key, value in resnet18.items() if not key.startswith("fc."))
    content[prefix + "fc.0.weight"] = torch.zeros(8, 8)
    content["module.encoder_k.conv1.weight"] = torch.zeros(1)
    content["module.queue"] = torch.zeros(2)
    torch.save({"epoch": 1, "state_dict": content}, tmp_path / "moco.pth")
    model = mm_resnet()
    load_resnet({"": model}, f"file:{tmp_path / 'moco.pth'}", Silence())
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in resnet18.items() if not key.startswith("fc."))


def test_c4_splits_the_resnet(tmp_path: Path, resnet18) -> None:
    save_file(resnet18, tmp_path / "w.safetensors")
    trunk, head = mm_resnet(stages=3), mm_resnet().layer4
    load_resnet({"": trunk, "layer4.": head}, f"file:{tmp_path / 'w.safetensors'}", Silence())
    assert torch.equal(head.state_dict()["1.conv2.weight"], resnet18["layer4.1.conv2.weight"])
    assert torch.equal(trunk.state_dict()["layer3.0.conv1.weight"], resnet18["layer3.0.conv1.weight"])


def test_another_depth_is_refused(tmp_path: Path, resnet18) -> None:
    save_file(resnet18, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"missing \(.*misshapen"):
        load_resnet({"": mm_resnet(50)}, f"file:{tmp_path / 'w.safetensors'}", Silence())


def test_one_missing_key_is_refused(tmp_path: Path, resnet18) -> None:
    del resnet18["layer2.0.bn1.running_var"]
    save_file(resnet18, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"1 missing \(layer2.0.bn1.running_var\)"):
        load_resnet({"": mm_resnet()}, f"file:{tmp_path / 'w.safetensors'}", Silence())


def test_damaged_files_and_pickles_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"not a checkpoint")
    (tmp_path / "b.safetensors").write_bytes(b"not a checkpoint")
    torch.save({"state_dict": os.system}, tmp_path / "c.pth")  # an arbitrary object: weights_only refuses it
    for name in ("a.pth", "b.safetensors", "c.pth"):
        with pytest.raises(WeightsError, match="cannot be read as weights"):
            load_resnet({"": mm_resnet()}, f"file:{tmp_path / name}", Silence())


def test_none_changes_nothing() -> None:
    model = mm_resnet()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    load_resnet({"": model}, "none", Silence())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_missing_timm_weights_say_what_to_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    with pytest.raises(WeightsError, match="not on this machine") as caught:
        load_resnet({"": mm_resnet()}, "timm:resnet18.fb_swsl_ig1b_ft_in1k", Silence())
    assert "huggingface.co/timm/resnet18.fb_swsl_ig1b_ft_in1k" in str(caught.value)
    assert "file:PATH" in str(caught.value)


def test_unknown_timm_model() -> None:
    with pytest.raises(WeightsError, match="knows no such model"):
        load_resnet({"": mm_resnet()}, "timm:resnet_of_dreams", Silence())


def test_strict_loading_names_all_three_kinds() -> None:
    module = nn.Linear(2, 3)
    with pytest.raises(
        WeightsError, match=r"here does not fit.*1 missing \(bias\); 1 unexpected \(other\); 1 misshapen \(weight"
    ):
        load_strictly(module, {"weight": torch.zeros(3, 3), "other": torch.zeros(1)}, where="here")
