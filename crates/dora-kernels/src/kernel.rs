//! What a kernel of `kernels/*.cu` looks like from here, and a call of one: operands are given by name, checked for type and
//! length, and have to follow the kernel's own list of parameters.

use crate::buffer::{identity, same_device};
use crate::{Arg, Driver, Element, Error, Result, Shape, View, ViewMut};

/// A kernel; for each of `elements` there is an entry point `name_element`.
#[derive(Debug, PartialEq, Eq)]
pub struct Kernel {
    /// File of `kernels/` without its ending.
    pub module: &'static str,
    /// Name of the entry points without the element type.
    pub name: &'static str,
    /// Types that it exists for.
    pub elements: &'static [Element],
    /// Parameters in order.
    pub parameters: &'static [Parameter],
}

/// A parameter: its name in the `.cu` file, and its kind.
pub type Parameter = (&'static str, Kind);

/// What a parameter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Elements of the kernel's own type.
    Own,
    /// Elements of a fixed type.
    Of(Element),
    /// A 32-bit integer.
    I32,
    /// A 64-bit integer.
    I64,
    /// A float.
    F32,
}

/// Elements of the kernel's own type.
pub(crate) const fn own(name: &'static str) -> Parameter {
    (name, Kind::Own)
}

/// Elements of `f32`, whatever the kernel's own type.
pub(crate) const fn f32s(name: &'static str) -> Parameter {
    (name, Kind::Of(Element::F32))
}

/// Elements of `u32`: ids, positions, offsets.
pub(crate) const fn u32s(name: &'static str) -> Parameter {
    (name, Kind::Of(Element::U32))
}

/// A 32-bit integer.
pub(crate) const fn int(name: &'static str) -> Parameter {
    (name, Kind::I32)
}

/// A 64-bit integer.
pub(crate) const fn long(name: &'static str) -> Parameter {
    (name, Kind::I64)
}

/// A float.
pub(crate) const fn float(name: &'static str) -> Parameter {
    (name, Kind::F32)
}

/// Types of activations.
pub(crate) const ACTIVATIONS: &[Element] = &[Element::F32, Element::BF16];

/// A call under construction. The first thing that is wrong is kept and returned by `launch`.
#[must_use]
pub(crate) struct Call {
    kernel: &'static Kernel,
    element: Element,
    args: Vec<Arg>,
    /// Operands and the drivers that own them.
    owners: Vec<(&'static str, *const ())>,
    wrong: Option<Error>,
}

impl Call {
    /// Call of the entry point for an element type.
    pub(crate) fn new(kernel: &'static Kernel, element: Element) -> Self {
        let known = kernel.elements.contains(&element);
        let wrong = (!known).then(|| {
            let names: Vec<&str> = kernel.elements.iter().map(|e| e.name()).collect();
            Error::NotBuilt { kernel: kernel.name, found: element, expected: names.join(" or ") }
        });
        let parameters = kernel.parameters.len();
        Call { kernel, element, args: Vec::with_capacity(parameters), owners: Vec::with_capacity(parameters), wrong }
    }

    /// An operand of `expected` elements that the kernel reads.
    pub(crate) fn read(self, name: &'static str, view: View<'_>, expected: usize) -> Self {
        self.pointer(name, view, expected)
    }

    /// An operand that may be missing: the kernel then sees null.
    pub(crate) fn read_if(self, name: &'static str, view: Option<View<'_>>, expected: usize) -> Self {
        match view {
            Some(view) => self.read(name, view, expected),
            None => self.null(name),
        }
    }

    /// An operand of `expected` elements that the kernel writes.
    pub(crate) fn write(self, name: &'static str, view: &mut ViewMut<'_>, expected: usize) -> Self {
        self.pointer(name, view.as_view(), expected)
    }

    /// A result that nobody may want: the kernel then sees null.
    pub(crate) fn write_if(self, name: &'static str, view: Option<&mut ViewMut<'_>>, expected: usize) -> Self {
        match view {
            Some(view) => self.write(name, view, expected),
            None => self.null(name),
        }
    }

