"""Measure mini-sd and write its card (about five minutes on one core).

    python -m tools.evaluate_mini_sd --model DIR --json docs/mini-sd.json --sheet docs/images/mini_sd_samples.png

The card is written next to the JSON file, as Markdown. Its section on training is that of DIR/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path

import torch

from revelio_fast.atomic import atomic_path
from tools.mini_sd import card, measures


def main(arguments: list[str] | None = None) -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="model folder in diffusers format")
    parser.add_argument("--json", type=Path, required=True, help="file for the figures; the card goes next to it")
    parser.add_argument("--sheet", type=Path, required=True, help="PNG for the samples")
    parser.add_argument("--train-per-class", type=int, default=450, help="digits of a class to fit probes on")
    parser.add_argument("--test-per-class", type=int, default=50, help="held-out digits of a class")
    parser.add_argument("--zero-shot-per-class", type=int, default=20, help="held-out digits of a class")
    parser.add_argument("--samples", type=int, default=6, help="samples of a caption")
    parser.add_argument("--steps", type=int, default=50, help="DDIM steps")
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    figures, image = evaluate(options)
    for path in (options.json, options.sheet):
        path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(options.json) as temporary:
        Path(temporary).write_text(json.dumps(figures, indent=1) + "\n")
    image.save(options.sheet)
    training = card.section(options.model / "README.md", "Training")
    link = os.path.relpath(options.sheet, options.json.parent)
    options.json.with_suffix(".md").write_text(card.card(figures, training, link))
    print(f"figures in {options.json}, card in {options.json.with_suffix('.md')}, samples in {options.sheet}")


def evaluate(options: argparse.Namespace) -> tuple[dict, card.Image.Image]:
    """All figures and the sample sheet."""
    pipeline = measures.load_pipeline(options.model)
    train = measures.load_digits("train", options.train_per_class)
    test = measures.load_digits("test", options.test_per_class)
    prompts = [*measures.CAPTIONS, ""]
    drawn = measures.sample(
        pipeline,
        [prompt for prompt in prompts for _ in range(options.samples)],
        steps=options.steps,
        guidance=options.guidance,
        seed=options.seed,
    )
    groups = [drawn[i : i + options.samples] for i in range(0, len(drawn), options.samples)]
    captioned = drawn[: -options.samples]
    meant = torch.arange(10).repeat_interleave(options.samples)
    print("samples drawn", flush=True)
    figures = {
        "machine": f"{torch.get_num_threads()} thread(s) of {processor()}, torch {torch.__version__}",
        "parameters": {
            name: sum(p.numel() for p in getattr(pipeline, name).parameters())
            for name in ("vae", "unet", "text_encoder")
        },
        "test_images": len(test.images),
        "samples": {
            "steps": options.steps,
            "guidance": options.guidance,
            "seed": options.seed,
            "recognised": measures.recognised(captioned, meant, train),
        },
        "vae_error": measures.reconstruction(pipeline, test),
        "denoising": measures.denoising(pipeline, test),
    }
    print("denoising measured", flush=True)
    figures["zero_shot"] = measures.zero_shot(pipeline, measures.load_digits("test", options.zero_shot_per_class))
    print("captions compared", flush=True)
    figures["probes"] = measures.probes(pipeline, options.model, train, test)
    return figures, card.sheet(list(zip(prompts, groups, strict=True)))


def processor() -> str:
    """The processor's name where the system tells it, its architecture otherwise."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
