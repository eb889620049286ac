"""Train mini-sd, a small Stable Diffusion, on the digits or on your own pictures (about 45 minutes on one core).

    python -m tools.train_mini_sd --out mini-sd-run
    python -m tools.train_mini_sd --out my-run --source photos/ --caption "a photo of a {}"

A killed run goes on where it was when the command is repeated. `--export` writes the averaged weights so far and stops.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from tools.mini_sd import data, design, training


def main(arguments: list[str] | None = None) -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and for the model, OUT/model")
    parser.add_argument("--source", default="digits", help="'digits', a folder of class folders, a CSV, or a data set")
    parser.add_argument("--split", default=None, help="split of the source; the digits default to 'train'")
    parser.add_argument("--caption", default="a handwritten {}", help="caption of a class, {} being its name")
    parser.add_argument("--vae-steps", type=int, default=1200)
    parser.add_argument("--steps", type=int, default=3500, help="steps of the denoiser")
    parser.add_argument("--batch", type=int, default=64, help="rows of a denoiser step")
    parser.add_argument("--threads", type=int, default=None, help="threads torch may use (default: its own choice)")
    parser.add_argument("--export", action="store_true", help="write the model from the last checkpoint and stop")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    missing = [name for name in ("vae.pt", "denoiser.pt") if not (options.out / name).exists()]
    if options.export and missing:
        parser.error(f"--export needs the checkpoints of a run, but {options.out} has no {' and no '.join(missing)}.")
    options.out.mkdir(parents=True, exist_ok=True)
    split = options.split or ("train" if options.source == "digits" else None)
    images = data.load(options.source, split, options.caption)
    print(f"{len(images.images)} images, {len(images.captions)} captions such as {images.captions[0]!r}", flush=True)

    vae, unet = design.build_vae(), design.build_unet()
    tokenizer = design.build_tokenizer(images.captions)
    text_encoder = design.build_text_encoder(tokenizer)
    vae_steps, steps = (0, 0) if options.export else (options.vae_steps, options.steps)
    training.train_vae(vae, images, options.out, vae_steps)
    training.train_denoiser(
        unet, text_encoder, tokenizer, vae, design.build_scheduler(), images, options.out, steps, options.batch
    )
    pipeline = design.assemble(vae, unet, text_encoder, tokenizer)
    # transformers would load a float16 text encoder as such next to diffusers' float32 UNet; it is small anyway.
    pipeline.vae.half()
    pipeline.unet.half()
    # Shards keep every file small enough to review and to fetch.
    pipeline.save_pretrained(options.out / "model", max_shard_size="3500KB")
    print(f"model written to {options.out / 'model'}", flush=True)


if __name__ == "__main__":
    main()
