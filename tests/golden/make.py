"""Makes the golden files of this folder: tiny Llama checkpoints, PEFT adapters, and the numbers PyTorch gives for them.

usage: make.py [OUT]      OUT: the folder to write the cases into; without it, the folder of this script

Needs exactly torch 2.15.0, transformers 5.23.0, peft 0.21.2 (checked below). Everything runs in float32 on the CPU, on
one thread, seeded per case, so that a second run on the same kind of CPU gives the same bytes. README.md says what each
case holds. Conventions shared by all cases:

* Documents are run one by one, without padding. Tensors over tokens are concatenated in document order: `logits`
  (T, V), `hidden` (T, H) after the final norm.
* `loss` (1) is the cross-entropy of labels[t + 1] given positions up to t, averaged over every label that is not -100
  and not the first of its document, across all documents at once. Gradients are of that mean.
* `grad.X`: X is the tensor's name in the checkpoint or adapter file. `merged.X`, `magnitude.X`: X is the module's path.
"""
import json
import shutil
import sys
from pathlib import Path

import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, get_scheduler

VERSIONS = {torch: "2.15.0", transformers: "5.23.0", peft: "0.21.2"}
PREFIX = "base_model.model."
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
SEVEN = ATTENTION + ["gate_proj", "up_proj", "down_proj"]


# ---- models and documents

def base_config(**fields):
    """A LlamaConfig without the defaults that would let a wrong reader pass by luck."""
    return LlamaConfig(max_position_embeddings=512, bos_token_id=1, eos_token_id=2, **fields)


def random_model(config, rng):
    """A model with weights large enough that attention, norms and biases all show in the logits."""
    model = LlamaForCausalLM(config).float()
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=rng)
            if name.endswith("norm.weight"):
                p.copy_(1 + 0.2 * noise)
            elif p.dim() == 1:
                p.copy_(0.3 * noise)
            elif "embed_tokens" in name:
                p.copy_(0.7 * noise)
            else:
                p.copy_(1.3 * noise / p.shape[1] ** 0.5)
    return model.eval()


def documents(vocab, lengths, rng):
    """Token rows. The longest masks about a third of its labels, and one of its labels is not its token."""
    docs = []
    for n in lengths:
        ids = torch.randint(3, vocab, (n,), generator=rng)
        labels = ids.clone()
        if n == max(lengths):
            labels[torch.rand(n, generator=rng) < 0.35] = -100
            labels[-2], labels[-1] = (ids[-2] + 1) % vocab, ids[-1]
        docs.append({"input_ids": ids.tolist(), "labels": labels.tolist()})
    return docs


def evaluate(model, docs):
    """(tensors `logits`, `hidden`, `loss`; the loss on the tape; the number of labels in it)"""
    logits, hidden, total, count = [], [], 0.0, 0
    for doc in docs:
        ids, labels = (torch.tensor(doc[k]) for k in ("input_ids", "labels"))
        out = model(input_ids=ids[None], output_hidden_states=True, use_cache=False)
        logits.append(out.logits[0])
        hidden.append(out.hidden_states[-1][0])
        total = total + cross_entropy(out.logits[0, :-1], labels[1:], reduction="sum", ignore_index=-100)
        count += (labels[1:] != -100).sum().item()
    loss = total / count
    tensors = {"logits": torch.cat(logits), "hidden": torch.cat(hidden), "loss": loss.reshape(1)}
    return {k: v.detach().clone() for k, v in tensors.items()}, loss, count


# ---- writing

def write_tensors(path, tensors):
    for name, t in tensors.items():
        assert t.dtype == torch.float32 and torch.isfinite(t).all(), f"{path}: {name} is {t.dtype} or not finite"
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, path, metadata={"format": "pt"})


def write_json(path, value):
    """Indented JSON with each list of numbers on one line."""
    def text(v, pad):
        inner = pad + "  "
        if isinstance(v, dict) and v:
            return "{\n" + ",\n".join(f"{inner}{json.dumps(k)}: {text(x, inner)}" for k, x in v.items()) + f"\n{pad}}}"
        if isinstance(v, list) and any(isinstance(x, dict) for x in v):
            return "[\n" + ",\n".join(inner + text(x, inner) for x in v) + f"\n{pad}]"
        return json.dumps(v)
    path.write_text(text(value, "") + "\n")


