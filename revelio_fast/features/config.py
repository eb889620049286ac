"""What an extraction is told: `ExtractConfig`, each option defined once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from revelio_fast.models.prompts import PromptConfig, Prompts
from revelio_fast.models.spec import DTYPES, ModelConfig, dtype_name
from revelio_fast.renamed import new_names, renamed
from revelio_fast.settings import SettingsError, option, types_of

# Options that features do not depend on, or that are told apart in other ways.
NOT_OF_THE_FEATURES = {"layers", "timesteps", "prompt", "prompts", "batch_size", "store_dtype", "on_error", "dtype"}
# Options that a manifest names only where they differ from the default.
IF_CHANGED = {"compat", "compile"}


@renamed(compiled="compile")
@dataclass(frozen=True)
class ExtractConfig(ModelConfig):
    """Settings of an extraction; the defaults are the paper's with the model that is part of this package.

    The settings of a run's YAML file, the flags of ``revelio-fast extract``, the keywords of
    `FeatureExtractor.from_pretrained` and what a manifest says are made from it and from its base, `ModelConfig`.

    Parameters
    ----------
    timesteps : sequence of int
        Noise levels, usually 0 .. 999.
    prompt : str
        One prompt for all images; "" is the paper's. For DiT the name or number of a class.
    prompts : PromptConfig
        A prompt for each image instead.
    noise_samples : int
        Draws of the noise that features are averaged over (DIFT).
    batch_size : int
        Images of a forward pass of the diffusion model.
    store_dtype : {"float32", "bfloat16", "float16"}, optional
        Of the files; float32 by default, bfloat16 for maps.
    on_error : {"stop", "skip"}
        What a broken image does. It stops the extraction, or is left out and listed in ``skipped.csv``.
    """

    timesteps: tuple[int, ...] = (25, 200)
    prompt: str = ""
    prompts: PromptConfig = option(PromptConfig(), prefix="prompt")
    noise_samples: int = option(1, at_least=1)
    batch_size: int = option(8, at_least=1)
    store_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    on_error: Literal["stop", "skip"] = "stop"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("layers", "timesteps"):
            value = getattr(self, name)
            if isinstance(value, str | int) or not len(value):
                raise SettingsError({name: f"{name} must be a list of at least one, got {value!r}"})
            if repeated := [each for each in value if list(value).count(each) > 1]:
                raise SettingsError({name: f"{name} names {repeated[0]!r} twice"})
            object.__setattr__(self, name, tuple(value))
        if self.prompt and self.prompts != PromptConfig():
            words = "prompt is one text for all images, but a prompt for each image is asked for, too: keep one"
            raise SettingsError({"prompt": words})

    def all_prompts(self, cache_dir: Any = None) -> Prompts:
        """Where each image's prompt comes from; see `PromptConfig.prompts`."""
        return self.prompts.prompts(self.prompt, cache_dir)

    def metadata(self) -> dict[str, Any]:
        """What features depend on besides layer, timestep, images and prompts, as JSON values: a manifest's."""
        values = {name: value for name, value in self.as_json().items() if name not in NOT_OF_THE_FEATURES}
        for name in IF_CHANGED:
            if values[name] == self.__dataclass_fields__[name].default:
                del values[name]
        return {**values, "model_dtype": str(DTYPES[self.dtype]).removeprefix("torch.")}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], **changes: Any) -> ExtractConfig:
        """The settings that a manifest or a saved classifier names, with its layer and timestep.

        Raises
        ------
        KeyError
            If one is missing.
        """
        known = new_names(cls.__renamed__, metadata, lambda *_: None)
        needed = set(types_of(cls)) - NOT_OF_THE_FEATURES
        values = {name: known[name] for name in needed if name in known or name not in IF_CHANGED}
        values |= {"layers": (known["layer"],), "timesteps": (known["timestep"],)}
        return cls(**{**values, "dtype": dtype_name(known["model_dtype"]), **changes})
