"""How the model spelt what it said: a reply that a client sends back as text is encoded as the ids
that were sampled, so that the next turn's prompt begins with what the engine has in its cache.

    (reasoning, content, calls)  →  ids after <think>
    (content, calls)             →  ids after </think>
"""

from __future__ import annotations

import hashlib
import json
import threading
from array import array
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dsv4.protocol.constants import DSML, END_THINK, EOS, THINK
from dsv4.protocol.segments import Spelt
from dsv4.server.reply import Reply
from dsv4.server.shelf import SpellingFile
from dsv4.tokenizer import Tokenizer

MOST = 4 << 20  # ids that are remembered


class Spellings:
    """The newest replies, by what a client has of them; in a folder they outlive the server."""

    def __init__(self, tokenizer: Tokenizer, folder: Path | None = None, most: int = MOST):
        self._tokenizer, self._most, self._count = tokenizer, most, 0
        self._ids: OrderedDict[bytes, array[int]] = OrderedDict()
        self._lock = threading.Lock()
        self._file = None
        if folder is not None:
            name = hashlib.blake2b(tokenizer.backend.to_str().encode(), digest_size=8).hexdigest()
            self._file = SpellingFile(folder / f"replies-{name}.sqlite")
        self._end, self._end_think = tokenizer.token_id(EOS), tokenizer.token_id(END_THINK)
        self._layout = {self._end, self._end_think, tokenizer.token_id(DSML)}

    def remember(self, reply: Reply, opened: Sequence[int]) -> None:
        """What was said, after what of the reply the prompt had `opened`.

        A reply that was mended when it was read, or cut by a stop string, is not remembered.
        """
        message = reply.message()
        ids = [*opened, *reply.ids]
        ids = ids[:-1] if ids[-1:] == [self._end] else ids
        if not ids or message is None or not self._only_layout(ids):
            return
        if message.get("reasoning_content") and self._end_think not in ids:
            ids.append(self._end_think)  # cut while it reasoned: the next prompt ends that
        at = ids.index(self._end_think) if self._end_think in ids else -1
        if at >= 0:
            self._put(_key(message, True), ids)
        rest = ids[at + 1 :]
        if message.get("tool_calls") or self._tokenizer.decode(rest) == message["content"]:
            self._put(_key(message, False), rest)

    def opened(self, prompt: Sequence[int]) -> Sequence[int]:
        """What of a reply the prompt had opened: the start of a block, after a forced choice."""
        at = len(prompt)
        while at > 0 and self._tokenizer.control_text(prompt[at - 1]) not in (THINK, END_THINK):
            at -= 1
        return prompt[at:]

    def of(self, message: Mapping[str, Any], reasons: bool) -> Spelt | None:
        """How a message of the history was spelt; with `reasons`, its reasoning too."""
        key = _key(message, reasons)
        with self._lock:
            ids = self._ids.get(key)
            if ids is not None:
                self._ids.move_to_end(key)
        if ids is None and self._file is not None:
            ids = self._file.get(key)
        if ids is None:
            return None
        return Spelt(self._tokenizer.decode(ids), ids)

    def _only_layout(self, ids: Sequence[int]) -> bool:
        """No control token stands in it but those that its message accounts for."""
        text = self._tokenizer.control_text
        return all(token in self._layout or text(token) is None for token in ids)

    def close(self) -> None:
        """Give the file back."""
        if self._file is not None:
            self._file.close()

    def _put(self, key: bytes, ids: Sequence[int]) -> None:
        kept = array("i", ids)
        if self._file is not None:
            self._file.put(key, kept)
        with self._lock:
            self._count += len(kept) - len(self._ids.pop(key, ()))
            self._ids[key] = kept
            while self._count > self._most:
                self._count -= len(self._ids.popitem(last=False)[1])


def _key(message: Mapping[str, Any], reasons: bool) -> bytes:
    """By the texts, and by the calls with their ids: an edited reply is another one."""
    calls = [
        (call["id"], call["function"]["name"], _object(call["function"]["arguments"]))
        for call in message.get("tool_calls") or ()
    ]
    said = [message["content"], calls]
    if reasons:
        said.append(message.get("reasoning_content") or "")
    return hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=16).digest()


def _object(arguments: Any) -> Any:
    """Arguments as the request layer reads them: an object, or the text that is none."""
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments)
    except ValueError:
        return {"arguments": arguments}
