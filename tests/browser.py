"""A page in a real browser: Chromium without a window (Debian: apt-get install chromium)."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Literal

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
Scheme = Literal["light", "dark"]

# Runs beside the page, in a frame of the width asked for. Contrast is WCAG's; backgrounds that are drawn by other
# elements or by ::before are passed over.
_MEASURE = """
<!doctype html><body style="margin:0"><iframe style="border:0;width:WIDTHpx;height:900px" src="PAGE"></iframe><script>
function rgb(text) { const n = text.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; }
function lightness(colour) {
  const [r, g, b] = colour.map(c => (c /= 255) <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b;
}
function behind(element, view) {
  for (; element; element = element.parentElement) {
    const colour = rgb(view.getComputedStyle(element).backgroundColor);
    if (colour[3] > .99) return colour.slice(0, 3);
  }
  return [255, 255, 255];
}
function contrasts(page, view) {
  const found = [], walker = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, style = view.getComputedStyle(element);
    const text = walker.currentNode.textContent.trim();
    if (!text || ['STYLE', 'SCRIPT', 'TITLE'].includes(element.tagName) || !element.getClientRects().length) continue;
    const svg = element instanceof view.SVGElement, ink = rgb(svg ? style.fill : style.color).slice(0, 3);
    const [a, b] = [lightness(ink), lightness(behind(element, view))];
    found.push([(Math.max(a, b) + .05) / (Math.min(a, b) + .05), text.slice(0, 60)]);
  }
  return found.sort((one, other) => one[0] - other[0]);
}
const frame = document.querySelector('iframe');
frame.onload = async () => {
  const page = frame.contentDocument, view = frame.contentWindow, images = [...page.images];
  page.querySelectorAll('details').forEach(one => one.open = true);
  const decoded = await Promise.all(images.map(image => image.decode().then(() => true, () => false)));
  const wide = [...page.querySelectorAll('main *')].filter(one => !one.closest('.scroll, svg')
    && one.getBoundingClientRect().right > view.innerWidth + 1);
  const out = document.createElement('pre');
  out.id = 'measured';
  out.textContent = JSON.stringify({
    dark: view.matchMedia('(prefers-color-scheme: dark)').matches,
    width: view.innerWidth, overflow: page.documentElement.scrollWidth - view.innerWidth,
    wide: wide.slice(0, 5).map(one => one.outerHTML.slice(0, 90)),
    images: images.length, broken: decoded.filter(one => !one).length,
    unnamed: images.filter(one => !one.alt).length,
    contrasts: contrasts(page, view).slice(0, 8), figures: page.querySelectorAll('svg').length,
  });
  document.body.append(out);
};
</script></body>
"""


def measure(page: Path, width: int, scheme: Scheme) -> dict[str, Any]:
    """What a browser makes of a page at a width: overflow, images, contrasts; `console` is what it complains of."""
    wrapper = page.with_name("measure.html")
    wrapper.write_text(_MEASURE.replace("WIDTH", str(width)).replace("PAGE", page.name))
    for _ in range(3):  # its virtual time may run out before the page's images are decoded
        done = _run(wrapper, scheme, "--dump-dom", "--virtual-time-budget=20000")
        if found := re.search(r'<pre id="measured">(.*?)</pre>', done.stdout, re.DOTALL):
            break
    assert found, done.stderr[-2000:]
    measured: dict[str, Any] = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    return {**measured, "console": [line for line in done.stderr.splitlines() if "CONSOLE" in line]}


def screenshot(page: Path, to: Path, width: int, height: int, scheme: Scheme) -> None:
    """The top of a page as a PNG."""
    wrapper = page.with_name("frame.html")
    frame = f'<iframe style="border:0;width:{width}px;height:{height}px" src="{page.name}"></iframe>'
    wrapper.write_text(f'<!doctype html><body style="margin:0">{frame}</body>')
    _run(wrapper, scheme, f"--screenshot={to}", f"--window-size={width},{height}", "--hide-scrollbars")


def _run(page: Path, scheme: Scheme, *options: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM
    root = ["--no-sandbox"] if os.geteuid() == 0 else []  # root has no other way
    command = [
        CHROMIUM, "--headless", *root, "--disable-gpu", "--disable-dev-shm-usage", "--allow-file-access-from-files",
        "--enable-logging=stderr", f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
        f"--user-data-dir={page.parent / 'browser'}", *options, page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
