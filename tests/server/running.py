"""A server on a loopback socket, in a thread; the clients are the official ones."""

import threading
from contextlib import contextmanager
from types import SimpleNamespace

import anthropic
import httpx
import openai

from dsv4.server.run import Server, listen
from dsv4.server.service import Service
from dsv4.server.settings import Settings

MODEL = "org/nano-v4"


@contextmanager
def serving(engine, tokenizer, grace=5.0, http="auto", **settings):
    """What a test needs of a running server."""
    settings = {"models": (MODEL,), "keep_alive": 0.2} | settings
    began = threading.Event()
    urls = []

    def tell(found):
        urls.extend(found)
        began.set()

    service = Service(engine, tokenizer, Settings(**settings))
    server = Server(service, grace, tell, http)
    thread = threading.Thread(target=server.run, args=([listen("127.0.0.1", 0)],), daemon=True)
    thread.start()
    assert began.wait(20)
    key = settings.get("api_key") or "none"
    url = urls[0]
    try:
        with httpx.Client(base_url=url, timeout=30) as client:
            yield SimpleNamespace(
                url=url,
                http=client,
                engine=engine,
                say=getattr(engine, "say", None),
                service=service,
                server=server,
                thread=thread,
                openai=openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0),
                anthropic=anthropic.Anthropic(base_url=url, api_key=key, max_retries=0),
            )
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
