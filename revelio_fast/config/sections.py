"""The settings of a run, section by section; the defaults are the paper's."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from revelio_fast.classifiers.config import DiffCConfig, Training
from revelio_fast.data.crops import CropConfig
from revelio_fast.features.config import ExtractConfig
from revelio_fast.ksae.config import KSAEConfig
from revelio_fast.renamed import renamed
from revelio_fast.settings import SEEDS, Settings, SettingsError, option

if TYPE_CHECKING:
    from revelio_fast.data import ImageSource


@dataclass(frozen=True)
class SourceOptions(Settings):
    """Which images of a source are read, and how.

    Parameters
    ----------
    split : str, optional
        Split of the source; everything by default.
    image_column : str, optional
        Column with the images; found by its usual names by default.
    label_column : str, optional
        Column with the labels; found by its usual names by default, 'none' for no labels.
    limit : int, optional
        Use this many images, spread evenly over the source.
    root : str, optional
        Folder of local copies of named data sets; $REVELIO_DATA by default.
    """

    split: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    limit: int | None = option(None, at_least=1)
    root: str | None = None

    def open(self, spec: str) -> ImageSource:
        """Open the images that `spec` names; see `revelio_fast.data.open_source`."""
        from revelio_fast.data import open_source

        return open_source(
            spec, split=self.split, image_column=self.image_column, label_column=self.label_column, limit=self.limit,
            root=self.root,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SourceSection(SourceOptions):
    """Where the images of a run come from.

    Parameters
    ----------
    spec : str
        Folder, CSV, parquet file or folder, Hugging Face data set id, 'digits', or a name that `revelio-fast datasets`
        lists.
    split : str, optional
        Split that the k-SAE and Diff-C learn from; everything by default.
    test_split : str, optional
        Split for test accuracies; a share of `split` by default.
    test_share : float
        Share of each class that is held out without a `test_split`.
    test_limit : int, optional
        Use this many of the test images.
    """

    spec: str
    test_split: str | None = None
    test_share: float = option(0.2, above=0, below=1)
    test_limit: int | None = option(None, at_least=1)

    def open_test(self) -> ImageSource:
        """Open the images of the test split."""
        return self.part(SourceOptions, split=self.test_split, limit=self.test_limit).open(self.spec)


@renamed(variants="num_crops", least_area="min_scale")
@dataclass(frozen=True)
class DiffCSection(CropConfig, Training):
    """Diff-C and its training.

    Parameters
    ----------
    enabled : bool
    layers : sequence of str, optional
        A selection of the run's; all by default.
    timesteps : sequence of int, optional
        A selection of the run's; all by default.
    baselines : bool
        Train it also on what the section `baselines` names.
    map_dtype : {"float32", "bfloat16", "float16"}
        Of the cached maps.
    cache : {"maps", "none"}
        'maps': extract once; 'none': fresh crops go through the model in every epoch, as in the paper.
    heads : sequence of {"diffc", "resnet"}
        'resnet' is the paper's baseline "SD features".
    resnet_width : int, optional
        Channels of the head 'resnet'; `width` by default, 1280 gives 520 M parameters.
    """

    enabled: bool = True
    layers: tuple[str, ...] | None = None
    timesteps: tuple[int, ...] | None = None
    baselines: bool = True
    map_dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    cache: Literal["maps", "none"] = "maps"
    heads: tuple[Literal["diffc", "resnet"], ...] = ("diffc",)
    resnet_width: int | None = option(None, at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.heads or len(set(self.heads)) < len(self.heads):
            raise SettingsError({"heads": f"heads is {list(self.heads)}: name at least one, and each once"})
        if self.cache == "none" and self.num_crops:
            words = f"num_crops is {self.num_crops}, but cache 'none' keeps no crops: leave one of the two out"
            raise SettingsError({"num_crops": words})

    def build(self, head: Literal["diffc", "resnet"] = "diffc") -> DiffCConfig:
        """The trainer's settings for a head."""
        width = self.resnet_width if head == "resnet" and self.resnet_width is not None else self.width
        return self.part(DiffCConfig, head=head, width=width)


