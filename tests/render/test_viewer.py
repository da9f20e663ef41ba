"""The viewer: the file, and what it does in a browser."""

import base64
import io
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lifter.data.angles import joint_angles
from lifter.render import html, pictures, render
from lifter.render.people import together
from lifter.render.scene import compose
from lifter.video import Video
from tests.video.conftest import film  # noqa: F401

EVIL = "</script><img src=x onerror=\"hacked = 1\"><!-- \u2028 & '@SCENE@"


class Page(HTMLParser):
    """The tags, the attributes, and the text of the scene."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.scene, self.inside = [], [], "", False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        self.inside = ("type", "application/json") in attributes

    def handle_data(self, data):
        self.scene += data if self.inside else ""


def unpack(packed):
    numbers = np.frombuffer(base64.b64decode(packed["data"]), "<i2").reshape(-1, 3)
    return numbers * packed["step"] + packed["origin"]


def test_the_file(tmp_path, truth, lifted):
    path = tmp_path / "walk.html"
    assert render(path, {EVIL: lifted, "two": truth}, replace(truth, name=EVIL, valid=np.arange(13) > 0)) == 13
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags.count("script") == 2 and "img" not in page.tags and "link" not in page.tags
    assert not {"src", "href", "onerror"} & {name for name, _ in page.attributes} and "://" not in text
    scene, data = compose({EVIL: lifted, "two": truth}, truth), json.loads(page.scene)
    assert data["name"] == EVIL and [model["name"] for model in data["models"]] == [EVIL, "two"]
    for poses, model in zip(scene.models.values(), data["models"]):
        assert model["poses"]["step"] == 1e-4
        np.testing.assert_allclose(unpack(model["poses"]), poses.reshape(-1, 3), rtol=0, atol=0.51e-4)
    np.testing.assert_allclose(unpack(data["keypoints"])[:, :2], truth.keypoints.reshape(-1, 2), rtol=0, atol=0.51e-4)
    errors = np.frombuffer(base64.b64decode(data["models"][0]["errors"]), "<f4")
    assert errors == pytest.approx([np.nan, 10] + [0, 10] * 5 + [0], nan_ok=True, abs=1e-4)


def test_the_template():
    """One place for the scene, nothing else to fill in, and no file of the folder left out."""
    assert re.findall("@[A-Z]+@", html.page()) == ["@SCENE@"]
    assert {f"{name}.js" for name in html.SCRIPTS} | {"page.html", "style.css"} == {
        path.name for path in Path(html.__file__).with_name("viewer").iterdir()
    }


def test_far_walks_are_coarser():
    """More than 6.5 m do not fit into 16 bits of 0.1 mm."""
    far = np.random.default_rng(0).uniform(-20, 20, (5, 17, 3)).astype(np.float32)
    packed = html.pack(far)
    assert 1e-4 < packed["step"] < 1e-3
    np.testing.assert_allclose(unpack(packed), far.reshape(-1, 3), rtol=0, atol=0.51 * packed["step"])


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        pytest.skip(f"no browser found: none of {', '.join(names)}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


class Viewer:
    """A page, and its pixels."""

    def __init__(self, browser, path, **options):
        self.page = browser.new_page(**{"viewport": {"width": 900, "height": 640}} | options)
        self.problems, self.requests = [], []
        self.page.on("console", lambda message: self.problems.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def pixels(self, card="room"):
        """A canvas as the text of a PNG, when what was asked for is drawn."""
        return self.page.evaluate(
            """card => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => {
                done(document.querySelector(`#${card} canvas`).toDataURL());
            })))""",
            card,
        )

    def drawn(self, card="room"):
        """The share of a canvas on which there is something."""
        return (np.asarray(Image.open(io.BytesIO(base64.b64decode(self.pixels(card).partition(",")[2]))))[..., 3] > 0).mean()

    def changes(self, action, card="room"):
        before = self.pixels(card)
        action()
        return self.pixels(card) != before

    def touch(self, *places):
        """Fingers that go from places to places of the room, pixels from its middle, and leave; the view before and after."""
        self.page.locator("#room").scroll_into_view_if_needed()
        box, before = self.page.locator("#room").bounding_box(), self.page.evaluate("({...view})")
        middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        devtools = self.page.context.new_cdp_session(self.page)
        for number, fingers in enumerate((*places, ())):
            points = [{"x": middle[0] + x, "y": middle[1] + y, "id": i} for i, (x, y) in enumerate(fingers)]
            kind = "touchStart" if number == 0 else "touchMove" if points else "touchEnd"
            devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        self.pixels()
        return before, self.page.evaluate("({...view})")

    @property
    def frame(self):
        self.pixels()
        return int(self.page.locator("#slider").input_value())


def test_in_a_browser(browser, tmp_path, truth, lifted):
    path = tmp_path / "walk.html"
    render(path, {EVIL: lifted, "two": truth}, replace(truth, name=EVIL))
    viewer = Viewer(browser, path)
    page, key = viewer.page, viewer.page.keyboard
    for card in ("room", "flat", "curves"):
        assert viewer.drawn(card) > 0.004, card
    assert page.locator("h1").text_content() == EVIL and page.title() == f"{EVIL} – lifter"
    assert page.locator("#chips button").count() == 3 and page.locator("img").count() == 0

    assert viewer.changes(lambda: page.locator("#slider").fill("5")) and viewer.frame == 5
    assert viewer.changes(lambda: key.press("ArrowRight"), "flat") and viewer.frame == 6
    key.press("Shift+ArrowRight")
    assert viewer.frame == 12 and not viewer.changes(lambda: key.press("End"))
    key.press("Home")
    assert viewer.frame == 0 and "frame 0 of 12 · 0.00 s" in page.locator("#when").text_content()
    box = page.locator("#curves").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.52, box["y"] + 60)
    assert viewer.frame == 6

    for chip in page.locator("#chips button").all():
        assert viewer.changes(chip.click), chip.text_content()
    assert viewer.changes(lambda: key.press("1")) and viewer.changes(lambda: key.press("2"))
    for action in ("#overlay", "#follow"):
        assert viewer.changes(page.locator(action).click), action

    stage = page.locator("#room").bounding_box()
    x, y = stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2
    start = viewer.pixels()

    def drag():
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 80, y + 10, steps=3)
        page.mouse.up()

    assert viewer.changes(drag)
    assert viewer.changes(lambda: page.mouse.wheel(0, -200))
    page.keyboard.down("Shift")
    assert viewer.changes(drag)
    page.keyboard.up("Shift")
    page.locator("#reset").click()
    assert viewer.pixels() == start

    key.press("Space")
    assert any(viewer.frame != 6 for _ in range(100))
    key.press("Space")
    assert viewer.frame == viewer.frame
    assert page.evaluate("typeof hacked") == "undefined"
    assert viewer.problems == [] and viewer.requests == [path.as_uri()]


@pytest.fixture
def two_people(truth):
    """One who is there all the time, and one who comes later and goes earlier."""
    other = replace(truth, poses=truth.poses + np.float32([1, 0, 0.5])).take(slice(3, 9))
    return [replace(each, name=f"walk/person{number}") for number, each in enumerate((truth, other), 1)]


def test_video_and_people(film, truth, two_people):  # noqa: F811
    """The frames of the clip as JPEGs, angles for each person, and the camera that filmed them."""
    clip = film(times=range(0, 80, 4))
    later = [replace(person, start=person.start + 2) for person in two_people]
    scene = compose({"walk": together(later)}, video=Video(clip))
    data = html.describe(scene)
    assert data["people"] == [[0, 17], [17, 34]] and data["film"]["numbers"] == list(range(13))
    images = [np.asarray(Image.open(io.BytesIO(base64.b64decode(jpeg)))) for jpeg in data["film"]["data"]]
    assert len(images) == 13 and all(image.shape == (48, 64, 3) for image in images)
    assert all(image[:8, :8, 0].mean() > 150 > 90 > image[30:].mean() for image in images)
    angles = [np.frombuffer(base64.b64decode(each["left_knee_flexion"]), "<i2") / 10 for each in data["models"][0]["angles"]]
    np.testing.assert_allclose(angles[0], joint_angles(truth)["left_knee_flexion"], atol=0.051)
    np.testing.assert_allclose(angles[1][3:9], angles[0][3:9], atol=0.11)
    seen = scene.camera.to_camera(scene.models["walk"][:, :17])
    np.testing.assert_allclose(scene.camera.project(seen), truth.pixels(), atol=0.1)
    assert compose({"walk": truth}, root_relative=True).camera is None


def test_few_pictures_of_a_long_video(film, truth, monkeypatch):  # noqa: F811
    monkeypatch.setattr(pictures, "PICTURES", 4)
    with pytest.warns(UserWarning, match="walk: of the video every 4 frames one is shown, for a file of at most 4 pictures"):
        data = html.describe(compose({"walk": replace(truth, name="walk")}, video=Video(film(times=range(0, 80, 4)))))
    assert data["film"]["numbers"] == [0, 4, 8, 12]


def test_video_and_people_in_a_browser(browser, tmp_path, film, two_people):  # noqa: F811
    """On a phone: the video below the keypoints, both people, views, trails and curves; nothing is wider than the screen."""
    path = tmp_path / "walk.html"
    render(path, {"walk": together(two_people)}, video=Video(film(times=range(0, 80, 4))))
    viewer = Viewer(browser, path, viewport={"width": 390, "height": 844}, has_touch=True, color_scheme="dark")
    page = viewer.page
    page.wait_for_function("shownPicture !== null")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    heights = [page.locator(f"#{card}").bounding_box()["height"] for card in ("flat", "room")]
    assert viewer.drawn("flat") > 0.9 and min(heights) > 140
    assert page.locator("#chips").text_content() == "person 1person 2"
    page.evaluate("seek(6)")
    for action in ("#real", "#trails", "#real", "#follow"):
        assert viewer.changes(page.locator(action).click), action
    before, after = viewer.touch([(0, 0)], [(25, 0)], [(50, 0)], [(75, 5)])
    assert after["yaw"] - before["yaw"] > 10 and after["zoom"] == before["zoom"]
    before, after = viewer.touch([(-20, 0), (20, 0)], [(-40, 0), (40, 0)], [(-60, 0), (60, 0)])
    assert after["zoom"] > 1.4 * before["zoom"] and after["yaw"] == before["yaw"] and abs(after["x"]) < 0.05
    before, after = viewer.touch([(-40, 0), (40, 0)], [(-20, 20), (60, 20)], [(0, 40), (80, 40)])
    assert after["x"] > before["x"] and after["y"] > before["y"] and after["yaw"] == before["yaw"]
    assert after["zoom"] == pytest.approx(before["zoom"], rel=0.05)
    assert page.evaluate("scene.people.map(([from, to]) => isThere(bodies[0].poses, {from, to}, 0))") == [True, False]
    names = page.locator("#which option").all_text_contents()
    assert names == ["knees", "hips", "elbows", "shoulders", "height", "speed"]
    for name in names[1:]:
        assert viewer.changes(lambda name=name: page.locator("#which").select_option(label=name), "curves"), name
    assert viewer.problems == [] and all(not url.startswith("http") for url in viewer.requests)


def test_little_to_show(browser, tmp_path, lifted):
    """One frame of one model, in the dark: no keypoints, no errors, nothing to compare."""
    path = tmp_path / "pose.html"
    render(path, {"one": lifted.take(slice(1))})
    viewer = Viewer(browser, path, color_scheme="dark")
    assert viewer.drawn() > 0.004
    assert [viewer.page.locator(part).is_visible() for part in ("#flat", "#curves", "#overlay", "#room")] == [0, 0, 0, 1]
    viewer.page.keyboard.press("Space")
    viewer.page.keyboard.press("t")
    assert viewer.frame == 0 and viewer.problems == []
    dot = "const pen = document.createElement('canvas').getContext('2d'); line(pen, [9, 9], [9, 9], 'red', 6);"
    assert viewer.page.evaluate(f"(() => {{ {dot} return pen.getImageData(9, 9, 1, 1).data[3]; }})()") == 255
    dark = viewer.pixels()
    viewer.page.emulate_media(color_scheme="light")
    assert any(viewer.pixels() != dark for _ in range(100))
