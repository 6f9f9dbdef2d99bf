"""The page and the server that it comes from: what one asks the other answers."""

import json

import pytest
from server.engines import Scripted
from server.running import MODEL, serving

from .browser import ask, done, replies

expect = pytest.importorskip("playwright.sync_api").expect

END = "<｜end▁of▁sentence｜>"
CALL = (
    '\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="weather">\n'
    '<｜DSML｜parameter name="city" string="true">Oslo</｜DSML｜parameter>\n'
    "</｜DSML｜invoke>\n</｜DSML｜tool_calls>"
)


def test_a_conversation_with_the_server(open_page, tokenizer):
    with serving(Scripted(tokenizer), tokenizer, api_key="secret") as running:
        running.say(f"so it is</think># One\n\n**two**{END}")
        page = open_page(address=running.url, ready="#settings[open]")
        page.fill("#key", "secret")
        page.keyboard.press("Tab")
        page.fill("#tools", json.dumps([{"name": "weather", "parameters": {"type": "object"}}]))
        page.keyboard.press("Escape")
        expect(page.locator("#model")).to_have_value(MODEL)
        ask(page, "hello")
        done(page)
        expect(page.locator(".thoughts")).to_have_text("so it is")
        expect(page.locator(".done h3")).to_have_text("One")
        expect(page.locator("#status")).to_contain_text("3 of them cached")
        assert page.locator("#status").get_attribute("title").endswith("first differs")

        running.say(f"I look</think>See:{CALL}{END}", f"done</think>It rains.{END}")
        ask(page, "weather?")
        done(page)
        expect(page.locator(".call pre")).to_have_text('{\n  "city": "Oslo"\n}')
        page.get_by_label("Result of weather").fill("rain")
        page.get_by_role("button", name="Send the result").click()
        done(page)
        assert replies(page)[-1] == "It rains."

        page.click("#new")
        told = tokenizer.encode("one two")
        running.say([*told, *[0.05] * 400])
        page.select_option("#effort", "none")
        ask(page, "count")
        expect(page.locator(".reply .markdown")).to_contain_text("one two")
        page.click("#stop")
        done(page)
        assert running.engine.handles[-1].cancelled.wait(10)
        running.say(f" three{END}")
        page.get_by_role("button", name="Continue").click()
        done(page)
        assert replies(page) == ["one two three"]


@pytest.mark.parametrize(("thinking", "effort"), [(False, "none"), (True, "high")])
def test_effort_begins_as_the_server_has_it(open_page, tokenizer, thinking, effort):
    """What nobody chose is not asked for; what was chosen outlives a reload, and a new talk."""
    with serving(Scripted(tokenizer), tokenizer, thinking=thinking) as running:
        running.say(f"x{END}")
        page = open_page(address=running.url, ready=f"#model option[value='{MODEL}']")
        expect(page.locator("#effort")).to_have_value(effort)
        ask(page, "hello")
        done(page)
        ids = running.engine.jobs[-1].ids
        assert tokenizer.decode(ids).endswith("<think>" if thinking else "</think>")
        other = "high" if effort == "none" else "none"
        page.select_option("#effort", other)
        page.click("#new")
        expect(page.locator("#effort")).to_have_value(other)
        page.reload()
        expect(page.locator("#effort")).to_have_value(other)
