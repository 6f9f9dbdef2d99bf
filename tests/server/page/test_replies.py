"""Replies: streamed, folded, stopped, continued, refused; and nothing in them ever acts."""

import json

import pytest

from dsv4.server.page.markdown import to_html

from .browser import ATTACK, ATTACKS, ask, done, kept, replies, users
from .scripted import USAGE, WAIT, call, say, think

expect = pytest.importorskip("playwright.sync_api").expect


def test_the_listener_of_violations_can_fail(page):
    page.evaluate("document.body.setAttribute('style', 'color: red')")
    page.wait_for_function("window.violations")
    assert "style-src" in page.evaluate("violations")[0]
    with pytest.raises(Exception, match="TrustedHTML"):
        page.evaluate("document.body.innerHTML = '<b>'")
    page.close()


def test_a_reply_streams_and_is_formatted_block_by_block(page, server):
    server.scripts["go"] = [say("# One\n\nfirst *block*\n\nsecond "), WAIT, say("*block*")]
    ask(page, "go")
    expect(page.locator(".reply .done h3")).to_have_text("One")
    expect(page.locator(".reply .done em")).to_have_text("block")
    expect(page.locator(".reply .tail")).to_have_text("second")  # plain until it is whole
    expect(page.locator("#stop")).to_be_visible()
    server.go.set()
    done(page)
    expect(page.locator(".reply .done em")).to_have_count(2)
    assert server.bodies[0]["messages"] == [{"role": "user", "content": "go"}]
    assert server.bodies[0]["stream_options"] == {"include_usage": True}


GROWING = """# Title
text *a*
more

- one

- two
  and on

      deep

1. first

   ```
   in a list

   # no title
   ```

2. second

> quoted

> on

para
```python
a

b
```
after

~~~
```
~~~

$$
x

# y
$$
\\[ a

b \\]

| a | b |
|---|---|
| 1 | 2 |

***

    code

    more

end **b**"""


def test_blocks_are_cut_only_where_the_whole_has_a_seam(page):
    """Rendered apart, what stands before and after a cut is what the whole text gives."""
    cuts = page.evaluate(
        """async (text) => {
          const { blockEnd } = await import("/static/markdown.js");
          const cuts = new Set();
          for (let n = 1, from = 0; n <= text.length; n++) {
            cuts.add(from = blockEnd(text.slice(0, n), from));
          }
          return [...cuts];
        }""",
        GROWING,
    )
    assert len(cuts) > 10 and cuts == sorted(cuts)
    for cut in cuts:
        assert to_html(GROWING[:cut]) + to_html(GROWING[cut:]) == to_html(GROWING), GROWING[cut:]


def test_an_open_code_block_waits_and_then_can_be_copied(open_page, server):
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    server.scripts["go"] = [say("See:\n```python\na = 1\n\nb = 2\n"), WAIT, say("```\nafter")]
    ask(page, "go")
    expect(page.locator(".reply .done p")).to_have_text("See:")
    expect(page.locator(".reply .tail.code")).to_contain_text("b = 2")
    server.go.set()
    done(page)
    expect(page.locator(".codehead span")).to_have_text("python")
    page.click(".codeblock button")
    expect(page.locator("#say")).to_have_text("Copied.")
    assert page.evaluate("navigator.clipboard.readText()") == "a = 1\n\nb = 2\n"


def test_reasoning_is_open_while_it_lasts_and_then_folded(page, server):
    server.scripts["go"] = [think("one two three"), WAIT, say("answer")]
    ask(page, "go")
    fold = page.locator(".reasoning")
    expect(fold).to_have_attribute("open", "")
    expect(page.locator("summary")).to_have_text("Thinking")
    expect(page.locator(".thoughts")).to_have_text("one two three")
    server.go.set()
    done(page)
    expect(fold).not_to_have_attribute("open", "")
    expect(page.locator("summary")).to_have_text("Thought, 3 words")
    page.locator("summary").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".thoughts")).to_be_visible()
    ask(page, "next")
    done(page)
    expect(page.locator(".thoughts").first).to_be_visible()  # left as the reader left it
    assert server.bodies[1]["messages"][1]["reasoning_content"] == "one two three"


