"""What Prometheus reads."""

from types import SimpleNamespace

from prometheus_client.parser import text_string_to_metric_families
from remote.fake import faking
from server.running import MODEL, serving
from server.test_chat import EOS

from dsv4.remote.engine import RemoteEngine
from dsv4.server.metrics import Metrics

BODY = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}


def test_metrics(server):
    server.say(f"</think>x{EOS}")
    before = _numbers(server.http.get("/metrics").text)
    for _ in range(3):
        assert server.http.post("/v1/chat/completions", json=BODY).is_success
    server.http.post("/v1/chat/completions", json={})
    server.http.get("/some/path/of/a/scanner")
    after = _numbers(server.http.get("/metrics").text)

    def more(name):
        return after[name] - before.get(name, 0)

    path = "/v1/chat/completions"
    assert more(f'dsv4_requests_total{{path="{path}",status="200"}}') == 3
    assert more(f'dsv4_requests_total{{path="{path}",status="400"}}') == 1
    assert more("dsv4_generated_tokens_total") == 3 * len(server.engine.scripts[0])
    assert more("dsv4_request_seconds_count") == 3
    assert more('dsv4_time_to_first_token_seconds_bucket{le="+Inf"}') == 3
    assert not any("scanner" in name for name in after)
    assert "dsv4_engine_running" in after


def _numbers(text):
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines}


def families(running):
    """What Prometheus' own parser reads: name → (type, samples)."""
    answer = running.http.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = list(text_string_to_metric_families(answer.text))
    assert all(family.documentation and family.type != "unknown" for family in found)
    assert len({family.name for family in found}) == len(found)
    return {family.name: (family.type, family.samples) for family in found}


def test_what_grows_is_a_counter(real):
    before = families(real)
    assert real.http.post("/v1/chat/completions", json={**BODY, "max_tokens": 3}).is_success
    after = families(real)
    for name, (kind, samples) in after.items():
        if kind == "counter":
            assert all(one.name == f"{name}_total" for one in samples)
            old = {str(one.labels): one.value for one in before[name][1]}
            assert all(one.value >= old.get(str(one.labels), 0) for one in samples)
    kinds = {name.removeprefix("dsv4_engine_"): kind for name, (kind, _) in after.items()}
    grow = real.engine.totals()
    assert {"generated_tokens", "evicted_pages", "preempted", "failed"} <= grow.keys()
    for name in real.engine.statistics():
        assert kinds[name] == ("counter" if name in grow else "gauge")
    assert kinds["dsv4_time_to_first_token_seconds"] == "histogram"
    buckets = [one for one in after["dsv4_request_seconds"][1] if one.name.endswith("_bucket")]
    counts = [one.value for one in buckets]
    assert counts == sorted(counts) and buckets[-1].labels == {"le": "+Inf"}


def test_large_counts_are_whole(server):
    metrics = Metrics(
        SimpleNamespace(totals=dict, statistics=lambda: {"x": 12_345_678}, backends=list)
    )
    assert "dsv4_engine_x 12345678\n" in metrics.text()


def test_the_servers_behind_a_front(tokenizer):
    with faking(tokenizer) as fake:
        engine = RemoteEngine([fake.url], tokenizer, context=4096)
        engine.wait(20)
        with serving(engine, tokenizer) as front:
            assert front.http.post("/v1/chat/completions", json=BODY).is_success
            found = families(front)
    kind, (one,) = found["dsv4_backend_requests"]
    assert kind == "counter" and one.value == 1 and one.labels == {"backend": fake.url}
    assert found["dsv4_engine_resumed"][0] == "counter"
    assert found["dsv4_engine_backends_live"][0] == found["dsv4_backend_live"][0] == "gauge"
