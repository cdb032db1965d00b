"""Work in a fresh interpreter, as a spawned worker has it: nothing is imported there, and nothing of this process is inherited."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdp_core.plugins.loader import GROUP, Plugin, load_plugins
from mdp_core.testing import work
from mdp_core.testing.report import CheckFailedError, CheckSkippedError
from mdp_core.testing.samples import scenes
from mdp_core.testing.work import Fitted, Item

if TYPE_CHECKING:
    from mdp_core.testing.trial import Trial

HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "tensorflow",
    "jax",
    "mlflow",
    "mmengine",
    "mmcv",
    "mmdet",
    "mmseg",
    "matplotlib",
    "ray",
    "lightly",
)
"""Libraries whose import takes a good part of a second or more."""
_LIMIT = 600
_START = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from mdp_core.testing import fresh; fresh.{}(sys.argv[2])"


def _call(function: str, argument: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _START.format(function), json.dumps(sys.path), argument],
        capture_output=True,
        text=True,
        check=False,
        timeout=_LIMIT,
        env={**os.environ, **(environment or {})},
    )


# What importing costs


def heavy_imports(trial: Trial) -> tuple[str, str] | None:
    """Returns the first heavy library that importing a plugin's registration and settings imports, and where; None where none is."""
    plugin = trial.plugin
    files = [str(file) for file in trial.host.files if str(file) == plugin.distribution]
    request = {"modules": _modules(plugin), "files": files, "plugin": [plugin.kind, plugin.name] if files else None}
    done = _call("_import", json.dumps(request), {"MDP_PLUGINS": ""})
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        raise CheckFailedError(
            f"its registration and settings cannot be imported in a new process: {last}", "import it in a fresh Python"
        )
    found = json.loads(done.stdout.splitlines()[-1])
    return (found[0], found[1]) if found else None


def _modules(plugin: Plugin) -> list[str]:
    """Returns the modules that listing plugins and checking a recipe import: the entry point's, and that of the settings."""
    if plugin.content:
        return []
    own = (plugin.config or plugin.factory).partition(":")[0]
    points = [
        e for e in importlib.metadata.entry_points(group=GROUP) if e.dist is not None and e.dist.name == plugin.distribution
    ]
    near = [e.module for e in points if e.module.partition(".")[0] == own.partition(".")[0]]
    return [*(near or [e.module for e in points]), own]


class _Watchman(MetaPathFinder):
    """Sees the first import of a heavy library and where it stands; finds nothing itself."""

    def __init__(self) -> None:
        self.seen: tuple[str, str] | None = None

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> None:
        if fullname in HEAVY and self.seen is None:
            frame = sys._getframe(1)
            while frame.f_back is not None and "importlib" in frame.f_code.co_filename:
                frame = frame.f_back
            self.seen = (fullname, f"{frame.f_code.co_filename}:{frame.f_lineno}")


def _import(text: str) -> None:
    request = json.loads(text)
    watchman = _Watchman()
    sys.meta_path.insert(0, watchman)
    for module in request["modules"]:
        importlib.import_module(module)
    if request["plugin"]:
        host = load_plugins([Path(file) for file in request["files"]])
        host.check()
        host.config(*request["plugin"])
    sys.stdout.write("\n" + json.dumps(watchman.seen) + "\n")


# The work itself


def make_elsewhere(trial: Trial, fitted: Fitted | None) -> list[Item]:
    """Returns what the plugin makes of the scenes in a new process.

    Raises:
        CheckFailedError: It cannot do it there.
    """
    try:
        config = pickle.dumps(trial.config)
    except Exception as error:
        raise CheckSkippedError("its settings cannot be pickled: see pickles") from error
    folder = trial.new_folder("elsewhere")
    request = {
        "files": [str(file) for file in trial.plugin_files],
        "kind": trial.kind,
        "name": trial.plugin.name,
        "step": trial.makes,
        "fitted": None if fitted is None else (str(fitted.folder), fitted.clusters),
        "model": None if trial.model is None else str(trial.model),
    }
    (folder / "request.json").write_text(json.dumps(request))
    (folder / "config.pickle").write_bytes(config)
    done = _call("_make", str(folder))
    if done.returncode or not (folder / "items.pickle").is_file():
        last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        raise CheckFailedError(
            f"it fails in a new process: {last}",
            "a worker is a fresh interpreter: it has the settings and the model's folder, and nothing that this process made",
        )
    return list(pickle.loads((folder / "items.pickle").read_bytes()))


def _make(place: str) -> None:
    folder = Path(place)
    request = json.loads((folder / "request.json").read_text())
    from mdp_core.testing.trial import Trial

    trial = Trial(f"{request['kind']}:{request['name']}", plugin_files=request["files"])
    _ = trial.host  # a plugin in one file can be unpickled once it is loaded
    trial.config = pickle.loads((folder / "config.pickle").read_bytes())
    fitted = request["fitted"]
    items = work.make(
        trial.kind,
        trial.create(request["step"]),
        scenes(),
        Fitted(Path(fitted[0]), fitted[1]) if fitted else None,
        Path(request["model"]) if request["model"] else None,
    )
    (folder / "items.pickle").write_bytes(pickle.dumps(items))
