"""Settings classes: checks by type and bounds, texts from the docstring, old names."""

from __future__ import annotations

import inspect
import subprocess
import sys
import warnings
from dataclasses import replace

import pytest
import torch

import revelio_fast as rf
from revelio_fast.classifiers import DiffCConfig
from revelio_fast.cli.errors import spoken
from revelio_fast.config.sections import (
    BaselineSection,
    DiffCSection,
    PurityConfig,
    ReportSection,
    SourceOptions,
    SourceSection,
)
from revelio_fast.data import CropConfig, RandomCrops
from revelio_fast.features import ExtractConfig
from revelio_fast.ksae import KSAEConfig
from revelio_fast.models.prompts import PromptConfig
from revelio_fast.renamed import RenamedWarning, renamed
from revelio_fast.settings import SettingsError, help_of, split, texts_of, types_of

CLASSES = [
    BaselineSection, CropConfig, DiffCConfig, DiffCSection, ExtractConfig, KSAEConfig, PromptConfig, PurityConfig,
    ReportSection, SourceOptions, SourceSection,
]  # fmt: skip


@pytest.mark.parametrize("kind", CLASSES)
def test_every_field_is_in_the_docstring_and_nothing_else(kind: type) -> None:
    assert set(texts_of(kind)) == set(types_of(kind))


def test_help_is_the_first_sentence() -> None:
    assert help_of(KSAEConfig, "data") == "Where the rows of a store are taken from."
    assert help_of(PromptConfig, "column") == "Column of the source that holds prompts, e.g. captions."
    assert help_of(SourceSection, "split") == "Split that the k-SAE and Diff-C learn from; everything by default."
    assert help_of(SourceSection, "limit") == help_of(SourceOptions, "limit")


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        KSAEConfig(k=0, lr=float("nan"), engine="jax", steps=True, val_fraction=1)  # type: ignore[arg-type]
    assert list(caught.value.problems) == ["k", "steps", "lr", "engine", "val_fraction"]
    assert "lr must be a number above 0, got nan" in str(caught.value)


def test_taking_a_text_apart() -> None:
    assert split(ExtractConfig, "layers", " a, b,") == ["a", "b"] and split(ExtractConfig, "timesteps", 25) == [25]
    assert split(PromptConfig, "clip_templates", "a {}, b | my {}") == ["a {}, b", "my {}"]
    assert split(ExtractConfig, "model", "a,b") == "a,b" and split(ExtractConfig, "layers", ("a",)) == ("a",)


@pytest.mark.parametrize(
    "kind, old, new",
    [
        (KSAEConfig, {"holdout": 0.2}, {"val_fraction": 0.2}),
        (KSAEConfig, {"semantics": "official"}, {"compat": "authors"}),
        (KSAEConfig, {"semantics": "paper"}, {"compat": "paper"}),
        (ExtractConfig, {"official": True}, {"compat": "authors"}),
        (ExtractConfig, {"official": False}, {"compat": "paper"}),
        (CropConfig, {"variants": 3, "least_area": 0.5}, {"num_crops": 3, "min_scale": 0.5}),
        (DiffCSection, {"variants": 3, "least_area": 0.5}, {"num_crops": 3, "min_scale": 0.5}),
        (RandomCrops, {"size": 8, "least_area": 0.5, "mirror": False}, {"size": 8, "min_scale": 0.5, "hflip": False}),
    ],
)
def test_old_names_are_taken_and_can_be_read(kind: type, old: dict, new: dict) -> None:
    with pytest.warns(RenamedWarning) as said:
        made = kind(**old)
    assert made == kind(**new) and all(getattr(made, name) == value for name, value in old.items())
    # The warning points at this file, so that Python shows it to who wrote the old name in a script.
    assert {each.filename for each in said} == {__file__}
    assert all(name not in inspect.signature(kind).parameters for name in old if name not in new)


def test_new_names_are_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert replace(KSAEConfig(val_fraction=0.3), steps=5).val_fraction == 0.3


def test_functions_take_old_names() -> None:
    sae, features = rf.KSparseAutoencoder(6, k=2, n_latents=8), torch.randn(20, 6)
    with pytest.warns(RenamedWarning, match="ranking is called compat now: use compat='authors'"):
        old = rf.top_images(sae, features, 3, ranking="official")  # type: ignore[call-arg]
    assert torch.equal(old.image_ids, rf.top_images(sae, features, 3, compat="authors").image_ids)

    @renamed(before="after")
    def function(after: int) -> int:
        return after

    with pytest.raises(ValueError, match="before is the old name of after: give only after"):
        function(before=1, after=2)  # type: ignore[call-arg]


def test_metadata_is_read_back_whatever_its_age() -> None:
    config = ExtractConfig(
        "some/model", layers=("a",), timesteps=(5,), dtype="bf16", compat="authors", compile=True, noise_samples=3,
        image_size=64,
    )  # fmt: skip
    where = {"layer": "a", "timestep": 5}
    assert ExtractConfig.from_metadata({**config.metadata(), **where, "source": "x"}) == config
    old = {
        "model": "some/model", "revision": None, "random_weights": False, "prompt": "", "seed": 0, "noise_samples": 3,
        "image_size": 64, "model_dtype": "bfloat16", "official": True, "compiled": True,
    }  # fmt: skip
    assert ExtractConfig.from_metadata({**old, **where}) == config
    plain = ExtractConfig("some/model", layers=("a",), timesteps=(5,), image_size=64)
    assert {**plain.metadata(), "prompt": ""} == {
        name: value for name, value in {**old, "noise_samples": 1, "model_dtype": "float32"}.items()
        if name not in ("official", "compiled")
    }  # fmt: skip


def test_settings_need_neither_pydantic_nor_typer() -> None:
    code = (
        "import sys\nfrom revelio_fast import ExtractConfig, KSAEConfig, DiffCConfig\n"
        "ExtractConfig(), KSAEConfig(), DiffCConfig()\n"
        "print([m for m in ('pydantic', 'typer', 'yaml', 'diffusers', 'transformers', 'PIL') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_errors_in_the_spelling_of_the_command_line() -> None:
    flags = {name: name for name in ("on_error", "k", "n_latents", "batch_size")} | {"batch_size": "extract_batch"}
    said = "Remove it, or pass on_error='skip'; batch_size must be 1, or k less than n_latents=5 of on_errors"
    assert spoken(said, flags) == (
        "Remove it, or pass --on-error skip; --extract-batch must be 1, or k less than --n-latents 5 of on_errors"
    )
    assert spoken("k must not exceed 3\nk is 'k'", flags) == "--k must not exceed 3\n--k is 'k'"
    assert spoken("or pass on_error='skip', prompt=...", {}, ["on_error"]) == "or pass --set on_error=skip, prompt=..."
    assert spoken("model.layers 'on_error' x_on_error", flags) == "model.layers 'on_error' x_on_error"
