"""Files of weights: what is read, what is refused, and cards."""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import save_file

from mdp_backbones.checkpoint import Card, read_checkpoint, save_backbone
from mdp_backbones.preprocess import Normalisation
from mdp_core.api import WeightsError

STATE = {"a.weight": torch.linspace(-1, 1, 6).reshape(2, 3), "a.count": torch.tensor(7)}


class Payload:
    """A pickle that would create a file when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return (os.system, (f"touch '{self.target}'",))


@pytest.mark.parametrize(
    ("save", "words"),
    [
        (torch.save, r"holds more than tensors: it would run (posix\.|os\.)?system.* refused"),
        (lambda content, path: path.write_bytes(pickle.dumps(content, 2)), r"holds more than tensors: it would run .* refused"),
        (
            lambda content, path: path.write_bytes(pickle.dumps(content)),
            r"cannot be read as a checkpoint .*not a file that torch\.save writes.*refused",
        ),
    ],
    ids=["torch", "pickle 2", "pickle"],
)
def test_a_pickle_with_code_is_refused_and_its_code_is_not_run(tmp_path: Path, save: Callable[..., object], words: str) -> None:
    target, path = tmp_path / "owned", tmp_path / "evil.pth"
    save({"weight": torch.zeros(2), "payload": Payload(target)}, path)
    with pytest.raises(WeightsError, match=r"evil\.pth: " + words) as caught:
        read_checkpoint(path)
    assert "safetensors" in str(caught.value.hint)
    assert not target.exists()
    with path.open("rb") as file:
        (torch.load if save is torch.save else pickle.load)(file, **({"weights_only": False} if save is torch.save else {}))
    assert target.exists(), "the payload is a real one"


def test_a_training_checkpoint_with_its_options_is_read(tmp_path: Path) -> None:
    content = {"teacher": STATE, "args": argparse.Namespace(arch="vit_small", lr=0.1), "epoch": 3, "optimizer": {"state": {}}}
    torch.save(content, tmp_path / "dino.pth")
    read = read_checkpoint(tmp_path / "dino.pth")
    assert torch.equal(read.content["teacher"]["a.weight"], STATE["a.weight"])
    assert read.content["args"].arch == "vit_small"
    assert read.metadata == {}
    assert read.card is None


def test_safetensors_with_metadata_whatever_the_suffix(tmp_path: Path) -> None:
    for name in ("a.safetensors", "a.pth"):
        save_file(STATE, tmp_path / name, metadata={"format": "pt", "by": "hand"})
        read = read_checkpoint(tmp_path / name)
        assert read.content.keys() == STATE.keys()
        assert all(torch.equal(read.content[key], STATE[key]) for key in STATE)
        assert read.metadata["by"] == "hand"


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_backbone_with_its_card(tmp_path: Path, dtype: torch.dtype) -> None:
    card = Card(
        arch="vit_tiny_patch16_224", arch_settings={"img_size": 96}, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7),
        licence="CC0", description="Nothing.", trained_by="mdp pretrain nothing",
    )  # fmt: skip
    path = tmp_path / "own.safetensors"
    save_backbone(path, STATE, card, dtype)
    read = read_checkpoint(path)
    assert read.card == card
    assert card.normalisation == Normalisation((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    assert read.content["a.weight"].dtype == dtype
    assert torch.equal(read.content["a.weight"], STATE["a.weight"].to(dtype))
    assert read.content["a.count"] == 7
    with safe_open(path, framework="pt") as file:
        assert list(file.metadata()) == ["mdp_card"]
    again = tmp_path / "again.safetensors"
    save_backbone(again, dict(reversed(STATE.items())), card, dtype)
    assert again.read_bytes() == path.read_bytes()


def test_values_that_the_type_cannot_hold_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"a has values that are not finite as torch\.float16"):
        save_backbone(tmp_path / "a.safetensors", {"a": torch.tensor([1e5])}, Card(arch="x"), torch.float16)
    save_backbone(tmp_path / "a.safetensors", {"a": torch.tensor([1e5])}, Card(arch="x"))
    with pytest.raises(WeightsError, match=r"\.safetensors"):
        save_backbone(tmp_path / "a.pth", STATE, Card(arch="x"))


@pytest.mark.parametrize("name", ["pretrained", "pretrained_cfg_overlay", "checkpoint_path", "features_only", "cache_dir"])
def test_a_card_cannot_have_timm_read_or_fetch_anything(name: str) -> None:
    with pytest.raises(ValidationError, match="no setting of an architecture"):
        Card(arch="vit_tiny_patch16_224", arch_settings={name: "x"})


@pytest.mark.parametrize("text", ["{", '{"arch": ""}', '{"format": 2, "arch": "x"}', '{"arch": "x", "colour": 1}', "[]"])
def test_a_damaged_card(tmp_path: Path, text: str) -> None:
    save_file(STATE, tmp_path / "a.safetensors", metadata={"mdp_card": text})
    with pytest.raises(WeightsError, match=r"a\.safetensors: its card is not one that this mdp reads"):
        read_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_truncated_files(tmp_path: Path, suffix: str, share: float) -> None:
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    state = {f"layer{i}": torch.rand(50, 50) for i in range(4)}
    save_file(state, whole) if suffix == ".safetensors" else torch.save(state, whole)
    contents = whole.read_bytes()
    cut.write_bytes(contents[: int(len(contents) * share)])
    with pytest.raises(WeightsError, match=rf"cut{suffix}: cannot be read") as caught:
        read_checkpoint(cut)
    assert "fetch it again" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("contents", "words", "hint"),
    [
        (b"", "is empty", "download failed"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "is a web page", "error page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "is a pointer of Git LFS", "git lfs pull"),
        (b"these are no weights at all", "cannot be read", "another format"),
    ],
    ids=["empty", "page", "lfs", "text"],
)
def test_files_that_are_something_else(tmp_path: Path, contents: bytes, words: str, hint: str) -> None:
    (tmp_path / "weights.pth").write_bytes(contents)
    with pytest.raises(WeightsError, match=rf"weights\.pth:? {words}") as caught:
        read_checkpoint(tmp_path / "weights.pth")
    assert hint in str(caught.value.hint)


def test_other_objects_folders_and_missing_files(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "dino.pth")
    with pytest.raises(WeightsError, match=r"holds a list, not tensors by name"):
        read_checkpoint(tmp_path / "dino.pth")
    with pytest.raises(WeightsError, match="is a folder, not a file of weights") as caught:
        read_checkpoint(tmp_path)
    assert caught.value.hint == "in it are: dino.pth"
    with pytest.raises(WeightsError, match="no such file of weights") as caught:
        read_checkpoint(tmp_path / "dno.pth")
    assert caught.value.hint == "did you mean dino.pth?"
    with pytest.raises(WeightsError, match="no such file of weights"):
        read_checkpoint(tmp_path / "nowhere" / "dino.pth")


def test_the_expected_hash(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(STATE, path)
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_checkpoint(path, right).content.keys() == STATE.keys()
    with pytest.raises(WeightsError, match=f"a.pth: its sha256 is {right}, not {'0' * 64}") as caught:
        read_checkpoint(path, "0" * 64)
    assert "fetch it again, or correct the hash" in str(caught.value.hint)
