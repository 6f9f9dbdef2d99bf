"""Servers that are not dsv4: what they take, tell and refuse is chosen by the test."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BEYOND = {
    "ignore_eos",
    "top_k",
    "min_p",
    "repetition_penalty",
    "stop_token_ids",
    "skip_special_tokens",
}
BEYOND |= {"return_token_ids", "return_tokens_as_token_ids", "add_special_tokens", "dsv4"}


class Fake:
    """`reply`: ids that it says; `takes_ids`, `gives_ids`, `extended`, `holds`: see `Able`.

    `status` is answered to completions if it is not 200; `cut` breaks the stream off after so many
    tokens, `fails` says this in place of a chunk there; `pause` is waited before each.
    """

    def __init__(self, tokenizer, **chosen):
        self.tokenizer = tokenizer
        self.kind, self.model, self.context = "other", "some/model", None
        self.takes_ids = self.gives_ids = self.extended = self.holds = True
        self.key, self.status, self.message, self.cut, self.pause = None, 200, "no", None, 0.0
        self.reply, self.health, self.models, self.tokens, self.adds_bos = (
            [5, 6, 7, 1],
            200,
            1,
            0,
            0,
        )
        self.group = 1  # tokens of a chunk
        self.fails = None
        self.finish = None  # another reason than stop or length
        self.__dict__.update(chosen)
        self.asked = []

    def answer(self, body):
        """What is wrong with a request, or None."""
        if not self.takes_ids and not isinstance(body["prompt"], str):
            return 400, "prompt: must be a string"
        if not self.extended and (lost := BEYOND & body.keys()):
            return 400, f"unknown field {sorted(lost)[0]}"
        if "response_format" in body and self.holds is None:
            return 400, "response_format: not known"
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    @property
    def fake(self):
        return self.server.fake

    def say(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        fake = self.fake
        if fake.key and self.headers.get("Authorization") != f"Bearer {fake.key}":
            return self.say(401, {"error": {"message": "wrong key"}})
        if self.path == "/health":
            return self.say(fake.health, {})
        data = [{"id": fake.model, "owned_by": fake.kind, "max_model_len": fake.context}]
        return self.say(200, {"data": data * fake.models})

    def do_POST(self):
        fake = self.fake
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            if not fake.tokens:
                return self.say(404, {"detail": "Not Found"})
            return self.say(200, {"tokens": fake.tokens})
        wrong = fake.answer(body)
        if body.get("stream"):
            fake.asked.append(body)
            wrong = wrong or ((fake.status, fake.message) if fake.status != 200 else None)
        if wrong:
            return self.say(wrong[0], {"error": {"message": wrong[1]}})
        return self.stream(body) if body.get("stream") else self.whole(body)

    def whole(self, body):
        fake = self.fake
        held = fake.holds and "response_format" in body
        choice = {"index": 0, "text": "{}" if held else "x", "finish_reason": "length"}
        if fake.gives_ids and body.get("return_token_ids"):
            choice["token_ids"] = [9]
        return self.say(200, {"choices": [choice], "usage": {"prompt_tokens": 1 + fake.adds_bos}})

    def stream(self, body):
        fake = self.fake
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.spoken = fake.tokenizer.stream()  # whole characters, as servers send them
        said = fake.reply[: body["max_tokens"]]
        for first in range(0, len(said), fake.group):
            if fake.cut is not None and first >= fake.cut:
                if fake.fails is not None:
                    self.event(fake.fails)
                return
            if fake.pause:
                time.sleep(fake.pause)
            self.chunk(body, said[first : first + fake.group])
        finish = fake.finish or ("stop" if said and said[-1] == 1 else "length")
        self.event({"choices": [{"index": 0, "text": "", "finish_reason": finish}]})
        usage = {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 2}}
        self.event({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def chunk(self, body, ids):
        fake = self.fake
        text = "".join(self.spoken.push(i) for i in ids if i != 1)
        choice = {"index": 0, "text": text, "finish_reason": None}
        if fake.gives_ids and body.get("return_token_ids"):
            choice["token_ids"] = ids
        if body.get("logprobs") is not None:
            names = [f"token_id:{i}" for i in ids]
            tops = [{name: -0.5, "token_id:8": -2.0, "token_id:7": -2.0} for name in names]
            choice["logprobs"] = {
                "tokens": names,
                "token_logprobs": [-0.5] * len(ids),
                "top_logprobs": tops,
            }
        self.event({"choices": [choice]})

    def event(self, chunk):
        data = json.dumps(chunk, ensure_ascii=False)
        self.wfile.write(b": a comment\n\ndata: " + data.encode() + b"\n\n")
        self.wfile.flush()


@contextmanager
def faking(tokenizer, **chosen):
    """A server of that kind, with its `url`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # a client that left is none
    server.fake = Fake(tokenizer, **chosen)
    server.fake.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
