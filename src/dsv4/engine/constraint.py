"""A reply is held to a grammar: of all ids, those that it lets come next.

A control token is not its spelling. Where a grammar spells one, the token's id must come, and no
letters; nowhere else can one come, whatever strings, expressions or free text allow. To this end
the name that xgrammar knows control tokens by holds a byte that no UTF-8 has, which keeps them out
of JSON and expressions, and a character that is excluded from free text.

JSON may hold no more white space in a row than printing it in lines needs (`indent`), where a
grammar says nothing else.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dsv4.engine.indent import most_blanks
from dsv4.engine.patience import Patience
from dsv4.engine.request import GrammarError
from dsv4.ops.native import module as native_module
from dsv4.tokenizer import Tokenizer

if TYPE_CHECKING:
    import xgrammar

log = logging.getLogger("dsv4.engine")

LARGEST = 256 * 1024  # bytes of a grammar as JSON
DEEPEST = 120  # brackets inside one another
COMPILING = 10.0  # seconds that compiling may take
FIRST, EACH = 2.0, 0.02  # seconds that matching may take: of a reply, and of each token more
KEPT = 256 << 20  # bytes of compiled grammars
PAUSE = 0.05  # seconds after which the other grammars of a step are asked in a call of their own
LEFT = 4  # compilations and matches that were given up and go on

_MARK = "\U0010ffff"  # no text holds it: Unicode says it is no character
_CONTROL = b"\xff" + _MARK.encode()  # how xgrammar sees a control token

Format = dict[str, Any]


class Constraint:
    """What one reply may go on with. Ids are accepted one by one, and can be taken back.

    Whoever accepts an id has seen its bit in the mask. Matching an ambiguous grammar can take any
    time: a reply whose grammar took more than FIRST + EACH · ids seconds has failed for good.
    """

    def __init__(
        self,
        matcher: xgrammar.GrammarMatcher,
        vocab_size: int,
        end_ids: Sequence[int],
        patience: Patience,
    ):
        self._matcher, self._vocab_size, self._end_ids = matcher, vocab_size, frozenset(end_ids)
        self.patience = patience
        self._waiting: list[int] = []  # accepted, not yet given to the matcher
        self._matched = 0
        self._spent = 0.0
        self.failed: GrammarError | None = None
        self.closed = False  # an end token was accepted: nothing may come

    def mask(self, words: Tensor, row: int = 0) -> None:
        """Set the bits of words int32 [rows, ⌈vocab/32⌉][row]: 1 for an id that may come.

        Raises GrammarError where none may, since the grammar cannot be completed or has ended, for
        an id that should not have been accepted, and when matching takes too long.
        """
        for error in mask_all([self], [row], words).values():
            raise error

    def accept(self, token: int) -> None:
        """Go on with an id that may come."""
        self._waiting.append(token)
        self.closed = token in self._end_ids

    def rollback(self, count: int) -> None:
        """Take back the last `count` ids."""
        if not count or self.failed is not None:
            return
        self.closed = False
        waiting = min(count, len(self._waiting))
        del self._waiting[len(self._waiting) - waiting :]
        if count > waiting:
            self._matcher.rollback(count - waiting)
            self._matched -= count - waiting

    @property
    def ended(self) -> bool:
        """The grammar is complete: nothing but an end token may come."""
        if self.closed:
            return True
        words = torch.empty(1, word_count(self._vocab_size), dtype=torch.int32)
        self.mask(words)
        return self._end_ids.issuperset(allowed_ids(words[0], self._vocab_size))

    def match(self, words: Tensor) -> None:
        """Give the matcher what was accepted, and set the bits of words [1, ⌈vocab/32⌉]."""
        while self._waiting:
            if not self._matcher.accept_token(self._waiting[0]):
                raise GrammarError(f"the grammar does not let token {self._waiting[0]} come here")
            del self._waiting[0]
            self._matched += 1
        if not self._matcher.is_terminated():
            self._matcher.fill_next_token_bitmask(words, 0)

    @property
    def allowed(self) -> float:
        """Seconds that matching may have taken by now."""
        return FIRST + EACH * (self._matched + len(self._waiting))

    @property
    def bearable(self) -> float:
        """Seconds for which one match is waited for."""
        return self.allowed - self._spent + FIRST

    def took(self, seconds: float, allowed: float) -> None:
        """Note what a match took; a reply that took more than is allowed has failed for good."""
        self._spent += seconds
        if self._spent > allowed:
            self.failed = GrammarError(
                f"the grammar took more than {allowed:.1f} seconds to match: make it less ambiguous"
            )


class _Matching:
    """Constraints that are matched in turn, in another thread, until PAUSE seconds have gone by.

    `words` [n, ⌈vocab/32⌉] are its own: a thread that was left behind may write them. `given_up` is
    the number of the one that took too long: what comes after it is not touched.
    """

    def __init__(self, some: Sequence[Constraint], words: Tensor):
        self.some, self.words = some, words
        self.done: list[tuple[Exception | None, float]] = []  # and seconds of a processor
        self.given_up: int | None = None
        self._number, self._since = 0, time.monotonic()
        self._lock = threading.Lock()

    def run(self) -> None:
        """One after the other."""
        until = time.monotonic() + PAUSE
        for number, constraint in enumerate(self.some):
            with self._lock:
                now = time.monotonic()
                if self.given_up is not None or (number and now > until):
                    return
                self._number, self._since = number, now
            spent, error = time.thread_time(), None
            try:
                constraint.match(self.words[number : number + 1])
            except Exception as raised:
                error = raised
            self.done.append((error, time.thread_time() - spent))

    def left(self) -> float:
        """Seconds that the one that runs now may go on; it is given up where there are none."""
        with self._lock:
            gone = time.monotonic() - self._since
            left = self.some[self._number].bearable - gone
            if left <= 0:
                self.given_up = self._number
            return left


def mask_all(
    constraints: Sequence[Constraint], rows: Sequence[int], words: Tensor
) -> dict[int, GrammarError]:
    """`mask` of each one's row, in one call into another thread while none takes long; what went
    wrong with which rows."""
    failed = {
        row: one.failed
        for one, row in zip(constraints, rows, strict=True)
        if one.failed is not None
    }
    left = [pair for pair in zip(constraints, rows, strict=True) if pair[1] not in failed]
    while left:
        some = [constraint for constraint, _ in left]
        allowed = [constraint.allowed for constraint in some]
        matching = _Matching(some, words.new_zeros(len(some), words.shape[-1]))
        try:
            least = min(constraint.bearable for constraint in some)
            some[0].patience.run(matching.run, least, matching.left)
            outcomes = matching.done
        except TimeoutError:
            outcomes = [*matching.done[: matching.given_up], (None, float("inf"))]
        count = len(outcomes)
        words[[row for _, row in left[:count]]] = matching.words[:count]
        lets = matching.words[:count].any(-1).tolist()
        for (constraint, row), (error, seconds), limit, any_id in zip(
            left, outcomes, allowed, lets, strict=False
        ):
            constraint.took(seconds, limit)
            wrong = constraint.failed or error
            if wrong is None and not any_id:
                wrong = GrammarError("the grammar lets no token come here: it cannot be completed")
            if wrong is not None:
                failed[row] = (
                    wrong if isinstance(wrong, GrammarError) else GrammarError(_line(wrong))
                )
        del left[:count]
    return failed


class Constraints:
    """The grammars of one tokenizer and vocabulary, compiled once each, for any thread.

    A vocabulary may have more ids than the tokenizer has tokens: those never come. `end_ids` end a
    reply, and come only where the grammar is complete.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, end_ids: Sequence[int]):
        self.tokenizer, self.vocab_size, self.end_ids = tokenizer, vocab_size, list(end_ids)
        self._known: OrderedDict[str, xgrammar.CompiledGrammar | ValueError] = OrderedDict()
        self._lock = threading.Lock()
        self._patience = Patience(LEFT)

    def compile(self, tag: Mapping[str, Any], end_ids: Sequence[int] | None = None) -> Constraint:
        """A constraint at the beginning of a reply. `tag`: a structural tag in xgrammar's words;
        `end_ids` in place of the usual ones.

        Raises ValueError for a grammar that is no grammar, that is larger or deeper than is
        allowed, or that takes longer than COMPILING seconds to compile.
        """
        import xgrammar

        grammar = self._compiled(_checked(tag))
        ends = self.end_ids if end_ids is None else list(end_ids)
        matcher = xgrammar.GrammarMatcher(grammar, override_stop_tokens=ends)
        return Constraint(matcher, self.vocab_size, ends, self._patience)

    def _compiled(self, text: str) -> xgrammar.CompiledGrammar:
        with self._lock:
            known = self._known.get(text)
            if known is not None:
                self._known.move_to_end(text)
        if known is None:
            known = self._compile(text)
            with self._lock:
                self._known[text] = known
                self._forget()
        if isinstance(known, ValueError):
            raise ValueError(str(known))
        return known

    def _compile(self, text: str) -> xgrammar.CompiledGrammar | ValueError:
        """The grammar, or why there is none."""
        self._patience.check()
        with self._lock:
            compiler = self._compiler
        tag = json.loads(text)
        tag["format"] = _format(tag.get("format"), self.tokenizer)
        native = native_module()
        if native is not None:
            native.keep_library_lines()
        try:
            return self._patience.run(lambda: compiler.compile_structural_tag(tag), COMPILING)[0]
        except TimeoutError:
            return ValueError(
                f"grammar: not compiled within {COMPILING:g} seconds: make it simpler"
            )
        except Exception as error:  # the library raises RuntimeError for whatever it cannot read
            return ValueError(f"grammar: {_line(error)}")
        finally:
            if native is not None:  # such as a keyword that it ignores: nothing for a terminal
                for said in dict.fromkeys(map(_line, native.take_library_lines())):
                    log.info("a grammar: %s", said.removeprefix("Warning: "))

    def _forget(self) -> None:
        """Drop what was not used for longest, down to KEPT bytes."""
        held = sum(map(_size, self._known.items()))
        while held > KEPT and len(self._known) > 1:
            held -= _size(self._known.popitem(last=False))

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
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise ValueError("grammar: a text holds half a surrogate pair") from error
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


