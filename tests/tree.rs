//! Trees of files: how they are made, and what of them has to come across.

use crate::homes::{Chance, noise};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use spool::name::Digest;
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// How a tree is to be.
#[derive(Clone, Copy)]
pub struct Tree {
    /// Files in it; beside them there are links, and a directory without any.
    pub files: u64,
    /// The most that an ordinary one has, in bytes.
    pub small: u64,
    /// Each two-hundredth has so many instead.
    pub large: u64,
}

impl Tree {
    /// Makes it; says how many bytes the files have.
    pub fn make(&self, root: &Path) -> u64 {
        let (mut chance, mut bytes) = (Chance(self.files), 0);
        for number in 0..self.files {
            let directory = root.join(["plain", "with blanks", "ä'\"$(x)\\"][number as usize % 3]);
            let directory = directory.join((number / 500).to_string());
            fs::create_dir_all(&directory).expect("a directory");
            let size = if number % 200 == 100 { self.large } else { chance.below(self.small) };
            let path = directory.join(format!("file {number}"));
            fs::write(&path, noise(size as usize, number * 7919 + 1)).expect("a file");
            let mode = [0o644, 0o600, 0o755, 0o444][number as usize % 4];
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("its mode");
            set_modified(&path, 1_000_000_000 + number as i64);
            if number % 50 == 0 {
                for (name, target) in [("link", format!("file {number}")), ("lost", "nowhere".into())] {
                    let path = directory.join(format!("{name} {number}"));
                    symlink(target, &path).expect("a link");
                    set_modified(&path, 950_000_000);
                }
            }
            bytes += size;
        }
        fs::create_dir(root.join("empty")).expect("a directory");
        for entry in walkdir::WalkDir::new(root).contents_first(true).into_iter().flatten() {
            if entry.file_type().is_dir() {
                set_modified(entry.path(), 900_000_000);
            }
        }
        bytes
    }
}

fn set_modified(path: &Path, seconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: 123_456_789 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("its time");
}

/// Everything below a directory, itself included: kind, mode, time, and content or target.
pub fn listing(root: &Path) -> BTreeMap<PathBuf, String> {
    let walk = walkdir::WalkDir::new(root).into_iter().map(|entry| entry.expect("the tree can be read"));
    let lines = walk.map(|entry| {
        let path = entry.path();
        let metadata = fs::symlink_metadata(path).expect("it is there");
        let content = match metadata.file_type() {
            kind if kind.is_dir() => "directory".into(),
            kind if kind.is_symlink() => format!("link to {:?}", fs::read_link(path).expect("a link")),
            _ => Digest::of(&fs::read(path).expect("a file")).to_string(),
        };
        let (mode, seconds, nanos) = (metadata.mode(), metadata.mtime(), metadata.mtime_nsec());
        (path.strip_prefix(root).expect("below").into(), format!("{mode:o} {seconds}.{nanos:09} {content}"))
    });
    lines.collect()
}

/// What the listings of two directories do not have in common, as text; empty if they are the same.
pub fn difference(one: &Path, two: &Path) -> String {
    let listings = [one, two].map(listing);
    let mut text = String::new();
    for (here, there, name) in [(&listings[0], &listings[1], one), (&listings[1], &listings[0], two)] {
        for (path, line) in here.iter().filter(|(path, line)| there.get(*path) != Some(line)) {
            text += &format!("{}: {path:?} {line}\n", name.display());
        }
    }
    text
}

#[test]
fn every_kind_of_difference_is_seen() {
    let directory = tempfile::tempdir().expect("a directory");
    let (one, two) = (directory.path().join("one"), directory.path().join("two"));
    let tree = Tree { files: 60, small: 100, large: 200 };
    tree.make(&one);
    let file = "plain/0/file 0";
    let spoil: [(&str, &dyn Fn()); 8] = [
        ("nothing", &|| ()),
        ("content", &|| {
            let mut bytes = fs::read(two.join(file)).unwrap();
            bytes[0] ^= 1;
            fs::write(two.join(file), bytes).unwrap();
            set_modified(&two.join(file), 1_000_000_000);
        }),
        ("mode", &|| fs::set_permissions(two.join(file), Permissions::from_mode(0o600)).unwrap()),
        ("time", &|| set_modified(&two.join(file), 1_000_000_001)),
        ("link", &|| {
            fs::remove_file(two.join("plain/0/link 0")).unwrap();
            symlink("elsewhere", two.join("plain/0/link 0")).unwrap();
        }),
        ("a file less", &|| fs::remove_file(two.join(file)).unwrap()),
        ("a file more", &|| fs::write(two.join("more"), "").unwrap()),
        ("a directory's time", &|| set_modified(&two.join("empty"), 1)),
    ];
    for (what, spoil) in spoil {
        let _ = fs::remove_dir_all(&two);
        let copied = std::process::Command::new("cp").arg("-a").args([&one, &two]).status();
        assert!(copied.expect("cp").success());
        spoil();
        assert_eq!(difference(&one, &two).is_empty(), what == "nothing", "{what}: {}", difference(&one, &two));
    }
}
