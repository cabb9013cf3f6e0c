//! The extension module `blocksync._native`: the kernels, spoken to from Python.
//!
//! Only arguments are turned over here. What the functions mean stands in `blocksync/kernels/digest.py`.

mod buffer;
mod descriptor;

use blocksync_kernels::{Digest, DigestKind, Digester, INTERFACE, KEY_BYTES, Scan, Sweep};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::buffer::Buffer;

/// Below this the work is done sooner than another thread could take over.
const DETACH_BYTES: usize = 16 << 10;

fn digester(kind: i64, key: &Bound<'_, PyAny>) -> PyResult<Digester> {
    let key = Buffer::readable(key)?;
    let key: &[u8; KEY_BYTES] = key.bytes().try_into().map_err(|_| {
        PyValueError::new_err(format!("the key has {} bytes instead of {KEY_BYTES}", key.bytes().len()))
    })?;
    let kind = DigestKind::from_number(kind)
        .ok_or_else(|| PyValueError::new_err(format!("{kind} is no kind of digest")))?;
    Ok(Digester::new(kind, key))
}

/// Run without the interpreter where that pays.
fn detached<T: Send>(py: Python<'_>, bytes: usize, work: impl FnOnce() -> T + Send) -> T {
    if bytes < DETACH_BYTES { work() } else { py.detach(work) }
}

#[pyfunction]
fn describe() -> String {
    let (xxh3, blake3) = blocksync_kernels::instructions();
    format!("native (xxh3 {xxh3}, blake3 {blake3})")
}

#[pyfunction]
#[pyo3(signature = (data, block_bytes, kind, key, digests, pages, old_digests = None))]
#[allow(clippy::too_many_arguments)] // the interface's
fn scan<'py>(
    py: Python<'py>,
    data: &Bound<'py, PyAny>,
    block_bytes: i64,
    kind: i64,
    key: &Bound<'py, PyAny>,
    digests: &Bound<'py, PyAny>,
    pages: &Bound<'py, PyAny>,
    old_digests: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyBytes>> {
    let digester = digester(kind, key)?;
    let data = Buffer::readable(data)?;
    let mut digests = Buffer::writable(digests)?;
    let mut pages = Buffer::writable(pages)?;
    let old = old_digests.map(Buffer::readable).transpose()?;
    if data.overlaps(&digests) || data.overlaps(&pages) || digests.overlaps(&pages) {
        return Err(PyValueError::new_err("data, digests and pages must not overlap"));
    }
    // Old digests may be the very buffer that the new ones are written to, so they are copied: 16 bytes a block.
    let old = old.map(|old| old.bytes().to_vec());
    // A size that does not fit is no power of two in range either.
    let block_bytes = usize::try_from(block_bytes).unwrap_or(0);
    let work = Scan::new(data.bytes(), block_bytes, digests.bytes_mut(), pages.bytes_mut(), old.as_deref())
        .map_err(|error| PyValueError::new_err(error.to_string()))?;
    let flags = detached(py, data.bytes().len(), || work.run(&digester));
    Ok(PyBytes::new(py, &flags))
}

/// What [`sweep`] returns: bytes done, patches as (block, runs of pages), and bytes of the payload used.
type SweptParts = (usize, Vec<(usize, Vec<(usize, usize)>)>, usize);

#[pyfunction]
#[allow(clippy::too_many_arguments)] // the interface's
fn sweep<'py>(
    py: Python<'py>,
    descriptor: i32,
    offset: u64,
    length: usize,
    buffer: &Bound<'py, PyAny>,
    block_bytes: i64,
    kind: i64,
    key: &Bound<'py, PyAny>,
    old_digests: &Bound<'py, PyAny>,
    old_pages: &Bound<'py, PyAny>,
    digests: &Bound<'py, PyAny>,
    pages: &Bound<'py, PyAny>,
    payload: &Bound<'py, PyAny>,
) -> PyResult<SweptParts> {
    let digester = digester(kind, key)?;
    let file = descriptor::Descriptor::new(descriptor)
        .ok_or_else(|| PyValueError::new_err(format!("{descriptor} is no descriptor")))?;
    let mut outputs = [buffer, digests, pages, payload].map(Buffer::writable);
    let [Ok(buffer), Ok(digests), Ok(pages), Ok(payload)] = &mut outputs else {
        return Err(outputs
            .into_iter()
            .find_map(Result::err)
            .unwrap_or_else(|| PyValueError::new_err("no buffers")));
    };
    let apart = !buffer.overlaps(digests) && !buffer.overlaps(pages) && !buffer.overlaps(payload);
    if !apart || digests.overlaps(pages) || digests.overlaps(payload) || pages.overlaps(payload) {
        return Err(PyValueError::new_err("buffer, digests, pages and payload must not overlap"));
    }
    // Copied, since other threads may be claiming other blocks in the same memory: 80 bytes a block.
    let old_digests = Buffer::readable(old_digests)?.bytes().to_vec();
    let old_pages = Buffer::readable(old_pages)?.bytes().to_vec();
    let work = Sweep::new(
        length,
        usize::try_from(block_bytes).unwrap_or(0),
        buffer.bytes_mut(),
        &old_digests,
        &old_pages,
        digests.bytes_mut(),
        pages.bytes_mut(),
        payload.bytes_mut(),
    )
    .map_err(|error| PyValueError::new_err(error.to_string()))?;
    let swept = py.detach(|| {
        work.run(&digester, |at, to| {
            file.read_at(to, u64::try_from(at).map_or(u64::MAX, |at| offset.saturating_add(at)))
        })
    });
    let patches = swept.patches.into_iter().map(|patch| (patch.index, patch.runs)).collect();
    Ok((swept.done, patches, swept.payload))
}

#[pyfunction]
fn fold<'py>(
    py: Python<'py>,
    kind: i64,
    key: &Bound<'py, PyAny>,
    data: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyBytes>> {
    let digester = digester(kind, key)?;
    let data = Buffer::readable(data)?;
    let bytes = data.bytes();
    let digest: Digest = detached(py, bytes.len(), || digester.digest(bytes));
    Ok(PyBytes::new(py, &digest))
}

#[pyfunction]
fn is_zero(py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<bool> {
    let data = Buffer::readable(data)?;
    let bytes = data.bytes();
    Ok(detached(py, bytes.len(), || blocksync_kernels::is_zero(bytes)))
}

#[pyfunction]
fn page_runs(old_pages: &Bound<'_, PyAny>, new_pages: &Bound<'_, PyAny>) -> PyResult<Vec<(usize, usize)>> {
    let (old, new) = (Buffer::readable(old_pages)?, Buffer::readable(new_pages)?);
    blocksync_kernels::page_runs(old.bytes(), new.bytes()).ok_or_else(|| {
        let (old, new) = (old.bytes().len(), new.bytes().len());
        PyValueError::new_err(format!("sub-digests of {old} and {new} bytes cannot be compared"))
    })
}

#[pymodule(gil_used = true)]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("INTERFACE", INTERFACE)?;
    module.add_function(wrap_pyfunction!(describe, module)?)?;
    module.add_function(wrap_pyfunction!(scan, module)?)?;
    module.add_function(wrap_pyfunction!(sweep, module)?)?;
    module.add_function(wrap_pyfunction!(fold, module)?)?;
    module.add_function(wrap_pyfunction!(is_zero, module)?)?;
    module.add_function(wrap_pyfunction!(page_runs, module)?)?;
    Ok(())
}
