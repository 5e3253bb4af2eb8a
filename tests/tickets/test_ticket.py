"""The ticket file: exact, atomic, and suspicious of everything it did not write itself."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn

from sparsekern.masks import dense_state, mask_, masks_of, sparsity
from sparsekern.tickets import Ticket
from sparsekern.tickets import files as module


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))


def state() -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network().state_dict().items()}


@pytest.fixture
def ticket() -> Ticket:
    rewind, trained = state(), state()
    # The order of layers, not of names: 3.weight sorts last only by luck.
    masks = {"3.weight": torch.rand(2, 3) > 0.4, "0.weight": torch.rand(3, 5) > 0.5}
    masks["0.weight"][0, :2] = torch.tensor([True, False])
    for name, mask in masks.items():
        trained[name] = torch.where(mask, trained[name], 0)
    return Ticket(
        masks, rewind, trained, seed=7, config={"rate": 0.2}, results={"round": 3, "test_accuracy": 0.1}
    )


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a
    )


def test_save_and_load_are_exact(ticket: Ticket, tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "ticket.safetensors"
    ticket.save(path)
    loaded = Ticket.load(str(path))
    assert same(loaded.masks, ticket.masks) and list(loaded.masks) == ["3.weight", "0.weight"]
    assert same(loaded.rewind, ticket.rewind) and same(loaded.trained, ticket.trained)
    assert (loaded.seed, loaded.config, loaded.results) == (7, {"rate": 0.2}, ticket.results)
    assert loaded.code_version == ticket.code_version
    assert [file.name for file in path.parent.iterdir()] == ["ticket.safetensors"]


def test_any_safetensors_reader_sees_packed_masks_and_a_json_header(ticket: Ticket, tmp_path: Path) -> None:
    ticket.save(tmp_path / "t")
    with safe_open(tmp_path / "t", framework="pt") as file:
        header = json.loads(file.metadata()["sparsekern"])
        packed = file.get_tensor("mask/0.weight")
    assert header["kind"] == "ticket" and header["format"] == 2 and header["seed"] == 7
    assert packed.dtype == torch.uint8 and packed.numel() == 2
    bits = [bool(int(packed[i // 8]) >> (7 - i % 8) & 1) for i in range(15)]
    assert bits == ticket.masks["0.weight"].flatten().tolist()


def test_apply_sets_weights_and_masks(ticket: Ticket) -> None:
    model = network()
    mask_(model[0], torch.ones(3, 5, dtype=torch.bool))
    mask_(model[0], torch.tensor([True, False, True]), name="bias")  # Not the ticket's: it goes.
    ticket.apply_(model)
    assert same(masks_of(model), ticket.masks)
    assert same(dense_state(model), ticket.trained)
    assert sparsity(model) == pytest.approx(ticket.sparsity)
    ticket.apply_(model, weights="rewind")
    masked = {**ticket.rewind, **{n: torch.where(m, ticket.rewind[n], 0) for n, m in ticket.masks.items()}}
    assert same(dense_state(model), masked)


def test_apply_changes_nothing_where_it_does_not_fit(ticket: Ticket) -> None:
    for model, message in [
        (nn.Sequential(nn.Linear(5, 3)), "does not fit Sequential: tensors"),
        (
            nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 4)),
            r"3.weight of shape \(2, 3\) expected, got \(4, 3\)",
        ),
    ]:
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(ValueError, match=message):
            ticket.apply_(model)
        assert same(dict(model.state_dict()), before) and masks_of(model) == {}
    with pytest.raises(ValueError, match=r"unknown weights 'final': expected one of \['trained', 'rewind'\]"):
        ticket.apply_(network(), weights="final")


def test_tickets_that_contradict_themselves_are_not_made(ticket: Ticket) -> None:
    dead = int((~ticket.masks["0.weight"]).sum())
    changes: list[tuple[dict[str, Any], str]] = [
        ({"masks": {}}, "at least one mask"),
        ({"masks": {"9.weight": torch.ones(1) > 0}}, "mask 9.weight: no such weight"),
        ({"masks": {"0.weight": torch.ones(3, 5)}}, r"bool of shape \(3, 5\) expected, got torch.float32"),
        ({"trained": {"0.weight": torch.ones(3, 5)}}, "trained and rewind states must be alike"),
        (
            {"trained": {**ticket.trained, "0.weight": torch.ones(3, 5)}},
            f"trained 0.weight: zeros where its mask is dead expected, got {dead} others",
        ),
        ({"rewind": {n: v.to(torch.complex64) for n, v in ticket.rewind.items()}}, "one real dtype expected"),
        ({"rewind": {n: v.double() for n, v in ticket.rewind.items()}}, "one real dtype expected"),
        (
            {
                "rewind": {n: v.to(torch.int32) for n, v in ticket.rewind.items()},
                "trained": {n: v.to(torch.int32) for n, v in ticket.trained.items()},
            },
            "a floating-point weight is expected, got torch.int32",
        ),
    ]
    for change, message in changes:
        with pytest.raises(ValueError, match=message):
            replace(ticket, **change)


def rewrite(path: Path, change: Callable[[dict[str, Tensor], dict[str, Any]], None]) -> None:
    """Change tensors and header of a file behind our back, its digest and order made right again."""
    tensors, header = module.read(path, "ticket")
    kind = header["kind"]
    change(tensors, header)
    module.write(path, kind, tensors, header)


def forge(path: Path, **changes: Any) -> None:
    """Change header fields that `files.write` would set right."""
    tensors, header = module.read(path, "ticket")
    header.update(changes)
    header["digest"] = module.digest(tensors, header)
    path.write_bytes(safetensors.torch.save(tensors, {"sparsekern": json.dumps(header)}))


def test_missing_and_misshapen_parts_are_named(ticket: Ticket, tmp_path: Path) -> None:
    path = tmp_path / "t"

    def wide(tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        tensors["mask/0.weight"] = torch.zeros(3, dtype=torch.uint8)

    def floating(tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        tensors["mask/0.weight"] = torch.zeros(2)

    def overfull(tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        tensors["mask/0.weight"][-1] |= 1

    changes: list[tuple[Callable[[dict[str, Tensor], dict[str, Any]], Any], str]] = [
        (
            wide,
            r"mask 0.weight: uint8 of shape \(2,\) expected for 15 weights, got torch.uint8 of shape \(3,\)",
        ),
        (floating, "uint8 of shape .* got torch.float32"),
        (overfull, "zero bits expected after its 15 weights"),
        (lambda t, h: t.pop("trained/0.weight"), "trained and rewind states must be alike"),
        (
            lambda t, h: t.update({"trained/0.bias": torch.ones(4)}),
            r"0.bias of shape \(3,\) expected, got \(4,\)",
        ),
        (
            lambda t, h: [t.pop(name) for name in list(t) if name.startswith("rewind")],
            "tensors rewind/…, trained/… and mask/… expected, got",
        ),
        (lambda t, h: [t.pop(name) for name in list(t) if name.startswith("mask")], "at least one mask"),
        (
            lambda t, h: t.update({"mask/x": torch.zeros(1, dtype=torch.uint8)}),
            r"masks \['x'\] have no weight",
        ),
        (lambda t, h: t.update({"['x']": torch.ones(1)}), r"expected, got \["),
        (lambda t, h: h.pop("seed"), "'seed' of type int expected, got nothing"),
        (lambda t, h: h.update(results=[1]), "'results' of type dict expected, got list"),
    ]
    for change, message in changes:
        ticket.save(path)
        rewrite(path, change)
        with pytest.raises(ValueError, match=message):
            Ticket.load(path)


def test_foreign_truncated_and_damaged_files_are_refused(ticket: Ticket, tmp_path: Path) -> None:
    path = tmp_path / "t"
    with pytest.raises(ValueError, match="No such file"):
        Ticket.load(path)
    ticket.save(path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    for content, message in [
        (b"", "a whole sparsekern ticket file is expected"),
        (whole[:-1], "a whole sparsekern ticket file is expected"),
        (whole[:40], "a whole sparsekern ticket file is expected"),
        (pickle.dumps({"masks": {}}), "a whole sparsekern ticket file is expected"),
        (safetensors.torch.save({"a": torch.ones(2)}), "got KeyError"),
        (safetensors.torch.save({"a": torch.ones(2)}, {"sparsekern": "not json"}), "got JSONDecodeError"),
        (
            safetensors.torch.save({"a": torch.ones(2)}, {"sparsekern": "[]"}),
            "header must be a JSON object, got list",
        ),
        (bytes(flipped), "damaged"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            Ticket.load(path)
    for changes, message in [
        ({"format": 1}, "format 2 expected, got 1"),
        ({"kind": "round"}, "a ticket file is expected, got kind 'round'"),
        ({"order": ["a"]}, "the header names tensors"),
        ({"order": [["x"]]}, "the header names tensors"),
        ({"seed": True}, "seed must be an int of at least 0, got True"),
        ({"seed": -5}, "seed must be an int of at least 0, got -5"),
    ]:
        path.write_bytes(whole)
        forge(path, **changes)
        with pytest.raises(ValueError, match=message):
            Ticket.load(path)


def test_no_header_escapes_as_another_error(ticket: Ticket, tmp_path: Path) -> None:
    path = tmp_path / "t"

    def outer(metadata: object) -> bytes:
        text = json.dumps({"__metadata__": metadata}).encode()
        return len(text).to_bytes(8, "little") + text

    for content in (
        outer(None),
        outer({"sparsekern": "[" * 100_000}),
        outer({"sparsekern": '{"format":' + "1" * 6_000 + "}"}),
        outer({"sparsekern": '{"format": 2, "kind": "ticket", "results": {"a": NaN}}'}),
        outer({"sparsekern": '{"format": 2, "kind": "ticket", "results": {"a": 1e999}}'}),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"t: a whole sparsekern ticket file is expected"):
            Ticket.load(path)


def test_results_with_nan_are_not_saved(ticket: Ticket, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"/t: a header of plain JSON without NaN is expected"):
        replace(ticket, results={"a": [float("nan")]}).save(tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


def test_a_changed_header_is_damage(ticket: Ticket, tmp_path: Path) -> None:
    path = tmp_path / "t"
    ticket.save(path)
    whole = path.read_bytes()
    assert whole.count(b'\\"test_accuracy\\": 0.1') == 1
    path.write_bytes(whole.replace(b'\\"test_accuracy\\": 0.1', b'\\"test_accuracy\\": 0.9'))
    with pytest.raises(ValueError, match="damaged"):
        Ticket.load(path)


def test_states_that_share_memory_are_saved(ticket: Ticket, tmp_path: Path) -> None:
    shared = replace(ticket, rewind=ticket.trained)
    shared.save(tmp_path / "t")
    assert same(Ticket.load(tmp_path / "t").rewind, ticket.trained)


def test_a_ticket_of_empty_layers_is_not_made(ticket: Ticket) -> None:
    empty = {"a": torch.zeros(0, 3)}
    with pytest.raises(ValueError, match="at least one mask of at least one weight"):
        Ticket({"a": torch.zeros(0, 3) > 0}, empty, empty, 0, {}, {})


def test_apply_does_not_round_weights_into_whole_numbers(ticket: Ticket) -> None:
    model = network()
    model[1].running_mean = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(
        ValueError, match=r"1.running_mean of a dtype like torch.float32 expected, got torch.int64"
    ):
        ticket.apply_(model)
    assert masks_of(model) == {}


def test_a_save_that_fails_leaves_the_old_ticket(
    ticket: Ticket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t"
    ticket.save(path)

    def broken(source: Path, target: Path) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk is full"):
        replace(ticket, seed=8).save(path)
    assert Ticket.load(path).seed == 7
    assert list(tmp_path.iterdir()) == [path]


def test_a_ticket_prints_what_is_alive_in_each_layer(ticket: Ticket) -> None:
    text = str(ticket)
    alive = int(ticket.masks["0.weight"].sum())
    assert f"{alive} of" in text and f"{ticket.sparsity:.2%}" in text
