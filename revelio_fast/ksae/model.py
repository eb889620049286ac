"""The k-sparse autoencoder as a module (Revelio, Eqs. 3-5).

z = TopK(W_enc (x - b_pre) + b_enc) and x_hat = W_dec^T z + b_pre.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from revelio_fast import ops
from revelio_fast.atomic import atomic_path, atomic_write_json

FORMAT = "revelio_fast.ksae/1"
WEIGHTS, CONFIG = "model.safetensors", "config.json"


class KSAEOutput(NamedTuple):
    """Result of a forward pass: reconstruction ``[B, d]``, code, and the fraction of variance unexplained (scalar)."""

    x_hat: Tensor
    code: ops.Code
    loss: Tensor


class KSparseAutoencoder(nn.Module):
    """k-sparse autoencoder with weights held as rows, one latent a row.

    A new model is tied: encoder rows start as copies of the decoder's random unit rows, which leaves fewer latents dead
    than independent rows do (Gao et al. 2024, section 2.4).

    Parameters
    ----------
    d_in : int
        Width of a feature.
    expansion_factor : int
        Latents per feature dimension.
    k : int
        Active latents per row.
    n_latents : int, optional
        Number of latents, instead of ``expansion_factor * d_in``.
    relu : bool
        Clamp the selected pre-activations at zero.

    Attributes
    ----------
    W_enc, W_dec : Parameter
        ``[n, d]`` float32.
    b_enc : Parameter
        ``[n]``.
    b_pre : Parameter
        ``[d]``, subtracted before encoding and added after decoding.

    Raises
    ------
    ValueError
        If k is not between 1 and the number of latents.
    """

    def __init__(
        self,
        d_in: int,
        expansion_factor: int = 64,
        k: int = 32,
        *,
        n_latents: int | None = None,
        relu: bool = False,
    ) -> None:
        super().__init__()
        n = n_latents if n_latents is not None else expansion_factor * d_in
        for name, value in (("d_in", d_in), ("the number of latents", n)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 1 <= k <= n:
            raise ValueError(f"k must lie between 1 and the number of latents = {n}, got {k}")
        self.d_in, self.n_latents, self.k, self.relu = d_in, n, k, relu
        rows = nn.functional.normalize(torch.randn(n, d_in))
        self.W_dec = nn.Parameter(rows)
        self.W_enc = nn.Parameter(rows.clone())
        self.b_enc = nn.Parameter(torch.zeros(n))
        self.b_pre = nn.Parameter(torch.zeros(d_in))

    def extra_repr(self) -> str:
        return f"d_in={self.d_in}, n_latents={self.n_latents}, k={self.k}, relu={self.relu}"

    @torch.no_grad()
    def initialise_as_authors(self) -> None:
        """Redraw the weights from the distributions of the authors' code (bounds sqrt(6 / n) and sqrt(6 / d))."""
        # Kaiming's fan-in follows their transposed layout: n for the encoder, d for the decoder.
        bound = math.sqrt(6 / self.n_latents)
        self.W_enc.uniform_(-bound, bound)
        self.W_dec.uniform_(-1, 1)
        self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True))

    def encode(self, x: Tensor, precision: str = "fp32") -> ops.Code:
        """Code of features ``[B, d]`` (float32); see `ops.topk_encode`."""
        if isinstance(x, Tensor) and x.dim() == 2 and x.shape[1] != self.d_in:
            raise ValueError(
                f"x has features of width {x.shape[1]}, this k-SAE was trained on width {self.d_in}: "
                "use the features of the layer it was trained on"
            )
        return ops.topk_encode(x, self.W_enc, self.b_enc, self.b_pre, self.k, relu=self.relu, precision=precision)

    def decode(self, code: ops.Code) -> Tensor:
        """Features ``[B, d]`` of a code; see `ops.sparse_decode`."""
        return ops.sparse_decode(code, self.W_dec, self.b_pre)

    def forward(self, x: Tensor) -> KSAEOutput:
        """Encode, decode and compare: the loss is the fraction of variance unexplained in the batch."""
        code = self.encode(x)
        x_hat = self.decode(code)
        return KSAEOutput(x_hat, code, fvu(x, x_hat))

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write ``model.safetensors`` and ``config.json`` into `folder`."""
        folder = Path(folder)
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        with atomic_path(folder / WEIGHTS) as temporary:
            save_file(state, temporary)
        about = {
            "format": FORMAT,
            "d_in": self.d_in,
            "n_latents": self.n_latents,
            "k": self.k,
            "relu": self.relu,
        }
        atomic_write_json(folder / CONFIG, about)

    @classmethod
    def from_pretrained(
        cls, name_or_folder: str | os.PathLike[str], *, revision: str | None = None
    ) -> KSparseAutoencoder:
        """Read what `save_pretrained` wrote, from a folder or from a Hub repository.

        Raises
        ------
        FileNotFoundError
            If a folder lacks one of the two files.
        ValueError
            If they are damaged or do not belong together.
        """
        folder = Path(name_or_folder)
        if not folder.is_dir():
            folder = _from_hub(os.fspath(name_or_folder), revision)
        for part in (CONFIG, WEIGHTS):
            if not (folder / part).is_file():
                raise FileNotFoundError(f"{folder} holds no {part}: it is not a k-SAE saved by revelio_fast")
        try:
            about = json.loads((folder / CONFIG).read_text())
            d_in, n, k, relu = (about[key] for key in ("d_in", "n_latents", "k", "relu"))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{folder / CONFIG} is damaged ({error}): save the k-SAE again") from error
        for key, value in (("d_in", d_in), ("n_latents", n), ("k", k)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"{folder / CONFIG} is damaged: {key} must be a whole number of at least 1, got {value!r}"
                )
        if not isinstance(relu, bool):
            raise ValueError(f"{folder / CONFIG} is damaged: relu must be true or false, got {relu!r}")
        try:
            state = load_file(folder / WEIGHTS)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{folder / WEIGHTS} is not a readable safetensors file ({error})") from error
        return cls.from_rows(state, k=k, relu=relu, d_in=d_in, n_latents=n, where=str(folder / WEIGHTS))

    @classmethod
    def from_rows(
        cls, state: dict[str, Tensor], *, k: int, relu: bool, where: str, d_in: int | None = None,
        n_latents: int | None = None,
    ) -> KSparseAutoencoder:  # fmt: skip
        """Build a model from tensors ``W_enc, W_dec [n, d], b_enc [n], b_pre [d]``; `where` names them in errors."""
        missing = {"W_enc", "W_dec", "b_enc", "b_pre"} - state.keys()
        if missing:
            raise ValueError(f"{where} lacks {', '.join(sorted(missing))}; it has {', '.join(sorted(state))}")
        if state["W_dec"].dim() != 2:
            raise ValueError(f"{where}: W_dec has shape {list(state['W_dec'].shape)}, expected [latents, width]")
        n, d = n_latents or state["W_dec"].shape[0], d_in or state["W_dec"].shape[1]
        for name, shape in (("W_enc", (n, d)), ("W_dec", (n, d)), ("b_enc", (n,)), ("b_pre", (d,))):
            if tuple(state[name].shape) != shape:
                raise ValueError(f"{where}: {name} has shape {list(state[name].shape)}, expected {list(shape)}")
        if not 1 <= k <= n:
            raise ValueError(f"{where}: k must lie between 1 and its {n} latents, got {k}")
        with torch.device("meta"):
            model = cls(d, k=k, n_latents=n, relu=relu)
        rows = {name: nn.Parameter(state[name].float().contiguous()) for name in ("W_enc", "W_dec", "b_enc", "b_pre")}
        model.load_state_dict(rows, assign=True)
        return model

    def push_to_hub(self, repository: str, *, private: bool = False, message: str = "Upload k-SAE") -> str:
        """Upload the model to a Hub repository (created if missing) and return the commit's address."""
        try:
            from huggingface_hub import HfApi
        except ImportError as error:
            raise ImportError("uploading needs huggingface_hub: pip install 'revelio-fast[models]'") from error
        api = HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return str(api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message))


def fvu(x: Tensor, x_hat: Tensor) -> Tensor:
    """Fraction of variance unexplained: squared error over squared distance from the batch mean (authors' loss)."""
    return (x_hat - x).square().sum() / (x - x.mean(0)).square().sum().clamp_min(torch.finfo(x.dtype).tiny)


def _from_hub(repository: str, revision: str | None) -> Path:
    if repository.count("/") != 1 or repository.startswith((".", "/")):
        raise FileNotFoundError(f"{repository!r} is neither a folder nor the name of a Hub repository (owner/name)")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ImportError("reading from the Hub needs huggingface_hub: pip install 'revelio-fast[models]'") from error
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=[CONFIG, WEIGHTS]))
    except (OSError, ValueError) as error:  # Hub errors, and its refusals of names
        first = str(error).strip().split("\n")[0]
        raise FileNotFoundError(
            f"{repository!r} is no local folder, and cannot be fetched from the Hugging Face Hub "
            f"({type(error).__name__}: {first})"
        ) from error
