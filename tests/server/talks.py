"""A conversation by each API: what a client sends back of what it was sent, and what it counts."""

from server.running import MODEL

from dsv4.protocol.constants import DSML, END_THINK, EOS

CITY = {"type": "string", "enum": ["Oslo", "Rome"]}
SCHEMA = {"type": "object", "properties": {"city": CITY}, "required": ["city"]}


class Chat:
    """By Chat Completions, sent whole each turn."""

    def __init__(self, server, think=False, tools=False):
        self.server, self.think, self.tools, self.messages = server, think, tools, []

    def user(self, said):
        self.messages.append({"role": "user", "content": said})

    def ask(self, seed=0, limit=40, forced=False, **more):
        """(prompt tokens, those of them that were read, the reply); reasoning is short, and no
        control token comes where none belongs: such a reply is not remembered."""
        self.forced = forced and self.tools
        tokenizer = self.server.service.tokenizer
        controls = {tokenizer.control_text(i): str(i) for i in range(tokenizer.vocab_size)}
        bias = {i: -100 for name, i in controls.items() if name not in (None, EOS, END_THINK, DSML)}
        if self.think:
            bias[controls[END_THINK]] = -100 if "task" in self.messages[-1] else 8
        return self._ask(limit, {"seed": seed, "logit_bias": bias}, more)

    def keep(self, reply, result=""):
        """Put a reply behind what was said, and the result of each call; how many there were."""
        self.messages.append(reply.model_dump(exclude_none=True))
        ids = [call.id for call in reply.tool_calls or ()]
        self.messages += [{"role": "tool", "tool_call_id": i, "content": result} for i in ids]
        return len(ids)

    def _ask(self, limit, own, more):
        function = {"name": "weather", "parameters": SCHEMA}
        tools = [{"type": "function", "function": function}]
        thinking = {"type": "enabled" if self.think else "disabled"}
        reply = self.server.openai.chat.completions.create(
            model=MODEL,
            messages=self.messages,
            max_tokens=limit,
            extra_body={**own, "thinking": thinking},
            **({"tools": tools} if self.tools else {}),
            **({"tool_choice": "required"} if self.forced else {}),
            **more,
        )
        usage = reply.usage
        hit, miss = usage.prompt_cache_hit_tokens, usage.prompt_cache_miss_tokens
        assert hit + miss == usage.prompt_tokens and hit == reply.dsv4["reused_tokens"]
        assert usage.prompt_tokens_details.cached_tokens == hit
        assert (reply.dsv4["not_reused_because"] is None) is (miss == 1)
        return usage.prompt_tokens, miss, reply.choices[0].message


class Messages(Chat):
    """By Messages."""

    def keep(self, reply, result=""):
        blocks = [block.model_dump(exclude={"caller", "citations"}) for block in reply.content]
        self.messages.append({"role": "assistant", "content": blocks or ""})
        ids = [block["id"] for block in blocks if block["type"] == "tool_use"]
        given = [{"type": "tool_result", "tool_use_id": i, "content": result} for i in ids]
        self.messages += [{"role": "user", "content": given}] if given else []
        return len(ids)

    def _ask(self, limit, own, more):
        reply = self.server.anthropic.messages.create(
            model=MODEL,
            messages=self.messages,
            max_tokens=limit,
            thinking={"type": "enabled" if self.think else "disabled"},
            extra_body=own,
            **({"tools": [{"name": "weather", "input_schema": SCHEMA}]} if self.tools else {}),
            **({"tool_choice": {"type": "any"}} if self.forced else {}),
            **more,
        )
        read, hit = reply.usage.input_tokens, reply.usage.cache_read_input_tokens
        return read + hit, read, reply


class Responses(Chat):
    """By Responses."""

    previous = None

    def keep(self, reply, result=""):
        self.messages += reply
        ids = [item["call_id"] for item in reply if item["type"] == "function_call"]
        kind = {"type": "function_call_output", "output": result}
        self.messages += [kind | {"call_id": i} for i in ids]
        return len(ids)

    def _ask(self, limit, own, more):
        tools = [{"type": "function", "name": "weather", "parameters": SCHEMA}]
        reply = self.server.openai.responses.create(
            model=MODEL,
            input=self.messages,
            max_output_tokens=limit,
            reasoning={"effort": "high" if self.think else "none"},
            previous_response_id=self.previous,
            extra_body=own,
            **({"tools": tools} if self.tools else {}),
            **({"tool_choice": "required"} if self.forced else {}),
            **more,
        )
        self.id, usage = reply.id, reply.usage
        output = [item.model_dump(exclude_none=True) for item in reply.output]
        return (
            usage.input_tokens,
            usage.input_tokens - usage.input_tokens_details.cached_tokens,
            output,
        )


class Following(Responses):
    """By `previous_response_id`: what is new alone is sent."""

    def keep(self, reply, result=""):
        self.messages, self.previous = [], self.id
        calls = super().keep(reply, result)
        del self.messages[: len(reply)]
        return calls
