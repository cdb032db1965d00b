"""``mdp weights`` as a person uses it, with a hub's cache of its own and no network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result
from safetensors.torch import save_file
from typer.testing import CliRunner

from mdp_core.api import file_sha256
from mdp_core.cli.main import app

Call = Callable[..., Result]
DINO = "vit_small_patch16_224.dino"
PLUGIN = """
from mdp_core.api import GroupingPrior, Settings, StageConfig, WeightsError, WeightsInfo, WeightsRef, hookimpl

class NetConfig(Settings):
    weights: WeightsRef = "timm:vit_small_patch16_224.dino"
    init: WeightsRef | None = None

class NeedyConfig(StageConfig):
    first: WeightsRef = "timm:vit_small_patch16_224.dino"
    net: NetConfig = NetConfig()

class Needy(GroupingPrior[NeedyConfig]):
    Config = NeedyConfig

@hookimpl
def mdp_register(registry):
    registry.add("prior", "needy", factory=":Needy")
"""
RECIPE = """\
name: needy
data: {{use: shapes}}
pipeline:
  prior: {{use: needy}}
  other: {{kind: prior, use: needy, first: "{first}", net: {{init: "{init}"}}}}
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of a machine without a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    return tmp_path / "hub"


@pytest.fixture
def mdp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Calls the command line in this process, which has torch loaded, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, arguments)


def cached(folder: Path, name: str) -> Path:
    """Puts a file into the cache as the hub's client does, and returns the blob."""
    repo = folder / f"models--timm--{name}"
    for part in ("refs", "blobs", "snapshots/abc"):
        (repo / part).mkdir(parents=True)
    (repo / "refs" / "main").write_text("abc")
    save_file({"weight": torch.arange(1000.0)}, repo / "new")
    blob = repo / "blobs" / file_sha256(repo / "new")
    (repo / "new").rename(blob)
    (repo / "snapshots" / "abc" / "model.safetensors").symlink_to(Path("../../blobs") / blob.name)
    return blob


def write_recipe(folder: Path, first: str, init: str) -> tuple[str, ...]:
    (folder / "needy.py").write_text(PLUGIN)
    (folder / "needy.yaml").write_text(RECIPE.format(first=first, init=init))
    return ("needy.yaml", "--plugin", "needy.py")


def says(done: Result, *words: str, code: int) -> None:
    assert done.exit_code == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.exception is None or isinstance(done.exception, SystemExit)
    for text in words:
        assert text in done.stdout + done.stderr, done.stdout + done.stderr


def test_list_of_a_recipe_and_fetch_without_a_network(mdp: Call, tmp_path: Path, hub: Path) -> None:
    torch.save(
        {"blocks.0.norm1.weight": torch.zeros(8), "patch_embed.proj.weight": torch.zeros(8, 3, 4, 4)}, tmp_path / "own.pth"
    )
    recipe = write_recipe(tmp_path, "builtin:random", "file:own.pth")
    listed = json.loads(mdp("weights", "list", *recipe, "--json").stdout)["weights"]
    found = {w["ref"]: w for w in listed}
    assert list(found) == [f"timm:{DINO}", "builtin:random", "file:own.pth"]
    dino = found[f"timm:{DINO}"]
    assert dino["used_by"] == ["prior", "other"]
    assert dino["origin"] == f"https://huggingface.co/timm/{DINO}"
    assert dino["licence"] == "apache-2.0"
    assert dino["parameters"] == 21_665_664
    assert (dino["here"], dino["path"], dino["size"]) == (False, None, 4 * 21_665_664)
    assert (found["builtin:random"]["here"], found["builtin:random"]["used_by"]) == (True, ["other"])
    assert found["file:own.pth"]["parameters"] == 8 + 8 * 3 * 16
    assert found["file:own.pth"]["size"] == (tmp_path / "own.pth").stat().st_size

    table = mdp("weights", "list", *recipe).stdout
    assert "about 86.7 MB, 21.7 M parameters" in table
    assert "`mdp weights fetch` downloads what is not here" in table

    fetched = mdp("weights", "fetch", *recipe)
    says(
        fetched,
        f"error: weights timm:{DINO} are not in the cache and cannot be downloaded",
        f"copy its folder models--timm--{DINO} to {hub}/",
        "here: file:own.pth  own.pth",
        code=1,
    )
    assert not (tmp_path / ".mdp").exists()


