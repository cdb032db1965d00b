"""References to weights, and files of weights, with mistakes in them."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

from malformed_cases.case import ROOT, Case
from malformed_cases.texts import DATA

_RECIPE = f"name: mine\n{DATA}pipeline: {{prior: {{use: dino-affinity, weights: 'REF', short_side: 64}}}}\n"
_TINY = ROOT / "plugins" / "mdp_backbones" / "builtin" / "tiny.safetensors"


def _ref(mistake: str, ref: str, **files: str | bytes | Path) -> Case:
    return Case(mistake, "mdp run mine.yaml", {"mine.yaml": _RECIPE.replace("REF", ref), **files})


def _file(mistake: str, name: str, contents: bytes | Path, suffix: str = "", code: int = 1) -> Case:
    """A mistake that only shows when the file is read: by the stage, which is done inline to import torch once."""
    files: dict[str, str | bytes | Path] = {"mine.yaml": _RECIPE.replace("REF", f"file:{name}{suffix}"), name: contents}
    return Case(mistake, "mdp run mine.yaml --no-track --inline", files, code=code, slow=True)


class _Runs:
    """Would run a command where it is unpickled without protection."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("echo gotcha",)


def _zipped(payload: bytes) -> bytes:
    """A file as torch.save writes it, around a pickle."""
    import io

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, contents in (("data.pkl", payload), ("byteorder", b"little"), ("version", b"3\n")):
            archive.writestr(zipfile.ZipInfo(f"archive/{name}", (2026, 1, 1, 0, 0, 0)), contents)
    return buffer.getvalue()


REFERENCES: list[Case] = [
    _ref("no scheme", "dino.pth"),
    _ref("a scheme that there is not", "torch:dino_vits16"),
    _ref("no such file, another one is near", "file:dino.pth", **{"dino.pht": b"x"}),
    _ref("`stage:` without a name", "stage:"),
    _ref("a sha256 that is none", "file:mine.yaml#sha256=12ab"),
    Case("weights asked about that there are not", "mdp weights list builtin:tinny", code=1, slow=True),
    Case("weights of timm that are mistyped", "mdp weights list timm:vit_smal_patch16_224.dino", code=1, slow=True),
    Case("weights to fetch without a network", "mdp weights fetch timm:vit_small_patch16_224.dino", code=1, slow=True),
]


def _network(mistake: str, settings: str, device: str = "cpu") -> Case:
    recipe = f"name: mine\ndevice: {device}\n{DATA}pipeline: {{prior: {{use: dino-affinity, short_side: 64, {settings}}}}}\n"
    return Case(
        mistake, "mdp run mine.yaml --no-track --inline", {"mine.yaml": recipe, "tiny.safetensors": _TINY}, code=1, slow=True
    )


NETWORKS: list[Case] = [
    _network("`device: cuda` on a machine without a GPU", "weights: 'builtin:tiny'", "cuda"),
    _network("an architecture that there is not", "weights: 'file:tiny.safetensors', arch: vit_smal_patch16_224"),
    _network("weights of another architecture", "weights: 'file:tiny.safetensors', arch: vit_small_patch16_224"),
    _network("an architecture that the prior cannot read", "weights: 'file:tiny.safetensors', arch: resnet50"),
    _network("a block that the network does not have", "weights: 'builtin:tiny', block: 99"),
]

FILES: list[Case] = [
    _file("a file of no bytes", "dino.pth", b""),
    _file("a web page", "dino.pth", b"<!DOCTYPE html><html><title>404</title></html>"),
    _file("a pointer of Git LFS", "dino.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"),
    _file("a safetensors that is cut off", "tiny.safetensors", _TINY.read_bytes()[:5000]),
    _file("another file than the one meant", "tiny.safetensors", _TINY, "#sha256=" + "0" * 64),
    _file("a checkpoint that would run code", "dino.pth", _zipped(pickle.dumps({"model": _Runs()}, protocol=2))),
    _file("a checkpoint that holds no tensors by name", "dino.pth", _zipped(pickle.dumps([1, 2], protocol=2))),
    _file("a file that is no checkpoint", "dino.pth", b"some notes, not weights\n" * 9),
    _file("a checkpoint without a backbone in it", "dino.pth", _zipped(pickle.dumps({"epoch": 3}, protocol=2))),
]
