//! Borrowing the memory of Python objects through the buffer protocol.
//!
//! The buffer protocol entered the stable ABI with Python 3.11, and PyO3 offers it from there on; we build for 3.10. There, too,
//! CPython exports these two functions, and `Py_buffer` has the layout that 3.11 froze
//! (<https://docs.python.org/3/c-api/buffer.html#buffer-structure>), so they are declared here.

use std::ffi::{c_char, c_int, c_void};
use std::marker::PhantomData;
use std::{ptr, slice};

use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::ffi::{Py_ssize_t, PyObject};
use pyo3::prelude::*;

/// Ask for contiguous bytes, whatever the items are.
const SIMPLE: c_int = 0;
const WRITABLE: c_int = 1;

#[repr(C)]
struct RawBuffer {
    buf: *mut c_void,
    obj: *mut PyObject,
    len: Py_ssize_t,
    itemsize: Py_ssize_t,
    readonly: c_int,
    ndim: c_int,
    format: *mut c_char,
    shape: *mut Py_ssize_t,
    strides: *mut Py_ssize_t,
    suboffsets: *mut Py_ssize_t,
    internal: *mut c_void,
}

#[cfg_attr(windows, link(name = "python3", kind = "raw-dylib"))]
unsafe extern "C" {
    fn PyObject_GetBuffer(object: *mut PyObject, view: *mut RawBuffer, flags: c_int) -> c_int;
    fn PyBuffer_Release(view: *mut RawBuffer);
}

/// An exported buffer; the exporter keeps the memory in place until this is dropped.
///
/// Holds raw pointers, so it is not `Send`, and cannot be moved to where the interpreter is not attached.
pub struct Buffer<'py> {
    // Boxed since an exporter may keep the address.
    raw: Box<RawBuffer>,
    _attached: PhantomData<Python<'py>>,
}

impl<'py> Buffer<'py> {
    pub fn readable(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        Self::get(object, SIMPLE)
    }

    pub fn writable(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        Self::get(object, WRITABLE)
    }

    fn get(object: &Bound<'py, PyAny>, flags: c_int) -> PyResult<Self> {
        let mut raw = Box::new(RawBuffer {
            buf: ptr::null_mut(),
            obj: ptr::null_mut(),
            len: 0,
            itemsize: 0,
            readonly: 0,
            ndim: 0,
            format: ptr::null_mut(),
            shape: ptr::null_mut(),
            strides: ptr::null_mut(),
            suboffsets: ptr::null_mut(),
            internal: ptr::null_mut(),
        });
        // SAFETY: the object is alive and the interpreter attached, as `Bound` proves; the view is ours, and after a
        // failure it is not released, since there is no `Buffer` then.
        if unsafe { PyObject_GetBuffer(object.as_ptr(), &raw mut *raw, flags) } == 0 {
            return Ok(Self { raw, _attached: PhantomData });
        }
        let error = PyErr::fetch(object.py());
        if error.is_instance_of::<PyBufferError>(object.py()) {
            return Err(PyValueError::new_err(error.value(object.py()).to_string()));
        }
        Err(error)
    }

    fn length(&self) -> usize {
        // Never negative where the view was filled.
        usize::try_from(self.raw.len).unwrap_or(0)
    }

    pub fn bytes(&self) -> &[u8] {
        if self.length() == 0 {
            return &[];
        }
        // SAFETY: the exporter filled the view with `len` contiguous bytes and keeps them until it is released. That no other
        // thread changes them meanwhile is the caller's duty, as written in the kernels' interface; a caller who breaks it gets
        // a wrong digest: bytes have no invalid values, and no length or address is ever computed from them.
        unsafe { slice::from_raw_parts(self.raw.buf.cast::<u8>(), self.length()) }
    }

    /// Empty unless it was asked for as writable.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        if self.length() == 0 || self.raw.readonly != 0 {
            return &mut [];
        }
        // SAFETY: as in `bytes`; the exporter said that these bytes may be written, and the bindings refuse buffers that
        // overlap before they ask for this.
        unsafe { slice::from_raw_parts_mut(self.raw.buf.cast::<u8>(), self.length()) }
    }

    /// Whether the two have memory in common.
    pub fn overlaps(&self, other: &Buffer<'_>) -> bool {
        let (start, other_start) = (self.raw.buf as usize, other.raw.buf as usize);
        start < other_start + other.length() && other_start < start + self.length()
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        // SAFETY: the view was filled by PyObject_GetBuffer and is released once, here; the interpreter is attached, since a
        // `Buffer` cannot leave the thread and lives no longer than `'py`.
        unsafe { PyBuffer_Release(&raw mut *self.raw) }
    }
}
