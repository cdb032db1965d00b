import os
import runpy
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from mdp_backbones.checkpoint import Card, save_backbone
from mdp_core.api import Silence, WeightsError, file_sha256
from mdp_mmengine.weights import load_resnet, load_strictly

checkpoints = runpy.run_path(str(Path(__file__).parents[1] / "mdp_backbones" / "resnet_checkpoints.py"))["resnet_checkpoints"]
LAYOUTS = list(checkpoints({"fc.weight": torch.zeros(1, 1)}))


class Notes(Silence):
    def __init__(self) -> None:
        self.notes: dict[str, str] = {}
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)

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
    assert notes.notes["backbone weights"] == f"file:{path} sha256:{file_sha256(path)}"
    assert not notes.warnings


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_published_layout(tmp_path: Path, resnet18, layout: str) -> None:
    content, _ = checkpoints(resnet18)[layout]
    torch.save(content, tmp_path / "checkpoint.pth.tar")
    model, notes = mm_resnet(), Notes()
    load_resnet({"": model}, f"file:{tmp_path / 'checkpoint.pth.tar'}", notes)
    state = model.state_dict()
    wanted = {key: value for key, value in resnet18.items() if not key.startswith("fc.")}
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[key], value) for key, value in wanted.items())
    assert not notes.warnings  # SwAV's normalisation is near enough


def test_unknown_tensors_are_named(tmp_path: Path, resnet18) -> None:
    content, _ = checkpoints(resnet18)["MoCo v2"]
    content["state_dict"]["module.decoder.weight"] = torch.zeros(1)
    torch.save(content, tmp_path / "moco.pth")
    with pytest.raises(WeightsError, match=r"decoder\.weight are neither of the ResNet"):
        load_resnet({"": mm_resnet()}, f"file:{tmp_path / 'moco.pth'}", Silence())


def test_a_card_tells_normalisation_and_architecture(tmp_path: Path, resnet18) -> None:
    body = {key: value for key, value in resnet18.items() if not key.startswith("fc.")}
    half, blur = tmp_path / "half.safetensors", tmp_path / "blur.safetensors"
    save_backbone(half, body, Card(arch="resnet18", mean=(0.5,) * 3, std=(0.5,) * 3))
    save_backbone(blur, body, Card(arch="resnetblur18"))  # the same tensors, another network
    notes = Notes()
    load_resnet({"": mm_resnet()}, f"file:{half}", notes)
    assert "mean (0.5, 0.5, 0.5)" in notes.warnings[0]
    with pytest.raises(WeightsError, match="resnetblur18, not a plain ResNet"):
        load_resnet({"": mm_resnet()}, f"file:{blur}", Silence())


def test_a_hash_that_does_not_hold(tmp_path: Path, resnet18) -> None:
    path = tmp_path / "w.safetensors"
    save_file(resnet18, path)
    load_resnet({"": mm_resnet()}, f"file:{path}#sha256={file_sha256(path)}", Silence())
    with pytest.raises(WeightsError, match="sha256"):
        load_resnet({"": mm_resnet()}, f"file:{path}#sha256={'0' * 64}", Silence())


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
    for name, message in (
        ("a.pth", "cannot be read"),
        ("b.safetensors", "cannot be read"),
        ("c.pth", "refused"),
        ("d.pth", "no such"),
    ):
        with pytest.raises(WeightsError, match=rf"{name}: .*{message}"):
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
    with pytest.raises(WeightsError, match="cannot be downloaded") as caught:
        load_resnet({"": mm_resnet()}, "timm:resnet18.fb_swsl_ig1b_ft_in1k", Silence())
    assert "huggingface.co/timm/resnet18.fb_swsl_ig1b_ft_in1k" in str(caught.value)
    assert "file:PATH" in str(caught.value)


def test_timm_weights_come_from_the_hubs_cache(tmp_path: Path, resnet18, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache as the hub's client makes it, prepared on a machine with a network and copied."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    commit = "0" * 40
    for name in ("resnet18.fb_swsl_ig1b_ft_in1k", "resnet18d.ra4_e3600_r224_in1k"):
        folder = tmp_path / f"models--timm--{name}"
        (folder / "snapshots" / commit).mkdir(parents=True)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(commit)
        save_file(resnet18, folder / "snapshots" / commit / "model.safetensors")
    model, notes = mm_resnet(), Notes()
    load_resnet({"": model}, "timm:resnet18.fb_swsl_ig1b_ft_in1k", notes)
    assert torch.equal(model.state_dict()["conv1.weight"], resnet18["conv1.weight"])
    assert "sha256:" in notes.notes["backbone weights"]
    with pytest.raises(WeightsError, match="not a plain ResNet"):
        load_resnet({"": mm_resnet()}, "timm:resnet18d.ra4_e3600_r224_in1k", notes)


def test_unknown_timm_model() -> None:
    with pytest.raises(WeightsError, match="timm has no weights resnet_of_dreams"):
        load_resnet({"": mm_resnet()}, "timm:resnet_of_dreams", Silence())


def test_strict_loading_names_all_three_kinds() -> None:
    module = nn.Linear(2, 3)
    with pytest.raises(
        WeightsError, match=r"here does not fit.*1 missing \(bias\); 1 unexpected \(other\); 1 misshapen \(weight"
    ):
        load_strictly(module, {"weight": torch.zeros(3, 3), "other": torch.zeros(1)}, where="here")
