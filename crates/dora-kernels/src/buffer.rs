//! Device memory with an owner, and borrowed parts of it. A part knows its length and element type, so a launcher can check it.

use std::ops::Range;
use std::sync::Arc;

use crate::{Address, Driver, Element, Error, Result};

/// Memory of one device, given back to its pool when dropped.
#[derive(Debug)]
pub struct Buffer {
    driver: Arc<dyn Driver>,
    address: Address,
    len: usize,
    element: Element,
}

/// Elements to read.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub(crate) driver: &'a dyn Driver,
    pub(crate) address: Address,
    pub(crate) len: usize,
    pub(crate) element: Element,
}

/// Elements to write. Made from a buffer that is borrowed mutably, and not to be copied.
#[derive(Debug)]
pub struct ViewMut<'a> {
    pub(crate) driver: &'a dyn Driver,
    pub(crate) address: Address,
    pub(crate) len: usize,
    pub(crate) element: Element,
}

impl View<'_> {
    /// Type of the elements.
    pub fn element(&self) -> Element {
        self.element
    }
}

impl Buffer {
    /// `len` elements of arbitrary content.
    pub fn new(driver: &Arc<dyn Driver>, element: Element, len: usize) -> Result<Self> {
        let address = driver.alloc(len * element.size())?;
        Ok(Buffer { driver: driver.clone(), address, len, element })
    }

    /// `len` zeros.
    pub fn zeros(driver: &Arc<dyn Driver>, element: Element, len: usize) -> Result<Self> {
        let buffer = Buffer::new(driver, element, len)?;
        // SAFETY: the allocation was made for exactly these bytes.
        unsafe { driver.zero(buffer.address, buffer.bytes())? };
        Ok(buffer)
    }

    /// A copy of host memory, whose bytes are elements of that type.
    pub fn from_bytes(driver: &Arc<dyn Driver>, element: Element, bytes: &[u8]) -> Result<Self> {
        let mut buffer = Buffer::new(driver, element, bytes.len() / element.size())?;
        buffer.upload(bytes)?;
        Ok(buffer)
    }

    /// Replaces the content; `bytes` are as many as the buffer holds.
    pub fn upload(&mut self, bytes: &[u8]) -> Result<()> {
        self.expect_len("upload", bytes.len(), self.len)?;
        // SAFETY: the allocation has the bytes that were just compared.
        unsafe { self.driver.upload(self.address, bytes) }
    }

    /// Waits, then copies the content into `bytes`, which are as many as the buffer holds.
    pub fn download(&self, bytes: &mut [u8]) -> Result<()> {
        self.download_range(0..self.len, bytes)
    }

    /// As `download`, of some of the elements. Panics when the range ends beyond them, as a slice does.
    pub fn download_range(&self, range: Range<usize>, bytes: &mut [u8]) -> Result<()> {
        let (address, len) = part(self.address, self.len, self.element, range);
        self.expect_len("download", bytes.len(), len)?;
        // SAFETY: the range lies in the allocation and has the bytes that were just compared.
        unsafe { self.driver.download(address, bytes) }
    }

    /// Queues a copy of elements of another buffer of the device over those from `start` on. Panics where a range ends beyond its
    /// elements, as a slice does.
    pub fn write(&mut self, start: usize, from: &Buffer, range: Range<usize>) -> Result<()> {
        let (source, len) = part(from.address, from.len, from.element, range);
        let (target, _) = part(self.address, self.len, self.element, start..start + len);
        if from.element != self.element {
            let expected = self.element.to_string();
            return Err(Error::Element { kernel: "copy", operand: "source", found: from.element, expected });
        }
        if !Arc::ptr_eq(&from.driver, &self.driver) {
            return Err(Error::argument("copy", "the source lies on another device"));
        }
        // SAFETY: both ranges lie in their allocations; this buffer is borrowed mutably, so `from` is another.
        unsafe { self.driver.copy(target, source, len * self.element.size()) }
    }

    /// A second buffer of the same content.
    pub fn duplicate(&self) -> Result<Self> {
        let mut copy = Buffer::new(&self.driver, self.element, self.len)?;
        copy.write(0, self, 0..self.len)?;
        Ok(copy)
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Type of the elements.
    pub fn element(&self) -> Element {
        self.element
    }

    /// The device that holds it.
    pub fn driver(&self) -> &Arc<dyn Driver> {
        &self.driver
    }

    /// All of it, to read.
    pub fn view(&self) -> View<'_> {
        View { driver: self.driver.as_ref(), address: self.address, len: self.len, element: self.element }
    }

    /// All of it, to write.
    pub fn view_mut(&mut self) -> ViewMut<'_> {
        ViewMut { driver: self.driver.as_ref(), address: self.address, len: self.len, element: self.element }
    }

    fn bytes(&self) -> usize {
        self.len * self.element.size()
    }

    fn expect_len(&self, kernel: &'static str, found: usize, len: usize) -> Result<()> {
        let expected = len * self.element.size();
        if found == expected {
            return Ok(());
        }
        Err(Error::argument(kernel, format!("found {found} bytes of host memory, expected {expected}")))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: `new` allocated these bytes; views borrow the buffer, so nothing that is queued later names them.
        unsafe { self.driver.free(self.address, self.bytes()) };
    }
}

impl<'a> View<'a> {
    /// Where it begins.
    pub fn address(self) -> Address {
        self.address
    }

    /// Some of the elements. Panics when the range ends beyond them, as a slice does.
    pub fn slice(self, range: Range<usize>) -> View<'a> {
        let (address, len) = part(self.address, self.len, self.element, range);
        View { address, len, ..self }
    }
}

impl<'a> ViewMut<'a> {
    /// Some of the elements. Panics when the range ends beyond them, as a slice does.
    pub fn slice(self, range: Range<usize>) -> ViewMut<'a> {
        let (address, len) = part(self.address, self.len, self.element, range);
        ViewMut { address, len, ..self }
    }

    /// The same elements, for a kernel that reads what it overwrites.
    pub(crate) fn as_view(&self) -> View<'_> {
        View { driver: self.driver, address: self.address, len: self.len, element: self.element }
    }
}

/// Refuses an operand that lies on another device than the one that is to work on it.
pub(crate) fn same_device(
    kernel: &'static str,
    operand: &'static str,
    driver: &dyn Driver,
    owner: *const (),
) -> Result<()> {
    if std::ptr::addr_eq(std::ptr::from_ref(driver), owner) {
        return Ok(());
    }
    Err(Error::argument(kernel, format!("{operand} belongs to another driver, expected {}", driver.device())))
}

/// What tells one driver from another.
pub(crate) fn identity(driver: &dyn Driver) -> *const () {
    std::ptr::from_ref(driver).cast()
}

fn part(address: Address, len: usize, element: Element, range: Range<usize>) -> (Address, usize) {
    assert!(range.start <= range.end && range.end <= len, "range {range:?} of {len} elements");
    (address + (range.start * element.size()) as Address, range.len())
}
