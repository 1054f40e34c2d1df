//! Memory of tensors, handed on from one to the next: a training step in steady state asks the system for nothing, and touches no
//! fresh pages (a page fault costs more than filling the page).
//!
//! What comes from the system at a time is a slab. Spans of slabs are lent, the smallest free one that is large enough, cut to size;
//! those that come back are joined with their free neighbours. The logits' memory is thus that of the gradients a moment later.
//! Memory hardly grows by it: before a new slab would take all of them beyond the most that there ever had to be at a time, free ones
//! go back to the system, the largest first.

use super::floats::{Floats, LINE};
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

/// Floats of the smallest buffer that comes from here.
const SMALLEST: usize = 4096;

/// Floats freed between two times that the system gets them: 16 MiB.
const HANDED_ON: usize = 4 << 20;

pub(super) static POOL: Mutex<Pool> = Mutex::new(Pool::new());

/// Floats of a slab from a line on, whole lines of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub at: *mut f32,
    pub len: usize,
}

impl Span {
    fn end(&self) -> *mut f32 {
        self.at.wrapping_add(self.len)
    }
}

/// Memory of the system.
struct Slab {
    memory: *mut f32,
    layout: Layout,
    len: usize,
}

/// Sizes are in floats.
pub(super) struct Pool {
    /// Slabs by where their first span begins.
    slabs: BTreeMap<*mut f32, Slab>,
    /// Length of each free span by where it begins.
    free: BTreeMap<*mut f32, usize>,
    /// The same spans by length.
    by_len: BTreeSet<(usize, *mut f32)>,
    /// Size of all slabs.
    held: usize,
    /// The most that it ever had to be.
    most: usize,
    /// Size of the slabs freed since the C library was told to hand its own free memory on.
    freed: usize,
}

// SAFETY: the memory behind its pointers is its own.
unsafe impl Send for Pool {}

impl Pool {
    const fn new() -> Self {
        Pool { slabs: BTreeMap::new(), free: BTreeMap::new(), by_len: BTreeSet::new(), held: 0, most: 0, freed: 0 }
    }

    fn insert(&mut self, span: Span) {
        if span.len > 0 {
            self.free.insert(span.at, span.len);
            self.by_len.insert((span.len, span.at));
        }
    }

    fn remove(&mut self, span: Span) {
        self.free.remove(&span.at);
        self.by_len.remove(&(span.len, span.at));
    }

    /// Lends so many floats of unspecified content.
    fn take(&mut self, len: usize) -> Span {
        let len = len.next_multiple_of(LINE);
        let (fitting, at) = match self.by_len.range((len, std::ptr::null_mut())..).next() {
            Some(&found) => found,
            None => {
                self.shrink(self.most.saturating_sub(len));
                let at = self.grow(len);
                self.most = self.most.max(self.held);
                (len, at)
            }
        };
        let span = Span { at, len: fitting };
        self.remove(span);
        let lent = Span { at, len };
        self.insert(Span { at: lent.end(), len: fitting - len });
        lent
    }

    pub(super) fn give_back(&mut self, mut span: Span) {
        if let Some((&at, &len)) = self.free.range(..span.at).next_back()
            && at.wrapping_add(len) == span.at
            && !self.slabs.contains_key(&span.at)
        {
            self.remove(Span { at, len });
            span = Span { at, len: len + span.len };
        }
        if let Some(&len) = self.free.get(&span.end()).filter(|_| !self.slabs.contains_key(&span.end())) {
            self.remove(Span { at: span.end(), len });
            span.len += len;
        }
        self.insert(span);
    }

    /// A new slab of zeros, free.
    fn grow(&mut self, len: usize) -> *mut f32 {
        let layout = Layout::array::<f32>(len + LINE - 1).expect("sizes of tensors fit into memory");
        // SAFETY: the layout is not empty.
        let memory = unsafe { alloc_zeroed(layout) }.cast::<f32>();
        if memory.is_null() {
            handle_alloc_error(layout);
        }
        let at = memory.wrapping_add(memory.align_offset(LINE * size_of::<f32>()).min(LINE - 1));
        self.slabs.insert(at, Slab { memory, layout, len });
        self.held += len;
        self.insert(Span { at, len });
        at
    }