def _size(known: tuple[str, xgrammar.CompiledGrammar | ValueError]) -> int:
    text, grammar = known
    return len(text) + (0 if isinstance(grammar, ValueError) else grammar.memory_size_bytes)


def _format(form: Any, tokenizer: Tokenizer) -> Any:
    """A format that asks for control tokens by id, excludes them from free text, and bounds the
    white space of JSON."""
    if not isinstance(form, Mapping):
        return form
    kind = form.get("type")
    if kind == "const_string" and isinstance(form.get("value"), str):
        return _spelled(form["value"], tokenizer)
    if kind == "any_text":
        return {**form, "excludes": [*form.get("excludes", ()), _MARK]}
    out = dict(form)
    if kind == "json_schema" and form.get("style", "json") == "json":
        out.setdefault("max_whitespace_cnt", most_blanks(form.get("json_schema")))
    if "content" in out:
        out["content"] = _format(out["content"], tokenizer)
    for inner in ("elements", "tags"):
        if isinstance(out.get(inner), list):
            out[inner] = [_format(one, tokenizer) for one in out[inner]]
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


def _line(error: BaseException | str) -> str:
    """What an error or a warning says, in one line, without the place in its library."""
    text = " ".join(str(error).split())
    text = text.partition(": ")[2] if text.startswith("[") and ".cc:" in text else text
    return text.partition(" is false: ")[2] or text if text.startswith("Check failed") else text
