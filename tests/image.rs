//! A small file system in a file, mounted through a loop device. Mounting it needs
//! root.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The kind of a file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// As Debian installs by default.
    Ext4,
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

    fn mount(&self) -> Result<(), String> {
        run("mount", &["-o", "loop"], &[&self.file(), &self.point()])
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

/// Runs a program to its end; says why it did not succeed.
fn run(program: &str, words: &[&str], paths: &[&Path]) -> Result<(), String> {
    match Command::new(program).args(words).args(paths).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("{program}: {error}")),
    }
}
