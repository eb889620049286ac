"""What latents mean: their strongest images, the purity of those, linear probes, PCA maps."""

from revelio_fast.concepts.baselines import flat_features, pixel_features, pooled_features
from revelio_fast.concepts.pca import pca_maps
from revelio_fast.concepts.probe import ProbeResult, centroid_probe, linear_probe, neighbour_probe
from revelio_fast.concepts.purity import PurityResult, label_purity, rank_latents
from revelio_fast.concepts.top_activations import TopActivations
from revelio_fast.concepts.top_images import top_images
from revelio_fast.concepts.top_list import top_list, write_top_list

__all__ = [
    "ProbeResult",
    "PurityResult",
    "TopActivations",
    "centroid_probe",
    "flat_features",
    "label_purity",
    "linear_probe",
    "neighbour_probe",
    "pca_maps",
    "pixel_features",
    "pooled_features",
    "rank_latents",
    "top_images",
    "top_list",
    "write_top_list",
]
