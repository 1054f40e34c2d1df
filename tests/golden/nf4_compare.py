"""Compares a checkpoint that `dora quantize` wrote with bitsandbytes' own of the same base, tensor by tensor, and what the two
generate in transformers. Prints shares; exit 1 when a weight's code differs, or 1 % of the nested.

usage: nf4_compare.py OURS THEIRS    THEIRS: a folder that `save_pretrained` wrote of the model loaded with load_in_4bit=True,
       bnb_4bit_quant_type="nf4", double quantisation on. Versions as in nf4.py.

Codes of weights must be equal to the byte. A nested code may be a neighbour: bitsandbytes' CPU library looks codes up in a table
of 65,536 entries, where ours (and its CUDA kernels) find the nearest value; near 0, where the map is finer than that table, by
more than a neighbour.
"""
import json
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer


def generated(folder, prompt, tokens=40):
    model = AutoModelForCausalLM.from_pretrained(folder, device_map="cpu").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    with torch.no_grad():
        # One token at a time bitsandbytes' CPU product rounds more: logits move by a tenth, and with them a greedy choice.
        out = model.generate(ids, max_new_tokens=tokens, do_sample=False, use_cache=False)
    return tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True)


def main():
    ours, theirs = (load_file(f"{folder}/model.safetensors") for folder in sys.argv[1:3])
    assert ours.keys() == theirs.keys(), set(ours) ^ set(theirs)
    weights = [k.removesuffix(".quant_map") for k in ours if k.endswith(".quant_map")]
    weights = [k for k in weights if not k.endswith(".nested")]
    codes = sum((ours[k] != theirs[k]).sum().item() for k in weights)
    all_codes = sum(ours[k].numel() for k in weights)
    nested = sum((ours[f"{k}.absmax"] != theirs[f"{k}.absmax"]).sum().item() for k in weights)
    far = sum(((ours[f"{k}.absmax"].int() - theirs[f"{k}.absmax"].int()).abs() > 1).sum().item() for k in weights)
    all_nested = sum(ours[f"{k}.absmax"].numel() for k in weights)
    offsets = []
    for k in weights:
        states = [json.loads(bytes(side[f"{k}.quant_state.bitsandbytes__nf4"].tolist())) for side in (ours, theirs)]
        offsets.append(abs(states[0]["nested_offset"] - states[1]["nested_offset"]) / abs(states[1]["nested_offset"]))
        assert {k: v for k, v in states[0].items() if k != "nested_offset"} == {
            k: v for k, v in states[1].items() if k != "nested_offset"
        }, states
    print(f"{len(weights)} weights: {codes} of {all_codes} bytes of codes differ")
    print(f"{nested} of {all_nested} nested codes differ ({100 * nested / all_nested:.2f} %), {far} by more than one")
    print(f"largest relative difference of an offset {max(offsets):.1e}")
    others = [k for k in ours if not any(k.startswith(w) for w in weights)]
    print(f"{sum(torch.equal(ours[k], theirs[k]) for k in others)} of {len(others)} other tensors equal")
    prompt = "The capital of France is"
    for folder in sys.argv[1:3]:
        print(f"{folder}: {generated(folder, prompt)!r}")
    sys.exit(codes > 0 or nested > 0.01 * all_nested)


main()