def test_what_the_model_writes_stays_text(page, server):
    arguments = json.dumps({"a": ATTACK})
    server.scripts[ATTACK] = [
        think(ATTACK),
        say(ATTACK),
        call(0, ATTACK, arguments),
        ("tool_calls",),
    ]
    ask(page, ATTACK)
    done(page)
    for place in (".user .text", ".thoughts", ".call strong", "#conversations .name", "#title"):
        assert page.locator(place).locator("*").count() == 0
    assert page.locator(".call pre").inner_text() == json.dumps({"a": ATTACK}, indent=2)
    for attack in ATTACKS[:4]:
        assert attack in page.locator(".thoughts").text_content()
        assert attack in page.locator(".done").text_content()
    assert (
        page.locator("#log").locator("script, style, iframe, img, [onload], [onerror]").count() == 0
    )
    links = page.locator(".done a")
    assert links.evaluate_all(
        "nodes => nodes.map(n => [n.getAttribute('href'), n.rel, n.target])"
    ) == [["http://elsewhere.example/x.png", "noopener noreferrer nofollow", "_blank"]]


def test_stopping_keeps_what_was_said_and_ends_the_request(page, server):
    server.scripts["go"] = [say("begun"), WAIT]
    ask(page, "go")
    expect(page.locator(".reply .markdown")).to_contain_text("begun")
    page.keyboard.press("Escape")
    done(page)
    expect(page.locator(".end span")).to_have_text("Stopped.")
    assert server.gone.wait(10)
    assert kept(page)["go"]["messages"][1]["content"] == "begun"
    server.scripts["go"] = [say(" and ended")]
    server.scripts["begun"] = [say(" and ended")]
    page.get_by_role("button", name="Continue").click()
    done(page)
    assert server.bodies[-1]["messages"][-1] == {
        "role": "assistant",
        "content": "begun",
        "prefix": True,
    }
    assert replies(page) == ["begun and ended"]


def test_a_reply_cut_by_the_limit_says_so_and_goes_on(page, server):
    server.scripts["go"] = [think("r"), say("one"), ("length",)]
    server.scripts["one"] = [say(" two")]
    ask(page, "go")
    done(page)
    expect(page.locator(".end span")).to_contain_text("cut")
    page.get_by_role("button", name="Continue").click()
    done(page)
    assert replies(page) == ["one two"]
    assert server.bodies[1]["messages"][-1]["reasoning_content"] == "r"
    expect(page.locator(".end")).to_be_empty()


