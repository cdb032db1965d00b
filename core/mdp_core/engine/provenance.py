"""Provenance: what a run was made with, for its record."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

_LIBRARIES = (
    "mdp-platform", "torch", "torchvision", "timm", "lightly", "onedl-mmcv", "onedl-mmengine", "onedl-mmdetection",
    "onedl-mmsegmentation", "numpy", "scipy", "scikit-learn", "faiss-cpu", "opencv-python", "pillow", "mlflow",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """Returns versions, machine and git state, without importing any of the libraries."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "argv": sys.argv,
        "libraries": {name: version for name in _LIBRARIES if (version := _version(name)) is not None},
        "git": git_state(Path.cwd()),
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_state(folder: Path) -> dict[str, Any] | None:
    """Returns commit and whether files are changed, or None outside a git checkout."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=5, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    return None if commit is None else {"commit": commit, "dirty": bool(git("status", "--porcelain"))}
