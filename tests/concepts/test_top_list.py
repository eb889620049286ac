"""The list of top images: every active latent with its images, names and labels, as CSV and JSON."""

from __future__ import annotations

import json

import torch

from revelio_fast.concepts import TopActivations, top_list, write_top_list
from revelio_fast.csv_text import read_csv
from revelio_fast.ops import Code


def test_the_list_holds_what_the_tops_hold(tmp_path):
    tops = TopActivations(5, 3)
    values = torch.tensor([[2.0, 1.0], [5.0, 0.5], [4.0, 3.0], [1.0, 0.1]])
    tops.update(Code(values, torch.tensor([[0, 1], [1, 3], [1, 0], [1, 3]])), torch.tensor([7, 8, 9, 10]))
    names = {7: "-seven.png", 8: "b/eight.png", 9: "nine.png"}
    listed = top_list(tops, file_names=names, labels={7: 1, 8: 0, 9: -1}, class_names=["ant", "=bee"])
    # Latents 2 and 4 are never active; the others by mean activation: 1 (11 / 4), 0 (5 / 2), 3.
    assert [each["latent"] for each in listed] == [1, 0, 3]
    assert (listed[0]["active"], listed[0]["mean_activation"]) == (4, 2.75)
    assert [image["image_id"] for image in listed[0]["images"]] == [8, 9, 7]
    assert listed[1]["images"] == [
        {"image_id": 9, "file": "nine.png", "activation": 3.0, "label": None, "class_name": None},
        {"image_id": 7, "file": "-seven.png", "activation": 2.0, "label": 1, "class_name": "=bee"},
    ]
    csv, as_json = write_top_list(tmp_path / "tops.safetensors", listed)
    assert json.loads(as_json.read_text()) == listed
    rows = read_csv(csv)
    assert len(rows) == 3 + 2 + 2 and "'-seven.png" in csv.read_text() and "'=bee" in csv.read_text()
    assert rows[4] == {
        "latent": "0", "place": "2", "image_id": "7", "file": "-seven.png", "activation": "2.0", "label": "1",
        "class_name": "=bee",
    }  # fmt: skip
    assert rows[6]["file"] == "" and [each["latent"] for each in top_list(tops, latents=2)] == [1, 0]
