"""Reads files of weights without running anything that is in them, and writes backbones that describe themselves.

Pickles (``.pth``, ``.pt``) go through ``torch.load(weights_only=True)``; what they hold beside tensors, numbers, texts and the
command-line options that training scripts store (``argparse.Namespace``) is refused. The format is told by the contents.
"""

from __future__ import annotations

import argparse
import difflib
import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError, field_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mdp_backbones.preprocess import IMAGENET, Normalisation
from mdp_core.api import Settings, WeightsError, check_sha256, file_sha256

__all__ = ["Card", "Checkpoint", "read_checkpoint", "save_backbone"]

CARD = "mdp_card"
"""Key of the card among a safetensors file's metadata."""
SUFFIXES = (".safetensors", ".pth", ".pt", ".tar", ".bin")
FORBIDDEN = ("pretrained", "checkpoint_path", "cache_dir", "features_only")
"""Beginnings of timm's settings that would read other files, fetch something, or build no backbone."""

Colour = tuple[float, float, float]


class Card(Settings):
    """What a file of weights says of itself: enough to build its network and to feed it, and where it comes from."""

    format: Literal[1] = 1
    """Version of this card."""
    arch: str = Field(min_length=1)
    """Architecture, by timm's registered name."""
    arch_settings: dict[str, bool | int | float | str | list[int] | None] = Field(default_factory=dict)
    """Settings of the architecture that differ from its defaults, for example img_size."""
    mean: Colour = IMAGENET.mean
    """Mean of the pixels (0 to 1) that the network takes, red, green and blue."""
    std: Colour = IMAGENET.std
    """Standard deviation of the pixels."""
    licence: str = ""
    """Licence of the weights."""
    description: str = ""
    """What the weights were made from and for, in a sentence."""
    trained_by: str = ""
    """The command that made them."""

    @field_validator("arch_settings")
    @classmethod
    def _only_the_network(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if name.startswith(FORBIDDEN):
                raise ValueError(f"{name} is no setting of an architecture")
        return value

    @property
    def normalisation(self) -> Normalisation:
        """What the pixels are normalised with."""
        return Normalisation(self.mean, self.std)


@dataclass(frozen=True)
class Checkpoint:
    """A file's contents.

    Attributes:
        path: The file.
        content: Tensors by name, or the nested mapping of a training checkpoint, as stored; on the CPU.
        metadata: Texts of a safetensors file; empty for pickles.
        card: What the file says of itself, if ``save_backbone`` wrote it.
    """

    path: Path
    content: Mapping[str, Any]
    metadata: Mapping[str, str]
    card: Card | None = None


def save_backbone(path: Path, state: Mapping[str, Tensor], card: Card, dtype: torch.dtype = torch.float32) -> None:
    """Writes a backbone as safetensors with a card, so that ``file:PATH`` loads it without further settings.

    Args:
        path: Ends in ``.safetensors``.
        state: The backbone's state by timm's names, without a head.
        card: Its architecture, normalisation, licence and origin.
        dtype: float16 or float32, of the floating point tensors; integers stay as they are.

    Raises:
        WeightsError: The path has another suffix, or a value is not finite in this type.
    """
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path}: backbones are written as .safetensors")
    tensors = {}
    for name, value in state.items():
        stored = value.detach().cpu().to(dtype if value.is_floating_point() else value.dtype).clone().contiguous()
        if not torch.isfinite(stored).all():
            raise WeightsError(
                f"{path}: {name} has values that are not finite as {dtype}", hint="the training diverged, or use float32"
            )
        tensors[name] = stored
    save_file(tensors, path, metadata={CARD: card.model_dump_json()})  # one entry: safetensors writes several in any order


def read_checkpoint(path: Path, sha256: str | None = None) -> Checkpoint:
    """Reads a file of weights; nothing in it is run.

    Args:
        path: .safetensors, .pth, .pt, …
        sha256: What the file's contents must have, in lower case.

    Raises:
        WeightsError: There is no such file, it is damaged, is another one than meant, or holds more than tensors.
    """
    path = path.expanduser()
    head = _head(path)
    if sha256 is not None:
        check_sha256(path, file_sha256(path), sha256)
    if _is_safetensors(head, path):
        tensors, metadata = _read_safetensors(path)
        return Checkpoint(path, tensors, metadata, _card(metadata, path))
    return Checkpoint(path, _read_pickle(path), {})


def _head(path: Path) -> bytes:
    """Returns the first bytes, or says why this cannot be a file of weights."""
    if path.is_dir():
        names = sorted(found.name for found in path.iterdir() if found.suffix in SUFFIXES)
        raise WeightsError(
            f"{path} is a folder, not a file of weights", hint=f"in it are: {', '.join(names[:5])}" if names else None
        )
    try:
        with path.open("rb") as file:
            head = file.read(256)
    except FileNotFoundError as error:
        there = [found.name for found in path.parent.iterdir()] if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, there, 1)
        raise WeightsError(f"{path}: no such file of weights", hint=f"did you mean {close[0]}?" if close else None) from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})", hint="check its permissions") from error
    if not head:
        raise WeightsError(f"{path} is empty", hint="the download failed: fetch it again")
    if head.lstrip()[:1] == b"<":
        raise WeightsError(f"{path} is a web page, not weights", hint="the download gave an error page: fetch it again")
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path} is a pointer of Git LFS, not weights", hint="run `git lfs pull` where it comes from")
    return head


def _is_safetensors(head: bytes, path: Path) -> bool:
    return path.suffix == ".safetensors" or (
        head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") < path.stat().st_size
    )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118 - no dict
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: cannot be read as safetensors ({error})",
            hint="it is damaged or cut off: fetch it again, and compare its sha256",
        ) from error


def _read_pickle(path: Path) -> Mapping[str, Any]:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # attributes alone; the official DINO stores its options
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError, IndexError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"{path}: holds {_a(type(content).__name__)}, not tensors by name",
            hint="save model.state_dict(), best as .safetensors",
        )
    return content


def _unreadable(path: Path, error: Exception) -> WeightsError:
    code = re.search(r"GLOBAL (\S+)|(?:for unrecognized function|but got) (.+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and code:
        return WeightsError(
            f"{path}: holds more than tensors: it would run {code[1] or code[2]} to load, which is refused",
            hint="if you trust it, load it elsewhere and save its state_dict() as .safetensors",
        )
    if isinstance(error, pickle.UnpicklingError) and "Unsupported operand" in str(error):
        return WeightsError(
            f"{path}: cannot be read as a checkpoint (it is not a file that torch.save writes), and is refused",
            hint="it is damaged; or, if it is a pickle that you trust, load it elsewhere and save its state_dict() as .safetensors",
        )
    own = re.search(r"WeightsUnpickler error: (.+)", str(error))  # what stands before it advises to load without protection
    torn = isinstance(error, ValueError | LookupError)  # what a text or a picture makes of torch.load
    first = own[1] if own else "it is not a file that torch.save writes" if torn else (str(error).splitlines() or ["empty"])[0]
    return WeightsError(
        f"{path}: cannot be read as a checkpoint ({first})", hint="it is damaged, cut off or of another format: fetch it again"
    )


def _card(metadata: Mapping[str, str], path: Path) -> Card | None:
    if CARD not in metadata:
        return None
    try:
        return Card.model_validate(json.loads(metadata[CARD]))
    except (ValidationError, ValueError) as error:
        problem = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        raise WeightsError(
            f"{path}: its card is not one that this mdp reads: {'.'.join(map(str, problem['loc']))}: {problem['msg']}",
            hint="it was written by a newer mdp, or by something else",
        ) from error


def _a(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
