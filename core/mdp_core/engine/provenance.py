"""Provenance: what a run was made with, for its record and its folder.

Nothing here imports a library to ask for its version, or starts more than a few quick processes of git: a run in which everything
is in the store takes seconds, and this is a part of it (20 to 50 ms with 200 distributions).
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from mdp_core.data.storage import write_json
from mdp_core.engine.store import disk_errors, read_json
from mdp_core.errors import MdpError
from mdp_core.plugins.loader import PluginHost
from mdp_core.plugins.registry_file import RegistryFile
from mdp_core.recipe.schema import Recipe
from mdp_core.settings import file_sha256

LIBRARIES = (
    "mdp-platform", "torch", "torchvision", "timm", "lightly", "onedl-mmcv", "onedl-mmengine", "onedl-mmdetection",
    "onedl-mmsegmentation", "numpy", "scipy", "scikit-learn", "faiss-cpu", "opencv-python", "pillow", "mlflow", "ray",
)  # fmt: skip
"""Distributions whose versions results may depend on."""
DIFF_BYTES = 1_000_000
"""Uncommitted changes are kept up to this size."""
GIT_SECONDS = 5.0
KEPT_PLUGINS = "plugins"
"""Folder, inside a run's, with the sources of its one-file plugins; ``plugins.json`` there says which file was which."""
KEPT_REGISTRY = "registry.yaml"
_VARIABLES = re.compile(r"MDP_\w+|OMP_\w+|CUDA_VISIBLE_DEVICES|MLFLOW_TRACKING_URI")
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+(?=@)|(?i:(?<=password=)|(?<=token=)|(?<=secret=)|(?<=api_key=))[^&\s]+")
_INFORMATION = re.compile(r"^(?P<name>.+?)-(?P<version>\d[^-]*)(?:-py[\d.]+)?\.(?:dist|egg)-info$")


