"""The Stable Diffusion family against diffusers' own modules, unmodified and hooked; truncation; bad arguments."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from revelio_fast.data import image_to_tensor
from revelio_fast.features import FeatureExtractor
from revelio_fast.features.noise import image_noise
from revelio_fast.models import FAMILIES, OUTPUT, LayerError, ModelError, layer_table
from tests.tiny import digests, picture

LAYERS = ["down_ft0", "down_ft1", "down_ft2", "bottleneck", "up_ft0", "up_ft1", "up_ft2"]
PATHS = {
    **{f"down_ft{i}": f"down_blocks.{i}" for i in range(3)},
    "bottleneck": "mid_block",
    **{f"up_ft{i}": f"up_blocks.{i}" for i in range(3)},
    "conv_in": "conv_in",
    "conv_act": "conv_act",
    "up_blocks.1.resnets.0": "up_blocks.1.resnets.0",
}
IMAGES = [picture(i) for i in range(3)]


@functools.cache
def plain_features(model: Path, size: int, timestep: int, prompt: str, seed: int = 0) -> dict[str, Tensor]:
    """Full maps as a reader of the paper would compute them: whole models, a hook on every layer."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    unet = UNet2DConditionModel.from_pretrained(model, subfolder="unet").eval()
    vae = AutoencoderKL.from_pretrained(model, subfolder="vae").eval()
    tokenizer = CLIPTokenizer.from_pretrained(model, subfolder="tokenizer")
    text = CLIPTextModel.from_pretrained(model, subfolder="text_encoder").eval()
    scheduler = DDIMScheduler.from_pretrained(model, subfolder="scheduler")
    found: dict[str, Tensor] = {}
    for name, path in PATHS.items():
        unet.get_submodule(path).register_forward_hook(
            lambda _m, _i, out, name=name: found.__setitem__(name, out[0] if isinstance(out, tuple) else out)
        )
    with torch.no_grad():
        pixels = torch.stack([image_to_tensor(image, size) for image in IMAGES])
        latents = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
        noise = image_noise(seed, digests(IMAGES, size), timestep, 0, latents.shape[1:])
        # The VAE leaves a channels-last layout behind; in another layout kernels add in another order.
        noisy = scheduler.add_noise(latents, noise, torch.tensor([timestep])).contiguous()
        ids = tokenizer(prompt, padding="max_length", truncation=True, return_tensors="pt").input_ids
        unet(noisy, timestep, encoder_hidden_states=text(ids)[0].repeat(3, 1, 1))
    return found | {"latents": latents}


@pytest.mark.parametrize("size", [32, 36])
@pytest.mark.parametrize("layers", [*([layer] for layer in PATHS), ["up_ft0", "down_ft1"], LAYERS])
def test_truncated_features_equal_those_of_the_whole_network(tiny_sd: Path, layers: list[str], size: int) -> None:
    """At 36 px the latents (9 x 9) are no multiple of the stride: up blocks get their output size from outside."""
    expected = plain_features(tiny_sd, size, 200, "a cat")
    extractor = FeatureExtractor.from_pretrained(tiny_sd, layers, [200], "a cat", image_size=size)
    found = extractor.extract(IMAGES, pool=False)
    for layer in layers:
        assert torch.equal(found[layer, 200], expected[layer]), layer
        assert tuple(found[layer, 200].shape[1:]) == extractor.layer_shapes()[layer]
    assert torch.equal(extractor.latents(IMAGES), expected["latents"])


@pytest.mark.parametrize("layers", [["bottleneck"], ["up_ft1", "down_ft0"], ["up_ft2"]])
def test_the_embedded_model_too(layers: list[str]) -> None:
    assets = pytest.importorskip("revelio_fast.assets")
    model = Path(assets.mini_sd_path())
    extractor = FeatureExtractor.from_pretrained(model, layers, [200], "a handwritten seven")
    expected = plain_features(model, extractor.image_size, 200, "a handwritten seven")
    found = extractor.extract(IMAGES, pool=False)
    for layer in layers:
        assert torch.equal(found[layer, 200], expected[layer]), layer