    /// A number that has to fit the kernel's `int`.
    pub(crate) fn int(mut self, name: &'static str, value: usize) -> Self {
        let fits = i32::try_from(value);
        if fits.is_err() {
            self.blame(Error::argument(self.kernel.name, format!("{name} is {value}, expected at most {}", i32::MAX)));
        }
        self.push(name, Kind::I32, Arg::I32(fits.unwrap_or(0)))
    }

    /// The 32 bits of an `unsigned`.
    pub(crate) fn bits(self, name: &'static str, value: u32) -> Self {
        self.push(name, Kind::I32, Arg::I32(value as i32))
    }

    /// A number that may exceed the kernel's `int`.
    pub(crate) fn long(self, name: &'static str, value: usize) -> Self {
        self.push(name, Kind::I64, Arg::I64(value as i64))
    }

    /// A float.
    pub(crate) fn float(self, name: &'static str, value: f32) -> Self {
        self.push(name, Kind::F32, Arg::F32(value))
    }

    /// Queues the call; a grid without blocks is no call.
    ///
    /// # Safety
    /// Under this shape and these numbers the kernel stays within the lengths that were checked.
    pub(crate) unsafe fn launch(self, driver: &dyn Driver, shape: Shape) -> Result<()> {
        let Call { kernel, element, args, owners, wrong } = self;
        if let Some(error) = wrong {
            return Err(error);
        }
        for (operand, owner) in owners {
            same_device(kernel.name, operand, driver, owner)?;
        }
        assert_eq!(args.len(), kernel.parameters.len(), "{}: arguments", kernel.name);
        if shape.grid.contains(&0) {
            return Ok(());
        }
        // SAFETY: names and kinds follow the kernel's list, the views borrow live buffers of this driver; the rest is the
        // caller's promise.
        unsafe { driver.launch(kernel.module, &format!("{}_{element}", kernel.name), shape, &args) }
    }

    fn null(self, name: &'static str) -> Self {
        let kind = self.kernel.parameters.get(self.args.len()).map_or(Kind::Own, |p| p.1);
        self.push(name, kind, Arg::Pointer(0))
    }

    fn pointer(mut self, name: &'static str, view: View<'_>, expected: usize) -> Self {
        self.owners.push((name, identity(view.driver)));
        let fixed = match self.kernel.parameters.get(self.args.len()) {
            Some((_, Kind::Of(fixed))) => Some(*fixed),
            _ => None,
        };
        if let Err(error) = check(self.kernel.name, name, view, fixed.unwrap_or(self.element), expected) {
            self.blame(error);
        }
        self.push(name, fixed.map_or(Kind::Own, Kind::Of), Arg::Pointer(view.address))
    }

    fn push(mut self, name: &'static str, kind: Kind, arg: Arg) -> Self {
        let expected = self.kernel.parameters.get(self.args.len());
        assert_eq!(expected, Some(&(name, kind)), "{}: parameter {}", self.kernel.name, self.args.len());
        self.args.push(arg);
        self
    }

    fn blame(&mut self, error: Error) {
        self.wrong.get_or_insert(error);
    }
}

/// Refuses an operand that is not `expected` elements of a type, aligned to 16 bytes.
pub(crate) fn check(
    kernel: &'static str,
    operand: &'static str,
    view: View<'_>,
    wanted: Element,
    expected: usize,
) -> Result<()> {
    let View { address, len: found, element, .. } = view;
    if element != wanted {
        return Err(Error::Element { kernel, operand, found: element, expected: wanted.to_string() });
    }
    if found != expected {
        return Err(Error::Length { kernel, operand, found, expected });
    }
    if !address.is_multiple_of(16) {
        let text = format!("{operand} starts at {address:#x}, expected a multiple of 16 bytes");
        return Err(Error::argument(kernel, text));
    }
    Ok(())
}
