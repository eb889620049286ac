"""Every family against unmodified diffusers modules with hooks; truncation, batches, precision, layers, errors."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from revelio_fast.features import FeatureExtractor
from revelio_fast.features.fixed_shape import FixedShapeForward
from revelio_fast.models import OUTPUT, LayerError, ModelError, layer_table
from tests.fake_cuda import FakeCuda, Syncs
from tests.models.oracles import plain_features
from tests.tiny import picture
from tools.make_random_model import save_random_model

UNETS = ("sd15", "sd21", "sdxl", "if")
TRANSFORMERS = ("dit", "pixart", "sd3", "flux")
FAMILIES = (*UNETS, *TRANSFORMERS)
SIZES = {"if": 16, "sd3": 16, "flux": 16}
UNET_PATHS = {
    **{f"down_ft{i}": f"down_blocks.{i}" for i in range(3)},
    "bottleneck": "mid_block",
    **{f"up_ft{i}": f"up_blocks.{i}" for i in range(3)},
}
BLOCKS = {
    "dit": ["transformer_blocks.0", "transformer_blocks.1", "transformer_blocks.2", "transformer_blocks.3"],
    "pixart": ["transformer_blocks.0", "transformer_blocks.1", "transformer_blocks.2"],
    "sd3": ["transformer_blocks.0", "transformer_blocks.1", "transformer_blocks.2"],
    "flux": [
        "transformer_blocks.0",
        "transformer_blocks.1",
        "single_transformer_blocks.0",
        "single_transformer_blocks.1",
    ],
}
IMAGES = [picture(i) for i in range(3)]
# The noised input may differ in its last bit (2^-23 of its size) from a sum written in another way; the layers of
# these small networks, normalised throughout, do not enlarge that a hundredfold.
CLOSE = 100 * 2**-23

Build = Callable[[str], Path]
Whole = Callable[[str], FeatureExtractor]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Build:
    root = tmp_path_factory.mktemp("families")
    return functools.cache(lambda family: save_random_model(family, root / family, "tiny", torch.float32))


def paths_of(family: str) -> dict[str, str]:
    if family in UNETS:
        return UNET_PATHS
    return {f"block{i}": path for i, path in enumerate(BLOCKS[family])}


def prompt_of(family: str) -> str:
    return "207" if family == "dit" else "A cat"


def size_of(family: str) -> int:
    return SIZES.get(family, 32)


def make(model: Build, family: str, layers: list[str], **options: Any) -> FeatureExtractor:
    options = {"prompt": prompt_of(family), "image_size": size_of(family), **options}
    return FeatureExtractor.from_pretrained(model(family), layers, [250], **options)


@pytest.fixture(scope="module")
def whole(model: Build) -> Whole:
    """The extractor of all layers and the output: nothing is cut off."""
    return functools.cache(lambda family: make(model, family, [*paths_of(family), OUTPUT]))


def image_map(family: str, output: Any) -> Tensor:
    """The image's part of a block's output, as ``[B, C, H, W]``."""
    if family in UNETS:
        return output[0] if isinstance(output, tuple) else output
    tokens = output[1] if isinstance(output, tuple) else output
    side = round(tokens.shape[1] ** 0.5)
    return torch.stack([tokens[:, y * side + x] for y in range(side) for x in range(side)], 2).unflatten(
        2, (side, side)
    )


def assert_near(found: Tensor, expected: Tensor, what: str) -> None:
    assert found.shape == expected.shape, what
    error = float((found - expected).abs().max() / expected.abs().max())
    assert error < CLOSE, (what, error)


@pytest.mark.parametrize("family", FAMILIES)
def test_features_equal_those_of_the_unmodified_network(model: Build, whole: Whole, family: str) -> None:
    paths = paths_of(family)
    found = whole(family).extract(IMAGES, pool=False)
    expected = plain_features(family, model(family), paths, IMAGES, 250, prompt_of(family), size_of(family))
    for layer in paths:
        assert_near(found[layer, 250], image_map(family, expected[layer]), layer)
        assert tuple(found[layer, 250].shape[1:]) == whole(family).layer_shapes()[layer]
    assert_near(found[OUTPUT, 250], expected["prediction"], OUTPUT)
    assert whole(family).layer_shapes()[OUTPUT] == whole(family).family.latent_shape


@pytest.mark.parametrize("family", [family for family in FAMILIES if not family.startswith("sd1")])
def test_truncation_changes_no_bit(model: Build, whole: Whole, family: str) -> None:
    names = list(paths_of(family))
    expected = whole(family).extract(IMAGES, pool=False)
    table = {row.name: row.parameters for row in whole(family).layer_table()}
    for layers in (names[:1], [names[2], names[0]], names[-2:-1]):
        extractor = make(model, family, layers)
        for key, value in extractor.extract(IMAGES, pool=False).items():
            assert torch.equal(value, expected[key]), (layers, key)
        kept = sum(p.numel() for p in extractor.family.network.parameters())
        assert kept == max(table[layer] for layer in layers)


@pytest.mark.parametrize("family", FAMILIES)
def test_batches_and_order_change_only_the_rounding(whole: Whole, family: str) -> None:
    pictures = [picture(i) for i in range(8)]
    eight = whole(family).extract(pictures)
    for rows in ([0], [5], [1, 2, 3], [7, 0, 4], [7, 6, 5, 4, 3, 2, 1, 0]):
        some = whole(family).extract([pictures[i] for i in rows])
        for key, value in some.items():
            # The output's mean over the map nearly cancels: it is compared as a map, by its layers.
            if key[0] != OUTPUT:
                assert_near(value, eight[key][rows], f"{key} {rows}")


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_is_near_float32(model: Build, whole: Whole, family: str) -> None:
    layers = list(paths_of(family))
    full = whole(family).extract(IMAGES, pool=False)
    if family == "flux":
        # It multiplies its guidance by 1000 in its own dtype, 3500 or 3504, so that float32 is another model.
        paths = paths_of(family)
        raw = plain_features(family, model(family), paths, IMAGES, 250, "A cat", 16, torch.bfloat16)
        full = {(layer, 250): image_map(family, raw[layer]).float() for layer in paths}
    half = make(model, family, layers, dtype="bf16").extract(IMAGES, pool=False)
    for key, value in half.items():
        assert value.dtype == torch.bfloat16
        # bf16 rounds to 2^-9; some tens of roundings in a row, added as independent errors, stay below 2^-5.
        error = float((value.float() - full[key]).norm() / full[key].norm())
        assert error < 2**-5, (key, error)


def held_by(family: Any) -> list[torch.nn.Module]:
    """The text encoders that a family holds."""
    encoders = [getattr(family, name)._loaded[1] for name in ("_text", "_second") if hasattr(family, name)]
    pipeline = getattr(family, "_pipeline", None)
    return encoders + [
        part for name, part in (pipeline.components if pipeline else {}).items() if "encoder" in name and part
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_are_rows(whole: Whole, family: str) -> None:
    """Three prompts at once are the three alone, and each matters to its own image only."""
    prompts = ["", "3", "207"] if family == "dit" else ["", "A cat", "a dog on a lawn"]
    known = whole(family).family
    together = known.embed(prompts)
    noisy = torch.randn(1, *known.latent_shape).repeat(3, 1, 1, 1)
    steps = torch.full((3,), 250)
    found = known.forward(noisy, steps, together)[OUTPUT]
    for row, prompt in enumerate(prompts):
        alone = {name: value.expand(3, *value.shape[1:]) for name, value in known.embed([prompt]).items()}
        assert_near(found[row], known.forward(noisy, steps, alone)[OUTPUT][row], prompt)
        assert not torch.allclose(found[row], found[row - 1])
    encoders = [weakref.ref(x) for x in held_by(known)]
    known.release_text()
    assert not [encoder for encoder in encoders if encoder()]
    again = known.embed(prompts)
    assert all(torch.equal(again[name], together[name]) for name in together)


def test_two_processes_on_two_halves(model: Build, whole: Whole, tmp_path: Path) -> None:
    """The odd images in a process of their own, the even ones here, against all of them in one batch."""
    families = ["dit", "if"]
    layers = {family: list(paths_of(family))[1] for family in families}
    asked = [f"{model(family)}:{size_of(family)}:{prompt_of(family)}:{layers[family]}" for family in families]
    other = subprocess.Popen(
        [sys.executable, "-m", "tests.features.extract_half", tmp_path / "odd.safetensors", "1", *asked]
    )
    pictures = [picture(i) for i in range(8)]
    every = {f: whole(f).extract(pictures)[layers[f], 250] for f in families}
    even = {f: whole(f).extract(pictures[::2])[layers[f], 250] for f in families}
    assert other.wait() == 0
    odd = load_file(tmp_path / "odd.safetensors")
    for family in families:
        assert_near(even[family], every[family][::2], family)
        assert_near(odd[str(model(family))], every[family][1::2], family)


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_are_known_without_weights(model: Build, family: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model(family), tmp_path / family))
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    table = layer_table(folder, size_of(family))
    assert [row.name for row in table] == list(paths_of(family))
    shares = [row.compute_share for row in table]
    assert shares == sorted(shares) and shares[0] > 0 and shares[-1] < 1
    assert [row.parameters for row in table] == sorted(row.parameters for row in table)
    first = table[0]
    with pytest.raises(LayerError, match=f"{first.name} {'x'.join(map(str, first.shape))}, {table[1].name}"):
        FeatureExtractor.from_pretrained(folder, ["nonsense"], [250], image_size=size_of(family))


def test_random_weights_of_a_transformer(model: Build) -> None:
    trained, fresh, again = (
        make(model, "dit", ["block1"], random_weights=r, seed=3).extract(IMAGES) for r in (False, True, True)
    )
    assert torch.equal(fresh["block1", 250], again["block1", 250])
    assert not torch.allclose(fresh["block1", 250], trained["block1", 250])


def test_module_paths_of_joint_attention(model: Build) -> None:
    """A block of SD3 gives (prompt, image), its attention (image, prompt): the image is read from either."""
    layers = ["transformer_blocks.0.attn", "transformer_blocks.1.ff", "transformer_blocks.1"]
    extractor = make(model, "sd3", layers)
    found = extractor.extract(IMAGES, pool=False)
    raw = plain_features("sd3", model("sd3"), {n: n for n in layers}, IMAGES, 250, "A cat", 16)
    for layer, position in zip(layers, (0, None, 1), strict=True):
        output = raw[layer] if position is None else raw[layer][position]
        assert_near(found[layer, 250], image_map("dit", output), layer)
    with pytest.raises(LayerError, match=r"'time_text_embed' gives no feature map in .* block0 32x4x4, block1 32x4x4"):
        make(model, "sd3", ["time_text_embed"])


def test_flow_noise_and_target(model: Build) -> None:
    family = make(model, "sd3", ["block0"]).family
    latents, noise = torch.randn(2, 16, 8, 8), torch.randn(2, 16, 8, 8)
    noisy = family.add_noise(latents, noise, torch.tensor([0, 750]))
    assert torch.equal(noisy[0], latents[0])
    torch.testing.assert_close(noisy[1], 0.25 * latents[1] + 0.75 * noise[1])
    torch.testing.assert_close(family.target(latents, noise, 750), noise - latents)
    assert family.prediction == "flow"
    # The same ratio of signal to noise as a diffusion with sqrt(a) : sqrt(1 - a) = 0.25 : 0.75.
    torch.testing.assert_close(family.alphas_cumprod[750], torch.tensor(0.1))


def test_dit_official_is_the_authors_view_without_noise(model: Build) -> None:
    """Latents without noise, all blocks stacked ``[B, blocks, N, D]``, then ``view(B, D, side, side)``."""
    from diffusers import AutoencoderKL, DiTTransformer2DModel

    from revelio_fast.data import image_to_tensor

    folder = model("dit")
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae").eval()
    dit = DiTTransformer2DModel.from_pretrained(folder, subfolder="transformer").eval()
    collected: list[Tensor] = []
    for block in dit.transformer_blocks:
        block.register_forward_hook(lambda _m, _i, out: collected.append(out))
    with torch.no_grad():
        pixels = torch.stack([image_to_tensor(image, 32) for image in IMAGES])
        latents = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
        dit(latents.contiguous(), timestep=torch.full((3,), 250), class_labels=torch.full((3,), 1000))
    stacked = torch.stack(collected, 1)
    extractor = make(model, "dit", ["block1", "block3"], prompt="", compat="authors")
    found = extractor.extract(IMAGES, pool=False)
    for block in (1, 3):
        assert torch.equal(found[f"block{block}", 250], stacked[:, block].view(3, 32, 4, 4))
    pooled = extractor.extract(IMAGES)
    assert torch.equal(pooled["block1", 250], stacked[:, 1].view(3, 32, 4, 4).mean((2, 3)))
    assert extractor.metadata()["compat"] == "authors"
    assert "compat" not in make(model, "dit", ["block1"]).metadata()


def test_dit_reads_class_names(model: Build, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model("dit"), tmp_path / "dit"))
    index = folder / "model_index.json"
    names = {"0": "tench, Tinca tinca", "207": "golden retriever"}
    index.write_text(json.dumps(json.loads(index.read_text()) | {"id2label": names}))
    family = FeatureExtractor.from_pretrained(folder, ["block0"], [0]).family
    labels = family.embed(["", "Golden Retriever", "tinca tinca", "17"])["class_labels"]
    assert labels.tolist() == [1000, 207, 0, 17] and labels.dtype == torch.int64
    for prompt in ("a photo of a dog", "1001", "-1"):
        with pytest.raises(ModelError, match=f"reads classes, not prompts: '{prompt}'"):
            family.embed([prompt])


def edited(folder: Path, file: str, changes: dict[str, Any]) -> Path:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.mark.parametrize(
    ("family", "file", "changes", "message"),
    [
        ("sdxl", "model_index.json", {"text_encoder": [None, None]}, "a refiner, which continues"),
        ("if", "unet/config.json", {"in_channels": 6}, "a later stage of IF"),
        ("sd15", "unet/config.json", {"in_channels": 9}, "takes 9 channels but its VAE gives 4"),
        ("dit", "scheduler/scheduler_config.json", {"beta_schedule": None, "_class_name": "X"}, "cannot be loaded"),
        ("pixart", "vae/config.json", {"_class_name": "AutoencoderDC"}, "is a AutoencoderDC; only AutoencoderKL"),
        ("sd3", "transformer/config.json", {"_class_name": "NewTransformer"}, "'NewTransformer', unknown to the"),
    ],
)
def test_models_that_cannot_be_read(
    model: Build, tmp_path: Path, family: str, file: str, changes: dict[str, Any], message: str
) -> None:
    folder = edited(Path(shutil.copytree(model(family), tmp_path / family)), file, changes)
    with pytest.raises(ModelError, match=message):
        FeatureExtractor.from_pretrained(folder, list(paths_of(family))[:1], [250])


def test_a_scheduler_without_betas(model: Build, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model("sd15"), tmp_path / "sd"))
    (folder / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "EDMEulerScheduler"}')
    with pytest.raises(ModelError, match="is a EDMEulerScheduler, which gives no betas"):
        FeatureExtractor.from_pretrained(folder, ["bottleneck"], [250])


@pytest.mark.parametrize("family", ["dit", "flux"])
def test_image_sizes_fit_the_patches(model: Build, family: str) -> None:
    step = 8 if family == "dit" else 4
    with pytest.raises(ModelError, match=f"multiple of {step}, the VAE's reduction times the patch size, got 6"):
        make(model, family, ["block0"], image_size=6)
    assert make(model, family, ["block0"], image_size=3 * step).layer_shapes() == {"block0": (*_width(family), 3, 3)}


def _width(family: str) -> tuple[int]:
    return (32,) if family == "dit" else (64,)


def test_official_is_for_dit(model: Build) -> None:
    with pytest.raises(ModelError, match="compat='authors' reproduces what the authors' code does to DiT"):
        make(model, "sd15", ["bottleneck"], compat="authors")


def test_loading_shows_no_bars(model: Build, capfd: pytest.CaptureFixture[str]) -> None:
    for family in ("sdxl", "sd3"):
        make(model, family, list(paths_of(family))[:1])
    written = "".join(capfd.readouterr())
    assert "it/s" not in written and "Loading" not in written, written


@pytest.mark.parametrize("family", ["sd21", "dit"])
def test_the_compiler_takes_the_tapped_network_in_one_piece(
    model: Build, whole: Whole, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """Captured without a break, hooks included, and run by PyTorch itself: the same bits, for one shape once."""
    from torch._dynamo.utils import counters

    plain_compile = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", functools.partialmethod(plain_compile, backend="eager"))
    layers = list(paths_of(family))[:2]
    extractor = make(model, family, layers, compile=True)
    torch._dynamo.reset()
    counters.clear()
    for images in (IMAGES, IMAGES[::-1]):
        found = extractor.extract(images, pool=False)
        expected = whole(family).extract(images, pool=False)
        assert all(torch.equal(found[key], expected[key]) for key in found)
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
    assert extractor.metadata()["compile"] is True


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd21", "dit"])
def test_compiled_features_differ_in_the_rounding(model: Build, whole: Whole, family: str) -> None:
    layer = list(paths_of(family))[1]
    found = make(model, family, [layer], compile=True).extract(IMAGES, pool=False)
    assert_near(found[layer, 250], whole(family).extract(IMAGES, pool=False)[layer, 250], layer)


@pytest.mark.parametrize("family", FAMILIES)
def test_replays_of_a_captured_forward(whole: Whole, family: str) -> None:
    """One graph serves all prompts and images of a shape, and gives the bits of eager runs."""
    known = whole(family).family
    cuda = FakeCuda()
    captured = FixedShapeForward(known.forward, torch.device("cpu"), capture=True, cuda=cuda)
    prompts = [["", "3"], ["207", "3"]] if family == "dit" else [["", "a dog"], ["A cat", "a dog"]]
    for texts, timestep in ((prompts[0], 250), (prompts[1], 20)):
        given = torch.randn(2, *known.latent_shape), torch.full((2,), timestep), known.embed(texts)
        found, expected = captured(*given), known.forward(*given)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert [graph.replays for graph in cuda.graphs] == [2]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_forward_never_waits_for_the_gpu(model: Build, family: str) -> None:
    """A GPU played by the meta device: nothing is read back, nothing copied from the host."""
    layer = list(paths_of(family))[1]
    known = make(model, family, [layer]).family
    told = {name: rows.to("meta") for name, rows in known.embed(["", "3"]).items()}
    known.network.to("meta")
    known._spec = dataclasses.replace(known._spec, device=torch.device("meta"))
    with Syncs() as syncs:
        known.forward(
            torch.empty(2, *known.latent_shape, device="meta"), torch.empty(2, dtype=torch.int64, device="meta"), told
        )
    assert not syncs.found


def test_the_vae_that_overflows_runs_in_float32(model: Build, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model("sdxl"), tmp_path / "xl"))
    for upcast, dtype in ((True, torch.float32), (False, torch.float16)):
        edited(folder, "vae/config.json", {"force_upcast": upcast})
        made = FeatureExtractor.from_pretrained(folder, ["down_ft0"], [250], dtype="fp16", device="cpu")
        assert made.family._space._vae.dtype == dtype
        assert made.latents(IMAGES).dtype == torch.float32
        assert made.extract(IMAGES, pool=False)["down_ft0", 250].dtype == torch.float16
