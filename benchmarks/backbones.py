"""Compares backbones as priors and as embedders on generated scenes, where the truth is known exactly.

Each backbone mines one mask a scene (``dino-affinity`` with centred keys) and embeds the masks (``kmeans``: CLS of the masked
crops), just as a pipeline would. Scenes come from the split ``val`` of ``shapes``; a seed stands for another set of scenes and
for another start of k-means. Beside the weights asked for, the table has

* the architecture of ``builtin:tiny`` untrained, its BatchNorms calibrated on scenes of the split ``train``, over several draws
  of its weights: mean, and in brackets the lowest and the highest draw;
* SLIC superpixels whose colour stands out from the image's border, without a network;
* pixels whose colour does.

Columns, in percent, mean ± standard deviation over the seeds:

* hits: mined masks with an IoU > 0.5 with an object (a scene without a mask is none);
* CorLoc: the same with boxes, IoU ≥ 0.5;
* IoU: largest IoU with an object, mean over the scenes;
* clusters: accuracy of k-means (k = 5, the classes) on the embeddings of the mined masks, clusters matched with classes one to
  one. A mask has the class of the object with the largest IoU, however small; a mask that touches no object and a scene without
  a mask count as wrong. Rows without a network embed a mask by its mean colour in Lab;
* by colour: the same accuracy of mean colours, on the same masks;
* true masks: the accuracy of the row's embedder on the objects' true masks. This one uses the ground truth: it is about the
  embedder alone, and no method could reach it by itself.

    python benchmarks/backbones.py
    python benchmarks/backbones.py --weights builtin:tiny file:backbone.safetensors --levels hard --json scores.json
    python benchmarks/backbones.py --weights timm:vit_small_patch8_224.dino --short-side 320 --embed-size 224 --markdown
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Protocol, get_args

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.color import rgb2lab
from skimage.filters import threshold_otsu
from skimage.segmentation import slic
from torch import Tensor

from mdp_backbones.checkpoint import Card, save_backbone
from mdp_backbones.preprocess import pad_to_multiple, resize, short_side_size, to_input
from mdp_backbones.tiny import PATCH, calibrate, mdp_vit_tiny
from mdp_backbones.weights import load_vit
from mdp_core.api import IGNORE, Bitmap, Context, ImageRecord, Images, Instances, LabelMap, MdpError, Pixels
from mdp_core.evaluation.confusion import Confusion
from mdp_core.evaluation.localisation import Localisation, mask_ious
from mdp_core.evaluation.matching import match
from mdp_datasets.scenes import KINDS, Level
from mdp_datasets.settings import ShapesConfig
from mdp_datasets.shapes import Shapes
from mdp_dino.affinity import DinoAffinity
from mdp_dino.settings.affinity import DinoAffinityConfig
from mdp_kmeans.clusterer import Kmeans
from mdp_kmeans.settings import EmbedConfig, KmeansConfig

LEVELS = get_args(Level)
CLASSES = len(KINDS)
CALIBRATION, CALIBRATION_BATCH = 200, 50
"""Scenes that BatchNorms are calibrated on, and how many at a time."""
COMPACTNESS = 10.0
"""Of superpixels: scikit-image's default."""

Embedding = NDArray[np.float32]


@dataclass(frozen=True)
class Scenes:
    """Images of one level and seed, and their true objects."""

    images: Images
    truth: list[Instances]

    @classmethod
    def generate(cls, split: str, level: Level, seed: int, count: int) -> Scenes:
        """Draws the first ``count`` scenes of a split."""
        dataset = Shapes(ShapesConfig(level=level, seed=seed, train_images=count, val_images=count), Context())
        records = [ImageRecord(source.id, *source.size) for source in dataset.sources(split)]
        pixels = {record.id: dataset.read(record) for record in records}  # every row reads them, some several times
        return cls(Images(records, lambda record: pixels[record.id]), [dataset.instances(record) for record in records])


@dataclass(frozen=True)
class Scores:
    """One method on one set of scenes, shares in [0, 1]."""

    hits: float
    corloc: float
    iou: float
    clusters: float
    by_colour: float
    true_masks: float


COLUMNS = dict(
    zip((field.name for field in fields(Scores)), ("hits", "CorLoc", "IoU", "clusters", "by colour", "true masks"), strict=True)
)


