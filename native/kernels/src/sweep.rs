//! The sweep of a range of which the old digests are known: reading, scanning and sorting in one loop, piece by piece, so that
//! what was read is digested while it is still in the second-level cache, and nobody is asked before something changed that
//! must be sent whole.
//!
//! What changed by pages comes back as patches; the sweep ends before the first block that needs another treatment.

use std::fmt;
use std::io;

use crate::digest::Digester;
use crate::pages::page_runs;
use crate::scan::{Scan, ScanError};
use crate::{DIGEST_BYTES, PAGE_BYTES, PAGE_DIGEST_BYTES, SAME_FLAG, ZERO_FLAG};

/// What is refused before anything is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SweepError {
    Buffer { given: usize },
    OldDigests { given: usize, blocks: usize },
    OldPages { given: usize, blocks: usize, slots: usize },
    Pages { digests: usize, pages: usize },
    Scan(ScanError),
}

impl fmt::Display for SweepError {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Buffer { given } => write!(to, "a buffer of {given} bytes does not hold whole blocks"),
            Self::OldDigests { given, blocks } => {
                write!(to, "old digests have {given} bytes where {blocks} blocks need {}", blocks * DIGEST_BYTES)
            }
            Self::OldPages { given, blocks, slots } => {
                write!(to, "old pages have {given} bytes where {blocks} blocks need {}", slots * PAGE_DIGEST_BYTES)
            }
            Self::Pages { digests, pages } => {
                write!(to, "room for {digests} bytes of digests and {pages} of pages does not fit together")
            }
            Self::Scan(error) => error.fmt(to),
        }
    }
}

impl std::error::Error for SweepError {}

/// The changed pages of one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    /// The block, counted from the start of the sweep.
    pub index: usize,
    /// `(first page, count)`, ascending, not touching.
    pub runs: Vec<(usize, usize)>,
}

/// What a sweep came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Bytes from the start, whole blocks: all of them are as the old digests say, or patched.
    pub done: usize,
    /// Of the blocks that changed by pages, in order.
    pub patches: Vec<Patch>,
    /// Bytes of the payload that the patches' pages took.
    pub payload: usize,
}

/// One sweep, with sizes proven to fit each other.
pub struct Sweep<'a> {
    length: usize,
    block_bytes: usize,
    buffer: &'a mut [u8],
    old_digests: &'a [u8],
    old_pages: &'a [u8],
    digests: &'a mut [u8],
    pages: &'a mut [u8],
    payload: &'a mut [u8],
}

impl<'a> Sweep<'a> {
    /// `old_digests` have 16 bytes a block of `length` and `old_pages` four bytes a page slot (or there are none, and then no
    /// patches). `buffer` holds a piece of whole blocks. The new digests and sub-digests of patched blocks go to `digests` and
    /// `pages`, one after the other, their changed pages to `payload`; what has no room there ends the sweep.
    #[allow(clippy::too_many_arguments)] // what a loop over a disk needs
    pub fn new(
        length: usize,
        block_bytes: usize,
        buffer: &'a mut [u8],
        old_digests: &'a [u8],
        old_pages: &'a [u8],
        digests: &'a mut [u8],
        pages: &'a mut [u8],
        payload: &'a mut [u8],
    ) -> Result<Self, SweepError> {
        Scan::check_block_bytes(block_bytes).map_err(SweepError::Scan)?;
        if length == 0 {
            return Err(SweepError::Scan(ScanError::NoData));
        }
        if buffer.is_empty() || buffer.len() % block_bytes != 0 {
            return Err(SweepError::Buffer { given: buffer.len() });
        }
        let blocks = length.div_ceil(block_bytes);
        if old_digests.len() != blocks * DIGEST_BYTES {
            return Err(SweepError::OldDigests { given: old_digests.len(), blocks });
        }
        let slots = block_bytes / PAGE_BYTES;
        if !old_pages.is_empty() && old_pages.len() != blocks * slots * PAGE_DIGEST_BYTES {
            let given = old_pages.len();
            return Err(SweepError::OldPages { given, blocks, slots: blocks * slots });
        }
        let room = digests.len() / DIGEST_BYTES;
        if digests.len() % DIGEST_BYTES != 0 || pages.len() != room * slots * PAGE_DIGEST_BYTES {
            return Err(SweepError::Pages { digests: digests.len(), pages: pages.len() });
        }
        Ok(Self { length, block_bytes, buffer, old_digests, old_pages, digests, pages, payload })
    }

