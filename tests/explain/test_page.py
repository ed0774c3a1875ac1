"""The page of a model's attention, in a real browser: clicks, keys and sliders change what is drawn."""

import json
import re
import shutil

import pytest
import torch

from explain.networks import build
from regard.explain import attention_maps, look_from, write_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser():
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    with sync.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def open_page(browser, file):
    page = browser.new_page(viewport={"width": 900, "height": 1000}, offline=True)
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(request.url) if request.url.startswith("http") else None)
    page.goto(file.as_uri())
    page.wait_for_selector("body[data-ready=yes]")
    return page, problems


def write(folder, family):
    model, images = build(family)
    image = torch.rand(3, *images.shape[2:])
    return model, images[:1], write_page(folder / "page.html", image, attention_maps(model, images[:1]), "a <test>")


def said(page):
    return page.inner_text("#say")


def brightest(page):
    """The row and the column of the most colorful cell, as drawn, and how colorful it is."""
    return page.evaluate(
        """() => {
          const layer = data.layers[+layerInput.value], [rows, columns] = layer.grid;
          const w = view.width / columns, h = view.height / rows;
          let best = [-1, -1, -1];
          for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) {
            const p = pen.getImageData((c + 0.5) * w, (r + 0.5) * h, 1, 1).data;
            const color = Math.abs(p[0] - p[2]);
            if (color > best[2]) best = [r, c, color];
          }
          return best;
        }"""
    )


@pytest.mark.parametrize("family", ["NAT", "Swin", "CaiT"])
def test_a_click_shows_where_its_token_looks(browser, tmp_path, family):
    """What is drawn brightest is the key with the largest weight of the token that was clicked."""
    model, images, file = write(tmp_path, family)
    page, problems = open_page(browser, file)
    box = page.locator("#view").bounding_box()
    size = images.shape[2]
    for x, y in ((5, 9), (20, 28)):
        page.mouse.click(box["x"] + (x + 0.5) / size * box["width"], box["y"] + (y + 0.5) / size * box["height"])
        expected = look_from(model, images, x + 0.5, y + 0.5, layer=0, head=0)[0]
        row, column, color = brightest(page)
        assert color > 100
        assert float(expected[row, column].abs()) >= float(expected.abs().max()) * (1 - 2 / 127)
        place = re.search(r"token in row (\d+), column (\d+)", said(page))
        assert (int(place[1]), int(place[2])) == (y * len(expected) // size, x * len(expected) // size)
    assert problems == []
    page.close()


def test_keys_and_sliders(browser, tmp_path):
    _, _, file = write(tmp_path, "NAT")
    page, problems = open_page(browser, file)
    before, first = said(page), page.evaluate("view.toDataURL()")
    page.focus("#view")
    page.keyboard.press("ArrowRight")
    assert said(page) != before
    assert page.evaluate("view.toDataURL()") != first
    page.focus("#layer")
    page.keyboard.press("End")
    assert said(page).startswith("levels.2.")
    page.focus("#head")
    page.keyboard.press("End")
    assert "all heads" in said(page)
    assert page.inner_text("h1") == "a <test>"
    assert problems == []
    page.close()


def test_shared_contexts_are_stored_once(tmp_path):
    """The page of a network with token weights holds one row per layer, not one per token."""
    _, images, file = write(tmp_path, "SwiftFormer")
    data = json.loads(re.search(r'application/json">(.*?)</script>', file.read_text(), re.S)[1])
    assert [layer["queries"] for layer in data["layers"]] == [1] * len(data["layers"])
    assert file.stat().st_size < 100_000 + images.numel()
