"""Writes golden/nf4: bitsandbytes' NF4 codes, scales and values for matrices of awkward sizes, on the CPU.

Versions: torch 2.15.0, bitsandbytes 0.50.2 (others are refused). For each case i of case.json (shape, block size):
  input.<i> (out, in)   codes.<i> (bytes as f32)   absmax.<i>   dense.<i> (out, in; f32)
  nested_codes.<i>, nested_absmax.<i>, offset.<i>, nested_dense.<i>: the same with double quantisation
and `quant_map`, `nested_quant_map`. (No row is shorter than a block that it fills: bitsandbytes 0.50.2 takes wrong scales there on a
CPU with AVX-512, its values then differ from code times scale.) Everything is f32 in the file, bytes included, so that one reader serves all.
"""
import json
from importlib.metadata import version
from pathlib import Path

import torch
import bitsandbytes.functional as F
from safetensors.torch import save_file

WANTED = {"torch": "2.15.0", "bitsandbytes": "0.50.2"}
CASES = [([1, 1], 64), ([3, 7], 64), ([5, 64], 64), ([67, 129], 64), ([33, 128], 128), ([9, 1000], 256), ([3, 2049], 4096)]


def main():
    for name, wanted in WANTED.items():
        found = version(name).split("+")[0]
        assert found == wanted, f"{name} {found}, expected {wanted}"
    torch.set_num_threads(1)
    torch.manual_seed(4)
    tensors = {}
    for i, (shape, block) in enumerate(CASES):
        x = torch.randn(shape)
        if i == 3:
            x[10:12] = 0  # whole blocks of zeros
        codes, state = F.quantize_4bit(x, blocksize=block, quant_type="nf4", compress_statistics=False)
        tensors |= {f"input.{i}": x, f"codes.{i}": codes.flatten().float(), f"absmax.{i}": state.absmax}
        tensors[f"dense.{i}"] = F.dequantize_4bit(codes, state)
        again, nested = F.quantize_4bit(x, blocksize=block, quant_type="nf4", compress_statistics=True)
        assert torch.equal(codes, again)
        tensors |= {f"nested_codes.{i}": nested.absmax.float(), f"nested_absmax.{i}": nested.state2.absmax}
        tensors |= {f"offset.{i}": nested.offset.reshape(1), f"nested_dense.{i}": F.dequantize_4bit(again, nested)}
        tensors |= {"quant_map": state.code, "nested_quant_map": nested.state2.code}
    out = Path(__file__).parent / "nf4"
    out.mkdir(exist_ok=True)
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, out / "expected.safetensors")
    cases = [{"shape": shape, "block_size": block} for shape, block in CASES]
    (out / "case.json").write_text(json.dumps({"about": "bitsandbytes NF4 on the CPU", "cases": cases}, indent=2) + "\n")


main()