def environment(host: PluginHost, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Describes what a run is made with, and keeps in the run's folder what cannot be looked up again.

    Args:
        host: The plugins.
        recipe: The recipe.
        folder: The run's; takes uncommitted changes as ``uncommitted.diff`` (``mdp-uncommitted.diff`` for the checkout that mdp is
            installed from, where it is another one), the sources of one-file plugins and the registry.

    Returns:
        JSON-ready: python, platform, cpus, argv, folder, libraries, freeze, git, mdp_git, device, plugins, variables.

    Raises:
        StoreError: The folder cannot be written.
    """
    freeze = installed()
    versions = {re.sub(r"[-_.]+", "-", d.name).lower(): d.version for d in freeze}
    with disk_errors(folder):
        here = git_state(Path.cwd(), folder / "uncommitted.diff")
        own = checkout_of_mdp()
        same = own is not None and here is not None and Path(here["root"]) == own
        there = here if same else own and git_state(own, folder / "mdp-uncommitted.diff")
        keep_plugins(host, folder)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "argv": [redacted(argument) for argument in sys.argv],
        "folder": str(Path.cwd()),
        "libraries": {name: versions[name] for name in LIBRARIES if name in versions},
        "freeze": [d.line for d in freeze],
        "git": here,
        "mdp_git": there,
        "device": {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(device()).items()},
        "plugins": plugin_table(host, recipe),
        "variables": variables(os.environ),
    }


# Distributions


@dataclass(frozen=True)
class Installed:
    """An installed distribution.

    Attributes:
        source: Where it came from, if not from an index: ``editable /path``, or the URL of its archive or repository.
    """

    name: str
    version: str
    source: str = ""

    @property
    def line(self) -> str:
        """As ``pip freeze`` writes it, the source in a comment."""
        return f"{self.name}=={self.version}" + (f"  # {self.source}" if self.source else "")


def installed(paths: Sequence[str] | None = None) -> list[Installed]:
    """Lists the distributions on the import path, the first of each name, from the names of their folders alone.

    Reading their metadata takes a hundred times longer than listing the folders.
    """
    found: dict[str, Installed] = {}
    for path in dict.fromkeys(sys.path if paths is None else paths):
        try:
            names = os.listdir(path or ".")
        except OSError:
            continue
        for name in names:
            match = _INFORMATION.match(name) if name.endswith("-info") else None
            if match:
                one = Installed(match["name"].replace("_", "-"), match["version"], _source(Path(path or ".") / name))
                found.setdefault(re.sub(r"[-_.]+", "-", one.name).lower(), one)
    return [found[name] for name in sorted(found)]


def _source(folder: Path) -> str:
    """Reads ``direct_url.json`` (PEP 610), which is there where a distribution came from no index."""
    content = read_json(folder / "direct_url.json") or {}
    url = redacted(str(content.get("url", "")))
    if content.get("dir_info", {}).get("editable"):
        return f"editable {url.removeprefix('file://')}"
    commit = content.get("vcs_info", {}).get("commit_id")
    return f"{content['vcs_info'].get('vcs', 'git')}+{url}@{commit}" if commit else url


# Git


def checkout_of_mdp() -> Path | None:
    """Returns the checkout that mdp runs from; None where it was installed as a wheel."""
    root = Path(__file__).resolve().parents[3]
    return root if (root / ".git").exists() else None


def git_state(folder: Path, diff: Path | None = None) -> dict[str, Any] | None:
    """Describes the git checkout that a folder lies in.

    Args:
        folder: Where to ask.
        diff: Takes the uncommitted changes of tracked files, if there are some; cut off after ``DIFF_BYTES``.

    Returns:
        commit, branch, root, dirty, untracked (number of files), and of the changes: diff (name of the file), diff_bytes, diff_cut;
        None outside a checkout, without git, or where git takes too long.
    """
    place = _git(folder, "rev-parse", "--show-toplevel", "HEAD", "--abbrev-ref", "HEAD")
    lines = place.decode("utf-8", "surrogateescape").splitlines() if place else []
    status = _git(folder, "status", "--porcelain") if len(lines) == 3 else None
    if status is None:
        return None
    root, commit, branch = lines
    changes = status.decode("utf-8", "replace").splitlines()
    untracked = sum(line.startswith("??") for line in changes)
    state: dict[str, Any] = {"commit": commit, "branch": branch, "root": root, "dirty": bool(changes), "untracked": untracked}
    if diff is not None and len(changes) > untracked:
        text, cut = _diff(Path(root))
        diff.write_bytes(text)
        state |= {"diff": diff.name, "diff_bytes": len(text), "diff_cut": cut}
    return state


_COMMAND = ("git", "-c", "core.fsmonitor=false", "-c", "core.quotePath=false", "--no-optional-locks", "--no-pager")


def _git(folder: Path, *arguments: str) -> bytes | None:
    try:
        done = subprocess.run([*_COMMAND, *arguments], cwd=folder, capture_output=True, timeout=GIT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _diff(root: Path) -> tuple[bytes, bool]:
    """Returns the changes of tracked files, and whether they were cut off; never reads much more than is kept."""
    command = [*_COMMAND, "diff", "HEAD", "--binary", "--no-ext-diff", "--no-textconv", "--no-color"]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        patience = threading.Timer(GIT_SECONDS, process.kill)
        patience.start()
        text = process.stdout.read(DIFF_BYTES + 1) if process.stdout else b""
        if len(text) > DIFF_BYTES:
            process.kill()
        late = process.wait() != 0
        patience.cancel()
    if not late:
        return text, False
    whole = text[:DIFF_BYTES].rpartition(b"\n")[0]
    why = f"the changes are longer than {DIFF_BYTES:,} bytes" if len(text) > DIFF_BYTES else "git took too long"
    return whole + f"\n# cut off: {why}\n".encode(), True


# Machine


@dataclass(frozen=True)
class Device:
    """What a run computes on.

    Attributes:
        cpu: Model of the processor.
        cores: Cores of the machine; usable: those that this process may use.
        memory: Bytes.
        gpus: Names of the GPUs, in the driver's order; driver: version of NVIDIA's.
    """

    cpu: str
    cores: int
    usable: int
    memory: int
    gpus: tuple[str, ...] = ()
    driver: str = ""


def device() -> Device:
    """Describes processors, memory and NVIDIA GPUs, from /proc where there is one."""
    cpu = _first(Path("/proc/cpuinfo"), r"^model name\s*:\s*(.+)$") or platform.processor() or platform.machine()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        memory = 0
    driver = _first(Path("/proc/driver/nvidia/version"), r"Kernel Module\D*?(\d[\d.]+)")
    return Device(cpu, os.cpu_count() or 1, usable, memory, tuple(_gpus()), driver)


def _gpus() -> Iterator[str]:
    found = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    if found:
        yield from (_first(file, r"^Model:\s*(.+)$") or "NVIDIA GPU" for file in found)
    elif any(Path("/dev").glob("nvidia[0-9]*")) and shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        try:
            listed = subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return
        if listed.returncode == 0:
            yield from filter(None, map(str.strip, listed.stdout.splitlines()))


def _first(file: Path, pattern: str) -> str:
    try:
        match = re.search(pattern, file.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    except OSError:
        return ""
    return match[1].strip() if match else ""


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the few environment variables that matter to a run, without credentials; no others are ever recorded."""
    return {name: redacted(environ[name]) for name in sorted(environ) if _VARIABLES.fullmatch(name)}


