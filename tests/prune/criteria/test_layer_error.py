"""Wanda, SparseGPT and the optimal brain surgeon: the error of one layer's outputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian

from sparsekern.masks import mask_, masks_of
from sparsekern.prune import NM, Block, next_masks
from sparsekern.prune.criteria import CRITERIA, Context, gram, layer_inputs, obs_update, sparsegpt_
from sparsekern.prune.criteria.obs import DAMPING, _sweep, _window, inverse
from sparsekern.prune.structure import as_structure

LAYERS = {
    "linear": (lambda: nn.Linear(6, 4), (7, 6)),
    "sequence": (lambda: nn.Linear(6, 4), (3, 5, 6)),
    "line": (lambda: nn.Conv1d(2, 4, 3, stride=2, padding=1), (3, 2, 7)),
    "line in groups": (lambda: nn.Conv1d(4, 6, 2, dilation=2, groups=2, padding_mode="circular"), (3, 4, 9)),
    "conv": (lambda: nn.Conv2d(2, 4, 3, stride=2, padding=1), (3, 2, 6, 5)),
    "groups": (lambda: nn.Conv2d(4, 6, (1, 2), dilation=2, groups=2, bias=False), (3, 4, 4, 5)),
    "same": (lambda: nn.Conv2d(2, 3, (1, 3), padding="same"), (3, 2, 4, 5)),
    "reflect": (lambda: nn.Conv2d(2, 3, 3, padding=(1, 2), padding_mode="reflect"), (3, 2, 4, 5)),
}


def layer_and_inputs(kind: str) -> tuple[nn.Module, Tensor]:
    make, shape = LAYERS[kind]
    return make().double(), torch.randn(shape).double()


def correlated(samples: int, features: int) -> Tensor:
    """float64 inputs whose features share a few causes and differ in size."""
    causes = torch.randn(samples, features // 4).double() @ torch.randn(features // 4, features).double()
    sizes = torch.logspace(-1, 1, features, dtype=torch.float64)[torch.randperm(features)]
    return (causes + 0.3 * torch.randn(samples, features).double()) * sizes


def output_error(before: Tensor, after: Tensor, inputs: Tensor) -> float:
    return float(((after - before).double() @ inputs.T).square().sum() / len(inputs))


# ---- scores


@pytest.mark.parametrize("kind", LAYERS)
def test_wanda_is_the_weight_times_the_norm_of_what_it_meets(kind: str) -> None:
    """Σ x² over samples and positions is the derivative of the outputs for squared inputs."""
    layer, inputs = layer_and_inputs(kind)
    layer(inputs.square()).sum().backward()
    expected = layer.weight.detach().abs() * layer.weight.grad.sqrt()
    batches = [(inputs[:1], torch.empty(1)), (inputs[1:], torch.empty(2))]
    score = CRITERIA["wanda"](layer.weight, Context(model=layer, batches=batches).of("weight"))
    torch.testing.assert_close(score.double(), expected, rtol=1e-6, atol=1e-9)


def second_derivatives(layer: nn.Module, inputs: Tensor) -> Tensor:
    """(out, k, k): those of half the squared outputs of each channel, averaged over samples, by autograd."""
    weight = layer.weight.detach()

    def half_squares(row: Tensor, out: int) -> Tensor:
        changed = torch.cat([weight[:out], row.reshape(1, *weight.shape[1:]), weight[out + 1 :]])
        outputs = torch.func.functional_call(layer, {"weight": changed}, (inputs,))
        channel = outputs[..., out] if isinstance(layer, nn.Linear) else outputs[:, out]
        return channel.square().sum() / 2 / len(inputs)

    return torch.stack(
        [
            hessian(lambda row, o=out: half_squares(row, o), weight[out].flatten())
            for out in range(len(weight))
        ]
    )


@pytest.mark.parametrize("kind", LAYERS)
def test_the_gram_matrix_is_the_hessian_of_the_outputs(kind: str) -> None:
    layer, inputs = layer_and_inputs(kind)
    expected = second_derivatives(layer, inputs)
    groups = gram(layer, [inputs[:2], inputs[2:]])
    torch.testing.assert_close(groups.repeat_interleave(len(expected) // len(groups), dim=0), expected)


@pytest.mark.parametrize("kind", LAYERS)
def test_the_score_is_the_least_error_that_removing_the_weight_can_cost(kind: str) -> None:
    """w² times what is left of h_jj once the other weights have made up for it (a Schur complement)."""
    layer, inputs = layer_and_inputs(kind)
    hessians = second_derivatives(layer, inputs)
    k = hessians.shape[1]
    mean = hessians.diagonal(dim1=1, dim2=2).mean()
    damped = hessians + DAMPING * mean * torch.eye(k).double()
    expected = torch.empty(len(hessians), k).double()
    for out, matrix in enumerate(damped):
        for j in range(k):
            rest = [i for i in range(k) if i != j]
            made_up = matrix[j, rest] @ torch.linalg.solve(matrix[rest][:, rest], matrix[rest, j])
            expected[out, j] = layer.weight.detach().flatten(1)[out, j] ** 2 * (matrix[j, j] - made_up)
    context = Context(model=layer, batches=[(inputs, torch.empty(1))])
    score = CRITERIA["sparsegpt"](layer.weight, context.of("weight"))
    torch.testing.assert_close(score.double().flatten(1), expected, rtol=1e-5, atol=1e-9)


def test_inputs_of_a_layer_are_those_of_the_masked_network_in_eval_mode() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2))
    mask_(model[0], torch.rand(6, 4) < 0.5)
    batches = [(torch.randn(size, 4), torch.empty(size)) for size in (3, 2)]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = layer_inputs(Context(model=model, batches=batches).of("3.weight"))
    assert model.training and all(torch.equal(model.state_dict()[key], before[key]) for key in before)
    expected = [model.eval()[:3](inputs) for inputs, _ in batches]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


# ---- updates


def test_obs_update_is_least_squares_on_the_kept_weights() -> None:
    weight, inputs = torch.randn(5, 12).double(), correlated(40, 12)
    mask = torch.rand(5, 12) < 0.5
    mask[4] = mask[3]
    updated = obs_update(weight, mask, gram(nn.Linear(12, 5), [inputs]))
    assert bool((updated[~mask] == 0).all())
    for row in range(5):
        kept = inputs[:, mask[row]]
        expected = torch.linalg.lstsq(kept, (inputs @ weight[row])[:, None]).solution[:, 0]
        torch.testing.assert_close(updated[row, mask[row]], expected, rtol=1e-6, atol=1e-8)


def test_obs_update_of_a_grouped_convolution_leaves_nothing_to_gain() -> None:
    """At the optimum the error's derivative is zero for every kept weight."""
    layer, inputs = layer_and_inputs("groups")
    mask = torch.rand(layer.weight.shape) < 0.6
    target = layer(inputs).detach()
    with torch.no_grad():
        layer.weight.copy_(obs_update(layer.weight, mask, gram(layer, [inputs])))
    (layer(inputs) - target).square().sum().backward()
    assert float(layer.weight.grad[mask].abs().max()) < 1e-9 < float(layer.weight.grad[~mask].abs().max())


