//! Which pages of a block changed, by their sub-digests.

use crate::PAGE_DIGEST_BYTES;

/// The longest runs `(first page, count)` of pages whose sub-digests differ, in order.
///
/// `None` where the two differ in length or do not consist of whole sub-digests.
pub fn page_runs(old: &[u8], new: &[u8]) -> Option<Vec<(usize, usize)>> {
    if old.len() != new.len() || old.len() % PAGE_DIGEST_BYTES != 0 {
        return None;
    }
    let mut runs: Vec<(usize, usize)> = Vec::new();
    let pairs = old.chunks_exact(PAGE_DIGEST_BYTES).zip(new.chunks_exact(PAGE_DIGEST_BYTES));
    for (page, _) in pairs.enumerate().filter(|(_, (before, after))| before != after) {
        match runs.last_mut() {
            Some((first, count)) if *first + *count == page => *count += 1,
            _ => runs.push((page, 1)),
        }
    }
    Some(runs)
}
