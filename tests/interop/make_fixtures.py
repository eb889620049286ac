"""Makes tests/interop/fixtures/: small files that the real libraries wrote, and what those libraries compute of them.

    REVELIO_PEER_CHECKOUTS=FOLDER .venv-interop/bin/python -m tests.interop.make_fixtures

FOLDER has checkouts of the repositories `sparse_autoencoder` (OpenAI's), `sdxl-unbox` and `revelio`, each with its
commit in a file COMMIT. Versions and commits go into fixtures/versions.json. Run it again only when a library's format
changes.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.interop.peers import MAKERS, features, folder_of

FIXTURES = Path(__file__).parent / "fixtures"
D, N, K = 8, 16, 10  # about half of the pre-activations are positive: some rows have fewer than K
DISTRIBUTIONS = ("torch", "sae-lens", "eai-sparsify", "dictionary-learning", "overcomplete")
REPOSITORIES = ("sparse_autoencoder", "sdxl-unbox", "revelio")


def main() -> None:
    """Make every fixture anew."""
    shutil.rmtree(FIXTURES, ignore_errors=True)
    x = features(D)
    for name, make in MAKERS.items():
        folder = FIXTURES / name
        with contextlib.redirect_stdout(io.StringIO()):
            made = make(folder / "saved", D, N, K)
        expected = {"x": x, "z": made.encode(x), "x_hat": made.forward(x)}
        save_file({key: tensor.contiguous() for key, tensor in expected.items()}, folder / "expected.safetensors")
        about = {"path": str(made.path.relative_to(folder)), "options": made.options or {}}
        (folder / "about.json").write_text(json.dumps(about, indent=2) + "\n")
        print(name)
    versions = {name: importlib.metadata.version(name) for name in DISTRIBUTIONS}
    versions |= {name: (folder_of(name) / "COMMIT").read_text().strip() for name in REPOSITORIES}
    (FIXTURES / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
