//! 4-bit weights in a checkpoint, under bitsandbytes' names. Beside `X.weight` (U8, (⌈n/2⌉, 1)): `.absmax` (F32, or U8 with
//! double quantisation), `.quant_map` (F32, 16), with double quantisation `.nested_absmax` (F32) and `.nested_quant_map`
//! (F32, 256), and `.quant_state.bitsandbytes__nf4` (U8): JSON that holds quant_type, blocksize, dtype, shape, and the
//! nested_blocksize, nested_dtype and nested_offset of double quantisation.

use std::sync::Arc;

use dora_tensor::{DType, DenseWeight, Device, Nf4Options, Nf4Parts, Nf4Scales, Nf4Weight, QUANT_MAP, Weight};
use serde_json::{Map, Value, json};

use crate::checkpoint::{Checkpoint, FileType};
use crate::error::{Error, Result};
use crate::json::object;
use crate::shape::ModelShape;

/// How linear layers are held in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WeightOptions {
    /// Precision of dense weights; `None` leaves each as it is stored, straight from the mapped file.
    pub dtype: Option<DType>,
    /// Quantise dense weights as they load.
    pub nf4: Option<Nf4Options>,
}

/// The end of the name of a quantised tensor's state.
const STATE: &str = ".quant_state.bitsandbytes__nf4";
const NESTED_BLOCK: usize = 256;
/// Length that the state's JSON is filled up to with spaces, so that sizes are known before the numbers are.
const STATE_BYTES: usize = 256;

/// Whether a checkpoint holds a tensor in 4 bits.
pub fn is_quantized(checkpoint: &Checkpoint, name: &str) -> bool {
    checkpoint.contains(&format!("{name}{STATE}"))
}

/// Whether a checkpoint holds any of a model's linear layers in 4 bits. It is then taken as it is: what is dense in it
/// (`llm_int8_skip_modules`) stays dense.
pub fn is_stored(checkpoint: &Checkpoint, model: &ModelShape) -> bool {
    model.linears.iter().any(|linear| is_quantized(checkpoint, &format!("{}.weight", linear.path)))
}

/// How a checkpoint holds a model's linear layers in 4 bits, by the first that it holds so.
pub fn stored_options(checkpoint: &Checkpoint, model: &ModelShape) -> Result<Option<Nf4Options>> {
    let mut linears = model.linears.iter().map(|l| (format!("{}.weight", l.path), (l.out_features, l.in_features)));
    let Some((name, shape)) = linears.find(|(name, _)| is_quantized(checkpoint, name)) else { return Ok(None) };
    let (weight, _) = read(checkpoint, &name, shape)?;
    let Nf4Parts { block_size, scales, .. } = weight.parts();
    let double_quant = matches!(scales, Nf4Scales::Nested { .. });
    Ok(Some(Nf4Options { block_size: *block_size, double_quant }))
}

