"""A reply is held to a grammar: of all ids, those that it lets come next.

A control token is not its spelling. Where a grammar spells one, the token's id must come, and no
letters; nowhere else can one come, whatever strings, expressions or free text allow. To this end
the name that xgrammar knows control tokens by holds a byte that no UTF-8 has, which keeps them out
of JSON and expressions, and a character that is excluded from free text.
"""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, TimeoutError
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dsv4.tokenizer import Tokenizer

if TYPE_CHECKING:
    import xgrammar

LARGEST = 256 * 1024  # bytes of a grammar as JSON
DEEPEST = 120  # objects, arrays and groups of an expression inside one another
SECONDS = 10.0  # of compiling that are waited for
KEPT = 256 << 20  # bytes of compiled grammars
ABANDONED = 4  # compilations that may go on without anyone who waits

_MARK = "\U0010ffff"  # no text holds it: Unicode says it is no character
_CONTROL = b"\xff" + _MARK.encode()  # how xgrammar sees a control token

Format = dict[str, Any]


class Constraint:
    """What one reply may go on with. Ids are accepted one by one, and can be taken back."""

    def __init__(self, matcher: xgrammar.GrammarMatcher, vocab_size: int, end_ids: Sequence[int]):
        self._matcher, self._vocab_size, self._end_ids = matcher, vocab_size, list(end_ids)

    def mask(self, words: Tensor, row: int = 0) -> None:
        """Set the bits of words int32 [rows, ⌈vocab/32⌉][row]: 1 for an id that may come.

        Raises ValueError where none may: the grammar cannot be completed.
        """
        if self.closed:
            words[row] = 0
            return
        self._matcher.fill_next_token_bitmask(words, row)
        if not bool(words[row].any()):
            raise ValueError("the grammar lets no token come here: it cannot be completed")

    def accept(self, token: int) -> bool:
        """Go on with an id; False, and nothing changes, for one that may not come."""
        return not self.closed and self._matcher.accept_token(token)

    def rollback(self, count: int) -> None:
        """Take back the last `count` ids."""
        if count:
            self._matcher.rollback(count)

    @property
    def closed(self) -> bool:
        """An end token was accepted: nothing may come."""
        return self._matcher.is_terminated()

    @property
    def ended(self) -> bool:
        """The grammar is complete: nothing but an end token may come."""
        if self.closed:
            return True
        if not self._matcher.is_completed():
            return False
        words = torch.empty(1, word_count(self._vocab_size), dtype=torch.int32)
        self.mask(words)
        return set(allowed_ids(words[0], self._vocab_size)) <= set(self._end_ids)


