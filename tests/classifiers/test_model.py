"""The classifiers' architectures: the paper's parameter count, strides, prediction, saving, and damaged files."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from revelio_fast.classifiers import DiffC, MapClassifier, ResNetHead


def test_parameter_count_is_the_papers() -> None:
    # Revelio section 4: "40M"; the exact count follows from Table 10 with batch norm, at C = 1280 and 37 classes.
    model = DiffC(1280, 37)
    assert sum(p.numel() for p in model.parameters()) == 40_158_245


@pytest.mark.parametrize("channels, count", [(640, 34_260_005), (1152, 38_978_597)])
def test_parameter_count_at_other_widths(channels: int, count: int) -> None:
    # 9 * 1024 weights fewer for each input channel less than 1280.
    assert count == 40_158_245 - 9 * 1024 * (1280 - channels)
    assert sum(p.numel() for p in DiffC(channels, 37).parameters()) == count


def test_the_baselines_size_is_the_papers() -> None:
    # Table 5: 1420 M with the 900 M of Stable Diffusion; section 4.7: 520 M in the residual network.
    with torch.device("meta"):
        model = ResNetHead(1280, 37, width=1280)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) in (519, 520)


def test_the_baseline_is_residual() -> None:
    model = ResNetHead(6, 3, width=8).eval()
    blocks = [m for m in model.blocks if isinstance(m, nn.Module) and hasattr(m, "shortcut")]
    assert len(blocks) == 6 and model.blocks(torch.randn(2, 6, 8, 8)).shape == (2, 16, 4, 4)
    maps = torch.randn(2, 8, 4, 4)
    for parameter in blocks[1].body.parameters():
        parameter.data.zero_()
    assert torch.equal(blocks[1](maps), maps.relu())
    assert ResNetHead(6, 3, width=8)(torch.randn(2, 6, 1, 1)).shape == (2, 3)


def test_layers_are_the_papers() -> None:
    model = DiffC(6, 3, width=8, dropout=0.25)
    assert not model.normalise.affine
    convolutions = [m for m in model.blocks if isinstance(m, nn.Conv2d)]
    assert [(c.stride, c.kernel_size, c.padding) for c in convolutions] == [
        ((s, s), (3, 3), (1, 1)) for s in (1, 2, 2, 2)
    ]
    kinds = [type(m).__name__ for m in model.blocks]
    assert kinds == ["Conv2d", "BatchNorm2d", "ReLU", "Dropout2d"] * 4
    assert model.blocks(torch.randn(2, 6, 16, 16)).shape == (2, 8, 2, 2)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (5, 7), (32, 32)])
def test_any_height_and_width(size: tuple[int, int]) -> None:
    assert DiffC(4, 3, width=8)(torch.randn(3, 4, *size)).shape == (3, 3)


def test_predict_does_not_depend_on_the_batch_size_and_keeps_the_mode() -> None:
    model = DiffC(4, 3, width=8, dropout=0.5).train()
    maps = torch.randn(7, 4, 6, 6)
    one, all_at_once = model.predict(maps, batch_size=1), model.predict(maps, batch_size=7)
    # float32 sums of at most 9 * 8 products in another order: 1e-5 is a hundred times their rounding.
    torch.testing.assert_close(one.probabilities, all_at_once.probabilities, atol=1e-5, rtol=0)
    torch.testing.assert_close(one.probabilities.sum(1), torch.ones(7))
    assert torch.equal(one.labels, one.probabilities.argmax(1))
    assert model.training
    assert model.predict(maps[:0]).labels.shape == (0,)


def test_wrong_maps_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match=r"\[2, 5, 6, 6\], expected \[B, 4, H, W\]"):
        DiffC(4, 3, width=8)(torch.randn(2, 5, 6, 6))
    with pytest.raises(ValueError, match="2 class names came for 3 classes"):
        DiffC(4, 3, class_names=["a", "b"])
    with pytest.raises(ValueError, match="width is 0"):
        DiffC(4, 3, width=0)


def test_save_and_load(tmp_path) -> None:
    model = DiffC(4, 3, width=8, dropout=0.1, class_names=["a", "b", "c"])
    model.train()(torch.randn(5, 4, 6, 6))
    model.save_pretrained(tmp_path)
    again = DiffC.from_pretrained(tmp_path)
    assert not again.training and again.class_names == ["a", "b", "c"] and again.dropout == 0.1
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    maps = torch.randn(3, 4, 6, 6)
    assert torch.equal(model.predict(maps).probabilities, again.predict(maps).probabilities)


def test_each_kind_is_read_as_itself_with_its_features(tmp_path) -> None:
    model = ResNetHead(4, 3, width=8).eval()
    model.features = {"layer": "bottleneck", "timestep": 25}
    model.save_pretrained(tmp_path)
    again = MapClassifier.from_pretrained(tmp_path)
    assert type(again) is ResNetHead and again.features == model.features
    maps = torch.randn(3, 4, 6, 6)
    assert torch.equal(model.predict(maps).probabilities, again.predict(maps).probabilities)
    with pytest.raises(ValueError, match="model_type is not 'diffc'"):
        DiffC.from_pretrained(tmp_path)


def test_damaged_models_are_refused_in_words(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        DiffC.from_pretrained(tmp_path)
    DiffC(4, 3, width=8).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        DiffC.from_pretrained(tmp_path)
    weights.write_bytes(whole)
    about = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(about | {"width": 16}))
    with pytest.raises(ValueError, match="does not fit"):
        DiffC.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(about | {"model_type": "bert"}))
    with pytest.raises(ValueError, match="does not describe a classifier of feature maps"):
        DiffC.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "diffc"}))
    with pytest.raises(ValueError, match="lacks 'in_channels'"):
        DiffC.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        DiffC.from_pretrained(tmp_path)
