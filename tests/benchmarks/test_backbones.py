"""The comparison of backbones: its scores against literal loops, and the command."""

from __future__ import annotations

import importlib.util
import itertools
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import timm
import torch
from skimage.color import rgb2lab

from mdp_backbones.checkpoint import Card, save_backbone
from mdp_core.api import Instances
from mdp_kmeans.settings import KmeansConfig

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "backbones.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmarks_backbones", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def iou(a: np.ndarray, b: np.ndarray) -> float:
    shared = sum(bool(x) and bool(y) for x, y in zip(a.flat, b.flat, strict=True))
    union = sum(bool(x) or bool(y) for x, y in zip(a.flat, b.flat, strict=True))
    return shared / union


def box(mask: np.ndarray) -> np.ndarray:
    """The mask's box, filled."""
    filled = np.zeros_like(mask)
    rows, columns = np.nonzero(mask)
    filled[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    return filled


def best_share(clusters: np.ndarray, classes: np.ndarray, total: int) -> float:
    """Tries all ways to name five clusters."""
    renamings = itertools.permutations(range(5))
    return max(sum(names[a] == b for a, b in zip(clusters, classes, strict=True)) for names in renamings) / total


class Prepared:
    """A method whose masks are known: one misses an object's half, one has none, one touches no object."""

    clustering = KmeansConfig(clusters=5, normalise="none")

    def __init__(self, bench: ModuleType, scenes: object) -> None:
        self.bench = bench
        first = [truth.to_masks()[0].copy() for truth in scenes.truth]
        first[0][:, : np.flatnonzero(first[0].any(axis=0))[-4]] = False
        first[1] |= np.roll(first[1], 3, axis=0)
        first[2][:] = False
        everything = scenes.truth[3].to_masks().any(axis=0)
        first[3] = np.zeros_like(everything)
        first[3][tuple(np.argwhere(~everything)[0])] = True
        self.bitmaps = first

    def mine(self, scenes: object) -> list[Instances]:
        return [Instances.from_masks(mask[None][: int(mask.any())]) for mask in self.bitmaps]

    def embed(self, scenes: object, masks: list[Instances]) -> np.ndarray:
        return self.bench.mean_colours(scenes, masks)


@pytest.mark.parametrize("level", ["easy", "hard"])
def test_scores_are_those_of_literal_loops(bench: ModuleType, level: str) -> None:
    scenes = bench.Scenes.generate("val", level, 3, 5)
    method = Prepared(bench, scenes)
    hits = corloc = best = 0.0
    classes = []
    for mask, truth in zip(method.bitmaps, scenes.truth, strict=True):
        if not mask.any():
            continue
        overlaps = [iou(mask, one) for one in truth.to_masks()]
        hits += max(overlaps) > 0.5
        best += max(overlaps)
        corloc += max(iou(box(mask), box(one)) for one in truth.to_masks()) >= 0.5
        classes.append(int(truth.labels[overlaps.index(max(overlaps))]) if max(overlaps) else -1)
    scores = bench.measure(method, scenes, seed=0)
    assert (scores.hits, scores.corloc) == (hits / 5, corloc / 5)
    assert scores.iou == pytest.approx(best / 5)
    # four masks make four clusters of one each: all are right but those of no class, and of a class twice one
    distinct = len({one for one in classes if one >= 0})
    assert scores.clusters == scores.by_colour == distinct / 5
    assert -1 in classes and 0 < hits < 5


def test_clusters_are_named_in_the_best_way(bench: ModuleType) -> None:
    rng = np.random.default_rng(0)
    config = KmeansConfig(clusters=5, normalise="none")
    for missing in (0, 3):
        centres = rng.integers(0, 5, 40)
        points = (np.eye(5)[centres] * 10 + rng.normal(size=(40, 5))).astype(np.float32)
        classes = np.where(rng.random(40) < 0.5, (centres + 2) % 5, rng.integers(-1, 5, 40)).astype(np.int32)
        found = bench.accuracy(points, classes, config, 0, missing)
        assert found == pytest.approx(best_share(centres, classes, 40 + missing))
        assert 0.3 < found < 0.9


def test_colours_are_means_in_lab(bench: ModuleType) -> None:
    scenes = bench.Scenes.generate("val", "easy", 0, 3)
    expected = []
    for pixels, truth in zip(scenes.images, scenes.truth, strict=True):
        lab = rgb2lab(pixels)
        for mask in truth.to_masks():
            inside = [lab[y, x] for y in range(len(mask)) for x in range(len(mask)) if mask[y, x]]
            expected.append(sum(inside) / len(inside))
    np.testing.assert_allclose(bench.mean_colours(scenes, scenes.truth), expected, rtol=1e-5)


def test_scenes_of_a_seed_are_their_own_and_repeat(bench: ModuleType) -> None:
    def first(split: str, seed: int) -> np.ndarray:
        return bench.Scenes.generate(split, "hard", seed, 2).images.read(0)

    assert (first("val", 1) == first("val", 1)).all()
    assert (first("val", 1) != first("val", 2)).any()
    assert (first("val", 1) != first("train", 1)).any()


@pytest.mark.parametrize("segment", ["superpixel_mask", "colour_mask"])
def test_what_stands_out_is_found_and_the_largest_part_kept(bench: ModuleType, segment: str) -> None:
    pixels = np.full((96, 96, 3), 120, np.uint8)
    pixels[20:60, 30:80] = (200, 40, 40)
    pixels[76:90, 10:24] = (200, 40, 40)
    square = np.zeros((96, 96), bool)
    square[20:60, 30:80] = True
    found = getattr(bench, segment)(pixels)
    assert iou(found, square) == 1 if segment == "colour_mask" else iou(found, square) > 0.9


def test_no_colour_stands_out_of_a_blank_image(bench: ModuleType) -> None:
    assert not bench.colour_mask(np.full((64, 64, 3), 120, np.uint8)).any()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(7)
    path = tmp_path / "backbone.safetensors"
    save_backbone(path, timm.create_model("mdp_vit_tiny", num_classes=0).state_dict(), Card(arch="mdp_vit_tiny"))
    return path


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False, timeout=300)


