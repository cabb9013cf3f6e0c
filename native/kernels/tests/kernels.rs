//! The kernels from outside, against known answers and against the slow way of saying the same.

use std::io;

use blocksync_kernels::{
    DIGEST_BYTES, DigestKind, Digester, PAGE_BYTES, Patch, SAME_FLAG, Scan, ScanError, Sweep, Swept, ZERO_FLAG,
    is_zero, page_runs,
};

const VECTORS: &str = include_str!("../../../tests/kernels/vectors.txt");

fn key() -> [u8; 32] {
    std::array::from_fn(|index| index as u8)
}

fn pattern(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    let next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn digester(kind: &str) -> Digester {
    let kind = DigestKind::from_number(kind.parse().unwrap()).unwrap();
    Digester::new(kind, &key())
}

fn vectors(name: &str) -> Vec<Vec<&'static str>> {
    let found: Vec<Vec<&str>> = VECTORS
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.first() == Some(&name))
        .collect();
    assert!(!found.is_empty());
    found
}

/// Flags, digests, sub-digests.
fn scan(data: &[u8], block_bytes: usize, digester: &Digester, old: Option<&[u8]>) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let blocks = data.len().div_ceil(block_bytes);
    let mut digests = vec![0xAA; blocks * DIGEST_BYTES];
    let mut pages = vec![0xAA; blocks * (block_bytes / PAGE_BYTES) * 4];
    let flags = Scan::new(data, block_bytes, &mut digests, &mut pages, old).unwrap().run(digester);
    (flags, digests, pages)
}

#[test]
fn digests_are_the_known_ones() {
    for fields in vectors("digest") {
        let data = pattern(fields[2].parse().unwrap());
        assert_eq!(hex(&digester(fields[1]).digest(&data)), fields[3], "{fields:?}");
    }
}

#[test]
fn scans_are_the_known_ones() {
    let mut data = pattern(200_000);
    data[4096..8192].fill(0);
    data[65536..131072].fill(0);
    for fields in vectors("scan") {
        let digester = digester(fields[1]);
        let (_, digests, pages) = scan(&data, fields[2].parse().unwrap(), &digester, None);
        assert_eq!(hex(&digester.digest(&digests)), fields[3], "{fields:?}");
        assert_eq!(hex(&digester.digest(&pages)), fields[4], "{fields:?}");
    }
}

#[test]
fn a_block_is_a_tree_of_its_pages() {
    for kind in ["1", "2"] {
        let digester = digester(kind);
        for length in [1, 4095, 4096, 4097, 65535, 65536, 65537, 200_000] {
            for (data, zero) in [(pattern(length), 0), (vec![0; length], ZERO_FLAG)] {
                let (flags, digests, pages) = scan(&data, 65536, &digester, None);
                assert_eq!(flags, vec![zero; length.div_ceil(65536)]);
                for (index, block) in data.chunks(65536).enumerate() {
                    let leaves: Vec<u8> = block.chunks(PAGE_BYTES).flat_map(|page| digester.digest(page)).collect();
                    assert_eq!(digests[index * 16..][..16], digester.digest(&leaves));
                    let mut subs: Vec<u8> = leaves.chunks(16).flat_map(|leaf| leaf[12..].to_vec()).collect();
                    subs.resize(64, 0);
                    assert_eq!(pages[index * 64..][..64], subs);
                }
            }
        }
    }
}

#[test]
fn only_changed_blocks_lose_the_same_flag() {
    let digester = digester("1");
    let mut data = pattern(5 * 4096 + 100);
    let (_, old, _) = scan(&data, 4096, &digester, None);
    assert_eq!(scan(&data, 4096, &digester, Some(&old)).0, [SAME_FLAG; 6]);
    data[2 * 4096] ^= 1;
    data[4 * 4096..].fill(0);
    let flags = scan(&data, 4096, &digester, Some(&old)).0;
    assert_eq!(flags, [SAME_FLAG, SAME_FLAG, 0, SAME_FLAG, ZERO_FLAG, ZERO_FLAG]);
}

#[test]
fn sub_digests_are_optional() {
    let data = pattern(70_000);
    let mut digests = [0; 32];
    let digester = digester("2");
    Scan::new(&data, 65536, &mut digests, &mut [], None).unwrap().run(&digester);
    assert_eq!(digests.to_vec(), scan(&data, 65536, &digester, None).1);
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let error = |data: usize, block: usize, digests: usize, pages: usize, old: Option<usize>| {
        let old = old.map(|length| vec![0; length]);
        let (mut digests, mut pages) = (vec![0; digests], vec![0; pages]);
        Scan::new(&vec![1; data], block, &mut digests, &mut pages, old.as_deref()).err()
    };
    for given in [0, 1, 2048, 4097, 12288, 32 << 20] {
        assert_eq!(error(4096, given, 16, 4, None), Some(ScanError::BlockSize { given }));
    }
    assert_eq!(error(0, 4096, 0, 0, None), Some(ScanError::NoData));
    assert_eq!(error(4097, 4096, 16, 8, None), Some(ScanError::Digests { given: 16, blocks: 2 }));
    assert_eq!(error(4096, 8192, 16, 4, None), Some(ScanError::Pages { given: 4, blocks: 1, slots: 2 }));
    assert_eq!(error(4096, 4096, 16, 4, Some(17)), Some(ScanError::OldDigests { given: 17, blocks: 1 }));
    assert_eq!(error(4096, 8192, 16, 8, Some(16)), None);
    assert_eq!(DigestKind::from_number(3), None);
}

