"""save_pretrained of a swapped network: from_pretrained reads what it computes, or nothing is written."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from other_networks import call, check_same, masked
from safetensors.torch import load_file
from torch import nn

import sparsekern as sk
from sparsekern.nn import SparseLayer


def swapped(name: str, but: str = "") -> tuple[Any, Any]:
    """All layers but one, which stays masked."""
    model, inputs = masked(name, (16, 1))
    assert sk.swap_(model, inputs, threshold=0.5, filter_fn=lambda _, path: path != but).swapped
    return model, inputs


def sparse_layers(model: nn.Module) -> dict[str, SparseLayer]:
    return {path: layer for path, layer in model.named_modules() if isinstance(layer, SparseLayer)}


@pytest.mark.parametrize(("name", "but"), [("BERT", "pooler.dense"), ("Llama", "model.layers.0.mlp.up_proj")])
@torch.no_grad()
def test_from_pretrained_reads_it(name: str, but: str, tmp_path: Path) -> None:
    model, inputs = swapped(name, but)
    model.save_pretrained(tmp_path)
    other = type(model).from_pretrained(tmp_path).eval()
    check_same(call(other, inputs), call(model, inputs))
    dense, sparse = dict(other.named_modules()), sparse_layers(model)
    assert all(torch.equal(dense[path].weight, layer.weight) for path, layer in sparse.items())
    assert not sparse_layers(other)
    sk.swap_(other, threshold=0.5)
    assert sparse_layers(other).keys() == {*sparse, but}


@torch.no_grad()
def test_copies_and_loaded_networks_write_their_own(tmp_path: Path) -> None:
    model, inputs = swapped("BERT")
    sk.save(model, tmp_path / "sparse")
    other = copy.deepcopy(model)
    loaded = sk.load(type(model)(model.config), tmp_path / "sparse")
    for path, network in (("copy", other), ("loaded", loaded)):
        network.eval().pooler.dense.values.mul_(2)
        network.save_pretrained(tmp_path / path)
        check_same(call(type(model).from_pretrained(tmp_path / path), inputs), call(network, inputs))


@torch.no_grad()
def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    model = transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=99, **sizes))
    sk.prune.prune_(model, 0.9, ignore=["cls.predictions.decoder"])
    assert len(sk.swap_(model, threshold=0.5).swapped) == 7
    model.save_pretrained(tmp_path)
    assert "cls.predictions.decoder.weight" not in load_file(tmp_path / "model.safetensors")
    other = type(model).from_pretrained(tmp_path)
    assert other.cls.predictions.decoder.weight is other.get_input_embeddings().weight


def test_what_from_pretrained_would_not_know_is_refused(tmp_path: Path) -> None:
    model, _ = swapped("BERT")
    words = "expected the tensors of a BertModel, as from_pretrained draws at random what it misses"
    with pytest.raises(ValueError, match=rf"^encoder\..*: {words}"):
        model.save_pretrained(tmp_path, state_dict=model.state_dict())
    model.pooler.more = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=rf"^pooler\.more\.bias: {words}"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_restored_networks_are_written_by_their_class() -> None:
    model, _ = swapped("BERT")
    assert "save_pretrained" in vars(model)
    sk.restore_(model)
    assert "save_pretrained" not in vars(model)


def test_adapters_are_written_alone(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model, _ = swapped("BERT")
    model.add_adapter(peft.LoraConfig(r=4, target_modules=["query", "value"]))
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
