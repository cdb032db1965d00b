"""The host on real installed packages: small ones, written to a folder on the path with their metadata."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mdp_core.errors import ObserverWarning, PluginError
from mdp_core.plugins.hookspecs import hookimpl
from mdp_core.plugins.loader import Observers, PluginHost, load_plugins
from mdp_core.plugins.registry_file import RegistryFile

GOOD = '''
from mdp_core.api import GroupingPrior, StageConfig, hookimpl

class Config(StageConfig):
    strength: float = 0.5
    """How strong."""

class Prior(GroupingPrior[Config]):
    Config = Config
    def mine(self, images):
        yield from ()

@hookimpl
def mdp_register(registry):
    registry.add("prior", "{name}", factory=":Prior", summary="a third party's", api={api})
'''

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a distribution with one module and an entry point into a folder on the path."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")

    def do(distribution: str, source: str, version: str = "1.2") -> Path:
        module = distribution.replace("-", "_")
        (site / f"{module}.py").write_text(source)
        info = site / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[mdp]\n{module} = {module}\n")
        (info / "RECORD").write_text("")
        sys.modules.pop(module, None)
        return site

    return do


def test_a_third_party_package_is_found_and_made(install: Install) -> None:
    install("mdp-strong", GOOD.format(name="strong", api=1))
    host = load_plugins()
    host.check()
    plugin = host.plugin("prior", "strong")
    assert (plugin.distribution, plugin.version, plugin.identity) == ("mdp-strong", "1.2", "mdp-strong")
    made = host.create("prior", "strong", {"strength": 0.7}, context=None)
    assert made.config.strength == 0.7


def test_a_broken_package_is_shown_and_harms_nobody(install: Install) -> None:
    install("mdp-broken", "raise ImportError('libfoo.so.3 is missing')")
    host = load_plugins()
    host.check()
    assert [(b.distribution, b.error) for b in host.broken] == [("mdp-broken", "ImportError: libfoo.so.3 is missing")]
    assert "dino-affinity" in host.names("prior")
    with pytest.raises(PluginError, match="no prior named 'brokn'") as caught:
        host.plugin("prior", "brokn")
    assert "libfoo.so.3" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = 1", "it registers nothing"),
        (
            GOOD.replace("def mdp_register", "def mdp_registr").format(name="a", api=1),
            "unknown hook mdp_registr, did you mean mdp_register",
        ),
        (GOOD.replace('"prior", "{name}"', '"piror", "a"').replace("{api}", "1"), "no kind 'piror', did you mean 'prior'"),
        ("def", "SyntaxError"),
        ("import sys; sys.no_such_thing()", "AttributeError"),
    ],
)
def test_what_breaks_a_plugin_is_said(install: Install, source: str, words: str) -> None:
    install("mdp-odd", source)
    assert words in load_plugins().broken[0].error


WEIGHTS = """
from mdp_core.api import WeightsInfo, hookimpl

@hookimpl
def mdp_describe_weights(ref):
    return {answer}