def test_a_prepared_cache_is_found_and_damage_in_it(mdp: Call, tmp_path: Path, hub: Path) -> None:
    blob = cached(hub, DINO)
    everything = json.loads(mdp("weights", "list", "--json").stdout)["weights"]
    assert {"builtin:random", "builtin:tiny", f"timm:{DINO}"} <= {w["ref"] for w in everything}
    says(mdp("weights", "fetch", f"timm:{DINO}"), f"here: timm:{DINO}", code=0)
    whole = mdp("weights", "verify", f"timm:{DINO}", "--json")
    (verdict,) = json.loads(whole.stdout)["weights"]
    assert (verdict["verdict"], verdict["found"], verdict["sha256"]) == ("ok", blob.name, blob.name)

    contents = bytearray(blob.read_bytes())
    contents[-1] ^= 1
    blob.write_bytes(contents)
    says(
        mdp("weights", "verify", f"timm:{DINO}"),
        "damaged",
        f"is damaged or another file: its sha256 is {file_sha256(blob)}, not {blob.name}",
        f"delete {blob} and ",
        f"`mdp weights fetch timm:{DINO}`",
        code=1,
    )


def test_verify_of_files(mdp: Call, tmp_path: Path, hub: Path) -> None:
    save_file({"weight": torch.zeros(9)}, tmp_path / "w.safetensors")
    right = file_sha256(tmp_path / "w.safetensors")
    says(mdp("weights", "verify", "file:w.safetensors"), f"not recorded file:w.safetensors  {right}", code=0)
    recipe = write_recipe(tmp_path, f"file:w.safetensors#sha256={right}", "builtin:random")
    says(mdp("weights", "verify", *recipe, "--set", "pipeline.prior=null", "--set", "pipeline.other.net=null"), code=2)
    only = ("--set", "pipeline.prior=null", "--set", "pipeline.other.net.weights=builtin:random")
    says(
        mdp("weights", "verify", *recipe, *only),
        "ok           file:w.safetensors",
        "made by code builtin:random",
        code=0,
    )
    (tmp_path / "w.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:-4])
    damaged = mdp("weights", "verify", *recipe, *only)
    says(damaged, f"not {right}", "fetch or export it again; if the new contents are meant, correct #sha256=", code=1)
    says(mdp("weights", "verify", "file:w.safetensors"), "cannot be read as safetensors", code=1)
    says(mdp("weights", "list", "file:w.safetensors"), "damaged", code=0)


def test_mistakes(mdp: Call, tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says(mdp("weights", "list", "builtin:tny"), "no weights builtin:tny, did you mean builtin:tiny?", code=1)
    says(mdp("weights", "fetch", "timm:vit_small_patch16_224.dno"), f"did you mean {DINO}", code=1)
    says(mdp("weights", "verify", "file:nowhere.pth"), "file:nowhere.pth: no such file: nowhere.pth", code=1)
    (tmp_path / "w.pth").write_bytes(b"x")
    says(mdp("weights", "list", "file:w.pth#sha256=12"), "expected 64 hexadecimal digits after #sha256=", code=1)
    says(mdp("weights", "list", "quikstart"), "quickstart", code=2)
    monkeypatch.setenv("MDP_PLUGINS", "mdp_datasets")
    says(mdp("weights", "list", "timm:x"), "no plugin knows weights like timm:x", code=1)
    (tmp_path / "broken.py").write_text(
        "from mdp_core.api import hookimpl\n@hookimpl\ndef mdp_describe_weights(ref):\n    return 1 / 0\n"
    )
    broken = mdp("weights", "list", "timm:x", "--plugin", "broken.py")
    says(broken, "mdp_describe_weights('timm:x',) failed (ZeroDivisionError: division by zero)", code=1)
