"""The page of a run: what it holds, as plain data, and its rendering as one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from mdp_core.data.images import Pixels
from mdp_core.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Chart

JPEG_QUALITY = 84
DENSE = 16
"""From this many columns on, a confusion table shows shades without numbers."""


@dataclass(frozen=True)
class Picture:
    """A picture inside the page.

    Attributes:
        uri: ``data:`` URI with the whole file.
        alt: What is to be seen, for those who cannot see it.
    """

    uri: str
    width: int
    height: int
    alt: str


@dataclass(frozen=True)
class Swatch:
    """A colour of the pictures and what it stands for; colour: CSS."""

    colour: str
    name: str


@dataclass(frozen=True)
class Change:
    """A setting that is not its plugin's default; default: None where the plugin has none."""

    name: str
    value: str
    default: str | None


@dataclass(frozen=True)
class Section:
    """What a recipe says of one stage or of the images; changes: None where the defaults are not known."""

    name: str
    use: str
    changes: tuple[Change, ...] | None


@dataclass(frozen=True)
class StepLine:
    """One step of the plan. status: ``hit``, ``done``, ``failed``, ``interrupted`` or ``not done``; share: of the longest step's time."""

    id: str
    plugin: str
    status: str
    seconds: float | None
    share: float


@dataclass(frozen=True)
class Score:
    """A row of the component table; shares in [0, 1]."""

    title: str
    stage: str
    miou: float
    pixel_accuracy: float
    images: int


@dataclass(frozen=True)
class ClassLine:
    """IoU of one class, by component; None where the truth has no pixel of it. pixels: share of the labelled pixels."""

    name: str
    colour: str
    pixels: float
    ious: tuple[float | None, ...]


@dataclass(frozen=True)
class Confusion:
    """Where the pixels of each class went.

    Attributes:
        columns: Names of the classes, then what no class got.
        rows: Name of a class, its pixels, and the share of them in each column; None where it has no pixels.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, int, tuple[float, ...] | None], ...]

    @property
    def dense(self) -> bool:
        """Whether there are too many columns for numbers."""
        return len(self.columns) > DENSE


@dataclass(frozen=True)
class Localisation:
    """How well a stage's masks find true objects; shares in [0, 1]."""

    stage: str
    hit: float
    hit_any: float
    mean_best_iou: float
    corloc: float
    images: int
    masks: int


@dataclass(frozen=True)
class Curves:
    """The training of one step."""

    step: str
    plugin: str
    charts: tuple[Chart, ...]
    picture: Picture | None = None


@dataclass(frozen=True)
class Example:
    """One image at one stage.

    Attributes:
        pictures: (what it is, the picture), for example the overlay and the ground truth.
        score: As text; empty where there is none.
        problem: Why there are no pictures.
    """

    id: str
    pictures: tuple[tuple[str, Picture], ...] = ()
    score: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Group:
    """Examples that were chosen in one way."""

    title: str
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class StagePictures:
    """What a stage made of some images.

    Attributes:
        facts: Numbers of its output, in words.
        rule: How its images were ranked and chosen, in words.
        problem: Why there are no examples.
    """

    stage: str
    kind: str
    plugin: str
    facts: tuple[str, ...] = ()
    rule: str = ""
    groups: tuple[Group, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Cluster:
    """One cluster of the gallery. purity: share of its pixels that are of the class it was matched with."""

    number: int
    masks: int
    colour: str
    name: str
    purity: float | None
    crops: tuple[Picture, ...]


@dataclass(frozen=True)
class Gallery:
    """What lies in each cluster; note: which masks are shown, in words."""

    stage: str
    note: str
    clusters: tuple[Cluster, ...]


@dataclass(frozen=True)
class Grid:
    """A table of numbers: the first column names the row; notes say how it was measured."""

    title: str
    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    notes: Sequence[str]


@dataclass(frozen=True)
class Figure:
    """A number that sums up the run."""

    label: str
    value: str
    note: str = ""


@dataclass
class Page:
    """All that the page shows. Texts are plain; the rendering escapes them.

    Attributes:
        facts: (name, value) of the head.
        missing: What could not be shown, and why.
        protocol: What the scores hold for, a sentence each.
        choice: How the random images were chosen, in words.
        walk: Images through all stages.
        settings: The resolved recipe as YAML.
        facts_by_step: (step, name, value): what the steps noted, such as the sha256 of weights.
        environment: (name, value) of the machine and the libraries.
    """

    name: str
    run: str
    status: str
    description: str = ""
    error: str = ""
    facts: Sequence[tuple[str, str]] = ()
    figures: Sequence[Figure] = ()
    warnings: Sequence[str] = ()
    missing: list[str] = field(default_factory=list)
    scores: Sequence[Score] = ()
    protocol: Sequence[str] = ()
    classes: Sequence[ClassLine] = ()
    confusions: Sequence[Confusion] = ()
    localisation: Sequence[Localisation] = ()
    grids: Sequence[Grid] = ()
    legend: Sequence[Swatch] = ()
    choice: str = ""
    walk: Sequence[Example] = ()
    stages: Sequence[StagePictures] = ()
    gallery: Gallery | None = None
    curves: Sequence[Curves] = ()
    steps: Sequence[StepLine] = ()
    sections: Sequence[Section] = ()
    overrides: Sequence[str] = ()
    settings: str = ""
    images: Sequence[tuple[str, str, int]] = ()
    bad_images: Sequence[tuple[str, str, str]] = ()
    labels_used: Sequence[str] = ()
    facts_by_step: Sequence[tuple[str, str, str]] = ()
    environment: Sequence[tuple[str, str]] = ()
    command: str = ""
    made: str = ""


def render(page: Page) -> str:
    """Returns the page as HTML: styles, script and pictures inside, nothing fetched from anywhere."""
    script = _text("page.js")
    sha256 = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return _environment().get_template("page.html.j2").render(
        page=page,
        style=_text("page.css"),
        script=script,
        script_sha256=sha256,
        box={"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT, "top": TOP, "bottom": HEIGHT - BOTTOM},
    )  # fmt: skip


def embed(pixels: Pixels, alt: str) -> Picture:
    """Returns a picture, uint8 (H, W, 3) RGB, as a JPEG inside the page, with full colour resolution for thin outlines."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=JPEG_QUALITY, subsampling=0, optimize=True)
    return Picture(_uri("image/jpeg", buffer.getvalue()), pixels.shape[1], pixels.shape[0], alt)


def embed_png(path: Path, alt: str) -> Picture:
    """Returns a PNG file as it is.

    Raises:
        OSError: It is missing, or no PNG.
    """
    with Image.open(path, formats=("PNG",)) as image:
        width, height = image.size
    return Picture(_uri("image/png", path.read_bytes()), width, height, alt)


def percent(share: float | None) -> str:
    """Returns ``43.2`` of 0.432, a dash of None."""
    return "–" if share is None else f"{100 * share:.1f}"


def duration(seconds: float | None) -> str:
    """Returns ``0.4 s``, ``12 s``, ``3 min 5 s`` or ``2 h 10 min``."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min"


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


_TEMPLATES = Path(__file__).parent / "templates"


def _text(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": percent, "duration": duration}
    return environment