class Constraints:
    """The grammars of one tokenizer and vocabulary, compiled once each, for any thread.

    A vocabulary may have more ids than the tokenizer has tokens: those never come. `end_ids` end a
    reply, and come only where the grammar is complete.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, end_ids: Sequence[int]):
        self.tokenizer, self.vocab_size, self.end_ids = tokenizer, vocab_size, list(end_ids)
        self._known: OrderedDict[str, _Compilation] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, tag: Mapping[str, Any], end_ids: Sequence[int] | None = None) -> Constraint:
        """A constraint at the beginning of a reply. `tag`: a structural tag in xgrammar's words;
        `end_ids` in place of the usual ones.

        Raises ValueError for a grammar that is no grammar, that is larger or deeper than is
        allowed, or that takes longer than SECONDS to compile.
        """
        import xgrammar

        grammar = self._compiled(tag)
        ends = self.end_ids if end_ids is None else list(end_ids)
        matcher = xgrammar.GrammarMatcher(grammar, override_stop_tokens=ends)
        return Constraint(matcher, self.vocab_size, ends)

    def _compiled(self, tag: Mapping[str, Any]) -> xgrammar.CompiledGrammar:
        key = _checked(tag)
        with self._lock:
            work = self._known.get(key)
            if work is None:
                running = sum(not known.result.done() for known in self._known.values())
                if running >= ABANDONED:
                    raise ValueError(f"{running} grammars are being compiled: try again later")
                work = self._known[key] = _Compilation(self, key)
            self._known.move_to_end(key)
        compiled = work.wait()
        with self._lock:
            self._forget()
        return compiled

    def _forget(self) -> None:
        """Drop what was not used for longest, down to KEPT bytes."""
        done = [key for key, work in self._known.items() if work.result.done()]
        held = sum(self._known[key].size for key in done)
        for key in done[:-1]:
            if held <= KEPT:
                break
            held -= self._known.pop(key).size

    @cached_property
    def _compiler(self) -> xgrammar.GrammarCompiler:
        import xgrammar

        known = min(self.tokenizer.largest_id + 1, self.vocab_size)
        names = [
            self.tokenizer.token_bytes(i) if self.tokenizer.control_text(i) is None else _CONTROL
            for i in range(known)
        ]
        tokens = xgrammar.TokenizerInfo(
            names, vocab_size=self.vocab_size, stop_token_ids=self.end_ids
        )
        return xgrammar.GrammarCompiler(tokens, max_threads=1, cache_enabled=False)


class _Compilation:
    """One grammar being compiled in a thread of its own, which ends when it ends."""

    def __init__(self, owner: Constraints, text: str):
        self.result: Future[xgrammar.CompiledGrammar] = Future()
        self.size = len(text)
        self._until = time.monotonic() + SECONDS
        threading.Thread(target=self._run, args=(owner, text), daemon=True).start()

    def _run(self, owner: Constraints, text: str) -> None:
        try:
            tag = _with_control_tokens(json.loads(text), owner.tokenizer)
            with owner._lock:
                compiler = owner._compiler
            compiled = compiler.compile_structural_tag(tag)
            self.size += compiled.memory_size_bytes
            self.result.set_result(compiled)
        except Exception as error:  # the library raises RuntimeError for whatever it cannot read
            self.result.set_exception(ValueError(f"grammar: {_line(error)}"))

    def wait(self) -> xgrammar.CompiledGrammar:
        try:
            return self.result.result(max(0.0, self._until - time.monotonic()))
        except TimeoutError:
            raise ValueError(
                f"grammar: not compiled within {SECONDS:g} seconds: make it simpler"
            ) from None


def allowed_ids(words: Tensor, vocab_size: int) -> list[int]:
    """The ids whose bits are set in int32 words [⌈vocab/32⌉]."""
    bits = np.unpackbits(words.numpy().view(np.uint8), bitorder="little")
    return bits[:vocab_size].nonzero()[0].tolist()


def apply_words(logits: Tensor, words: Tensor, rows: list[int]) -> None:
    """Set logits [n, vocab] to −∞ in place where words int32 [n, ⌈vocab/32⌉] have no bit, in the
    rows that are named."""
    import xgrammar

    xgrammar.apply_token_bitmask_inplace(
        logits, words.to(logits.device), vocab_size=logits.shape[-1], indices=rows
    )


def word_count(vocab_size: int) -> int:
    """32-bit words that hold a bit for each id."""
    return -(-vocab_size // 32)


def _checked(tag: Mapping[str, Any]) -> str:
    """A grammar as canonical JSON; the order of keys is kept, since it is one of the properties."""
    try:
        text = json.dumps(tag, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"grammar: no JSON: {_line(error)}") from error
    size = len(text.encode("utf-8", "replace"))
    if size > LARGEST:
        raise ValueError(f"grammar: {size:,} bytes of JSON, {LARGEST:,} are allowed")
    depth = _depth(text)
    if depth > DEEPEST:
        raise ValueError(f"grammar: nested {depth} deep, {DEEPEST} levels are allowed")
    return text


def _depth(text: str) -> int:
    """How deep brackets of any kind nest, those in strings included: an upper bound."""
    depth = deepest = 0
    for letter in text:
        if letter in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif letter in ")]}":
            depth = max(0, depth - 1)
    return deepest


def _with_control_tokens(tag: Format, tokenizer: Tokenizer) -> Format:
    """A structural tag that asks for control tokens by id, and excludes them from free text."""
    return {**tag, "format": _format(tag.get("format"), tokenizer)}


def _format(form: Any, tokenizer: Tokenizer) -> Any:
    if not isinstance(form, Mapping):
        return form
    kind = form.get("type")
    if kind == "const_string" and isinstance(form.get("value"), str):
        return _spelled(form["value"], tokenizer)
    if kind == "any_text":
        return {**form, "excludes": [*form.get("excludes", ()), _MARK]}
    out = dict(form)
    if "content" in out:
        out["content"] = _format(out["content"], tokenizer)
    if isinstance(out.get("elements"), list):
        out["elements"] = [_format(element, tokenizer) for element in out["elements"]]
    return out


def _spelled(text: str, tokenizer: Tokenizer) -> Format:
    """A text in which control tokens are tokens."""
    parts: list[Format] = []
    for piece, token in tokenizer.split_control(text):
        parts.append(
            {"type": "const_string", "value": piece}
            if token is None
            else {"type": "token", "token": token}
        )
    return parts[0] if len(parts) == 1 else {"type": "sequence", "elements": parts}


def _line(error: BaseException) -> str:
    """What an error says, in one line, without the place in a library where it was raised."""
    text = " ".join(str(error).split())
    return text.partition(": ")[2] if text.startswith("[") and ".cc:" in text else text
