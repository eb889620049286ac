"""revelio_fast reads the concepts inside diffusion models.

    images -> diffusion features -> k-sparse autoencoder -> top images per latent -> purity, maps, report

The public names below are imported on first use, so that `import revelio_fast` needs only torch, numpy and safetensors.
"""

# torch must be loaded before our extension: both then share torch's copy of libgomp.
import importlib
from typing import Any

import torch  # noqa: F401

__version__ = "0.1.0"

_WHERE = {
    "ops": "revelio_fast.ops",
    "Code": "revelio_fast.ops",
    "use_backend": "revelio_fast.ops",
    "backends": "revelio_fast.ops",
    "ActivationStore": "revelio_fast.store",
    "StoreError": "revelio_fast.store",
    "KSparseAutoencoder": "revelio_fast.ksae",
    "KSAEConfig": "revelio_fast.ksae",
    "KSAEResult": "revelio_fast.ksae",
    "Semantics": "revelio_fast.ksae",
    "train_ksae": "revelio_fast.ksae",
    "load_sae": "revelio_fast.interop",
    "ExtractConfig": "revelio_fast.features",
    "accelerate": "revelio_fast.interop",
    "restore": "revelio_fast.interop",
    "FeatureExtractor": "revelio_fast.features",
    "prompts": "revelio_fast.models.prompts",
    "extract_to_store": "revelio_fast.features",
    "open_source": "revelio_fast.data",
    "TopActivations": "revelio_fast.concepts",
    "top_images": "revelio_fast.concepts",
    "label_purity": "revelio_fast.concepts",
    "PurityResult": "revelio_fast.concepts",
    "DiffC": "revelio_fast.classifiers",
    "DiffCConfig": "revelio_fast.classifiers",
    "train_diffc": "revelio_fast.classifiers",
    "train_diffc_online": "revelio_fast.classifiers",
    "load_classifier": "revelio_fast.classifiers",
    "ImageClassifier": "revelio_fast.classifiers",
    "ZeroShotClassifier": "revelio_fast.classifiers",
    "run": "revelio_fast.pipeline",
}

__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    where = _WHERE.get(name)
    if where is None:
        raise AttributeError(f"module 'revelio_fast' has no attribute {name!r}")
    module = importlib.import_module(where)
    value = module if where.endswith("." + name) else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
