//! The hot loops of blocksync, without Python and without `unsafe`.
//!
//! What they compute is fixed by `blocksync/kernels/digest.py`; `blocksync/kernels/python.py` computes the same to the bit.
//! Instruction sets are chosen when the code runs, by the digest crates, so one build serves every machine of an
//! architecture.

#![forbid(unsafe_code)]

mod digest;
mod pages;
mod scan;
mod sweep;
mod zero;

pub use digest::{Digest, DigestKind, Digester, KEY_BYTES, instructions};
pub use pages::page_runs;
pub use scan::{Scan, ScanError};
pub use sweep::{Patch, Sweep, SweepError, Swept};
pub use zero::is_zero;

/// Raised whenever a kernel's signature or result changes; equal to `INTERFACE` in `blocksync/kernels/digest.py`.
pub const INTERFACE: u32 = 2;
/// What databases and filesystems change; the leaf of a block's digest.
pub const PAGE_BYTES: usize = 4096;
pub const DIGEST_BYTES: usize = 16;
/// A sub-digest: the last bytes of a page's digest.
pub const PAGE_DIGEST_BYTES: usize = 4;
pub const MIN_BLOCK_BYTES: usize = PAGE_BYTES;
pub const MAX_BLOCK_BYTES: usize = 16 << 20;
/// Flag of a block whose bytes are all zero.
pub const ZERO_FLAG: u8 = 1;
/// Flag of a block whose digest equals the old one.
pub const SAME_FLAG: u8 = 2;
