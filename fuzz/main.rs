//! The fuzzer, with one target: the one that `KUBELET_GATE_FUZZ` names. `fuzz/run` builds and runs it.
#![no_main]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::LazyLock;
use std::sync::atomic::Ordering::Relaxed;

use kubelet_gate::fuzz::{ALLOCATIONS, TARGETS};
use libfuzzer_sys::fuzz_target;

/// Counts what is allocated.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: every call is the system allocator's, with the same arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("KUBELET_GATE_FUZZ").expect("KUBELET_GATE_FUZZ names a target");
    let target = TARGETS.iter().find(|(target, _)| *target == name);
    target.unwrap_or_else(|| panic!("KUBELET_GATE_FUZZ={name}: no target has this name")).1
});

fuzz_target!(|data: &[u8]| TARGET(data));
