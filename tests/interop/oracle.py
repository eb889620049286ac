"""What an autoencoder computes, written out densely: the oracle of every rule, and the tolerance of the comparisons."""

import torch

# Sums of float32 products in another order: a few units of 2^-24 of the largest value, for widths up to some hundreds.
FLOAT32 = 1e-6


def dense(code, n):
    """A code as ``[B, n]``."""
    return torch.zeros(code.values.shape[0], n, dtype=code.values.dtype).scatter_add(1, code.indices, code.values)


def closeness(found, expected):
    """Largest difference over the largest expected magnitude."""
    return ((found.double() - expected.double()).abs().max() / expected.double().abs().max().clamp_min(1e-30)).item()


def pre_activations(sae, x):
    """h ``[B, n]`` in float64, of normalised features, rescaled if the semantics say so."""
    how, x = sae.semantics, x.double()
    if how.input_norm == "layer_norm":
        x = x - x.mean(1, keepdim=True)
        x = x / (x.std(1, keepdim=True) + 1e-5)
    elif how.input_norm == "rms_norm":
        x = x / x.square().mean(1, keepdim=True).sqrt()
    x = x * how.input_scale - (sae.b_pre.double() if how.subtract_b_pre else 0)
    h = x @ sae.W_enc.double().T + sae.b_enc.double()
    return h * sae.W_dec.double().norm(dim=1) if how.rescale_by_decoder_norm else h


def encode(sae, x):
    """z ``[B, n]`` in float64."""
    how, h = sae.semantics, pre_activations(sae, x)
    if how.relu == "before":
        h = h.relu()
    if how.rule == "threshold":
        return h * (h > sae.threshold.double())
    if how.rule == "batch_topk":
        kept = torch.zeros(h.numel(), dtype=torch.bool)
        kept[h.flatten().topk(int(sae.k * len(x))).indices] = True
        return h * kept.view_as(h)
    chosen = (h.abs() if how.rule == "abs_topk" else h).topk(sae.k, dim=1).indices
    z = torch.zeros_like(h).scatter(1, chosen, h.gather(1, chosen))
    return z.relu() if how.relu == "after" else z


def decode(sae, z, x):
    """x_hat ``[B, d]`` in float64."""
    how, x = sae.semantics, x.double()
    z = z.double() / sae.W_dec.double().norm(dim=1) if how.rescale_by_decoder_norm else z.double()
    x_hat = z @ sae.W_dec.double() + sae.b_pre.double()
    if how.input_norm == "layer_norm":
        return x_hat * x.std(1, keepdim=True) + x.mean(1, keepdim=True)
    if how.input_norm == "rms_norm":
        return x_hat * x.square().mean(1, keepdim=True).sqrt()
    return x_hat / how.input_scale