#[test]
fn the_zero_test_sees_every_byte() {
    assert!(is_zero(&[]));
    for length in [1, 255, 256, 257, 4096, 5000] {
        let mut data = vec![0; length];
        assert!(is_zero(&data));
        for at in 0..length {
            data[at] = 0x80;
            assert!(!is_zero(&data), "byte {at} of {length}");
            data[at] = 0;
        }
    }
}

#[test]
fn runs_are_as_long_as_they_can_be() {
    let old = [0; 8 * 4];
    let changed = |pages: &[usize]| {
        let mut new = old;
        pages.iter().for_each(|page| new[page * 4 + page % 4] = 1);
        page_runs(&old, &new)
    };
    assert_eq!(changed(&[]), Some(vec![]));
    assert_eq!(changed(&[0]), Some(vec![(0, 1)]));
    assert_eq!(changed(&[7]), Some(vec![(7, 1)]));
    assert_eq!(changed(&[0, 1, 2, 4, 6, 7]), Some(vec![(0, 3), (4, 1), (6, 2)]));
    assert_eq!(changed(&[0, 1, 2, 3, 4, 5, 6, 7]), Some(vec![(0, 8)]));
    assert_eq!(page_runs(&old, &old[4..]), None);
    assert_eq!(page_runs(&old[1..], &old[1..]), None);
}

/// Sweep `new` with the digests of `old`, reading at most `most` bytes a call, with room for `patches`.
fn sweep(old: &[u8], new: &[u8], block: usize, at_once: usize, most: usize, patches: usize) -> (Swept, Vec<u8>) {
    let digester = digester("2");
    let (_, old_digests, old_pages) = scan(old, block, &digester, None);
    let (mut digests, mut pages) = (vec![0; patches * 16], vec![0; patches * block / 4096 * 4]);
    let (mut buffer, mut payload) = (vec![0; at_once * block], vec![0; 1 << 20]);
    let work =
        Sweep::new(old.len(), block, &mut buffer, &old_digests, &old_pages, &mut digests, &mut pages, &mut payload);
    let swept = work.unwrap().run(&digester, |offset, to| {
        let rest = new.get(offset..).unwrap_or_default();
        let count = rest.len().min(to.len()).min(most);
        to[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    });
    payload.truncate(swept.payload);
    (swept, payload)
}

#[test]
fn a_sweep_goes_on_over_what_is_the_same_and_what_changed_by_pages() {
    let old = pattern(300_000);
    for most in [1000, 4096, usize::MAX] {
        let (swept, payload) = sweep(&old, &old, 65536, 2, most, 4);
        assert_eq!((swept, payload), (Swept { done: 300_000, ..Swept::default() }, vec![]));
    }
    let mut new = old.clone();
    new[65536 + 4096] ^= 1;
    new[299_999] ^= 1;
    let (swept, payload) = sweep(&old, &new, 65536, 2, 5000, 4);
    let patches = vec![
        Patch { index: 1, runs: vec![(1, 1)] },
        Patch { index: 4, runs: vec![((299_999 - 4 * 65536) / 4096, 1)] },
    ];
    assert_eq!(swept, Swept { done: 300_000, patches, payload: payload.len() });
    let last = 299_999 / 4096 * 4096;
    assert_eq!(payload, [&new[65536 + 4096..65536 + 8192], &new[last..]].concat());
}

#[test]
fn a_sweep_ends_before_what_it_cannot_patch() {
    let old = pattern(4 * 65536);
    let mut rewritten = old.clone();
    rewritten[2 * 65536..3 * 65536].iter_mut().for_each(|byte| *byte ^= 1);
    let mut zeroed = old.clone();
    zeroed[2 * 65536..3 * 65536].fill(0);
    for new in [&rewritten, &zeroed, &old[..2 * 65536 + 7].to_vec()] {
        assert_eq!(sweep(&old, new, 65536, 1, usize::MAX, 4).0, Swept { done: 2 * 65536, ..Swept::default() });
    }
    let mut everywhere = old.clone();
    (0..4).for_each(|block| everywhere[block * 65536] ^= 1);
    assert_eq!(sweep(&old, &everywhere, 65536, 3, usize::MAX, 2).0.done, 2 * 65536);
}

#[test]
fn a_sweep_ends_where_reading_fails_but_not_where_it_is_interrupted() {
    let data = pattern(2 * 4096);
    let digester = digester("1");
    let (_, old, old_pages) = scan(&data, 4096, &digester, None);
    let mut buffer = [0; 4096];
    let work = Sweep::new(data.len(), 4096, &mut buffer, &old, &old_pages, &mut [], &mut [], &mut []).unwrap();
    let mut interrupted = false;
    let swept = work.run(&digester, |offset, to| {
        if offset > 0 {
            return Err(io::ErrorKind::Other.into());
        }
        if !std::mem::replace(&mut interrupted, true) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        to.copy_from_slice(&data[..4096]);
        Ok(to.len())
    });
    assert_eq!(swept, Swept { done: 4096, ..Swept::default() });
}
