"""Files that come with the package: mini-sd, a small Stable Diffusion trained on handwritten digits."""

from __future__ import annotations

from pathlib import Path


def mini_sd_path() -> Path:
    """Folder of mini-sd in diffusers format, as `FeatureExtractor.from_pretrained` takes it.

    mini-sd has the layout of Stable Diffusion (VAE, text encoder, UNet with four up blocks, noise schedule) at 32
    pixels. `tools/train_mini_sd.py` trained it; docs/mini-sd.md is its card.

    Returns
    -------
    Path

    Raises
    ------
    FileNotFoundError
        If this installation came without the weights.
    """
    folder = Path(__file__).resolve().parent / "mini_sd"
    for part in ("unet", "vae", "text_encoder"):
        if not any((folder / part).glob("*.safetensors")):
            raise FileNotFoundError(
                f"The weights of mini-sd are missing: {folder / part} holds no .safetensors file. "
                "Install revelio-fast from a wheel or a full checkout, or train the model with "
                "'python -m tools.train_mini_sd --out RUN' and give the folder RUN/model as the model."
            )
    return folder
