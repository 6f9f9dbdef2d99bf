"""A server that judges as it is told: OpenAI's Chat Completions, and nothing else."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from dsv4.eval.grade.judged import rubrics

CONTROLS = {
    (one["question"], one["reply"]): one["verdict"]
    for rubric in rubrics().values()
    for one in rubric.controls
}


class Stub:
    """`says`: a function of what the judge is given (question, reference, reply) to its text.

    `refuses`: fields for which it answers 400; `down`: it answers 403 to everything. Controls it
    marks as it should while it is `able`; `bodies` are the other requests."""

    def __init__(self, says=None, refuses=()):
        self.says, self.refuses, self.down = says or honest, refuses, False
        self.bodies, self.url, self.able = [], "", True

    def answer(self, body):
        """The status, and what is sent."""
        given = json.loads(body["messages"][-1]["content"])
        known = CONTROLS.get((given["question"], given["reply"]))
        self.bodies += [] if known else [body]
        for name in self.refuses:
            if name in body:
                return 400, {"error": {"message": f"unknown field {name}"}}
        if self.down:
            return 403, {"error": {"message": "the account is closed"}}
        said = json.dumps({"reason": "", "verdict": known}) if known and self.able else None
        message = {"role": "assistant", "content": said or self.says(given)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 11, "completion_tokens": 7}
        return 200, {"choices": [choice], "usage": usage}


def honest(given):
    """Right if the reply is the reference, not attempted if it has no letter."""
    word = "correct" if given["reply"].strip() == given["reference"] else "incorrect"
    word = "not_attempted" if given["reply"] == "?" else word
    return json.dumps({"reason": "as it is", "verdict": word})


@contextmanager
def judging(stub):
    """The stub behind a loopback URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self._send(200, {"data": [{"id": "stub"}]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._send(*stub.answer(body))

        def _send(self, status, found):
            data = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
