"""How the command line speaks: errors without tracebacks, warnings as lines."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TextIO

import typer

from mdp_core.errors import MdpError, MdpWarning, RecipeError

INTERRUPTED = 130


class Terminated(KeyboardInterrupt):
    """SIGTERM, or SIGHUP of a terminal that is closed: handled like Ctrl-C."""


@contextmanager
def for_people(on_interrupt: Callable[[], str] | None = None) -> Iterator[None]:
    """Turns errors that are a person's to mend into messages and exit codes: 2 for a recipe's mistakes, 1 for others, 130 for Ctrl-C."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    def say(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, MdpWarning):
            from rich.console import Console
            from rich.markup import escape

            Console(stderr=True).print("[yellow]warning:[/yellow]", escape(str(message)), highlight=False, soft_wrap=True)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # nohup says that a closed terminal is no reason to stop
            signal.signal(number, terminate)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", MdpWarning)
        warnings.showwarning = say
        try:
            yield
        except MdpError as error:
            _show(error)
            raise typer.Exit(2 if isinstance(error, RecipeError) else 1) from None
        except KeyboardInterrupt:
            typer.echo("\n" + (on_interrupt() if on_interrupt else "interrupted"), err=True)
            raise typer.Exit(INTERRUPTED) from None
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except Exception as error:
            if os.environ.get("MDP_DEBUG") == "1":
                raise
            _show(_unexpected(error))
            raise typer.Exit(1) from None
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _unexpected(error: Exception) -> MdpError:
    """Keeps the traceback of an error that nobody foresaw in a file, and says where."""
    with tempfile.NamedTemporaryFile("w", prefix="mdp-traceback-", suffix=".txt", delete=False, encoding="utf-8") as file:
        file.write("".join(traceback.format_exception(error)))
    return MdpError(
        f"unexpected {type(error).__name__}: {error}",
        hint=f"this is a mistake in mdp or in a plugin, not yours; its traceback: {file.name} (MDP_DEBUG=1 prints it)",
    )


def _show(error: MdpError) -> None:
    typer.secho("error: ", fg="red", bold=True, nl=False, err=True)
    typer.echo(error.message, err=True)
    if error.hint:
        typer.echo(f"  → {error.hint}", err=True)
    sys.stderr.flush()