class Method(Protocol):
    """What is compared: a way to mine masks and a way to embed them."""

    clustering: KmeansConfig

    def mine(self, scenes: Scenes) -> list[Instances]:
        """Finds at most one mask a scene."""

    def embed(self, scenes: Scenes, masks: list[Instances]) -> Embedding:
        """Embeds all masks, float32 (n, any)."""


class Backbone:
    """A ViT by the stages of a pipeline."""

    def __init__(self, ref: str, options: argparse.Namespace, arch: str | None = None) -> None:
        context = Context(device=options.device)
        self.facts = load_vit(ref, context, arch=arch).facts
        mined = {name: getattr(options, name) for name in ("block", "facet", "balance", "short_side", "topk")}
        prior = {"weights": ref, "arch": arch, **mined}
        self.clustering = KmeansConfig(
            clusters=CLASSES, embed=EmbedConfig(weights=ref, arch=arch, view="masked-crop", size=options.embed_size)
        )
        self._prior = DinoAffinity(DinoAffinityConfig(**prior, centre_keys=True), context)
        self._embedder = Kmeans(self.clustering, context)

    def mine(self, scenes: Scenes) -> list[Instances]:
        """Mines with ``dino-affinity``."""
        return list(self._prior.mine(scenes.images))

    def embed(self, scenes: Scenes, masks: list[Instances]) -> Embedding:
        """Embeds masked crops as ``kmeans`` does."""
        return np.concatenate(list(self._embedder.embed(scenes.images, masks)))


class Classical:
    """A segmentation by colour, and mean colours as embeddings: distances in Lab are the eye's, so nothing scales them."""

    clustering = KmeansConfig(clusters=CLASSES, normalise="none")

    def __init__(self, segment: Callable[[Pixels], Bitmap]) -> None:
        self._segment = segment

    def mine(self, scenes: Scenes) -> list[Instances]:
        """Segments each scene."""
        masks = (self._segment(pixels) for pixels in scenes.images)
        return [Instances.from_masks(mask[None][: int(mask.any())]) for mask in masks]

    def embed(self, scenes: Scenes, masks: list[Instances]) -> Embedding:
        """Takes mean colours."""
        return mean_colours(scenes, masks)


def superpixel_mask(pixels: Pixels, segments: int = 100) -> Bitmap:
    """Returns the largest part of the superpixels whose colour stands out from the border's."""
    lab = rgb2lab(pixels)
    parts = slic(pixels, n_segments=segments, compactness=COMPACTNESS, start_label=0)
    numbers = np.arange(parts.max() + 1)
    means = np.stack([ndimage.mean(lab[..., channel], parts, numbers) for channel in range(3)], axis=1)
    distances = np.linalg.norm(means - border_colour(lab), axis=1)
    return largest_component((distances > threshold_otsu(distances))[parts])


def colour_mask(pixels: Pixels) -> Bitmap:
    """Returns the largest part of the pixels whose colour stands out from the border's."""
    lab = rgb2lab(pixels)
    distances = np.linalg.norm(lab - border_colour(lab), axis=2)
    return largest_component(distances > threshold_otsu(distances))


