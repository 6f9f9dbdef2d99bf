"""Conversations: edited, undone, kept in the browser, sent through files."""

import json
import re

import pytest

from .browser import ATTACK, ATTACKS, ask, done, kept, replies, users
from .scripted import WAIT, call, say, think

expect = pytest.importorskip("playwright.sync_api").expect


def test_conversations_survive_a_reload_and_a_round_trip_through_a_file(
    open_page, server, tmp_path
):
    page = open_page()
    server.scripts["one"] = [think("r"), say("**x**"), call(0, "f", '{"a": 1}'), ("tool_calls",)]
    ask(page, "one")
    done(page)
    page.get_by_label("Result of f").fill("out")
    page.get_by_role("button", name="Send the result").click()
    done(page)
    page.click("#new")
    ask(page, "two")
    done(page)
    ask(page, "three")
    done(page)
    page.get_by_role("button", name="Retry: answer anew").last.click()
    done(page)
    before, log = kept(page), page.locator("#log").inner_text()
    page.reload()
    done(page)
    assert page.locator("#log").inner_text() == log
    assert page.locator("#conversations .name").all_inner_texts() == ["two", "one"]
    with page.expect_download() as download:
        page.click("#export")
    file = tmp_path / "all.json"
    download.value.save_as(file)
    assert kept(page) == before
    other = open_page()
    for _ in range(2):  # the second time all are known
        other.set_input_files("#file", file)
        expect(other.locator("#notices")).to_contain_text(re.compile("imported"))
    assert kept(other) == before
    assert other.locator("#conversations .name").all_inner_texts() == ["two", "one"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON"),
        ("{}", "no export of this page"),
        ('{"format": "dsv4-conversations", "version": 9}', "version 9"),
        (
            '{"format": "dsv4-conversations", "version": 1, "conversations": [1]}',
            "conversations[0] must be",
        ),
    ],
)
def test_a_bad_file_is_refused_in_words(page, tmp_path, text, reason):
    file = tmp_path / "bad.json"
    file.write_text(text)
    page.set_input_files("#file", file)
    expect(page.locator("#notices")).to_contain_text(reason)
    assert kept(page) == {}


def test_deleting_can_be_taken_back(page):
    ask(page, "one")
    done(page)
    page.hover("#conversations li")
    page.get_by_label("Delete “one”").click()
    assert kept(page) == {} and replies(page) == []
    page.get_by_role("button", name="Undo").last.click()
    assert list(kept(page)) == ["one"] and replies(page) == ["A reply to one"]


def test_a_full_storage_is_said(page):
    page.evaluate(
        """() => { for (let n = 1 << 22, filler = ""; n; n >>= 1) {
          try { localStorage.filler = filler + "x".repeat(n); } catch { continue; }
          filler = localStorage.filler;
        } }"""
    )
    ask(page, "one")
    done(page)
    expect(page.locator("#notices")).to_contain_text("storage for this page is full")
    assert replies(page) == ["A reply to one"]


def test_a_broken_entry_is_left_alone(page):
    ask(page, "one")
    done(page)
    page.evaluate("localStorage['dsv4.conversation.x'] = '{\"messages\": 3}'")
    page.reload()
    expect(page.locator("#notices")).to_contain_text("cannot be read")
    assert replies(page) == ["A reply to one"]
    assert page.evaluate("localStorage['dsv4.conversation.x']") == '{"messages": 3}'


def test_two_tabs_agree(open_page):
    first = open_page()
    ask(first, "one")
    done(first)
    second = open_page(first.context)
    ask(second, "two")
    done(second)
    expect(first.locator(".user .text")).to_have_count(2)
    assert replies(first) == replies(second)