def write_model(folder, model, **save):
    """config.json and the weights, with transformers' own writer; nothing else."""
    model.save_pretrained(folder / "model", **save)
    (folder / "model" / "generation_config.json").unlink(missing_ok=True)


def write_case(folder, about, model, tensors, docs, count, **more):
    write_tensors(folder / "expected.safetensors", tensors)
    write_json(folder / "case.json",
               {"about": about, "model": model, **more, "labelled_tokens": count, "documents": docs})


def write_old_config(folder, docs, remove=(), **fields):
    """config_v4.json: the same model as transformers 4 spelled it; checked to give the same logits."""
    config = json.loads((folder / "model" / "config.json").read_text())
    config["torch_dtype"] = config.pop("dtype")
    for key in ("rope_parameters", "transformers_version", *remove):
        config.pop(key, None)
    config |= fields | {"transformers_version": "4.46.0"}
    (folder / "config_v4.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    model = load(folder)
    old = LlamaConfig.from_json_file(folder / "config_v4.json")
    again = LlamaForCausalLM.from_pretrained(folder / "model", config=old, dtype=torch.float32,
                                             attn_implementation="eager")
    assert torch.equal(evaluate(model, docs)[0]["logits"], evaluate(again, docs)[0]["logits"]), folder


def load(folder):
    """The checkpoint as it lies on disk, upcast to float32."""
    return LlamaForCausalLM.from_pretrained(folder / "model", dtype=torch.float32, attn_implementation="eager").eval()


# ---- base models

def llama_plain(folder, rng):
    model = random_model(base_config(
        vocab_size=97, hidden_size=42, intermediate_size=53, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, head_dim=10, rms_norm_eps=1e-5, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0}), rng)
    write_model(folder, model)
    write_dense_case(folder, "untied, 6 heads over 2 key-value heads, head_dim 10 although 42 / 6 = 7",
                     documents(97, [1, 7, 13], rng))


def llama_tied_bias(folder, rng):
    # Wavelengths 2 pi 500^(2 i / 14) against the bounds 32 and 128: two kept, two interpolated, three divided by 8.
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 128}
    model = random_model(base_config(
        vocab_size=89, hidden_size=33, intermediate_size=47, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, head_dim=14, rms_norm_eps=1e-2, tie_word_embeddings=True, attention_bias=True,
        mlp_bias=True, rope_parameters=rope | {"rope_theta": 500.0}), rng)
    write_model(folder, model)
    docs = documents(89, [5, 1, 23], rng)
    write_old_config(folder, docs, rope_theta=500.0, rope_scaling=rope)
    write_dense_case(folder, "tied embeddings, attention and MLP biases, llama3 rope scaling, eps 1e-2", docs)


def llama_linear_rope_sharded_bf16(folder, rng):
    model = random_model(base_config(
        vocab_size=61, hidden_size=35, intermediate_size=41, num_hidden_layers=3, num_attention_heads=5,
        num_key_value_heads=1, head_dim=8, rms_norm_eps=1e-6, tie_word_embeddings=False,
        rope_parameters={"rope_type": "linear", "rope_theta": 1000.0, "factor": 4.0}), rng)
    write_model(folder, model.bfloat16(), max_shard_size="20KB")
    assert len(list((folder / "model").glob("*.safetensors"))) > 2
    docs = documents(61, [3, 17], rng)
    write_old_config(folder, docs, rope_theta=1000.0, rope_scaling={"type": "linear", "factor": 4.0})
    write_dense_case(folder, "bf16 in shards, linear rope scaling; computed in f32 from those weights", docs, False)


def llama_f16(folder, rng):
    model = random_model(base_config(
        vocab_size=53, hidden_size=30, intermediate_size=37, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=3, head_dim=10, rms_norm_eps=1e-6, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0}), rng)
    write_model(folder, model.half())
    docs = documents(53, [2, 11], rng)
    # The keys that old checkpoints leave out: every one of them has this model's value as its default.
    write_old_config(folder, docs, remove=("num_key_value_heads", "head_dim", "attention_bias", "mlp_bias",
                                           "attention_dropout", "pretraining_tp", "rms_norm_eps"))
    write_dense_case(folder, "f16, tied, one key-value head a head; computed in f32 from those weights", docs, False)


def write_dense_case(folder, about, docs, grads=True):
    model = load(folder)
    tensors, loss, count = evaluate(model, docs)
    if grads:
        loss.backward()
        tensors |= {f"grad.{k}": p.grad for k, p in model.named_parameters()}
    write_case(folder, about, "model", tensors, docs, count)


