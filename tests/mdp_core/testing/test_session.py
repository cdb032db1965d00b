"""What is done with the results of checks: expected failures, pytest, the command line, the page of the documentation."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mdp_core.api import Context, Images, PluginError
from mdp_core.testing import CheckFailedError, check_plugin, parametrize_with_checks, plugin_checks, sample_images
from mdp_core.testing.registry import table

WRONG = Path(__file__).parent / "wrong_plugins.py"
PAGE = Path(__file__).parents[3] / "docs" / "plugins" / "testing.md"


def test_an_expected_failure_is_no_failure_and_keeps_its_reason() -> None:
    report = check_plugin(
        "prior:prints-nothing", plugin_files=[WRONG], expected_failures={"prints_nothing": "the library prints"}
    )
    assert report.ok
    (found,) = [r for r in report.results if r.outcome == "expected"]
    assert found.name == "prints_nothing"
    assert found.message.startswith("the library prints (it printed")


def test_an_expected_failure_that_does_not_fail_is_one() -> None:
    report = check_plugin("prior:right", plugin_files=[WRONG], expected_failures={"prints_nothing": "the library prints"})
    (failure,) = report.failures
    assert "it was expected to fail (the library prints), and it does not" in failure.message
    with pytest.raises(CheckFailedError, match="FAILED   prints_nothing"):
        report.raise_for_failures()


@pytest.mark.parametrize(
    ("expected", "says"),
    [
        ({"print_nothing": "why"}, "'print_nothing' is no check, did you mean 'prints_nothing'"),
        ({"does_all_tasks": "why"}, "'does_all_tasks' is not a check for a prior"),
        ({"prints_nothing": " "}, "'prints_nothing' has no reason"),
    ],
)
def test_expectations_have_to_make_sense(expected: dict[str, str], says: str) -> None:
    for use in (check_plugin, parametrize_with_checks):
        with pytest.raises(PluginError, match=says):
            use("prior:right", plugin_files=[WRONG], expected_failures=expected)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("prior:rihgt", "did you mean 'right'"),
        ("nothing-like-it", "no plugin named 'nothing-like-it'"),
        ("pior:right", "no kind of plugin is named 'pior', did you mean 'prior'"),
    ],
)
def test_unknown_plugins(name: str, says: str) -> None:
    with pytest.raises(PluginError, match=says):
        check_plugin(name, plugin_files=[WRONG])
    with pytest.raises(PluginError, match="did you mean 'prior'"):
        plugin_checks("piror")


def test_invalid_settings_fail_one_check_and_skip_what_needs_them() -> None:
    report = check_plugin("prior:right", plugin_files=[WRONG], settings={"shaer": 1})
    assert [r.name for r in report.failures] == ["builds_from_settings"]
    assert "shaer: no such setting" in report.failures[0].message


def test_in_pytest(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(f"""
from mdp_core.testing import parametrize_with_checks

@parametrize_with_checks("prior:prints-nothing", plugin_files=[{str(WRONG)!r}], expected_failures={{"prints_nothing": "so"}})
def test_expected(check):
    check()

@parametrize_with_checks("prior:prints-nothing", plugin_files=[{str(WRONG)!r}], expected_failures={{"pickles": "so"}})
def test_not_expected(check):
    check()
""")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rA",
        "-p",
        "no:cacheprovider",
        "-k",
        "print or pickle or device",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    out = done.stdout
    assert "XFAIL test_it.py::test_expected[prints_nothing] - so" in out, out
    assert "PASSED test_it.py::test_expected[pickles]" in out
    assert "FAILED test_it.py::test_not_expected[prints_nothing]" in out
    assert "XPASS(strict)" in out
    assert "it does not use torch" in out


def test_pytest_is_not_imported_with_it() -> None:
    code = "import mdp_core.testing, sys; assert not {'pytest', 'torch', '_pytest'} & set(sys.modules), 'imported'"
    subprocess.run([sys.executable, "-c", code], check=True)


Mdp = Callable[..., subprocess.CompletedProcess[str]]


def test_the_command(mdp: Mdp) -> None:
    done = mdp("plugins", "check", "scores-are-shares", "--plugin", str(WRONG))
    assert done.returncode == 1
    assert "ok       prints_nothing" in done.stdout
    assert "FAILED   scores_are_shares: scene-2: a score is nan" in done.stdout
    assert "it demands: Scores are float32" in done.stdout
    assert done.stdout.splitlines()[-1] == "prior:scores-are-shares: 24 ok, 1 failed, 1 skipped"
    assert not done.stderr


def test_the_command_as_json(mdp: Mdp) -> None:
    done = mdp("plugins", "check", "prior:right", "--plugin", str(WRONG), "--json")
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert report["ok"]
    assert [c["name"] for c in report["checks"]] == list(plugin_checks("prior"))


def test_a_plugin_is_tried_with_its_own_settings_for_that_and_with_those_given(mdp: Mdp, tmp_path: Path) -> None:
    """Its defaults would need weights that are not here."""
    done = mdp("plugins", "check", "dino-attention", "--set", "mass=0.5")
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[0] == "prior:dino-attention with {weights: 'builtin:tiny', short_side: 48, mass: 0.5}"
    assert check_plugin("prior:right", plugin_files=[WRONG], settings={"share": 0.25}).to_json()["settings"] == {"share": 0.25}
    broken = tmp_path / "broken.py"
    broken.write_text(
        f"from mdp_core.api import hookimpl\n\n@hookimpl\ndef mdp_register(registry):\n    registry.add('prior', 'gone', factory='{tmp_path.name}:No', api=1)\n"
    )
    done = mdp("plugins", "check", "gone", "--plugin", str(broken), "--set", "mass=0.5")
    assert done.returncode == 1
    assert "FAILED   builds_from_settings" in done.stdout, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["rihgt"], 1, "no plugin named 'rihgt', did you mean 'right'?"),
        (["right", "--set", "shaer=1"], 2, "shaer: no such setting"),
        (["settings-are-documented", "--set", "shrae=1"], 2, "did you mean 'share'?"),
        (["settings-are-documented", "--set", "share=many"], 2, "share: Input should be a valid number"),
        (["right", "--set", "shaer"], 2, "not a setting"),
        (["right", "--set", "a=["], 2, "is not YAML"),
        (["--set", "a=1"], 1, "--set needs a plugin"),
    ],
)
def test_mistakes_at_the_command(mdp: Mdp, arguments: list[str], code: int, says: str) -> None:
    done = mdp("plugins", "check", *arguments, "--plugin", str(WRONG))
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_whether_all_plugins_load(mdp: Mdp, tmp_path: Path) -> None:
    fine = mdp("plugins", "check")
    assert fine.returncode == 0, fine.stdout
    assert "ok       prior:dino-affinity from mdp-platform" in fine.stdout
    broken = tmp_path / "broken.py"
    broken.write_text("import no_such_library")
    done = mdp("plugins", "check", "--plugin", str(broken))
    assert done.returncode == 1
    assert "FAILED   broken.py from" in done.stdout
    assert "No module named 'no_such_library'" in done.stdout
    assert not json.loads(mdp("plugins", "check", "--json", "--plugin", str(broken)).stdout)["ok"]


def test_the_page_lists_all_checks() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.split("<!-- checks -->\n")[1].split("\n<!-- /checks -->")[0] == table()


def test_the_sample_images_are_the_same_each_time() -> None:
    images = sample_images()
    assert isinstance(images, Images)
    assert [r.id for r in images.records] == [f"scene-{i}" for i in range(8)]
    assert all((a == b).all() for a, b in zip(images, sample_images(), strict=True))
    assert Context().device == "cpu"
