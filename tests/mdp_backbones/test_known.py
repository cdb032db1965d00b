"""The table of timm's weights says what timm says, and describing weights imports neither timm nor torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm

from mdp_backbones.describe import describe, parameters_of
from mdp_backbones.known import TABLE, known_weights
from mdp_backbones.random_vit import random_vit
from mdp_backbones.sources import BUILTINS, timm_weights
from mdp_core.api import file_sha256

DINO = "vit_small_patch16_224.dino"
SMALL = (
    DINO,
    "vit_small_patch8_224.dino",
    "vit_tiny_patch16_224",
    "vit_base_patch14_dinov2.lvd142m",
    "resnet18",
    "resnet50.a1_in1k",
)


def test_the_table_has_what_our_readers_read() -> None:
    known = known_weights()
    assert len(known) > 500
    assert set(SMALL) <= set(known)
    assert not any(name.startswith(("swin", "convnext")) for name in known)


@pytest.mark.skipif(timm.__version__ not in TABLE.read_text().splitlines()[0], reason="the table was written for another timm")
def test_repository_and_licence_of_every_name_are_timms() -> None:
    for name, known in known_weights().items():
        weights = timm_weights(name)
        assert (known.repository, known.licence) == (weights.repository, weights.config.license or "unknown"), name


@pytest.mark.parametrize("name", SMALL)
def test_parameters(name: str) -> None:
    assert known_weights()[name].parameters == parameters_of(name)


def test_parameters_of_weights_that_code_makes() -> None:
    assert BUILTINS["random"].parameters == sum(p.numel() for p in random_vit().parameters())


def test_a_name_that_the_table_does_not_have_is_timms_to_know() -> None:
    name = "swin_tiny_patch4_window7_224.ms_in1k"
    assert name not in known_weights()
    found = describe(f"timm:{name}")
    assert found is not None
    assert found.origin == f"https://huggingface.co/timm/{name}"
    assert found.parameters == parameters_of(name)


LIGHT = """
import json, sys
from mdp_backbones.describe import describe
found = [describe(ref) for ref in sys.argv[1:]]
print(json.dumps([[f.ref, f.here, str(f.path), f.sha256, f.licence, f.parameters, f.problem] for f in found]))
print([name for name in ("torch", "timm") if name in sys.modules])
"""


def test_describing_imports_nothing_heavy(tmp_path: Path) -> None:
    commit, repo = "0123456789abcdef0123456789abcdef01234567", tmp_path / "hub" / f"models--timm--{DINO}"
    for part in ("refs", "blobs", f"snapshots/{commit}"):
        (repo / part).mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    (repo / "blobs" / "new").write_bytes(b"weights")
    sha256 = file_sha256(repo / "blobs" / "new")
    (repo / "blobs" / "new").rename(repo / "blobs" / sha256)
    file = repo / "snapshots" / commit / "model.safetensors"
    file.symlink_to(Path("../../blobs") / sha256)
    refs = [f"timm:{DINO}", "timm:resnet50.a1_in1k", "builtin:tiny", "builtin:random"]
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub")}
    command = [sys.executable, "-c", LIGHT, *refs]
    lines = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    here, absent, tiny, _ = json.loads(lines[0])
    assert here == [f"timm:{DINO}", True, str(file), sha256, "apache-2.0", 21_665_664, ""]
    assert absent[1:4] == [False, "None", None]
    assert (tiny[1], tiny[3], tiny[6]) == (True, BUILTINS["tiny"].sha256, "")
    assert lines[1] == "[]"


def test_a_built_in_file_that_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = BUILTINS["tiny"].path
    assert whole is not None
    (tmp_path / "tiny.safetensors").write_bytes(whole.read_bytes()[:-100])
    monkeypatch.setattr(type(BUILTINS["tiny"]), "path", tmp_path / "tiny.safetensors")
    found = describe("builtin:tiny")
    assert found is not None
    assert "cannot be read as safetensors" in found.problem
