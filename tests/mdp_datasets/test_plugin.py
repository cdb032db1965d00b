from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pluggy

from mdp_core.api import Dataset, DatasetConfig
from mdp_core.plugins.hookspecs import Hooks
from mdp_datasets import plugin


class Recorded:
    def __init__(self) -> None:
        self.added: dict[tuple[str, str], dict[str, str]] = {}

    def add(self, kind: str, name: str, **entry: str) -> None:
        self.added[kind, name] = entry


def load(reference: str) -> type:
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


def test_registered_classes_exist_and_fit() -> None:
    manager = pluggy.PluginManager("mdp")
    manager.add_hookspecs(Hooks)
    manager.register(plugin)
    registry = Recorded()
    manager.hook.mdp_register(registry=registry)
    assert sorted(registry.added) == [("dataset", name) for name in ("coco", "folder", "shapes", "voc")]
    for entry in registry.added.values():
        factory, config = load(entry["factory"]), load(entry["config"])
        assert issubclass(factory, Dataset)
        assert issubclass(config, DatasetConfig)
        assert factory.Config is config
        assert entry["summary"]
        assert all(field.description for field in config.model_fields.values())


def test_settings_import_nothing_heavy() -> None:
    code = "import sys, mdp_datasets.plugin, mdp_datasets.settings; print(sorted({'cv2', 'torch', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
