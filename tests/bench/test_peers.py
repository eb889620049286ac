"""The bench of peers: whatever is installed runs from our start to our result, and the absent are named."""

import json
import sys

import pytest
import torch

import bench.__main__
import bench.readme
from bench.peers import packages
from bench.peers.catalog import IMPLEMENTATIONS, OURS
from bench.peers.packages import NotInstalled, Package, load
from bench.peers.run import Way, choose, main, same_latents, table
from bench.problems import Shape, inputs

SHAPE = Shape(32, 24, 256, 4)
SIZES = [part for name, value in SHAPE._asdict().items() for part in (f"--{name}", str(value))]
PEERS = [one for one in IMPLEMENTATIONS if one.package is not None]
WORK = [(one, what) for one in PEERS for what in ("step", "encode") if getattr(one, what) is not None]
SLOW = "torch-compile"  # compiling takes most of a minute
QUICK = {w: [one.name for one in IMPLEMENTATIONS if getattr(one, w) and one.name != SLOW] for w in ("step", "encode")}
# A sum of 768 float32 squares, in any order, and the float32 scores below: a few units of 2^-24 times the terms added.
FLOAT32 = 1e-5
# One bf16 rounding of each input of a product is 2^-9; FVU and scores add such errors of either sign.
BF16 = 2**-7


@pytest.fixture(autouse=True)
def biases(monkeypatch):
    """Biases that matter, so that a peer that is not given them is seen."""

    def biased(shape):
        p = inputs(shape)
        return p._replace(b_enc=torch.randn(shape.n) / 2, b_pre=torch.randn(shape.d) / 2)

    monkeypatch.setattr("bench.peers.run.inputs", biased)


def measured(tmp_path, what, only):
    path = tmp_path / "peers.json"
    assert main(["--what", what, *SIZES, "--repeats", "1", "--json", str(path), "--only", *only]) == 0
    return json.loads(path.read_text())


def check_step(row):
    bf16 = "bf16" in row["impl"]
    assert row["max_rel_err"] <= (BF16 if bf16 else FLOAT32), row
    # Adam's first steps move every weight by the learning rate, against the gradient.
    assert row["fvu_last"] < row["fvu_first"] * (1 - 1e-3), row
    assert row["updates_between"] == 2 and row["median_s"] > 0 and row["ours_faster"] > 0


def test_every_installed_step_starts_and_learns_like_ours(tmp_path):
    found = measured(tmp_path, "step", QUICK["step"])
    names = [row["impl"] for row in found["rows"]]
    assert sorted([*names, *found["not_installed"]]) == sorted(QUICK["step"])
    assert {"torch", "torch-bf16", OURS} <= set(names)
    for row in found["rows"]:
        check_step(row)
    after = {row["impl"]: row["fvu_last"] for row in found["rows"]}
    assert after[OURS] == pytest.approx(after["torch"], rel=FLOAT32)
    installed = {one.package.distribution for one in PEERS if one.name in names}
    assert set(found["stamp"]["peers"]) == installed


def test_every_installed_encoder_finds_the_same_latents(tmp_path):
    found = measured(tmp_path, "encode", QUICK["encode"])
    names = [row["impl"] for row in found["rows"]]
    assert sorted([*names, *found["not_installed"]]) == sorted(QUICK["encode"])
    assert {"torch", "torch-bf16", OURS, f"{OURS}-fp32", f"{OURS}-bf16"} <= set(names)
    for row in found["rows"]:
        bf16 = "bf16" in row["impl"]
        assert row["max_rel_err"] <= (BF16 if bf16 else FLOAT32), row
        # Of these 128 latents the closest to its row's k-th leads by more than float32 rounds; bf16 swaps a few.
        assert row["same_latents"] >= (0.95 if bf16 else 1), row


@pytest.mark.slow
def test_compiled_step_is_the_eager_one(tmp_path):
    for row in measured(tmp_path, "step", ["torch", "torch-compile", OURS])["rows"]:
        check_step(row)


@pytest.mark.parametrize(("one", "what"), WORK, ids=[f"{one.name}-{what}" for one, what in WORK])
def test_an_absent_peer_says_how_to_install_it(monkeypatch, one, what):
    monkeypatch.setitem(sys.modules, one.package.module, None)
    with pytest.raises(NotInstalled) as caught:
        getattr(one, what)(inputs(SHAPE), SHAPE)
    assert str(caught.value) == f"{one.package.distribution} is not installed: {one.package.install}"


def test_absent_peers_are_listed_and_left_out(monkeypatch):
    for one in PEERS:
        monkeypatch.setitem(sys.modules, one.package.module, None)
    chosen, absent = choose("encode", None)
    assert not {one.name for one in chosen} & {one.name for one in PEERS}
    assert set(absent) == {one.name for one in PEERS if one.encode}
    assert "pip install" in absent["faiss"]
    assert choose("step", ["sparsify"]) == ([], {"sparsify": absent["sparsify"]})
    assert main(["--only", "sparsify"]) == 1


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes a module that can be imported for the length of a test."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)

    return write