def test_truncation_leaves_no_unused_block(tiny_sd: Path) -> None:
    unet = FeatureExtractor.from_pretrained(tiny_sd, ["down_ft1"], [0]).family.network
    assert (len(unet.down_blocks), unet.mid_block, len(unet.up_blocks)) == (2, None, 0)
    unet = FeatureExtractor.from_pretrained(tiny_sd, ["up_ft0", "bottleneck"], [0]).family.network
    assert len(unet.down_blocks) == 3
    assert [type(block).__name__ for block in unet.up_blocks] == ["UpBlock2D", "PassThrough"]
    assert not any(hasattr(unet.up_blocks[1], name) for name in ("attentions", "upsamplers"))


def test_pooled_features_are_means_of_the_maps(tiny_sd: Path) -> None:
    extractor = FeatureExtractor.from_pretrained(tiny_sd, LAYERS, [25, 500])
    maps, pooled = (extractor.extract(IMAGES, pool=pool) for pool in (False, True))
    assert list(pooled) == extractor.keys
    for key in extractor.keys:
        assert torch.equal(pooled[key], maps[key].mean((2, 3)))
    assert not torch.equal(pooled["up_ft1", 25], pooled["up_ft1", 500])


def test_tokens_are_folded_into_a_map(tiny_sd: Path) -> None:
    """Channel c of the map at (y, x) is component c of token y w + x."""
    layer = "up_blocks.2.attentions.0.transformer_blocks.0"
    extractor = FeatureExtractor.from_pretrained(tiny_sd, [layer], [25])
    tokens: list[Tensor] = []
    extractor.family.network.get_submodule(layer).register_forward_hook(lambda _m, _i, out: tokens.append(out))
    found = extractor.extract(IMAGES, pool=False)[layer, 25]
    assert found.shape == (3, 32, 8, 8)
    assert torch.equal(found[1, :, 2, 5], tokens[0][1, 2 * 8 + 5])


def test_the_prompt_and_the_seed_matter_and_repeat(tiny_sd: Path) -> None:
    def features(**options: object) -> Tensor:
        return FeatureExtractor.from_pretrained(tiny_sd, ["up_ft1"], [100], **options).extract(IMAGES)["up_ft1", 100]

    base = features()
    assert torch.equal(base, features())
    assert not torch.equal(base, features(prompt="a dog"))
    assert not torch.equal(base, features(seed=1))


def test_random_weights_are_seeded_and_other(tiny_sd: Path) -> None:
    def features(seed: int) -> Tensor:
        made = FeatureExtractor.from_pretrained(tiny_sd, ["up_ft1"], [0], seed=seed, random_weights=True)
        assert made.metadata()["random_weights"] is True
        return made.extract(IMAGES)["up_ft1", 0]

    before = torch.get_rng_state()
    assert torch.equal(features(3), features(3))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.allclose(features(3), features(4))


def test_bf16_is_near_float32(tiny_sd: Path) -> None:
    full, half = (
        FeatureExtractor.from_pretrained(tiny_sd, LAYERS, [25], dtype=dtype).extract(IMAGES, pool=False)
        for dtype in (None, "bf16")
    )
    for key, exact in full.items():
        assert half[key].dtype == torch.bfloat16
        # bf16 rounds to 2^-9; some tens of roundings in a row, added as independent errors, stay below 2^-5.
        error = (half[key].float() - exact).norm() / exact.norm()
        assert error < 2**-5, (key, float(error))


def test_noise_samples_are_averaged(tiny_sd: Path) -> None:
    one = FeatureExtractor.from_pretrained(tiny_sd, ["up_ft1"], [300])
    many = FeatureExtractor.from_pretrained(tiny_sd, ["up_ft1"], [300], noise_samples=3)
    latents = one.latents(IMAGES)
    text = one.family.embed(["", "", ""])
    parts = []
    for sample in range(3):
        noisy = one.family.add_noise(latents, image_noise(0, digests(IMAGES, 32), 300, sample, latents.shape[1:]), 300)
        parts.append(one.family.forward(noisy, torch.full((3,), 300), text)["up_ft1"])
    expected = torch.stack(parts).mean(0)
    found = many.extract(IMAGES, pool=False)["up_ft1", 300]
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, parts[0])