    /// Frees whole slabs, the largest first, until all of them have at most that size.
    fn shrink(&mut self, most: usize) {
        while self.held > most {
            let whole = |(len, at): &&(usize, *mut f32)| self.slabs.get(at).is_some_and(|slab| slab.len == *len);
            let Some(&(len, at)) = self.by_len.iter().rev().find(whole) else { break };
            self.remove(Span { at, len });
            let slab = self.slabs.remove(&at).expect("just found");
            // SAFETY: it was allocated with this layout, and nothing of it is lent.
            unsafe { dealloc(slab.memory.cast(), slab.layout) };
            (self.held, self.freed) = (self.held - len, self.freed + len);
        }
        if self.freed > HANDED_ON {
            self.freed = 0;
            hand_on();
        }
    }
}

/// Hands what the C library holds free to the system: freed memory leaves holes between other, which it keeps.
fn hand_on() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim may be called at any time, from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// `len` floats of unspecified content.
pub fn buffer(len: usize) -> Floats {
    match len {
        SMALLEST.. => Floats::lent(POOL.lock().expect("nothing here panics").take(len), len),
        _ => Floats::zeros(len),
    }
}

/// `len` zeros.
pub fn zeros(len: usize) -> Floats {
    let mut zeros = buffer(len);
    super::for_row_blocks(&mut zeros, 1, |_, part| part.fill(0.0));
    zeros
}

/// Gives all that is free back to the system, where tensors of other sizes are to come.
pub fn release_buffers() {
    let mut pool = POOL.lock().expect("nothing here panics");
    pool.shrink(0);
    pool.most = pool.held;
    hand_on();
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Drop for Pool {
        fn drop(&mut self) {
            self.shrink(0);
            assert!(self.held == 0 && self.slabs.is_empty() && self.free.is_empty() && self.by_len.is_empty());
        }
    }

    #[test]
    fn what_comes_back_is_cut_and_joined() {
        let mut pool = Pool::new();
        let whole = pool.take(9001);
        assert_eq!((whole.len, pool.held), (9008, 9008));
        pool.give_back(whole);
        let [a, b, c] = [5000, 3000, 992].map(|len| pool.take(len));
        assert_eq!((a.at, b.at, c.at), (whole.at, a.end(), b.end()));
        assert_eq!((pool.held, pool.free.len()), (9008, 0));
        for span in [a, c, b] {
            pool.give_back(span);
        }
        assert_eq!(pool.take(9008), whole);
        pool.give_back(whole);
    }

    /// Of those that fit, the smallest.
    #[test]
    fn a_large_span_is_left_to_what_needs_it() {
        let mut pool = Pool::new();
        let lent = [8000, 5000, 3008].map(|len| pool.take(len));
        lent.into_iter().for_each(|span| pool.give_back(span));
        let again = [3000, 5000, 8000].map(|len| pool.take(len));
        assert_eq!(again.map(|span| span.at), [lent[2], lent[1], lent[0]].map(|span| span.at));
        again.into_iter().for_each(|span| pool.give_back(span));
    }

    /// Slabs side by side are not one.
    #[test]
    fn spans_of_two_slabs_are_never_joined() {
        let mut pool = Pool::new();
        let spans: Vec<_> = (0..64).map(|_| pool.take(4096)).collect();
        spans.iter().for_each(|&span| pool.give_back(span));
        assert_eq!(pool.free.len(), 64);
    }

    /// All stays, until a new slab would be beyond the most; then the largest goes.
    #[test]
    fn no_more_is_held_than_once_had_to_be() {
        let mut pool = Pool::new();
        let lent = [8000, 5008, 3008].map(|len| pool.take(len));
        lent.into_iter().for_each(|span| pool.give_back(span));
        assert_eq!((pool.held, pool.free.len()), (16_016, 3));
        let large = pool.take(13_008);
        assert_eq!((pool.held, pool.slabs.len()), (16_016, 2), "8000 went, then 5008");
        let small = pool.take(3008);
        assert_eq!(small, lent[2]);
        pool.give_back(large);
        pool.give_back(small);
        assert_eq!(pool.held, 16_016);
    }

    #[test]
    fn zeros_are_zeros_where_others_were() {
        let mut used = buffer(900_001);
        used.fill(7.0);
        drop(used);
        assert_eq!(zeros(899_999).iter().filter(|&&x| x != 0.0).count(), 0);
    }
}
