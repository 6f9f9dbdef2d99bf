"""What servers of other kinds are asked, how they are read, and what happens when they fail."""

import time

import pytest
from engine.conftest import Heard
from remote.fake import faking

from dsv4.engine.request import FullError, Job, RemoteError
from dsv4.sampling import Sampling

GRAMMAR = {"type": "structural_tag", "format": {"type": "regex", "pattern": "a+"}}
TEN = Sampling(temperature=0.5, seed=3, max_tokens=10)


def run(engine, ids=(0, 2, 3), **more):
    heard = Heard()
    engine.submit(Job(list(ids), **({"sampling": TEN} | more)), heard)
    return heard.wait()


def ids_of(tokenizer, text):
    return tokenizer.encode(text, special=True)


def until(holds, seconds=10):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


# ---- what is asked -----------------------------------------------------------------------------


def test_vllm_is_asked_in_its_words(front, tokenizer):
    with faking(tokenizer, kind="vllm", context=500) as fake:
        engine = front(fake.url)
        assert engine.context == 500 and engine.model == "some/model"
        heard = run(
            engine,
            number=2,
            logprobs=2,
            end_ids=[1, 44],
            grammar=GRAMMAR,
            frequency_penalty=0.5,
            logit_bias={7: -3.0},
        )
    (body,) = fake.asked
    assert body == {
        "model": "some/model",
        "prompt": [0, 2, 3],
        "max_tokens": 10,
        "temperature": 0.5,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "ignore_eos": False,
        "frequency_penalty": 0.5,
        "presence_penalty": 0.0,
        "logit_bias": {"7": -3.0},
        "seed": 5,  # of choice 2
        "stop_token_ids": [44],
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        "skip_special_tokens": False,
        "logprobs": 2,
        "return_tokens_as_token_ids": True,
        "response_format": GRAMMAR,
    }
    assert heard.ids == [5, 6, 7, 1] and heard.end.reason == "stop"
    assert heard.end.usage.cached == 2 and heard.end.usage.completion == 4
    assert heard.told[0].logprob == -0.5
    assert list(heard.told[0].top) == [(5, -0.5), (7, -2.0)]  # falling, the lower id first


def test_dsv4_is_told_where_it_is(front, tokenizer):
    with faking(tokenizer, kind="dsv4") as fake:
        run(front(fake.url), number=2, said=1)
    assert fake.asked[0]["dsv4"] == {"number": 2, "said": 1} and fake.asked[0]["seed"] == 3


@pytest.mark.parametrize("extended", [True, False])
@pytest.mark.parametrize("takes_ids", [True, False])
@pytest.mark.parametrize("group", [1, 3])
def test_servers_that_tell_text_alone(front, tokenizer, extended, takes_ids, group):
    reply = ids_of(tokenizer, "</think>Hé 你\n\n<｜DSML｜")
    chosen = {"extended": extended, "takes_ids": takes_ids, "gives_ids": False, "group": group}
    with faking(tokenizer, holds=None, reply=[*reply, 1], **chosen) as fake:
        asked = ids_of(tokenizer, "<｜begin▁of▁sentence｜>x<｜User｜>y")
        heard = run(front(fake.url), asked, sampling=Sampling(max_tokens=50))
    assert tokenizer.decode(i for i in heard.ids if i != 1) == "</think>Hé 你\n\n<｜DSML｜"
    controls = [i for i in reply if tokenizer.control_text(i)]
    assert controls == [i for i in heard.ids if tokenizer.control_text(i)] and len(controls) == 2
    assert heard.end.reason == "stop"
    body = fake.asked[0]
    assert ("top_k" in body) == extended and ("stop_token_ids" in body) is False
    if not takes_ids:
        assert body["prompt"] == "<｜begin▁of▁sentence｜>x<｜User｜>y"


def test_a_server_that_puts_its_own_bos(front, tokenizer):
    with faking(tokenizer, takes_ids=False, gives_ids=False, adds_bos=1) as fake:
        run(front(fake.url), ids_of(tokenizer, "<｜begin▁of▁sentence｜>x"))
    assert fake.asked[0]["prompt"] == "x"


