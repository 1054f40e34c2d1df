"""Which layers PEFT adapts, with which rank, alpha and scale: writes targets.json beside this file.

Versions: Python 3.11, peft 0.21.2, transformers 5.23.0, torch 2.15.0.

    python tests/golden/targets.py

The models live on the meta device, so nothing depends on a seed. targets.json holds

    models: name -> {linears: [[path, in, out, bias, output_embedding]], other_modules: [path], parameters}
    cases:  [{name, model, config: fields of adapter_config.json, and either
              targets: path -> [rank, alpha, scaling], saved: target_modules after injection, trainable, all, line
              or error: the exception that PEFT raises}]
    written: the adapter_config.json that PEFT writes for `settings`, as text
"""

import contextlib
import io
import json
import pathlib
import tempfile
import warnings

import torch
import transformers
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer

SIZES = dict(hidden_size=20, intermediate_size=28, num_attention_heads=5, num_key_value_heads=1, vocab_size=37)
MODELS = {
    # 14 and 21 linear layers: PEFT shortens lists of 20 names or more.
    "two": dict(SIZES, num_hidden_layers=2),
    "three": dict(SIZES, num_hidden_layers=3, tie_word_embeddings=True, attention_bias=True, mlp_bias=True),
    "twelve": dict(SIZES, num_hidden_layers=12),
}


def build(name):
    config = transformers.LlamaConfig(**MODELS[name])
    with torch.device("meta"):
        return transformers.LlamaForCausalLM(config)


def describe(model):
    """What Rust's ModelShape holds."""
    linears, others = [], []
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            head = module is model.get_output_embeddings()
            linears.append([path, module.in_features, module.out_features, module.bias is not None, head])
        elif next(module.parameters(recurse=False), None) is not None:
            others.append(path)
    return dict(linears=linears, other_modules=others, parameters=sum(p.numel() for p in model.parameters()))


def paths(layers, names):
    return [f"model.layers.{layer}.{name}" for layer in layers for name in names]


def targeting(modules, **settings):
    return dict(target_modules=modules, **settings)


def q_and_v(**settings):
    return targeting(["q_proj", "v_proj"], **settings)


ATTENTION = [f"self_attn.{name}_proj" for name in "qkvo"]
Q_AND_UP = paths(range(12), ["self_attn.q_proj", "mlp.up_proj"])
CASES = [
    # name, model, fields of LoraConfig
    ("architecture default", "two", {}),
    ("architecture default, excluded in part", "two", dict(exclude_modules=["v_proj"])),
    ("architecture default in layers", "three", dict(layers_to_transform=[2])),
    ("names", "two", targeting(["q_proj", "down_proj"])),
    ("name with its parent", "three", targeting(["mlp.up_proj"])),
    ("name is not a part of a word", "two", targeting(["proj", "o_proj"])),
    ("path spelled out", "two", targeting(["model.layers.1.mlp.up_proj"])),
    ("name of nothing beside one of something", "two", targeting(["q_proj", "query"])),
    ("names of nothing", "two", targeting(["q", "query"])),
    ("no names", "two", targeting([])),
    ("pattern", "three", targeting(r"model\.layers\.[02]\.self_attn\.(q|k)_proj")),
    ("pattern matches whole paths only", "two", targeting("q_proj")),
    ("pattern with a prefix", "two", targeting(r".*\.o_proj")),
    ("pattern with alternatives", "two", targeting(r".*up_proj|model.layers.0.self_attn.v_proj")),
    ("pattern that ends early", "two", targeting(r".*\.q_pro")),
    ("pattern over a module that is no layer", "two", targeting(r"model\.layers\.0\..*")),
    ("empty pattern", "two", targeting("")),
    ("all-linear below 20 names", "two", targeting("all-linear")),
    ("all-linear above 20 names", "three", targeting("ALL-Linear")),
    ("all-linear but excluded", "three", targeting("all-linear", exclude_modules=["o_proj", "0.mlp.up_proj"])),
    ("all-linear is a word", "two", targeting("all-linear.*")),
    ("exclude pattern", "two", q_and_v(exclude_modules=r"model\.layers\.0\..*")),
    ("exclude pattern matches whole paths only", "two", q_and_v(exclude_modules="q_proj")),
    ("exclude everything", "two", q_and_v(exclude_modules=["q_proj", "v_proj"])),
    ("exclude a path", "two", q_and_v(exclude_modules=["model.layers.1.self_attn.v_proj"])),
    ("exclude what is not there", "two", q_and_v(exclude_modules=["k_prj"])),
    ("exclude the head from a pattern", "two", targeting(r".*(head|v_proj)", exclude_modules=["lm_head"])),
    ("exclude empty", "two", q_and_v(exclude_modules="")),
    ("output embedding", "two", targeting(["lm_head", "q_proj"])),
    ("input embedding", "two", targeting(["embed_tokens"])),
    ("norm", "two", targeting(["input_layernorm", "q_proj"])),
    ("block", "two", targeting(["self_attn"])),
    ("layers", "twelve", targeting(["q_proj"], layers_to_transform=[1, 11])),
    ("one layer", "twelve", q_and_v(layers_to_transform=1)),
    ("layer that is not there", "two", q_and_v(layers_to_transform=[1, 7])),
    ("only layers that are not there", "two", q_and_v(layers_to_transform=[7])),
    ("no layers is all layers", "two", targeting(["q_proj"], layers_to_transform=[])),
    ("layers with a pattern", "three", q_and_v(layers_to_transform=[2], layers_pattern="layers")),
    ("layers with patterns", "three", q_and_v(layers_to_transform=[2], layers_pattern=["h", "lay.*s"])),
    ("layers with another pattern", "two", q_and_v(layers_to_transform=[1], layers_pattern="h")),
    ("layers pattern from the start", "two", q_and_v(layers_to_transform=[1], layers_pattern="model.layers")),
    ("layers pattern with alternatives", "two", q_and_v(layers_to_transform=[1], layers_pattern="h|layers")),
    ("layers pattern alone", "two", q_and_v(layers_pattern="layers")),
    ("layers do not bind a path", "two", targeting(["model.layers.0.mlp.up_proj", "q_proj"], layers_to_transform=[1])),
    ("layers with a string", "two", targeting(".*q_proj", layers_to_transform=[1])),
    ("layers with all-linear", "two", targeting("all-linear", layers_to_transform=[1])),
    ("20 paths", "twelve", targeting(paths(range(5), ATTENTION))),
    ("19 paths", "twelve", targeting(paths(range(5), ATTENTION)[1:])),
    ("24 paths that shorten to 2 names", "twelve", targeting(Q_AND_UP)),
    ("23 paths that shorten in part", "twelve", targeting(Q_AND_UP[1:])),
    ("24 shortened paths in layers", "twelve", targeting(Q_AND_UP, layers_to_transform=[3])),
    ("rank by name", "two", q_and_v(r=4, lora_alpha=6, rank_pattern={"q_proj": 3})),
    ("rank by regex", "three", q_and_v(r=4, rank_pattern={r"model\.layers\.[12]\..*": 7})),
    ("rank: first hit wins", "two", q_and_v(rank_pattern={"v_proj": 5, r"layers.1.self_attn.*": 3, ".*": 2})),
    ("rank: not a part of a word", "two", q_and_v(rank_pattern={"proj": 3, "_proj": 2, ".*_proj": 5})),
    ("rank: anchored", "two", q_and_v(rank_pattern={"^model.layers.0.*": 3, "^layers.1.*": 5})),
    ("rank: alternatives", "two", q_and_v(rank_pattern={"1.self_attn.q_proj|0.self_attn.v_proj": 3})),
    ("rank: no target", "two", q_and_v(rank_pattern={"o_proj": 3})),
    ("rank zero", "two", q_and_v(r=0)),
    ("rank zero for a layer", "two", q_and_v(rank_pattern={"q_proj": 0})),
    ("alpha", "two", q_and_v(r=3, lora_alpha=7, alpha_pattern={"q_proj": 2, ".*1.*v_proj": 0.5})),
    ("alpha below zero", "two", q_and_v(lora_alpha=-3)),
    ("rank and alpha", "two", q_and_v(lora_alpha=5, rank_pattern={"q_proj": 3}, alpha_pattern={"v_proj": 11})),
    (
        "rank and alpha, rslora",
        "three",
        q_and_v(use_rslora=True, r=5, lora_alpha=7, rank_pattern={"q_proj": 3}, alpha_pattern={"0.*": 11}),
    ),
    ("dora", "three", targeting("all-linear", use_dora=True, r=3)),
    ("dora, ranks", "two", q_and_v(use_dora=True, r=3, rank_pattern={"q_proj": 1})),
]


