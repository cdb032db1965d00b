"""Loading: names, strictness, messages."""

import hashlib
import pickle

import pytest
import timm
import torch
from safetensors.torch import save_file

from mdp_core.api import Context, Silence, WeightsError
from mdp_vit import weights
from mdp_vit.random_vit import random_vit
from mdp_vit.weights import load_vit, state_sha256

ARCH = "vit_small_patch16_224.dino"


class Notes(Silence):
    def __init__(self) -> None:
        self.notes: dict[str, str] = {}

    def note(self, name: str, value: str) -> None:
        self.notes[name] = value


def official_dino_state() -> dict[str, torch.Tensor]:
    """A state with the names and shapes of the official DINO ViT-S/16, written down by hand."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "cls_token": (1, 1, 384),
        "pos_embed": (1, 197, 384),
        "patch_embed.proj.weight": (384, 3, 16, 16),
        "patch_embed.proj.bias": (384,),
    }
    for index in range(12):
        block = f"blocks.{index}."
        for name, rows, columns in (
            ("attn.qkv", 1152, 384),
            ("attn.proj", 384, 384),
            ("mlp.fc1", 1536, 384),
            ("mlp.fc2", 384, 1536),
        ):
            shapes |= {f"{block}{name}.weight": (rows, columns), f"{block}{name}.bias": (rows,)}
        for name in ("norm1", "norm2"):
            shapes |= {f"{block}{name}.weight": (384,), f"{block}{name}.bias": (384,)}
    shapes |= {"norm.weight": (384,), "norm.bias": (384,)}
    return {name: 0.02 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def dino() -> dict[str, torch.Tensor]:
    return official_dino_state()


def teacher_student(state):
    head = {"module.head.mlp.0.weight": torch.ones(4, 384), "module.head.last_layer.weight_v": torch.ones(8, 4)}
    teacher = {f"module.backbone.{name}": value for name, value in state.items()}
    teacher |= {name.removeprefix("module."): value for name, value in head.items()}
    return {"student": {name: value + 1 for name, value in teacher.items()}, "teacher": teacher, "epoch": 100}


def student_only(state):
    student = {f"module.backbone.{name}": value for name, value in state.items()}
    return {"student": {**student, "module.head.mlp.0.weight": torch.ones(4, 384)}, "epoch": 3}


@pytest.mark.parametrize("wrap", [dict, teacher_student, student_only, lambda state: {"model": state}])
def test_official_dino_names_load_strictly(tmp_path, dino, wrap):
    torch.save(wrap(dino), tmp_path / "dino.pth")
    notes = Notes()
    loaded = load_vit(f"file:{tmp_path / 'dino.pth'}", Context(listener=notes), arch=ARCH)
    state = loaded.features.model.state_dict()
    assert set(state) == set(dino)
    assert all(torch.equal(state[name], dino[name]) for name in dino)
    assert not loaded.features.model.training
    assert loaded.facts.trained
    assert loaded.facts.sha256 == state_sha256(dino)
    assert notes.notes["weights"] == str(loaded.facts)


def test_safetensors_and_half_precision(tmp_path, dino):
    save_file({name: value.half() for name, value in dino.items()}, tmp_path / "dino.safetensors")
    loaded = load_vit(f"file:{tmp_path / 'dino.safetensors'}", Context(), arch=ARCH)
    state = loaded.features.model.state_dict()
    assert state["norm.weight"].dtype == torch.float32
    assert torch.equal(state["norm.weight"], dino["norm.weight"].half().float())


def test_wrong_architecture_names_shapes_and_the_likely_one(tmp_path, dino):
    torch.save(dino, tmp_path / "dino.pth")
    with pytest.raises(WeightsError) as caught:
        load_vit(f"file:{tmp_path / 'dino.pth'}", Context(), arch="vit_small_patch8_224.dino")
    assert "patch_embed.proj.weight (384, 3, 16, 16), not (384, 3, 8, 8)" in caught.value.message
    assert "pos_embed (1, 197, 384), not (1, 785, 384)" in caught.value.message
    assert f"try arch: {ARCH}" in caught.value.hint


def test_missing_and_unexpected_names(tmp_path, dino):
    changed = {**dino, "blocks.0.extra": torch.zeros(1)}
    del changed["blocks.3.attn.qkv.bias"]
    torch.save(changed, tmp_path / "dino.pth")
    with pytest.raises(WeightsError, match=r"missing: blocks\.3\.attn\.qkv\.bias \| unexpected: blocks\.0\.extra"):
        load_vit(f"file:{tmp_path / 'dino.pth'}", Context(), arch=ARCH)


@pytest.mark.parametrize("arch", [None, "vit_smal_patch16_224"])
def test_missing_or_unknown_arch_suggests_one(tmp_path, dino, arch):
    torch.save(dino, tmp_path / "dino.pth")
    with pytest.raises(WeightsError, match="arch") as caught:
        load_vit(f"file:{tmp_path / 'dino.pth'}", Context(), arch=arch)
    assert f"try arch: {ARCH}" in caught.value.hint


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code ran')",))


def test_pickles_that_run_code_are_refused(tmp_path):
    path = tmp_path / "evil.pth"
    torch.save({"a": Evil()}, path)
    with pytest.raises(WeightsError, match="no checkpoint of tensors alone"):
        load_vit(f"file:{path}", Context(), arch=ARCH)
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(WeightsError):
        load_vit(f"file:{path}", Context(), arch=ARCH)


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors"])
def test_truncated_files(tmp_path, name):
    whole, cut = tmp_path / f"whole.{name}", tmp_path / name
    state = {"a": torch.zeros(1000)}
    save_file(state, whole) if name.endswith("safetensors") else torch.save(state, whole)
    cut.write_bytes(whole.read_bytes()[:1500])
    with pytest.raises(WeightsError, match="cut"):
        load_vit(f"file:{cut}", Context(), arch=ARCH)


def test_missing_weights_say_what_to_fetch_and_where_to_put_it(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def offline(*_args, **_kwargs):
        raise FileNotFoundError("no connection")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(WeightsError) as caught:
        load_vit(f"timm:{ARCH}", Context())
    hint = caught.value.hint
    assert f"https://huggingface.co/timm/{ARCH}/resolve/main/model.safetensors" in hint
    assert "https://dl.fbaipublicfiles.com/dino/dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth" in hint
    assert f"models--timm--{ARCH}" in hint
    assert str(tmp_path) in hint
    assert f"file:PATH, arch: {ARCH}" in hint


def test_cached_weights_load_without_the_network(monkeypatch, tmp_path, dino):
    """A hub cache as the hub writes it: refs/main names the snapshot."""
    repository = tmp_path / f"models--timm--{ARCH}"
    (repository / "refs").mkdir(parents=True)
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    save_file(dino, repository / "snapshots" / "abc" / "model.safetensors")
    real = weights.try_to_load_from_cache
    monkeypatch.setattr(weights, "try_to_load_from_cache", lambda repo, name: real(repo, name, cache_dir=tmp_path))

    def no_network(*_args, **_kwargs):
        raise RuntimeError("the network was used")

    monkeypatch.setattr("timm.models._hub.hf_hub_download", no_network)
    loaded = load_vit(f"timm:{ARCH}", Context())
    assert torch.equal(loaded.features.model.state_dict()["cls_token"], dino["cls_token"])
    assert loaded.facts.sha256 == state_sha256(dino)


@pytest.mark.parametrize("name", ["vit_small_patch16_224.dinosaur", "vit_smal"])
def test_unknown_timm_names(name):
    with pytest.raises(WeightsError, match=f"timm has no weights {name}"):
        load_vit(f"timm:{name}", Context())


def test_networks_of_other_kinds(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="resnet18 is not a Vision Transformer"):
        load_vit(f"file:{tmp_path / 'a.pth'}", Context(), arch="resnet18")


def test_random_weights_are_the_same_everywhere():
    """The hash was written down once; another one on another machine would be a bug."""
    loaded = load_vit("builtin:random", Context())
    assert loaded.facts.sha256 == "6babe1e329382bffb18bb2f21b0e45fd8875ea340179fe5304095bc7ccb1834e"
    assert not loaded.facts.trained
    assert "untrained" in str(loaded.facts)
    assert state_sha256(random_vit(1).state_dict()) != loaded.facts.sha256


def test_random_weights_leave_the_global_generator_alone():
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    load_vit("builtin:random", Context())
    assert torch.equal(torch.rand(3), wanted)


def test_other_builtins_and_arch_without_a_file():
    with pytest.raises(WeightsError, match="builtin:dino"):
        load_vit("builtin:dino", Context())
    with pytest.raises(WeightsError, match="arch"):
        load_vit("builtin:random", Context(), arch=ARCH)


def test_state_hash_literally():
    state = {"b": torch.tensor([1.0, 2.0]), "a": torch.tensor(3, dtype=torch.int64)}
    digest = hashlib.sha256()
    digest.update(b"a torch.int64 ()\n" + (3).to_bytes(8, "little"))
    digest.update(b"b torch.float32 (2,)\n" + bytes.fromhex("0000803f00000040"))
    assert state_sha256(state) == digest.hexdigest()
