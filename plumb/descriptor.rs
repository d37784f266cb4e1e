//! Descriptors that our caller left open for us, and nothing else that is unsafe.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// A copy of our own of descriptor `number`, which our caller opened. To be
/// asked before anything else is opened here: later the number may be ours.
pub fn inherited(number: i32) -> io::Result<File> {
    // SAFETY: fcntl(2) takes any number and touches no memory. No safe wrapper
    // takes a number of which it is not known whether it is open.
    let copy = unsafe { nix::libc::fcntl(number, nix::libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the system has just made this descriptor for us alone.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(copy) }))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;

    #[test]
    fn an_open_descriptor_is_copied_and_a_closed_one_refused() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut copy = super::inherited(writer.as_raw_fd()).unwrap();
        drop(writer);
        copy.write_all(b"x").unwrap();
        drop(copy);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
        assert!(super::inherited(900_000).is_err());
    }
}
