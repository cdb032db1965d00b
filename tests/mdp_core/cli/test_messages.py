"""How the command line answers errors that nobody foresaw."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from mdp_core.cli.messages import for_people


def test_an_unforeseen_error_is_one_line_and_its_traceback_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("MDP_DEBUG", raising=False)
    with pytest.raises(typer.Exit) as caught, for_people():
        raise KeyError("topk")
    assert caught.value.exit_code == 1
    said = capsys.readouterr().err
    assert "error: unexpected KeyError: 'topk'" in said
    assert "Traceback" not in said
    file = Path(re.search(r"its traceback: (\S+)", said)[1])  # type: ignore[index]
    assert "Traceback (most recent call last)" in file.read_text()
    monkeypatch.setenv("MDP_DEBUG", "1")
    with pytest.raises(KeyError), for_people():
        raise KeyError("topk")


def test_exits_and_wrong_options_pass_through() -> None:
    with pytest.raises(typer.Exit) as caught, for_people():
        raise typer.Exit(7)
    assert caught.value.exit_code == 7
    with pytest.raises(typer.BadParameter), for_people():
        raise typer.BadParameter("no")
