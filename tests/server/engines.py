"""Engines for tests: one that says what it is told to, and one that runs the model."""

import itertools
import threading
import time
from collections import deque

import torch

from dsv4.engine.constraint import Constraints
from dsv4.engine.engine import Engine
from dsv4.engine.request import EngineError, Finished, FullError, Token, Usage
from dsv4.sampling import sample


class _Handle:
    def __init__(self):
        self.cancelled = threading.Event()

    def cancel(self):
        self.cancelled.set()


class _Base:
    """One thread a job."""

    context = 4096
    most = 1_000

    def __init__(self):
        self.jobs, self.handles, self._threads = [], [], []
        self.closed = False

    def submit(self, job, listener):
        if self.closed:
            raise EngineError("the engine is closed")
        if not job.ids:
            raise ValueError("the prompt is empty")
        running = sum(thread.is_alive() for thread in self._threads)
        if running >= self.most:
            raise FullError("the queue is full", 2.5)
        self.jobs.append(job)
        handle = _Handle()
        self.handles.append(handle)
        thread = threading.Thread(target=self._run, args=(job, listener, handle), daemon=True)
        self._threads.append(thread)
        thread.start()
        return handle

    def _run(self, job, listener, handle):
        usage = Usage(prompt=len(job.ids), cached=min(3, len(job.ids) - 1), missed="first differs")
        try:
            prompt = [
                Token(i, None if n == 0 else -1.5, [(i, -1.5)]) for n, i in enumerate(job.ids)
            ]
            listener.prefilled(usage, prompt if job.prompt_logprobs else ())
            ends = {1} if job.end_ids is None else set(job.end_ids)
            for count, token in enumerate(self.said(job, handle), 1):
                usage.completion = count
                over = listener.tokens([token])
                if handle.cancelled.is_set():
                    return listener.finished(Finished("cancelled", usage))
                if over or token.id in ends:
                    return listener.finished(Finished("stop", usage))
                if count == job.sampling.max_tokens:
                    return listener.finished(Finished("length", usage))
            listener.finished(Finished("length", usage))
        except Exception as error:
            listener.finished(Finished("error", usage, error))

    def statistics(self):
        running = float(sum(t.is_alive() for t in self._threads))
        return {"running": running, "waiting": 0.0, **self.totals()}

    def totals(self):
        return {"finished": float(len(self.jobs))}

    def backends(self):
        return ()

    def close(self, seconds=30.0):
        self.closed = True
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        for handle in self.handles:
            handle.cancel()
        for thread in self._threads:
            thread.join(10)


class Scripted(_Base):
    """Says the texts that it was given, in turn; the last one again and again.

    A script is ids; a number among them that is no int is a pause in seconds, an exception fails.
    """

    def __init__(self, tokenizer):
        super().__init__()
        self.tokenizer = tokenizer
        self.scripts = deque()
        self._lock = threading.Lock()

    def say(self, *scripts):
        """What to say next: texts, whose control tokens count, or lists of ids and pauses."""
        self.scripts = deque(self._ids(script) for script in scripts)

    def _ids(self, script):
        return self.tokenizer.encode(script, special=True) if isinstance(script, str) else script

    def said(self, job, handle):
        with self._lock:
            script = self.scripts[0]
            if len(self.scripts) > 1:
                self.scripts.popleft()
        for step in script:
            if isinstance(step, Exception):
                raise step
            if isinstance(step, float):
                handle.cancelled.wait(step)
                continue
            top = [(step, -0.5), (7, -1.0), (8, -2.0)][: job.logprobs or 0]
            yield Token(step, None if job.logprobs is None else -0.5, top)


class Plain(_Base):
    """Runs the model, one job after the other; no grammar, no penalties."""

    def __init__(self, model):
        super().__init__()
        self.model, self._alone = model, threading.Lock()
        self.context = model.config.max_position_embeddings

    @torch.inference_mode()
    def said(self, job, handle):
        with self._alone:
            cache = self.model.new_cache(1)
            generator = job.sampling.generator(job.number)
            ids = torch.tensor([list(job.ids)])
            for _ in itertools.count():
                logits = self.model(ids, cache)[:, -1].float()
                (token,) = sample(logits, [job.sampling], [generator])
                scores = logits[0].log_softmax(-1)
                best = scores.topk(job.logprobs or 1)
                top = list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
                scored = job.logprobs is not None
                yield Token(
                    token,
                    scores[token].item() if scored else None,
                    top if job.logprobs else (),
                )
                ids = torch.tensor([[token]])


def engine_of(model, tokenizer, **options):
    """The engine, small."""
    config = model.config
    constraints = Constraints(tokenizer, config.vocab_size, [config.eos_token_id])
    return Engine(model, constraints, **{"slots": 8, "memory": 192 << 20} | options)
