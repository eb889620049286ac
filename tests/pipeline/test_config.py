"""The configuration: every kind of mistake is named with its line and with what would be right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from revelio_fast.classifiers import DiffCConfig
from revelio_fast.config import ConfigError, RunConfig, SourceSection, load_config, parse_config
from revelio_fast.features import ExtractConfig
from revelio_fast.ksae import KSAEConfig
from revelio_fast.renamed import RenamedWarning

LEAST = "source: {spec: digits}\n"


def test_the_defaults_are_the_trainers() -> None:
    config = parse_config(LEAST)
    assert config.sae == KSAEConfig()
    assert config.diffc.build() == DiffCConfig()
    assert config.part(ExtractConfig) == ExtractConfig()
    assert (config.model, config.timesteps, config.prompt) == ("mini-sd", (25, 200), "")
    assert config.layers == ("bottleneck", "up_ft0", "up_ft1", "up_ft2")
    assert parse_config(json.dumps(config.as_json())) == config == RunConfig(source=SourceSection(spec="digits"))


def test_sections_take_every_field_and_the_runs_seed() -> None:
    config = parse_config(
        LEAST + "seed: 7\nsae: {k: 8, n_latents: 99, engine: autograd}\ndiffc: {seed: 3, width: 16}\n"
    )
    assert config.sae == KSAEConfig(k=8, n_latents=99, engine="autograd", seed=7)
    assert config.diffc.build() == DiffCConfig(seed=3, width=16)
    assert config.diffc.build("resnet") == DiffCConfig(head="resnet", seed=3, width=16)
    assert (config.purity.seed, config.seed) == (7, 7)


@pytest.mark.parametrize(
    "text, line, words",
    [
        ("source:\n  spec: digits\n  limt: 4\n", 3, "source.limt is not a setting: did you mean 'limit'"),
        (LEAST + "\n# comment\nlayrs: [up_ft1]\n", 4, "layrs is not a setting: did you mean 'layers'"),
        (LEAST + "zzz: 1\n", 2, "zzz is not a setting: Allowed here: baselines, batch_size"),
        (LEAST + "sae:\n  k: 32\n  stesp: 3\n", 4, "did you mean 'steps'? Allowed here: aux_coefficient, aux_k"),
        (LEAST + "timesteps:\n  - 25\n  - soon\n", 4, "timesteps[1] is 'soon'"),
        (LEAST + "dtype: float33\n", 2, "did you mean 'float32'? Allowed are 'float32', 'bf16' or 'fp16'"),
        (LEAST + "layers: []\n", 2, "layers must be a list of at least one, got ()"),
        (LEAST + "layers: [up_ft1, up_ft1]\n", 2, "layers names 'up_ft1' twice"),
        (LEAST + "purity:\n  kept: 4\n", 3, "purity.kept is 4, but purity looks at top_images = 10"),
        (LEAST + "sae:\n  lr: 1\n  engine: fast\n", 4, "sae.engine is 'fast': Allowed are 'fused' or 'autograd'"),
        (LEAST + "diffc:\n  heads: [diffc, diffc]\n", 3, "diffc.heads is ['diffc', 'diffc']: name at least one"),
        (LEAST + "diffc:\n  num_crops: 2\n  cache: none\n", 3, "diffc.num_crops is 2, but cache 'none' keeps no crops"),
        (LEAST + "sae:\n  k: 0\n  val_fraction: 1\n", 4, "sae.val_fraction must be a number of at least 0 and below 1"),
        (LEAST + "prompt: [a]\n", 2, "prompt is ['a']"),
        (LEAST + "diffc:\n  epochs: 0\n", 3, "diffc.epochs must be a whole number of at least 1, got 0"),
        (LEAST + "diffc:\n  layers: [up_ft9]\n", 3, "diffc.layers names 'up_ft9', which is not among the run's layers"),
        (LEAST + "sae: 3\n", 2, "sae is 3: expected settings"),
        (LEAST + "seed: -1\n", 2, "seed must be a whole number of at least 0 and below 4294967296, got -1"),
        (LEAST + "seed: 0\nseed: 1\n", 3, "seed is given twice, first in line 2"),
        ("source:\n  limit: 3\n", 1, "source.spec is missing"),
        (LEAST + "layers: [\n", 3, "not valid YAML"),
        (LEAST + "source: {spec: a}\n", 2, "source is given twice"),
    ],
)
def test_a_mistake_is_named_with_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "run.yaml")
    assert f"run.yaml, line {line}" in str(caught.value) and words in str(caught.value), caught.value


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(LEAST + "sed: 1\nbatch_size: none\npurity: {bootstrp: 3}\n", "c.yaml")
    lines = str(caught.value).splitlines()
    assert sorted(line.split(":")[0] for line in lines) == ["c.yaml, line 2", "c.yaml, line 3", "c.yaml, line 4"]


@pytest.mark.parametrize("text", ["", "- 1\n", "just text"])
def test_what_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="c"):
        parse_config(text, "c.yaml")


def test_overrides() -> None:
    config = parse_config(LEAST, "c.yaml", ["source.limit=12", "layers=[up_ft1]", "sae.steps=5", "prompt=a cat"])
    assert (config.source.limit, config.layers, config.sae.steps) == (12, ("up_ft1",), 5)
    assert config.prompt == "a cat"
    for override, words in (
        ("source.limit", "expected section.key=value"),
        ("source.limit=x", "--set source.limit=x: source.limit is 'x'"),
        ("sorce.limit=1", "sorce is not a setting: did you mean 'source'"),
        ("model.name=1", "model is not a section"),
        ("layers=[", "is not valid YAML"),
    ):
        with pytest.raises(ConfigError) as caught:
            parse_config(LEAST + "model: x\n", "c.yaml", [override])
        assert words in str(caught.value), caught.value


@pytest.mark.parametrize("given, wanted", [("up_ft1", ("up_ft1",)), ("up_ft0, up_ft1", ("up_ft0", "up_ft1"))])
def test_one_value_or_a_text_with_commas_is_a_list(given: str, wanted: tuple[str, ...]) -> None:
    assert parse_config(LEAST, "c.yaml", [f"layers={given}"]).layers == wanted
    config = parse_config(LEAST + f"layers: {given}\ntimesteps: 200\ndiffc: {{heads: resnet, timesteps: 200}}\n")
    assert (config.layers, config.timesteps, config.diffc.heads) == (wanted, (200,), ("resnet",))
    with pytest.raises(ConfigError, match=r"--set timesteps=25,soon: timesteps\[1\] is 'soon'"):
        parse_config(LEAST, "c.yaml", ["timesteps=25,soon"])


OLD = """\
source:
  spec: digits
  image_size: 64
  on_error: skip
