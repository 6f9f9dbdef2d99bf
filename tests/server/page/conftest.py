"""Headless Chromium and a scripted server, one of each for a file of tests.

Every test also holds that the policy was never violated, that nothing was asked of another host,
that no script failed, and that nothing written by a model ran.
"""

import shutil

import pytest

from .scripted import serving

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
LISTEN = """
addEventListener("securitypolicyviolation", (event) => {
  window.violations = [...(window.violations ?? []), event.violatedDirective];
});
"""


@pytest.fixture(scope="module")
def server():
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (PyPI)")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(server, chromium):
    """A page of a fresh profile, or one more of a given profile."""
    server.reset()
    contexts, pages, foreign, errors, addresses = [], [], [], [], []

    def asked(request):
        if not request.url.startswith(("blob:", *addresses)):
            foreign.append(request.url)

    def make(
        context=None,
        address=server.address,
        ready="#model option[value=nano]",
        before=None,
        **options,
    ):
        addresses.append(address)
        if context is None:
            options = {"viewport": {"width": 1280, "height": 800}} | options
            context = chromium.new_context(**options)
            context.set_default_timeout(20_000)
            context.add_init_script(LISTEN)
            contexts.append(context)
            if before:
                context.add_init_script(before)
        page = context.new_page()
        pages.append(page)
        page.on("request", asked)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.wait_for_selector(ready, state="attached")
        return page

    yield make
    server.go.set()
    ill = [
        page.evaluate("[window.violations, window.hit]") for page in pages if not page.is_closed()
    ]
    for context in contexts:
        context.close()
    assert all(found == [None, None] for found in ill), ill
    assert foreign == [] and errors == []


@pytest.fixture
def page(open_page):
    return open_page()
