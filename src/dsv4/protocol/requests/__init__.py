"""What clients send: requests of Chat Completions, Messages and Responses, to one form.

`from_openai`, `from_anthropic` and `from_responses` read a body (JSON that was decoded) by the
rules of DeepSeek's API and give a `Request`, which knows the prompt, the sampling, and how to read
the reply. A malformed body is one `RequestError` that names the field.
"""

from dsv4.protocol.requests.anthropic import from_anthropic
from dsv4.protocol.requests.any import APIS, read_request
from dsv4.protocol.requests.chat import from_openai
from dsv4.protocol.requests.options import RequestOptions
from dsv4.protocol.requests.request import Asked, Constraint, Request
from dsv4.protocol.requests.responses import from_responses

__all__ = [
    "APIS",
    "Asked",
    "Constraint",
    "Request",
    "RequestOptions",
    "from_anthropic",
    "from_openai",
    "from_responses",
    "read_request",
]
