"""The certificate of Triton's topk_encode attacked: data built so that each step of its proof is needed.

Most problems are small integers: their float32 scores are exact in any order of summation, and their bfloat16 roundings
are not, so the code must equal the sorted float64 scores, ties included.
"""

import pytest
import torch

from revelio_fast.ops import EncoderShadow
from tests.ops.cases import assert_close, dot_error

pytest.importorskip("triton", reason="Triton is not installed")
from revelio_fast.ops.topk_encode import triton as triton_encode
from revelio_fast.ops.topk_encode import triton_plan
from revelio_fast.ops.topk_encode.triton_plan import plan, traffic
from revelio_fast.ops.triton_runtime import unavailable

if unavailable():
    pytest.skip(f"Triton kernels cannot run here: {unavailable()}", allow_module_level=True)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PRECISIONS = ["fp32", "bf16"]


class Case:
    """An encoder without b_pre, zero but for what a test writes into it, and what comes out."""

    def __init__(self, B: int, d: int, n: int, k: int):
        self.x, self.W_enc, self.b_enc, self.k = torch.zeros(B, d), torch.zeros(n, d), torch.zeros(n), k
        self.scores: torch.Tensor

    def run(self, precision: str, shadow: EncoderShadow | None = None, relu: bool = False):
        tensors = [t.to(DEVICE) for t in (self.x, self.W_enc, self.b_enc, torch.zeros(self.x.shape[1]))]
        values, indices, found = triton_encode.encode(*tensors, self.k, relu, precision, *(shadow or ()))
        x, W_enc = self.x, self.W_enc
        if precision == "bf16":
            x, W_enc = x.bfloat16(), W_enc.bfloat16()
        self.scores = x.double() @ W_enc.double().T + self.b_enc.double()
        self.found = triton_encode.Candidates(*(t.cpu() for t in found))
        return values.cpu(), indices.cpu()

    def exact(self) -> tuple[torch.Tensor, torch.Tensor]:
        values, indices = self.scores.sort(dim=1, descending=True, stable=True)
        return values[:, : self.k], indices[:, : self.k]

    def assert_exact(self, precision: str) -> None:
        values, indices = self.run(precision)
        want_values, want_indices = self.exact()
        assert torch.equal(indices, want_indices)
        assert torch.equal(values.double(), want_values)
        self.assert_certified()

    def assert_certified(self) -> None:
        """Every latent that reaches the k-th exact score is a candidate, in each row that was screened."""
        kth = self.exact()[0][:, -1]
        for row in (self.found.total >= 0).nonzero().flatten().tolist():
            listed = self.found.latents[row, : self.found.total[row]].tolist()
            assert len(set(listed)) == len(listed)
            assert set((self.scores[row] >= kth[row]).nonzero().flatten().tolist()) <= set(listed)

    def groups(self, precision: str) -> torch.Tensor:
        """``[groups, members]``: the latents of each group."""
        (B, d), n = self.x.shape, self.W_enc.shape[0]
        sizes = plan(B, d, n, self.k, precision, 80)
        assert sizes.screened
        tiles = torch.arange(-(-n // sizes.tile.latents) * sizes.tile.latents).view(-1, sizes.tile.latents)
        grouped = tiles.view(len(tiles), sizes.members, -1).transpose(1, 2).reshape(-1, sizes.members)
        return grouped[(grouped < n).all(1)]


@pytest.fixture(params=[80, 90], ids=["pointers", "descriptors"])
def loads(request, monkeypatch):
    """Both ways of reading the operands; on a GPU the one that it has."""
    if DEVICE == "cpu":
        monkeypatch.setattr(triton_encode, "capability", lambda device: request.param)


def integers(case: Case, largest: int = 2) -> Case:
    case.x = torch.randint(-largest, largest + 1, case.x.shape).float()
    case.W_enc = torch.randint(-largest, largest + 1, case.W_enc.shape).float()
    case.b_enc = torch.randint(-largest, largest + 1, case.b_enc.shape).float()
    return case


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("n", "k", "members"), [(512, 8, 32), (512, 16, 16), (300, 12, 8)])
def test_winners_that_hide_behind_one_another(precision, n, k, members, monkeypatch):
    """All k winners, and more, are in one group, in ascending and in descending order of their scores."""
    monkeypatch.setattr(triton_plan, "certificate_bytes", lambda d, n, k, size, p: (-size,))
    case = Case(3, 8, n, k)
    assert plan(3, 8, n, k, precision, 80).members == members
    group = case.groups(precision)[5]
    case.x[:, 0] = torch.tensor([1.0, 2.0, 3.0])
    case.b_enc = -torch.randperm(n).float() - 2.0
    case.b_enc[group] = 0.0
    case.W_enc[group, 0] = torch.arange(members) + 5.0
    case.W_enc[group[: members // 2], 0] = case.W_enc[group[members // 2 :], 0].flip(0)
    case.assert_exact(precision)
    assert (case.found.n_overflown == 0).all()
    assert (case.found.total - case.found.known >= members).all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_second_winner_is_revisited_only_where_there_is_one(precision):
    """Scores far apart: k groups of one winner each cost no repair; a hidden one costs one group."""
    case = Case(2, 8, 512, 4)
    groups = case.groups(precision)
    case.x[:, 0] = 1.0
    case.W_enc[groups[:6, 3], 0] = torch.tensor([90.0, 80, 70, 60, 20, 10])
    case.assert_exact(precision)
    assert case.found.total.tolist() == [4, 4]
    case.W_enc[groups[0, 5], 0] = 65.0
    case.assert_exact(precision)
    if precision == "bf16":
        assert case.found.known.tolist() == [3, 3]  # only the first group is scored again
    assert case.found.total.tolist() == [3 + groups.shape[1]] * 2


@pytest.mark.parametrize("precision", PRECISIONS)
def test_ties_within_and_across_groups(precision, loads):
    case = integers(Case(20, 6, 600, 9))
    case.assert_exact(precision)
    assert (case.found.total > 9).any()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_tie_for_the_last_place_between_groups(precision):
    """One candidate more than places, all equal: the lower latent is kept whichever group it is in."""
    case = Case(1, 4, 512, 4)
    groups = case.groups(precision)
    case.x[:] = 1.0
    tied = torch.cat([groups[:4, 2], groups[9:11, 0]])
    case.b_enc[tied] = 3.0
    case.assert_exact(precision)
    assert case.found.total.item() == 6


@pytest.mark.parametrize("precision", PRECISIONS)
def test_neighbours_that_are_alike(precision):
    """Runs of eight latents of one direction: strided groups keep them apart, their ties go to the lower one."""
    case = integers(Case(6, 16, 1024, 6))
    case.W_enc = case.W_enc[::8].repeat_interleave(8, 0)
    case.b_enc = case.b_enc[::8].repeat_interleave(8, 0)
    case.assert_exact(precision)


def test_scores_that_bfloat16_cannot_tell_apart():
    case = Case(2, 4, 512, 4)
    case.x[:] = 1.0
    chosen = case.groups("fp32")[:12, 1]
    case.W_enc[chosen, 0] = 1024.0 + torch.randperm(12) * 0.25  # all of them 1024 in bfloat16
    case.assert_exact("fp32")
    assert (case.found.n_overflown == 0).all()
    screened = set(case.run("bf16")[1][0].tolist())
    assert screened != set(case.run("fp32")[1][0].tolist())


def test_rounding_of_the_weights_against_the_winner():
    """A winner whose roundings all go down, by all that the bound allows, below rivals whose roundings all go up."""
    case = Case(1, 16, 512, 4)
    groups = case.groups("fp32")
    case.x[:] = 256.0
    case.W_enc[groups[7, 1]] = 522.0  # 520 in bfloat16
    rivals = groups[8:14, 2]
    case.W_enc[rivals] = 523.0  # 524
    case.W_enc[rivals, 5] = 504.0  # exact
    case.assert_exact("fp32")
    assert case.found.total.item() == 7  # nothing but the bound let the winner in: it is a candidate, not a fallback
    best = case.exact()[1][0, 0].item()
    assert best == groups[7, 1].item() and best not in case.run("bf16")[1]


def test_rounding_of_the_row_against_the_winner():
    case = Case(1, 16, 512, 4)
    groups = case.groups("fp32")
    case.x[:, :8] = 522.0  # 520 in bfloat16
    case.x[:, 8:] = 518.0  # 520
    case.W_enc[groups[7, 1], :8] = 256.0
    rivals = groups[8:14, 2]
    case.W_enc[rivals, 8:] = 258.0
    case.W_enc[rivals, 9] = 256.0
    case.assert_exact("fp32")
    assert case.found.total.item() == 7
    best = case.exact()[1][0, 0].item()
    assert best == groups[7, 1].item() and best not in case.run("bf16")[1]


@pytest.mark.parametrize("bias", [0.0, 2.0**20])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_sums_that_only_their_order_sets_apart(precision, bias):
    """Latents with the same terms in another order: equal scores, but not equal float32 sums.

    Their exact sum, 1/16, is half the last place of the large bias: there the order decides the rounding too.
    """
    case = Case(1, 96, 512, 4)
    terms = (torch.randn(84) * 2.0 ** torch.randint(-12, 3, (84,))).bfloat16().double()
    rest = []
    for _ in range(12):  # bfloat16 numbers that make the exact sum 1/16
        left = 1 / 16 - terms.sum().item() - sum(rest)
        rest.append(torch.tensor(left).bfloat16().double().item())
    terms = torch.cat([terms, torch.tensor(rest, dtype=torch.float64)])
    assert terms.sum().item() == 1 / 16
    case.x[:] = 1.0
    alike = case.groups(precision)[:12, 1]
    case.W_enc[alike] = torch.stack([terms[torch.randperm(96)] for _ in alike]).float()
    case.b_enc[alike] = bias
    case.run(precision)
    case.assert_certified()
    assert case.found.total.item() == 12
    scores = (case.W_enc[alike] @ case.x[0] + bias).unique()
    assert scores.numel() > 1 or DEVICE != "cpu"  # the attack is one: float32 sums do differ


def test_one_huge_channel():
    case = integers(Case(4, 12, 1024, 8), 3)
    case.x[:, 3] = 30_001.0  # 29,952 in bfloat16
    case.W_enc[:, 3] = torch.randint(-3, 4, (1024,)).float()
    case.assert_exact("fp32")


@pytest.mark.parametrize(
    ("scale", "bias"), [(1.0, 0.0), (1.0, 1e6), (1e-25, 0.0), (1e12, 0.0)], ids=["plain", "bias", "tiny", "large"]
)
@pytest.mark.parametrize("inputs", ["float32", "bfloat16"])
def test_the_certificate_bounds_every_score(scale, bias, inputs, loads):
    """The kept maximum of a group bounds its exact scores, the kept second all but one of them.

    With inputs that are bfloat16 already, nothing but the order of summation and the bias make an error.
    """
    case = Case(5, 70, 500, 4)
    case.x, case.W_enc = torch.randn(5, 70) * scale, torch.randn(500, 70)
    case.b_enc = bias * torch.randn(500)
    if inputs == "bfloat16":
        case.x, case.W_enc = case.x.bfloat16().float(), case.W_enc.bfloat16().float()
    sizes = plan(5, 70, 500, 4, "fp32", triton_encode.capability(torch.device(DEVICE)))
    x, W_enc, b_enc = (t.to(DEVICE) for t in (case.x, case.W_enc, case.b_enc))
    rounded = triton_encode._rounded(x, torch.zeros_like(x[0])), triton_encode._rounded(W_enc, None)
    top, second = (t.cpu() for t in triton_encode._certificate(*rounded, b_enc, sizes, 70, True))
    scores = case.x.double() @ case.W_enc.double().T + case.b_enc.double()
    tiles = torch.nn.functional.pad(scores, (0, -500 % sizes.tile.latents), value=-torch.inf)
    groups = tiles.view(5, -1, sizes.members, sizes.tile.latents // sizes.members).transpose(2, 3)
    groups = groups.reshape(5, sizes.groups, sizes.members)
    best_two = groups.topk(2, dim=2).values
    assert (top.double() >= best_two[..., 0]).all()
    steps = (second.int() >> 5) & 2047
    scale = (((top.view(torch.int32) >> 23) & 0xFF) - 32) << 5
    gap = torch.where(steps > 0, (steps + scale).clamp(min=0) << 18, 0).view(torch.float32)
    others = groups.scatter(2, (second & 31).long()[..., None], -torch.inf).amax(2)
    assert ((top - gap).double() >= others).all()
    # and not by much: 5 bits of the distance are kept
    distance = best_two[..., 0] - best_two[..., 1]
    kept = distance < torch.inf
    slack = 2 * (top.double() - best_two[..., 0])[kept] + 1e-6 * top.abs().double()[kept]
    assert (gap.double()[kept] >= (1 - 2**-5) * (distance[kept] - 2 * slack)).all()


def test_more_places_than_groups_are_scored_in_full():
    case = integers(Case(18, 5, 90, 60))
    case.assert_exact("fp32")
    assert not plan(18, 5, 90, 60, "fp32", 80).screened and case.found.n_overflown.item() == 18


@pytest.mark.parametrize(("precision", "relu"), [("fp32", True), ("bf16", False)])
def test_rows_with_too_many_candidates_are_scored_in_full(precision, relu):
    """Rows of equal scores overflow; the others keep the bits they have without them."""
    case = integers(Case(20, 8, 2200, 3), 3)
    case.b_enc[:] = -1.0
    case.x[[4, 17, 19]] = 0.0
    values, indices = case.run(precision, relu=relu)
    want_values, want_indices = case.exact()
    assert torch.equal(indices, want_indices)
    assert torch.equal(values.double(), want_values.clamp(min=0) if relu else want_values)
    lost = case.found.overflown[: case.found.n_overflown].tolist()
    assert set(lost) == {4, 17, 19}
    assert (case.found.total < 0).nonzero().flatten().tolist() == sorted(lost)
    assert plan(20, 8, 2200, 3, precision, 80).chunks > 1  # the full path merges chunks


@pytest.mark.parametrize("precision", PRECISIONS)
def test_values_that_cannot_be_screened(precision):
    """NaN, infinities and norms that overflow: those rows are scored in full and change nothing in the others."""
    case = integers(Case(6, 8, 512, 3), 3)
    clean_values, clean_indices = case.run(precision)
    clean = case.found.total.clone()
    assert (clean[[0, 5]] > 0).all()
    case.x[1, 2], case.x[2, 3], case.x[3, 0], case.x[4] = torch.nan, torch.inf, 1e30, 0.0
    values, indices = case.run(precision)
    for row in (0, 5):
        assert torch.equal(values[row], clean_values[row]) and torch.equal(indices[row], clean_indices[row])
        assert case.found.total[row] == clean[row]
    assert (case.found.total[1:4] == -1).all()
    want_values, want_indices = case.exact()
    assert torch.equal(indices[1:], want_indices[1:])
    assert torch.equal(values[1].isnan(), want_values[1].isnan())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_latents_that_cannot_be_screened_are_never_dropped(precision):
    case = integers(Case(3, 8, 512, 3), 3)
    case.b_enc[[70, 400]] = torch.nan
    case.b_enc[200] = torch.inf
    case.b_enc[5:50] = -torch.inf
    values, indices = case.run(precision)
    assert indices.tolist() == [[70, 400, 200]] * 3
    assert values[:, :2].isnan().all() and (values[:, 2] == torch.inf).all()
    case.b_enc[[70, 200, 400]] = 0.0
    case.W_enc[[300, 301], 0] = torch.tensor([torch.nan, 1e25])
    values, indices = case.run(precision)
    assert (indices[:, 0] == 300).all() and values[:, 0].isnan().all()
    assert torch.equal(indices, case.exact()[1])


def test_rounding_is_that_of_torch():
    special = torch.tensor([0.0, -0.0, 1.00390625, 1.01171875, -1.00390625, 3.4e38, 1e-37, torch.inf, -torch.inf])
    rows = torch.cat([torch.randn(500) * 10.0 ** torch.randint(-20, 20, (500,)), special, special]).view(2, -1)
    shift = torch.zeros(rows.shape[1])
    copy, norms, residuals = (t.cpu() for t in triton_encode._rounded(rows.to(DEVICE), shift.to(DEVICE)))
    assert torch.equal(copy[:, : rows.shape[1]], rows.bfloat16()) and not copy[:, rows.shape[1] :].any()
    rows = torch.randn(7, 333)
    _, norms, residuals = (
        t.cpu() for t in triton_encode._rounded(rows.to(DEVICE), shift[:0].new_zeros(333).to(DEVICE))
    )
    for name, got, want in (
        ("norms", norms, rows.double().norm(dim=1)),
        ("residuals", residuals, (rows - rows.bfloat16()).double().norm(dim=1)),
    ):
        assert_close(name, got, want, want.max().item() * 333 * 2**-24)  # a sum of 333 squares, and a root


@pytest.mark.parametrize("precision", PRECISIONS)
def test_shadow_and_descriptors_change_nothing(precision, monkeypatch):
    case = Case(4, 64, 700, 5)
    case.x, case.W_enc = torch.randn(4, 64), torch.randn(700, 64)
    plain = case.run(precision)
    if DEVICE == "cpu":
        monkeypatch.setattr(triton_encode, "capability", lambda device: 90)
    shadow = EncoderShadow.of(case.W_enc.to(DEVICE))
    for got in (case.run(precision, shadow), case.run(precision)):
        # other tiles sum in another order: 64 terms of at most 25
        assert torch.equal(got[1], plain[1])
        assert_close("values", got[0], plain[0], dot_error(case.x, case.W_enc, 64))


def test_a_stale_shadow_would_be_noticed():
    """The shadow is what is screened with: one of other weights loses winners."""
    case = Case(4, 64, 700, 5)
    case.x, case.W_enc = torch.randn(4, 64), torch.randn(700, 64)
    _, indices = case.run("fp32")
    _, stale = case.run("fp32", EncoderShadow.of(torch.randn(700, 64, device=DEVICE)))
    assert not torch.equal(indices, stale)


def test_extra_traffic_is_small():
    """The certificate and its repairs move at most 15 % of what the scores would, at the paper's size."""
    moved = traffic(4096, 1280, 81_920, 32, "bf16")
    extra = sum(moved[name] for name in ("certificate_written", "certificate_read", "revisits", "code"))
    assert extra <= 0.15 * moved["scores"]


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_candidates_at_the_papers_size(precision):
    """What `SURVIVORS` in triton_plan.py says, and that no row of ordinary data overflows."""
    B, d, n, k = 16, 1280, 81_920, 32
    case = Case(B, d, n, k)
    case.x, case.W_enc = torch.randn(B, d), torch.nn.functional.normalize(torch.randn(n, d))
    _, indices = case.run(precision, EncoderShadow.of(case.W_enc.to(DEVICE)))
    case.assert_certified()
    assert torch.equal(indices.sort(1).values, case.exact()[1].sort(1).values)
    assert case.found.n_overflown.item() == 0
    # 0.2 to 0.6 revisited groups a row add their members
    members = plan(B, d, n, k, precision, 80).members
    assert case.found.total.float().mean() <= triton_plan.SURVIVORS[precision] * k + members
