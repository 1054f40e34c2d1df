//! Writing: round trips, agreement with the safetensors crate, and what stays behind.

use super::*;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

/// Every type, and awkward shapes.
fn tensors() -> Vec<(String, Tensor)> {
    let named = |name: &str, shape: &[usize], from, dtype| (name.to_owned(), numbers(shape, from, dtype));
    vec![
        named("odd.bf16", &[3, 1, 5], -7, DType::BF16),
        named("empty", &[0, 4], 0, DType::F16),
        named("scalar", &[], 3, DType::F32),
        named("a.f16", &[7], 100, DType::F16),
        named("matrix", &[2, 3], 40, DType::F32),
        named("one.bf16", &[1], -1, DType::BF16),
    ]
}

fn plan(tensors: &[(String, Tensor)]) -> Vec<(String, DType, Vec<usize>)> {
    tensors.iter().map(|(name, tensor)| (name.clone(), tensor.dtype(), tensor.shape().to_vec())).collect()
}

fn save(dir: &TempDir, tensors: &[(String, Tensor)], max_shard_bytes: usize) {
    let mut writer = CheckpointWriter::create(dir.path(), plan(tensors), max_shard_bytes).unwrap();
    tensors.iter().for_each(|(name, tensor)| writer.write(name, tensor).unwrap());
    writer.finish().unwrap();
}

fn assert_holds(dir: &TempDir, tensors: &[(String, Tensor)]) {
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.names().count(), tensors.len());
    tensors.iter().for_each(|(name, tensor)| assert_same(&checkpoint.expect(name, tensor.shape()).unwrap(), tensor));
}

#[test]
fn a_file_round_trips_and_is_what_safetensors_writes() {
    let (dir, mut tensors) = (folder(&[]), tensors());
    let path = dir.path().join("x.safetensors");
    write_safetensors(&path, &tensors, &[("format", "pt")]).unwrap();
    let file = read_safetensors(&path).unwrap();
    assert_eq!((file.path(), file.contains("empty"), file.contains("x")), (&*path, true, false));
    assert_eq!(file.names().collect::<Vec<_>>(), ["a.f16", "empty", "matrix", "odd.bf16", "one.bf16", "scalar"]);
    assert_eq!(file.metadata().iter().collect::<Vec<_>>(), [(&"format".to_owned(), &"pt".to_owned())]);
    tensors.iter().for_each(|(name, tensor)| assert_same(&file.tensor(name).unwrap(), tensor));

    let theirs: Vec<_> = tensors.iter().map(|(name, tensor)| (name, tensor, tensor.to_bytes())).collect();
    let dtype = |tensor: &Tensor| [Dtype::F32, Dtype::BF16, Dtype::F16][tensor.dtype() as usize];
    let view = |t: &Tensor, bytes| TensorView::new(dtype(t), t.shape().to_vec(), bytes).unwrap();
    let views = theirs.iter().map(|(name, tensor, bytes)| (name, view(tensor, bytes)));
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let bytes = fs::read(&path).unwrap();
    assert!(bytes == safetensors::serialize(views, Some(metadata)).unwrap());

    tensors.reverse();
    write_safetensors(&path, &tensors, &[("format", "pt")]).unwrap();
    assert!(bytes == fs::read(&path).unwrap());
    assert_eq!(listing(&dir), ["x.safetensors"]);
}

#[test]
fn a_file_of_no_tensors_round_trips() {
    let dir = folder(&[]);
    save(&dir, &[], 10);
    assert_eq!(listing(&dir), [SINGLE]);
    assert_holds(&dir, &[]);
}

#[test]
fn refuses_equal_and_reserved_names() {
    let (dir, scalar) = (folder(&[]), Tensor::scalar(1.0));
    let path = dir.path().join("x.safetensors");
    for name in ["a", "__metadata__"] {
        let twice = [(name.to_owned(), scalar.clone()), (name.to_owned(), scalar.clone())];
        let expected = format!("found tensor {name} twice among those to write, expected distinct names");
        assert_eq!(message(&dir, write_safetensors(&path, &twice, &[])), format!("x.safetensors: {expected}"));
        assert_eq!(message(&dir, CheckpointWriter::create(dir.path(), plan(&twice), 0)), format!("DIR: {expected}"));
    }
    assert_eq!(listing(&dir), [""; 0]);
}

