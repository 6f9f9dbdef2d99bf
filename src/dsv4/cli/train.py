"""`dsv4 train`: text → tokens → a trained model in the released layout."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Annotated

import typer

from dsv4.cli.errors import one_line_errors
from dsv4.cli.options import Threads, set_threads
from dsv4.cli.streams import say
from dsv4.config import Config
from dsv4.train.settings import Settings

DEFAULT = Settings()


def train(
    out: Annotated[Path, typer.Argument(help="Folder of the run; the model goes to OUT/model.")],
    preset: Annotated[str, typer.Option(help="nano, or another preset.")] = "nano",
    config: Annotated[Path | None, typer.Option(help="A config.json instead of a preset.")] = None,
    minutes: Annotated[float, typer.Option(help="About how long to train.")] = DEFAULT.minutes,
    steps: Annotated[int, typer.Option(help="Train exactly so many steps instead.")] = 0,
    batch: Annotated[int, typer.Option(help="Rows a step.")] = DEFAULT.batch,
    seq_len: Annotated[int, typer.Option(help="Tokens a row.")] = DEFAULT.seq_len,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = DEFAULT.lr,
    seed: Annotated[int, typer.Option(help="Weights, order of the text.")] = DEFAULT.seed,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in OUT.")] = False,
    threads: Threads = None,
) -> None:
    """Train a small model on simple English (fetched once, 145 MB)."""
    from dsv4.checkpoint.folder import TOKENIZER_FILES
    from dsv4.checkpoint.official import save
    from dsv4.train.pretrain import Run

    set_threads(threads)
    with one_line_errors():
        model_config = Config.from_preset(preset) if config is None else Config.load(config)
        settings = Settings(
            steps=steps, minutes=minutes, batch=batch, seq_len=seq_len, lr=lr, seed=seed
        )
        if not resume and (out / "state.pt").exists():
            raise FileExistsError(f"{out} holds a run: --resume continues it, or name a new folder")
        folder = prepare(out / "data", model_config)
        run = Run(model_config, settings, folder, out)
        if resume:
            run.resume()
        if run.train():
            files = [folder / name for name in TOKENIZER_FILES]
            path = out / "model"
            save(run.model.state_dict(), model_config, path, tokenizer_files=files, overwrite=True)
            say(f"wrote {path}; talk to it with: dsv4 chat {path}")


def prepare(folder: Path, config: Config) -> Path:
    """Tokenizer and token files of the corpus in `folder`, made unless they are there already."""
    from dsv4.tokenizer import Tokenizer
    from dsv4.train import bpe, corpus, data

    if (folder / "tokens.json").is_file():
        return folder
    say("fetching the text (145 MB, once)")
    documents = list(corpus.documents(corpus.fetch()))
    random.Random(0).shuffle(documents)
    say(f"{len(documents)} documents; training the tokenizer")
    texts = (f"{document.text}\n{document.answer or ''}" for document in documents)
    tokenizer = bpe.train_bpe(texts, config.vocab_size)
    bpe.save_bpe(tokenizer, folder, config.max_position_embeddings)
    data.write_tokens(documents, Tokenizer(tokenizer), folder)
    counts = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
    say(f"{counts['train']['tokens']} training tokens in {folder}")
    return folder
