"""Requests of the Responses API, drawn like those of the other two."""

import copy

from .draws import ARGUMENTS, EFFORTS, NAMES, TEXTS, content, functions, limit, sampling, schema_of

ITEM_PARTS = ("input_text", "output_text", {"type": "input_image", "image_url": "u"})
ITEM_PARTS += ({"type": "input_file", "file_id": "x"},)


def responses(rng):
    """A Responses request."""
    body = sampling(rng, False) | limit(rng, "max_output_tokens")
    if rng.random() < 0.6:
        body["reasoning"] = {"effort": rng.choice(EFFORTS)}
    if rng.random() < 0.4:
        body["instructions"] = rng.choice(TEXTS)
    if rng.random() < 0.1:
        body["top_logprobs"] = rng.choice([0, 3, 21])
    if rng.random() < 0.4:
        body["tools"] = response_tools(rng)
        if rng.random() < 0.4:
            kinds = [{"type": "function", "name": rng.choice(NAMES)}, {"type": "web_search"}]
            body["tool_choice"] = rng.choice(["none", "auto", "required", *kinds])
    if rng.random() < 0.25:
        schema = schema_of(rng)
        formats = [{"type": t} for t in ("text", "json_object")]
        body["text"] = {
            "format": rng.choice([*formats, {"type": "json_schema", "name": "n", "schema": schema}])
        }
    kind = rng.random()
    if kind < 0.1:
        body["input"] = rng.choice(TEXTS)
    elif kind < 0.95:
        body["input"] = items(rng)
        if rng.random() < 0.15 and body["input"]:
            item_fault(rng, body["input"])
    return body


def response_tools(rng):
    """Functions, namespaces of functions, and tools of the server."""
    out = functions(rng, flat=True)
    if rng.random() < 0.3:
        inner = functions(rng, flat=True)
        name = rng.choice(["ns", "ns_", "x"])
        if not any(tool.get("strict") for tool in inner):
            out.insert(
                rng.randint(0, len(out)), {"type": "namespace", "name": name, "tools": inner}
            )
    if rng.random() < 0.2:
        out.append({"type": rng.choice(["web_search", "file_search", "tool_search"])})
    return out


def items(rng):
    """Items whose calls are answered."""
    out, number = [], 0
    for _ in range(rng.randint(0 if rng.random() < 0.05 else 1, 7)):
        kind = rng.choice(["user", "user", "assistant", "reasoning", "call", "other"])
        if kind == "other":
            kind = rng.choice(["system", "developer", "skipped"])
        if kind == "skipped":
            out.append({"type": rng.choice(["item_reference", "web_search_call"]), "id": "x"})
        elif kind == "reasoning":
            texts = [rng.choice(TEXTS) for _ in range(rng.randint(0, 2))]
            parts = [{"type": "reasoning_text", "text": text} for text in texts]
            out.append({"type": "reasoning", "id": "x", "summary": [], "content": parts})
        elif kind == "call":
            ids = [f"call_{number + i:02}" for i in range(rng.randint(1, 3))]
            number += len(ids)
            calls = [
                {
                    "type": "function_call",
                    "call_id": i,
                    "name": rng.choice(NAMES),
                    "arguments": rng.choice(ARGUMENTS),
                    **({"namespace": "ns"} if rng.random() < 0.1 else {}),
                }
                for i in ids
            ]
            results = [
                {
                    "type": "function_call_output",
                    "call_id": i,
                    "output": content(rng, ("input_text", *ITEM_PARTS[2:])),
                }
                for i in rng.sample(ids, len(ids))
            ]
            out += calls + results
        else:
            typed = {"type": "message"} if rng.random() < 0.7 else {}
            out.append({**typed, "role": kind, "content": content(rng, ITEM_PARTS)})
    return out


def item_fault(rng, given):
    """One thing wrong with the items."""
    at, kind = rng.randrange(len(given)), rng.randrange(5)
    if kind == 0:
        del given[at]
    elif kind == 1:
        given.insert(rng.randrange(len(given)), copy.deepcopy(given[at]))
    elif kind == 2:
        given.insert(rng.randrange(len(given)), given.pop(at))
    elif kind == 3:
        given[at].pop(rng.choice(list(given[at])))
    elif "role" in given[at]:
        given[at]["role"] = rng.choice(["tool", "boss", "user"])
