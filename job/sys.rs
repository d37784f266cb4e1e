//! The system calls that have no safe wrapper: fork, signal dispositions,
//! closing descriptors that nobody here knows, and the end of a process.
//!
//! All but the last is for processes with one thread: a keeper at its start,
//! and the guard and the command below it.
#![allow(unsafe_code)]

use nix::libc;
use rustix::process::Pid;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// Makes a copy of this process: `None` in the copy, its pid in the original.
/// Refused when there is more than one thread: the copy could wait for a lock
/// that nobody holds.
pub fn fork() -> io::Result<Option<Pid>> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(io::Error::other(format!("a process with {threads} threads cannot be copied")));
    }
    // SAFETY: there is one thread, so the copy may do all that the original may.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Child => Ok(None),
        nix::unistd::ForkResult::Parent { child } => Ok(Pid::from_raw(child.as_raw())),
    }
}

/// Runs a whole program, and ends the process at once with the status that it gives, or with 101
/// after a panic. Every thread stops where it is; each has flushed what it wrote.
pub fn run_and_exit(program: impl FnOnce() -> u8) -> ! {
    let status = std::panic::catch_unwind(std::panic::AssertUnwindSafe(program));
    exit_now(status.map_or(101, i32::from))
}

/// Ends this process at once. No buffer is flushed and no exit handler of a library runs: exit(3)
/// has OpenSSL take away what other threads still compute with, which then panic.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: it does not return, and touches nothing.
    unsafe { libc::_exit(status) }
}

/// Gives every signal its default effect and lets all of them through, as a command expects.
pub fn default_signals() {
    // SIG_DFL, no flags, no mask: zero in every field, on every machine. Past libc, which
    // keeps two signals for itself that a starter may have left ignored.
    let default = [0u64; 8];
    let (none, mask_size) = (std::ptr::null::<u64>(), 8usize);
    for number in 1..=64 {
        // SAFETY: no handler is set, only the default; KILL and STOP are refused, which is fine.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, number, default.as_ptr(), none, mask_size) };
    }
    let _ = nix::sys::signal::SigSet::empty().thread_set_mask();
}

/// Ignores a signal.
pub fn ignore(signal: nix::sys::signal::Signal) {
    // SAFETY: no handler is set.
    let _ = unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigIgn) };
}

/// Closes every descriptor above standard error. For the start of a process,
/// when all of them were left to it by whoever started it.
pub fn close_inherited() {
    close_range(3, u32::MAX);
}

/// Closes every descriptor but this one, which is handed back.
pub fn close_all_but(kept: OwnedFd) -> OwnedFd {
    let number = kept.as_raw_fd() as u32;
    if number > 0 {
        close_range(0, number - 1);
    }
    close_range(number + 1, u32::MAX);
    kept
}

fn close_range(first: u32, last: u32) {
    // SAFETY: the callers' processes never touch these descriptors again: one has opened
    // none yet, the other does nothing more than wait.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if closed < 0 {
        for number in first..=last.min(1 << 16) {
            // SAFETY: as above; kernels before 5.9 have no close_range.
            unsafe { libc::close(number as i32) };
        }
    }
}