def test_the_command_prints_tables_and_writes_scores_that_repeat(tmp_path: Path, weights: Path) -> None:
    options = ["--scenes", "6", "--seeds", "1", "--networks", "2", "--short-side", "96", "--weights", "builtin:random"]
    both, hard = tmp_path / "both.json", tmp_path / "hard.json"
    done = command(*options, f"file:{weights}", "--json", str(both))
    again = command(*options, f"file:{weights}", "--json", str(hard), "--levels", "hard")
    assert (done.returncode, again.returncode) == (0, 0), done.stderr + again.stderr
    assert "level easy: 6 scenes" in done.stdout and again.stdout.startswith("level hard: 6 scenes")
    assert done.stdout.endswith(again.stdout)
    assert "easy, seed 1 of 1: mean colour" in done.stderr
    rows = json.loads(both.read_text())["rows"]
    assert [row for row in rows if row["level"] == "hard"] == json.loads(hard.read_text())["rows"]
    names = ["builtin:random", f"file:{weights}", "mdp_vit_tiny, untrained", "SLIC, border contrast", "mean colour"]
    assert [(row["level"], row["row"]) for row in rows] == [(lv, one) for lv in ("easy", "hard") for one in names]
    for row in rows:
        draws = 2 if "untrained" in row["row"] else 1
        assert len(row["sha256"]) == (0 if row["row"] in names[3:] else draws)
        for column in row["scores"].values():
            assert np.shape(column["all"]) == (draws, 1)
            assert column["mean"] == pytest.approx(np.mean(column["all"]))
            assert column["std"] is None
            assert f"{100 * column['mean']:.1f}" in done.stdout


def test_mean_and_spread_are_over_seeds_and_brackets_over_draws(bench: ModuleType) -> None:
    row = bench.Row("easy", "x", ("a", "b"), {"hits": np.array([[0.1, 0.2, 0.3], [0.5, 0.6, 0.7]])})
    assert row.cell("hits") == "40.0 ± 10.0 (20–60)"
    assert bench.Row("easy", "x", (), {"hits": np.array([[0.25]])}).cell("hits") == "25.0"


def test_weights_that_are_not_there_are_an_error_before_any_work(tmp_path: Path) -> None:
    done = command("--weights", f"file:{tmp_path / 'none.safetensors'}")
    assert done.returncode == 1
    assert "no such file" in done.stderr and "Traceback" not in done.stderr
    assert not done.stdout


def test_builtin_tiny_tells_apart_what_colours_do_not(tmp_path: Path) -> None:
    scores = tmp_path / "scores.json"
    done = command(
        "--weights",
        "builtin:tiny",
        "--levels",
        "hard",
        "--scenes",
        "60",
        "--seeds",
        "1",
        "--networks",
        "1",
        "--json",
        str(scores),
    )
    assert done.returncode == 0, done.stderr
    rows = {
        row["row"]: {name: column["mean"] for name, column in row["scores"].items()}
        for row in json.loads(scores.read_text())["rows"]
    }
    trained, untrained = rows["builtin:tiny"], rows["mdp_vit_tiny, untrained"]
    assert trained["hits"] > untrained["hits"] + 0.25
    assert trained["clusters"] > 0.6
    assert trained["by_colour"] < 0.5
    assert trained["true_masks"] > 0.9
