"""The settings of a run, section by section, as pydantic models; the defaults are the paper's."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator, model_validator

from revelio_fast.classifiers import DiffCConfig
from revelio_fast.ksae import KSAEConfig
from revelio_fast.models.prompts import choose_prompts

MINI_SD = "mini-sd"


class Section(BaseModel):
    """A part of the configuration in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class SourceSection(Section):
    """Where the images come from."""

    spec: str = Field(
        description="folder, CSV, parquet file or folder, Hugging Face data set id, 'digits', or a name that "
        "`revelio-fast datasets` lists"
    )
    root: str | None = Field(default=None, description="folder of local copies of named data sets; else $REVELIO_DATA")
    split: str | None = Field(default=None, description="split the k-SAE and Diff-C learn from; everything by default")
    test_split: str | None = Field(default=None, description="split for test accuracies; a share of `split` by default")
    test_share: float = Field(default=0.2, gt=0, lt=1, description="share held out without a test_split")
    image_column: str | None = None
    label_column: str | None = None
    limit: int | None = Field(default=None, ge=1, description="use this many images, spread evenly over the source")
    test_limit: int | None = Field(default=None, ge=1)
    image_size: int | None = Field(default=None, ge=8, description="side in pixels; the model's own by default")
    on_error: Literal["stop", "skip"] = "stop"


def _fields_of(config: type) -> dict[str, Any]:
    """The fields of a settings dataclass, as pydantic wants them: name -> (type, default)."""
    types = get_type_hints(config)
    return {each.name: (types[each.name], each.default) for each in fields(config)}


class _SAEBase(Section):
    @model_validator(mode="after")
    def _possible(self) -> _SAEBase:
        KSAEConfig(**self.model_dump())
        return self

    def build(self, seed: int) -> KSAEConfig:
        """The trainer's settings; the run's seed is used unless this section gives one."""
        values = self.model_dump()
        if "seed" not in self.model_fields_set:
            values["seed"] = seed
        return KSAEConfig(**values)


class _DiffCBase(Section):
    enabled: bool = True
    layers: tuple[str, ...] | None = Field(default=None, description="a selection of the run's; all by default")
    timesteps: tuple[int, ...] | None = Field(default=None, description="a selection of the run's; all by default")
    baselines: bool = Field(default=True, description="train it also on what the section `baselines` names")
    map_dtype: Literal["float32", "bfloat16", "float16"] = Field(default="bfloat16", description="of the cached maps")
    cache: Literal["maps", "none"] = Field(
        default="maps", description="'maps': extract once; 'none': fresh crops through the model in every epoch (paper)"
    )
    variants: int = Field(default=0, ge=0, description="random crops cached of each training image; one per epoch")
    least_area: float = Field(default=0.8, gt=0, le=1, description="share of an image's area that a random crop keeps")
    heads: tuple[Literal["diffc", "resnet"], ...] = Field(
        default=("diffc",), description="'resnet' is the paper's baseline 'SD features'"
    )
    resnet_width: int | None = Field(default=None, ge=1, description="its channels; `width` by default, 1280: 520 M")

    @model_validator(mode="after")
    def _possible(self) -> _DiffCBase:
        if not self.heads or len(set(self.heads)) < len(self.heads):
            raise ValueError(f"heads is {list(self.heads)}: name at least one, and each once")
        if self.cache == "none" and self.variants:
            raise ValueError(f"variants is {self.variants}, but cache 'none' keeps no crops: leave one of the two out")
        for head in self.heads:
            self.build(0, head)
        return self

    def build(self, seed: int, head: str = "diffc") -> DiffCConfig:
        """The trainer's settings for a head; the run's seed is used unless this section gives one."""
        values = self.model_dump(exclude=set(_DiffCBase.model_fields)) | {"head": head}
        if "seed" not in self.model_fields_set:
            values["seed"] = seed
        if head == "resnet" and self.resnet_width is not None:
            values["width"] = self.resnet_width
        return DiffCConfig(**values)


if TYPE_CHECKING:
    SAESection = _SAEBase
    DiffCSection = _DiffCBase
else:
    # The trainers' settings are defined once, in their dataclasses; the sections copy their fields and defaults.
    SAESection = create_model(
        "SAESection", __base__=_SAEBase, __doc__="The k-SAE and its training.", **_fields_of(KSAEConfig)
    )
    _TRAINING = {name: field for name, field in _fields_of(DiffCConfig).items() if name != "head"}
    DiffCSection = create_model("DiffCSection", __base__=_DiffCBase, __doc__="Diff-C and its training.", **_TRAINING)


