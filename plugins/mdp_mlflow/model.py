"""The final segmenter as an MLflow model. MLflow keeps a copy of this file with each model ("models from code").

It needs mdp itself and the packages that the segmenter's plugin needs; weights are read by the plugin, which unpickles nothing.
"""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.pyfunc import PythonModel, PythonModelContext
from PIL import Image, ImageOps

from mdp_core.api import Context, DataError, ImageRecord, Images, Pixels, PluginHost, RegistryFile, read_image

SEGMENTER = "segmenter"
"""The artifact's folder: ``model/`` (the result of the fit), ``segmenter.json``, and the files that these need."""
_SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that swap height and width."""


class SegmenterModel(PythonModel):
    """Predicts label maps of images: 0 is background, 1..C are clusters, as in the run's ``label_maps``.

    ``mlflow.pyfunc.load_model(uri, model_config={"device": "cuda"})`` chooses a device; by default a GPU, where there is one.
    ``unwrap_python_model().classes`` names the clusters that were matched with classes, where the run was evaluated.
    """

    # MLflow's own classes set this too: without it, every load prints that list[Any] is not validated (which we do ourselves).
    _skip_type_hint_validation = True

    def load_context(self, context: PythonModelContext) -> None:
        """Makes the segmenter of the plugin that trained it.

        Raises:
            MdpError: The plugin is not installed here, or another version that does not know the settings.
        """
        folder = Path(context.artifacts[SEGMENTER])
        facts = json.loads((folder / "segmenter.json").read_text(encoding="utf-8"))
        self.classes: dict[int, str] = {int(cluster): name for cluster, name in facts["classes"].items()}
        self._folder = folder / "model"
        settings = _with_files(facts["settings"], folder)
        host = PluginHost(RegistryFile(), [folder / name for name in facts["plugin_files"]])
        device = (context.model_config or {}).get("device", "auto")
        self._segmenter = host.create("segmenter", facts["plugin"], settings, Context(device=_device(device)))

    def predict(self, context: PythonModelContext, model_input: list[Any], params: dict[str, Any] | None = None) -> list[Any]:
        """Predicts label maps.

        Args:
            context: Not used.
            model_input: Images: paths, encoded bytes, PIL images, or uint8 arrays (H, W, 3) RGB.
            params: Not used.

        Returns:
            One array (H, W) an image, at the image's own size: uint8, or uint16 for more than 254 clusters.

        Raises:
            DataError: Something in the list is not an image.
        """
        if not isinstance(model_input, list | tuple):
            raise DataError(f"a list of images is expected, not one {type(model_input).__name__}", hint="predict([image])")
        given = [_Given(index, item) for index, item in enumerate(model_input)]
        records = [ImageRecord(str(g.index), *g.size()) for g in given]
        images = Images(records, lambda record: given[int(record.id)].pixels())
        return [found.values for found in self._segmenter.predict(self._folder, images)]


class _Given:
    """One image in whatever form, decoded when it is its turn."""

    def __init__(self, index: int, item: Any) -> None:
        self.index, self.item = index, item
        if isinstance(item, np.ndarray) and (item.dtype != np.uint8 or item.ndim != 3 or item.shape[2] != 3):
            raise DataError(f"image {index}: an array of {item.dtype} {item.shape}, where uint8 (H, W, 3) RGB is expected")
        if not isinstance(item, str | Path | bytes | np.ndarray | Image.Image):
            raise DataError(
                f"image {index}: a {type(item).__name__}",
                hint="images are paths, bytes, PIL images or uint8 arrays (H, W, 3) RGB",
            )

    def size(self) -> tuple[int, int]:
        """Returns (height, width) after EXIF orientation, reading no more than the head of a file."""
        if isinstance(self.item, np.ndarray):
            return int(self.item.shape[0]), int(self.item.shape[1])
        if isinstance(self.item, Image.Image):
            return _upright_size(self.item)
        try:
            with Image.open(self._file()) as image:
                return _upright_size(image)
        except OSError as error:
            raise DataError(f"image {self.index}: cannot be read ({error})") from error

    def pixels(self) -> Pixels:
        """Returns uint8 (H, W, 3) RGB."""
        if isinstance(self.item, np.ndarray):
            return self.item
        if isinstance(self.item, Image.Image):
            upright = ImageOps.exif_transpose(self.item)
            if upright.mode == "RGB":
                return np.array(upright)
            buffer = io.BytesIO()  # the one rule for greys, palettes and transparency is that of files
            upright.save(buffer, "TIFF")
            return read_image(buffer)  # type: ignore[arg-type]
        return read_image(self._file())  # type: ignore[arg-type]

    def _file(self) -> Any:
        return io.BytesIO(self.item) if isinstance(self.item, bytes) else self.item


def _upright_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    return (width, height) if image.getexif().get(0x0112) in _SIDEWAYS else (height, width)


def _with_files(value: Any, folder: Path) -> Any:
    """Returns the settings with the place of each file that lies beside the model."""
    if isinstance(value, Mapping):
        return {name: _with_files(item, folder) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_with_files(item, folder) for item in value]
    if isinstance(value, str) and value.startswith("beside:"):
        return f"file:{folder / value.removeprefix('beside:')}"
    return value


def _device(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    try:
        import torch
    except ImportError:
        return "cpu"
    return "cuda" if torch.cuda.is_available() else "cpu"


mlflow.models.set_model(SegmenterModel())