@dataclass(frozen=True)
class PurityConfig(Settings):
    """Top images and label purity; see `revelio_fast.label_purity`.

    Parameters
    ----------
    kept : int
        Top images kept of each latent.
    top_images : int
        Top images of a latent that must share a label.
    top_latents : int
        Latents that are looked at, best ranked first.
    ranking : {"paper", "frequency", "max"}
        How latents are ranked: by mean activation where active (the paper's), by how often active, or by largest
        activation.
    permutations : int
        Label shuffles that give the chance level.
    bootstrap : int
        Resamples for the intervals.
    seed : int
        Seed of the shuffles and the resamples.
    """

    kept: int = option(20, at_least=1)
    top_images: int = option(10, at_least=2)
    top_latents: int = option(1000, at_least=1)
    ranking: Literal["paper", "frequency", "max"] = "paper"
    permutations: int = option(500, at_least=1)
    bootstrap: int = option(1000, at_least=1)
    seed: int = option(0, at_least=0, below=SEEDS)

    def arguments(self) -> dict[str, Any]:
        """What `label_purity` is given: all but `kept`, which `top_images` is given."""
        return {name: value for name, value in self.as_json().items() if name != "kept"}


@dataclass(frozen=True)
class BaselineSection(Settings):
    """What every figure is reported beside.

    Parameters
    ----------
    random_weights : bool
        The same network, freshly initialised.
    raw_pixels : bool
    vae_latents : bool
    sae : bool
        A k-SAE on each baseline, for its purity.
    pixel_size : int, optional
        Side of the raw pixels; the model's own by default, as far as `max_features` allows.
    max_features : int
        Largest width of VAE latents or raw pixels as a vector.
    """

    random_weights: bool = True
    raw_pixels: bool = True
    vae_latents: bool = True
    sae: bool = True
    pixel_size: int | None = option(None, at_least=1)
    max_features: int = option(4096, at_least=16)

    def pixel_side(self, native: int) -> int:
        """Side of the raw pixels beside a model of this image size."""
        return self.pixel_size or min(native, math.isqrt(self.max_features // 3))


@dataclass(frozen=True)
class ReportSection(Settings):
    """What the report shows.

    Parameters
    ----------
    title : str, optional
    sheets : int
        Contact sheets for each layer and timestep; 0: none.
    sheet_images : int
        Images on a contact sheet.
    """

    title: str | None = None
    sheets: int = option(5, at_least=0)
    sheet_images: int = option(10, at_least=1)


@renamed(**{"source.image_size": "image_size", "source.on_error": "on_error"})
@dataclass(frozen=True, kw_only=True)
class RunConfig(ExtractConfig):
    """Everything a run is made from: the extraction's settings, and the sections.

    Parameters
    ----------
    seed : int
        Of noise and hold-out; in a YAML file also of the sections that do not give one.
    seeds : sequence of int
        Repeat all trainings with each of them; they replace the seeds of the sections.
    seed_features : bool
        With `seeds`: draw the noise of the features anew for each, too.
    source : SourceSection
    sae : KSAEConfig
    purity : PurityConfig
    probe : bool
        Linear probes on the pooled features.
    baselines : BaselineSection
    diffc : DiffCSection
    report : ReportSection
    out_dir : str
        Output folder.
    """

    source: SourceSection
    seeds: tuple[int, ...] = ()
    seed_features: bool = False
    sae: KSAEConfig = option(KSAEConfig())
    purity: PurityConfig = option(PurityConfig())
    probe: bool = True
    baselines: BaselineSection = option(BaselineSection())
    diffc: DiffCSection = option(DiffCSection())
    report: ReportSection = option(ReportSection())
    out_dir: str = "revelio-run"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "seeds", tuple(self.seeds))
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds, default=0) < 0:
            raise SettingsError({"seeds": f"seeds is {list(self.seeds)}: name each once, none below 0"})
        if self.purity.kept < self.purity.top_images:
            raise SettingsError(
                {
                    "purity.kept": f"purity.kept is {self.purity.kept}, but purity looks at top_images = "
                    f"{self.purity.top_images}: keep at least those"
                }
            )
        chosen = {"layers": (self.diffc.layers, self.layers), "timesteps": (self.diffc.timesteps, self.timesteps)}
        for name, (selected, there) in chosen.items():
            for each in selected or ():
                if each not in there:
                    words = f"diffc.{name} names {each!r}, which is not among the run's {name}: {list(there)}"
                    raise SettingsError({f"diffc.{name}": words})

    def with_seed(self, seed: int) -> RunConfig:
        """The same run with another seed, that of the sections included."""
        sections = {name: replace(getattr(self, name), seed=seed) for name in SHARING_SEED}
        return replace(self, seed=seed, **sections)


SHARING_SEED = ("sae", "purity", "diffc")
"""Sections whose seed is the run's where a file gives them none."""