/// Names of a quantised tensor and of what belongs to it.
pub fn names(checkpoint: &Checkpoint, name: &str) -> Vec<String> {
    let ends = ["", ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", STATE];
    ends.map(|end| format!("{name}{end}")).into_iter().filter(|name| checkpoint.contains(name)).collect()
}

/// A linear layer's weight (out, in) on a device: in 4 bits where the checkpoint holds it so or `options` ask for it.
pub fn weight(
    checkpoint: &Checkpoint,
    name: &str,
    shape: (usize, usize),
    options: WeightOptions,
    device: Device,
) -> Result<Arc<dyn Weight>> {
    if is_quantized(checkpoint, name) {
        let weight = read(checkpoint, name, shape)?.0.on(device)?;
        if device != Device::Cpu {
            checkpoint.release(name)?;
        }
        return Ok(weight);
    }
    match options.nf4 {
        Some(nf4) => Ok(quantize(checkpoint, name, shape, nf4)?.on(device)?),
        None => {
            let kept = checkpoint.expect_on(name, &[shape.0, shape.1], options.dtype, device)?;
            Ok(Arc::new(DenseWeight::new(kept)?))
        }
    }
}

/// A dense weight of the checkpoint in 4 bits. The bytes that it is stored in are not needed any more and given back: memory
/// holds the 4-bit model and one tensor.
pub fn quantize(
    checkpoint: &Checkpoint,
    name: &str,
    (out, inner): (usize, usize),
    options: Nf4Options,
) -> Result<Nf4Weight> {
    let stored = checkpoint.expect(name, &[out, inner])?;
    let quantized = Nf4Weight::quantize(&stored, options)
        .map_err(|e| mismatch(checkpoint, name, e.to_string(), "finite elements"))?;
    checkpoint.release(name)?;
    Ok(quantized)
}

/// A tensor that the checkpoint holds in 4 bits, and the type that it had before.
pub fn read(checkpoint: &Checkpoint, name: &str, (out, inner): (usize, usize)) -> Result<(Nf4Weight, DType)> {
    let state_name = format!("{name}{STATE}");
    let path = checkpoint.path_of(&state_name).unwrap_or(checkpoint.path());
    let state = object(checkpoint.raw(&state_name)?.bytes, path)?;
    let error = |field: &str, expected: &str| Error::Tensor {
        path: path.to_owned(),
        tensor: state_name.clone(),
        found: format!("{field} {}", state.get(field).unwrap_or(&Value::Null)),
        expected: expected.into(),
    };
    let integer = |field: &str| state.get(field).and_then(Value::as_u64).map(|n| n as usize);
    if state.get("quant_type") != Some(&json!("nf4")) {
        return Err(error("quant_type", "\"nf4\""));
    }
    if state.get("shape") != Some(&json!([out, inner])) {
        return Err(error("shape", &format!("[{out}, {inner}]")));
    }
    let block_size = integer("blocksize").ok_or_else(|| error("blocksize", "a positive integer"))?;
    let dtype = state.get("dtype").and_then(Value::as_str).and_then(torch_type);
    let dtype = dtype.ok_or_else(|| error("dtype", "float32, bfloat16 or float16"))?;
    let tensor = |end: &str| checkpoint.tensor(&format!("{name}{end}"));
    let map = tensor(".quant_map")?.to_vec();
    if map != QUANT_MAP {
        let found = format!("a map of {} values that is not NF4's", map.len());
        return Err(mismatch(checkpoint, &format!("{name}.quant_map"), found, "NF4's 16 code values"));
    }
    let scales = match state.get("nested_offset") {
        None => Nf4Scales::Plain(tensor(".absmax")?.to_vec()),
        Some(offset) => {
            if integer("nested_blocksize") != Some(NESTED_BLOCK) {
                return Err(error("nested_blocksize", "256"));
            }
            let codes = check_bytes(checkpoint, &format!("{name}.absmax"))?.to_vec();
            let (absmax, map) = (tensor(".nested_absmax")?.to_vec(), tensor(".nested_quant_map")?.to_vec());
            if absmax.len() != codes.len().div_ceil(NESTED_BLOCK) || map.len() != 256 {
                let found = format!("{} values and a map of {}", absmax.len(), map.len());
                let expected = format!("{} and 256", codes.len().div_ceil(NESTED_BLOCK));
                return Err(mismatch(checkpoint, &format!("{name}.nested_absmax"), found, &expected));
            }
            let offset = offset.as_f64().ok_or_else(|| error("nested_offset", "a number"))? as f32;
            Nf4Scales::Nested { codes, absmax, offset, map }
        }
    };
    let mut blocks = 0..(out * inner).div_ceil(block_size.max(1));
    check_bytes(checkpoint, name)?;
    let codes = checkpoint.shared(name)?;
    let weight = Nf4Weight::from_parts(Nf4Parts { shape: (out, inner), block_size, codes, scales });
    let weight = weight.map_err(|e| mismatch(checkpoint, name, e.to_string(), "the sizes of its quant_state"))?;
    let scales = &weight.parts().scales;
    if let Some(block) = blocks.find(|&block| !scales.get(block).is_finite()) {
        let found = format!("a scale {} for block {block}", scales.get(block));
        return Err(mismatch(checkpoint, &format!("{name}.absmax"), found, "finite scales"));
    }
    Ok((weight, dtype))
}

/// The tensors that [`entries`] gives for a weight of that shape: name, type, shape.
pub fn plan(name: &str, (out, inner): (usize, usize), options: Nf4Options) -> Vec<(String, FileType, Vec<usize>)> {
    let float = FileType::Element(DType::F32);
    let (n, blocks) = (out * inner, (out * inner).div_ceil(options.block_size));
    let tensor = |end: &str, dtype, shape: &[usize]| (format!("{name}{end}"), dtype, shape.to_vec());
    let mut tensors = vec![tensor("", FileType::U8, &[n.div_ceil(2), 1])];
    match options.double_quant {
        false => tensors.push(tensor(".absmax", float, &[blocks])),
        true => tensors.extend([
            tensor(".absmax", FileType::U8, &[blocks]),
            tensor(".nested_absmax", float, &[blocks.div_ceil(NESTED_BLOCK)]),
            tensor(".nested_quant_map", float, &[256]),
        ]),
    }
    tensors.extend([tensor(".quant_map", float, &[16]), tensor(STATE, FileType::U8, &[STATE_BYTES])]);
    tensors
}

/// The tensors that hold a quantised weight which was of type `dtype`: name, type, shape, bytes.
pub fn entries(name: &str, weight: &Nf4Weight, dtype: DType) -> Vec<(String, FileType, Vec<usize>, Vec<u8>)> {
    let parts = weight.parts();
    let codes = (*parts.codes).as_ref().to_vec();
    let floats = |end: &str, v: &[f32]| {
        let bytes = v.iter().flat_map(|x| x.to_le_bytes()).collect();
        (format!("{name}{end}"), FileType::Element(DType::F32), vec![v.len()], bytes)
    };
    let mut state = Map::new();
    state.insert("quant_type".into(), json!("nf4"));
    state.insert("blocksize".into(), json!(parts.block_size));
    state.insert("dtype".into(), json!(torch_name(dtype)));
    state.insert("shape".into(), json!([parts.shape.0, parts.shape.1]));
    let mut tensors = vec![(name.to_owned(), FileType::U8, vec![codes.len(), 1], codes)];
    match &parts.scales {
        Nf4Scales::Plain(scales) => tensors.push(floats(".absmax", scales)),
        Nf4Scales::Nested { codes, absmax, offset, map } => {
            tensors.push((format!("{name}.absmax"), FileType::U8, vec![codes.len()], codes.clone()));
            tensors.extend([floats(".nested_absmax", absmax), floats(".nested_quant_map", map)]);
            state.insert("nested_blocksize".into(), json!(NESTED_BLOCK));
            state.insert("nested_dtype".into(), json!("float32"));
            state.insert("nested_offset".into(), json!(f64::from(*offset)));
        }
    }
    tensors.push(floats(".quant_map", &QUANT_MAP));
    let mut text = Value::Object(state).to_string().into_bytes();
    text.resize(STATE_BYTES, b' ');
    tensors.push((format!("{name}{STATE}"), FileType::U8, vec![text.len()], text));
    tensors
}

/// `quantization_config` of `config.json` for weights quantised like this, as transformers writes it.
pub fn quantization_config(options: Nf4Options, dtype: DType) -> Value {
    json!({
        "_load_in_4bit": true, "_load_in_8bit": false, "bnb_4bit_compute_dtype": torch_name(dtype),
        "bnb_4bit_quant_storage": "uint8", "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": options.double_quant, "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_has_fp16_weight": false, "llm_int8_skip_modules": null, "llm_int8_threshold": 6.0,
        "load_in_4bit": true, "load_in_8bit": false, "quant_method": "bitsandbytes",
    })
}

fn torch_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float32",
        DType::BF16 => "bfloat16",
        DType::F16 => "float16",
    }
}

/// The type that PyTorch calls so, where it is one of ours.
pub(crate) fn torch_type(name: &str) -> Option<DType> {
    [DType::F32, DType::BF16, DType::F16].into_iter().find(|&dtype| torch_name(dtype) == name)
}

/// The bytes of a tensor that must hold bytes.
fn check_bytes<'a>(checkpoint: &'a Checkpoint, name: &str) -> Result<&'a [u8]> {
    let raw = checkpoint.raw(name)?;
    match raw.dtype.as_str() {
        "U8" => Ok(raw.bytes),
        found => Err(mismatch(checkpoint, name, format!("dtype {found}"), "U8")),
    }
}

fn mismatch(checkpoint: &Checkpoint, name: &str, found: String, expected: &str) -> Error {
    let path = checkpoint.path_of(name).unwrap_or(checkpoint.path()).to_owned();
    Error::Tensor { path, tensor: name.into(), found, expected: expected.into() }
}
