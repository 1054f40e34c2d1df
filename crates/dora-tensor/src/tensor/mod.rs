//! A contiguous, row-major array on a device. Cloning shares the elements; operations make new tensors.

mod device;

use crate::cpu::{Floats, buffer, for_row_blocks, zeros};
use crate::saved::{Recipe, Saved};
use crate::storage::{CpuStorage, Storage};
use crate::tape::Edge;
use crate::{DType, Device, Elements, Error, Result, SharedBytes};
use half::{bf16, f16};
use ndarray::ArrayView2;
use std::fmt;
use std::sync::{Arc, Mutex};

/// A tensor: shape, shared elements (a contiguous range of a storage) and, where a gradient is due, its place on the tape.
#[derive(Clone)]
pub struct Tensor {
    shape: Vec<usize>,
    storage: Arc<Storage>,
    offset: usize,
    origin: Option<Edge>,
    recipe: Option<Arc<Recipe>>,
    /// These elements as the operation that made them keeps them.
    output: Option<Output>,
}

/// An output that its operation keeps for the backward pass; whoever can compute it again may put a recipe in its place.
pub(crate) type Output = Arc<Mutex<Saved>>;

impl Tensor {
    /// Tensor of those elements, row-major.
    pub fn from_vec(elements: Vec<f32>, shape: &[usize]) -> Result<Self> {
        if elements.len() != shape.iter().product::<usize>() {
            let found = format!("{} elements for shape {shape:?}", elements.len());
            return Err(Error::argument("from_vec", found));
        }
        Ok(Self::of(elements, shape))
    }

    /// As `from_vec`, for callers that sized the vector themselves.
    pub(crate) fn of(elements: impl Into<Floats>, shape: &[usize]) -> Self {
        let elements = elements.into();
        debug_assert_eq!(elements.len(), shape.iter().product::<usize>());
        Self::over(Storage::Cpu(CpuStorage::F32(elements)), shape)
    }

    fn over(storage: Storage, shape: &[usize]) -> Self {
        Tensor {
            shape: shape.to_vec(),
            storage: Arc::new(storage),
            offset: 0,
            origin: None,
            recipe: None,
            output: None,
        }
    }

    /// Zeros.
    pub fn zeros(shape: &[usize]) -> Self {
        Self::of(zeros(shape.iter().product()), shape)
    }

    /// One number, of shape `()`.
    pub fn scalar(value: f32) -> Self {
        Self::of(vec![value], &[])
    }

    /// Tensor over bytes kept alive by somebody else (a mapped file), little-endian, without a copy.
    pub fn from_shared(bytes: SharedBytes, dtype: DType, shape: &[usize]) -> Result<Self> {
        let found = (*bytes).as_ref().len();
        let expected = shape.iter().product::<usize>() * dtype.size();
        if found != expected {
            return Err(Error::argument(
                "from_shared",
                format!("{found} bytes for {dtype} of shape {shape:?}, which takes {expected}"),
            ));
        }
        Ok(Self::over(Storage::mapped(bytes, dtype), shape))
    }

    /// Dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The two dimensions of a matrix; an error names `op` and `operand` otherwise.
    pub fn dims2(&self, op: &'static str, operand: &'static str) -> Result<(usize, usize)> {
        match self.shape[..] {
            [rows, columns] => Ok((rows, columns)),
            _ => Err(Error::shape(op, operand, &self.shape, "a matrix")),
        }
    }

    /// Fails unless the tensor has that shape.
    pub fn expect_shape(&self, op: &'static str, operand: &'static str, shape: &[usize]) -> Result<()> {
        if self.shape == shape { Ok(()) } else { Err(Error::shape(op, operand, &self.shape, format!("{shape:?}"))) }
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.storage.dtype()
    }

    /// Device.
    pub fn device(&self) -> Device {
        self.storage.device()
    }