# ---- adapters

def file_name(parameter):
    """PEFT's name of an adapter tensor on disk, from its name in the module tree."""
    return parameter.replace("_vector.default.weight", "_vector").replace(".default.", ".")


def modules_of(names):
    """The module paths, sorted, of adapter tensors in a file or in the module tree."""
    return sorted({k.removeprefix(PREFIX).split(".lora_")[0] for k in names if ".lora_" in k})


def write_adapter(folder, model, base, rng):
    """Fills A and B at random, moves each m away from the norm, and saves with PEFT's own writer."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=rng) if p.requires_grad else None
            if "lora_A" in name:
                p.copy_(noise / p.shape[1] ** 0.5)
            elif "lora_B" in name:
                p.copy_(0.4 * noise / p.shape[1] ** 0.5)
            elif "lora_magnitude_vector" in name:
                p.mul_(1 + 0.1 * noise)
    model.save_pretrained(folder / "adapter")
    (folder / "adapter" / "README.md").unlink(missing_ok=True)
    # PEFT writes its set of targets in hash order and the base's path on this machine: make both the same on every run.
    path = folder / "adapter" / "adapter_config.json"
    config = json.loads(path.read_text())
    config |= {"target_modules": sorted(config["target_modules"]), "base_model_name_or_path": base}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def peft_expected(base, adapter, docs):
    """Every expected tensor of an adapter, from PEFT with the files that were written."""
    model = PeftModel.from_pretrained(load(base), adapter, is_trainable=True).eval()
    tensors, loss, count = evaluate(model, docs)
    loss.backward()
    tensors |= {f"grad.{file_name(k)}": p.grad for k, p in model.named_parameters() if p.requires_grad}
    merged = model.merge_and_unload()
    tensors |= {f"merged.{t}": merged.get_submodule(t).weight
                for t in modules_of(load_file(adapter / "adapter_model.safetensors"))}
    return tensors, count


def case_docs(base):
    return json.loads((base / "case.json").read_text())["documents"]


def lora_rslora(folder, rng):
    base = folder.parent / "llama_plain"
    config = LoraConfig(r=3, lora_alpha=5, use_rslora=True, task_type="CAUSAL_LM", lora_dropout=0.0,
                        target_modules=["q_proj", "v_proj", "down_proj"],
                        rank_pattern={"layers.1.self_attn.q_proj": 7, "q_proj": 1, r".*0.*down_proj": 2},
                        alpha_pattern={"layers.0.mlp.down_proj": 2, "v_proj": 11})
    write_adapter(folder, get_peft_model(load(base), config), "llama_plain", rng)
    files = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert {v.shape[0] for k, v in files.items() if "lora_A" in k} == {1, 2, 3, 7}
    docs = case_docs(base)
    tensors, count = peft_expected(base, folder / "adapter", docs)
    write_case(folder, "LoRA with rsLoRA, rank_pattern (1, 2, 3, 7) and alpha_pattern (2, 5, 11)",
               "../llama_plain/model", tensors, docs, count, adapter="adapter")


def dora_seven(folder, rng):
    base = folder.parent / "llama_tied_bias"
    config = LoraConfig(r=5, lora_alpha=7, use_rslora=True, use_dora=True, task_type="CAUSAL_LM", lora_dropout=0.0,
                        target_modules=SEVEN)
    write_adapter(folder, get_peft_model(load(base), config), "llama_tied_bias", rng)
    path = folder / "adapter" / "adapter_model.safetensors"
    adapter = load_file(path)
    adapter[f"{PREFIX}model.layers.0.mlp.up_proj.lora_magnitude_vector"][3] = 0.0
    adapter[f"{PREFIX}model.layers.1.self_attn.v_proj.lora_magnitude_vector"][2] *= -1.0
    save_file(adapter, path, metadata={"format": "pt"})
    docs = case_docs(base)
    tensors, count = peft_expected(base, folder / "adapter", docs)
    own, _ = reference_expected(base, folder / "adapter", 7 / 5 ** 0.5, docs)
    assert own.keys() == tensors.keys()
    for k, want in tensors.items():
        assert (own[k] - want).abs().max() <= 1e-5 * want.abs().max(), f"the reference and PEFT differ in {k}"
    write_case(folder, "DoRA with rsLoRA on all seven projections; one m is 0 and one is negative",
               "../llama_tied_bias/model", tensors, docs, count, adapter="adapter")


class ReferenceDora(nn.Module):
    """DoRA written down apart from PEFT, which divides by zero where a row of W + sBA is zero.

    y = g (x Wt + s (x At) Bt) + b,  g = m / n,  n = |W + sBA| per output row, without gradient. Where n = 0: g = 1, and
    m gets no gradient. B of such a row still does, through g = 1.
    """

    def __init__(self, base, a, b, m, s):
        super().__init__()
        self.base, self.s = base, s
        self.a, self.b, self.m = (nn.Parameter(t.clone()) for t in (a, b, m))

    def scale(self):
        n = torch.linalg.norm(self.base.weight + self.s * self.b @ self.a, dim=1).detach()
        return torch.where(n == 0, torch.ones_like(n), self.m / torch.where(n == 0, torch.ones_like(n), n))

    def forward(self, x):
        y = self.scale() * (x @ self.base.weight.T + self.s * (x @ self.a.T) @ self.b.T)
        return y if self.base.bias is None else y + self.base.bias

    def merged(self):
        return self.scale()[:, None] * (self.base.weight + self.s * self.b @ self.a)


def reference_expected(base, adapter, s, docs):
    """What peft_expected gives, from ReferenceDora instead of PEFT."""
    model, files = load(base), load_file(adapter / "adapter_model.safetensors")
    model.requires_grad_(False)
    modules = {}
    for t in modules_of(files):
        a, b, m = (files[f"{PREFIX}{t}.{k}"] for k in ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector"))
        modules[t] = ReferenceDora(model.get_submodule(t), a, b, m, s)
        model.set_submodule(t, modules[t])
    tensors, loss, count = evaluate(model, docs)
    loss.backward()
    for t, d in modules.items():
        tensors |= {f"grad.{PREFIX}{t}.lora_A.weight": d.a.grad, f"grad.{PREFIX}{t}.lora_B.weight": d.b.grad,
                    f"grad.{PREFIX}{t}.lora_magnitude_vector": d.m.grad, f"merged.{t}": d.merged()}
    return tensors, count


ZERO_ROWS = {"model.layers.0.self_attn.o_proj": [0, 11, 28], "model.layers.1.self_attn.o_proj": [5],
             "model.layers.0.self_attn.k_proj": [2, 9]}


def dora_zero_rows(folder, rng):
    model = random_model(base_config(
        vocab_size=59, hidden_size=29, intermediate_size=31, num_hidden_layers=2, num_attention_heads=1,
        num_key_value_heads=1, head_dim=12, rms_norm_eps=1e-5, tie_word_embeddings=False, attention_bias=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0}), rng)
    with torch.no_grad():
        for t, rows in ZERO_ROWS.items():
            model.get_submodule(t).weight[rows] = 0.0
    write_model(folder, model)
    config = LoraConfig(r=3, lora_alpha=4, use_dora=True, task_type="CAUSAL_LM", lora_dropout=0.0,
                        target_modules=ATTENTION)
    write_adapter(folder, get_peft_model(load(folder), config), "dora_zero_rows", rng)
    path = folder / "adapter" / "adapter_model.safetensors"
    adapter = load_file(path)
    for t, rows in ZERO_ROWS.items():
        adapter[f"{PREFIX}{t}.lora_B.weight"][rows] = 0.0
        assert (adapter[f"{PREFIX}{t}.lora_magnitude_vector"][rows] == 0).all()
    adapter[f"{PREFIX}model.layers.0.self_attn.o_proj.lora_magnitude_vector"][11] = 0.25  # g is 1 whatever m says
    save_file(adapter, path, metadata={"format": "pt"})
    docs = documents(59, [1, 4, 9], rng)
    broken = PeftModel.from_pretrained(load(folder), folder / "adapter")
    assert evaluate(broken, docs)[0]["loss"].isnan().all(), "PEFT handles zero rows now: take its values"
    tensors, count = reference_expected(folder, folder / "adapter", 4 / 3, docs)
    for t, rows in ZERO_ROWS.items():
        assert (tensors[f"grad.{PREFIX}{t}.lora_magnitude_vector"][rows] == 0).all()
        assert (tensors[f"merged.{t}"][rows] == 0).all()
    write_case(folder, "DoRA over rows of W that are zero: g = 1, no gradient to m; biases; values from ReferenceDora",
               "model", tensors, docs, count, adapter="adapter", zero_rows=ZERO_ROWS)


def dora_init(folder, rng):
    del rng  # with B = 0 the norms are those of W, whatever A is
    base = folder.parent / "dora_zero_rows"
    config = LoraConfig(r=3, lora_alpha=4, use_dora=True, task_type="CAUSAL_LM", target_modules=SEVEN)
    model = get_peft_model(load(base), config)
    tensors = {f"magnitude.{modules_of([k])[0]}": p for k, p in model.named_parameters() if "lora_magnitude" in k}
    weights = load(base).state_dict()
    for k, m in tensors.items():
        exact = torch.linalg.norm(weights[f"{k.removeprefix('magnitude.')}.weight"].double(), dim=1)
        assert torch.allclose(m.double(), exact, rtol=1e-6, atol=0), k
    assert len(tensors) == 14
    write_tensors(folder / "expected.safetensors", tensors)
    write_json(folder / "case.json", {"about": "m of a fresh DoRA: row norms of W, 0 for its zero rows",
                                      "model": "../dora_zero_rows/model", "zero_rows": ZERO_ROWS})


# ---- optimizer and schedules

def adamw(folder, rng):
    shapes = {"matrix": (13, 3), "scalar": (1,), "vector": (7,)}
    params = {k: nn.Parameter(torch.randn(s, generator=rng)) for k, s in shapes.items()}
    groups = [{"params": ["matrix", "scalar"], "lr": 0.02, "weight_decay": 0.1},
              {"params": ["vector"], "lr": 0.05, "weight_decay": 0.0}]
    settings = {"betas": [0.9, 0.999], "eps": 1e-8}
    opt = torch.optim.AdamW([g | {"params": [params[k] for k in g["params"]]} for g in groups], **settings)
    sizes = [0.3, 2.0, 0.05, 0.0, 1.0, 1e-4, 10.0]  # of a gradient entry: some steps clip, one is zero
    tensors, norms = {f"param.0.{k}": p.detach().clone() for k, p in params.items()}, []
    for step, size in enumerate(sizes, start=1):
        for k, p in params.items():
            p.grad = size * torch.randn(p.shape, generator=rng)
            tensors[f"grad.{step}.{k}"] = p.grad.clone()
        norms.append(nn.utils.clip_grad_norm_(params.values(), 1.0))
        tensors |= {f"clipped.{step}.{k}": p.grad.clone() for k, p in params.items()}
        opt.step()
        tensors |= {f"param.{step}.{k}": p.detach().clone() for k, p in params.items()}
    tensors["grad_norm"] = torch.stack(norms)
    write_tensors(folder / "expected.safetensors", tensors)
    write_json(folder / "case.json", {"about": "torch.optim.AdamW after clip_grad_norm_, 7 steps; param.0 is the start",
                                      "steps": len(sizes), "max_norm": 1.0, **settings, "groups": groups})


def schedules(folder, rng):
    del rng
    names = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}
    tensors = {}
    for warmup in (0, 3):
        for name, theirs in names.items():
            opt = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
            factor = get_scheduler(theirs, opt, num_warmup_steps=warmup, num_training_steps=17).lr_lambdas[0]
            tensors[f"warmup_{warmup}.{name}"] = torch.tensor([factor(step) for step in range(18)])
    write_tensors(folder / "expected.safetensors", tensors)
    write_json(folder / "case.json", {"about": "transformers' factor on the learning rate at steps 0 (the first) to 17",
                                      "total_steps": 17, "warmup_steps": [0, 3]})


# Bases come before the adapters that stand on them.
CASES = [llama_plain, llama_tied_bias, llama_linear_rope_sharded_bf16, llama_f16, lora_rslora, dora_seven,
         dora_zero_rows, dora_init, adamw, schedules]


def main():
    for module, want in VERSIONS.items():
        if module.__version__.split("+")[0] != want:
            sys.exit(f"{module.__name__} is {module.__version__}, and these files are made with {want}")
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    out = Path(sys.argv[1] if len(sys.argv) > 1 else __file__).resolve()
    out = out.parent if out.is_file() else out
    for seed, case in enumerate(CASES):
        torch.manual_seed(seed)
        folder = out / case.__name__
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        case(folder, torch.Generator().manual_seed(1000 + seed))
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        print(f"{case.__name__}: {size:,} bytes")


if __name__ == "__main__":
    main()
