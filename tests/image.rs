//! A small file system in a file, mounted through a loop device, whose power can
//! be cut. Mounting it needs root.

#![allow(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The kind of a file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// As Debian installs by default.
    Ext4,
    /// As Red Hat installs by default. An image has at least 300 MiB.
    Xfs,
}

/// The loss of changes that were not synced, by a power cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// Names and contents are lost.
    Everything = 2,
    /// Contents that were not written back are lost; names stay.
    Contents = 1,
}

/// A mounted image. Dropping it unmounts and removes it.
pub struct Image {
    directory: tempfile::TempDir,
}

impl Image {
    /// Makes and mounts an image of this size; `None`, with the reason printed, where that cannot be done.
    pub fn new(kind: Kind, mebibytes: u64) -> Option<Image> {
        let directory = tempfile::tempdir().expect("a directory");
        let image = Image { directory };
        std::fs::create_dir(image.point()).expect("a directory");
        std::fs::File::create(image.file()).and_then(|file| file.set_len(mebibytes << 20)).expect("an image");
        let made = match kind {
            Kind::Ext4 => run("mkfs.ext4", &["-q", "-m", "0"], &[&image.file()]),
            Kind::Xfs => run("mkfs.xfs", &["-q"], &[&image.file()]),
        };
        match made.and_then(|()| image.mount()) {
            Ok(()) => Some(image),
            Err(why) => {
                println!("skipped: {why}");
                None
            }
        }
    }

    /// The mount point.
    pub fn point(&self) -> PathBuf {
        self.directory.path().join("mount")
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    /// Mounts it; the kernel then recovers it from a power cut.
    pub fn mount(&self) -> Result<(), String> {
        run("mount", &["-o", "loop"], &[&self.file(), &self.point()])
    }

    /// Unmounts it as soon as no process uses it.
    pub fn unmount(&self) -> Result<(), String> {
        let mut last = Ok(());
        for _ in 0..100 {
            last = run("umount", &[], &[&self.point()]);
            if last.is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        last
    }

    /// Opens its root, through which its power can be cut while processes run.
    pub fn switch(&self) -> Switch {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        Switch(rustix::fs::open(self.point(), flags, rustix::fs::Mode::empty()).expect("a mounted image"))
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // A lazy unmount takes effect when the last user has gone.
        for words in [&[][..], &[], &["-l"]] {
            if run("umount", words, &[&self.point()]).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// A mounted image that is held open.
pub struct Switch(OwnedFd);

impl Switch {
    /// Makes everything on the image durable.
    pub fn sync(&self) {
        rustix::fs::syncfs(&self.0).expect("a mounted image");
    }

    /// Cuts the power: every access fails from here on, and the next mount finds what was durable.
    pub fn cut(self, loss: Loss) {
        /// `EXT4_IOC_SHUTDOWN`, which is `XFS_IOC_GOINGDOWN`.
        const SHUTDOWN: rustix::ioctl::Opcode = 0x8004_587d;
        // SAFETY: This request reads one u32 and changes nothing in our memory.
        let cut = unsafe {
            let request = rustix::ioctl::Setter::<SHUTDOWN, u32>::new(loss as u32);
            rustix::ioctl::ioctl(&self.0, request)
        };
        cut.expect("the kernel shuts the file system down");
    }
}

/// Runs a program to its end; says why it did not succeed.
fn run(program: &str, words: &[&str], paths: &[&Path]) -> Result<(), String> {
    match Command::new(program).args(words).args(paths).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("{program}: {error}")),
    }
}
