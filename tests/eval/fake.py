"""A subject without a model: what it says depends on what it is asked, and it takes its time."""

import hashlib
import sys
import time
from pathlib import Path

from dsv4.eval.log import Log
from dsv4.eval.run import Plan, run
from dsv4.eval.subject import Reply, Score, TooLongError
from dsv4.eval.suites import suite_of

SETTINGS = {"model": "fake", "limit": 12}
NAMES = ["copy", "arithmetic_1", "next_of_series"]


class Fake:
    """Replies by a digest; `context` as it is told; one in seven replies is cut."""

    name = "fake"

    def __init__(self, pause=0.0, context=8192):
        self.pause, self.context, self.asked = pause, context, []

    def _number(self, *told):
        text = repr(told).encode()
        return int.from_bytes(hashlib.sha256(text).digest()[:6], "big")

    def encode(self, text):
        return [ord(letter) for letter in text]

    def count(self, ask):
        return len(str(ask.prompt)) // 4

    def generate(self, ask):
        self.asked.append(ask)
        number = self._number(ask.prompt, ask.seed)
        time.sleep(self.pause * (number % 3))
        if self.count(ask) > self.context:
            raise TooLongError("the prompt is too long")
        text = str(ask.prompt[-1]["content"]).removeprefix("Repeat exactly: ")
        said = text if number % 2 else str(number % 20)
        return Reply(said, "", (), "length" if number % 7 == 0 else "stop", 9, 3, 5)

    def score_ids(self, context, continuation, *, bos=True):
        number = self._number(context, continuation)
        time.sleep(self.pause)
        return Score(-float(number % 1000) / 10, number % 2 == 0, len(continuation))

    def close(self):
        pass


def evaluate(folder, resume, pause=0.0, concurrency=4):
    log = Log(Path(folder), SETTINGS, resume=resume)
    run(Plan(suite_of(NAMES).tasks, 12, 0, concurrency), Fake(pause), log)
    log.close()


if __name__ == "__main__":
    evaluate(sys.argv[1], True, 0.01)
