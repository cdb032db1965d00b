"""The copy of a plugin's source: what it needs and nothing else, under new names, with imports that work from outside."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mdp_core.errors import PluginError
from mdp_core.plugins.loader import Plugin, PluginHost
from mdp_core.plugins.registry_file import RegistryFile
from mdp_core.scaffold.package import TEMPLATED, kind_of, new_package
from mdp_core.scaffold.source import Source, copied

HOST = PluginHost(RegistryFile())
SHIPPED = [p for p in HOST.plugins.values() if p.kind in TEMPLATED and p.distribution == "mdp-platform"]


@pytest.fixture
def lib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose modules import each other in every way."""
    package = tmp_path / "kit_lib"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "settings.py").write_text(
        textwrap.dedent(
            '''
            """Two settings classes."""
            from typing import Literal
            from pydantic import Field
            from mdp_core.api import StageConfig

            LIMIT = 3
            """How many."""


            class OneConfig(StageConfig):
                n: int = Field(LIMIT, ge=1)


            class TwoConfig(StageConfig):
                m: Literal["a"] = "a"
            '''
        )
    )
    (package / "one.py").write_text(
        textwrap.dedent(
            '''
            """Method ``one``."""
            import json
            import os.path
            from . import settings
            from .settings import LIMIT, OneConfig, TwoConfig

            # Why the helper is there.
            def helper() -> int:
                return LIMIT


            def unused() -> str:
                return json.dumps(os.path.sep)


            class One:
                Config = OneConfig

                def mine(self) -> int:
                    return helper()
            '''
        )
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return package


def test_what_is_needed_is_copied(lib: Path) -> None:
    made = copied(
        "kit_lib.one:One",
        "kit_lib.settings:OneConfig",
        {"One": "Mine", "OneConfig": "MineConfig"},
        "mine",
        "# A copy.\n",
        {"one": "mine"},
    )
    assert made.method.startswith('# A copy.\n"""Method ``mine``."""\n')
    assert "# Why the helper is there." in made.method
    assert "class Mine:\n    Config = MineConfig" in made.method
    assert "from mine.settings import LIMIT, MineConfig\n" in made.method
    assert not any(word in made.method for word in ("unused", "json", "TwoConfig", "from ."))
    assert 'LIMIT = 3\n"""How many."""' in made.settings
    assert not any(word in made.settings for word in ("TwoConfig", "Literal"))
    assert "kit_lib" not in made.method + made.settings


def test_a_name_that_is_only_imported_cannot_be_copied(lib: Path) -> None:
    with pytest.raises(PluginError, match="only imports it"):
        Source("kit_lib.one").needs("OneConfig")


@pytest.mark.parametrize("plugin", SHIPPED, ids=lambda p: f"{p.kind}:{p.name}")
def test_every_plugin_of_mdp_can_be_copied(plugin: Plugin, tmp_path: Path) -> None:
    """Every name that the copy uses is defined or imported in it, and its settings are those of the original."""
    needed = {"path": str(tmp_path)} if plugin.name == "mask-folder" else None
    made = new_package(HOST, "my-copy", kind_of(HOST, None, f"{plugin.kind}:{plugin.name}"), tmp_path, plugin.name, needed)
    source = made.folder / "src"
    for path in source.rglob("*.py"):
        ast.parse(path.read_text())
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F", str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    ours = tmp_path / "ours.json"
    code = f"import json, my_copy.settings as s; print(json.dumps(s.{made.names.config}.model_json_schema()['properties']))"
    printed = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=False)
    assert printed.returncode == 0, printed.stderr
    ours.write_text(printed.stdout)
    schema = HOST.config(plugin.kind, plugin.name).model_json_schema()["properties"]
    assert json.loads(ours.read_text()) == schema


def test_settings_without_a_default_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="needs the setting path") as caught:
        new_package(HOST, "my-copy", "prior", tmp_path, "mask-folder")
    assert caught.value.hint == "--set path=…"
    assert not list(tmp_path.iterdir())


def test_a_plugin_of_one_file_becomes_a_package(tmp_path: Path, toy: Path) -> None:
    host = PluginHost(RegistryFile(), [toy])
    made = new_package(host, "brighter", "prior", tmp_path, "bright")
    method, settings = ((made.folder / "src" / "brighter" / f"{name}.py").read_text() for name in ("method", "settings"))
    assert "class Brighter(GroupingPrior[BrighterConfig])" in method
    assert "class BrighterConfig(StageConfig)" in settings
    assert "from brighter.settings import BrighterConfig" in method
    assert "Clusterer" not in method
    assert "mdp_register" not in method + settings
