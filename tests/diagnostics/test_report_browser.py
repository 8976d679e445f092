"""The report in a real browser: it shows something, and a phone need not scroll sideways. Skipped without Chromium."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from diagnostics import compare, report
from zoo.models.bento import bento
from zoo.models.coffee import coffee

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on PATH"),
]


@pytest.fixture(scope="module", params=[bento, coffee], ids=["bento", "coffee"])
def page(request, tmp_path_factory):
    settings = {"num_draws": 200, "num_warmup": 100, "importance_joint": {"num_particles": 200}}
    names = ["quadrature", "enumeration", "gibbs", "importance_joint"]
    path = tmp_path_factory.mktemp(request.param.__name__) / "report.html"
    return report.write(compare(request.param(), names, settings=settings), path)


def browse(page, folder, *arguments):
    profile = f"--user-data-dir={folder / 'profile'}"
    done = subprocess.run(
        [BROWSER, *FLAGS, profile, *arguments, page.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("width", [1200, 500])
def test_the_page_is_not_blank(page, tmp_path, width):
    shot = tmp_path / "shot.png"
    browse(page, tmp_path, f"--window-size={width},3000", f"--screenshot={shot}")
    pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    assert pixels.shape == (3000, width, 3)
    inked = (pixels.sum(axis=2) < 600).reshape(10, 300, width).mean(axis=(1, 2))
    assert (inked > 0.005).all(), f"ink from top to bottom: {inked.round(4)}"


def test_nothing_is_wider_than_a_phone_but_what_scrolls_in_its_own_box(page, tmp_path):
    probe = "<script>document.title = document.documentElement.scrollWidth + ' of ' + innerWidth</script></body>"
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text(encoding="utf-8").replace("</body>", probe), encoding="utf-8")
    found = browse(probed, tmp_path, "--window-size=500,1000", "--dump-dom")
    needed, there = map(int, re.search(r"<title>(\d+) of (\d+)</title>", found).groups())
    assert there <= 500 and needed <= there


def test_every_picture_is_decoded(page, tmp_path):
    probe = (
        "<script>onload = () => document.title = [...document.images]"
        ".map(i => i.complete ? i.naturalWidth : 0).join(' ')</script></body>"
    )
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text(encoding="utf-8").replace("</body>", probe), encoding="utf-8")
    found = browse(probed, tmp_path, "--virtual-time-budget=2000", "--dump-dom")
    widths = list(map(int, re.search(r"<title>([\d ]+)</title>", found)[1].split()))
    assert len(widths) == page.read_text(encoding="utf-8").count("<img ") and min(widths) > 500
