//! The fused scan of a chunk: zero map, digests, sub-digests and changed map, each byte read from memory once.
//!
//! A page is tested for zeros and digested while it is in the first-level cache. The test ends at the first stride that holds
//! data, so it costs next to nothing on data; pages and blocks of zeros get digests that were computed once.

use std::fmt;

use crate::digest::{Digest, Digester};
use crate::zero::is_zero;
use crate::{DIGEST_BYTES, MAX_BLOCK_BYTES, MIN_BLOCK_BYTES, PAGE_BYTES, PAGE_DIGEST_BYTES, SAME_FLAG, ZERO_FLAG};

/// What is refused before anything is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanError {
    BlockSize { given: usize },
    NoData,
    Digests { given: usize, blocks: usize },
    OldDigests { given: usize, blocks: usize },
    Pages { given: usize, blocks: usize, slots: usize },
}

impl fmt::Display for ScanError {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::BlockSize { given } => {
                write!(to, "block size {given} is not a power of two from 4 KiB to 16 MiB")
            }
            Self::NoData => write!(to, "there is no data to scan"),
            Self::Digests { given, blocks } => {
                write!(to, "digests have {given} bytes where {blocks} blocks need {}", blocks * DIGEST_BYTES)
            }
            Self::OldDigests { given, blocks } => {
                write!(to, "old digests have {given} bytes where {blocks} blocks need {}", blocks * DIGEST_BYTES)
            }
            Self::Pages { given, blocks, slots } => write!(
                to,
                "pages have {given} bytes where {blocks} blocks need {} or none",
                slots * PAGE_DIGEST_BYTES
            ),
        }
    }
}

impl std::error::Error for ScanError {}

/// One run of blocks to digest, with sizes proven to fit each other.
pub struct Scan<'a> {
    data: &'a [u8],
    block_bytes: usize,
    old_digests: Option<&'a [u8]>,
    digests: &'a mut [u8],
    pages: &'a mut [u8],
}

impl<'a> Scan<'a> {
    /// `digests`, and `old_digests` if given, have 16 bytes a block; `pages` has four bytes a page slot, or none at all where
    /// sub-digests are not wanted. The last block and page may be short.
    pub fn new(
        data: &'a [u8],
        block_bytes: usize,
        digests: &'a mut [u8],
        pages: &'a mut [u8],
        old_digests: Option<&'a [u8]>,
    ) -> Result<Self, ScanError> {
        Self::check_block_bytes(block_bytes)?;
        if data.is_empty() {
            return Err(ScanError::NoData);
        }
        let blocks = data.len().div_ceil(block_bytes);
        if digests.len() != blocks * DIGEST_BYTES {
            let given = digests.len();
            return Err(ScanError::Digests { given, blocks });
        }
        let slots = blocks * (block_bytes / PAGE_BYTES);
        if !pages.is_empty() && pages.len() != slots * PAGE_DIGEST_BYTES {
            let given = pages.len();
            return Err(ScanError::Pages { given, blocks, slots });
        }
        if let Some(old) = old_digests.filter(|old| old.len() != blocks * DIGEST_BYTES) {
            let given = old.len();
            return Err(ScanError::OldDigests { given, blocks });
        }
        Ok(Self { data, block_bytes, old_digests, digests, pages })
    }

    /// Refuse what is no block size.
    pub fn check_block_bytes(block_bytes: usize) -> Result<(), ScanError> {
        if !block_bytes.is_power_of_two() || !(MIN_BLOCK_BYTES..=MAX_BLOCK_BYTES).contains(&block_bytes) {
            return Err(ScanError::BlockSize { given: block_bytes });
        }
        Ok(())
    }

    /// Fill the digests and sub-digests; one byte of flags a block comes back.
    pub fn run(self, digester: &Digester) -> Vec<u8> {
        let page_slots = self.block_bytes / PAGE_BYTES;
        // An empty slice for each block where sub-digests are not wanted.
        let pages_per_block = if self.pages.is_empty() { 0 } else { page_slots * PAGE_DIGEST_BYTES };
        let mut pages = self.pages;
        let mut tree = Tree::new(digester, page_slots);
        let blocks = self.data.chunks(self.block_bytes).zip(self.digests.chunks_exact_mut(DIGEST_BYTES));
        blocks
            .enumerate()
            .map(|(index, (block, digest))| {
                let (block_pages, rest) = std::mem::take(&mut pages).split_at_mut(pages_per_block);
                pages = rest;
                let (block_digest, zero) = tree.block(block, block_pages);
                let at = index * DIGEST_BYTES;
                let same = self.old_digests.is_some_and(|old| old[at..at + DIGEST_BYTES] == block_digest);
                digest.copy_from_slice(&block_digest);
                (ZERO_FLAG * u8::from(zero)) | (SAME_FLAG * u8::from(same))
            })
            .collect()
    }
}

/// Digests blocks one after the other, keeping what they share.
struct Tree<'a> {
    digester: &'a Digester,
    /// The page digests of the block in hand, one after the other.
    leaves: Vec<u8>,
    zero_page: Option<Digest>,
    /// The digest of a whole block of zeros.
    zero_block: Option<Digest>,
    page_slots: usize,
}

impl<'a> Tree<'a> {
    fn new(digester: &'a Digester, page_slots: usize) -> Self {
        let leaves = Vec::with_capacity(page_slots * DIGEST_BYTES);
        Self { digester, leaves, zero_page: None, zero_block: None, page_slots }
    }

    /// The digest of a block and whether it is all zeros; `pages` is filled unless it is empty.
    fn block(&mut self, block: &[u8], pages: &mut [u8]) -> (Digest, bool) {
        self.leaves.clear();
        let mut zero = true;
        for page in block.chunks(PAGE_BYTES) {
            let page_zero = is_zero(page);
            zero &= page_zero;
            let leaf = if page_zero { self.zero_page(page) } else { self.digester.digest(page) };
            self.leaves.extend_from_slice(&leaf);
        }
        self.fill(pages);
        if zero && block.len() == self.page_slots * PAGE_BYTES {
            let digest = *self.zero_block.get_or_insert_with(|| self.digester.digest(&self.leaves));
            return (digest, true);
        }
        (self.digester.digest(&self.leaves), zero)
    }

    fn zero_page(&mut self, page: &[u8]) -> Digest {
        if page.len() < PAGE_BYTES {
            return self.digester.digest(page);
        }
        *self.zero_page.get_or_insert_with(|| self.digester.digest(page))
    }

    fn fill(&self, pages: &mut [u8]) {
        let used = (self.leaves.len() / DIGEST_BYTES * PAGE_DIGEST_BYTES).min(pages.len());
        let (slots, unused) = pages.split_at_mut(used);
        for (slot, leaf) in slots.chunks_exact_mut(PAGE_DIGEST_BYTES).zip(self.leaves.chunks_exact(DIGEST_BYTES)) {
            slot.copy_from_slice(&leaf[DIGEST_BYTES - PAGE_DIGEST_BYTES..]);
        }
        unused.fill(0);
    }
}
