"""A fresh environment: nothing is installed in it, but the libraries of the one that runs the tests can be imported."""

from __future__ import annotations

import os
import site
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

OFFLINE = {"PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
"""pip without the network and without dependencies; of the second, 0 means without isolation."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment of its own."""

    python: Path
    home: Path

    def run(self, *arguments: str, cwd: Path | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs its Python; fails with what it printed."""
        env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "MDP_", "PYTHONPATH"))}
        env |= {"MDP_HOME": str(self.home), "OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONDONTWRITEBYTECODE": "1"}
        env |= {"PATH": f"{self.python.parent}{os.pathsep}{env['PATH']}", **OFFLINE}
        done = subprocess.run(
            [str(self.python), *arguments],
            cwd=cwd or self.home,
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert not check or done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done

    def mdp(self, *arguments: str, cwd: Path | None = None) -> str:
        """Calls the command line; returns what it printed."""
        return self.run("-m", "mdp_core.cli.main", *arguments, cwd=cwd).stdout

    def install(self, *packages: Path) -> None:
        """Installs packages, without the network and without their dependencies."""
        options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
        self.run("-m", "pip", "install", *options, *map(str, packages))


def make(place: Path) -> Environment:
    """Makes an environment below ``place``, with the command ``mdp`` in it."""
    folder, home = place / "env", place / "home"
    home.mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    packages = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    libraries = [path for path in site.getsitepackages() if Path(path).is_dir()]
    lines = [f"import site; site.addsitedir({path!r})" for path in libraries]  # so that their .pth files count, too
    Path(packages, "libraries.pth").write_text("\n".join(lines) + "\n")
    command = folder / "bin" / "mdp"
    command.write_text(f"#!{python}\nfrom mdp_core.cli.main import main\nmain()\n")
    command.chmod(0o755)
    return Environment(python, home)
