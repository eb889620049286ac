"""The demo: the whole pipeline on the embedded mini-sd and the digits, offline, sized for two cores."""

from __future__ import annotations

import os

from revelio_fast.config import RunConfig, parse_config
from revelio_fast.pipeline import RunResult, run

SETTINGS = """
model: mini-sd
source: {spec: digits, split: train, test_split: test, limit: 2000}
layers: [bottleneck, up_ft0, up_ft1, up_ft2]
timesteps: [25, 200]
batch_size: 50
sae:
  {expansion_factor: 8, k: 16, steps: 300, batch_size: 500, warmup_steps: 50, lr: 0.002, log_every: 10, eval_every: 50}
purity: {permutations: 200, bootstrap: 200}
diffc: {layers: [up_ft1], timesteps: [25], width: 48, epochs: 6, lr: 0.001, lr_min: 0.0005, augmentation: none}
report: {title: "Demo: mini-sd on handwritten digits", sheets: 3}
"""


def demo_config(out: str | os.PathLike[str] = "revelio-demo", model: str = "mini-sd") -> RunConfig:
    """The demo's settings: 2,000 digits to learn from and 500 to test on; a small k-SAE and a small Diff-C.

    Digits must not be mirrored, so Diff-C trains without flips.
    """
    return parse_config(SETTINGS, "demo", [f"out_dir={os.fspath(out)!r}", f"model={model!r}"])


def run_demo(
    out: str | os.PathLike[str] = "revelio-demo", *, model: str = "mini-sd", progress: bool = True
) -> RunResult:
    """Run the demo into the folder `out`; a second run skips what is done.

    Parameters
    ----------
    out : path
    model : str
        Another model folder, for trying it on the digits.
    progress : bool
        Print the stages and progress bars to stderr.
    """
    return run(demo_config(out, model), progress=progress)
