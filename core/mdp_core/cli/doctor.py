"""``mdp doctor``."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import typer

from mdp_core.cli.messages import for_people

_ERROR, _NOTE, _GOOD = "error", "note", "ok"


def doctor() -> None:
    """Check this installation: versions, devices, plugins, disk; says what to do where something is wrong."""
    with for_people():
        bad = False
        for state, text in checks():
            mark, colour = {"ok": ("✓", "green"), "note": ("·", "yellow"), "error": ("✗", "red")}[state]
            typer.secho(f"{mark} ", fg=colour, nl=False)
            typer.echo(text)
            bad |= state == _ERROR
        if bad:
            raise typer.Exit(1)


def checks() -> Iterator[tuple[str, str]]:
    """Yields (``ok`` | ``note`` | ``error``, what was found)."""
    from mdp_core import __version__

    yield _GOOD, f"mdp {__version__}, Python {platform.python_version()}, {platform.platform()}"
    yield from _torch()
    yield from _operators()
    yield from _packages()
    yield from _plugins()
    yield from _home()


def _torch() -> Iterator[tuple[str, str]]:
    try:
        import torch
        import torchvision
    except (ImportError, OSError, RuntimeError) as error:
        yield _ERROR, f"torch and torchvision do not load ({error}): install matching versions, see constraints.txt"
        return
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield _GOOD, f"torch {torch.__version__}, torchvision {torchvision.__version__}, {torch.get_num_threads()} threads"
    yield _GOOD, f"GPU: {', '.join(devices)}" if devices else "no GPU: everything runs on the CPU; use the CPU-sized recipes"


def _operators() -> Iterator[tuple[str, str]]:
    import importlib.util

    if importlib.util.find_spec("mmcv") is None:
        yield _NOTE, "mmcv is not installed: the detector and the segmenter that need it will not work"
    elif importlib.util.find_spec("mmcv._ext") is None:
        yield _GOOD, "mmcv without compiled operators: torchvision's stand in for them"
    else:
        yield _GOOD, "mmcv with compiled operators"


def _packages() -> Iterator[tuple[str, str]]:
    owners = importlib.metadata.packages_distributions()
    wheels = sorted(set(owners.get("cv2", [])))
    if len(wheels) > 1:
        versions = {importlib.metadata.version(w) for w in wheels}
        state = _GOOD if len(versions) == 1 else _NOTE
        yield state, f"{len(wheels)} OpenCV wheels share the folder cv2 ({', '.join(wheels)}): keep them at one version"
    foreign = [d for d in owners.get("mdp", []) if d != "mdp-platform"]
    if foreign:
        yield (
            _NOTE,
            f"another package installs a module 'mdp' ({', '.join(foreign)}); this one is imported as mdp_core, so they get along",
        )


def _plugins() -> Iterator[tuple[str, str]]:
    from mdp_core.plugins.loader import load_plugins

    host = load_plugins()
    yield _GOOD, f"{len(host.plugins)} plugins from {len({p.distribution for p in host.plugins.values()})} packages"
    for b in host.broken:
        yield _ERROR, f"broken plugin {b.entry_point} from {b.distribution} {b.version}: {b.error}"
    for conflict in host.conflicts:
        yield _ERROR, conflict


def _home() -> Iterator[tuple[str, str]]:
    from mdp_core.engine.run import default_home

    home = default_home()
    place = next(p for p in (home, *home.parents) if p.exists())
    free = shutil.disk_usage(place).free / 2**30
    if not os.access(place, os.W_OK):
        yield _ERROR, f"{home} cannot be written: set MDP_HOME to a folder of your own"
    else:
        yield _GOOD if free > 5 else _NOTE, f"results go to {home} ({free:.0f} GB free)"
    if Path(sys.prefix) == Path(sys.base_prefix):
        yield _NOTE, "this Python is not a virtual environment"
