"""What a run was made with: distributions, git, machine, plugins; quick, and without secrets."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mdp_core.engine import provenance
from mdp_core.plugins.loader import load_plugins
from mdp_core.recipe.load import load_recipe

TESTS = Path(__file__).parents[2]
RECIPE, TOY = TESTS / "toy.yaml", TESTS / "toy_method.py"


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=ada", "-c", "user.email=ada@example.org"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "müsli.txt").write_text("one\n")
    (folder / "picture.bin").write_bytes(bytes(range(256)))
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "first")
    return folder


def test_the_names_of_folders_say_what_reading_all_metadata_says() -> None:
    slow: dict[str, str] = {}
    for path in sys.path:
        for found in importlib.metadata.distributions(path=[path]):
            slow.setdefault(re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower(), found.version)
    quick = {re.sub(r"[-_.]+", "-", d.name).lower(): d.version for d in provenance.installed()}
    assert quick == slow
    assert len(quick) > 50


def test_where_a_distribution_came_from(tmp_path: Path) -> None:
    for name, url in {
        "a_b-1.0": '{"url": "file:///home/ada/a", "dir_info": {"editable": true}}',
        "c-2.0+cpu": '{"url": "https://ada:secret@example.org/c.git", "vcs_info": {"vcs": "git", "commit_id": "12ab"}}',
        "d-3.0rc1": None,
    }.items():
        (tmp_path / f"{name}.dist-info").mkdir()
        if url:
            (tmp_path / f"{name}.dist-info" / "direct_url.json").write_text(url)
    (tmp_path / "e-4.0-py3.11.egg-info").write_text("")
    (tmp_path / "not_a_distribution").mkdir()
    assert [d.line for d in provenance.installed([str(tmp_path), str(tmp_path / "nowhere")])] == [
        "a-b==1.0  # editable /home/ada/a", "c==2.0+cpu  # git+https://***@example.org/c.git@12ab", "d==3.0rc1", "e==4.0",
    ]  # fmt: skip


def test_a_clean_checkout(checkout: Path, tmp_path: Path) -> None:
    inside = checkout / "deeper"
    inside.mkdir()
    state = provenance.git_state(inside, tmp_path / "x.diff")
    assert state is not None
    assert state | {"branch": ""} == {
        "commit": git(checkout, "rev-parse", "HEAD").strip(), "branch": "", "root": str(checkout), "dirty": False, "untracked": 0,
    }  # fmt: skip
    assert not (tmp_path / "x.diff").exists()


def test_uncommitted_changes_can_be_applied_again(checkout: Path, tmp_path: Path) -> None:
    (checkout / "müsli.txt").write_text("one\ntwo\n")
    (checkout / "picture.bin").write_bytes(bytes(range(255, -1, -1)))
    (checkout / "new.txt").write_text("not tracked")
    diff = tmp_path / "uncommitted.diff"
    state = provenance.git_state(checkout, diff)
    assert state is not None
    assert (state["dirty"], state["untracked"], state["diff"], state["diff_cut"]) == (True, 1, "uncommitted.diff", False)
    assert state["diff_bytes"] == diff.stat().st_size
    git(checkout, "checkout", "--quiet", "--", ".")
    git(checkout, "apply", str(diff))
    assert (checkout / "müsli.txt").read_text() == "one\ntwo\n"
    assert (checkout / "picture.bin").read_bytes() == bytes(range(255, -1, -1))


def test_a_long_diff_is_cut_off_and_says_so(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "DIFF_BYTES", 3000)
    (checkout / "müsli.txt").write_text("".join(f"line {i}\n" for i in range(100_000)))
    state = provenance.git_state(checkout, tmp_path / "x.diff")
    text = (tmp_path / "x.diff").read_text()
    assert state is not None and state["diff_cut"] is True
    assert text.endswith("\n# cut off: the changes are longer than 3,000 bytes\n")
    assert 2900 < len(text) < 3100


def test_only_untracked_files_leave_no_diff(checkout: Path, tmp_path: Path) -> None:
    (checkout / "new.txt").write_text("not tracked")
    state = provenance.git_state(checkout, tmp_path / "x.diff")
    assert state is not None and state["dirty"] and "diff" not in state
    assert not (tmp_path / "x.diff").exists()


def test_outside_a_checkout_and_before_the_first_commit(tmp_path: Path) -> None:
    assert provenance.git_state(tmp_path) is None
    git(tmp_path, "init", "--quiet")
    assert provenance.git_state(tmp_path) is None


def test_no_variables_but_a_few_and_no_credentials() -> None:
    environ = {
        "MDP_SHARD_SIZE": "4", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "0", "PATH": "/bin", "AWS_SECRET_ACCESS_KEY": "x",
        "MLFLOW_TRACKING_URI": "https://ada:secret@example.org/mlflow?token=abc&x=1", "MLFLOW_TRACKING_PASSWORD": "secret",
        "MY_MDP_KEY": "secret",
    }  # fmt: skip
    assert provenance.variables(environ) == {
        "CUDA_VISIBLE_DEVICES": "0", "MDP_SHARD_SIZE": "4", "OMP_NUM_THREADS": "1",
        "MLFLOW_TRACKING_URI": "https://***@example.org/mlflow?token=***&x=1",
    }  # fmt: skip
    assert provenance.redacted("postgresql://ada:p%40ss@host/db") == "postgresql://***@host/db"
    assert provenance.redacted("mdp run a@b.yaml --set data.root=photos") == "mdp run a@b.yaml --set data.root=photos"


def test_the_machine() -> None:
    here = provenance.device()
    assert here.cpu
    assert 1 <= here.usable <= here.cores
    assert here.memory > 2**28


def test_all_of_it_is_quick_and_kept(tmp_path: Path) -> None:
    host = load_plugins([TOY])
    recipe = load_recipe(RECIPE, [], host, {}).recipe
    seconds = []
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        started = time.perf_counter()
        found = provenance.environment(host, recipe, folder)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.25, seconds
    rows = {(row["kind"], row["name"]): row for row in found["plugins"]}
    assert rows["prior", "bright"]["sha256"] == provenance.file_sha256(TOY)
    assert rows["dataset", "shapes"]["version"] == found["libraries"]["mdp-platform"]
    assert ("executor", "serial") in rows
    (kept,) = provenance.kept_plugins(folder)
    assert kept.unchanged and kept.file == TOY and kept.copy.read_bytes() == TOY.read_bytes()
    assert kept.copy.name == TOY.name, "the name of the module"
    registry = provenance.kept_registry(folder)
    assert registry is not None
    assert registry.model_copy(update={"files": host.registry.files}) == host.registry
    assert any(line.startswith("torch==") for line in found["freeze"])


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, tempfile\nfrom pathlib import Path\nfrom mdp_core.engine import provenance\n"
        "from mdp_core.plugins.loader import load_plugins\nfrom mdp_core.recipe.load import load_recipe\n"
        f"host = load_plugins([Path({str(TOY)!r})])\nrecipe = load_recipe({str(RECIPE)!r}, [], host, {{}}).recipe\n"
        "provenance.environment(host, recipe, Path(tempfile.mkdtemp()))\n"
        "print([m for m in ('torch', 'mlflow', 'ray', 'matplotlib', 'cv2', 'timm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
