"""Training after the swap: values learn, zeros stay, whoever brings the loop."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from other_networks import call, check_same, masked
from torch import Tensor, nn

import sparsekern as sk
from sparsekern.nn import SparseLayer


def swapped(name: str, block: tuple[int, int] = (1, 1)) -> tuple[nn.Module, object]:
    model, inputs = masked(name, block)
    assert sk.swap_(model, inputs, threshold=0.5).swapped
    return model, inputs


def zeros_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: ~m.mask for name, m in model.named_modules() if isinstance(m, SparseLayer)}


def check_zeros(model: nn.Module, zeros: dict[str, Tensor]) -> None:
    layers = dict(model.named_modules())
    assert zeros
    for name, dead in zeros.items():
        assert not layers[name].weight[dead].any()


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("name", ["torchvision resnet", "timm vit"])
def test_values_train_and_zeros_stay(name: str, autocast: bool) -> None:
    model, x = swapped(name)
    zeros, before = zeros_of(model), copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    target, losses = torch.tensor([1, 2]), []
    for _ in range(8):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
            loss = nn.functional.cross_entropy(model(x), target)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        assert nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]) < 1.001
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    check_zeros(model, zeros)
    after = model.state_dict()
    assert all(not torch.equal(after[f"{path}.values"], before[f"{path}.values"]) for path in zeros)
    sk.restore_(model)
    check_zeros(model, zeros)


def test_gradients_are_those_of_the_masked_dense_network() -> None:
    model, x = masked("timm vit", (16, 1))
    twin = copy.deepcopy(model)
    sk.swap_(model, x, threshold=0.5)
    model(x).square().sum().backward()
    twin(x).square().sum().backward()
    dense = dict(twin.named_modules())
    for name, layer in model.named_modules():
        if isinstance(layer, SparseLayer):
            twin_grad = dense[name].parametrizations.weight.original.grad.flatten(1)
            want = layer.matrix.sample(twin_grad)
            check_same(layer.values.grad, want, 1e-4)


@pytest.mark.parametrize("name", ["torchvision resnet", "timm resnet"])
def test_batch_norms_see_the_same_in_training(name: str) -> None:
    """Running statistics after two steps are those beside the masked dense network."""
    model, x = masked(name)
    twin = copy.deepcopy(model)
    assert sk.swap_(model, x, threshold=0.5).swapped
    before = {key: tensor.clone() for key, tensor in model.named_buffers() if "running" in key}
    for network in (model, twin):
        for norm in (m for m in network.train().modules() if isinstance(m, nn.BatchNorm2d)):
            norm.momentum = 0.1
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)
        for _ in range(2):
            network(x).square().mean().backward()
            optimizer.step()
    ours, theirs = dict(model.named_buffers()), dict(twin.named_buffers())
    assert before
    for key, old in before.items():
        assert not torch.equal(ours[key], old)
        check_same(ours[key], theirs[key], 1e-3)
        assert torch.equal(ours[key.rpartition(".")[0] + ".num_batches_tracked"], torch.tensor(3))


@pytest.mark.parametrize("name", ["BERT", "DistilBERT", "Llama", "ViT"])
def test_a_transformer_in_training_mode_learns_the_same(name: str) -> None:
    """Without dropout, three steps of SGD lead to the same weights as on the masked dense network."""
    model, inputs = masked(name, (16, 1))
    for dropout in (m for m in model.modules() if isinstance(m, nn.Dropout)):
        dropout.p = 0.0
    twin = copy.deepcopy(model)
    assert sk.swap_(model, inputs, threshold=0.5).swapped
    zeros, before = zeros_of(model), sk.nn.dense_state(model)
    for network in (model, twin):
        optimizer = torch.optim.SGD(network.train().parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            call(network, inputs)[0][..., :5].sum().backward()
            optimizer.step()
    check_zeros(model, zeros)
    check_same(call(model, inputs)[0], call(twin, inputs)[0], 1e-4)
    ours, theirs = sk.nn.dense_state(model), sk.nn.dense_state(twin)
    for key in (f"{path}.weight" for path in zeros if "pooler" not in path):
        assert float((ours[key] - before[key]).abs().max()) > 1e-5
        check_same(ours[key] - before[key], theirs[key] - before[key], 1e-2)


def test_a_step_in_bfloat16() -> None:
    """A network wholly in bfloat16 moves as the masked dense one does, within what bfloat16 tells apart."""
    model, x = masked("timm vit", (16, 1))
    model, x = model.bfloat16().train(), x.bfloat16()
    twin = copy.deepcopy(model)
    assert sk.swap_(model, x, threshold=0.5).swapped
    zeros = zeros_of(model)
    for network in (model, twin):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        network(x).float().square().mean().backward()
        optimizer.step()
    check_zeros(model, zeros)
    dense = dict(twin.named_modules())
    for name, layer in model.named_modules():
        if isinstance(layer, SparseLayer):
            twin_grad = dense[name].parametrizations.weight.original.grad.flatten(1)
            want, got = layer.matrix.sample(twin_grad).float(), layer.values.grad
            assert got is not None and got.dtype is torch.bfloat16
            assert float((got.float() - want).norm() / want.norm()) < 0.05
            assert layer.values.dtype is torch.bfloat16 and not layer.values.isnan().any()


def test_grad_scaler() -> None:
    model, x = swapped("timm vit")
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=1e-3), torch.amp.GradScaler("cpu")
    zeros, before = zeros_of(model), [p.detach().clone() for p in model.parameters()]
    with torch.autocast("cpu", torch.float16):
        loss = model(x).float().square().mean()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    scaler.step(optimizer)
    scaler.update()
    assert any(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    check_zeros(model, zeros)


def test_lora_on_a_swapped_network() -> None:
    peft = pytest.importorskip("peft")
    model, inputs = swapped("BERT")
    want, zeros = call(model, inputs).last_hidden_state, zeros_of(model)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, SparseLayer)}
    before = {name: layer.values.detach().clone() for name, layer in layers.items()}
    config = peft.LoraConfig(r=4, target_modules=["query", "value"], init_lora_weights="gaussian")
    tuned = peft.get_peft_model(model, config)
    check_same(call(tuned, inputs).last_hidden_state, want)
    optimizer = torch.optim.Adam([p for p in tuned.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        call(tuned, inputs).last_hidden_state[:, :, 0].mean().backward()
        optimizer.step()
    learned = call(tuned, inputs).last_hidden_state
    assert (learned - want).abs().max().item() > 1e-2
    for safe in (False, True):
        with pytest.raises(ValueError, match="what is written into it would be lost"):
            copy.deepcopy(tuned).merge_and_unload(safe_merge=safe)
    back = tuned.unload()
    assert all(torch.equal(layers[name].values, values) for name, values in before.items())
    check_zeros(back, zeros)
    check_same(call(back, inputs).last_hidden_state, want)


def test_lora_is_merged_into_dense_layers() -> None:
    peft = pytest.importorskip("peft")
    model, inputs = swapped("BERT")
    config = peft.LoraConfig(r=4, target_modules=["query", "value"], init_lora_weights=False)
    tuned = peft.get_peft_model(model, config).eval()
    want = call(tuned, inputs).last_hidden_state
    sk.restore_(tuned)
    sk.masks.unmask_(tuned)
    check_same(call(tuned.merge_and_unload(), inputs).last_hidden_state, want)


def _small() -> nn.Module:
    """The same in every process."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    sk.prune.prune_(model, 0.8)
    assert len(sk.swap_(model, threshold=0.5).swapped) == 2
    return model


def _train_a_part(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.set_num_threads(1)
    model = _small()
    zeros = zeros_of(model)
    x, y = torch.randn(8, 16), torch.randn(8, 4)
    ours = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.mse_loss(ours(x[rank::2]), y[rank::2]).backward()
        optimizer.step()
    check_zeros(model, zeros)
    torch.save((model.state_dict(), x, y), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_train_a_part, (str(tmp_path),), nprocs=2)
    (first, x, y), (second, _, _) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    model = _small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    check_same(first, dict(model.state_dict()), 1e-5)
    learned = {name for name, tensor in first.items() if not torch.equal(tensor, before[name])}
    assert learned == {f"{layer}.{part}" for layer in (0, 2) for part in ("values", "bias")}