def redacted(text: str) -> str:
    """Returns a text with the credentials of its URLs taken out."""
    return _CREDENTIALS.sub("***", text)


# Plugins


def plugin_table(host: PluginHost, recipe: Recipe) -> list[dict[str, Any]]:
    """Returns the plugins that a recipe uses: kind, name, distribution, version, sha256 of one-file plugins, cache_version."""
    used = [("dataset", recipe.data.use), *((s.kind, s.use) for s in recipe.pipeline.values())]
    used.append(("executor", recipe.executor.use if recipe.executor else host.default("executor") or "serial"))
    used += [("observer", name) for name in (*host.registry.observers, *(o.use for o in recipe.observers))]
    rows = []
    for kind, name in dict.fromkeys(used):
        try:
            plugin, config = host.plugin(kind, name), host.config(kind, name)
        except MdpError:  # an observer of the registry that is broken: the run goes on without it
            continue
        rows.append(
            {
                "kind": kind,
                "name": plugin.name,
                "distribution": Path(plugin.distribution).name if plugin.content else plugin.distribution,
                "version": "" if plugin.content else plugin.version,
                "sha256": plugin.content,
                "cache_version": config.cache_version,
            }
        )
    return rows


def keep_plugins(host: PluginHost, folder: Path) -> None:
    """Copies the sources of one-file plugins and the registry into a run's folder, so that a later edit does not change its repetition."""
    kept = []
    for file in host.files:
        sha256 = file_sha256(file)
        copy = folder / KEPT_PLUGINS / sha256[:12] / file.name  # the name stays: it is the module's
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
        kept.append({"file": str(file), "sha256": sha256, "copy": str(copy.relative_to(folder))})
    if kept:
        write_json(folder / KEPT_PLUGINS / "plugins.json", {"files": kept})
    registry = {k: v for k, v in host.registry.model_dump(mode="json").items() if k != "files"}
    header = "# The registry of this run, for `mdp run --from-run`; its files are in plugins/.\n"
    (folder / KEPT_REGISTRY).write_text(header + yaml.safe_dump({**registry, "files": []}, sort_keys=False), encoding="utf-8")


@dataclass(frozen=True)
class KeptPlugin:
    """A one-file plugin of a run.

    Attributes:
        file: Where it lay.
        sha256: Its contents then.
        copy: Its source in the run's folder.
    """

    file: Path
    sha256: str
    copy: Path

    @property
    def unchanged(self) -> bool:
        """Whether the file is still there, as it was."""
        return self.file.is_file() and file_sha256(self.file) == self.sha256


def kept_plugins(folder: Path) -> list[KeptPlugin]:
    """Returns the one-file plugins of a run."""
    content = read_json(folder / KEPT_PLUGINS / "plugins.json") or {}
    return [KeptPlugin(Path(k["file"]), k["sha256"], folder / k["copy"]) for k in content.get("files", ())]


def kept_registry(folder: Path) -> RegistryFile | None:
    """Returns the registry of a run; None where it kept none."""
    file = folder / KEPT_REGISTRY
    return RegistryFile.model_validate(yaml.safe_load(file.read_text(encoding="utf-8"))) if file.is_file() else None
