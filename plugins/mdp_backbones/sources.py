"""Where weights come from: timm's names with the hub's cache behind them, and the weights that are part of the package.

Nothing here loads weights, and importing this imports neither timm nor torch. Downloads happen in ``TimmWeights.fetch`` alone, of
the one file that the name stands for.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import constants, get_session, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError

from mdp_core.api import WeightsError

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

__all__ = ["BUILTINS", "Builtin", "TimmWeights", "builtin", "in_hub_cache", "timm_weights"]

FILE = "model.safetensors"
"""The file of each of timm's repositories on the hub."""
SECONDS = 5
"""How long the hub may take to answer at all before it counts as not there."""


@dataclass(frozen=True)
class Builtin:
    """Weights that are part of the package.

    Attributes:
        name: After ``builtin:``.
        description: What they are, in a sentence.
        licence: Their licence.
        trained: False for weights that have learnt nothing.
        parameters: Number of parameters of those that are made by code.
        file: Name of the safetensors file with a card in ``builtin/``; None: they are made by code.
        sha256: Of the file.
    """

    name: str
    description: str
    licence: str = "Apache-2.0"
    trained: bool = True
    parameters: int | None = None
    file: str | None = None
    sha256: str | None = None

    @property
    def path(self) -> Path | None:
        """Where the file lies or should lie."""
        return Path(__file__).parent / "builtin" / self.file if self.file else None


# Results are keyed by the name: other contents need another name.
BUILTINS = {
    weights.name: weights
    for weights in (
        Builtin("random", "A small ViT with untrained weights, for trials.", trained=False, parameters=1_866_432),
        Builtin(
            "tiny",
            "A small ViT that learnt without labels from generated scenes (mdp pretrain pretrain-shapes).",
            file="tiny.safetensors",
            sha256="48cb4e31d680fe226c3195ce2dc139648cf8f6115983a051f9f64fb32841b73c",
        ),
    )
}


def builtin(name: str) -> Builtin:
    """Returns the built-in weights of a name, whose file is there.

    Raises:
        WeightsError: There are none of this name, or their file is not in this installation.
    """
    if name not in BUILTINS:
        close = difflib.get_close_matches(name, BUILTINS, 1)
        raise WeightsError(
            f"there are no weights builtin:{name}" + (f", did you mean builtin:{close[0]}?" if close else ""),
            hint=f"there are: {', '.join(f'builtin:{known}' for known in BUILTINS)}",
        )
    weights = BUILTINS[name]
    if weights.path is not None and not weights.path.is_file():
        raise WeightsError(
            f"builtin:{name} is not in this installation: {weights.path} is missing", hint="install mdp-platform again"
        )
    return weights


@dataclass(frozen=True)
class TimmWeights:
    """Weights by timm's name.

    Attributes:
        name: ``ARCHITECTURE.TAG``, or an architecture alone, which stands for its default tag.
        config: What timm knows of them: repository, licence, normalisation.
    """

    name: str
    config: PretrainedCfg

    @property
    def repository(self) -> str | None:
        """Repository on the hub."""
        return self.config.hf_hub_id.partition("@")[0] if self.config.hf_hub_id else None

    @property
    def revision(self) -> str | None:
        """Revision in the repository that timm pins; by default its main one."""
        return (self.config.hf_hub_id or "").partition("@")[2] or None

    @property
    def origin(self) -> str:
        """Where the weights are published, as a link."""
        return f"https://huggingface.co/{self.repository}" if self.repository else str(self.config.url or "nowhere")

    def cached(self) -> Path | None:
        """Returns the file in the cache (``HF_HUB_CACHE``, or torch's for the few that are not on the hub), or None."""
        if self.repository is None:
            return self._torch_file if self._torch_file.is_file() else None
        return in_hub_cache(self.repository, self.revision)

    def fetch(self) -> Path:
        """Returns the file, downloading it into the cache if it is not there; shows progress where there is a terminal.

        Raises:
            WeightsError: It is not there and cannot be fetched; says what to place where.
        """
        if (found := self.cached()) is not None:
            return found
        try:
            if self.repository is None:
                self._torch_file.parent.mkdir(parents=True, exist_ok=True)
                from torch.hub import download_url_to_file

                download_url_to_file(str(self.config.url), str(self._torch_file))
                return self._torch_file
            if not _hub_answers():
                raise self.missing()
            return Path(hf_hub_download(self.repository, FILE, revision=self.revision))
        except GatedRepoError as error:
            raise WeightsError(
                f"timm:{self.name} is given to those alone who accepted its licence",
                hint=f"accept it at {self.origin}, run `hf auth login`, and try again",
            ) from error
        except WeightsError:
            raise
        except Exception as error:  # the hub's client, its transports and urllib raise many kinds
            raise self.missing(f" ({type(error).__name__}: {error})") from error

    def missing(self, why: str = "") -> WeightsError:
        """Returns the error for weights that are neither here nor within reach."""
        message = f"weights timm:{self.name} are not in the cache and cannot be downloaded{why}"
        if self.repository is None:
            return WeightsError(message, hint=f"fetch {self.config.url} elsewhere and place it at {self._torch_file}")
        folder = Path(constants.HF_HUB_CACHE) / f"models--{self.repository.replace('/', '--')}"
        official = f", or {self.config.url}," if self.config.url else ""
        return WeightsError(
            message,
            hint=f"either run `hf download {self.repository} {FILE}` on a machine with Internet and copy its folder "
            f"{folder.name} to {folder.parent}{os.sep}; or fetch "
            f"{self.origin}/resolve/main/{FILE}{official} and write weights: file:PATH, arch: {self.name}",
        )

    @property
    def _torch_file(self) -> Path:
        from torch.hub import get_dir

        return Path(get_dir()) / "checkpoints" / str(self.config.url).rpartition("/")[2]


def in_hub_cache(repository: str, revision: str | None = None) -> Path | None:
    """Returns the file of weights of one of timm's repositories in the hub's cache (``HF_HUB_CACHE``), or None."""
    found = try_to_load_from_cache(repository, FILE, revision=revision)
    return Path(found) if isinstance(found, str) else None


def timm_weights(name: str) -> TimmWeights:
    """Returns the weights of a name of timm.

    Raises:
        WeightsError: timm has no pretrained weights of this name; says which are close.
    """
    import timm

    try:
        config = timm.get_pretrained_cfg(name, allow_unregistered=False) if timm.is_model(name) else None
    except RuntimeError:
        config = None
    if config is None or not config.has_weights:
        similar = difflib.get_close_matches(name, timm.list_pretrained(), n=5)
        hint = f"did you mean {', '.join(similar)}?" if similar else "see timm.list_pretrained() for the names"
        raise WeightsError(f"timm has no weights {name}", hint=hint)
    return TimmWeights(name, config)


def _hub_answers() -> bool:
    """Asks once, briefly: without a network the hub's client tries for more than a minute before it gives up."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception:
        return False
    return True
