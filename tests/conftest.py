"""What tests share: a home of their own, the toy method, real data where there is some."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mdp_core.api import Pixels, read_image

TOY = Path(__file__).parent / "toy_method.py"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine reaches a test."""
    for name in ("MDP_HOME", "MDP_REGISTRY", "MDP_PLUGINS", "MDP_SHARD_SIZE", "MDP_STRICT_PLUGINS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def toy() -> Path:
    """The one-file plugin with a small real method for each stage."""
    return TOY


@pytest.fixture
def voc_root() -> Path:
    """VOCdevkit with real photographs; the test is skipped where VOC_ROOT names none."""
    root = Path(os.environ.get("VOC_ROOT", "/nonexistent"))
    if not (root / "VOC2012" / "JPEGImages").is_dir():
        pytest.skip("VOC_ROOT names no VOCdevkit")
    return root


@pytest.fixture
def photographs(voc_root: Path) -> Callable[[int], list[Pixels]]:
    """Gives the first photographs of VOC, so many: uint8 (H, W, 3) each."""

    def first(count: int) -> list[Pixels]:
        paths = sorted((voc_root / "VOC2012" / "JPEGImages").glob("*.jpg"))[:count]
        if len(paths) < count:
            pytest.skip(f"VOC_ROOT holds no {count} photographs")
        return [read_image(path) for path in paths]

    return first


@pytest.fixture
def fresh(tmp_path: Path) -> Any:
    """A virtual environment that was just made (``fresh_environment.py``): nothing is installed in it but what mdp itself needs."""
    name = "fresh_environment"
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make(tmp_path)


Mdp = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def mdp(tmp_path: Path) -> Mdp:
    """Calls the command line in a folder of its own, as a person would."""

    def call(*arguments: str, env: dict[str, str] | None = None, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mdp_core.cli.main", *arguments],
            cwd=tmp_path,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return call
