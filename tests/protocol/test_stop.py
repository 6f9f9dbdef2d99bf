"""Stop strings: found at the same place however a text is cut."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsv4.protocol.stop import StopMatcher, stop_strings


@given(text=st.text("ab", max_size=20), cuts=st.lists(st.integers(0, 20)), data=st.data())
def test_a_stop_string_is_found_however_the_text_is_cut(text, cuts, data):
    stop = data.draw(st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3))
    matcher, bounds = StopMatcher(stop), sorted({0, len(text), *(c for c in cuts if c < len(text))})
    out = ""
    for first, last in itertools.pairwise(bounds):
        out += matcher.push(text[first:last])
    out += matcher.finish()
    ends = [(text.find(word) + len(word), text.find(word), word) for word in stop if word in text]
    _, begin, word = min(ends, default=(0, len(text), None))
    assert matcher.matched == word and out == text[:begin]


def test_one_string_may_stand_for_a_list():
    assert stop_strings("ab") == stop_strings(["ab"]) == ("ab",)
    assert stop_strings(None) == stop_strings([]) == ()
    matcher = StopMatcher("ab")
    assert matcher.push("xa") == "x" and matcher.push("cab!") == "ac"
    assert matcher.matched == "ab" and matcher.push("more") == "" and matcher.finish() == ""
    for bad in ("", ["a", ""], [3]):
        with pytest.raises(ValueError, match="none empty"):
            stop_strings(bad)
