"""llama.cpp converts the checkpoints that dsv4 writes, generates, and prefers the same tokens.

Needs DSV4_LLAMA_CPP, a source folder of llama.cpp with its tools built in build/bin (see
docs/llama_cpp.md). Both sides see the same ids; where their greedy tokens differ, the gap between
dsv4's two best logits must be within what llama.cpp's own roundings move: it stores FP8 weights as
Q8_0 and rounds activations to 8 bits, the attention's operands to 16.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import dsv4
from dsv4.checkpoint.folder import TOKENIZER_FILES
from dsv4.checkpoint.load import packaged

ROOT = Path(__file__).parents[2]
CONTEXT = 512  # 128 CSA entries, of which the indexer chooses 64; 4 HCA entries
FIRST = CONTEXT // 2  # llama-perplexity writes the second half

pytestmark = pytest.mark.skipif(
    "DSV4_LLAMA_CPP" not in os.environ, reason="DSV4_LLAMA_CPP names no llama.cpp"
)


def tool(name, *arguments):
    """Run one of llama.cpp's programs; its stdout."""
    program = Path(os.environ["DSV4_LLAMA_CPP"]) / "build/bin" / name
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, check=True)
    return done.stdout.decode(errors="replace")


@pytest.fixture(scope="module", params=["nano", "random"])
def checkpoint(request, make_model, tmp_path_factory):
    """The packaged trained model, or one of its shape whose every weight is random."""
    if request.param == "nano":
        return packaged()
    config = dsv4.Config.from_preset("nano")
    model = make_model(seed=3, spread=0.05, **config.to_dict()).cpu()
    files = [packaged() / name for name in TOKENIZER_FILES]
    out = tmp_path_factory.mktemp("random") / "checkpoint"
    return dsv4.save(model.state_dict(), config, out, tokenizer_files=files)


@pytest.fixture
def bounds(checkpoint):
    """How far llama.cpp's roundings may move log-probabilities, in their standard deviations, and
    the share of equal greedy tokens: in a random model all gaps are small, and they amplify."""
    trained = checkpoint == packaged()
    return {"deviation": 0.05, "same": 0.98} if trained else {"deviation": 0.2, "same": 0.75}


@pytest.fixture(scope="module")
def gguf(checkpoint, tmp_path_factory):
    """The checkpoint as llama.cpp's own converter writes it."""
    out = tmp_path_factory.mktemp("gguf") / "model.gguf"
    command = [sys.executable, ROOT / "benchmarks/to_gguf.py", os.environ["DSV4_LLAMA_CPP"]]
    subprocess.run([*map(str, command), str(checkpoint), str(out)], check=True)
    return out


def read_log_probs(file):
    """What llama-perplexity saved of one chunk: ids [CONTEXT], log-probabilities [rows, vocab].

    They are cut off 16 below the best and stored as 16-bit steps from there.
    """
    data = file.read_bytes()
    assert data[:8] == b"_logits_"
    context, vocab, chunks = np.frombuffer(data, np.int32, 3, offset=8)
    assert (context, chunks) == (CONTEXT, 1)
    ids = np.frombuffer(data, np.int32, CONTEXT, offset=20)
    width = 2 * ((vocab + 1) // 2) + 4  # two floats as four 16-bit words, then the steps
    rows = np.frombuffer(data, np.uint16, offset=20 + 4 * CONTEXT).reshape(-1, width)
    scale, least = rows[:, :4].copy().view(np.float32).T[..., None]  # [rows, 1] each
    return torch.from_numpy(ids.copy()), torch.from_numpy(rows[:, 4 : 4 + vocab] * scale + least)


def test_the_same_greedy_tokens_up_to_roundings(checkpoint, gguf, bounds, tmp_path):
    text, saved = ROOT / "docs/architecture.md", tmp_path / "logits.bin"
    tool(
        "llama-perplexity", "-m", gguf, "-f", text, "-c", CONTEXT, "-b", CONTEXT, "--chunks", 1,
        "-t", 2, "--save-all-logits", saved,
    )  # fmt: skip
    ids, theirs = read_log_probs(saved)
    with torch.inference_mode():
        logits = dsv4.load(checkpoint, dtype=torch.float32)(ids[None].long())[0]
    ours = logits.log_softmax(-1)[FIRST : CONTEXT - 1]  # [rows, vocab]
    assert ours.shape == theirs.shape
    near = theirs > theirs.max(-1, keepdim=True).values - 10
    deviation = (ours - theirs)[near].square().mean().sqrt()
    assert deviation <= bounds["deviation"] * ours[near].std()
    best, second = ours.topk(2).values.unbind(-1)
    same = ours.argmax(-1) == theirs.argmax(-1)
    assert same.float().mean() >= bounds["same"]
    assert ((best - second)[~same] <= 5 * deviation).all()


def test_generates(checkpoint, gguf):
    prompt, steps = "<｜begin▁of▁sentence｜>Once upon a time", 24
    text = tool("llama-simple", "-m", gguf, "-n", steps, prompt)
    assert text.startswith(prompt) and len(text.strip()) > len(prompt)
    if checkpoint != packaged():  # random tokens end in the midst of characters
        return
    tokenizer, model = dsv4.Tokenizer.load(checkpoint), dsv4.load(checkpoint, dtype=torch.float32)
    ids = tokenizer.encode(prompt, special=True)
    for _ in range(steps):
        with torch.inference_mode():
            logits = model(torch.tensor([ids]))[0, -1]
        best, second = logits.topk(2).values
        ids.append(int(logits.argmax()))
        if ids[-1] == model.config.eos_token_id:
            break
        if not text.startswith(tokenizer.decode(ids)):  # from here each goes on by itself
            assert best - second <= 0.15
            break