def test_names_and_files_from_elsewhere_stay_text(page, tmp_path):
    ask(page, "hello")
    done(page)
    page.hover("#conversations li")
    page.get_by_label("Rename “hello”").click()
    page.fill("#conversations input", ATTACKS[1])
    page.keyboard.press("Enter")
    expect(page.locator("#title")).to_have_text(ATTACKS[1])
    expect(page.locator("#conversations .name")).to_have_text(ATTACKS[1])
    [conversation] = kept(page).values()
    message = {"role": "user", "content": ATTACK}
    reply = conversation["messages"][1] | {"content": ATTACK, "finish": ATTACK, "error": ATTACK}
    reply["tool_calls"] = [
        {"id": ATTACK, "type": "function", "function": {"name": ATTACK, "arguments": ATTACK}}
    ]
    other = reply | {"error": None, "tool_calls": []}
    bad = conversation | {
        "id": "<b>",
        "title": ATTACK,
        "messages": [message, reply, message, other],
    }
    bad["settings"] = conversation["settings"] | {"model": ATTACK, "system": ATTACK}
    file = tmp_path / "bad.json"
    file.write_text(
        json.dumps({"format": "dsv4-conversations", "version": 1, "conversations": [bad]})
    )
    page.set_input_files("#file", file)
    expect(page.locator("#conversations .name")).to_have_count(2)
    page.locator("#conversations .name", has_text="script").click()
    expect(page.locator(".end.wrong span")).to_contain_text("<script>")
    expect(page.locator(".end span").last).to_contain_text("ended the reply: <script>")
    expect(page.locator(".done").last).to_contain_text("<svg onload")
    assert (
        page.locator("#log").locator("script, style, iframe, img, [onload], [onerror]").count() == 0
    )


def test_retry_edit_undo_and_redo(page, server):
    for text in ("first", "second"):
        ask(page, text)
        done(page)
    server.scripts["second"] = [say("another")]
    page.get_by_role("button", name="Retry: answer anew").last.click()
    done(page)
    assert replies(page) == ["A reply to first", "another"]
    page.hover(".user >> nth=0")
    page.get_by_label("Edit this message").first.click()
    editor = page.get_by_label("Edit the message")
    expect(editor).to_be_focused()
    editor.fill("changed")
    page.keyboard.press("Enter")
    done(page)
    assert users(page) == ["changed"] and replies(page) == ["A reply to changed"]
    assert server.user_texts() == ["changed"]
    expect(page.locator("#prompt")).to_be_focused()
    page.click("#undo")
    assert users(page) == ["first", "second"] and replies(page)[1] == "another"
    page.click("#undo")
    assert replies(page)[1] == "A reply to second"
    expect(page.locator("#undo")).to_be_hidden()
    page.click("#redo")
    page.click("#redo")
    assert users(page) == ["changed"]
    page.reload()  # edits can be undone in a later session, too
    page.click("#undo")
    assert users(page) == ["first", "second"]


def test_an_edit_given_up_changes_nothing(page):
    ask(page, "first")
    done(page)
    page.press("#prompt", "ArrowUp")
    expect(page.get_by_label("Edit the message")).to_be_focused()
    page.keyboard.type(" and more")
    page.keyboard.press("Escape")
    assert users(page) == ["first"]
    expect(page.get_by_label("Edit this message")).to_be_focused()


def test_a_browser_that_keeps_nothing_still_talks(open_page):
    page = open_page(
        before="""for (const name of ["localStorage", "sessionStorage"]) {
          Object.defineProperty(window, name, {get() { throw new DOMException("denied"); }});
        }"""
    )
    ask(page, "one")
    done(page)
    assert replies(page) == ["A reply to one"]
    expect(page.locator("#notices .notice")).to_have_count(1)
    expect(page.locator("#notices")).to_contain_text("keeps nothing for this page")


def test_a_reply_that_the_page_did_not_outlive_goes_on(page, server):
    server.scripts["go"] = [say("begun"), WAIT]
    ask(page, "go")
    expect(page.locator(".reply .markdown")).to_contain_text("begun")
    page.reload()
    expect(page.locator(".end span")).to_contain_text("before the reply was whole.")
    server.scripts["begun"] = [say(" and ended")]
    page.get_by_role("button", name="Continue").click()
    done(page)
    assert replies(page) == ["begun and ended"]