#[test]
fn a_model_that_fits_is_one_file() {
    let (dir, tensors) = (folder(&[]), tensors());
    let size = tensors.iter().map(|(_, tensor)| tensor.to_bytes().len()).sum();
    save(&dir, &tensors, size);
    assert_eq!(listing(&dir), [SINGLE]);
    assert_holds(&dir, &tensors);
    assert_eq!(read_safetensors(&dir.path().join(SINGLE)).unwrap().metadata()["format"], "pt");
    save(&dir, &tensors, size - 1);
    assert_eq!(
        listing(&dir),
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    );
    assert_holds(&dir, &tensors);
}

#[test]
fn shards_carry_the_index_of_hugging_face() {
    let (dir, tensors) = (folder(&[]), tensors());
    // Sizes 30, 0, 4, 14, 24, 2: the first is larger than a shard, the fourth fills one exactly.
    save(&dir, &tensors, 18);
    let index = r#"{
  "metadata": {
    "total_size": 74
  },
  "weight_map": {
    "a.f16": "model-00002-of-00004.safetensors",
    "empty": "model-00002-of-00004.safetensors",
    "matrix": "model-00003-of-00004.safetensors",
    "odd.bf16": "model-00001-of-00004.safetensors",
    "one.bf16": "model-00004-of-00004.safetensors",
    "scalar": "model-00002-of-00004.safetensors"
  }
}
"#;
    assert_eq!(fs::read_to_string(dir.path().join(INDEX)).unwrap(), index);
    assert_holds(&dir, &tensors);
    let bytes = fs::read(dir.path().join("model-00002-of-00004.safetensors")).unwrap();
    let theirs = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!((theirs.len(), theirs.tensor("a.f16").unwrap().data()), (3, &*tensors[3].1.to_bytes()));
}

#[test]
fn saving_over_an_earlier_checkpoint_leaves_none_of_it() {
    let (dir, old) = (folder(&[]), tensors());
    let new: Vec<_> = tensors().into_iter().skip(2).map(|(name, t)| (name, numbers(t.shape(), 9, t.dtype()))).collect();
    let keep = ["config.json", "model-1.safetensors", "model.fp16.safetensors", "pytorch_model.bin"];
    keep.iter().for_each(|name| fs::write(dir.path().join(name), "mine").unwrap());
    // Into each form from each other, and from shards into shards of the same names.
    for (before, after) in [(100, 18), (18, 100), (18, 0), (0, 18), (0, 0), (100, 100)] {
        save(&dir, &old, before);
        assert_holds(&dir, &old);
        save(&dir, &new, after);
        assert_holds(&dir, &new);
        let fresh = folder(&[]);
        save(&fresh, &new, after);
        let mut expected: Vec<_> = listing(&fresh).into_iter().chain(keep.map(str::to_owned)).collect();
        expected.sort();
        assert_eq!(listing(&dir), expected, "{before} {after}");
    }
}

#[test]
fn a_save_that_is_cut_off_between_shards_leaves_no_mixture() {
    let (dir, tensors) = (folder(&[]), tensors());
    save(&dir, &tensors, 0);
    let second = dir.path().join("model-00002-of-00006.safetensors");
    let old = fs::read(&second).unwrap();
    fs::remove_file(&second).unwrap();
    fs::create_dir(&second).unwrap();
    let mut writer = CheckpointWriter::create(dir.path(), plan(&tensors), 0).unwrap();
    tensors.iter().for_each(|(name, tensor)| writer.write(name, tensor).unwrap());
    assert_eq!(
        message(&dir, writer.finish()),
        "cannot write model-00002-of-00006.safetensors: Is a directory (os error 21)"
    );
    fs::remove_dir(&second).unwrap();
    write_file(&second, &old).unwrap();
    assert_eq!(listing(&dir).len(), 6);
    let found = message(&dir, Checkpoint::open(dir.path()));
    assert_eq!(found, format!("DIR: found neither, expected {SINGLE} or {INDEX}"));
}

#[test]
fn a_mapped_checkpoint_stays_while_it_is_replaced() {
    let (dir, old) = (folder(&[]), tensors());
    save(&dir, &old, 18);
    let mapped = Checkpoint::open(dir.path()).unwrap();
    save(&dir, &[("a.f16".into(), numbers(&[7], 0, DType::F16))], 18);
    old.iter().for_each(|(name, tensor)| assert_same(&mapped.tensor(name).unwrap(), tensor));
}