def test_calls_are_shown_and_answered_by_hand(page, server):
    tools = [{"name": "weather", "parameters": {"type": "object"}}]
    page.click("#open-settings")
    page.fill("#tools", "[{")
    expect(page.locator("#tools-error")).to_contain_text("not JSON")
    page.fill("#tools", json.dumps(tools))
    expect(page.locator("#tools-error")).to_be_empty()
    page.keyboard.press("Escape")
    first, rest = (
        call(0, "weather", '{"city": "Lj'),
        {"tool_calls": [{"index": 0, "function": {"arguments": 'ubljana"}'}}]},
    )
    server.scripts["go"] = [first, rest, call(1, "weather", "{}"), ("tool_calls",)]
    server.scripts["rain"] = [say("It rains.")]
    ask(page, "go")
    done(page)
    assert page.locator(".call pre").all_inner_texts() == ['{\n  "city": "Ljubljana"\n}', "{}"]
    for i, text in enumerate(("sun", "rain")):
        page.get_by_label("Result of weather").nth(i).fill(text)
    page.get_by_role("button", name="Send the results").click()
    done(page)
    assert page.locator(".call pre").all_inner_texts()[1] == "sun"
    body = server.bodies[-1]
    assert body["tools"] == [{"type": "function", "function": tools[0]}]
    assert [m["role"] for m in body["messages"]] == ["user", "assistant", "tool", "tool"]
    assert body["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"city": "Ljubljana"}'
    assert body["messages"][2] == {"role": "tool", "tool_call_id": "c0", "content": "sun"}
    assert replies(page)[-1] == "It rains."


def test_calls_without_results_are_left_out_of_what_follows(page, server):
    server.scripts["go"] = [say("let me see"), call(0, "f", "{}"), ("tool_calls",)]
    ask(page, "go")
    done(page)
    ask(page, "never mind")
    done(page)
    assert server.bodies[-1]["messages"][1] == {"role": "assistant", "content": "let me see"}


def test_settings_reach_the_request(page, server):
    page.click("#open-settings")
    for name, value in {
        "temperature": "0.5",
        "top_p": "0.9",
        "max_tokens": "7",
        "seed": "11",
    }.items():
        page.fill(f"#{name}", value)
    page.fill("#stop-strings", "END\n\\n\\n\na\\\\b")
    page.fill("#system", "Be brief.")
    page.click("[aria-label='Close the settings']")
    expect(page.locator("#open-settings")).to_be_focused()
    page.select_option("#effort", "none")
    page.select_option("#model", "V4-Flash")
    ask(page, "hello")
    done(page)
    assert server.bodies[0] == {
        "model": "V4-Flash",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hello"},
        ],
        "thinking": {"type": "disabled"},
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 7,
        "seed": 11,
        "stop": ["END", "\n\n", "a\\b"],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    for effort in ("low", "high", "max"):
        page.select_option("#effort", effort)
        ask(page, effort)
        done(page)
        assert server.bodies[-1]["thinking"] == {"type": "enabled"}
        assert server.bodies[-1]["reasoning_effort"] == effort


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (
            [400, "This model's maximum context length is 4096 tokens."],
            "maximum context length is 4096",
        ),
        ([429, "full", {"Retry-After": "3"}], "The server is full: try again in 3 s."),
        ([say("part"), ("error",)], "the engine failed"),
        ([say("part"), ("break",)], "The connection ended before the reply was whole."),
    ],
)
def test_errors_are_said_in_words_and_can_be_retried(page, server, script, words):
    server.scripts["go"] = script
    ask(page, "go")
    done(page)
    expect(page.locator(".end.wrong span")).to_contain_text(words)
    server.scripts["go"] = [say("better")]
    page.get_by_role("button", name="Retry", exact=True).click()
    done(page)
    assert replies(page) == ["better"] and users(page) == ["go"]


def test_a_server_that_is_gone_is_said(page):
    page.route("**/v1/chat/completions", lambda route: route.abort())
    ask(page, "go")
    expect(page.locator(".end.wrong span")).to_contain_text("cannot be reached")
    page.unroute("**/v1/chat/completions")
    page.get_by_role("button", name="Retry", exact=True).click()
    done(page)
    assert replies(page) == ["A reply to go"]


def test_a_key_is_asked_for_and_kept_out_of_storage(page, server):
    server.key = "secret"
    ask(page, "go")
    expect(page.locator("#key")).to_be_focused()
    page.fill("#key", "secret")
    page.keyboard.press("Tab")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Retry", exact=True).click()
    done(page)
    assert replies(page) == ["A reply to go"]
    assert "secret" not in page.evaluate("JSON.stringify(localStorage)")


def test_figures_of_the_last_reply(page):
    ask(page, "go")
    done(page)
    expect(page.locator("#status")).to_contain_text(
        "1,204 prompt tokens, 1,190 of them cached · 86 reply tokens"
    )
    assert (
        kept(page)["go"]["messages"][1]["usage"]["completion_tokens"] == USAGE["completion_tokens"]
    )


def test_a_reply_runs_on_while_another_conversation_is_read(page, server):
    server.scripts["go"] = [say("slow"), WAIT, say(" end")]
    ask(page, "go")
    expect(page.locator(".reply .markdown")).to_contain_text("slow")
    page.click("#new")
    ask(page, "other")
    done(page)
    assert replies(page) == ["A reply to other"]
    server.go.set()
    expect(page.locator("#conversations .running")).to_have_count(0)
    page.locator("#conversations .name", has_text="go").click()
    done(page)
    assert replies(page) == ["slow end"]
