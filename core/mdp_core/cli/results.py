"""What a person reads when a run is over: the component table, how it was measured, and where everything lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mdp_core.engine.record import RunRecord

_MEANINGS = {
    "components.md": "the table, with IoU per class",
    "stages.png": "what each stage made of some images",
    "clusters.png": "what lies in each cluster",
    "label_maps": "one palette PNG an image",
    "masks.json": "object masks as COCO JSON",
    "run.json": "the record of the run",
}


def show_results(record: RunRecord, console: Console) -> None:
    """Prints the results of a finished run."""
    console.print()
    rows = record.results.get("components", [])
    if rows:
        _show_components(rows, record.seed, console)
    for stage, scores in record.results.get("localisation", {}).items():
        hit, corloc = scores["hit"] * 100, scores["corloc"] * 100
        _quiet(console, f"{stage}: {hit:.1f} % of the masks have IoU > 0.5 with an object, CorLoc {corloc:.1f} %")
    for stage, made in record.results.get("weights", {}).items():
        _show_weights(stage, made, record, console)
    for weights in sorted({s.notes["weights"] for s in record.steps if "weights" in s.notes}):
        _quiet(console, f"weights: {weights}")
    hits = sum(1 for s in record.steps if s.status == "hit")
    _plain(console, f"finished in {record.seconds:.1f} s ({hits} of {len(record.steps)} steps were in the store)")
    _plain(console, f"results: {_shown(record.folder)}")
    for name, meaning in _MEANINGS.items():
        if (record.folder / name).exists():
            _plain(console, f"  {name:<14} {meaning}")


def _show_weights(stage: str, made: dict[str, Any], record: RunRecord, console: Console) -> None:
    _plain(console, f"{stage}: {_shown(record.home / made['file'])}")
    _plain(console, f"  {_size(made['bytes'])}, sha256 {made['sha256']}")
    for name, meaning in (("curve.png", "the training as a picture"), ("log.jsonl", "the training in numbers")):
        if (record.folder / f"{stage}-{name}").exists():
            _plain(console, f"  {_shown(record.folder / f'{stage}-{name}')}: {meaning}")


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _show_components(rows: list[dict[str, Any]], seed: int, console: Console) -> None:
    table = Table("component", "mIoU", "pixel accuracy", "images", title="Component table", title_justify="left")
    for row in rows:
        scores = (f"{row[name] * 100:.1f} %" for name in ("miou", "pixel_accuracy"))
        table.add_row(row["title"], *scores, str(row["protocol"]["images"]))
    console.print(table)
    protocol = rows[0]["protocol"]
    _quiet(console, f"split {protocol['split']} · matching: {protocol['matching']} · last checkpoint · seed {seed}")
    _quiet(console, f"ground truth was used for: {'; '.join(protocol['ground_truth'])}")


def _quiet(console: Console, text: str) -> None:
    console.print(text, style="dim", highlight=False, markup=False)


def _plain(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False)


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
