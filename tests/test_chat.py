"""The dialogue: what it remembers, what it computes again, and how the command behaves."""

import os
import signal
import subprocess
import sys

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

import dsv4
from dsv4.chat import Chat, Reasoning, _pieces
from dsv4.generation import Completion
from dsv4.protocol.constants import END_THINK
from dsv4.sampling import Sampling
from dsv4.tokenizer import Tokenizer
from dsv4.train import bpe


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory):
    """Bytes, and the release's control tokens: 3 + 256 + 63 ids."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    first, last = bpe.control_tokens(Tokenizer.deepseek())
    names = [token.content for token in first] + alphabet
    backend = Backend(models.BPE({name: i for i, name in enumerate(names)}, []))
    released = Tokenizer.deepseek().backend
    backend.pre_tokenizer, backend.decoder = released.pre_tokenizer, released.decoder
    backend.add_special_tokens(first)
    backend.add_tokens(last)
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    backend.save(str(file))
    return file


@pytest.fixture(scope="module")
def tokenizer(tokenizer_file):
    return Tokenizer.load(tokenizer_file)


@pytest.fixture(scope="module")
def model(make_model, tokenizer):
    return make_model(spread=0.2, vocab_size=tokenizer.vocab_size)


def answer(chat, text):
    return "".join(piece.text for piece in chat.ask(text))


def test_a_kept_cache_says_what_a_fresh_one_says(model, tokenizer):
    sampling = Sampling(temperature=0, max_tokens=12)
    for effort in ("none", "high", "max"):
        kept, fresh = Chat(model, tokenizer, sampling), Chat(model, tokenizer, sampling)
        kept.effort = fresh.effort = effort
        for line in ("Hello", "What is that?", "And then?"):
            fresh.cache, fresh.cached = model.new_cache(1), []
            assert answer(kept, line) == answer(fresh, line)


def test_only_what_is_new_is_computed(model, tokenizer, monkeypatch):
    chat, fed = Chat(model, tokenizer, Sampling(temperature=0, max_tokens=5)), []
    streams = model.streams
    monkeypatch.setattr(
        model, "streams", lambda ids, *rest: fed.append(ids.shape[1]) or streams(ids, *rest)
    )
    answer(chat, "x" * 100)
    before = len(fed)
    answer(chat, "y")
    assert fed[0] > 100 and fed[before] < 50  # the reply may be spelled anew, the prompt is kept


def test_interrupting_keeps_what_was_said(model, tokenizer):
    chat, seen = Chat(model, tokenizer, Sampling(seed=1, max_tokens=50)), []
    for piece in chat.ask("Hello", interrupted=lambda: len(seen) >= 3):
        seen.append(piece.text)
    assert chat.messages[-1]["content"] == "".join(seen) and len(chat.messages) == 2
    chat.reset()
    assert not chat.messages and chat.cache.lengths == [0]


class Drawn:
    """A reply whose ids are known."""

    def __init__(self, ids):
        self.drawn, self.completion = ids, Completion([], "", "length")

    def ids(self):
        for token in self.drawn:
            self.completion.ids.append(token)
            yield token
        self.completion.finish_reason = "stop"


def test_a_stop_string_counts_in_the_answer_alone(model, tokenizer):
    chat = Chat(model, tokenizer, Sampling(stop="STOP"))
    chat.effort = "high"
    ids = [*tokenizer.encode("STOP?"), tokenizer.token_id(END_THINK)]
    reply = Drawn([*ids, *tokenizer.encode("Yes STOP no")])
    pieces = list(_pieces(chat._parser(), reply, tokenizer.stream()))
    assert "".join(piece.text for piece in pieces) == "STOP?Yes "
    assert reply.completion.finish_reason == "stop"
    assert reply.completion.ids == reply.drawn[: -len(" no")]


def test_reasoning_is_told_from_content(model, tokenizer):
    chat = Chat(model, tokenizer, Sampling())
    chat.effort = "high"
    ids = [*tokenizer.encode("I think."), tokenizer.token_id(END_THINK)]
    ids += tokenizer.encode("Yes. </think>\n")
    pieces = list(_pieces(chat._parser(), Drawn(ids), tokenizer.stream()))
    assert "".join(p.text for p in pieces if isinstance(p, Reasoning)) == "I think."
    assert "".join(p.text for p in pieces if not isinstance(p, Reasoning)) == "Yes. </think>\n"


def test_a_dialogue_past_the_context_is_refused_and_kept(make_model, tokenizer):
    model = make_model(vocab_size=tokenizer.vocab_size, max_position_embeddings=30)
    chat = Chat(model, tokenizer, Sampling(max_tokens=2))
    with pytest.raises(ValueError, match="the context is 30"):
        answer(chat, "x" * 40)
    assert not chat.messages and answer(chat, "x") is not None


@pytest.fixture(scope="module")
def folder(model, tokenizer_file, tmp_path_factory):
    path = tmp_path_factory.mktemp("chat") / "model"
    return dsv4.save(model.state_dict(), model.config, path, tokenizer_files=[tokenizer_file])


def command(*words):
    return [sys.executable, "-c", "from dsv4.cli import main; main()", *map(str, words)]


def run(*words, **options):
    return subprocess.run(
        command(*words), capture_output=True, text=True, env=environment(), **options
    )


def environment():
    source = os.pathsep.join(path for path in sys.path if path)
    return {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}


def test_the_command_reads_a_pipe_and_prints_plain_text(folder):
    lines = "Hello\n/effort max\n/effort huge\n/nonsense\n/reset\nHello\n/exit\nnot read\n"
    done = run("chat", folder, "--seed", 1, "--max-tokens", 4, input=lines)
    assert done.returncode == 0 and "\x1b" not in done.stdout
    assert "effort is max" in done.stdout and "the dialogue is forgotten" in done.stdout
    assert "effort = 'huge'" in done.stderr and "not read" not in done.stdout


def test_generate_repeats_with_a_seed(folder):
    first, again = (
        run("generate", folder, "--prompt", "ab", "--seed", 3, "--max-tokens", 6) for _ in range(2)
    )
    assert first.returncode == 0 and first.stdout == again.stdout and first.stdout.strip()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["chat", "no/such/folder"], "no/such/folder"),
        (["generate", "--top-p", "7"], "top_p = 7"),
        (["chat", "--effort", "huge"], "effort = 'huge'"),
        (["generate", "--mode", "exact"], "mode = 'exact' is for packed weights"),
        (["generate", "--dtype", "float16"], "dtype = 'float16'"),
    ],
)
def test_errors_are_one_line(words, message, folder):
    words = [words[0], folder, *words[1:]] if words[1].startswith("--") else words
    done = run(*words, input="")
    assert done.returncode == 2 and message in done.stderr and done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1


def test_ctrl_c_stops_a_reply_and_the_chat_goes_on(folder):
    process = subprocess.Popen(
        command("chat", folder, "--seed", 1, "--max-tokens", 3000),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    process.stdin.write(b"Hello\n")
    process.stdin.flush()
    assert process.stdout.read(1)  # the reply has begun
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(b"/reset\n", timeout=60)
    assert process.returncode == 0 and b"the dialogue is forgotten" in out
