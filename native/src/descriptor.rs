//! Reading from a descriptor that Python owns.

use std::io;

/// A descriptor that stays its caller's, who keeps it open meanwhile.
pub struct Descriptor(i32);

impl Descriptor {
    /// `None` where it cannot be one.
    pub fn new(number: i32) -> Option<Self> {
        (number >= 0).then_some(Self(number))
    }

    /// As pread(2).
    #[cfg(unix)]
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        use std::fs::File;
        use std::mem::ManuallyDrop;
        use std::os::fd::FromRawFd;
        use std::os::unix::fs::FileExt;

        // SAFETY: the number is not negative, which is all that the type demands of it; and since the file is never dropped,
        // nothing is closed here. That it is open is the caller's duty, as written in the kernels' interface: a number that is
        // not open gives EBADF, one that was reused gives another file's bytes, never a breach of memory.
        let file = ManuallyDrop::new(unsafe { File::from_raw_fd(self.0) });
        file.read_at(buffer, offset)
    }

    /// Windows has no such call; sources there offer no descriptor.
    #[cfg(not(unix))]
    pub fn read_at(&self, _buffer: &mut [u8], _offset: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
