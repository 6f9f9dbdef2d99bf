"""What the tests of the page do to it and read off it."""

import json

ATTACKS = [
    "<script>window.hit=1</script>",
    "<img src=x onerror='window.hit=1'>",
    "<svg onload=window.hit=1>",
    "<style>body{display:none}</style>",
    "[link](javascript:window.hit=1)",
    "![picture](http://elsewhere.example/x.png)",
    "<iframe srcdoc='<script>parent.hit=1</script>'></iframe>",
]
ATTACK = "\n\n".join(ATTACKS)


def ask(page, text):
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")


def done(page):
    """Waits until no reply runs and all that was said is formatted."""
    page.wait_for_selector("#send:visible")
    page.wait_for_selector(".reply .tail:not(:empty)", state="detached")


def users(page):
    return page.locator(".user .text").all_inner_texts()


def replies(page):
    return page.locator(".reply .markdown").all_inner_texts()


def kept(page):
    """The conversations in the browser's storage, by title or first words."""
    entries = page.evaluate("Object.entries(localStorage)")
    found = [json.loads(v) for k, v in entries if k.startswith("dsv4.conversation.")]
    return {c["title"] or c["messages"][0]["content"]: c for c in found}