def test_layer_table_is_ordered_and_complete(tiny_sd: Path) -> None:
    table = layer_table(tiny_sd)
    assert [row.name for row in table] == LAYERS
    shares = [row.compute_share for row in table]
    assert shares == sorted(shares) and shares[0] > 0 and shares[-1] < 1
    assert [row.parameters for row in table] == sorted(row.parameters for row in table)
    extractor = FeatureExtractor.from_pretrained(tiny_sd, ["bottleneck"], [0])
    kept = sum(p.numel() for p in extractor.family.network.parameters())
    assert kept == next(row.parameters for row in table if row.name == "bottleneck")
    assert extractor.layer_table() == table


@pytest.mark.parametrize("layer", ["up_ft3", "mid", "", "up_blocks.7", "time_embedding"])
def test_a_wrong_layer_lists_the_right_ones(tiny_sd: Path, layer: str) -> None:
    with pytest.raises(LayerError, match="bottleneck 64x2x2, up_ft0 64x4x4") as caught:
        FeatureExtractor.from_pretrained(tiny_sd, [layer], [25])
    assert repr(layer) in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"timesteps": [1000]}, "timestep 1000 does not exist: this model has 0 to 999"),
        ({"timesteps": [-1]}, "timestep -1 does not exist"),
        ({"timesteps": [2.5]}, "timestep 2.5 does not exist"),
        ({"timesteps": []}, "at least one timestep"),
        ({"timesteps": [25, 25]}, "names 25 twice"),
        ({"layers": []}, "at least one layer"),
        ({"layers": "bottleneck"}, "list of at least one layer"),
        ({"layers": ["up_ft0", "up_ft0"]}, "names 'up_ft0' twice"),
        ({"prompt": None}, "prompt must be one text"),
        ({"prompt": ["a", "b"]}, "prompt must be one text"),
        ({"image_size": 30}, "multiple of 4"),
        ({"image_size": 2}, "multiple of 4"),
        ({"dtype": "int8"}, "dtype must be one of"),
        ({"dtype": torch.float64}, "dtype must be one of"),
        ({"noise_samples": 0}, "noise_samples"),
    ],
)
def test_wrong_arguments(tiny_sd: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        FeatureExtractor.from_pretrained(tiny_sd, **{"layers": ["bottleneck"], "timesteps": [25], **arguments})


@pytest.fixture
def copy_of_sd(tiny_sd: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_sd, tmp_path / "sd"))


def test_a_pickled_checkpoint_is_not_opened(copy_of_sd: Path) -> None:
    weights = copy_of_sd / "unet" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    marker = copy_of_sd / "executed"

    class Bomb:
        def __reduce__(self) -> tuple:
            return Path.touch, (marker,)

    torch.save({"conv_in.weight": Bomb()}, weights.with_suffix(".bin"))
    with pytest.raises(ModelError, match=r"unet of .* cannot be loaded"):
        FeatureExtractor.from_pretrained(copy_of_sd, ["bottleneck"], [25])
    assert not marker.exists()


def test_truncated_weights(copy_of_sd: Path) -> None:
    weights = copy_of_sd / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:10_000])
    with pytest.raises(ModelError, match=r"unet of .* cannot be loaded"):
        FeatureExtractor.from_pretrained(copy_of_sd, ["bottleneck"], [25])


def test_an_unknown_family_and_no_model(copy_of_sd: Path, tmp_path: Path) -> None:
    index = copy_of_sd / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": "SanaPipeline"}))
    with pytest.raises(ModelError, match=r"is a SanaPipeline; the families known here read .*StableDiffusionPipeline"):
        FeatureExtractor.from_pretrained(copy_of_sd, ["bottleneck"], [25])
    with pytest.raises(ModelError, match=r"has no model_index\.json"):
        FeatureExtractor.from_pretrained(tmp_path, ["bottleneck"], [25])
    with pytest.raises(ModelError, match="There is no model folder"):
        FeatureExtractor.from_pretrained(tmp_path / "absent", ["bottleneck"], [25])


def test_a_hub_model_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ModelError, match=r"'owner/name' is no local folder, .*no network"):
        FeatureExtractor.from_pretrained("owner/name", ["bottleneck"], [25])


def test_a_model_that_lacks_its_index_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(ModelError, match=r"'owner/name' has no model_index\.json on the Hugging Face Hub"):
        FeatureExtractor.from_pretrained("owner/name", ["bottleneck"], [25])


