//! The two digest functions, cut to 16 bytes and keyed alike.

use twox_hash::XxHash3_128;

use crate::DIGEST_BYTES;

pub const KEY_BYTES: usize = 32;

pub type Digest = [u8; DIGEST_BYTES];

/// The numbers stand in the protocol and in manifests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigestKind {
    Xxh3 = 1,
    Blake3 = 2,
}

impl DigestKind {
    /// The kind that a number stands for.
    pub fn from_number(number: i64) -> Option<Self> {
        match number {
            1 => Some(Self::Xxh3),
            2 => Some(Self::Blake3),
            _ => None,
        }
    }
}

/// A digest function with its key.
#[derive(Clone, Copy)]
pub enum Digester {
    /// XXH3-128 with a seed, in its canonical (big-endian) form.
    Xxh3 { seed: u64 },
    /// BLAKE3 in its keyed mode, its first 16 bytes.
    Blake3 { key: [u8; KEY_BYTES] },
}

impl Digester {
    /// The seed of XXH3 is the first eight bytes of the key, little-endian.
    pub fn new(kind: DigestKind, key: &[u8; KEY_BYTES]) -> Self {
        match kind {
            DigestKind::Xxh3 => {
                let [a, b, c, d, e, f, g, h, ..] = *key;
                Self::Xxh3 { seed: u64::from_le_bytes([a, b, c, d, e, f, g, h]) }
            }
            DigestKind::Blake3 => Self::Blake3 { key: *key },
        }
    }

    pub fn digest(&self, data: &[u8]) -> Digest {
        match self {
            Self::Xxh3 { seed } => XxHash3_128::oneshot_with_seed(*seed, data).to_be_bytes(),
            Self::Blake3 { key } => {
                let mut digest = [0; DIGEST_BYTES];
                digest.copy_from_slice(&blake3::keyed_hash(key, data).as_bytes()[..DIGEST_BYTES]);
                digest
            }
        }
    }
}

/// The widest instruction sets that the digest crates use on this machine: for XXH3, and for BLAKE3.
pub fn instructions() -> (&'static str, &'static str) {
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = is_x86_feature_detected!("avx2");
        let blake3 = if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
            "avx512"
        } else if avx2 {
            "avx2"
        } else if is_x86_feature_detected!("sse4.1") {
            "sse4.1"
        } else {
            "sse2"
        };
        (if avx2 { "avx2" } else { "sse2" }, blake3)
    }
    #[cfg(target_arch = "aarch64")]
    {
        ("neon", "neon")
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        ("portable", "portable")
    }
}
