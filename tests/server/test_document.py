"""The OpenAPI document is true: what it lets through never fails, what comes back is as it says.

DSV4_FUZZ=1000 draws that many requests for each path.
"""

import os

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from server.running import MODEL
from server.test_chat import BLOCK, EOS

schemathesis = pytest.importorskip("schemathesis")

DRAWS = int(os.environ.get("DSV4_FUZZ", "6"))
REQUESTS = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}], "n": 2},
    "/v1/completions": {"prompt": "x", "logprobs": 2, "echo": True},
    "/v1/responses": {"input": "x"},
    "/v1/messages": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 500},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "x"}]},
    "/tokenize": {"prompt": "x"},
    "/detokenize": {"tokens": [5]},
}


@pytest.fixture(scope="module")
def document(shared):
    shared.say(f"hm</think>one moment{BLOCK}{EOS}")
    return schemathesis.openapi.from_url(f"{shared.url}/openapi.json")


def operations(document):
    return [found.ok() for found in document.get_all_operations()]


def checked(case, response):
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    checks = [
        not_a_server_error,
        status_code_conformance,
        content_type_conformance,
        response_schema_conformance,
    ]
    case.validate_response(response, checks=checks)


def drawn(operation):
    @settings(
        max_examples=DRAWS,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
        deadline=None,
        database=None,
    )
    @given(case=operation.as_strategy(), named=st.booleans())
    def check(case, named):
        if isinstance(case.body, dict) and named:
            case.body["model"] = MODEL
        checked(case, case.call())

    check()


def test_drawn_requests(document):
    for operation in operations(document):
        drawn(operation)


def test_answers_are_as_the_document_says(document):
    seen = set()
    for operation in operations(document):
        body = REQUESTS.get(operation.path)
        if body is None:
            continue
        case = operation.Case(body=body | {"model": MODEL}, media_type="application/json")
        response = case.call()
        assert response.status_code == 200, response.text
        checked(case, response)
        seen.add(operation.path)
    assert seen == set(REQUESTS)