def border_colour(lab: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the mean colour of the outermost pixels of (H, W, 3)."""
    return np.concatenate([lab[0], lab[-1], lab[1:-1, 0], lab[1:-1, -1]]).mean(axis=0)


def largest_component(mask: Bitmap) -> Bitmap:
    """Returns the largest 4-connected part; among equals the first in reading order, nothing of an empty mask."""
    labels, count = ndimage.label(mask)
    return labels == 1 + np.argmax(np.bincount(labels.ravel())[1:]) if count else mask


def mean_colours(scenes: Scenes, masks: Sequence[Instances]) -> Embedding:
    """Returns the mean colour in Lab of each mask, float32 (n, 3)."""
    colours = []
    for pixels, one in zip(scenes.images, masks, strict=True):
        lab = rgb2lab(pixels) if len(one) else None
        colours += [lab[one.mask(row)].mean(axis=0) for row in range(len(one))]
    return np.array(colours, np.float32).reshape(-1, 3)


def measure(method: Method, scenes: Scenes, seed: int) -> Scores:
    """Scores a method on scenes whose every image has an object."""
    masks = method.mine(scenes)
    found = Localisation()
    for record, one, truth in zip(scenes.images.records, masks, scenes.truth, strict=True):
        found.add(record.id, one, truth)
    result = found.result()
    classes, without = classes_of(masks, scenes.truth), sum(not len(one) for one in masks)
    true_classes = np.concatenate([truth.labels for truth in scenes.truth])
    return Scores(
        result.hit,
        result.corloc,
        result.mean_best_iou,
        accuracy(method.embed(scenes, masks), classes, method.clustering, seed, without),
        accuracy(mean_colours(scenes, masks), classes, Classical.clustering, seed, without),
        accuracy(method.embed(scenes, scenes.truth), true_classes, method.clustering, seed),
    )


def classes_of(masks: Sequence[Instances], truth: Sequence[Instances]) -> NDArray[np.int32]:
    """Returns the class of each mask: that of the object with the largest IoU, -1 where it touches none."""
    classes = []
    for one, objects in zip(masks, truth, strict=True):
        overlaps = mask_ious(one, objects)
        classes.append(np.where(overlaps.max(axis=1) > 0, objects.labels[overlaps.argmax(axis=1)], -1))
    return np.concatenate(classes).astype(np.int32)


def accuracy(points: Embedding, classes: NDArray[np.int32], config: KmeansConfig, seed: int, missing: int = 0) -> float:
    """Clusters embeddings and returns the share whose cluster is matched with their class.

    Args:
        points: float32 (n, any). Fewer than there are clusters make as many clusters.
        classes: int32 (n,), -1 for none: always wrong.
        config: Of k-means.
        seed: Of k-means.
        missing: How many more there should be; they are wrong.
    """
    if not len(points):
        return 0.0
    kmeans = Kmeans(config.model_copy(update={"clusters": min(config.clusters, len(points))}), Context(seed=seed))
    with tempfile.TemporaryDirectory() as folder:
        kmeans.fit(points, Path(folder))
        clusters = kmeans.assign(Path(folder), points)
    confusion = Confusion(clusters=config.clusters, classes=CLASSES + 1)  # a mask is a pixel of a picture with one row
    truth = np.where(classes < 0, IGNORE, classes + 1)
    confusion.add("masks", LabelMap((clusters + 1)[None].astype(np.uint8)), LabelMap(truth[None].astype(np.uint8)))
    return match(confusion).pixels / (len(points) + missing)


def calibration_batches(level: Level, short_side: int) -> list[Tensor]:
    """Returns scenes of the split ``train`` as a network would get them to mine."""
    images = Scenes.generate("train", level, 0, CALIBRATION).images
    resized = [pad_to_multiple(resize(one, *short_side_size(*one.shape[:2], short_side)), PATCH) for one in images]
    starts = range(0, CALIBRATION, CALIBRATION_BATCH)
    return [to_input(resized[start : start + CALIBRATION_BATCH], torch.device("cpu")) for start in starts]


def save_untrained(path: Path, seed: int, batches: list[Tensor]) -> None:
    """Writes ``mdp_vit_tiny`` as it is before any training, its BatchNorms calibrated."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = timm.create_model(mdp_vit_tiny.__name__, num_classes=0)
    calibrate(network, batches)
    save_backbone(path, network.state_dict(), Card(arch=mdp_vit_tiny.__name__, description=f"untrained, seed {seed}"))


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        level: Of the scenes.
        name: Of the method.
        sha256: Of the weights, one for each draw of a network; none without a network.
        scores: Shares, float64 (draws, seeds), for each column.
    """

    level: str
    name: str
    sha256: tuple[str, ...]
    scores: dict[str, NDArray[np.float64]]

    def cell(self, column: str) -> str:
        """Formats percentages."""
        values = 100 * self.scores[column]
        seeds, draws = values.mean(axis=0), values.mean(axis=1)
        text = f"{seeds.mean():.1f}" + (f" ± {statistics.stdev(seeds):.1f}" if len(seeds) > 1 else "")
        return text + (f" ({draws.min():.0f}–{draws.max():.0f})" if len(draws) > 1 else "")

    def to_json(self) -> dict[str, object]:
        """Returns shares in [0, 1]: mean and standard deviation over seeds, and all of them (one list a network)."""
        columns = {}
        for name, values in self.scores.items():
            seeds = values.mean(axis=0).tolist()
            std = statistics.stdev(seeds) if len(seeds) > 1 else None
            columns[name] = {"mean": statistics.fmean(seeds), "std": std, "all": values.tolist()}
        return {"level": self.level, "row": self.name, "sha256": self.sha256, "scores": columns}


def compare(backbones: dict[str, Backbone], level: Level, options: argparse.Namespace, folder: Path) -> list[Row]:
    """Measures all rows of one level."""
    untrained: list[Method] = []
    batches = calibration_batches(level, options.short_side) if options.networks else []
    for seed in range(options.networks):
        path = folder / f"{level}-{seed}.safetensors"
        save_untrained(path, seed, batches)
        untrained.append(Backbone(f"file:{path}", options))
    methods: dict[str, list[Method]] = {name: [backbone] for name, backbone in backbones.items()}
    if untrained:
        methods[f"{mdp_vit_tiny.__name__}, untrained"] = untrained
    methods["SLIC, border contrast"] = [Classical(superpixel_mask)]
    methods["mean colour"] = [Classical(colour_mask)]
    scores: dict[str, list[list[Scores]]] = {name: [] for name in methods}
    start = time.monotonic()
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        scenes = Scenes.generate("val", level, seed, options.scenes)
        for name, ones in methods.items():
            scores[name].append([measure(one, scenes, seed) for one in ones])
            print(
                f"{level}, seed {seed - options.first_seed + 1} of {options.seeds}: {name}, {time.monotonic() - start:.0f} s",
                file=sys.stderr,
            )
    rows = []
    for name, ones in methods.items():
        values = np.array([[astuple(one) for one in seed] for seed in scores[name]]).transpose(2, 1, 0)
        facts = tuple(one.facts.sha256 for one in ones if isinstance(one, Backbone))
        rows.append(Row(level, name, facts, dict(zip(COLUMNS, values, strict=True))))
    return rows


def show(rows: Sequence[Row], level: Level, options: argparse.Namespace) -> None:
    """Prints the table of one level."""
    table = [["", *COLUMNS.values()], *([row.name, *map(row.cell, COLUMNS)] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    about = f"level {level}: {options.scenes} scenes of the split val, {options.seeds} seed{'s' * (options.seeds > 1)}; percent"
    print(f"**{about}**\n" if options.markdown else about)
    for number, line in enumerate(table):
        cells = [text.ljust(width) for text, width in zip(line, widths, strict=True)]
        print(f"| {' | '.join(cells)} |" if options.markdown else "  ".join(cells).rstrip())
        if options.markdown and not number:
            print(f"|{'|'.join('-' * (width + 2) for width in widths)}|")
    print(flush=True)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = "(default: %(default)s)"
    parser.add_argument("--weights", nargs="+", default=["builtin:tiny", "builtin:random"], metavar="REF", help=default)
    parser.add_argument("--arch", help="timm architecture of file: weights that do not say it themselves")
    parser.add_argument("--levels", nargs="+", choices=LEVELS, default=LEVELS, help=default)
    parser.add_argument("--scenes", type=positive, default=200, help=default)
    parser.add_argument("--seeds", type=positive, default=3, help=f"sets of scenes {default}")
    about = "seed of the first set; seed 0 was looked at while builtin:tiny was made, 500 chose the settings"
    parser.add_argument("--first-seed", type=int, default=1, metavar="SEED", help=f"{about} {default}")
    parser.add_argument(
        "--networks",
        type=int,
        choices=range(21),
        metavar="N",
        default=5,
        help=f"draws of the untrained network; 0: without this row {default}",
    )
    parser.add_argument("--short-side", type=positive, default=288, help=f"of the images that are mined, pixels {default}")
    parser.add_argument("--embed-size", type=positive, default=64, help=f"of the crops that are embedded, pixels {default}")
    parser.add_argument("--block", type=int, default=-1, help=f"that masks are mined from {default}")
    parser.add_argument("--facet", choices=("k", "q", "v", "tokens"), default="k", help=f"what affinities compare {default}")
    parser.add_argument("--balance", type=int, default=4, help=f"rounds of balancing the masks {default}")
    parser.add_argument("--topk", type=float, default=0.1, help=f"share of proposals {default}")
    parser.add_argument("--device", default="cpu", help=default)
    parser.add_argument("--threads", type=positive, default=1, help=f"torch threads {default}")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all scores there")
    return parser


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def main() -> int:
    options = arguments().parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            backbones = {
                ref: Backbone(ref, options, options.arch if ref.startswith("file:") else None) for ref in options.weights
            }
            for level in options.levels:
                here = compare(backbones, level, options, Path(folder))
                show(here, level, options)
                rows += here
        except MdpError as error:
            print(error, file=sys.stderr)
            return 1
    if options.json:
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
        content = {"settings": settings, "rows": [row.to_json() for row in rows]}
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