"""


def test_a_package_may_know_of_weights_alone(install: Install) -> None:
    install("others-weights", WEIGHTS.format(answer="WeightsInfo(ref, 'here', 'CC0') if ref == 'timm:zzz' else None"))
    host = load_plugins()
    assert not any(b.distribution == "others-weights" for b in host.broken)
    assert host.describe_weights("timm:zzz").licence == "CC0"
    assert host.describe_weights("builtin:random").origin == "made by code", "others' weights are still known"
    with pytest.raises(PluginError, match="no plugin knows weights like ftp:x"):
        host.describe_weights("ftp:x")


def test_a_broken_package_is_not_asked_about_weights(install: Install) -> None:
    install("bad-weights", WEIGHTS.format(answer="1 / 0") + "\n@hookimpl\ndef mdp_no_such_hook():\n    pass\n")
    host = load_plugins()
    assert any(b.distribution == "bad-weights" and "unknown hook" in b.error for b in host.broken)
    assert host.describe_weights("builtin:random").origin == "made by code"


def test_what_a_package_answers_about_weights_is_checked(install: Install) -> None:
    install("odd-weights", WEIGHTS.format(answer="'some weights'"))
    with pytest.raises(PluginError, match="mdp_describe_weights: a plugin returned str, not WeightsInfo"):
        load_plugins().describe_weights("builtin:random")


def test_strict_mode_refuses_broken_plugins(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("mdp-broken", "raise RuntimeError('no')")
    monkeypatch.setenv("MDP_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError, match=r"mdp_broken from mdp-broken 1\.2 is broken: RuntimeError: no"):
        load_plugins().check()


def test_two_plugins_of_one_name_are_an_error_that_registry_yaml_settles(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("mdp-one", GOOD.format(name="same", api=1))
    install("mdp-two", GOOD.format(name="same", api=1), "0.3")
    with pytest.raises(PluginError) as caught:
        load_plugins().check()
    for words in ("prior:same", "mdp-one 1.2", "mdp-two 0.3", 'pins: {"prior:same": mdp-one}'):
        assert words in caught.value.message
    registry = tmp_path / "registry.yaml"
    registry.write_text('pins: {"prior:same": mdp-two}\n')
    monkeypatch.setenv("MDP_REGISTRY", str(registry))
    host = load_plugins()
    host.check()
    assert host.plugin("prior", "same").distribution == "mdp-two"
    registry.write_text("disabled: [mdp-two]\n")
    assert load_plugins().plugin("prior", "same").distribution == "mdp-one"


def test_a_plugin_for_another_api_names_both_versions(install: Install) -> None:
    install("mdp-future", GOOD.format(name="future", api=9))
    with pytest.raises(PluginError, match=r"prior:future from mdp-future 1.2 is written for plugin API 9, this mdp has 1"):
        load_plugins().check()


def test_only_named_entry_points_are_loaded(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("mdp-strong", GOOD.format(name="strong", api=1))
    monkeypatch.setenv("MDP_PLUGINS", "mdp_strong")
    own = [("executor", "process"), ("executor", "serial")]  # the core's, which no setting removes
    assert sorted(load_plugins().plugins) == [*own, ("prior", "strong")]
    monkeypatch.setenv("MDP_PLUGINS", "")
    assert sorted(load_plugins().plugins) == own


def test_listing_imports_no_method(tmp_path: Path) -> None:
    """Every shipped plugin is listed, and its settings are known, without torch, mlflow or any other heavy library."""
    code = (
        "import sys, json\n"
        "from mdp_core.plugins.loader import load_plugins\n"
        "host = load_plugins()\n"
        "[host.config(k, n) for k, n in host.plugins]\n"
        "print(json.dumps([len(host.plugins), [m for m in ('torch', 'mlflow', 'timm', 'mmengine', 'faiss', 'sklearn', 'cv2') if m in sys.modules]]))"
    )
    found, heavy = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert found >= 9
    assert heavy == []


def test_aliases_and_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    host = PluginHost(RegistryFile(defaults={"prior": "dino-affinity"}, aliases={"prior": {"dino": "dino-affinity"}}))
    assert host.plugin("prior", "dino").name == "dino-affinity"
    assert host.default("prior") == "dino-affinity"
    assert host.default("detector") is None


def test_an_unknown_plugin_gets_a_suggestion() -> None:
    with pytest.raises(PluginError, match="no prior named 'dino-afinity', did you mean 'dino-affinity'") as caught:
        load_plugins().plugin("prior", "dino-afinity")
    assert "there are: " in str(caught.value.hint)


def test_a_one_file_plugin_is_keyed_by_its_contents(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(GOOD.format(name="mine", api=1))
    before = load_plugins([file]).plugin("prior", "mine").identity
    file.write_text(file.read_text() + "\n# edited\n")
    after = load_plugins([file]).plugin("prior", "mine").identity
    assert before.startswith("file-sha256:")
    assert before != after


@pytest.mark.parametrize(
    ("source", "words"),
    [(None, "no such plugin file"), ("import nothing_there", "ModuleNotFoundError"), ("", "registers nothing")],
)
def test_a_one_file_plugin_that_cannot_be_used_is_an_error(tmp_path: Path, source: str | None, words: str) -> None:
    file = tmp_path / "mine.py"
    if source is not None:
        file.write_text(source)
    with pytest.raises(PluginError, match=words):
        load_plugins([file]).check()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("defaults: [1]", "defaults"),
        ("default: {}", "default: unknown setting, did you mean 'defaults'"),
        ("[]", "a registry is a mapping"),
        ("a: [", "not YAML"),
    ],
)
def test_mistakes_in_registry_yaml_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str) -> None:
    file = tmp_path / "registry.yaml"
    file.write_text(text)
    monkeypatch.setenv("MDP_REGISTRY", str(file))
    with pytest.raises(PluginError) as caught:
        load_plugins()
    assert words in caught.value.message
    assert str(file) in caught.value.message


def test_an_observer_that_fails_is_switched_off_and_the_others_go_on() -> None:
    class Bad:
        calls = 0

        @hookimpl
        def mdp_run_finished(self) -> None:
            Bad.calls += 1
            raise ConnectionError("no server")

    class Good:
        calls = 0

        @hookimpl
        def mdp_run_finished(self) -> None:
            Good.calls += 1

    observers = Observers([Bad(), Good()])
    with pytest.warns(ObserverWarning, match="Bad failed in mdp_run_finished .ConnectionError: no server.; it is off"):
        observers.call("mdp_run_finished", run=None, outcome=None)
    observers.call("mdp_run_finished", run=None, outcome=None)
    assert (Bad.calls, Good.calls) == (1, 2)


def test_a_recipe_runs_with_a_plugin_from_an_installed_package(install: Install, tmp_path: Path) -> None:
    """What a third party ships: a package of its own with an entry point, used by one line of a recipe."""
    working = GOOD.replace(
        "yield from ()", "yield from (Instances.from_masks(pixels.mean(axis=2)[None] > 128) for pixels in images)"
    )
    install("mdp-strong", working.replace("GroupingPrior, ", "GroupingPrior, Instances, ").format(name="strong", api=1))
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "name: mine\ndata: {use: shapes, size: 48, train_images: 4}\npipeline:\n  prior: {use: strong, strength: 0.9}\n"
    )
    command = [sys.executable, "-m", "mdp_core.cli.main", "run", str(recipe), "--no-track"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run = json.loads(next((tmp_path / ".mdp" / "runs").iterdir()).joinpath("run.json").read_text())
    assert [(s["id"], s["plugin"], s["status"]) for s in run["steps"]] == [("prior.mine[train]", "strong", "done")]
    masks = json.loads(next((tmp_path / ".mdp" / "runs").iterdir()).joinpath("masks.json").read_text())
    assert len(masks["images"]) == 4
    assert masks["categories"] == [{"id": 0, "name": "object"}]
