"""save and load: the same network again, small files, and nothing but a ValueError from a malformed one."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision_operators
from torch import Tensor, nn

import sparsekern as sk
from sparsekern.bench import tensor_files
from sparsekern.masks import mask_
from sparsekern.nn import QuantizedSparseLinear, SparseLayer

Header = dict[str, Any]
Tensors = dict[str, Tensor]


def network() -> nn.Module:
    """Convolutions with norms, a mask on each layer in blocks of its own, and a head of ten."""
    model = nn.Sequential(
        nn.Conv2d(3, 20, 3, padding=1, bias=False), nn.BatchNorm2d(20), nn.ReLU(), nn.Flatten(),
        nn.Linear(20 * 36, 33), nn.GELU(), nn.Linear(33, 32), nn.Linear(32, 10),
    )  # fmt: skip
    for layer in model:
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_()  # type: ignore[union-attr]
            layer.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return model.eval()


def swapped(fused: bool = False, block: tuple[int, int] = (8, 1)) -> nn.Module:
    """Its first layers swapped, one of them with dead weights in stored blocks, one quantized."""
    model = network()
    for at in (0, 4, 6):
        layer = model[at]  # type: ignore[index]
        mask_(layer, torch.rand(layer.weight.shape) < 0.2)
    sk.swap_(model, threshold=0.5, block=block)
    if fused:
        sk.fuse_(model)
    model[6] = QuantizedSparseLinear.from_dense(model[6])  # type: ignore[index, operator, arg-type]
    return model


X = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def state(model: nn.Module) -> tuple[str, dict[str, Tensor]]:
    return str(model), {name: value.clone() for name, value in model.state_dict().items()}


def same(a: tuple[str, Tensors], b: tuple[str, Tensors]) -> bool:
    alike = a[0] == b[0] and a[1].keys() == b[1].keys()
    return alike and all(a[1][name].is_meta or torch.equal(a[1][name], b[1][name]) for name in a[1])


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("target", ["fresh", "swapped", "other block"])
def test_a_network_comes_back(fused: bool, target: str, tmp_path: Path) -> None:
    model = swapped(fused)
    sk.save(model, tmp_path / "net.safetensors")
    made = {"fresh": network, "swapped": swapped, "other block": lambda: swapped(block=(1, 1))}
    other = made[target]()
    with torch.no_grad():
        assert not torch.equal(model(X), other(X))
        assert sk.load(other, tmp_path / "net.safetensors") is other
        assert torch.equal(model(X), other(X))
    assert same(state(model), state(other))
    for one, two in zip(model, other, strict=True):  # type: ignore[call-overload]
        if isinstance(one, SparseLayer):
            assert torch.equal(one.mask, two.mask), "what may train"
    sk.restore_(other)
    assert type(other[0]) in (nn.Conv2d, nn.Sequential)  # type: ignore[index]


def test_a_swapped_network_keeps_its_parameters(tmp_path: Path) -> None:
    model = swapped()
    sk.save(model, tmp_path / "net.safetensors")
    before = list(model.parameters())
    optimizer = torch.optim.SGD(before, 0.5)
    for parameter in before:
        parameter.grad = torch.ones_like(parameter)
    saved = state(model)
    optimizer.step()
    assert not same(saved, state(model))
    sk.load(model, tmp_path / "net.safetensors")
    assert all(a is b for a, b in zip(before, model.parameters(), strict=True))
    assert same(saved, state(model))


def test_a_dense_file_loads_into_a_swapped_network(tmp_path: Path) -> None:
    dense = network()
    with torch.no_grad():
        dense[4].weight.mul_(torch.rand(33, 720) < 0.1)  # type: ignore[index]
    sk.save(dense, tmp_path / "dense.safetensors")
    other = network()
    mask_(other[4], torch.rand(33, 720) < 0.2)  # type: ignore[index]
    sk.swap_(other, threshold=0.5, block=(8, 1))
    assert isinstance(other[4], sk.SparseLinear)  # type: ignore[index]
    sk.load(other, tmp_path / "dense.safetensors")
    assert torch.equal(other[4].weight, dense[4].weight)  # type: ignore[index]
    assert other[4].block == (8, 1)  # type: ignore[index]
    torch.testing.assert_close(other(X), dense(X))


def test_state_dicts_go_both_ways() -> None:
    model = swapped()
    model[6] = nn.Linear(33, 32)  # type: ignore[index, operator]
    dense = copy.deepcopy(model)
    sk.restore_(dense)
    other = network()
    other.load_state_dict(dense.state_dict())
    torch.testing.assert_close(other(X), model(X))
    model.load_state_dict(network().state_dict())
    assert isinstance(model[4], sk.SparseLinear) and model[4].sparsity == 0  # type: ignore[index]


def test_unstructured_float32_takes_less_than_16_percent(tmp_path: Path) -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(768, 768), nn.Linear(768, 384))

    model = make()
    sk.save(model, tmp_path / "dense.safetensors")
    sk.prune.prune_(model, sparsity=0.9)
    sk.swap_(model, threshold=0.5, block=(1, 1))
    sk.save(model, tmp_path / "sparse.safetensors")
    sizes = [(tmp_path / name).stat().st_size for name in ("sparse.safetensors", "dense.safetensors")]
    assert 0.1 < sizes[0] / sizes[1] <= 0.13
    assert same(state(sk.load(make(), tmp_path / "sparse.safetensors")), state(model))


# ---- what does not fit


def refused(model: nn.Module, path: Path, words: str) -> None:
    before, parameters = state(model), [id(p) for p in model.parameters()]
    with pytest.raises(ValueError, match=words) as error:
        sk.load(model, path)
    assert str(path) in str(error.value)
    assert same(before, state(model)) and parameters == [id(p) for p in model.parameters()]


def changed(at: int, layer: nn.Module) -> nn.Module:
    model = network()
    model[at] = layer  # type: ignore[index, operator]
    return model


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: changed(4, nn.Linear(721, 33)), r"4: weight: expected \(33, 721\), got \(33, 720\)"),
        (
            lambda: changed(4, nn.Dropout()),
            "4: a SparseLinear in the file; expected an nn.Linear there, got D",
        ),
        (lambda: changed(7, nn.Linear(32, 11)), r"7\.weight: expected torch.float32 \(11, 32\), got"),
        (lambda: changed(7, nn.Identity()), "7: an nn.Identity in the model"),
        (lambda: network().bfloat16(), "0: values: expected torch.bfloat16, got torch.float32"),
        (lambda: changed(1, nn.InstanceNorm2d(20)), r"missing are \[\], unexpected \['1.bias'"),
        (lambda: nn.Sequential(*network(), nn.Linear(10, 1)), r"missing are \['8.bias', '8.weight'\]"),
        (lambda: nn.Sequential(*list(network())[:7]), r"unexpected \['7.bias', '7.weight'\]"),  # type: ignore[call-overload]
        (lambda: network().to("meta"), "0: weight: expected numbers to write over, got the meta device"),
    ],
)
def test_a_network_that_does_not_fit_is_left_alone(
    make: Callable[[], nn.Module], words: str, tmp_path: Path
) -> None:
    sk.save(swapped(), tmp_path / "net.safetensors")
    refused(make(), tmp_path / "net.safetensors", words)


def test_a_fused_network_wants_a_fused_file(tmp_path: Path) -> None:
    model = network()
    sk.save(swapped(), tmp_path / "net.safetensors")
    refused(swapped(fused=True), tmp_path / "net.safetensors", "1: an nn.Identity in the model")
    sk.save(swapped(fused=True), tmp_path / "fused.safetensors")
    model[1] = nn.InstanceNorm2d(20)  # type: ignore[index, operator]
    refused(model, tmp_path / "fused.safetensors", "1: an nn.Identity in the file; .* got InstanceNorm2d")


def test_ties_are_stored_once_and_must_be_there(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        model = nn.ModuleDict({"in": nn.Embedding(500, 64), "out": nn.Linear(64, 500, bias=False)})
        model["out"].weight = model["in"].weight
        return model

    model, path = tied(), tmp_path / "net.safetensors"
    sk.save(model, path)
    assert path.stat().st_size < 500 * 64 * 4 + 2000
    assert same(state(sk.load(tied(), path)), state(model))
    apart = nn.ModuleDict({"in": nn.Embedding(500, 64), "out": nn.Linear(64, 500, bias=False)})
    assert same(state(sk.load(apart, path)), state(model)), "a copy for each"
    sk.save(nn.ModuleDict({"in": nn.Embedding(500, 64), "out": nn.Linear(64, 500, bias=False)}), path)
    refused(model, path, "out.weight: tied to in.weight in the model; expected so in the file")


def test_a_layer_in_two_places_is_not_saved(tmp_path: Path) -> None:
    layer = sk.SparseLinear.from_dense(nn.Linear(4, 4))
    with pytest.raises(ValueError, match="1: is 0 too; expected a sparse layer to stand in one place"):
        sk.save(nn.Sequential(layer, layer), tmp_path / "net.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_bare_layer_is_filled_but_not_replaced(tmp_path: Path) -> None:
    layer, path = sk.SparseLinear.from_dense(nn.Linear(8, 4)), tmp_path / "layer.safetensors"
    sk.save(layer, path)
    other = sk.SparseLinear.from_dense(nn.Linear(8, 4))
    assert same(state(sk.load(other, path)), state(layer))
    refused(nn.Linear(8, 4), path, "expected a module that holds layers, got a bare one")


# ---- malformed files


def test_flipped_and_cut_files_are_refused(tmp_path: Path) -> None:
    path, bad = tmp_path / "net.safetensors", tmp_path / "bad.safetensors"
    sk.save(swapped(fused=True), path)
    raw, model = path.read_bytes(), network()
    generator = torch.Generator().manual_seed(5)
    header = 8 + int.from_bytes(raw[:8], "little")
    for turn in range(300):
        # Two of three in the header, where most can go wrong.
        at = int(torch.randint(header if turn % 3 else len(raw), (), generator=generator))
        bit = 1 << int(torch.randint(8, (), generator=generator))
        broken = bytearray(raw)
        broken[at] ^= bit
        bad.write_bytes(bytes(broken) if turn % 5 else raw[:at])
        before = state(model) if turn % 50 == 0 else None
        with pytest.raises(ValueError, match=r"bad\.safetensors"):
            sk.load(model, bad)
        assert before is None or same(before, state(model))
    assert isinstance(sk.load(model, path)[4], sk.SparseLinear)  # type: ignore[index]


def entry(**changes: Any) -> Callable[[Tensors, Header], None]:
    return lambda tensors, header: header["layers"]["4"].update(changes)


def part(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Tensors, Header], None]:
    return lambda tensors, header: tensors.update({name: change(tensors[name])})


def field(name: str, value: Any) -> Callable[[Tensors, Header], None]:
    return lambda tensors, header: header.update({name: value})


def last(tensor: Tensor, value: int) -> Tensor:
    return torch.cat([tensor[:-1], torch.tensor([value], dtype=tensor.dtype)])


FORGED: list[tuple[Callable[[Tensors, Header], Any], str]] = [
    (entry(kind="os.system"), "4: kind: expected one of"),
    (entry(kind=["SparseLinear"]), "4: kind: expected one of"),
    (entry(kind="SparseConv2d"), "expected an nn.Conv2d there, got Linear"),
    (entry(kind="QuantizedSparseLinear"), "expected the tensors"),
    (entry(activation="tanh"), "4: activation: expected one of"),
    (entry(shape=[33]), "4: shape: expected 2 ints or more"),
    (entry(shape=[2**31, 2**31]), "4: shape"),
    (entry(shape=[2**31 - 1, 2**31 - 1]), "4: weight: expected"),
    (entry(shape=[-1, 720]), "4: shape"),
    (entry(shape=[33.0, 720]), "4: shape"),
    (entry(shape=[33, True]), "4: shape"),
    (entry(block=[0, 1]), "4: block"),
    (entry(block=[1, 1]), "4: values: expected contiguous"),
    (entry(block=[34, 1]), "4: .*block"),
    (entry(block="88"), "4: block"),
    (entry(dtype="float64"), "4: values: expected torch.float32, got torch.float32 called 'float64'"),
    (entry(more=1), "4: expected the fields"),
    (field("layers", []), "'layers': expected an object"),
    (field("layers", {"4": 3}), "4: expected the fields"),
    (field("layers", {}), "expected the names of the model"),
    (field("identities", "1"), "'identities': expected names"),
    (field("identities", ["1", "2", "9"]), "9: an nn.Identity in the file; .* got nothing"),
    (field("identities", ["4"]), "4: an nn.Identity in the file"),
    (field("tied", ["7.weight"]), "'tied': expected names"),
    (field("tied", {"7.weight": "7.bias"}), "7.weight: shares the tensor"),
    (field("tied", {"8.weight": "nowhere"}), "8.weight: shares the tensor 'nowhere'"),
    (field("images", ["1"]), "'images': expected one of"),
    (field("images", {"": 3}), "'images': expected one of"),
    (field("images", {"": ["channels last", "channels last"]}), "'images': expected one of"),
    (field("images", {"9": ["channels last", "channels first"]}), "9: expected a module"),
    (part("4.gaps", lambda t: t[:-1]), "4: values: expected contiguous"),
    (part("4.gaps", lambda t: last(t, 255)), "4: gaps: ends within a gap"),
    (part("4.gaps", lambda t: torch.cat([t.new_tensor([255] * 999), t])), "4: gaps: leads to block"),
    (part("4.gaps", lambda t: t.int()), "4: gaps: expected uint8"),
    (part("4.gaps", lambda t: t.flip(0)[:0]), "4: values: expected contiguous"),
    (part("4.values", lambda t: t.double()), "4: values: expected torch.float32, got torch.float64"),
    (part("4.values", lambda t: t[1:]), "4: values: expected contiguous"),
    (part("4.values", lambda t: t.flatten()), "4: values: expected contiguous"),
    (part("4.kept", lambda t: t[1:]), "4: kept: uint8 of shape"),
    (part("4.kept", lambda t: t.int()), "4: kept: uint8 of shape"),
    (part("4.bias", lambda t: t[1:]), r"4: bias: expected torch.float32 \(33,\), got"),
    (part("6.values", lambda t: t.float()), "6: values: expected torch.int8, got torch.float32"),
    (part("6.scales", lambda t: t.double()), "6: scales: expected torch.float32"),
    (part("6.bias", lambda t: t[:-1]), "6: bias: expected torch.float32"),
    (part("7.bias", lambda t: t.half()), "7.bias: expected torch.float32"),
    (lambda tensors, header: tensors.pop("4.gaps"), "4: expected the tensors"),
    (lambda tensors, header: tensors.pop("6.scales"), "6: expected the tensors"),
    (lambda tensors, header: tensors.pop("4.bias"), "4: expected the tensors"),
    (lambda tensors, header: tensors.pop("7.bias"), r"missing are \['7.bias'\]"),
    (lambda tensors, header: tensors.update({"4.col": tensors["4.gaps"]}), r"unexpected \['4.col'\]"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(FORGED)))
def test_forged_files_are_refused(number: int, tmp_path: Path) -> None:
    """Whoever knows the format can make the digest right."""
    change, words = FORGED[number]
    path = tmp_path / "net.safetensors"
    sk.save(swapped(fused=True), path)
    tensors, header = tensor_files.read(path, "network")
    change(tensors, header)
    tensor_files.write(path, "network", tensors, header)
    refused(network(), path, words)


def test_nan_in_values_is_kept(tmp_path: Path) -> None:
    model = swapped()
    with torch.no_grad():
        model[4].values[0, 0, 0] = torch.nan  # type: ignore[index]
    sk.save(model, tmp_path / "net.safetensors")
    assert torch.isnan(sk.load(network(), tmp_path / "net.safetensors")[4].values[0, 0, 0])  # type: ignore[index]


def test_other_peoples_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "theirs.safetensors"
    refused(network(), path, "No such file")
    safetensors.torch.save_file(network().state_dict(), path)
    refused(network(), path, "a whole sparsekern network file is expected")
    tensor_files.write(path, "ticket", {}, {})
    refused(network(), path, "a network file is expected, got kind 'ticket'")
    path.write_bytes(b"")
    refused(network(), path, "a whole sparsekern network file is expected")


# ---- folders


def test_a_folder_has_weights_and_config(tmp_path: Path) -> None:
    model = swapped()
    sk.save(model, tmp_path / "net")
    assert sorted(p.name for p in (tmp_path / "net").iterdir()) == ["config.json", "sparsekern.safetensors"]
    config = json.loads((tmp_path / "net" / "config.json").read_text("utf-8"))
    assert config["sparsekern"]["version"] == sk.__version__ and config["sparsekern"]["class"] == "Sequential"
    assert same(state(sk.load(network(), tmp_path / "net")), state(model))


@pytest.mark.slow  # its libraries take seconds to import
def test_a_hugging_face_model_is_made_from_its_folder(tmp_path: Path) -> None:
    torchvision_operators.declare()  # transformers imports torchvision where there is one
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=50
    )
    model = transformers.AutoModel.from_config(config).eval()
    sk.prune.prune_(model, sparsity=0.9)
    assert len(sk.swap_(model, threshold=0.5).swapped) == 7
    sk.save(model, tmp_path / "bert")
    known = transformers.AutoConfig.from_pretrained(tmp_path / "bert")
    assert known.architectures == ["BertModel"]
    other = sk.load(transformers.AutoModel.from_config(known), tmp_path / "bert").eval()
    ids = torch.arange(12).view(2, 6)
    with torch.no_grad():
        assert torch.equal(model(ids).pooler_output, other(ids).pooler_output)
    with pytest.raises(OSError, match="no file named model"):  # never random weights
        transformers.AutoModel.from_pretrained(tmp_path / "bert")
