"""Which images the page of a run shows of each stage, and why: ranked by a score of each image where there is one, and drawn blindly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdp_core.data.images import ImageRecord, Images
from mdp_core.data.instances import Instances
from mdp_core.data.label_map import LabelMap
from mdp_core.data.storage import StoredInstances, StoredLabelMaps
from mdp_core.engine.image_scores import BY_CONFIDENCE, BY_FOREGROUND, BY_OBJECTS, Result, Rule, by_classes
from mdp_core.engine.pictures import SHOWN_SCORE, believed, cluster_look, in_colours, is_clustered, spread
from mdp_core.errors import MdpError
from mdp_core.report.contact_sheet import mask_crop
from mdp_core.report.overlay import Colour, label_colour, outline, overlay, scale, scale_mask
from mdp_core.report.page import Cluster, Example, Gallery, Group, Picture, StagePictures, embed

EACH = 3
"""Examples of each group; without a ranking, twice as many random ones."""
WALK = 3
RANKED = 2000
"""Most images that are ranked; of more, as many are drawn at random."""
WIDTH = 300
DARKENED = 0.35
"""Brightness that is left outside of masks without a cluster."""
CROP = 128
CROPS = 12
MOST_CROPS = 600
MOST_CLUSTERS = 100
CHOICE = "Random images were drawn with the recipe's seed, before any was ranked; they are the same at each stage."
"""For the page."""

FAILURES = (MdpError, OSError, ValueError, IndexError)
"""What reading a result, an image or its ground truth may raise when files are gone or damaged."""


@dataclass(frozen=True)
class StageResult:
    """A stage's final output, one item an image.

    Attributes:
        component: Scores of its label maps, with the matching that colours and ranking go by; None where there are none.
    """

    stage: str
    kind: str
    plugin: str
    items: StoredInstances | StoredLabelMaps
    component: Mapping[str, Any] | None = None

    @cached_property
    def plain(self) -> bool:
        """Whether it is of masks without clusters."""
        return isinstance(self.items, StoredInstances) and not is_clustered(self.items)


@dataclass(frozen=True)
class Truth:
    """Ground truth of the images, for runs that are evaluated."""

    label_map: Callable[[ImageRecord], LabelMap | None]
    instances: Callable[[ImageRecord], Instances | None]


@dataclass
class _Ranking:
    scores: list[tuple[float, int]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class Showcase:
    """Chooses and draws.

    Args:
        images: The images that the results are of.
        truth: Their ground truth; None where the run is not evaluated.
        seed: Of the random choices.
        progress: Told (done, total) images while they are ranked.
    """

    def __init__(self, images: Images, truth: Truth | None, seed: int, progress: Callable[[int, int], None]) -> None:
        self.images, self.truth, self.progress = images, truth, progress
        rng = np.random.default_rng([seed, 20])
        count = len(images)
        self.drawn: list[int] = [int(i) for i in rng.permutation(count)[: 2 * EACH]]
        self.ranked = sorted(int(i) for i in rng.permutation(count)[:RANKED])
        self.missing: list[str] = []
        self._true = lru_cache(maxsize=64)(self._read_truth)

    def stages(self, results: Sequence[StageResult]) -> list[StagePictures]:
        """Returns the examples of each stage."""
        truth = self._truth_of_some()
        rules = [self._rule(result, truth) for result in results]
        rankings = self._rank(results, rules)
        return [self._stage(*those) for those in zip(results, rules, rankings, strict=True)]

    def walk(self, results: Sequence[StageResult]) -> list[Example]:
        """Returns a few images through all stages."""
        return [self._example(index, results, plain=True) for index in self.drawn[:WALK]]

    def _read_truth(self, index: int) -> tuple[LabelMap | None, Instances | None]:
        if self.truth is None:
            return None, None
        record = self.images.records[index]
        return self.truth.label_map(record), self.truth.instances(record)

    def _truth_of_some(self) -> tuple[bool, bool]:
        """Tells whether any of the first images has a label map, and objects."""
        maps = objects = False
        for index in range(min(len(self.images), 20)):
            try:
                label_map, instances = self._true(index)
            except FAILURES:
                continue
            maps, objects = maps or label_map is not None, objects or instances is not None
        return maps, objects

    def _rule(self, result: StageResult, truth: tuple[bool, bool]) -> Rule | None:
        """Returns the ranking that a stage's result and the ground truth allow."""
        maps, objects = truth
        if result.plain and objects:
            return BY_OBJECTS
        if maps and result.component is not None and not result.plain:
            return by_classes(result.component["cluster_of_class"])
        if maps:
            return BY_FOREGROUND
        if isinstance(result.items, StoredInstances):
            scores = np.concatenate([i.scores for i in result.items] or [np.zeros(0, np.float32)])
            if len(scores) and float(np.ptp(scores)) > 1e-6:
                return BY_CONFIDENCE
        return None

    def _rank(self, results: Sequence[StageResult], rules: Sequence[Rule | None]) -> list[_Ranking]:
        rankings = [_Ranking() for _ in results]
        unread = 0
        for done, index in enumerate(self.ranked if any(rules) else ()):
            self.progress(done, len(self.ranked))
            try:
                label_map, objects = self._true(index)
            except FAILURES as error:
                unread += 1
                if unread == 1:
                    self.missing.append(f"Ground truth cannot be read ({_said(error)}); such images are not ranked.")
                continue
            for result, rule, ranking in zip(results, rules, rankings, strict=True):
                if rule is None:
                    continue
                try:
                    score = rule.score(believed(result.items[index]), label_map, objects)
                except FAILURES as error:
                    ranking.failures.append(_said(error))
                    continue
                if score is not None:
                    ranking.scores.append((score, index))
        self.progress(len(self.ranked), len(self.ranked))
        return rankings

    def _stage(self, result: StageResult, rule: Rule | None, ranking: _Ranking) -> StagePictures:
        if ranking.failures:
            count = f"{len(ranking.failures)} of {len(self.ranked)} images"
            self.missing.append(f"{result.stage}: the result of {count} cannot be read ({ranking.failures[0]}).")
        best = sorted(ranking.scores, key=lambda pair: (-pair[0], pair[1]))[:EACH]
        shown = {index for _, index in best}
        worst = [pair for pair in sorted(ranking.scores) if pair[1] not in shown][:EACH]
        known = {index: score for score, index in ranking.scores}
        ranked = rule is not None and bool(best)
        drawn = self.drawn[: EACH if ranked else 2 * EACH]
        groups = [(rule.best, [i for _, i in best]), (rule.worst, [i for _, i in worst])] if rule and ranked else []
        return StagePictures(
            result.stage,
            result.kind,
            result.plugin,
            facts=_facts(result.items),
            rule=self._words(result, rule if ranked else None),
            groups=tuple(
                Group(title, tuple(self._example(i, [result], score=known.get(i)) for i in indices))
                for title, indices in [*groups, ("Random", drawn)]
                if indices
            ),
        )

    def _words(self, result: StageResult, rule: Rule | None) -> str:
        words = [rule.words if rule else "Nothing to rank the images by, so these were drawn at random."]
        if rule and len(self.ranked) < len(self.images):
            words.append(f"Ranked were {len(self.ranked):,} of the {len(self.images):,} images, drawn at random.")
        if result.plain:
            words.append("What is in none of the masks is darkened.")
        if result.kind == "detector":
            words.append(
                f"Of an image's masks, those with a score of {SHOWN_SCORE:g} or more count here, or else the best one."
            )
        return " ".join(words)

    def _example(
        self, index: int, results: Sequence[StageResult], *, score: float | None = None, plain: bool = False
    ) -> Example:
        """Draws one image: itself where ``plain`` or where there is no truth, what each stage made of it, and the truth."""
        record = self.images.records[index]
        try:
            pixels = self.images.read(index)
        except FAILURES as error:
            return Example(record.id, problem=f"The image cannot be read: {_said(error)}")
        pictures: list[tuple[str, Picture]] = []
        for result in results:
            try:
                drawn = _drawn(pixels, believed(result.items[index]), result)
            except FAILURES as error:
                if not plain:
                    return Example(record.id, problem=f"The result of this image cannot be read: {_said(error)}")
                continue
            pictures.append((result.stage, embed(drawn, f"{record.id}: what {result.stage} made of it")))
        true = self._true_picture(index, pixels)
        if plain or true is None:
            pictures.insert(0, ("image", embed(scale(pixels, WIDTH, enlarge=True), f"{record.id}: the image")))
        if true is not None:
            pictures.append(("ground truth", embed(true, f"{record.id}: ground truth")))
        return Example(record.id, tuple(pictures), "" if score is None else f"{100 * score:.1f} %")

    def _true_picture(self, index: int, pixels: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        try:
            label_map, objects = self._true(index)
            labels = label_map if label_map is not None else objects
            return None if labels is None else overlay(pixels, labels, width=WIDTH, enlarge=True)
        except FAILURES:
            return None

    def gallery(self, result: StageResult, results: Mapping[str, Any]) -> Gallery | None:
        """Returns some masks of each cluster; None where the masks have no clusters."""
        members: dict[int, list[tuple[int, int]]] = {}
        for image, found in enumerate(result.items if isinstance(result.items, StoredInstances) else ()):
            for mask, label in enumerate(found.labels):
                if label >= 0:
                    members.setdefault(int(label) + 1, []).append((image, mask))
        if not members:
            return None
        look = cluster_look(results)
        kept = sorted(sorted(members, key=lambda c: (-len(members[c]), c))[:MOST_CLUSTERS])
        each = max(3, min(CROPS, MOST_CROPS // len(kept)))
        clusters = []
        for number in kept:
            label, name = look(number)
            where = [members[number][i] for i in spread(len(members[number]), each)]
            crops = tuple(crop for image, mask in where if (crop := self._crop(result, image, mask, number, label)) is not None)
            colour = css(label_colour(label or number))
            clusters.append(Cluster(number, len(members[number]), colour, name, _purity(result.component, number), crops))
        note = f"Masks of {result.stage}, up to {each} of each cluster, spread evenly over the images; what is not the mask is faded."
        if len(kept) < len(members):
            note += f" The {len(kept)} largest of {len(members)} clusters."
        return Gallery(result.stage, note, tuple(clusters))

    def _crop(self, result: StageResult, image: int, mask: int, cluster: int, label: int) -> Picture | None:
        instances = result.items[image]
        if not isinstance(instances, Instances):
            return None
        try:
            pixels = mask_crop(self.images.read(image), instances, mask, cluster=label or cluster, side=CROP)
        except FAILURES:
            return None
        return embed(pixels, f"cluster {cluster}: mask {mask + 1} of {self.images.records[image].id}")


def _drawn(pixels: NDArray[np.uint8], found: Result, result: StageResult) -> NDArray[np.uint8]:
    """Draws a result over its image; around masks without a cluster it is dark, since every colour stands for something else."""
    if not isinstance(found, Instances) or not result.plain:
        return overlay(pixels, in_colours(found, result.component), width=WIDTH, enlarge=True)
    picture = scale(pixels, WIDTH, enlarge=True)
    masks = [scale_mask(mask, *picture.shape[:2]) for mask in found.to_masks()]
    outside = ~np.any(masks, axis=0) if masks else np.ones(picture.shape[:2], np.bool_)
    picture[outside] = np.rint(picture[outside] * DARKENED).astype(np.uint8)
    for mask in masks:
        outline(picture, mask, (255, 255, 255), 2)
    return picture


def css(colour: Colour) -> str:
    """Returns a colour of the pictures, for a style sheet."""
    red, green, blue = colour
    return f"rgb({red} {green} {blue})"


def _facts(items: StoredInstances | StoredLabelMaps) -> tuple[str, ...]:
    images = f"{len(items):,} images"
    if not len(items) or not isinstance(items, StoredInstances):
        return (images,)
    masks = sum(len(i) for i in items)
    empty = sum(1 for i in items if not len(i))
    facts = [images, f"{masks:,} mask{'' if masks == 1 else 's'}, {masks / len(items):.1f} an image"]
    if empty:
        facts.append(f"{empty:,} without a mask")
    scores = np.concatenate([i.scores for i in items])
    if len(scores) and float(np.ptp(scores)) > 1e-6:
        facts.append(f"mean score {float(scores.mean()):.2f}")
    return tuple(facts)


def _purity(component: Mapping[str, Any] | None, cluster: int) -> float | None:
    """Returns the share of a cluster's pixels that are of its class; None where it has no class."""
    if component is None or cluster not in component["cluster_of_class"] or cluster >= len(component["counts"]):
        return None
    row = component["counts"][cluster]
    return row[component["cluster_of_class"].index(cluster)] / sum(row) if sum(row) else None


def _said(error: Exception) -> str:
    return error.message if isinstance(error, MdpError) else str(error) or type(error).__name__
