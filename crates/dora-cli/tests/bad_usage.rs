//! Command lines that are refused before any work: exit code 2, the option named.

mod support;

use std::fs;

use support::*;

/// Trains the tiny model with these options too, expecting a usage error that starts so.
#[track_caller]
fn refuses(options: &[&str], start: &str) {
    let room = Room::new();
    let (data, out) = (room.rows("rows.jsonl", &token_rows(2)), room.path("out"));
    let ran = train(&plain(), &data, &out, options);
    assert!(ran.err.starts_with(&format!("error: {start}")), "{options:?}: {}", ran.err);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{options:?}");
    assert!(!out.exists(), "{options:?}: nothing is made before the options are read");
}

#[test]
fn options_of_later_versions() {
    refuses(&["--save-every=5"], "unexpected argument '--save-every' found");
    refuses(&["--resume"], "unexpected argument '--resume' found");
}

#[test]
fn values_out_of_range() {
    refuses(&["--epochs=0"], "invalid value '0' for '--epochs <EPOCHS>'");
    refuses(&["--max-steps=0"], "invalid value '0' for '--max-steps <MAX_STEPS>'");
    refuses(&["--batch-size=0"], "invalid value '0' for '--batch-size <BATCH_SIZE>'");
    refuses(&["--grad-accum=0"], "invalid value '0' for '--grad-accum <GRAD_ACCUM>'");
    refuses(&["--lr=nan"], "--lr is NaN, expected a number above 0");
    refuses(&["--lr=0"], "--lr is 0, expected a number above 0");
    refuses(&["--lr=inf"], "--lr is inf, expected a number above 0");
    refuses(&["--lr-magnitude=-1"], "--lr-magnitude is -1, expected a number of at least 0");
    refuses(&["--weight-decay=nan"], "--weight-decay is NaN, expected a number of at least 0");
    refuses(&["--max-grad-norm=-0.5"], "--max-grad-norm is -0.5, expected a number of at least 0");
    refuses(&["--threads=0"], "--threads is 0, expected at least 1");
    refuses(&["--device=tpu"], "--device tpu: unknown device 'tpu': expected cpu, cuda or cuda:N");
}

#[test]
fn options_that_exclude_each_other() {
    let adapter = golden("lora_rslora/adapter");
    let init = format!("--init-adapter={}", shown(&adapter));
    refuses(&[&init, "--rank=3"], "the argument '--init-adapter <INIT_ADAPTER>' cannot be used with");
    refuses(&[&init, "--method=full"], "--init-adapter is for adapters, expected none with --method full");
    refuses(&["--method=full", "--dtype=bf16"], "--dtype is for frozen weights, expected none with --method full");
    refuses(&["--method=lora", "--lr-magnitude=1"], "--lr-magnitude is for --method dora or qdora, which alone");
    refuses(&["--eval-every=2"], "the following required arguments were not provided:\n  --eval-data <EVAL_DATA>...");
}

#[test]
fn init_adapter_of_the_other_kind() {
    let room = Room::new();
    let (data, out) = (room.rows("rows.jsonl", &token_rows(2)), room.path("out"));
    let lora = golden("lora_rslora/adapter");
    let text = format!(
        "--init-adapter {} holds a lora adapter, expected one of the kind of --method, or --init-magnitude to go on as DoRA",
        shown(&lora)
    );
    for option in ["--seed=0", "--exact-norm-gradient"] {
        refused(&train(&plain(), &data, &out, &["--init-adapter", shown(&lora), option]), 2, &text);
        no_result(&out);
    }
}

#[test]
fn methods_over_16_bits_on_a_folder_in_4() {
    let room = Room::new();
    let (data, out, quantized) = (room.rows("rows.jsonl", &token_rows(2)), room.path("out"), room.path("nf4"));
    dora(["quantize", "--model", shown(&plain()), "--output", shown(&quantized)]).good();
    for method in ["lora", "dora"] {
        let text = format!("{} holds 4-bit weights, expected --method qlora or qdora, not {method}", shown(&quantized));
        refused(&train(&quantized, &data, &out, &[&format!("--method={method}")]), 2, &text);
        no_result(&out);
    }
}

#[test]
fn cuda_says_what_is_missing() {
    for device in ["cuda", "cuda:1000"] {
        let ran = dora(["params", "--model", shown(&plain()), "--device", device]);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""));
        // Either the driver or the device is missing or, where both are there, this command does not use them.
        let known = ["driver", "device", "is for train"];
        let start = format!("error: --device {device}: ");
        assert!(ran.err.starts_with(&start) && ran.err.lines().count() == 1, "{}", ran.err);
        assert!(known.iter().any(|what| ran.err[start.len()..].contains(what)), "{}", ran.err);
    }
}

#[test]
fn output_that_cannot_be_written_is_found_first() {
    let room = Room::new();
    // The data are bad as well: what is said first was found first.
    let (data, file) = (room.write("rows.jsonl", "no rows"), room.write("file", "mine"));
    let message = format!("--output: {}: found a file, expected a folder to write to", shown(&file));
    refused(&train(&plain(), &data, &file, &[]), 2, &message);
    let below = file.join("out");
    let message = format!("--output: cannot create {}: Not a directory (os error 20)", shown(&below));
    refused(&train(&plain(), &data, &below, &[]), 2, &message);
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    let adapter = golden("lora_rslora/adapter");
    let merge = |out| dora(["merge", "--model", shown(&plain()), "--adapter", shown(&adapter), "--output", shown(out)]);
    refused(&merge(&file), 2, &format!("--output: {}: found a file, expected a folder to write to", shown(&file)));
    let quickstart = dora(["quickstart", "--output", shown(&file)]);
    assert_eq!((quickstart.code, quickstart.out.as_str()), (2, ""), "{}", quickstart.err);
    assert!(quickstart.err.contains(shown(&file)), "{}", quickstart.err);
}

