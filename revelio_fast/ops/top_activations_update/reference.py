"""Specification of `top_activations_update_`: sort old and new entries of the touched latents, keep m each."""

import torch
from torch import Tensor


def top_activations_update_(
    state_values: Tensor, state_image_ids: Tensor, sums: Tensor, counts: Tensor,
    values: Tensor, indices: Tensor, image_ids: Tensor, offsets: Tensor, rows: Tensor, slots: Tensor,
) -> None:  # fmt: skip
    m = state_values.shape[1]
    new_values, latents = values[rows, slots], indices[rows, slots]
    active = new_values > 0
    new_values, latents, new_ids = new_values[active], latents[active], image_ids[rows][active]
    sums.index_add_(0, latents, new_values.double())
    counts.index_add_(0, latents, torch.ones_like(latents))

    touched = latents.unique_consecutive()
    old = state_image_ids[touched] >= 0
    latents = torch.cat([touched[:, None].expand(-1, m)[old], latents])
    all_values = torch.cat([state_values[touched][old], new_values])
    all_ids = torch.cat([state_image_ids[touched][old], new_ids])

    # The largest activation of each (latent, image), then the m largest of each latent, the lower image id first.
    order = _lexicographic(latents, all_ids, -all_values)
    latents, all_values, all_ids = latents[order], all_values[order], all_ids[order]
    first = torch.ones_like(latents, dtype=torch.bool)
    first[1:] = (latents[1:] != latents[:-1]) | (all_ids[1:] != all_ids[:-1])
    latents, all_values, all_ids = latents[first], all_values[first], all_ids[first]
    order = _lexicographic(latents, -all_values, all_ids)
    latents, all_values, all_ids = latents[order], all_values[order], all_ids[order]
    rank = torch.arange(latents.numel(), device=latents.device) - torch.searchsorted(latents, latents)
    kept = rank < m
    state_values[touched], state_image_ids[touched] = -torch.inf, -1
    state_values[latents[kept], rank[kept]] = all_values[kept]
    state_image_ids[latents[kept], rank[kept]] = all_ids[kept]


def _lexicographic(*keys: Tensor) -> Tensor:
    """The order that sorts by the first key, then the second, then the third."""
    order = torch.arange(keys[0].numel(), device=keys[0].device)
    for key in reversed(keys):
        order = order[key[order].argsort(stable=True)]
    return order
