"""What a k-SAE training is told: `KSAEConfig`, each field checked with what is allowed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from revelio_fast.renamed import Renamed, renamed
from revelio_fast.settings import SEEDS, Settings, SettingsError, option

# What a recipe sets where the user does not. docs/training.md shows what each was chosen from.
RECIPES: dict[str, dict[str, Any]] = {
    "paper": {
        "lr": 4e-4,
        "warmup_steps": 500,
        "lr_decay": 0.0,
        "init": "tied",
        "loss": "fvu",
        "beta2": 0.999,
        "aux_k": 0,
    },
    "best": {
        "lr": None,  # by the width of the features, see `for_width`
        "warmup_steps": 50,
        "lr_decay": 0.0,
        "init": "tied",
        "loss": "fvu",
        "beta2": 0.999,
        "aux_k": 0,
    },
}
LR_BY_WIDTH = 0.03  # of recipe "best": times 1 / sqrt(d), for a step of Adam turns a unit row by up to lr sqrt(d)


@renamed(holdout="val_fraction", semantics=Renamed("compat", {"official": "authors"}))
@dataclass(frozen=True)
class KSAEConfig(Settings):
    """Settings of `train_ksae`; the defaults are the paper's (section 3 and appendix F) where it gives them.

    Parameters
    ----------
    k : int
        Active latents per row.
    expansion_factor : int
        Latents per feature dimension; ignored where `n_latents` is given.
    n_latents : int, optional
        Number of latents.
    steps : int
        Optimiser steps (the authors' code: 83,886,080 rows / 8192).
    batch_size : int
        Rows per step. With fewer rows than this, every step takes all of them.
    lr : float, optional
        Adam's learning rate after the warm-up. With recipe "best" and without a value it is None until `train_ksae`
        knows the width d of the features, and then 0.03 / sqrt(d).
    warmup_steps : int, optional
        Steps of linear warm-up; constant afterwards.
    engine : {"fused", "autograd"}
        What computes a step. "fused": one optimiser pass over the latents (`ops.adam_unit_norm_step_`). "autograd":
        `torch.optim.Adam` on the differentiable ops. Both compute the same numbers up to rounding.
    compat : {"paper", "authors"}
        "paper" trains as the paper says, "authors" as the authors' code does. With "paper" decoder rows have unit norm
        after every update, and the initialisation is tied. With "authors" rows are normalised before every step and not
        after the last one, the schedule is one step ahead (first learning rate 2 / warmup_steps), `b_pre` is the mean
        of one batch, the initialisation is theirs, short last batches are used, and statistics of dense pre-activations
        appear in the columns ``official_l0`` and ``official_dead``.
    seed : int
        Seed of the initialisation, the validation rows and the shuffling, each with random numbers of its own.
    relu : bool
        Clamp selected pre-activations at zero. Neither the paper's Eq. 3 nor the authors' code does.
    precision : {"fast", "fp32", "bf16"}
        Numerical mode of `ops.topk_encode` during training.
    aux_k : int
        Dead latents that rebuild the residual in the AuxK loss (Gao et al. 2024); 0 switches it off. By the recipe.
    aux_coefficient : float
        Weight of the AuxK loss.
    dead_after : int, optional
        A latent is dead after this many rows without being active; default: twice the data, at least 10 batches and at
        most 10 million, and with AuxK at most 50 batches, so that it begins in short runs, too.
    val_fraction : float, optional
        Share of the rows that is kept out of training to measure the held-out FVU, where no `validation` is given; at
        most 65,536 rows, and none where it would be fewer than 10. Default: 0.05, with `compat` "authors" 0.
    log_every : int
        Steps between history rows.
    eval_every : int
        Steps between held-out evaluations.
    checkpoint_every : int
        Steps between checkpoints.
    data : {"auto", "memory", "disk"}
        Where the rows of a store are taken from. "disk" reads each batch while the step before runs; "auto" holds a
        store that takes at most a third of the free memory. The numbers are the same bits.
    recipe : {"paper", "best"}
        Where `lr`, `warmup_steps`, `lr_decay`, `init`, `loss`, `beta2` and `aux_k` come from if they are not given.
        "paper": the paper's values, and the authors' code's where the paper is silent, but for a tied initialisation.
        "best": what had the lowest held-out FVU on real features; see docs/training.md. The values are filled in at
        once, so `dataclasses.replace` keeps them.
    lr_decay : float, optional
        Share of `steps` at the end over which the learning rate falls linearly to zero. A run with decay cannot be
        continued with more steps.
    init : {"tied", "scaled", "authors", "data"}, optional
        First weights. "tied": random unit decoder rows, the encoder equal to them. "scaled": the same, with the encoder
        times the one number that minimises the error of the first batch. "authors": the distributions of the authors'
        code, untied. "data": decoder rows are random training rows with noise, the encoder as for "scaled".
    loss : {"fvu", "root_fvu"}, optional
        What is minimised. The gradient of the square root is that of the FVU over twice the root: its size falls less
        as the fit improves.
    beta2 : float, optional
        Adam's second decay rate.
    """

    k: int = option(32, at_least=1)
    expansion_factor: int = option(64, at_least=1)
    n_latents: int | None = option(None, at_least=1)
    steps: int = option(10_240, at_least=1)
    batch_size: int = option(8192, at_least=1)
    lr: float | None = option(None, above=0)
    warmup_steps: int | None = option(None, at_least=0)
    engine: Literal["fused", "autograd"] = "fused"
    compat: Literal["paper", "authors"] = "paper"
    seed: int = option(0, at_least=0, below=SEEDS)
    relu: bool = False
    precision: Literal["fast", "fp32", "bf16"] = "fast"
    aux_k: int | None = option(None, at_least=0)
    aux_coefficient: float = option(1 / 32, at_least=0)
    dead_after: int | None = option(None, at_least=1)
    val_fraction: float | None = option(None, at_least=0, below=1)
    log_every: int = option(20, at_least=1)
    eval_every: int = option(200, at_least=1)
    checkpoint_every: int = option(1000, at_least=1)
    data: Literal["auto", "memory", "disk"] = "auto"
    recipe: Literal["paper", "best"] = "paper"
    lr_decay: float | None = option(None, at_least=0, below=1)
    init: Literal["tied", "scaled", "authors", "data"] | None = None
    loss: Literal["fvu", "root_fvu"] | None = None
    beta2: float | None = option(None, at_least=0, below=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._fill_in()
        if self.n_latents is not None and self.k > self.n_latents:
            raise SettingsError({"k": f"k must not exceed n_latents = {self.n_latents}, got {self.k}"})

    def _fill_in(self) -> None:
        """Give the fields that were left to the recipe their values."""
        official = self.compat == "authors"
        if official and self.recipe != "paper":
            raise ValueError(
                f"recipe={self.recipe!r} and compat='authors' contradict each other: leave one of the two out, and "
                "give the fields that you want to change"
            )
        values = RECIPES[self.recipe] | {"val_fraction": 0.0 if official else 0.05}
        if official:
            values["init"] = "authors"
        left = [name for name in values if getattr(self, name) is None]
        object.__setattr__(self, "_left_to_the_recipe", left)
        for name in left:
            object.__setattr__(self, name, values[name])

    def changed(self, **changes: Any) -> KSAEConfig:
        """The settings with some fields changed; what was left to the recipe follows from the new fields.

        `dataclasses.replace` keeps the values that the recipe has filled in.
        """
        return replace(self, **dict.fromkeys(vars(self)["_left_to_the_recipe"]) | changes)

    def numbers(self) -> dict[str, Any]:
        """The settings that a run's numbers follow from, by name: all but where its rows are taken from."""
        return {name: value for name, value in asdict(self).items() if name != "data"}

    def latents(self, d: int) -> int:
        """Number of latents for features of width `d`."""
        n = self.n_latents if self.n_latents is not None else self.expansion_factor * d
        if self.k > n:
            raise ValueError(f"k must not exceed the {n} latents ({self.expansion_factor} x width {d}), got {self.k}")
        return n

    @property
    def betas(self) -> tuple[float, float]:
        """Adam's decay rates."""
        assert self.beta2 is not None, "filled in by __post_init__"
        return 0.9, self.beta2

    def for_width(self, d: int) -> KSAEConfig:
        """The same settings with the learning rate that the recipe leaves to the width `d` of the features."""
        return self if self.lr is not None else replace(self, lr=LR_BY_WIDTH / math.sqrt(d))

    def lr_at(self, step: int) -> float:
        """Learning rate of the step with this number, counted from 1."""
        ahead = 1 if self.compat == "authors" else 0
        lr, warmup, decay = self.lr, self.warmup_steps, self.lr_decay
        assert lr is not None and warmup is not None and decay is not None, "for_width() comes first"
        lr *= min(1.0, (step + ahead) / max(1, warmup))
        return lr * min(1.0, (self.steps - step + 1) / (decay * self.steps)) if decay else lr

    def dead_rows(self, batch_size: int, rows: int) -> int:
        """Rows without being active after which a latent is dead, for batches of this size from so many rows."""
        if self.dead_after is not None:
            return self.dead_after
        most = min(10_000_000, 50 * batch_size) if self.aux_k else 10_000_000
        return min(most, max(10 * batch_size, 2 * rows))