    /// Read and sort. `read` fills a buffer from an offset that counts from the start of the sweep; where it fails or gives
    /// less, the sweep ends with what it had: whoever reads on meets the same, and can say what it is.
    pub fn run(
        mut self,
        digester: &Digester,
        mut read: impl FnMut(usize, &mut [u8]) -> io::Result<usize>,
    ) -> Swept {
        let slots = self.block_bytes / PAGE_BYTES;
        let mut swept = Swept::default();
        let mut digests = vec![0; self.buffer.len() / self.block_bytes * DIGEST_BYTES];
        let mut pages = vec![0; self.buffer.len() / PAGE_BYTES * PAGE_DIGEST_BYTES];
        while swept.done < self.length {
            let size = self.buffer.len().min(self.length - swept.done);
            let buffer = std::mem::take(&mut self.buffer);
            let filled = fill(swept.done, &mut buffer[..size], &mut read);
            let blocks = size.div_ceil(self.block_bytes);
            let first = swept.done / self.block_bytes;
            let flags = filled.and_then(|()| {
                let old = &self.old_digests[first * DIGEST_BYTES..(first + blocks) * DIGEST_BYTES];
                let (digests, pages) =
                    (&mut digests[..blocks * DIGEST_BYTES], &mut pages[..blocks * slots * PAGE_DIGEST_BYTES]);
                let scan = Scan::new(&buffer[..size], self.block_bytes, digests, pages, Some(old)).ok()?;
                Some(scan.run(digester))
            });
            let Some(flags) = flags else { break };
            let piece = Piece { data: &buffer[..size], flags: &flags, digests: &digests, pages: &pages };
            let whole = self.take(&piece, first, &mut swept);
            self.buffer = buffer;
            if !whole {
                break;
            }
        }
        swept
    }

    /// Sort the blocks of a piece; false where one of them ends the sweep.
    fn take(&mut self, piece: &Piece<'_>, first: usize, swept: &mut Swept) -> bool {
        for (at, (block, flags)) in piece.data.chunks(self.block_bytes).zip(piece.flags).enumerate() {
            if flags & SAME_FLAG == 0 {
                let runs = self.patchable(piece, first, at, block.len());
                let Some(runs) = runs.filter(|_| flags & ZERO_FLAG == 0) else { return false };
                if !self.keep(piece, at, block, &runs, swept) {
                    return false;
                }
                swept.patches.push(Patch { index: first + at, runs });
            }
            swept.done += block.len();
        }
        true
    }

    /// The changed pages where sending them alone pays: at most half of the block. None differs where a sub-digest collided.
    fn patchable(&self, piece: &Piece<'_>, first: usize, at: usize, length: usize) -> Option<Vec<(usize, usize)>> {
        let slot_bytes = self.block_bytes / PAGE_BYTES * PAGE_DIGEST_BYTES;
        let old = self.old_pages.get((first + at) * slot_bytes..(first + at + 1) * slot_bytes)?;
        let runs = page_runs(old, &piece.pages[at * slot_bytes..(at + 1) * slot_bytes])?;
        let changed: usize = runs.iter().map(|(_, count)| count * PAGE_BYTES).sum();
        (changed > 0 && changed * 2 <= length).then_some(runs)
    }

    /// Copy what a patch needs to where it has to go; false where there is no room.
    fn keep(
        &mut self,
        piece: &Piece<'_>,
        at: usize,
        block: &[u8],
        runs: &[(usize, usize)],
        swept: &mut Swept,
    ) -> bool {
        let slot_bytes = self.block_bytes / PAGE_BYTES * PAGE_DIGEST_BYTES;
        let number = swept.patches.len();
        let spans =
            runs.iter().map(|(page, count)| (page * PAGE_BYTES, ((page + count) * PAGE_BYTES).min(block.len())));
        let size: usize = spans.clone().map(|(start, end)| end - start).sum();
        let (Some(digest), Some(payload)) = (
            self.digests.get_mut(number * DIGEST_BYTES..(number + 1) * DIGEST_BYTES),
            self.payload.get_mut(swept.payload..swept.payload + size),
        ) else {
            return false;
        };
        digest.copy_from_slice(&piece.digests[at * DIGEST_BYTES..(at + 1) * DIGEST_BYTES]);
        self.pages[number * slot_bytes..(number + 1) * slot_bytes]
            .copy_from_slice(&piece.pages[at * slot_bytes..(at + 1) * slot_bytes]);
        let mut to = 0;
        for (start, end) in spans {
            payload[to..to + end - start].copy_from_slice(&block[start..end]);
            to += end - start;
        }
        swept.payload += size;
        true
    }
}

struct Piece<'a> {
    data: &'a [u8],
    flags: &'a [u8],
    digests: &'a [u8],
    pages: &'a [u8],
}

/// Fill all of a buffer; `None` where that cannot be.
fn fill(
    offset: usize,
    buffer: &mut [u8],
    read: &mut impl FnMut(usize, &mut [u8]) -> io::Result<usize>,
) -> Option<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        match read(offset + filled, &mut buffer[filled..]) {
            Ok(count) if count > 0 => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => return None,
        }
    }
    Some(())
}
