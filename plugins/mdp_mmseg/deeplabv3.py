"""Segmenter ``deeplabv3``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from mdp_core.api import Images, LabelMap, Segmenter, StageError
from mdp_mmengine.augmentation import Augmentation
from mdp_mmengine.launch import join
from mdp_mmengine.models import merge
from mdp_mmengine.prediction import label_maps as predicted
from mdp_mmengine.scenes import Scenes
from mdp_mmengine.schedule import Schedule, map_schedule
from mdp_mmengine.snapshots import Snapshots, evenly, snapshot_folders
from mdp_mmengine.training import Samples, train
from mdp_mmengine.weights import Published, load_published, load_resnet, publish
from mdp_mmseg.model import model_config
from mdp_mmseg.scenes import SegScenes
from mdp_mmseg.settings import DeepLabV3Config, FitSettings


class DeepLabV3(Segmenter[DeepLabV3Config]):
    """DeepLab-v3 trained by SGD on the hardest pixels of pseudo ground truth (paper §3.3, Eq. 4, A.3)."""

    Config = DeepLabV3Config

    def fit(self, images: Images, label_maps: Sequence[LabelMap], clusters: int, folder: Path, work: Path) -> None:
        """Trains on labels 0 (background) and 1..C; resumes from ``work``, ending as an undisturbed training would.

        Raises:
            StageError: Nothing to learn, labels that do not fit the images, a loss that is not finite.
            WeightsError: The backbone's initial weights are missing or do not fit.
        """
        fit, listener = self.config.fit, self.context.listener
        self._check_devices()
        if fit.init == "none" and fit.frozen_stages >= 0:
            listener.warn(
                f"fit.frozen_stages {fit.frozen_stages} freezes random weights, as fit.init is none: "
                "set fit.init to pretrained weights, or fit.frozen_stages to -1"
            )
        augmentation = Augmentation(fit.size, fit.scale, fit.rotate, fit.flip)
        scenes = SegScenes(Scenes(images, label_maps, clusters, augmentation, fit.border))
        scenes.check()
        config = merge(model_config(self.config, clusters), fit.mm_overrides)
        published = Published("mmseg", config, {"clusters": clusters}, parts="mdp_mmseg.model")
        plan = schedule(fit, len(images))
        model = train(
            config,
            "mmseg",
            Samples(len(images), scenes),
            plan,
            context=self.context,
            folder=folder,
            work=work,
            prepare=lambda model: load_resnet({"": model.get_submodule("backbone")}, fit.init, listener),
            snapshots=Snapshots(evenly(fit.snapshots, plan.iterations), lambda path, state: publish(path, state, published)),
        )
        publish(folder, model, published)

    def predict(self, folder: Path, images: Images) -> Iterator[LabelMap]:
        """Yields one label map an image, in order and at the image's own size; uint16 where C > 254."""
        model, published = load_published(folder, self.context.device)
        preprocess = model.get_submodule("data_preprocessor")

        def logits_of(pixels: Tensor) -> Tensor:
            return model(preprocess({"inputs": list(pixels)}, False)["inputs"], mode="tensor")

        return predicted(images, self.config.predict, logits_of, int(published.facts["clusters"]))

    def snapshots(self, folder: Path) -> dict[str, Path]:
        """Returns the earlier states that ``fit`` left: ``iteration N`` → a folder that ``predict`` takes, oldest first."""
        return snapshot_folders(folder)

    def _check_devices(self) -> None:
        world, batch = join(self.context.device).world, self.config.fit.batch
        if batch < 2 * world:
            raise StageError(
                f"fit.batch {batch} leaves less than two images for each of {world} devices, and batch normalisation needs two",
                hint=f"set fit.batch to {2 * world} or more",
            )


def schedule(fit: FitSettings, images: int) -> Schedule:
    """Returns the training's schedule on so many images."""
    own = {"warmup": fit.warmup, "clip_grad": fit.clip_grad, "amp": fit.amp, "precise_bn": fit.precise_bn}
    return replace(map_schedule(fit, images), **own)