def test_text_cannot_forge_a_control_token(front, tokenizer):
    with faking(tokenizer, takes_ids=False, gives_ids=False) as fake:
        heard = run(front(fake.url), [0, *tokenizer.encode("<｜User｜>")])
        assert heard.end.error.status == 400 and "would become one" in str(heard.end.error)
    assert not fake.asked


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ({"grammar": GRAMMAR}, "does not hold a reply to a format"),
        ({"logprobs": 1}, "log-probabilities"),
        ({"sampling": Sampling(top_k=3)}, "no top_k"),
        ({"sampling": Sampling(min_p=0.1)}, "no min_p"),
        ({"repetition_penalty": 1.1}, "no repetition_penalty"),
        ({"end_ids": ()}, "no ignore_eos"),
    ],
)
def test_what_a_plain_server_cannot_do_is_refused(front, tokenizer, job, said):
    plain = {"extended": False, "gives_ids": False, "holds": None}
    with faking(tokenizer, **plain) as fake:
        engine = front(fake.url)
        heard = run(engine, **job)
        assert heard.end.error.status == 400 and said in str(heard.end.error)
        assert not fake.asked
        free = run(engine, grammar=GRAMMAR, binding=False)
        assert free.end.reason == "stop" and "response_format" not in fake.asked[0]


def test_a_grammar_that_is_ignored_is_not_relied_on(front, tokenizer):
    """As by vLLM with a reasoning parser, which begins it too late."""
    with faking(tokenizer, holds=False) as fake:
        heard = run(front(fake.url), grammar=GRAMMAR)
        assert heard.end.error.status == 400 and not fake.asked


def test_a_reply_ends_where_the_job_says(front, tokenizer):
    """Whatever the server thinks of end ids and limits."""
    with faking(tokenizer, extended=False, reply=[5, 6, 7, 8, 9]) as fake:
        engine = front(fake.url)
        assert run(engine, end_ids=[1, 6]).ids == [5, 6]
        heard = Heard(stop_after=3)
        engine.submit(Job([1, 2], TEN), heard)
        assert heard.wait().ids == [5, 6, 7] and heard.end.reason == "stop"
        assert run(engine).end.reason == "length"


def test_the_models_end_may_end_nothing(front, tokenizer):
    with faking(tokenizer, reply=[5, 1, 6, 44, 7]) as fake:
        engine = front(fake.url)
        assert run(engine, end_ids=()).ids == [5, 1, 6, 44, 7]
        assert run(engine, end_ids=[44]).ids == [5, 1, 6, 44]
    assert all(body["ignore_eos"] for body in fake.asked)
    assert fake.asked[1]["stop_token_ids"] == [44] and "stop_token_ids" not in fake.asked[0]


def test_the_prompts_scores(front, tokenizer):
    """The arrays begin with the prompt's tokens, where it is to be repeated."""
    with faking(tokenizer, reply=[0, 2, 3, 9], group=4) as fake:
        heard = run(front(fake.url), logprobs=1, prompt_logprobs=True)
    assert fake.asked[0]["echo"] is True
    assert [token.id for token in heard.prompt] == [0, 2, 3] and heard.ids == [9]


# ---- what goes wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "why"),
    [
        ({"key": "k"}, "answers 401: wrong key"),
        ({"models": 0}, "serves no model"),
        ({"tokens": [1, 2, 3]}, "its tokenizer is another"),
    ],
)
def test_a_server_that_cannot_be_used(front, tokenizer, chosen, why):
    with faking(tokenizer, **chosen) as fake:
        engine = front(fake.url)
        (state,) = engine.backends()
        assert not state.live and why in state.why and engine.statistics()["backends_live"] == 0
        with pytest.raises(RemoteError, match="1 of 1 are out"):
            run(engine)
        fake.key, fake.models, fake.tokens = None, 1, 0
        until(lambda: engine.backends()[0].live)
        assert run(engine).ids == [5, 6, 7, 1]


def test_the_key_is_sent(front, tokenizer):
    with faking(tokenizer, key="k") as fake:
        assert run(front(fake.url, key="k")).end.reason == "stop"


@pytest.mark.parametrize(
    ("status", "told"), [(429, 429), (503, 503), (500, 500), (400, 400), (422, 400)]
)
def test_statuses_of_a_server(front, tokenizer, status, told):
    with faking(tokenizer, status=status, message="not today") as fake:
        engine = front(fake.url)
        error = run(engine).end.error
        assert error.status == told and "not today" in str(error)
        if status in (400, 422):  # a grammar that may be left out is
            run(engine, grammar=GRAMMAR, binding=False)
            assert ["response_format" in body for body in fake.asked] == [False, True, False]


