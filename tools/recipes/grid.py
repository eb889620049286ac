"""The settings that are tried: `STAGES`, each a set of tasks and of named fields of `KSAEConfig`."""

from __future__ import annotations

from typing import Any, NamedTuple

from tools.recipes.tasks import CHECKED_ON, CHOSEN_ON, WIDE

SEEDS = 3
PAPER: dict[str, Any] = {"recipe": "paper"}
AUTHORS: dict[str, Any] = {"compat": "authors"}
# Every setting is given in words, so that what a recipe means later changes no record.
START: dict[str, Any] = dict(lr=4e-3, warmup_steps=50, lr_decay=0.0, init="tied", loss="fvu", beta2=0.999, aux_k=0)
# The learning rate by the width of the features, as the recipe has it; the record holds its value.
BY_WIDTH = {name: value for name, value in START.items() if name != "lr"} | {"recipe": "best"}


class Stage(NamedTuple):
    """Settings by the name of their line in the table, and the tasks they are tried on."""

    tasks: tuple[str, ...]
    settings: dict[str, dict[str, Any]]


STAGES = {
    "lr": Stage(
        CHOSEN_ON,
        {"paper": PAPER, "authors": AUTHORS} | {f"lr {lr:g}": START | {"lr": lr} for lr in (1e-3, 2e-3, 4e-3, 8e-3)},
    ),
    "knobs": Stage(
        CHOSEN_ON,
        {
            "lr 0.004": START,
            "init scaled": START | {"init": "scaled"},
            "init authors": START | {"init": "authors"},
            "init data": START | {"init": "data"},
            "loss root_fvu": START | {"loss": "root_fvu"},
            "beta2 0.99": START | {"beta2": 0.99},
            "lr_decay 0.3": START | {"lr_decay": 0.3},
            "aux_k 32": START | {"aux_k": 32},
        },
    ),
    "width": Stage(
        WIDE,
        {"paper": PAPER} | {f"lr {lr:g}": START | {"lr": lr} for lr in (1e-3, 2e-3, 4e-3, 8e-3)},
    ),
    "combined": Stage(
        CHOSEN_ON,
        {
            "lr by width": BY_WIDTH,
            "lr by width, lr_decay 0.3": BY_WIDTH | {"lr_decay": 0.3},
            "lr by width, lr_decay 0.3, aux_k 32": BY_WIDTH | {"lr_decay": 0.3, "aux_k": 32},
        },
    ),
    "check": Stage(
        CHECKED_ON,
        {
            "paper": PAPER,
            "lr by width": BY_WIDTH,
        },
    ),
}
