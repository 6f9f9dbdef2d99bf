"""Tiny models with random weights, on CUDA where there is one; every test draws from one seed."""

import pytest
import torch
from hypothesis import settings
from imitation import imitate
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from dsv4 import Config, Tokenizer, Transformer
from dsv4.data import bpe

torch.set_num_threads(2)
settings.register_profile("dsv4", deadline=None, max_examples=200, derandomize=True)
settings.register_profile("fuzz", deadline=None, max_examples=40_000)
settings.load_profile("dsv4")  # --hypothesis-profile=fuzz searches far


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def device():
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session")
def make_config():
    def make(**changes):
        values = {
            "vocab_size": 97,
            "hidden_size": 64,
            "num_hidden_layers": 5,
            "num_attention_heads": 4,
            "head_dim": 32,
            "qk_rope_head_dim": 16,
            "q_lora_rank": 32,
            "o_groups": 2,
            "o_lora_rank": 16,
            "sliding_window": 16,
            "compress_ratios": [0, 4, 128, 4, 128, 0],
            "index_n_heads": 16,
            "index_head_dim": 16,
            "index_topk": 8,
            "n_routed_experts": 8,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 32,
            "num_hash_layers": 2,
            "max_position_embeddings": 4096,
            "quantization_config": None,
            "expert_dtype": None,
            "torch_dtype": "float32",
        }
        return Config(**(values | changes))

    return make


@pytest.fixture(scope="session")
def make_model(make_config, device):
    """A model whose every weight is random, so that no part can hide behind a zero."""

    def make(seed=1, spread=0.1, **changes):
        model = Transformer(make_config(**changes))
        model.initialize(seed)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, tensor in (*model.named_parameters(), *model.named_buffers()):
                if not name.endswith(("freqs", "tid2eid")):
                    tensor += spread * torch.randn(tensor.shape, generator=generator)
        return model.to(device).eval()

    return make


@pytest.fixture(scope="session")
def make_ids(device):
    def make(batch, n, vocab=97, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(vocab, (batch, n), generator=generator).to(device)

    return make


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def dspark_folder(tmp_path_factory):
    """A checkpoint as of V4-Flash-0731, of nano's size: the draft is random."""
    return imitate(tmp_path_factory.mktemp("dspark") / "nano-0731")
