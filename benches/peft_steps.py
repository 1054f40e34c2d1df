"""Times training steps of Hugging Face PEFT on the CPU, when it is told to: `cargo xtask bench --peers` drives it.

usage: peft_steps.py MODEL METHOD RANK BATCH THREADS      METHOD: lora | dora | qlora | qdora

Says "ready" once the model is loaded. Each line on stdin then names a file of rows {"input_ids", "labels"}. The steps over its
rows, BATCH at a time in their order and padded on the right to the longest, as transformers' collator does, are answered by a line
of JSON: `seconds` of each step (forward, backward, AdamW), `tokens` of each without padding, and `peak_rss_mb`, the process's so
far, in 10^6 bytes. Adapters are on all linear layers but the output embedding; arithmetic is f32.
"""
import json
import os
import sys
import time

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # What libraries print is no answer.

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

IGNORE = -100


def load(path, method, rank):
    options = {}
    if method.startswith("q"):
        options["quantization_config"] = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4",
                                                            bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, device_map="cpu", **options)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, use_dora=method.endswith("dora"), target_modules="all-linear",
                        task_type="CAUSAL_LM")
    return get_peft_model(base, config).train()


def padded(rows, key, filler):
    longest = max(len(row[key]) for row in rows)
    return torch.tensor([row[key] + [filler] * (longest - len(row[key])) for row in rows])


def batch_of(rows):
    masks = [{"mask": [1] * len(row["input_ids"])} for row in rows]
    return dict(input_ids=padded(rows, "input_ids", 0), labels=padded(rows, "labels", IGNORE),
                attention_mask=padded(masks, "mask", 0))


def peak_rss_mb():
    with open("/proc/self/status") as status:
        kib = next(line.split()[1] for line in status if line.startswith("VmHWM:"))
    return int(kib) * 1024 / 1e6


def main():
    path, method, (rank, batch_size, threads) = sys.argv[1], sys.argv[2], map(int, sys.argv[3:])
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = load(path, method, rank)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4, weight_decay=0.0)
    print("ready", file=answers, flush=True)
    for request in sys.stdin:
        with open(request.rstrip("\n")) as file:
            rows = [json.loads(line) for line in file]
        seconds, tokens = [], []
        for first in range(0, len(rows), batch_size):
            part = rows[first:first + batch_size]
            batch = batch_of(part)
            start = time.perf_counter()
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            seconds.append(time.perf_counter() - start)
            tokens.append(sum(len(row["input_ids"]) for row in part))
        print(json.dumps(dict(seconds=seconds, tokens=tokens, peak_rss_mb=peak_rss_mb())), file=answers, flush=True)


main()
