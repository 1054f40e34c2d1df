"""Times training steps of PEFT on rows of token ids; prints {"seconds": [...]}, one a step.

usage: peft_steps.py --model DIR --rows FILE --method lora|dora|qlora|qdora --steps N --batch-size N [--gradient-checkpointing]

The base is bf16, or NF4 with nested scales (bitsandbytes) for qlora and qdora; adapters are f32 as PEFT makes them, under autocast to
bf16; rank 16, alpha 32, all linear layers; fused AdamW, norm clipped at 1. Needs torch with CUDA, transformers and peft.
"""
import argparse
import json
import sys
import time
from pathlib import Path


def main():
    p = argparse.ArgumentParser(usage=__doc__.split("usage: ")[1].split("\n")[0])
    p.add_argument("--model", type=Path, required=True)
    p.add_argument("--rows", type=Path, required=True)
    p.add_argument("--method", choices=["lora", "dora", "qlora", "qdora"], required=True)
    p.add_argument("--steps", type=int, required=True)
    p.add_argument("--batch-size", type=int, required=True)
    p.add_argument("--gradient-checkpointing", action="store_true")
    p.add_argument("--device", default="cuda", help="cpu only shows that the script runs")
    a = p.parse_args()
    try:
        import peft  # noqa: F401
        import torch
    except ModuleNotFoundError as missing:
        sys.exit(f"python3 has no {missing.name}")
    if a.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch sees no GPU")
    model = adapted(a)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0, fused=a.device == "cuda")
    rows = [json.loads(line)["input_ids"] for line in a.rows.read_text().splitlines()]
    seconds = []
    for step in range(a.steps):
        ids = torch.tensor(rows[step * a.batch_size:(step + 1) * a.batch_size], device=a.device)
        synchronize(torch, a.device)
        start = time.perf_counter()
        with torch.autocast(a.device, dtype=torch.bfloat16):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        synchronize(torch, a.device)
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": seconds}))


def adapted(a):
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    four_bits = a.method.startswith("q")
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(
        a.model,
        dtype=torch.bfloat16,
        device_map={"": a.device},
        attn_implementation="sdpa",
        quantization_config=quantization if four_bits else None,
    )
    if four_bits:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=a.gradient_checkpointing)
    elif a.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    config = LoraConfig(
        r=16, lora_alpha=32, target_modules="all-linear", use_dora=a.method.endswith("dora"), task_type="CAUSAL_LM"
    )
    return get_peft_model(model, config).train()


def synchronize(torch, device):
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
