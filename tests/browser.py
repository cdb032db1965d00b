"""A real browser for tests of pages: headless Chromium by its command line, no driver. Tests skip where there is none.

A page is looked at inside a frame of the wanted width (Chromium's own windows are 500 px wide at least), as it is: nothing is
injected into it, so its Content-Security-Policy holds too.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)

_WRAPPER = """<!doctype html><meta charset="utf-8"><style>body{{margin:0}}iframe{{border:0;width:{width}px;height:{height}px}}</style>
<iframe srcdoc="{page}"></iframe><pre id="findings"></pre><script>
addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement, view = page.defaultView;
  const images = [...page.querySelectorAll("img[src]")];
  const ids = [...page.querySelectorAll("[id]")].map((e) => e.id);
  const wide = [...page.body.querySelectorAll("*")].filter((e) => e.getBoundingClientRect().right > root.clientWidth + 1 && !e.closest(".scroll, pre, .skip"));
  document.querySelector("#findings").textContent = JSON.stringify({{
    images: images.length,
    broken: images.filter((i) => !i.naturalWidth).map((i) => i.alt),
    unnamed: images.filter((i) => !i.alt).length,
    overflow: Math.max(root.scrollWidth, page.body.scrollWidth) - root.clientWidth,
    wide: wide.slice(0, 5).map((e) => e.outerHTML.slice(0, 120)),
    fetched: view.performance.getEntriesByType("resource").map((r) => r.name).filter((n) => !n.startsWith("data:")),
    dangling: [...page.querySelectorAll("a[href^='#']")].filter((a) => !page.getElementById(a.hash.slice(1))).map((a) => a.hash),
    twice: ids.filter((id, n) => ids.indexOf(id) !== n),
    paper: view.getComputedStyle(page.body).backgroundColor,
    text: page.body.innerText,
  }});
}});
</script>"""


@dataclass(frozen=True)
class Look:
    """What the browser found.

    Attributes:
        console: Everything the page wrote to the console: errors of its script, blocked parts, warnings.
        images: How many images; broken: what those without a picture are called; unnamed: how many have no alt text.
        overflow: Pixels by which the page is wider than its window; wide: elements that reach out of it.
        fetched: Addresses that it loaded; dangling: links to nowhere in it; twice: ids that occur more than once.
        paper: Colour of the page.
        text: What a reader sees.
    """

    console: list[str]
    images: int
    broken: list[str]
    unnamed: int
    overflow: float
    wide: list[str]
    fetched: list[str]
    dangling: list[str]
    twice: list[str]
    paper: str
    text: str


def look_at(page: Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> Look:
    """Loads a page and reports on it."""
    text = _WRAPPER.format(width=width, height=height, page=html.escape(page.read_text(encoding="utf-8")))
    wrapper = page.with_name(f"{page.stem}-{width}-{'dark' if dark else 'light'}.html")
    wrapper.write_text(text, encoding="utf-8")
    done = _chromium(wrapper.as_uri(), "--dump-dom", "--virtual-time-budget=10000", width=width, height=height, dark=dark)
    found = re.search(r'<pre id="findings">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found and found[1], f"the page did not load: {done.stderr[-2000:]}"
    return Look(console=console(done), **json.loads(html.unescape(found[1])))


def load(url: str, *, width: int = 1280, dark: bool = False, budget: int = 10000) -> tuple[str, list[str]]:
    """Loads any address by itself; returns the DOM after its scripts ran, and what was written to the console."""
    done = _chromium(url, "--dump-dom", f"--virtual-time-budget={budget}", width=width, dark=dark)
    return done.stdout, console(done)


def screenshot(page: Path, picture: Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
    """Takes a picture of a page at a width, its top ``height`` pixels."""
    text = _WRAPPER.format(width=width, height=height, page=html.escape(page.read_text(encoding="utf-8")))
    wrapper = picture.with_suffix(".html")
    wrapper.write_text(text, encoding="utf-8")
    options = (f"--screenshot={picture}", "--virtual-time-budget=10000", "--hide-scrollbars")
    _chromium(wrapper.as_uri(), *options, width=width, height=height, dark=dark)
    wrapper.unlink()


def console(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Returns the console's lines out of Chromium's log."""
    return [line.split("CONSOLE", 1)[1] for line in done.stderr.splitlines() if ":CONSOLE" in line]


def _chromium(url: str, *options: str, width: int, height: int = 900, dark: bool = False) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM, "call this only where CHROMIUM is not None"
    return subprocess.run(
        [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr",
            "--no-first-run", "--disable-extensions", "--disable-background-networking", f"--window-size={width},{height}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}", *options, url,
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
