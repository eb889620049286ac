"""Builds a pipeline folder with random weights: a stand-in where the real model cannot be had.

    python -m tools.make_random_model sd15 /tmp/sd15
    python -m tools.make_random_model dit /tmp/dit --size tiny

The folder has the layout and, at size ``real``, the layer shapes of the published model (sd15: UNet 860 M parameters,
VAE 84 M, CLIP text encoder 123 M; bf16), so that time and memory can be measured. Its features mean nothing. Without
a download there is no vocabulary: the tokenizers know single bytes or characters only.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from tools.random_model.configs import PIPELINES
from tools.random_model.tokenizers import save_clip_tokenizer, save_t5_tokenizer

OPTIONAL = {
    "StableDiffusionPipeline": ("safety_checker", "feature_extractor", "image_encoder"),
    "StableDiffusionXLPipeline": ("feature_extractor", "image_encoder"),
    "IFPipeline": ("safety_checker", "feature_extractor", "watermarker"),
    "StableDiffusion3Pipeline": ("feature_extractor", "image_encoder"),
    "FluxPipeline": ("feature_extractor", "image_encoder"),
}
TOKENIZERS = {"CLIPTokenizer": save_clip_tokenizer, "T5Tokenizer": save_t5_tokenizer}


def save_random_model(
    family: str,
    folder: str | Path,
    size: str = "real",
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
    **changes: dict[str, Any],
) -> Path:
    """Write a pipeline folder with random weights.

    Parameters
    ----------
    family : str
        A key of `PIPELINES`: ``"sd15"``, ``"sdxl"``, ``"dit"`` ...
    folder : path
    size : {"real", "tiny"}
        Some families are tiny only.
    dtype : torch.dtype
        Of the weights.
    seed : int
    **changes : dict
        By part: arguments of its configuration to put in or change, e.g. ``unet={"sample_size": 16}``.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ValueError
        If the family has no such size.
    """
    class_name, sizes = PIPELINES[family]
    if size not in sizes:
        raise ValueError(f"{family} has the sizes {', '.join(sizes)}, not {size!r}.")
    folder = Path(folder)
    index: dict[str, Any] = {"_class_name": class_name}
    torch.manual_seed(seed)
    for name, (kind, config) in sizes[size].items():
        library = _save_part(kind, {**config, **changes.get(name, {})}, folder / name, dtype)
        index[name] = [library, kind]
    index |= {name: [None, None] for name in OPTIONAL.get(class_name, ())}
    if "safety_checker" in index:
        index["requires_safety_checker"] = False
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    return folder


def _save_part(kind: str, config: dict[str, Any], folder: Path, dtype: torch.dtype) -> str:
    """Write one part; returns the library its class comes from."""
    import diffusers
    import transformers

    if kind in TOKENIZERS:
        TOKENIZERS[kind](folder, config["length"])
        return "transformers"
    library = "diffusers" if hasattr(diffusers, kind) else "transformers"
    made: Any = getattr(diffusers if library == "diffusers" else transformers, kind)
    before = torch.get_default_dtype()
    # Under the default dtype nothing is built in float32 first: 2.3 instead of 3.6 GiB at the peak for sd15.
    torch.set_default_dtype(dtype)
    try:
        part = made(made.config_class(**config)) if library == "transformers" else made(**config)
    finally:
        torch.set_default_dtype(before)
    part.save_pretrained(folder)
    return library


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("family", choices=sorted(PIPELINES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=("real", "tiny"), default="real")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        print(f"wrote {save_random_model(arguments.family, arguments.folder, arguments.size, seed=arguments.seed)}")
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