def test_column_by_column_is_exact_where_all_that_goes_lies_left_of_what_stays() -> None:
    """300 columns, so that three lazy blocks take part; every row loses a prefix of its own."""
    weight, inputs = torch.randn(6, 300).double(), correlated(400, 300)
    mask = torch.arange(300) >= torch.tensor([0, 3, 127, 128, 200, 299])[:, None]
    matrix = gram(nn.Linear(300, 6), [inputs])
    window = _window(as_structure((1, 1)), (6, 300))
    updated, kept = _sweep(weight, inverse(matrix)[0], mask, window, 0.0)
    damped = matrix + DAMPING * matrix[0].diagonal().mean() * torch.eye(300).double()
    assert torch.equal(kept, mask)
    torch.testing.assert_close(updated, obs_update(weight, mask, damped), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("sparsity", [0.5, 0.75])
def test_sparsegpt_beats_wanda_beats_magnitude_on_correlated_inputs(sparsity: float) -> None:
    layer, inputs = nn.Linear(160, 32), correlated(300, 160)
    dense = layer.weight.detach().clone()
    context = Context(model=layer, batches=[(inputs.float(), torch.empty(1))])
    alive = {"weight": torch.ones_like(dense, dtype=torch.bool)}
    masks = {
        criterion: next_masks(
            {"weight": dense}, alive, {"weight": sparsity}, (1, 1), criterion, "layer", context
        )["weight"]
        for criterion in ("magnitude", "wanda")
    }
    error = {name: output_error(dense, dense * mask, inputs) for name, mask in masks.items()}
    mask = sparsegpt_(layer, [inputs.float()], sparsity)
    error["sparsegpt"] = output_error(dense, layer.weight.detach(), inputs)
    error["exact"] = output_error(dense, obs_update(dense, mask, gram(layer, [inputs])), inputs)
    assert int(mask.sum()) == int(masks["wanda"].sum()) == round((1 - sparsity) * dense.numel())
    assert error["exact"] < error["sparsegpt"] < error["wanda"] * 0.7 < error["magnitude"] * 0.35


def test_the_sparsity_is_met_over_all_windows_of_columns() -> None:
    """Of 512 weights, 153.6 stay; 38.4 in each of four windows, rounded each for itself, would make 152."""
    assert int(sparsegpt_(nn.Linear(512, 1), [torch.randn(20, 512)], 0.7).sum()) == 154


@pytest.mark.parametrize("kind", LAYERS)
def test_sparsegpt_prunes_every_kind_of_layer(kind: str) -> None:
    layer, inputs = layer_and_inputs(kind)
    dense, bias = layer.weight.detach().clone(), layer.bias
    target = layer(inputs).detach()
    mask = sparsegpt_(layer, [inputs], 0.5)
    assert torch.equal(masks_of(layer)["weight"], mask) and layer.bias is bias
    assert bool((layer.weight[~mask] == 0).all()) and int(mask.sum()) == dense.numel() // 2
    with torch.no_grad():
        after = (layer(inputs) - target).square().sum()
        layer.parametrizations.weight.original.copy_(dense)
        assert float(after) < float((layer(inputs) - target).square().sum())


@pytest.mark.parametrize(
    ("shape", "structure"),
    [((8, 16, 1, 1), NM(2, 4)), ((8, 16, 3, 3), NM(2, 4)), ((8, 160), NM(2, 4)), ((8, 160), NM(4, 8, "out"))],
)
def test_sparsegpt_keeps_n_of_m(shape: tuple[int, ...], structure: NM) -> None:
    layer = nn.Conv2d(16, 8, shape[2:]) if len(shape) == 4 else nn.Linear(160, 8)
    inputs = torch.randn(60, 16, 5, 5) if len(shape) == 4 else torch.randn(60, 160)
    mask = sparsegpt_(layer, [inputs], 0.5, structure)
    along = mask if structure.axis == "out" else mask.transpose(0, 1)
    runs = along.reshape(len(along) // structure.m, structure.m, -1)
    assert bool((runs.sum(1) == structure.n).all())


@pytest.mark.parametrize("block", [(4, 1), (2, 3), "filters", "kernels", "fan-in"])
def test_sparsegpt_drops_whole_blocks(block: tuple[int, int] | str) -> None:
    layer = nn.Conv2d(16, 8, 3)
    mask = sparsegpt_(layer, [torch.randn(20, 16, 6, 6)], 0.5, block)
    rows = mask.flatten(1)
    if block == "fan-in":
        assert bool((rows.sum(1) == 72).all())
        return
    high, wide = {"filters": (1, 144), "kernels": (1, 9)}.get(block, block)
    alive = rows.reshape(8 // high, high, 144 // wide, wide).sum((1, 3))
    assert bool(((alive == 0) | (alive == high * wide)).all())
    assert int((alive > 0).sum()) == alive.numel() // 2


def test_sparsegpt_only_shrinks_a_mask_and_goes_on_from_it() -> None:
    layer, inputs = nn.Linear(40, 8), correlated(100, 40).float()
    first = sparsegpt_(layer, [inputs], 0.5).clone()
    between = layer.weight.detach().clone()
    second = sparsegpt_(layer, [inputs], 0.75)
    assert int(second.sum()) == 80 and not bool((second & ~first).any())
    again = sparsegpt_(layer, [inputs], 0.75)
    assert torch.equal(again, second)
    assert output_error(between, layer.weight.detach(), inputs.double()) < output_error(
        between, between * second, inputs.double()
    )


def test_what_does_not_fit_is_refused_and_nothing_changed() -> None:
    layer, inputs = nn.Linear(6, 4), [torch.randn(9, 6)]
    before = layer.weight.detach().clone()
    refusals = [
        (r"sparsity must be in \[0, 1\), got 1.0", {"sparsity": 1.0}),
        (r"NM\(n=2, m=4.*a multiple of 1 outputs and of 4 inputs is expected", {"block": NM(2, 4)}),
        (r"has a sparsity of 0.5, got 0.3", {"block": NM(1, 2), "sparsity": 0.3}),
        (r"unknown structure '3:7'", {"block": "3:7"}),
        ("at least one sample, got none", {"inputs": []}),
        ("must not all be zero", {"inputs": [torch.zeros(2, 6)]}),
    ]
    for message, arguments in refusals:
        with pytest.raises(ValueError, match=message):
            sparsegpt_(layer, **{"inputs": inputs, **arguments})
    with pytest.raises(ValueError, match=r"an nn.Linear, nn.Conv1d or nn.Conv2d is expected, got Conv3d"):
        sparsegpt_(nn.Conv3d(2, 2, 1), inputs)
    with pytest.raises(ValueError, match="must lie in one group of 3 outputs, got 2 high"):
        sparsegpt_(nn.Conv2d(4, 6, 1, groups=2), [torch.randn(3, 4, 2, 2)], 0.5, Block(2, 1))
    assert torch.equal(layer.weight, before) and masks_of(layer) == {}
    matrix = gram(layer, inputs)
    with pytest.raises(ValueError, match=r"mask must be bool of shape \(4, 6\), got torch.float32"):
        obs_update(before, torch.ones(4, 6), matrix)
    with pytest.raises(ValueError, match=r"hessian must be \(groups, 6, 6\).* got \(1, 5, 5\)"):
        obs_update(before, torch.ones(4, 6, dtype=torch.bool), matrix[:, :5, :5])
    with pytest.raises(ValueError, match="positive definite on the 6 weights"):
        obs_update(before, torch.ones(4, 6, dtype=torch.bool), gram(layer, [torch.randn(3, 6)]))