@pytest.mark.parametrize("chosen", [{"status": 429}, {"status": 500}, {"cut": 0}])
def test_another_server_is_asked_before_the_first_token(front, tokenizer, chosen):
    with faking(tokenizer, **chosen) as bad, faking(tokenizer) as good:
        engine = front(bad.url, good.url)
        found = [run(engine, [n, n, n]) for n in range(1, 9)]
        assert all(heard.ids == [5, 6, 7, 1] for heard in found)
        assert bad.asked and len(good.asked) == 8


def test_a_request_that_ends_every_server_does_not_meet_them_all(front, tokenizer):
    with (
        faking(tokenizer, cut=0) as a,
        faking(tokenizer, cut=0) as b,
        faking(tokenizer, cut=0) as c,
        faking(tokenizer, cut=0) as d,
    ):
        heard = run(front(*(fake.url for fake in (a, b, c, d))))
        assert heard.end.error.status == 503 and "before the reply" in str(heard.end.error)
        assert sum(len(fake.asked) for fake in (a, b, c, d)) == 3


def test_a_server_that_ends_replies_itself(front, tokenizer):
    with faking(tokenizer, finish="abort", reply=[5]) as bad, faking(tokenizer) as good:
        engine = front(bad.url, good.url)
        found = [run(engine, [n, n, n], sampling=FREE).ids for n in range(1, 9)]
        assert bad.asked and all(ids in ([5, 6, 7, 1], [5, 5, 6, 7, 1]) for ids in found)


def test_a_server_that_serves_another_model_now(front, tokenizer):
    with faking(tokenizer, status=404, message="no such model") as fake:
        engine = front(fake.url, period=5.0)
        assert run(engine).end.error.status == 503
        assert "no such model" in engine.backends()[0].why


def test_what_another_began_needs_a_server_that_can_go_on(front, tokenizer):
    with faking(tokenizer) as fake:
        error = run(front(fake.url), said=1).end.error
        assert error.status == 400 and "goes on with a reply" in str(error)


FREE = Sampling(max_tokens=10)


@pytest.mark.parametrize(
    ("event", "status"),
    [
        ({"error": {"message": "no way on", "type": "invalid_request_error", "code": "x"}}, 400),
        ({"error": {"message": "no way on", "type": "BadRequestError", "code": 400}}, 400),
        ({"object": "error", "message": "no way on", "type": "BadRequestError", "code": 422}, 422),
        ({"error": "no way on", "code": "400"}, 400),
        ({"error": {"message": "no way on", "type": "internal_error", "code": "x"}}, None),
        ({"error": {"message": "ending", "type": "service_unavailable", "code": 503}}, None),
        ({"error": "what it is not told"}, None),
        ({"object": "error"}, None),
        ({"choices": 7}, None),
        ([], None),
    ],
)
@pytest.mark.parametrize("cut", [0, 2])
def test_a_request_that_fails_is_no_lost_server(front, tokenizer, event, status, cut):
    """It would fail anywhere; what a server itself is to blame for, another may do."""
    with faking(tokenizer, cut=cut, fails=event) as bad, faking(tokenizer, reply=[8, 1]) as good:
        engine = front(bad.url, good.url)
        found = [run(engine, [n, n, n], sampling=FREE) for n in range(1, 9)]
        assert bad.asked and engine.backends()[0].failures == (0 if status else len(bad.asked))
        if status is None:
            assert all(heard.ids in ([8, 1], [*[5, 6][:cut], 8, 1]) for heard in found)
            return
        failed = [heard for heard in found if heard.end.error is not None]
        assert len(failed) == len(bad.asked) and engine.statistics()["resumed"] == 0
        assert all(heard.ids == [5, 6][:cut] for heard in failed)
        assert {(str(h.end.error), h.end.error.status) for h in failed} == {("no way on", status)}