#[test]
fn tensors_come_as_planned_and_an_unfinished_save_leaves_nothing() {
    let (dir, tensors) = (folder(&[]), tensors());
    save(&dir, &tensors, 18);
    let before = listing(&dir);
    let mut writer = CheckpointWriter::create(dir.path(), plan(&tensors), 18).unwrap();
    let (name, first) = &tensors[0];
    let shard = "model-00001-of-00004.safetensors";
    assert_eq!(
        message(&dir, writer.write("empty", &tensors[1].1)),
        format!("{shard}: tensor empty: found it as the next to write, expected odd.bf16 by the plan")
    );
    assert_eq!(
        message(&dir, writer.write(name, &first.to_dtype(DType::F16))),
        format!("{shard}: tensor odd.bf16: found f16 of shape [3, 1, 5], expected bf16 of shape [3, 1, 5]")
    );
    assert_eq!(
        message(&dir, writer.write(name, &first.reshaped(&[15]).unwrap())),
        format!("{shard}: tensor odd.bf16: found bf16 of shape [15], expected bf16 of shape [3, 1, 5]")
    );
    writer.write(name, first).unwrap();
    assert_eq!(listing(&dir).len(), before.len() + 4);
    assert_eq!(message(&dir, writer.finish()), "DIR: found 1 tensors written, expected 6: the next is empty");
    assert_eq!(listing(&dir), before);
    assert_holds(&dir, &tensors);

    let mut writer = CheckpointWriter::create(dir.path(), Vec::<(String, DType, Vec<usize>)>::new(), 18).unwrap();
    assert_eq!(
        message(&dir, writer.write(name, first)),
        "DIR: tensor odd.bf16: found it as the next to write, expected no more by the plan"
    );
}

#[test]
fn copies_the_files_beside_the_weights() {
    let from = folder(&[("config.json", b"{}"), ("tokenizer.json", b"t"), ("merges.txt", b""), (SINGLE, b"weights")]);
    let to = folder(&[("config.json", b"older and longer"), ("README.md", b"mine")]);
    copy_side_files(from.path(), to.path()).unwrap();
    assert_eq!(listing(&to), ["README.md", "config.json", "merges.txt", "tokenizer.json"]);
    assert_eq!(fs::read(to.path().join("config.json")).unwrap(), b"{}");
    let found = message(&from, copy_side_files(from.path(), &from.path().join("gone")));
    assert_eq!(found, "cannot create gone/config.json: No such file or directory (os error 2)");
}

#[test]
fn a_file_is_replaced_whole() {
    let dir = folder(&[("a", b"before")]);
    write_file(&dir.path().join("a"), b"new").unwrap();
    assert_eq!((fs::read(dir.path().join("a")).unwrap(), listing(&dir)), (b"new".to_vec(), vec!["a".to_owned()]));
    fs::create_dir(dir.path().join("folder")).unwrap();
    let found = message(&dir, write_file(&dir.path().join("folder"), b"new"));
    assert_eq!(found, "cannot write folder: Is a directory (os error 21)");
    assert_eq!(listing(&dir), ["a", "folder"]);
}

#[test]
fn an_output_folder_is_proved_before_the_work() {
    let dir = folder(&[("file", b"")]);
    ensure_writable_dir(&dir.path().join("a/b")).unwrap();
    ensure_writable_dir(&dir.path().join("a/b")).unwrap();
    assert_eq!(fs::read_dir(dir.path().join("a/b")).unwrap().count(), 0);
    let found = message(&dir, ensure_writable_dir(&dir.path().join("file")));
    assert_eq!(found, "file: found a file, expected a folder to write to");
    let found = message(&dir, ensure_writable_dir(&dir.path().join("file/b")));
    assert_eq!(found, "cannot create file/b: Not a directory (os error 20)");
}

/// Even root cannot create files in /proc, where file modes would not stop it.
#[cfg(target_os = "linux")]
#[test]
fn an_unwritable_output_folder_is_named() {
    let found = ensure_writable_dir(Path::new("/proc/self")).unwrap_err().to_string();
    assert!(found.starts_with("cannot write to /proc/self: "), "{found}");
    let found = ensure_writable_dir(Path::new("/proc/dora")).unwrap_err().to_string();
    assert!(found.starts_with("cannot create /proc/dora: "), "{found}");
}