UNREACHABLE = """
from revelio_fast import FeatureExtractor
try:
    FeatureExtractor.from_pretrained("owner/name", ["bottleneck"], [25])
except ValueError as error:
    print(error)
"""


def test_a_hub_out_of_reach_is_asked_once(tmp_path: Path) -> None:
    """Its library's other way makes six attempts, with 23 s between them, and says so each time."""
    # nothing listens on port 9 (discard) of this machine, and there is no model in the cache
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    run = subprocess.run([sys.executable, "-c", UNREACHABLE], env=os.environ | nowhere, capture_output=True, text=True)
    assert "'owner/name' is no local folder, and its model_index.json cannot be fetched" in run.stdout, run.stderr
    assert "Retry" not in run.stderr


def test_a_new_family_is_one_file_and_one_line(
    copy_of_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "another_family.py").write_text(
        "from revelio_fast.models.stable_diffusion import StableDiffusion\n"
        "class Negated(StableDiffusion):\n"
        "    def forward(self, *given):\n"
        "        return {name: -value for name, value in super().forward(*given).items()}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(FAMILIES, "NegatedPipeline", "another_family:Negated")
    plain = FeatureExtractor.from_pretrained(copy_of_sd, ["up_ft1"], [25]).extract(IMAGES)
    index = copy_of_sd / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": "NegatedPipeline"}))
    other = FeatureExtractor.from_pretrained(copy_of_sd, ["up_ft1"], [25]).extract(IMAGES)
    assert torch.equal(other["up_ft1", 25], -plain["up_ft1", 25])


def test_an_inpainting_model_is_refused(copy_of_sd: Path) -> None:
    config = copy_of_sd / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"in_channels": 9}))
    with pytest.raises(ModelError, match="takes 9 channels but its VAE gives 4"):
        FeatureExtractor.from_pretrained(copy_of_sd, ["bottleneck"], [25])


def test_one_prompt_an_image(tiny_sd: Path) -> None:
    """Rows of `embed` may be mixed: each image gets the features of its own prompt."""
    prompts = ["", "a cat", "a dog"]
    alone = [FeatureExtractor.from_pretrained(tiny_sd, ["up_ft1"], [200], prompt) for prompt in prompts]
    family = alone[0].family
    told = family.embed(prompts)
    family.release_text()
    latents = alone[0].latents(IMAGES)
    noisy = family.add_noise(latents, image_noise(0, digests(IMAGES, 32), 200, 0, latents.shape[1:]), 200)
    found = family.forward(noisy, torch.full((3,), 200), told)["up_ft1"]
    for row, extractor in enumerate(alone):
        expected = extractor.extract(IMAGES, pool=False)["up_ft1", 200]
        torch.testing.assert_close(found[row], expected[row])
        assert not torch.allclose(found[row], expected[row - 1])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_whole_networks_output_and_its_target(copy_of_sd: Path, prediction: str) -> None:
    from diffusers import UNet2DConditionModel

    path = copy_of_sd / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": prediction}))
    extractor = FeatureExtractor.from_pretrained(copy_of_sd, [OUTPUT, "bottleneck"], [200], "a cat")
    family = extractor.family
    assert family.prediction == prediction
    assert extractor.layer_shapes()[OUTPUT] == family.latent_shape
    latents, noise = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    steps = torch.tensor([0, 200, 999])
    kept = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)[steps].view(3, 1, 1, 1)
    noisy = family.add_noise(latents, noise, steps)
    torch.testing.assert_close(noisy, kept**0.5 * latents + (1 - kept) ** 0.5 * noise)
    expected = {"epsilon": noise, "sample": latents, "v_prediction": kept**0.5 * noise - (1 - kept) ** 0.5 * latents}
    torch.testing.assert_close(family.target(latents, noise, steps), expected[prediction])
    told = family.embed(["a cat"] * 3)
    unet = UNet2DConditionModel.from_pretrained(copy_of_sd, subfolder="unet").eval()
    with torch.no_grad():
        whole = unet(noisy, steps, encoder_hidden_states=told["text"]).sample
    assert torch.equal(family.forward(noisy, steps, told)[OUTPUT], whole)