class PuritySection(Section):
    """Top images and label purity."""

    kept: int = Field(default=20, ge=2, description="top images kept of each latent")
    top_images: int = Field(default=10, ge=2)
    top_latents: int = Field(default=1000, ge=1)
    ranking: Literal["paper", "frequency", "max"] = "paper"
    permutations: int = Field(default=500, ge=1, description="label shuffles that give the chance level")
    bootstrap: int = Field(default=1000, ge=1)

    @model_validator(mode="after")
    def _enough_kept(self) -> PuritySection:
        if self.kept < self.top_images:
            raise ValueError(
                f"kept is {self.kept}, but purity looks at top_images = {self.top_images}: keep at least those"
            )
        return self


class BaselineSection(Section):
    """What every figure is reported beside."""

    random_weights: bool = Field(default=True, description="the same network, freshly initialised")
    raw_pixels: bool = True
    vae_latents: bool = True
    sae: bool = Field(default=True, description="a k-SAE on each baseline, for its purity")
    pixel_size: int | None = Field(
        default=None, ge=1, description="side of raw pixels; the model's own by default, as far as max_features allows"
    )
    max_features: int = Field(default=4096, ge=16, description="largest width of VAE latents or raw pixels as a vector")


class ReportSection(Section):
    """What the report shows."""

    title: str | None = None
    sheets: int = Field(default=5, ge=0, description="contact sheets for each layer and timestep; 0: none")
    sheet_images: int = Field(default=10, ge=1)


class PromptSection(Section):
    """Where prompts come from, if not one text for all; for pooled features and Diff-C's maps alike."""

    column: str | None = Field(default=None, description="a column of the source, e.g. captions")
    file: str | None = Field(default=None, description="CSV file with columns 'prompt' and 'image_id' or 'file'")
    from_clip: str | None = Field(default=None, description="the class that this CLIP model predicts zero-shot")
    clip_templates: tuple[str, ...] | None = Field(
        default=None, description="sentences that ask CLIP, {} for the class"
    )
    clip_revision: str | None = None
    template: str | None = Field(
        default=None,
        description="sentence with {} for CLIP's class; without from_clip for the TRUE class: an oracle",
    )

    @model_validator(mode="after")
    def _possible(self) -> PromptSection:
        choose_prompts(**self.model_dump())
        return self


class RunConfig(Section):
    """Everything a run is made from; see the sections."""

    model: str = Field(default=MINI_SD, description="'mini-sd' (embedded), a folder in diffusers format, or a Hub id")
    revision: str | None = None
    source: SourceSection
    layers: tuple[str, ...] = ("bottleneck", "up_ft0", "up_ft1", "up_ft2")
    timesteps: tuple[int, ...] = (25, 200)
    prompt: str = Field(default="", description="one text for all images; or see the section `prompts`")
    prompts: PromptSection = PromptSection()
    seed: int = Field(default=0, ge=0, description="noise, weights, order, hold-out")
    seeds: tuple[int, ...] = Field(default=(), description="repeat all trainings with each of them")
    seed_features: bool = Field(default=False, description="with `seeds`: draw the features' noise anew for each, too")
    noise_samples: int = Field(default=1, ge=1)
    dtype: Literal["float32", "bf16", "fp16"] = "float32"
    compile: bool = Field(default=False, description="compile the network with torch.compile")
    official: bool = Field(default=False, description="DiT only: the authors' scrambled maps without noise")
    batch_size: int = Field(default=8, ge=1, description="images of a forward pass")
    store_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    sae: SAESection = SAESection()
    purity: PuritySection = PuritySection()
    probe: bool = Field(default=True, description="linear probes on the pooled features")
    baselines: BaselineSection = BaselineSection()
    diffc: DiffCSection = DiffCSection()
    report: ReportSection = ReportSection()
    out_dir: str = "revelio-run"

    @field_validator("layers", "timesteps")
    @classmethod
    def _some_and_distinct(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if not value:
            raise ValueError("the list is empty: name at least one")
        repeated = [each for each in value if value.count(each) > 1]
        if repeated:
            raise ValueError(f"{repeated[0]!r} is named twice")
        return value

    @model_validator(mode="after")
    def _one_kind_of_prompt(self) -> RunConfig:
        if self.prompt and self.prompts != PromptSection():
            raise ValueError("prompt is one text for all images, but the section `prompts` is given, too: keep one")
        return self

    @model_validator(mode="after")
    def _seeds_that_differ(self) -> RunConfig:
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds, default=0) < 0:
            raise ValueError(f"seeds is {list(self.seeds)}: name each once, none below 0")
        for name, section in (("sae", self.sae), ("diffc", self.diffc)):
            if len(self.seeds) > 1 and "seed" in section.model_fields_set:
                raise ValueError(f"{name}.seed is given, but seeds asks for several: leave one of the two out")
        return self

    @model_validator(mode="after")
    def _selections(self) -> RunConfig:
        for name, chosen, run in (
            ("layers", self.diffc.layers, self.layers),
            ("timesteps", self.diffc.timesteps, self.timesteps),
        ):
            for each in chosen or ():
                if each not in run:
                    raise ValueError(f"diffc.{name} names {each!r}, which is not among the run's {name}: {list(run)}")
        return self