def test_a_peer_whose_own_import_fails_names_what_is_missing(written):
    written("peer_without", "import not_there_at_all")
    with pytest.raises(NotInstalled, match=r"^of-pip cannot be imported, not_there_at_all is missing: pip install X$"):
        load(Package("of-pip", "peer_without", "pip install X"))


def test_stand_ins_last_for_the_import_only(written, monkeypatch):
    monkeypatch.setenv("READ_AT_IMPORT", "0")
    written("peer_plotting", "import os\nfrom not_there import draw\nread = os.environ['READ_AT_IMPORT']")
    peer = load(Package("p", "peer_plotting", not_needed=("not_there",), environment=(("READ_AT_IMPORT", "1"),)))
    assert peer.draw is None and peer.read == "1"
    assert "not_there" not in sys.modules


def test_a_module_that_is_there_is_not_replaced(written):
    written("peer_json", "from json import loads")
    assert load(Package("p", "peer_json", not_needed=("json",))).loads is json.loads
    assert sys.modules["json"] is json


def test_every_peer_has_a_pinned_version():
    pinned = (bench.readme.ROOT / "bench" / "peers" / "requirements.txt").read_text()
    for one in PEERS:
        assert f"\n{one.package.distribution}==" in pinned
    assert packages.NO_DEPS.endswith("--no-deps -r bench/peers/requirements.txt")


def test_reading_a_result_is_not_timed_and_codes_are_let_go():
    dense = torch.tensor([[0.0, 3.0, 1.0, 2.0]])
    ran = []

    def build(p, shape):
        ran.append("built")
        return lambda: ran.append("ran") or dense

    way = Way(build, inputs(SHAPE), Shape(1, 2, 4, 2))
    assert way().tolist() == [[3.0, 2.0]] and way.indices.tolist() == [[1, 3]]
    assert way() is dense and way.last.tolist() == [[3.0, 2.0]]
    assert ran == ["built", "ran", "ran"]


def test_pairs_in_any_order_are_read_in_falling_order():
    pair = torch.tensor([[1.0, 5.0, 3.0]]), torch.tensor([[7, 2, 9]])
    way = Way(lambda p, shape: lambda: pair, inputs(SHAPE), Shape(1, 2, 10, 3))
    assert way().tolist() == [[5.0, 3.0, 1.0]] and way.indices.tolist() == [[2, 9, 7]]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from /proc")
def test_memory_held_is_what_building_leaves_behind():
    def build(p, shape):
        held = torch.ones(16 * 2**20)  # 64 MB
        return lambda: held[0] + torch.ones(32 * 2**20)[0]  # 128 MB more, given back

    way = Way(build, inputs(SHAPE), SHAPE)
    way()
    # Threads and arenas that torch starts on the way are a few MB.
    assert 60 <= way.held_mb <= 90


def test_same_latents_is_the_share_found_in_the_same_row():
    mine, others = torch.tensor([[0, 1], [2, 3]]), torch.tensor([[1, 0], [3, 0]])
    assert same_latents(mine, others, 4) == 0.75


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "faiss"], "faiss cannot step"),
        (["--only", "torch", "--k", "9", "--n", "8"], "k at most n"),
        (["--only", "torch", "--repeats", "0"], "0 repeats"),
        (["--only", "nobody"], "invalid choice"),
    ],
)
def test_wrong_arguments_are_named(capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_too_little_memory_is_warned_of(capsys, monkeypatch):
    monkeypatch.setattr("bench.measure.free_gb", lambda: 0.0)
    assert main(["--what", "encode", *SIZES, "--repeats", "1", "--only", "torch"]) == 0
    assert "name fewer with --only" in capsys.readouterr().err


def test_the_command_line_reaches_it_and_the_readme_shows_its_table(capsys, monkeypatch, tmp_path):
    path = tmp_path / "bench" / "results" / "peers_step.json"
    monkeypatch.setattr(
        sys, "argv", ["bench", "peers", *SIZES, "--repeats", "1", "--json", str(path), "--only", "torch", OURS]
    )
    with pytest.raises(SystemExit) as caught:
        bench.__main__.main()
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert f"| peers step | {OURS} |" in printed and "\n- torch: dense float32" in printed
    assert table(json.loads(path.read_text())["rows"]) in printed
    for folder in ("docs", "."):
        (tmp_path / folder).mkdir(exist_ok=True)
    for name in bench.readme.FILES:
        (tmp_path / name).write_text("<!-- bench:peers_step --><!-- /bench -->")
    monkeypatch.setattr(bench.readme, "ROOT", tmp_path)
    bench.readme.main()
    assert table(json.loads(path.read_text())["rows"]) in (tmp_path / "README.md").read_text()