@pytest.mark.parametrize("job", [{"sampling": FREE}, {"sampling": Sampling(temperature=0)}])
def test_chance_goes_on_anywhere(front, tokenizer, job):
    with faking(tokenizer, cut=2) as bad, faking(tokenizer, reply=[8, 1]) as good:
        engine = front(bad.url, good.url)
        found = [run(engine, [n, n, n], **job) for n in range(1, 9)]
        cut = [heard for heard in found if heard.ids == [5, 6, 8, 1]]
        assert cut and all(heard.ids in ([8, 1], [5, 6, 8, 1]) for heard in found)
        rest = next(body for body in good.asked if len(body["prompt"]) == 5)
        assert rest["prompt"][3:] == [5, 6] and engine.statistics()["resumed"] == len(cut)
        assert all(heard.end.usage.completion == len(heard.ids) for heard in found)


@pytest.mark.parametrize(
    "job", [{}, {"sampling": FREE, "grammar": GRAMMAR}, {"sampling": FREE, "presence_penalty": 1.0}]
)
def test_what_another_cannot_know_fails(front, tokenizer, job):
    """A seed's random numbers, a grammar, penalties: their past cannot be told to any server."""
    with faking(tokenizer, cut=2) as a, faking(tokenizer, cut=2) as b:
        heard = run(front(a.url, b.url), **job)
        assert heard.ids == [5, 6] and heard.end.error.status == 503
        assert "in the middle of the reply" in str(heard.end.error)
        assert len(a.asked) + len(b.asked) == 1


def test_a_server_that_says_it_is_ill_loses_what_runs_there(front, tokenizer):
    with faking(tokenizer, kind="dsv4", reply=[5] * 9, pause=0.3) as ill:
        engine = front(ill.url)
        heard = Heard()
        engine.submit(Job([1, 2], TEN), heard)
        until(lambda: heard.ids)
        ill.health = 500
        assert heard.wait().end.error.status == 503 and len(heard.ids) < 9
        assert not engine.backends()[0].live and engine.backends()[0].running == 0


def test_silence_is_not_waited_for_without_end(front, tokenizer):
    with faking(tokenizer, pause=3.0) as slow, faking(tokenizer) as good:
        engine = front(slow.url, good.url, timeout=0.3)
        assert all(run(engine, [n, n]).ids == [5, 6, 7, 1] for n in range(1, 6))
        assert slow.asked and all(state.live for state in engine.backends())


def test_cancel_leaves_the_server(front, tokenizer):
    with faking(tokenizer, reply=[5] * 500, pause=0.02) as fake:
        engine = front(fake.url)
        heard = Heard()
        handle = engine.submit(Job([1, 2], Sampling(max_tokens=500)), heard)
        until(lambda: heard.ids)
        handle.cancel()
        assert heard.wait().end.reason == "cancelled"
        until(lambda: engine.statistics()["running"] == 0)
        assert engine.backends()[0].running == 0


def test_cancelled_at_once(front, tokenizer):
    """Before its first step, and in any of the next."""
    with faking(tokenizer, pause=0.01) as fake:
        engine = front(fake.url)
        found = [Heard() for _ in range(60)]
        for number, heard in enumerate(found):
            handle = engine.submit(Job([1, number], TEN), heard)
            time.sleep(number % 3 * 0.0005)
            handle.cancel()
        assert all(heard.wait().end.reason == "cancelled" for heard in found)
        assert engine.statistics()["waiting"] == engine.statistics()["running"] == 0
        assert run(engine).end.reason == "stop"


def test_limits_and_the_end(front, tokenizer):
    with faking(tokenizer, pause=0.2) as fake:
        engine = front(fake.url, queue=1)
        for ids, message in (([], "no tokens"), ([1] * 4096, "maximum context length is 4096")):
            with pytest.raises(ValueError, match=message):
                run(engine, ids)
        first = Heard()
        engine.submit(Job([1, 2], TEN), first)
        with pytest.raises(FullError):
            run(engine)
        engine.close(5.0)
        assert first.end.reason == "stop" and first.ids == [5, 6, 7, 1]
        with pytest.raises(RuntimeError, match="shutting down"):
            run(engine)


def test_a_listener_that_fails_fails_alone(front, tokenizer):
    class Bad(Heard):
        def tokens(self, new):
            raise ZeroDivisionError

    with faking(tokenizer) as fake:
        engine, bad = front(fake.url), Bad()
        engine.submit(Job([1], TEN), bad)
        assert isinstance(bad.wait().end.error, ZeroDivisionError)
        assert run(engine).end.reason == "stop"
