//! The zero test.

/// Long enough that the compiler uses vectors for all of it, short enough to stop soon in data.
const STRIDE_BYTES: usize = 256;

/// Whether every byte is zero; true of no bytes at all.
pub fn is_zero(data: &[u8]) -> bool {
    let mut strides = data.chunks_exact(STRIDE_BYTES);
    // Within a stride there is no early end: that is what lets the compiler use vectors.
    strides.all(|stride| stride.iter().fold(0, |all, byte| all | byte) == 0)
        && strides.remainder().iter().all(|byte| *byte == 0)
}
