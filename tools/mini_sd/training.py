"""The two training loops of mini-sd: autoencoder first, then denoiser and text encoder on its latents."""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from revelio_fast.atomic import atomic_path
from tools.mini_sd.data import Captioned, shifted, to_unit
from tools.mini_sd.design import embed

SHIFTS = [(0, 0), (-2, -1), (2, 1), (-1, 2), (1, -2)]
SAVE_EVERY = 250  # steps


class Progress:
    """What a killed run goes on from: parameters, optimiser, averages, step and random state in one file."""

    def __init__(self, path: Path, modules: dict[str, nn.Module], optimiser: torch.optim.Optimizer) -> None:
        self.path, self.modules, self.optimiser = path, modules, optimiser
        self.average = {name: {k: v.clone() for k, v in m.state_dict().items()} for name, m in modules.items()}
        self.generator = torch.Generator().manual_seed(0)
        self.step = 0

    def load(self) -> None:
        """Continue from the file, if there is one."""
        if not self.path.exists():
            return
        saved = torch.load(self.path, weights_only=True)
        for name, module in self.modules.items():
            module.load_state_dict(saved["modules"][name])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.average, self.step = saved["average"], saved["step"]
        self.generator.set_state(saved["generator"])
        print(f"continuing {self.path.name} at step {self.step}", flush=True)

    def save(self) -> None:
        """Write the file whole or not at all."""
        state = {
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "optimiser": self.optimiser.state_dict(),
            "average": self.average,
            "step": self.step,
            "generator": self.generator.get_state(),
        }
        with atomic_path(self.path) as temporary:
            torch.save(state, temporary)

    def follow(self, decay: float) -> None:
        """Move the averages towards the parameters; early steps weigh more."""
        decay = min(decay, (1 + self.step) / (10 + self.step))
        for name, module in self.modules.items():
            for key, value in module.state_dict().items():
                if value.is_floating_point():
                    self.average[name][key].lerp_(value, 1 - decay)

    def use_average(self) -> None:
        """Put the averages into the modules."""
        for name, module in self.modules.items():
            module.load_state_dict(self.average[name])


def cosine(step: int, steps: int, warmup: int = 200) -> float:
    """Share of the learning rate at `step`: linear warm-up, then half a cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


def train_vae(vae, data: Captioned, out: Path, steps: int, batch: int = 32, lr: float = 1e-3) -> None:
    """Absolute error plus a slight KL; afterwards `scaling_factor` makes the latents' standard deviation 1."""
    optimiser = torch.optim.AdamW(vae.parameters(), lr=lr)
    progress = Progress(out / "vae.pt", {"vae": vae}, optimiser)
    progress.load()
    started, images = time.time(), to_unit(data.images)
    first = progress.step
    while progress.step < steps:
        for group in optimiser.param_groups:
            group["lr"] = lr * cosine(progress.step, steps)
        x = images[torch.randint(len(images), (batch,), generator=progress.generator)]
        posterior = vae.encode(x).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=progress.generator)
        restored = vae.decode(posterior.mean + posterior.std * noise).sample
        error = F.l1_loss(restored, x)
        loss = error + 1e-4 * posterior.kl().mean() / posterior.mean[0].numel() * 16
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        progress.step += 1
        progress.follow(0.99)
        report(progress, steps, started, f"vae: absolute error {error.item():.4f}")
    if progress.step > first:
        progress.save()
    progress.use_average()
    vae.eval()
    vae.register_to_config(scaling_factor=1.0 / encode(vae, data.images[:1000], scale=1.0).std().item())


@torch.no_grad()
def encode(vae, images: Tensor, scale: float | None = None) -> Tensor:
    """Latent modes times the scaling factor."""
    scale = vae.config.scaling_factor if scale is None else scale
    return torch.cat([vae.encode(to_unit(chunk)).latent_dist.mode() for chunk in images.split(250)]) * scale


def train_denoiser(
    unet, text_encoder, tokenizer, vae, scheduler, data: Captioned, out: Path, steps: int, batch: int = 64,
    lr: float = 6e-4, drop: float = 0.5,
) -> None:  # fmt: skip
    """The usual noise prediction; a caption is replaced by the empty one with probability `drop`."""
    latents = torch.stack([encode(vae, shifted(data.images, *shift)) for shift in SHIFTS])
    captions = [*data.captions, ""]
    parameters = [*unet.parameters(), *text_encoder.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=lr, weight_decay=1e-3)
    progress = Progress(out / "denoiser.pt", {"unet": unet, "text_encoder": text_encoder}, optimiser)
    progress.load()
    generator, started, smooth = progress.generator, time.time(), None
    first = progress.step
    while progress.step < steps:
        for group in optimiser.param_groups:
            group["lr"] = lr * cosine(progress.step, steps)
        rows = torch.randint(latents.shape[1], (batch,), generator=generator)
        z = latents[torch.randint(len(SHIFTS), (batch,), generator=generator), rows]
        noise = torch.randn(z.shape, generator=generator)
        t = torch.randint(scheduler.config.num_train_timesteps, (batch,), generator=generator)
        dropped = torch.rand(batch, generator=generator) < drop
        which = torch.where(dropped, len(captions) - 1, data.labels[rows])
        states = embed(text_encoder, tokenizer, captions)[which]
        predicted = unet(scheduler.add_noise(z, noise, t), t, states).sample
        loss = F.mse_loss(predicted, noise)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        progress.step += 1
        progress.follow(0.999)
        smooth = loss.item() if smooth is None else 0.99 * smooth + 0.01 * loss.item()
        report(progress, steps, started, f"denoiser: loss {smooth:.4f}")
    if progress.step > first:
        progress.save()
    progress.use_average()


def report(progress: Progress, steps: int, started: float, text: str) -> None:
    """Print now and then, and save."""
    if progress.step % 50 == 0 or progress.step == steps:
        print(f"step {progress.step}/{steps}  {text}  {time.time() - started:.0f} s", flush=True)
    if progress.step % SAVE_EVERY == 0:
        progress.save()