    /// The elements, by type. Panics where they are in the memory of a device: see [`to_device`](Self::to_device).
    pub fn elements(&self) -> Elements<'_> {
        let range = self.offset..self.offset + self.numel();
        match self.storage.elements().expect("only elements in the processor's memory can be looked at") {
            Elements::F32(v) => Elements::F32(&v[range]),
            Elements::BF16(v) => Elements::BF16(&v[range]),
            Elements::F16(v) => Elements::F16(&v[range]),
        }
    }

    /// The elements of an `f32` tensor in the processor's memory.
    pub fn as_f32(&self, op: &'static str) -> Result<&[f32]> {
        match (self.device(), self.dtype()) {
            (Device::Cpu, DType::F32) => {}
            (Device::Cpu, found) => return Err(Error::DType { op, found, expected: DType::F32 }),
            _ => return Err(self.elsewhere(op, Device::Cpu)),
        }
        match self.elements() {
            Elements::F32(v) => Ok(v),
            _ => unreachable!("the type was just compared"),
        }
    }

    /// An `f32` matrix as a view.
    pub fn view2(&self, op: &'static str, operand: &'static str) -> Result<ArrayView2<'_, f32>> {
        let (rows, columns) = self.dims2(op, operand)?;
        Ok(ArrayView2::from_shape((rows, columns), self.as_f32(op)?)
            .expect("a tensor has as many elements as its shape"))
    }

    /// The elements as `f32`, copied. Panics as [`elements`](Self::elements) does.
    pub fn to_vec(&self) -> Vec<f32> {
        match self.elements() {
            Elements::F32(v) => v.to_vec(),
            Elements::BF16(v) => v.iter().map(|x| x.to_f32()).collect(),
            Elements::F16(v) => v.iter().map(|x| x.to_f32()).collect(),
        }
    }

    /// The elements as `f32` in a buffer of the pool.
    fn copied(&self) -> Floats {
        match self.elements() {
            Elements::F32(v) => {
                let mut copy = buffer(v.len());
                for_row_blocks(&mut copy, 1, |start, part| part.copy_from_slice(&v[start..start + part.len()]));
                copy
            }
            _ => self.to_vec().into(),
        }
    }

    /// The same numbers stored as `dtype`, rounded to nearest even; shares the elements where that is their type already, and
    /// panics as [`elements`](Self::elements) does where it is not.
    pub fn to_dtype(&self, dtype: DType) -> Tensor {
        if dtype == self.dtype() {
            return self.detach();
        }
        let wide = self.to_vec();
        let storage = match dtype {
            DType::F32 => CpuStorage::F32(wide.into()),
            DType::BF16 => CpuStorage::BF16(wide.into_iter().map(bf16::from_f32).collect()),
            DType::F16 => CpuStorage::F16(wide.into_iter().map(f16::from_f32).collect()),
        };
        Self::over(Storage::Cpu(storage), &self.shape)
    }

    /// The elements as little-endian bytes in their own type, copied. Panics as [`elements`](Self::elements) does.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self.elements() {
            Elements::F32(v) => bytemuck::cast_slice(v).to_vec(),
            Elements::BF16(v) => bytemuck::cast_slice(v).to_vec(),
            Elements::F16(v) => bytemuck::cast_slice(v).to_vec(),
        }
    }

    /// The only element of a tensor of one. On a device this waits for all that is queued.
    pub fn item(&self) -> Result<f32> {
        match self.numel() {
            1 => Ok(self.to_device(Device::Cpu)?.to_vec()[0]),
            _ => Err(Error::shape("item", "tensor", &self.shape, "one element")),
        }
    }

    /// The same elements under another shape; not recorded on the tape.
    pub fn reshaped(&self, shape: &[usize]) -> Result<Tensor> {
        if shape.iter().product::<usize>() != self.numel() {
            return Err(Error::shape("reshape", "tensor", &self.shape, format!("as many elements as {shape:?}")));
        }
        Ok(Tensor { shape: shape.to_vec(), ..self.detach() })
    }

    /// Rows `start..start + count` of the first dimension, sharing the elements; not recorded on the tape.
    pub fn rows(&self, start: usize, count: usize) -> Result<Tensor> {
        match self.shape.first() {
            Some(&rows) if start + count <= rows => {}
            _ => return Err(Error::shape("rows", "tensor", &self.shape, format!("at least {} rows", start + count))),
        }
        let mut shape = self.shape.clone();
        shape[0] = count;
        let width: usize = self.shape[1..].iter().product();
        let offset = self.offset + start * width;
        Ok(Tensor { shape, offset, ..self.detach() })
    }

    /// Overwrites rows from `start` on with those of a tensor as wide, of the same type and device (`f32` on the processor); in place
    /// where nobody shares the elements.
    pub fn write_rows(&mut self, start: usize, rows: &Tensor) -> Result<()> {
        let width: usize = self.shape[1..].iter().product();
        if rows.shape.len() != self.shape.len() || rows.shape[1..] != self.shape[1..] {
            return Err(Error::shape("write_rows", "rows", &rows.shape, format!("rows of {:?}", self.shape)));
        }
        if start + rows.shape[0] > self.shape[0] {
            let found = format!("rows {start}..{} for {} rows", start + rows.shape[0], self.shape[0]);
            return Err(Error::argument("write_rows", found));
        }
        if let Some(buffer) = self.buffer_mut()? {
            return rows.copy_into(buffer, start * width);
        }
        let from = rows.as_f32("write_rows")?;
        self.make_mut()[start * width..][..from.len()].copy_from_slice(from);
        Ok(())
    }

    /// The same tensor off the tape.
    pub fn detach(&self) -> Tensor {
        Tensor { origin: None, recipe: None, output: None, ..self.clone() }
    }

    /// The tensor as a backward pass needs it: its recipe where it has one, else itself.
    pub(crate) fn saved(&self) -> Saved {
        self.recipe.clone().map_or_else(|| Saved::Kept(self.detach()), Saved::Again)
    }

    /// Says how the elements can be computed again at little cost, where the tensor is on the tape at all.
    pub(crate) fn with_recipe(self, compute: impl FnOnce() -> Recipe) -> Self {
        let recipe = self.requires_grad().then(|| Arc::new(compute()));
        self.with_shared_recipe(recipe)
    }

    /// As `with_recipe`, for a recipe that the tensor's own operation uses as well.
    pub(crate) fn with_shared_recipe(self, recipe: Option<Arc<Recipe>>) -> Self {
        Tensor { recipe, ..self }
    }

    /// Whether a backward pass will reach this tensor.
    pub fn requires_grad(&self) -> bool {
        self.origin.is_some()
    }

    /// The elements for writing; copied first where another tensor shares them.
    pub(crate) fn make_mut(&mut self) -> &mut [f32] {
        let whole = self.offset == 0
            && matches!(&*self.storage, Storage::Cpu(CpuStorage::F32(v)) if v.len() == self.numel())
            && Arc::get_mut(&mut self.storage).is_some();
        if !whole {
            *self = Self { origin: self.origin.take(), ..Self::of(self.copied(), &self.shape) };
        }
        self.recipe = None;
        match Arc::get_mut(&mut self.storage) {
            Some(Storage::Cpu(CpuStorage::F32(v))) => v,
            _ => unreachable!("the storage was just made an owned f32 vector"),
        }
    }

    pub(crate) fn origin(&self) -> Option<&Edge> {
        self.origin.as_ref()
    }

    pub(crate) fn with_origin(self, origin: Option<Edge>) -> Self {
        Tensor { origin, ..self }
    }

    pub(crate) fn take_origin(&mut self) -> Option<Edge> {
        self.origin.take()
    }

    /// Says where the operation keeps these elements, where the tensor is on the tape at all.
    pub(crate) fn with_output(self, output: Output) -> Self {
        let output = self.requires_grad().then_some(output);
        Tensor { output, ..self }
    }

    /// Where the operation keeps these elements, once.
    pub(crate) fn take_output(&mut self) -> Option<Output> {
        self.output.take()
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} {:?} on {})", self.dtype(), self.shape, self.device())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_written_in_place_unless_shared() {
        let mut cache = Tensor::zeros(&[3, 2]);
        let row = Tensor::of(vec![1.0, 2.0], &[1, 2]);
        let before = cache.as_f32("test").unwrap().as_ptr();
        cache.write_rows(1, &row).unwrap();
        assert_eq!(cache.as_f32("test").unwrap().as_ptr(), before);
        let view = cache.rows(1, 1).unwrap();
        cache.write_rows(2, &row).unwrap();
        assert_eq!((view.to_vec(), cache.to_vec()), (vec![1.0, 2.0], vec![0.0, 0.0, 1.0, 2.0, 1.0, 2.0]));
        assert_eq!(cache.write_rows(3, &row).unwrap_err().to_string(), "write_rows: rows 3..4 for 3 rows");
    }

    #[test]
    fn mapped_bytes_of_any_alignment_are_read() {
        let bytes: Vec<u8> = std::iter::once(0).chain([1.5f32, -2.0].iter().flat_map(|x| x.to_le_bytes())).collect();
        struct Tail(Vec<u8>);
        impl AsRef<[u8]> for Tail {
            fn as_ref(&self) -> &[u8] {
                &self.0[1..]
            }
        }
        let tensor = Tensor::from_shared(Arc::new(Tail(bytes)), DType::F32, &[2]).unwrap();
        assert_eq!(tensor.to_vec(), [1.5, -2.0]);
    }
}
