"""Loading by reference: names, strictness, the hub's cache with and without a network, messages."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from mdp_backbones import sources
from mdp_backbones.checkpoint import Card, save_backbone
from mdp_backbones.preprocess import HALF, IMAGENET, Normalisation
from mdp_backbones.random_vit import random_vit
from mdp_backbones.resnet import ResnetReader
from mdp_backbones.sources import BUILTINS
from mdp_backbones.weights import LoadedResnet, LoadedVit, load_backbone, load_vit, state_sha256
from mdp_core.api import Context, Silence, WeightsError, file_sha256

ARCH = "vit_tiny_patch16_224"
HUB = "vit_tiny_patch16_224.augreg_in21k"
DINO = "vit_small_patch16_224.dino"
NOWHERE = "http://127.0.0.1:9"
"""No server listens on port 9."""


class Notes(Silence):
    def __init__(self) -> None:
        self.notes: dict[str, str] = {}
        self.warnings: list[str] = []

    def note(self, name: str, value: str) -> None:
        self.notes[name] = value

    def warn(self, message: str) -> None:
        self.warnings.append(message)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return timm.create_model(ARCH, num_classes=0).state_dict()


def hub_cache(folder: Path, repository: str, state: dict[str, torch.Tensor]) -> Path:
    """A cache as the hub's client leaves it: refs/main names a commit, its snapshot links to a blob named by its sha256."""
    repo = folder / f"models--{repository.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    for part in ("refs", "blobs", f"snapshots/{commit}"):
        (repo / part).mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    save_file(state, repo / "new")
    blob = repo / "blobs" / file_sha256(repo / "new")
    (repo / "new").rename(blob)
    (repo / "snapshots" / commit / "model.safetensors").symlink_to(Path("../../blobs") / blob.name)
    return blob


