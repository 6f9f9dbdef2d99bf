"""The page by keyboard, by ear, in both colour schemes and on small screens."""

import os
import re
from pathlib import Path

import pytest

from .browser import ask, done, replies
from .scripted import WAIT, call, say, think

expect = pytest.importorskip("playwright.sync_api").expect


def test_a_screen_reader_hears_whole_replies_not_tokens(page, server):
    page.evaluate(
        """() => { window.said = []; new MutationObserver(() =>
          said.push(document.getElementById("say").textContent)).observe(
          document.getElementById("say"), {childList: true}); }"""
    )
    server.scripts["go"] = [say(f"w{i} ") for i in range(40)] + [WAIT, say("end")]
    ask(page, "go")
    expect(page.locator(".reply .markdown")).to_contain_text("w39")
    assert page.locator(".reply").get_attribute("aria-busy") == "true"
    server.go.set()
    done(page)
    said = page.evaluate("said")
    assert said[0] == "The reply is being written." and len(set(said)) == 2
    assert said[-1].startswith("Reply: w0 w1 ") and "end" in said[-1]
    assert page.locator("#log").get_attribute("role") == "log"
    assert page.locator("#log").get_attribute("aria-live") == "off"


def test_everything_that_can_be_used_has_a_name(page, server):
    server.scripts["go"] = [
        think("r"),
        say("```\nx\n```\n\n|a|\n|-|\n|1|"),
        call(0, "f", "{}"),
        ("tool_calls",),
    ]
    ask(page, "go")
    done(page)
    usable = "button, input, select, textarea, summary, [tabindex]"
    names = """(usable) => [...document.querySelectorAll(usable)]
      .filter((node) => !(node.ariaLabel || node.labels?.length || node.textContent.trim()))
      .map((node) => node.outerHTML)"""
    assert page.evaluate(names, usable) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(open_page, server, scheme):
    page = open_page(color_scheme=scheme)
    server.scripts["go"] = [
        think("r"),
        say("a [l](http://a.b) `c`\n\n> q"),
        call(0, "f", "{}"),
        ("length",),
    ]
    ask(page, "go")
    done(page)
    page.click("summary")
    page.wait_for_timeout(300)  # colours change over a moment
    assert page.evaluate(Path(__file__).with_name("contrast.js").read_text()) == []


def test_the_keyboard_is_enough(page, server):
    server.scripts["go"] = [say("x"), WAIT]
    page.fill("#prompt", "a")
    page.press("#prompt", "Shift+Enter")
    page.keyboard.type("b")
    page.keyboard.press("Enter")
    done(page)
    assert server.user_texts() == ["a\nb"]
    page.keyboard.press("Alt+r")
    done(page)
    assert len(server.bodies) == 2
    page.keyboard.press("Alt+n")
    assert replies(page) == []
    page.locator("#log").focus()
    page.keyboard.press("/")
    expect(page.locator("#prompt")).to_be_focused()
    page.locator("#log").focus()
    page.keyboard.press("?")
    expect(page.locator("#shortcuts")).to_be_visible()
    expect(page.locator("#shortcut-list dt")).to_have_count(9)
    page.keyboard.press("Escape")
    expect(page.locator("#shortcuts")).to_be_hidden()


def test_enter_that_ends_a_composition_does_not_send(page, server):
    page.fill("#prompt", "かな")
    page.evaluate(
        """() => document.getElementById("prompt").dispatchEvent(new KeyboardEvent("keydown",
          {key: "Enter", isComposing: true, bubbles: true, cancelable: true}))"""
    )
    assert page.input_value("#prompt") == "かな" and server.bodies == []


def test_colours_follow_the_system_and_the_switch(open_page):
    page = open_page(color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.click("#theme")
    light = page.evaluate(ground)
    assert (
        sum(map(int, re.findall(r"\d+", dark)))
        < 150
        < 600
        < sum(map(int, re.findall(r"\d+", light)))
    )
    page.reload()
    assert page.evaluate(ground) == light
    page.click("#theme")
    page.click("#theme")
    assert page.evaluate(ground) == dark
    assert page.locator("#theme").get_attribute("aria-label") == "Colours: as the system"


@pytest.mark.parametrize(
    ("width", "scheme"), [(320, "light"), (390, "dark"), (1280, "light"), (1280, "dark")]
)
def test_it_fits_the_screen(open_page, server, width, scheme, tmp_path):
    small = width < 500
    page = open_page(
        viewport={"width": width, "height": 720},
        color_scheme=scheme,
        has_touch=small,
        is_mobile=small,
    )
    server.scripts["go"] = [
        think("r " * 80),
        say(f"{'long' * 60}\n\n```\n{'x' * 300}\n```\n\n|{'a|' * 30}\n|{'-|' * 30}"),
    ]
    page.fill("#prompt", "go")
    page.click("#send")
    done(page)
    shots = Path(os.environ.get("DSV4_SCREENSHOTS", tmp_path))
    page.screenshot(path=shots / f"page-{width}-{scheme}.png")
    wide = """Math.max(document.documentElement.scrollWidth,
      document.getElementById("log").scrollWidth) > innerWidth"""
    assert not page.evaluate(wide)
    page.get_by_label("Edit this message").click()
    expect(page.get_by_label("Edit the message")).to_be_in_viewport(ratio=1)
    page.keyboard.press("Escape")
    if small:
        page.click("#menu")
        expect(page.locator("#new")).to_be_in_viewport(ratio=1)
        assert page.locator("main").evaluate("node => node.inert")
        page.keyboard.press("Escape")
        expect(page.locator("#menu")).to_be_focused()
        expect(page.locator("#new")).not_to_be_in_viewport()
    page.click("#open-settings")
    expect(page.locator("#settings")).to_be_in_viewport(ratio=1)
