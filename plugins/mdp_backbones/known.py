"""What is known of timm's weights without importing timm: a table of all that our readers can read.

``timm_weights.tsv`` beside this file has one line a name: name, repository on the hub (``-``: it is ``timm/NAME``), licence (``-``:
none is given), number of parameters. ``python -m mdp_backbones.known`` writes it anew for the timm that is installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

__all__ = ["TABLE", "KnownWeights", "known_weights"]

TABLE = Path(__file__).with_name("timm_weights.tsv")


@dataclass(frozen=True)
class KnownWeights:
    """One line of the table.

    Attributes:
        name: After ``timm:``, with or without a tag.
        repository: Repository on the hub.
        licence: Licence, or ``unknown``.
        parameters: Number of parameters of the backbone, without a classifier.
    """

    name: str
    repository: str
    licence: str
    parameters: int


@lru_cache(maxsize=1)
def known_weights() -> dict[str, KnownWeights]:
    """Returns the table by name."""
    found = {}
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, repository, licence, parameters = line.split("\t")
            repository = f"timm/{name}" if repository == "-" else repository
            found[name] = KnownWeights(name, repository, "unknown" if licence == "-" else licence, int(parameters))
    return found


def readable() -> Iterator[KnownWeights]:
    """Yields what the installed timm has on the hub for networks that our readers read; takes minutes.

    An architecture without a tag stands for its default tag.
    """
    import timm

    from mdp_backbones.build import check_vit
    from mdp_backbones.describe import parameters_of
    from mdp_backbones.resnet import is_resnet
    from mdp_backbones.sources import timm_weights
    from mdp_core.api import WeightsError

    tagged = timm.list_pretrained()
    for name in sorted({*tagged, *(name.partition(".")[0] for name in tagged)}):
        try:
            if not is_resnet(name):
                check_vit(name)
            weights = timm_weights(name)
        except WeightsError:
            continue
        if weights.repository is not None and weights.revision is None:
            yield KnownWeights(name, weights.repository, weights.config.license or "unknown", parameters_of(name))


def write(path: Path = TABLE) -> None:
    """Writes the table."""
    import timm

    lines = [f"# timm {timm.__version__}: name, repository (-: timm/name), licence (-: none given), parameters"]
    for weights in readable():
        repository = "-" if weights.repository == f"timm/{weights.name}" else weights.repository
        licence = "-" if weights.licence == "unknown" else weights.licence
        lines.append(f"{weights.name}\t{repository}\t{licence}\t{weights.parameters}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