def fields(config):
    """A LoraConfig's fields as PEFT saves them, sets in order."""
    return {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}


def run(name, model_name, settings):
    case = dict(name=name, model=model_name)
    # The fields that a file needs, in case PEFT refuses the settings at once.
    case["config"] = dict(peft_type="LORA", r=8, lora_alpha=8) | settings
    try:
        peft_model = get_peft_model(build(model_name), LoraConfig(**settings), low_cpu_mem_usage=True)
    except ValueError as error:
        return case | dict(error=type(error).__name__)
    modules = peft_model.base_model.model.named_modules()
    layers = {path: module for path, module in modules if isinstance(module, LoraLayer)}
    case["targets"] = {p: [m.r["default"], m.lora_alpha["default"], m.scaling["default"]] for p, m in layers.items()}
    saved = fields(peft_model.peft_config["default"])["target_modules"]
    trainable, all_parameters = peft_model.get_nb_trainable_parameters()
    line = io.StringIO()
    with contextlib.redirect_stdout(line):
        peft_model.print_trainable_parameters()
    return case | dict(saved=saved, trainable=trainable, all=all_parameters, line=line.getvalue().strip())


def written():
    """PEFT's file for settings that are all unlike the defaults, with one target so that a set has one order."""
    settings = dict(
        r=6, lora_alpha=9, use_rslora=True, use_dora=True, lora_dropout=0.05, init_lora_weights="gaussian",
        target_modules=["q_proj"], exclude_modules=["0.self_attn.q_proj"], layers_to_transform=[1], layers_pattern=["layers"],
        rank_pattern={"q_proj": 3}, alpha_pattern={"q_proj": 2.5}, base_model_name_or_path="base", revision="main",
        task_type="CAUSAL_LM", inference_mode=True,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        LoraConfig(**settings).save_pretrained(folder)
        return pathlib.Path(folder, "adapter_config.json").read_text()


def main():
    warnings.simplefilter("ignore")
    models = {name: describe(build(name)) for name in MODELS}
    cases = [run(*case) for case in CASES]
    body = ",\n".join("  " + json.dumps(case) for case in cases)
    text = f'{{"models": {json.dumps(models)},\n"cases": [\n{body}\n],\n"written": {json.dumps(written())}}}\n'
    pathlib.Path(__file__).with_suffix(".json").write_text(text)


if __name__ == "__main__":
    main()