def test_a_file_in_timms_names_with_what_the_record_says_of_it(tmp_path, state):
    torch.save({"model": state}, tmp_path / "w.pth")
    notes, ref = Notes(), f"file:{tmp_path / 'w.pth'}"
    loaded = load_vit(ref, Context(listener=notes), arch=ARCH)
    model = loaded.reader.model
    assert all(torch.equal(model.state_dict()[name], state[name]) for name in state)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert loaded.facts.trained
    assert loaded.facts.sha256 == state_sha256(state)
    assert str(loaded.facts) == f"{ref} sha256:{state_sha256(state)}" == notes.notes["weights"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_backbone_with_a_card_needs_nothing_else(tmp_path, precision):
    torch.manual_seed(0)
    state = timm.create_model(ARCH, num_classes=0, img_size=96, depth=2).state_dict()
    card = Card(arch=ARCH, arch_settings={"img_size": 96, "depth": 2}, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    path = tmp_path / "own.safetensors"
    save_backbone(path, state, card)
    loaded = load_vit(f"file:{path}", Context(), precision=precision)
    assert loaded.reader.depth == 2
    assert loaded.reader.normalisation == Normalisation((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    assert loaded.facts.sha256 == state_sha256(state), "of the weights as they are stored, whatever the precision"
    with pytest.raises(WeightsError, match=rf"arch: {DINO} was given, but file:.* says that it is a {ARCH}"):
        load_vit(f"file:{path}", Context(), arch=DINO)
    save_backbone(path, {name: value for name, value in state.items() if name != "norm.bias"}, card)
    with pytest.raises(WeightsError, match=r"1 missing \(norm\.bias\)"):
        load_vit(f"file:{path}", Context())
    save_backbone(path, state, card.model_copy(update={"arch": "vit_of_the_future"}))
    with pytest.raises(WeightsError, match="knows no vit_of_the_future"):
        load_vit(f"file:{path}", Context())


@pytest.mark.parametrize("side", [64, 96])
def test_our_own_small_network_comes_back_from_half_precision_and_from_a_plain_file(tmp_path, side):
    torch.manual_seed(0)
    model = timm.create_model("mdp_vit_tiny", num_classes=0, img_size=side)
    model(torch.rand(2, 3, side, side))  # moves the BatchNorms' statistics
    model.eval()
    pixels = torch.rand(2, 3, 72, 40)
    card = Card(arch="mdp_vit_tiny", arch_settings={"img_size": side})
    save_backbone(tmp_path / "own.safetensors", model.state_dict(), card, torch.float16)
    halved = load_vit(f"file:{tmp_path / 'own.safetensors'}", Context()).reader
    assert halved.patch == 8
    torch.save(model.state_dict(), tmp_path / "own.pth")
    plain = load_vit(f"file:{tmp_path / 'own.pth'}", Context(), arch="mdp_vit_tiny").reader
    assert all(torch.equal(value, plain.model.state_dict()[name]) for name, value in model.state_dict().items())
    assert (halved.embed(pixels) - plain.embed(pixels)).abs().max() < 0.05 * plain.embed(pixels).std()


def test_half_precision_files_are_read_as_float32(tmp_path, state):
    save_file({name: value.half() for name, value in state.items()}, tmp_path / "half.safetensors")
    found = load_vit(f"file:{tmp_path / 'half.safetensors'}", Context(), arch=ARCH).reader.model.state_dict()
    assert found["norm.weight"].dtype == torch.float32
    assert torch.equal(found["pos_embed"], state["pos_embed"].half().float())


def test_the_hash_after_a_path(tmp_path, state):
    path = tmp_path / "w.safetensors"
    save_file(state, path)
    right = file_sha256(path)
    assert load_vit(f"file:{path}#sha256={right}", Context(), arch=ARCH).facts.name.endswith(right)
    with pytest.raises(WeightsError, match=f"its sha256 is {right}, not {'ab' * 32} as written after #sha256="):
        load_vit(f"file:{path}#sha256={'AB' * 32}", Context(), arch=ARCH)


@pytest.mark.parametrize(("arch", "words"), [(None, "need arch"), ("vit_tiny_patch16_24", "did you mean vit_tiny_patch16_224")])
def test_missing_or_unknown_arch_suggests_one(tmp_path, state, arch, words):
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=words) as caught:
        load_vit(f"file:{tmp_path / 'w.pth'}", Context(), arch=arch)
    assert f"try arch: {ARCH}" in caught.value.hint


def test_a_tag_that_timm_does_not_have(tmp_path, state):
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"timm knows no vit_tiny_patch16_224\.augreg_in22k, did you mean .*augreg_in21k\?"):
        load_vit(f"file:{tmp_path / 'w.pth'}", Context(), arch="vit_tiny_patch16_224.augreg_in22k")


def test_backbones_of_both_kinds(tmp_path, state):
    torch.manual_seed(0)
    resnet = timm.create_model("resnet18", num_classes=0).state_dict()
    torch.save({"state_dict": {f"module.encoder_q.{name}": value for name, value in resnet.items()}}, tmp_path / "moco.pth")
    torch.save(state, tmp_path / "vit.pth")
    ref = f"file:{tmp_path / 'moco.pth'}"
    loaded = load_backbone(ref, Context(), arch="resnet18")
    assert isinstance(loaded, LoadedResnet)
    assert isinstance(loaded.reader, ResnetReader)
    assert loaded.facts.sha256 == state_sha256(resnet)
    assert isinstance(load_backbone(f"file:{tmp_path / 'vit.pth'}", Context(), arch=ARCH), LoadedVit)
    with pytest.raises(WeightsError, match="resnet18 is not a Vision Transformer"):
        load_vit(ref, Context(), arch="resnet18")
    with pytest.raises(WeightsError, match="need arch") as caught:
        load_backbone(ref, Context())
    assert caught.value.hint == "it holds a ResNet: try arch: resnet18"
    save_backbone(tmp_path / "own.safetensors", resnet, Card(arch="resnet18", mean=HALF.mean, std=HALF.std))
    assert load_backbone(f"file:{tmp_path / 'own.safetensors'}", Context()).reader.normalisation == HALF


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224.ms_in1k", "convnext_tiny.dinov3_lvd1689m", "resnet50.a1_in1k"])
def test_networks_of_other_kinds_are_refused_before_any_download(monkeypatch, name):
    monkeypatch.setattr(sources, "_hub_answers", lambda: pytest.fail("the network was used"))
    with pytest.raises(WeightsError, match="is not a Vision Transformer"):
        load_vit(f"timm:{name}", Context())


@pytest.mark.parametrize("name", ["vit_small_patch16_224.dinosaur", "vit_smal"])
def test_unknown_timm_names(name):
    with pytest.raises(WeightsError, match=f"timm has no weights {name}") as caught:
        load_vit(f"timm:{name}", Context())
    assert "vit_small_patch16_224.dino" in caught.value.hint or name == "vit_smal"


OFFLINE = """
import json, sys
from mdp_backbones.weights import load_vit
from mdp_core.api import Context, WeightsError
for ref in sys.argv[1:]:
    try:
        loaded = load_vit(ref, Context())
        print(json.dumps([loaded.facts.sha256, loaded.reader.normalisation.mean]))
    except WeightsError as error:
        print(json.dumps([error.message, error.hint]))
"""


@pytest.mark.parametrize("how", [{"HF_HUB_OFFLINE": "1"}, {}], ids=["HF_HUB_OFFLINE", "no network"])
def test_a_prepared_cache_works_offline_and_an_empty_one_says_what_to_place_where(tmp_path, state, how):
    head = {"head.weight": torch.ones(10, 192), "head.bias": torch.ones(10)}
    hub_cache(tmp_path / "hub", f"timm/{HUB}", {**state, **head})
    environment = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_ENDPOINT": NOWHERE, "OMP_NUM_THREADS": "1", **how}
    command = [sys.executable, "-c", OFFLINE, f"timm:{HUB}", f"timm:{DINO}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    found, (message, hint) = (json.loads(line) for line in done.stdout.splitlines())
    assert found == [state_sha256(state), [0.5, 0.5, 0.5]]
    assert message == f"weights timm:{DINO} are not in the cache and cannot be downloaded"
    for words in (
        f"`hf download timm/{DINO} model.safetensors`",
        f"copy its folder models--timm--{DINO} to {tmp_path / 'hub'}/",
        f"https://huggingface.co/timm/{DINO}/resolve/main/model.safetensors",
        "https://dl.fbaipublicfiles.com/dino/dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth",
        f"weights: file:PATH, arch: {DINO}",
    ):
        assert words in hint


def test_what_lies_in_the_cache_fits_strictly(tmp_path, monkeypatch, state):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    hub_cache(tmp_path, f"timm/{HUB}", {name: value for name, value in state.items() if name != "norm.bias"})
    with pytest.raises(WeightsError, match=rf"timm:{HUB} does not fit the network: 1 missing \(norm\.bias\)"):
        load_vit(f"timm:{HUB}", Context())


def test_weights_that_timm_has_by_link_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = sources.timm_weights("vit_huge_patch14_gap_224.in1k_ijepa")
    assert weights.repository is None
    assert weights.cached() is None
    assert (
        weights.missing().hint
        == f"fetch {weights.config.url} elsewhere and place it at {tmp_path}/hub/checkpoints/IN1K-vit.h.14-300e.pth.tar"
    )
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "IN1K-vit.h.14-300e.pth.tar").write_bytes(b"")
    assert weights.cached() == tmp_path / "hub" / "checkpoints" / "IN1K-vit.h.14-300e.pth.tar"


def test_a_download_is_announced_and_read_like_any_other(tmp_path, monkeypatch, state):
    """The hub's client is asked for the one file; what it gives is loaded."""
    save_file(state, tmp_path / "model.safetensors")
    asked = []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(sources, "_hub_answers", lambda: True)
    monkeypatch.setattr(
        sources, "hf_hub_download", lambda *args, **more: asked.append(args) or str(tmp_path / "model.safetensors")
    )
    notes = Notes()
    loaded = load_vit(f"timm:{HUB}", Context(listener=notes))
    assert asked == [(f"timm/{HUB}", "model.safetensors")]
    assert notes.warnings == [f"weights timm:{HUB} are not in the hub's cache and are being downloaded"]
    assert loaded.facts.sha256 == state_sha256(state)
    monkeypatch.setattr(sources, "hf_hub_download", lambda *args, **more: (_ for _ in ()).throw(TimeoutError("too slow")))
    with pytest.raises(WeightsError, match=r"cannot be downloaded \(TimeoutError: too slow\)"):
        load_vit(f"timm:{HUB}", Context())


def test_random_weights_are_the_same_everywhere():
    """The hash was written down once; another one on another machine would be a bug."""
    loaded = load_vit("builtin:random", Context())
    assert loaded.facts.sha256 == "6babe1e329382bffb18bb2f21b0e45fd8875ea340179fe5304095bc7ccb1834e"
    assert not loaded.facts.trained
    assert "untrained" in str(loaded.facts)
    assert loaded.reader.normalisation == IMAGENET
    assert state_sha256(random_vit(1).state_dict()) != loaded.facts.sha256


def test_building_leaves_the_global_generator_alone(tmp_path, state):
    save_file(state, tmp_path / "w.safetensors")
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    load_vit("builtin:random", Context())
    load_vit(f"file:{tmp_path / 'w.safetensors'}", Context(), arch=ARCH)
    assert torch.equal(torch.rand(3), wanted)


def test_other_builtins_and_arch_without_a_file(monkeypatch, tmp_path):
    with pytest.raises(WeightsError, match=r"there are no weights builtin:tny, did you mean builtin:tiny\?") as caught:
        load_vit("builtin:tny", Context())
    assert "builtin:random" in caught.value.hint
    with pytest.raises(WeightsError, match="arch"):
        load_vit("builtin:random", Context(), arch=ARCH)
    with pytest.raises(WeightsError, match="there are no weights ftp:x"):
        load_vit("ftp:x", Context())
    monkeypatch.setitem(BUILTINS, "gone", sources.Builtin("gone", "Nothing.", file="gone.safetensors"))
    with pytest.raises(
        WeightsError, match=r"builtin:gone is not in this installation: .*gone\.safetensors is missing"
    ) as caught:
        load_vit("builtin:gone", Context())
    assert caught.value.hint == "install mdp-platform again"


@pytest.mark.parametrize("name", [name for name, weights in BUILTINS.items() if weights.path and weights.path.is_file()])
def test_shipped_weights_are_those_of_the_table(name):
    weights = BUILTINS[name]
    assert file_sha256(weights.path) == weights.sha256
    assert weights.path.stat().st_size < (5e6 if name == "tiny" else 12e6)
    loaded = load_vit(f"builtin:{name}", Context())
    assert loaded.facts.trained == weights.trained
    assert loaded.reader.embed(torch.zeros(1, 3, 64, 64)).isfinite().all()


def test_state_hash_literally():
    state = {"b": torch.tensor([1.0, 2.0]), "a": torch.tensor(3, dtype=torch.int64)}
    digest = hashlib.sha256()
    digest.update(b"a torch.int64 ()\n" + (3).to_bytes(8, "little"))
    digest.update(b"b torch.float32 (2,)\n" + bytes.fromhex("0000803f00000040"))
    assert state_sha256(state) == digest.hexdigest()


def test_a_card_of_a_resnet_says_its_architecture_with_its_settings(tmp_path):
    state = timm.create_model("resnet18", num_classes=0).state_dict()
    for stride in (32, 8):
        path = tmp_path / f"{stride}.safetensors"
        save_backbone(path, state, Card(arch="resnet18", arch_settings={} if stride == 32 else {"output_stride": stride}))
        reader = load_backbone(f"file:{path}", Context()).reader
        assert reader.stages(torch.zeros(1, 3, 64, 64))[-1].shape == (1, 512, 64 // stride, 64 // stride)
