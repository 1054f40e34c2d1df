"""Compares a run of `dora` with PEFT's run from the same initial adapter and rows; prints a table, exit 1 on a miss.

usage: parity.py --model DIR --run DIR --peer-json FILE --init DIR --rows FILE --logits FILE --merged DIR

  --model      the base checkpoint                --init       the PEFT adapter that both runs started from
  --run        dora's output folder: metrics.jsonl with `loss` a step, and the trained adapter
  --peer-json  PEFT's output: its last line that is a JSON object holds `losses`, one a step
  --rows       rows {"input_ids", ...}, one a line (from 0)
  --logits     safetensors from dora: tensor `row_<i>` (tokens, vocabulary) for some rows i, of base + trained adapter
  --merged     dora's merged checkpoint

What must hold, tolerance 1e-3 each:
  losses   every step: |ours - PEFT's| / |PEFT's|
  adapter  ours has the tensors, shapes and options of --init, is finite, and every kind of tensor moved
  logits   max |ours - PEFT's| with our adapter loaded in PEFT, over every position of each row
  merged   max |our merged checkpoint in transformers - PEFT's merge_and_unload of our adapter|, on the same rows
Relative figures beside the logits are over the largest |logit| of the row. Versions as in make.py; float32 on the CPU.
"""
import argparse
import json
import sys
from pathlib import Path

import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-3
OPTIONS = ["peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern"]


class Table:
    """Printed lines, and whether all of them held."""

    def __init__(self):
        self.failed = 0

    def line(self, what, held, text):
        self.failed += not held
        print(f"{what:<22} {'ok  ' if held else 'MISS'}  {text}")

    def compare_logits(self, what, ours, theirs):
        if ours.shape != theirs.shape:
            return self.line(what, False, f"shape {tuple(ours.shape)}, expected {tuple(theirs.shape)}")
        worst = (ours - theirs).abs().max().item()
        relative = worst / theirs.abs().max().item()
        self.line(what, worst <= TOLERANCE, f"max |diff| {worst:.2e}, relative {relative:.2e}, {ours.shape[0]} tokens")


def main():
    p = argparse.ArgumentParser(usage=__doc__.split("usage: ")[1].split("\n")[0])
    for name in ("model", "run", "peer-json", "init", "rows", "logits", "merged"):
        p.add_argument(f"--{name}", type=Path, required=True)
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    transformers.logging.disable_progress_bar()

    table = Table()
    compare_losses(table, read_ours(a.run / "metrics.jsonl"), read_peer(a.peer_json))
    compare_adapters(table, a.init, a.run)

    given = load_file(a.logits)
    wanted = sorted(int(name.removeprefix("row_")) for name in given)
    if not wanted:
        sys.exit(f"{a.logits}: no tensor row_<i>")
    lines = a.rows.read_text().splitlines()
    ids = {i: torch.tensor([json.loads(lines[i])["input_ids"]]) for i in wanted}

    peer = PeftModel.from_pretrained(base_model(a.model), a.run).eval()
    for i in wanted:
        table.compare_logits(f"logits row_{i}", given[f"row_{i}"].float(), logits_of(peer, ids[i]))
    merged, ours = peer.merge_and_unload(), base_model(a.merged)
    for i in wanted:
        table.compare_logits(f"merged row_{i}", logits_of(ours, ids[i]), logits_of(merged, ids[i]))
    print(f"{table.failed} missed" if table.failed else f"all within {TOLERANCE}")
    sys.exit(table.failed > 0)


def base_model(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def logits_of(model, ids):
    return model(input_ids=ids).logits[0]


def read_ours(path):
    """`loss` of each step; evaluation lines, which have no `loss`, are passed over."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [r["loss"] for r in records if "loss" in r]


def read_peer(path):
    objects = [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]
    if not objects or "losses" not in objects[-1]:
        sys.exit(f"{path}: no JSON line with `losses`")
    return objects[-1]["losses"]


def compare_losses(table, ours, theirs):
    table.line("steps", len(ours) == len(theirs) > 0, f"ours {len(ours)}, PEFT {len(theirs)}")
    worst = 0.0
    for step, (x, y) in enumerate(zip(ours, theirs), start=1):
        difference = abs(x - y) / abs(y)
        worst = max(worst, difference)
        table.line(f"loss step {step}", difference <= TOLERANCE, f"ours {x:.6f}, PEFT {y:.6f}, rel. {difference:.2e}")
    print(f"{'':<22}       largest relative difference of a loss {worst:.2e}")


def compare_adapters(table, init, run):
    before, after = (load_file(d / "adapter_model.safetensors") for d in (init, run))
    shapes = [{k: tuple(t.shape) for k, t in side.items()} for side in (before, after)]
    table.line("adapter tensors", shapes[0] == shapes[1], f"ours {len(after)}, initial {len(before)}")
    configs = [json.loads((d / "adapter_config.json").read_text()) for d in (init, run)]
    different = [k for k in OPTIONS if (configs[0].get(k) or None) != (configs[1].get(k) or None)]
    table.line("adapter options", not different, f"different: {different}" if different else "the same")
    table.line("adapter finite", all(t.isfinite().all().item() for t in after.values()), "")
    if shapes[0] != shapes[1]:
        return
    for kind in ("lora_A", "lora_B", "lora_magnitude_vector"):
        moved = [(after[k].float() - before[k].float()).abs().max().item() for k in after if kind in k]
        if moved:
            table.line(f"moved {kind[5:]}", min(moved) > 0, f"by {min(moved):.1e} to {max(moved):.1e}, over tensors")


if __name__ == "__main__":
    main()
