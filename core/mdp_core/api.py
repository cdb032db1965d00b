"""All that a plugin imports.

Stage interfaces, data types, settings, errors and the hook marker. Everything here keeps working for plugins written for
``API_VERSION`` and the one before; the rest of ``mdp_core`` is private to the host.
"""

from mdp_core.data.images import IMAGE_SUFFIXES, ImageRecord, Images, Pixels, read_image
from mdp_core.data.instances import Bitmap, Instances
from mdp_core.data.label_map import IGNORE, LabelMap, palette
from mdp_core.data.polygons import to_polygons
from mdp_core.errors import DataError, MdpError, MdpWarning, PluginError, StageError, WeightsError
from mdp_core.plugins.hookspecs import (
    Observer,
    Registry,
    RunInfo,
    RunOutcome,
    StepInfo,
    StepResult,
    Tracking,
    WeightsInfo,
    hookimpl,
)
from mdp_core.plugins.loader import Plugin, PluginHost
from mdp_core.plugins.registry_file import RegistryFile
from mdp_core.plugins.version import API_VERSION
from mdp_core.settings import (
    NoEffect,
    OnlyFor,
    PathRef,
    Settings,
    StageConfig,
    WeightsRef,
    check_sha256,
    file_sha256,
    files_below,
    weight_paths,
    weights_file,
)
from mdp_core.stages.base import Context, Listener, Silence, Stage
from mdp_core.stages.clusterer import Clusterer
from mdp_core.stages.dataset import Dataset, DatasetConfig, Source, TrueBoxes
from mdp_core.stages.detector import Detector
from mdp_core.stages.executor import Executor, Task, TaskListener
from mdp_core.stages.pretrainer import BACKBONE, Pretrainer
from mdp_core.stages.prior import GroupingPrior
from mdp_core.stages.probe import Probe, ProbeConfig
from mdp_core.stages.refiner import Refiner, RefinerConfig
from mdp_core.stages.segmenter import Segmenter, SegmenterConfig

__all__ = [
    "API_VERSION",
    "BACKBONE",
    "IGNORE",
    "IMAGE_SUFFIXES",
    "Bitmap",
    "Clusterer",
    "Context",
    "DataError",
    "Dataset",
    "DatasetConfig",
    "Detector",
    "Executor",
    "GroupingPrior",
    "ImageRecord",
    "Images",
    "Instances",
    "LabelMap",
    "Listener",
    "MdpError",
    "MdpWarning",
    "NoEffect",
    "Observer",
    "OnlyFor",
    "PathRef",
    "Pixels",
    "Plugin",
    "PluginError",
    "PluginHost",
    "Pretrainer",
    "Probe",
    "ProbeConfig",
    "Refiner",
    "RefinerConfig",
    "Registry",
    "RegistryFile",
    "RunInfo",
    "RunOutcome",
    "Segmenter",
    "SegmenterConfig",
    "Settings",
    "Silence",
    "Source",
    "Stage",
    "StageConfig",
    "StageError",
    "StepInfo",
    "StepResult",
    "Task",
    "TaskListener",
    "Tracking",
    "TrueBoxes",
    "WeightsError",
    "WeightsInfo",
    "WeightsRef",
    "check_sha256",
    "file_sha256",
    "files_below",
    "hookimpl",
    "palette",
    "read_image",
    "to_polygons",
    "weight_paths",
    "weights_file",
]
