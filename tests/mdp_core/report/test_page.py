"""The page of a run in a real browser, and its structure: on a run of the toy method, and with hostile names everywhere."""

from __future__ import annotations

import html.parser
import json
import re
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

from mdp_core.report.charts import line_chart
from mdp_core.report.page import (
    Change,
    ClassLine,
    Cluster,
    Confusion,
    Curves,
    Example,
    Figure,
    Gallery,
    Group,
    Localisation,
    Page,
    Score,
    Section,
    StagePictures,
    StepLine,
    Swatch,
    duration,
    embed,
    percent,
    render,
)

TESTS = Path(__file__).parents[2]
spec = spec_from_file_location("browser", TESTS / "browser.py")
assert spec is not None and spec.loader is not None
browser = module_from_spec(spec)
sys.modules["browser"] = browser
spec.loader.exec_module(browser)
needs_browser = pytest.mark.skipif(browser.CHROMIUM is None, reason="no chromium")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a finished run of the toy method."""
    folder = tmp_path_factory.mktemp("report")
    for arguments in (
        [
            "run",
            str(TESTS / "toy.yaml"),
            "--plugin",
            str(TESTS / "toy_method.py"),
            "--no-track",
            "--set",
            "pipeline.refiner.threshold=0.4",
        ],
        ["report", "last", "-o", "page.html"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "mdp_core.cli.main", *arguments], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    return folder / "page.html"


HOSTILE = "<script>document.title='owned'</script>\"'><img src=x onerror=alert(1)>{{ 7*7 }}&amp;</style>"


def hostile_page() -> Page:
    """A page with markup in every text that somebody else may choose, and long words that do not break."""
    picture = embed(np.full((40, 60, 3), 120, np.uint8), HOSTILE)
    example = Example(HOSTILE, (("prior", picture), (HOSTILE, picture)), "12.0 %")
    chart = line_chart(HOSTILE, [(1, 1.0), (2, 0.5)])
    assert chart is not None
    long = "supercalifragilistic" * 12
    return Page(
        HOSTILE,
        "20260101-000000-x",
        "failed",
        description=HOSTILE,
        error=HOSTILE,
        facts=[("recipe", HOSTILE + long)],
        figures=[Figure("mIoU", "1.0", HOSTILE)],
        warnings=[HOSTILE, long],
        missing=[HOSTILE],
        scores=[Score(HOSTILE, "prior", 0.5, 0.9, 3)],
        protocol=[HOSTILE],
        classes=[ClassLine(HOSTILE, "rgb(1 2 3)", 0.5, (0.25,)), ClassLine(long, "rgb(1 2 3)", 0.0, (None,))],
        confusions=[
            Confusion(HOSTILE, (HOSTILE, "b"), ((HOSTILE, 4, (0.75, 0.25)), ("b", 0, None))),
            Confusion(
                "dense", tuple(f"{HOSTILE}{i}" for i in range(40)), tuple((HOSTILE, 1, (1 / 40,) * 40) for _ in range(40))
            ),
        ],
        localisation=[Localisation(HOSTILE, 0.1, 0.2, 0.3, 0.4, 5, 6)],
        legend=[Swatch("rgb(1 2 3)", HOSTILE)],
        walk=[example, Example(HOSTILE, problem=HOSTILE)],
        stages=[StagePictures("prior", HOSTILE, HOSTILE, (HOSTILE,), HOSTILE, (Group(HOSTILE, (example,)),), HOSTILE)],
        gallery=Gallery(HOSTILE, HOSTILE, (Cluster(1, 2, "rgb(1 2 3)", HOSTILE, 0.5, (picture,)),)),
        curves=[Curves(HOSTILE, HOSTILE, (chart,))],
        steps=[StepLine(HOSTILE, HOSTILE, "failed", 1.0, 1.0), StepLine(long, "", "not done", None, 0.0)],
        sections=[
            Section(HOSTILE, HOSTILE, (Change(HOSTILE, HOSTILE, HOSTILE), Change(long, long, None))),
            Section("x", "y", None),
        ],
        overrides=[HOSTILE, long],
        settings=f"{HOSTILE}\n{long}",
        images=[(HOSTILE, HOSTILE, 3)],
        bad_images=[(HOSTILE, HOSTILE, long)],
        labels_used=[HOSTILE],
        facts_by_step=[(HOSTILE, HOSTILE, long)],
        environment=[(HOSTILE, long)],
        command=f"mdp run {HOSTILE} --set x={long}",
        made=HOSTILE,
    )


class Tags(html.parser.HTMLParser):
    """Lists the tags with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def tags(text: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Tags()
    parser.feed(text)
    return parser.found


def check(look: object, dark: bool) -> None:
    assert look.console == [], "no script error, nothing blocked"
    assert look.images > 0
    assert look.broken == []
    assert look.unnamed == 0, "each picture says what it shows"
    assert look.overflow <= 0, look.wide
    assert look.wide == []
    assert look.fetched == [], "nothing is fetched"
    assert look.dangling == []
    assert look.twice == []
    red, green, blue = (int(n) for n in re.findall(r"\d+", look.paper)[:3])
    assert (red + green + blue < 150) if dark else (red + green + blue > 700)


@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_in_a_browser(page: Path, tmp_path: Path, width: int, dark: bool) -> None:
    copy = tmp_path / "page.html"
    copy.write_bytes(page.read_bytes())
    look = browser.look_at(copy, width=width, dark=dark)
    check(look, dark)
    for words in ("finished", "Components", "Confusion after matching", "Clusters", "Training curves", "Plan and timings"):
        assert words in look.text


@needs_browser
def test_the_page_opened_from_the_disk_runs_its_script(page: Path) -> None:
    dom, console = browser.load(page.as_uri())
    assert console == []
    assert '<html lang="en" class="script">' in dom, "the script ran, so its hash in the Content-Security-Policy is right"


@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
def test_hostile_names_stay_text(tmp_path: Path, width: int) -> None:
    file = tmp_path / "hostile.html"
    file.write_text(render(hostile_page()), encoding="utf-8")
    look = browser.look_at(file, width=width)
    check(look, dark=False)
    assert look.text.count("onerror=alert(1)") > 20, "they are to be read"
    dom, _ = browser.load(file.as_uri())
    assert "<title>owned" not in dom


def test_hostile_names_make_no_tags() -> None:
    found = tags(render(hostile_page()))
    harmless = tags(render(Page("x", "20260101-000000-x", "failed")))
    for tag in ("script", "style", "title"):
        assert sum(t == tag for t, _ in found) == sum(t == tag for t, _ in harmless) == 1
    assert not any("onerror" in attributes for _, attributes in found)
    assert all((attributes.get("src") or "data:").startswith("data:") for tag, attributes in found if tag == "img")
    assert "49" not in re.sub(
        r"data:[^\"]*|rgb\([^)]*\)|<style>.*?</style>", "", render(Page("{{ 7*7 }}", "r", "failed")), flags=re.DOTALL
    )


def test_an_empty_page_has_no_empty_sections() -> None:
    text = render(Page("x", "20260101-000000-x", "failed", error="no disk"))
    ids = [attributes["id"] for _, attributes in tags(text) if "id" in attributes]
    assert {"results", "stages", "clusters", "curves"}.isdisjoint(ids)
    assert "no disk" in text and "The run failed" in text
    linked = [str(a["href"])[1:] for tag, a in tags(text) if tag == "a" and str(a["href"]).startswith("#")]
    assert set(linked) <= set(ids)


def test_the_structure_of_a_finished_run(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = tags(text)
    assert len([t for t, _ in found if t == "h1"]) == 1
    ids = [a["id"] for _, a in found if "id" in a]
    for stage in ("prior", "clusterer", "detector", "refiner", "segmenter"):
        assert f"stage-{stage}" in ids
    assert {"results", "stages", "clusters", "curves", "steps", "recipe", "images", "provenance"} <= set(ids)
    record = json.loads(max((page.parent / ".mdp" / "runs").glob("*/run.json")).read_text())
    for row in record["results"]["components"]:
        assert f">{percent(row['miou'])}</td>" in text
        assert row["title"] in text
    for step in record["steps"]:
        assert f"<code>{step['id']}</code>" in text
    plain = html.unescape(re.sub(r"<[^>]*>", " ", text))
    assert "Ranked by the IoU of the image's most confident mask with the true object" in plain
    assert "mean IoU over the classes that its ground truth has" in plain
    for group in ("Best", "Worst", "Random"):
        assert text.count(f"<h4>{group}</h4>") == 5
    assert "pipeline.refiner.threshold=0.4" in plain
    changed = re.search(r"threshold</th><td><code>0\.4</code></td><td><code>0\.6</code>", text)
    assert changed, "a setting beside its default"
    assert "matching clusters with classes (split val)" in plain
    assert len(text) < 6e6
    outside = [v for _, a in found for n, v in a.items() if n in ("src", "href") and v and not v.startswith(("data:", "#"))]
    assert outside == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.04, "0.0 s"),
        (9.96, "10.0 s"),
        (59.7, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h 0 min"),
        (7800, "2 h 10 min"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