official: false
sae: {holdout: 0.1, semantics: official}
diffc: {variants: 3, least_area: 0.5}
"""


def test_a_file_with_old_names_is_read_and_says_so() -> None:
    with pytest.warns(RenamedWarning) as said:
        config = parse_config(OLD, "run.yaml")
    assert (config.image_size, config.on_error, config.compat) == (64, "skip", "paper")
    assert (config.sae.val_fraction, config.sae.compat) == (0.1, "authors")
    assert (config.diffc.num_crops, config.diffc.min_scale) == (3, 0.5)
    assert (config.sae.holdout, config.sae.semantics, config.official, config.diffc.variants) == (
        0.1, "official", False, 3
    )  # fmt: skip
    notes = [str(each.message) for each in said]
    assert "run.yaml, line 6: sae.semantics is called compat now: use compat='authors'" in "\n".join(notes)
    assert "run.yaml, line 4: source.on_error is called on_error now" in "\n".join(notes) and len(notes) == 7
    with pytest.raises(ConfigError, match="holdout is the old name of val_fraction: give only val_fraction"):
        parse_config(LEAST + "sae: {holdout: 0.1, val_fraction: 0.2}\n")
    with pytest.warns(RenamedWarning), pytest.raises(ConfigError, match=r"run.yaml, line 2: sae.val_fraction must be"):
        parse_config(LEAST + "sae: {holdout: 3}\n", "run.yaml")


def test_prompts_come_from_one_place() -> None:
    config = parse_config(LEAST + "prompts: {from_clip: some/clip, template: 'a {}', clip_templates: ['my {}']}\n")
    assert (config.prompts.from_clip, config.prompts.clip_templates) == ("some/clip", ("my {}",))
    for text, words in (
        ("prompts: {column: a, file: b.csv}", "prompts: Prompts come from one place only, but a column and a file"),
        ("prompts: {template: a cat}", "prompts: The sentence 'a cat' has no place for the class"),
        ("prompts: {colum: a}", "prompts.colum is not a setting: did you mean 'column'"),
        (
            "prompts: {column: a}\nprompt: b",
            "prompt is one text for all images, but a prompt for each image is asked for",
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            parse_config(LEAST + text + "\n", "c.yaml")
        assert f"c.yaml, line {2 + text.count(chr(10))}: {words}" in str(caught.value), caught.value


def test_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no file"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="is a folder"):
        load_config(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "binary.yaml")
    (tmp_path / "good.yaml").write_text(LEAST)
    assert load_config(tmp_path / "good.yaml", ["out_dir=x"]).out_dir == "x"


def test_the_examples_are_valid() -> None:
    examples = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.yaml"))
    assert len(examples) >= 3
    for example in examples:
        load_config(example)
