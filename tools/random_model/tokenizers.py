"""Tokenizers that need no download: single bytes in CLIP's format, single characters in T5's."""

from __future__ import annotations

import json
import string
from pathlib import Path

CLIP_START, CLIP_END = 512, 513


def save_clip_tokenizer(folder: Path, length: int) -> None:
    """A CLIPTokenizer without merges: each byte of the prompt is a token; ids 0 .. 513."""
    folder.mkdir(parents=True, exist_ok=True)
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]
    start, end = "<|startoftext|>", "<|endoftext|>"
    words = [*letters, *(letter + "</w>" for letter in letters), start, end]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": length,
        "bos_token": start,
        "eos_token": end,
        "unk_token": end,
        "pad_token": end,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def save_t5_tokenizer(folder: Path, length: int) -> None:
    """A T5Tokenizer whose pieces are printable ASCII characters; ids 0 .. 197."""
    from transformers import T5Tokenizer

    letters = [*string.digits, *string.ascii_letters, *string.punctuation]
    pieces = ["<pad>", "</s>", "<unk>", "▁", *letters, *(f"<extra_id_{i}>" for i in range(99, -1, -1))]
    T5Tokenizer([(piece, 0.0) for piece in pieces], model_max_length=length).save_pretrained(folder)
