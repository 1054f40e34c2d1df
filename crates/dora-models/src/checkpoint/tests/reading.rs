//! Reading: one file, shards, and damage.

use super::*;

/// Two tensors in one file: `a` F32 (1, 2) and `b` U8 (3).
const HEADER: &str =
    r#"{"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[3],"data_offsets":[8,11]}}"#;
const DATA: &[u8] = &[0, 0, 128, 63, 0, 0, 0, 192, 7, 8, 9];

/// A shard of one F32 tensor with one element.
fn shard(name: &str) -> Vec<u8> {
    file_of(&format!(r#"{{"{name}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#), &1f32.to_le_bytes())
}

/// What opening a single file of that header and data says.
fn refusal(header: &str, data: &[u8]) -> String {
    refusal_of(&file_of(header, data))
}

fn refusal_of(bytes: &[u8]) -> String {
    let dir = folder(&[("model.safetensors", bytes)]);
    message(&dir, Checkpoint::open(dir.path()))
}

/// What opening shards 1 (of tensor `a`) and 2 (of tensor `b`) under that weight map says.
fn shards_refusal(weight_map: &str) -> String {
    let index = format!(r#"{{"weight_map":{weight_map}}}"#);
    let dir = folder(&[("1.safetensors", &shard("a")), ("2.safetensors", &shard("b")), (INDEX, index.as_bytes())]);
    message(&dir, Checkpoint::open(dir.path()))
}

#[test]
fn hands_out_tensors_and_raw_bytes() {
    let dir = folder(&[(SINGLE, &file_of(HEADER, DATA))]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(checkpoint.path_of("a"), Some(&*dir.path().join(SINGLE)));
    assert_eq!((checkpoint.path_of("c"), checkpoint.contains("b"), checkpoint.contains("c")), (None, true, false));
    assert_eq!(checkpoint.expect("a", &[1, 2]).unwrap().to_vec(), [1.0, -2.0]);
    assert_eq!(checkpoint.raw("b").unwrap(), RawTensor { dtype: "U8".into(), shape: &[3], bytes: &[7, 8, 9] });
    let error = |result: Result<Tensor>| message(&dir, result);
    assert_eq!(error(checkpoint.tensor("b")), "model.safetensors: tensor b: found dtype U8, expected F32, BF16 or F16");
    assert_eq!(
        error(checkpoint.expect("a", &[2, 1])),
        "model.safetensors: tensor a: found shape [1, 2], expected [2, 1]"
    );
    assert_eq!(error(checkpoint.expect("c", &[5])), "model.safetensors: tensor c: found nothing, expected shape [5]");
    assert_eq!(
        error(checkpoint.tensor("c")),
        "model.safetensors: tensor c: found nothing, expected a tensor of this name"
    );
}

#[test]
fn aligned_tensors_share_the_mapping_and_outlive_the_checkpoint() {
    let dir = folder(&[]);
    let path = dir.path().join(SINGLE);
    write_safetensors(&path, &[("a".into(), numbers(&[3], 1, DType::F32))], &[]).unwrap();
    let file = read_safetensors(&path).unwrap();
    let tensor = file.tensor("a").unwrap();
    assert_eq!(tensor.as_f32("test").unwrap().as_ptr().cast(), file.raw("a").unwrap().bytes.as_ptr());
    drop(file);
    write_file(&path, b"replaced").unwrap();
    assert_eq!(tensor.to_vec(), [1.0, 2.0, 3.0]);
}

#[test]
fn reads_data_that_starts_unaligned() {
    for spaces in 0..8 {
        let dir = folder(&[(SINGLE, &file_of(&format!("{HEADER}{}", " ".repeat(spaces)), DATA))]);
        assert_eq!(Checkpoint::open(dir.path()).unwrap().tensor("a").unwrap().to_vec(), [1.0, -2.0], "{spaces}");
    }
}

#[test]
fn refuses_a_folder_without_safetensors() {
    let dir = folder(&[("config.json", b"{}")]);
    let expected = "expected model.safetensors or model.safetensors.index.json";
    assert_eq!(message(&dir, Checkpoint::open(dir.path())), format!("DIR: found neither, {expected}"));
    let found = message(&dir, Checkpoint::open(&dir.path().join("x")));
    assert_eq!(found, format!("x: found no such folder, {expected}"));
    for name in ["pytorch_model.bin", "pytorch_model.bin.index.json"] {
        let dir = folder(&[(name, b"")]);
        let found = message(&dir, Checkpoint::open(dir.path()));
        assert_eq!(found, format!("DIR: found only pytorch_model.bin, which is not read, {expected}"));
    }
}

#[test]
fn refuses_truncated_and_foreign_files() {
    let whole = file_of(HEADER, DATA);
    let data_start = whole.len() - DATA.len();
    for length in 0..whole.len() {
        let expected = match length {
            0..8 => "at least 8".to_owned(),
            _ if length < data_start => format!("at least {data_start} for its header"),
            _ => format!("{} by its header", whole.len()),
        };
        let found = refusal_of(&whole[..length]);
        assert_eq!(found, format!("model.safetensors: truncated: found {length} bytes, expected {expected}"));
    }
    let found = refusal_of(&[&whole[..], b"x"].concat());
    assert_eq!(
        found,
        format!("model.safetensors: found {} bytes, expected {} by its header", whole.len() + 1, whole.len())
    );
    assert_eq!(
        refusal_of(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        "model.safetensors: found a Git LFS pointer, expected the file it stands for (git lfs pull)"
    );
    let length = u64::from_le_bytes(*b"<!DOCTYP");
    let expected = format!("found a header of {length} bytes, expected at most 100000000: not a safetensors file");
    assert_eq!(refusal_of(b"<!DOCTYPE html>"), format!("model.safetensors: {expected}"));
    let dir = folder(&[]);
    fs::create_dir(dir.path().join(SINGLE)).unwrap();
    let found = message(&dir, Checkpoint::open(dir.path()));
    assert_eq!(found, "model.safetensors: found a folder or a device, expected a safetensors file");
}

#[test]
fn refuses_headers_that_do_not_add_up() {
    let one = |entry: &str| refusal(&format!(r#"{{"a":{entry}}}"#), &[0; 8]);
    let tensor = |found: &str| format!("model.safetensors: tensor a: found {found}");
    assert_eq!(
        one(r#"{"dtype":"F32","shape":[3],"data_offsets":[0,8]}"#),
        tensor("data_offsets [0, 8], expected 12 bytes for F32 of shape [3]")
    );
    assert_eq!(
        one(r#"{"dtype":"F32","shape":[2],"data_offsets":[8,0]}"#),
        tensor("data_offsets [8, 0], expected 8 bytes for F32 of shape [2]")
    );
    assert_eq!(
        one(r#"{"dtype":"F4","shape":[3],"data_offsets":[0,1]}"#),
        tensor("data_offsets [0, 1], expected 2 bytes for F4 of shape [3]")
    );
    assert_eq!(
        one(r#"{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}"#),
        tensor("shape [4294967296, 4294967296], expected a number of elements that can be addressed")
    );
    assert_eq!(
        one(r#"{"dtype":"F32","shape":[1],"data_offsets":[4,8]}"#),
        tensor("data_offsets [4, 8], expected a start at 0, where the data before it ends (a hole)")
    );
    assert_eq!(
        one(r#"{"dtype":"F32","data_offsets":[0,8]}"#),
        tensor(
            r#"{"dtype":"F32","data_offsets":[0,8]}, expected its dtype, shape and data_offsets (missing field `shape`)"#
        )
    );
    assert!(one(r#"{"dtype":"Q4","shape":[1],"data_offsets":[0,8]}"#).contains("(unknown variant `Q4`"));
    assert!(one(r#"{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}"#).contains("(invalid value: integer `-2`"));
    let overlap =
        r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[6],"data_offsets":[2,8]}}"#;
    assert_eq!(
        refusal(overlap, &[0; 8]),
        "model.safetensors: tensor b: found data_offsets [2, 8], expected a start at 4, where the data before it ends (an overlap)"
    );
}

#[test]
fn refuses_headers_that_are_no_map_of_tensors() {
    let twice =
        r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#;
    assert_eq!(
        refusal(twice, &[0; 2]),
        "model.safetensors: the header is damaged: duplicate key \"a\" at line 1, column 56"
    );
    assert_eq!(
        refusal("[]", b""),
        "model.safetensors: the header is damaged: expected a JSON object at line 1, column 1"
    );
    assert_eq!(
        refusal(r#"{"__metadata__":{"n":1}}"#, b""),
        r#"model.safetensors: __metadata__ is {"n":1}, expected an object of strings"#
    );
}

#[test]
fn the_single_file_wins_over_shards() {
    let dir = folder(&[(SINGLE, &shard("a")), (INDEX, br#"{"weight_map":{"b":"gone.safetensors"}}"#)]);
    assert_eq!(Checkpoint::open(dir.path()).unwrap().names().collect::<Vec<_>>(), ["a"]);
}

#[test]
fn reads_shards() {
    let index = br#"{"metadata":{"total_size":8},"weight_map":{"b":"2.safetensors","a":"1.safetensors"}}"#;
    let dir = folder(&[("1.safetensors", &shard("a")), ("2.safetensors", &shard("b")), (INDEX, index)]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(checkpoint.path_of("b"), Some(&*dir.path().join("2.safetensors")));
    assert_eq!(message(&dir, checkpoint.expect("b", &[2])), "2.safetensors: tensor b: found shape [1], expected [2]");
    assert_eq!(
        message(&dir, checkpoint.raw("c")),
        format!("{INDEX}: tensor c: found nothing, expected a tensor of this name")
    );
}

#[test]
fn reads_shards_that_transformers_wrote() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let dir = golden.join("llama_linear_rope_sharded_bf16/model");
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let mut read = 0;
    for number in 1..=3 {
        let bytes = fs::read(dir.join(format!("model-{number:05}-of-00003.safetensors"))).unwrap();
        for (name, view) in safetensors::SafeTensors::deserialize(&bytes).unwrap().iter() {
            let tensor = checkpoint.expect(name, view.shape()).unwrap();
            assert_eq!((tensor.dtype(), &*tensor.to_bytes()), (DType::BF16, view.data()), "{name}");
            read += 1;
        }
    }
    assert!(read > 0 && read == checkpoint.names().count());
}

#[test]
fn refuses_an_index_that_disagrees_with_its_shards() {
    assert_eq!(
        shards_refusal(r#"{"a":"1.safetensors","b":"3.safetensors"}"#),
        "3.safetensors: found no such file, expected the shard that model.safetensors.index.json names"
    );
    assert_eq!(
        shards_refusal(r#"{"a":"1.safetensors","b":"2.safetensors","c":"2.safetensors"}"#),
        "2.safetensors: tensor c: found nothing, expected it here by model.safetensors.index.json"
    );
    assert_eq!(
        shards_refusal(r#"{"c":"1.safetensors","b":"2.safetensors"}"#),
        "1.safetensors: tensor a: found it here, expected no tensor that model.safetensors.index.json does not name"
    );
    assert_eq!(
        shards_refusal(r#"{"a":"2.safetensors","b":"1.safetensors"}"#),
        "1.safetensors: tensor a: found it here, expected it in 2.safetensors by model.safetensors.index.json"
    );
}

#[test]
fn refuses_a_damaged_index() {
    let duplicate = shards_refusal(r#"{"a":"1.safetensors","a":"2.safetensors"}"#);
    assert_eq!(duplicate, format!("{INDEX}:1:38: duplicate key \"a\""));
    for (map, found) in [("{}", "{}"), ("3", "3"), ("null", "null")] {
        let expected = format!("{INDEX}: weight_map is {found}, expected an object of tensor: shard");
        assert_eq!(shards_refusal(map), expected);
    }
    let dir = folder(&[(INDEX, b"{}")]);
    let expected = format!("{INDEX}: weight_map is missing, expected an object of tensor: shard");
    assert_eq!(message(&dir, Checkpoint::open(dir.path())), expected);
    assert!(shards_refusal("{").starts_with(&format!("{INDEX}:1:")));
}

#[test]
fn refuses_shards_outside_the_folder() {
    let names = ["../1.safetensors", "/1.safetensors", "a/1.safetensors", "./1.safetensors", "..", ".", ""];
    let windows = [r"..\\1.safetensors", r"C:1.safetensors", r"1\u0000"];
    for name in names.into_iter().chain(windows).map(|name| format!("\"{name}\"")).chain(["1".into(), "null".into()]) {
        let found = shards_refusal(&format!(r#"{{"a":{name},"b":"2.safetensors"}}"#));
        assert_eq!(found, format!("{INDEX}: weight_map.a is {name}, expected the name of a file in this folder"));
    }
}

#[test]
fn names_tensors_that_nobody_used() {
    let entry =
        |i: usize, name: &str| format!(r#""{name}":{{"dtype":"U8","shape":[1],"data_offsets":[{i},{}]}}"#, i + 1);
    let names = ["e", "d", "c", "b", "a", "x.rotary_emb.inv_freq"];
    let entries: Vec<_> = names.iter().enumerate().map(|(i, name)| entry(i, name)).collect();
    let dir = folder(&[(SINGLE, &file_of(&format!("{{{}}}", entries.join(",")), &[0; 6]))]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let check = |used: &[&str]| checkpoint.check_all_used(used, |name| name.ends_with(".rotary_emb.inv_freq"));
    assert!(check(&["a", "b", "c", "d", "e"]).is_ok());
    assert_eq!(
        message(&dir, check(&["a"])),
        "model.safetensors: found 4 unexpected tensors (b, c, d, …), expected only those of the model"
    );
    assert_eq!(
        message(&dir, check(&["a", "c", "e"])),
        "model.safetensors: found 2 unexpected tensors (b, d), expected only those of the model"
    );
}
