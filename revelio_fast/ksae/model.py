"""The k-sparse autoencoder as a module (Revelio, Eqs. 3-5).

z = TopK(W_enc (x - b_pre) + b_enc) and x_hat = W_dec^T z + b_pre; other libraries' variants by `Semantics`.
"""

from __future__ import annotations

import importlib
import math
import os
import tempfile
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from revelio_fast import ops
from revelio_fast.ksae.selection import select
from revelio_fast.ksae.semantics import Semantics
from revelio_fast.ops import checks

FORMATS = "revelio_fast.interop.formats"
"""The registry of checkpoint formats: a room above this one, found by name when a file is read or written."""


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
    semantics : Semantics, optional
        How latents are chosen and what is done to the features, instead of `relu`: what checkpoints of other
        libraries say. The default is the paper's: top k without a ReLU.

    Attributes
    ----------
    W_enc, W_dec : Parameter
        ``[n, d]`` float32.
    b_enc : Parameter
        ``[n]``.
    b_pre : Parameter
        ``[d]``, subtracted before encoding and added after decoding.
    threshold : Tensor or None
        ``[n]`` float32, where the semantics' rule or the file that was read has thresholds.
    k : int, float or None
        A mean over rows, so maybe a fraction, with the rule "batch_topk"; None if a file with thresholds does not say.
    metadata : dict
        What else a checkpoint said, by the names of its library; kept in our format and in the library's own.

    Raises
    ------
    ValueError
        If k is not between 1 and the number of latents.
    """

    threshold: Tensor | None

    def __init__(
        self,
        d_in: int,
        expansion_factor: int = 64,
        k: Any = 32,
        *,
        n_latents: int | None = None,
        relu: bool = False,
        semantics: Semantics | None = None,
    ) -> None:
        super().__init__()
        n = n_latents if n_latents is not None else expansion_factor * d_in
        for name, value in (("d_in", d_in), ("the number of latents", n)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.semantics = semantics if semantics is not None else Semantics(relu="after" if relu else "none")
        if not (k is None and self.semantics.rule == "threshold"):
            _check_k(k, n, self.semantics.rule)
        self.d_in, self.n_latents, self.k = d_in, n, k
        self.metadata: dict[str, Any] = {}
        self.register_buffer("threshold", torch.zeros(n) if self.semantics.rule == "threshold" else None)
        rows = nn.functional.normalize(torch.randn(n, d_in))
        self.W_dec = nn.Parameter(rows)
        self.W_enc = nn.Parameter(rows.clone())
        self.b_enc = nn.Parameter(torch.zeros(n))
        self.b_pre = nn.Parameter(torch.zeros(d_in))

    def extra_repr(self) -> str:
        return f"d_in={self.d_in}, n_latents={self.n_latents}, {self.semantics.describe(self.k)}"

    @property
    def relu(self) -> bool:
        """Whether the selected pre-activations are clamped at zero."""
        return self.semantics.relu != "none"

    @torch.no_grad()
    def initialise_as_authors(self) -> None:
        """Redraw the weights from the distributions of the authors' code (bounds sqrt(6 / n) and sqrt(6 / d))."""
        # Kaiming's fan-in follows their transposed layout: n for the encoder, d for the decoder.
        bound = math.sqrt(6 / self.n_latents)
        self.W_enc.uniform_(-bound, bound)
        self.W_dec.uniform_(-1, 1)
        self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True))

    def encode(self, x: Tensor, precision: str = "fp32") -> ops.Code:
        """Code of features ``[B, d]`` (float32).

        The rule "topk" runs on `ops.topk_encode`, whose `precision` it takes. The other rules run in PyTorch, always in
        float32, in blocks of rows (see `select`); their codes are as wide as the busiest row needs, and filled up with
        latents of value 0. With `rescale_by_decoder_norm` the encoder's rows are scaled anew in every call.
        """
        if isinstance(x, Tensor) and x.dim() == 2 and x.shape[1] != self.d_in:
            raise ValueError(
                f"x has features of width {x.shape[1]}, this k-SAE was trained on width {self.d_in}: "
                "use the features of the layer it was trained on"
            )
        how = self.semantics
        if how.is_plain:
            return ops.topk_encode(x, self.W_enc, self.b_enc, self.b_pre, self.k, relu=self.relu, precision=precision)
        checks.tensor("x", x, ("B", self.d_in))
        checks.same_device(x=x, W_enc=self.W_enc)
        scale: Tensor | float = self.W_dec.norm(dim=1) if how.rescale_by_decoder_norm else 1.0
        W_enc = self.W_enc * scale[:, None] if isinstance(scale, Tensor) else self.W_enc
        b_pre = self.b_pre if how.subtract_b_pre else torch.zeros_like(self.b_pre)
        normal = how.normalise(x)
        if how.rule == "topk":
            return ops.topk_encode(
                normal, W_enc, self.b_enc * scale, b_pre, self.k, relu=self.relu, precision=precision
            )
        return select(normal, W_enc, self.b_enc * scale, b_pre, how.rule, self.k, self.threshold)

    def decode(self, code: ops.Code, x: Tensor | None = None) -> Tensor:
        """Features ``[B, d]`` of a code; see `ops.sparse_decode`.

        `x`, the features that the code was made from, is needed where they were normalised one by one (`input_norm`).
        """
        if self.semantics.rescale_by_decoder_norm:
            code = ops.Code(code.values / self.W_dec.norm(dim=1)[code.indices], code.indices)
        return self.semantics.restore(ops.sparse_decode(code, self.W_dec, self.b_pre), x)

    def forward(self, x: Tensor) -> KSAEOutput:
        """Encode, decode and compare: the loss is the fraction of variance unexplained in the batch."""
        code = self.encode(x)
        x_hat = self.decode(code, x)
        return KSAEOutput(x_hat, code, fvu(x, x_hat))

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write ``model.safetensors`` and ``config.json`` into `folder`."""
        self.save_as(folder, "revelio_fast")

    def save_as(self, path: str | os.PathLike[str], format: str) -> None:
        """Write the autoencoder in the format of a library (docs/formats.md lists them).

        Parameters
        ----------
        path : path
            A folder; for formats of a single file also the name of that file.
        format : str
            "revelio_fast", "authors", "saelens", "sparsify", "dictionary_learning", "openai", "sdxl_unbox" or
            "overcomplete".

        Raises
        ------
        ValueError
            If the format is unknown, or cannot express what this autoencoder computes.
        """
        importlib.import_module(FORMATS).write(self, path, format)

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        format: str = "auto",
        revision: str | None = None,
        k: float | None = None,
        rule: str | None = None,
        threshold: float | None = None,
    ) -> KSparseAutoencoder:
        """Read an autoencoder from a file, a folder or the Hub, in any of the formats of docs/formats.md.

        Nothing is executed of a file that is a pickle.

        Parameters
        ----------
        path : path or str
            A folder, a file, or on the Hub ``owner/name`` or ``owner/name/path/in/it``.
        format : str
            As in `save_as`; "auto" finds out.
        revision : str, optional
            Branch, tag or commit of a Hub repository.
        k, rule, threshold : optional
            What the file does not say, or another choice of latents than it says (see `Semantics`).

        Raises
        ------
        FileNotFoundError
            If nothing is there.
        ValueError
            If it is damaged or of no or of several known formats: the message says what was found.
        """
        return cls.from_rows(
            **importlib.import_module(FORMATS).read(path, format, revision, k, rule, threshold)._asdict()
        )

    @classmethod
    def from_rows(
        cls,
        rows: dict[str, Tensor],
        *,
        k: float | None,
        where: str,
        semantics: Semantics | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> KSparseAutoencoder:
        """Build a model from tensors by name; `where` names their source in errors.

        Parameters
        ----------
        rows : dict
            ``W_enc, W_dec [n, d]``, ``b_enc [n]``, ``b_pre [d]``, and maybe ``threshold [n]``. They become the
            parameters without a copy where they are float32, contiguous and alone in their memory.
        k, semantics, metadata
            As the attributes.

        Raises
        ------
        ValueError
            For a missing tensor, shapes that do not belong together, or an impossible k.
        """
        missing = {"W_enc", "W_dec", "b_enc", "b_pre"} - rows.keys()
        if missing:
            raise ValueError(f"{where} lacks {', '.join(sorted(missing))}; it has {', '.join(sorted(rows))}")
        for name, tensor in rows.items():
            if not isinstance(tensor, Tensor):
                raise ValueError(f"{where}: {name} is no tensor, but a {type(tensor).__name__}")
        if rows["W_dec"].dim() != 2:
            raise ValueError(f"{where}: W_dec has shape {list(rows['W_dec'].shape)}, expected [latents, width]")
        n, d = rows["W_dec"].shape
        shapes = {"W_enc": (n, d), "b_enc": (n,), "b_pre": (d,), "threshold": (n,)}
        for name, shape in shapes.items():
            if name in rows and tuple(rows[name].shape) != shape:
                raise ValueError(f"{where}: {name} has shape {list(rows[name].shape)}, expected {list(shape)}")
        if semantics is not None and semantics.rule == "threshold" and "threshold" not in rows:
            raise ValueError(f"{where} does not say the threshold above which latents are active: pass threshold=")
        if semantics is not None and sum(semantics.groups) not in (0, n):
            raise ValueError(f"{where}: groups of {list(semantics.groups)} latents do not add up to {n}")
        try:
            with torch.device("meta"):
                model = cls(d, k=k, n_latents=n, semantics=semantics)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        model.metadata = dict(metadata or {})
        model.register_buffer("threshold", rows.get("threshold"))
        model.load_state_dict(_separate(rows), assign=True)
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


def _check_k(k: Any, n: int, rule: str) -> None:
    whole = isinstance(k, int) and not isinstance(k, bool)
    if not whole and not (rule == "batch_topk" and isinstance(k, float)):
        raise ValueError(f"k must be a whole number, got {k!r}")
    if not (1 <= k <= n if whole else 0 < k <= n):
        raise ValueError(f"k must lie between 1 and the number of latents = {n}, got {k}")


def _separate(rows: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in float32, contiguous, and each in memory that it shares with no other."""
    result: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in rows.items():
        own = tensor.detach().float().contiguous()
        storage = own.untyped_storage()
        if storage.nbytes() != own.numel() * own.element_size() or storage.data_ptr() in seen:
            own = own.clone()
        seen.add(own.untyped_storage().data_ptr())
        result[name] = own
    return result
