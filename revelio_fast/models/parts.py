"""Loading the parts of a diffusers pipeline: safetensors only, without the libraries' loading bars."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from revelio_fast.models.families import read_config
from revelio_fast.models.spec import ModelError, ModelSpec


def library_class(class_name: str, spec: ModelSpec, subfolder: str) -> Any:
    """A class of diffusers or transformers by its name.

    Raises
    ------
    ModelError
        If the libraries are missing or do not know it.
    """
    try:
        import diffusers
        import transformers
    except ImportError as error:
        raise ModelError("Diffusion models need more packages: pip install 'revelio-fast[models]'.") from error
    found = getattr(diffusers, class_name, None) or getattr(transformers, class_name, None)
    if found is None:
        raise ModelError(f"The {subfolder} of {spec.model} is a {class_name!r}, unknown to the installed libraries.")
    return found


def load_part(class_name: str, spec: ModelSpec, subfolder: str, **options: Any) -> Any:
    """A part of the pipeline by its class; ``torch_dtype`` says that it has weights.

    Raises
    ------
    ModelError
        If it cannot be loaded, or its weights are not safetensors.
    """
    import transformers

    kind = library_class(class_name, spec, subfolder)
    if "torch_dtype" in options:
        options["use_safetensors"] = True
        if issubclass(kind, transformers.PreTrainedModel):
            options["dtype"] = options.pop("torch_dtype")
    try:
        with quiet_loading():
            part = kind.from_pretrained(spec.location, subfolder=subfolder, revision=spec.revision, **options)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise ModelError(
            f"The {subfolder} of {spec.model} cannot be loaded ({type(error).__name__}: {error}). Weights must be "
            "safetensors: no pickled checkpoint is opened."
        ) from error
    return part.eval() if isinstance(part, nn.Module) else part


def text_pipeline(spec: ModelSpec) -> Any:
    """The model's own pipeline with its tokenizers and text encoders only, on the device.

    Raises
    ------
    ModelError
        As `load_part`.
    """
    index = read_config(spec.model, "model_index.json", spec.revision)
    parts: dict[str, Any] = {}
    for name, value in index.items():
        if isinstance(value, list):
            parts[name] = None
            if value[0] and name.startswith("tokenizer"):
                parts[name] = load_part(value[1], spec, name)
            elif value[0] and name.startswith("text_encoder"):
                parts[name] = load_part(value[1], spec, name, torch_dtype=spec.torch_dtype).to(spec.device)
    return library_class(index["_class_name"], spec, "pipeline")(**parts)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Within it diffusers and transformers show no bar for reading files; bars of downloads stay."""
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars

    downloads = not are_progress_bars_disabled()
    shown = [log for log in (diffusers_logging, transformers_logging) if log.is_progress_bar_enabled()]
    for log in shown:
        log.disable_progress_bar()
    if downloads:
        enable_progress_bars()
    try:
        yield
    finally:
        for log in shown:
            log.enable_progress_bar()