#[test]
fn output_that_is_an_input() {
    let room = Room::new();
    let model = room.copy(&plain(), "model");
    let adapter = room.copy(&golden("lora_rslora/adapter"), "adapter");
    let data = room.rows("rows.jsonl", &token_rows(2));
    let before =
        [fs::read(model.join("model.safetensors")).unwrap(), fs::read(adapter.join("adapter_config.json")).unwrap()];
    let spelled = model.join("..").join("model");
    let message = format!("--output {} is the base model's folder, expected one of its own", shown(&spelled));
    refused(&train(&model, &data, &spelled, &[]), 2, &message);
    let message = format!("--output {} is the initial adapter's folder, expected one of its own", shown(&adapter));
    refused(&train(&model, &data, &adapter, &["--init-adapter", shown(&adapter)]), 2, &message);
    for out in [&model, &adapter] {
        let ran = dora(["merge", "--model", shown(&model), "--adapter", shown(&adapter), "--output", shown(out)]);
        refused(&ran, 2, &format!("--output {} is also an input, expected a folder of its own", shown(out)));
    }
    let after =
        [fs::read(model.join("model.safetensors")).unwrap(), fs::read(adapter.join("adapter_config.json")).unwrap()];
    assert!(before == after);
    assert_eq!(fs::read_dir(&model).unwrap().count(), 2);
    assert_eq!(fs::read_dir(&adapter).unwrap().count(), 2);
}

#[test]
fn generation() {
    let model = embedded();
    let long = "water the roses ".repeat(200);
    for (options, message) in [
        (vec!["--prompt=a", "--top-k=5"], "--top-k and --top-p draw from the likeliest tokens, but --temperature is 0"),
        (
            vec!["--prompt=a", "--top-p=0.5"],
            "--top-k and --top-p draw from the likeliest tokens, but --temperature is 0",
        ),
        (vec!["--prompt=a", "--temperature=1", "--top-k=0"], "--top-k is 0, expected at least 1"),
        (vec!["--prompt=a", "--temperature=1", "--top-p=0"], "--top-p is 0, expected more than 0 and at most 1"),
        (vec!["--prompt=a", "--temperature=nan"], "--temperature is NaN, expected a number of at least 0"),
        (vec!["--prompt="], "--prompt has no token, expected at least one"),
        (vec!["--prompt", &long], "--prompt has "),
    ] {
        let ran = dora(["generate", "--model", shown(&model)].iter().chain(&options));
        assert!(ran.err.starts_with(&format!("error: {message}")), "{options:?}: {}", ran.err);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    }
    let ran = dora(["generate", "--model", shown(&plain()), "--prompt=a"]);
    let message = format!("{} has no tokenizer.json, expected one to read a prompt", shown(&plain()));
    refused(&ran, 2, &message);
}

#[test]
fn run_files() {
    let room = Room::new();
    for (text, start) in [
        (r#"{"rank": 4, "ranks": 5}"#, "FILE: `ranks` is no option of `dora train`"),
        (r#"{"rank": "four"}"#, "invalid value 'four' for '--rank <RANK>'"),
        (r#"{"packing": {}}"#, "FILE: `packing` is {}, expected a number, a string, true or a list of them"),
        ("{\"rank\": 4,\n", "--config: FILE:2:0: "),
    ] {
        let file = room.write("run.json", text);
        let option = format!("--config={}", shown(&file));
        refuses(&[&option], &start.replace("FILE", shown(&file)));
    }
    let missing = room.path("none.json");
    let start = format!("cannot read {}: No such file", shown(&missing));
    refuses(&["--config", shown(&missing)], &start);
}

#[test]
fn options_of_4_bit_weights() {
    let sizes = "64, 128, 256, 512, 1024, 2048 or 4096";
    for method in ["--method=qlora", "--method=qdora", "--method=lora"] {
        refuses(&[method, "--block-size=63"], &format!("--block-size is 63, expected {sizes}\n"));
        refuses(&[method, "--block-size=0"], &format!("--block-size is 0, expected {sizes}\n"));
    }
    let message = "--block-size and --no-double-quant are for --method qlora or qdora, which alone quantise\n";
    for method in ["--method=lora", "--method=dora", "--method=full"] {
        refuses(&[method, "--block-size=128"], message);
        refuses(&[method, "--no-double-quant"], message);
    }
    let room = Room::new();
    let (data, out) = (room.rows("rows.jsonl", &token_rows(2)), room.path("out"));
    let eval = dora(["eval", "--model", shown(&plain()), "--data", shown(&data), "--block-size=128"]);
    refused(&eval, 2, "--block-size and --no-double-quant are for --nf4, which alone quantises");
    let quantize = dora(["quantize", "--model", shown(&plain()), "--output", shown(&out), "--block-size=63"]);
    refused(&quantize, 2, &format!("--block-size is 63, expected {sizes}"));
    assert!(!out.exists());
    let model = room.copy(&plain(), "model");
    let quantize = dora(["quantize", "--model", shown(&model), "--output", shown(&model)]);
    refused(&quantize, 2, "--output is the model's folder, expected one of its own");
    assert!(fs::read(model.join("model.safetensors")).unwrap() == fs::read(plain().join("model.safetensors")).unwrap());
}

#[test]
fn settings_of_an_adapter_where_there_is_none() {
    let message = "--rank and its like are for adapters, expected none with --method full";
    for option in ["--rank=4", "--alpha=16", "--dropout=0.1", "--use-rslora", "--target-modules=q_proj"] {
        refuses(&["--method=full", option], &format!("{message}\n"));
        refused(&dora(["params", "--model", shown(&plain()), "--method=full", option]), 2, message);
    }
}
