//! The verbs on a real disk.

use super::*;

fn disk() -> (tempfile::TempDir, Disk) {
    let directory = tempfile::tempdir().unwrap();
    let disk = Disk::open(directory.path()).unwrap();
    (directory, disk)
}

#[test]
fn a_commit_never_replaces() {
    let (_directory, disk) = disk();
    disk.commit("a", b"first").unwrap();
    assert!(disk.commit("a", b"second").unwrap_err().is_taken());
    assert_eq!(disk.read("a", 10).unwrap(), b"first");
    assert_eq!(disk.list("").unwrap().len(), 1, "no temporary file is left");
}

/// A hint whose rename failed left its temporary file, one for each try.
#[test]
fn a_hint_that_cannot_be_placed_leaves_nothing() {
    let (_directory, disk) = disk();
    disk.make_dir("taken").unwrap();
    disk.make_dir("taken/by").unwrap();
    assert!(disk.hint("taken", b"a hint").is_err());
    assert_eq!(disk.list("").unwrap().len(), 1);
}

std::thread_local! {
    pub(super) static NO_THREADS: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Where the system refused a thread (EAGAIN), a sync of several files panicked.
#[test]
fn files_are_synced_without_threads_too() {
    let (_directory, disk) = disk();
    ["a", "b", "c"].iter().for_each(|name| disk.hint(name, b"1").unwrap());
    for no_threads in [false, true] {
        NO_THREADS.set(no_threads);
        disk.sync_all(&["a", "b", "c", ""]).unwrap();
        assert!(disk.sync_all(&["a", "b", "absent"]).unwrap_err().is_absent());
    }
}

#[test]
fn a_planted_link_or_fifo_is_not_opened() {
    let (directory, disk) = disk();
    std::fs::write(directory.path().join("real"), "x").unwrap();
    std::os::unix::fs::symlink("real", directory.path().join("link")).unwrap();
    std::fs::hard_link(directory.path().join("real"), directory.path().join("second")).unwrap();
    assert!(disk.read("link", 10).is_err());
    assert!(disk.read("real", 10).is_err());
    assert!(disk.read("../etc/passwd", 10).is_err());
    rustix::fs::mknodat(&*disk.root, "fifo", FileType::Fifo, FILE, 0).unwrap();
    assert!(disk.read("fifo", 10).is_err());
}

#[test]
fn a_directory_appears_whole_and_leaves_whole() {
    let (_directory, disk) = disk();
    disk.make_dir(".new").unwrap();
    disk.hint(".new/mark", b"1").unwrap();
    disk.commit_dir(".new", "real", &["mark"]).unwrap();
    disk.make_dir(".other").unwrap();
    assert!(disk.commit_dir(".other", "real", &[]).unwrap_err().is_taken());
    disk.remove("real").unwrap();
    assert!(!disk.exists("real"));
    disk.remove("real").unwrap();
}

#[test]
fn a_lock_keeps_others_out_and_not_ourselves_after_removal() {
    let (_directory, disk) = disk();
    disk.make_dir("d").unwrap();
    let held = disk.lock_dir("d", Duration::ZERO).unwrap();
    assert!(held.is_some());
    assert!(disk.lock_dir("d", Duration::from_millis(10)).unwrap().is_none());
    drop(held);
    assert!(disk.lock_dir("d", Duration::ZERO).unwrap().is_some());
    let file = disk.lock_file("d/plumb", Duration::ZERO).unwrap();
    assert!(file.is_some() && disk.is_locked("d/plumb").unwrap());
    drop(file);
    assert!(!disk.is_locked("d/plumb").unwrap() && !disk.is_locked("absent").unwrap());
}

/// A name that could not be looked at counted as replaced: the lock was tried
/// for ever, without a pause.
#[test]
fn a_lock_that_cannot_be_looked_at_is_an_error() {
    let (_directory, disk) = disk();
    disk.make_dir("d").unwrap();
    let lock = disk.lock_dir("d", Duration::ZERO).unwrap().unwrap();
    assert!(lock.is_at("d").unwrap());
    disk.make_dir("e").unwrap();
    assert!(!lock.is_at("e").unwrap());
    assert!(lock.is_at(&"x".repeat(300)).is_err());
    assert!(!lock.is_at("gone").unwrap());
}

/// A holder could not know that others see no lock any more.
#[test]
fn a_lock_knows_whether_its_name_was_lost_and_can_be_taken_anew() {
    let (directory, disk) = disk();
    let at = |name: &str| directory.path().join(name);
    let ways: [fn(&std::path::Path); 6] = [
        |path| std::fs::remove_file(path).unwrap(),
        |path| std::fs::rename(path, path.with_extension("away")).unwrap(),
        |path| drop(std::fs::remove_file(path).and_then(|()| std::fs::write(path, b""))),
        |path| drop(std::fs::remove_file(path).and_then(|()| std::fs::create_dir(path))),
        |path| std::fs::hard_link(path, path.with_extension("second")).unwrap(),
        |path| std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0)).unwrap(),
    ];
    for (n, lose) in ways.into_iter().enumerate() {
        let name = format!("lock{n}");
        let held = disk.lock_file(&name, Duration::ZERO).unwrap().unwrap();
        assert!(held.is_at(&name).unwrap() && disk.is_locked(&name).unwrap());
        lose(&at(&name));
        assert!(!held.is_at(&name).unwrap(), "way {n} is noticed");
        assert!(!disk.is_locked(&name).unwrap(), "way {n}: others see no lock");
        let anew = disk.lock_file(&name, Duration::ZERO).unwrap().expect("it is free");
        assert!(anew.is_at(&name).unwrap() && disk.is_locked(&name).unwrap(), "way {n} is healed");
        assert!(!held.is_at(&name).unwrap());
    }
}

/// A FIFO in the place of a lock blocked whoever asked, for ever.
#[test]
fn what_can_be_no_lock_of_ours_counts_as_none_and_makes_way() {
    let (directory, disk) = disk();
    let at = |name: &str| directory.path().join(name);
    rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), FileType::Fifo, FILE, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    std::fs::write(at("file"), b"").unwrap();
    std::os::unix::fs::symlink("file", at("link")).unwrap();
    std::os::unix::fs::symlink("nothing", at("dangling")).unwrap();
    std::fs::create_dir_all(at("directory/with something")).unwrap();
    for name in ["fifo", "socket", "link", "dangling", "directory"] {
        assert!(!disk.is_locked(name).unwrap(), "{name}");
        let lock = disk.lock_file(name, Duration::ZERO).unwrap().expect(name);
        assert!(lock.is_at(name).unwrap() && disk.is_locked(name).unwrap(), "{name}");
    }
    let hidden = disk.list("").unwrap().into_iter().filter(|entry| is_hidden(&entry.name)).count();
    assert_eq!(hidden, 5, "each is kept under a hidden name");
}

#[test]
fn a_directory_that_is_held_open_is_locked_by_no_name() {
    let (directory, disk) = disk();
    assert!(!disk.is_locked("").unwrap());
    let held = disk.lock_dir("", Duration::ZERO).unwrap().unwrap();
    let (here, away) = (directory.path().to_path_buf(), directory.path().with_extension("away"));
    std::fs::rename(&here, &away).unwrap();
    let moved = Disk::open(&away).unwrap();
    assert!(held.is_at("").unwrap() && moved.is_locked("").unwrap());
    assert!(moved.lock_dir("", Duration::ZERO).unwrap().is_none());
    std::fs::rename(&away, &here).unwrap();
}

#[test]
fn a_log_grows_and_is_cut_back() {
    let (_directory, disk) = disk();
    let mut log = disk.create_log("0").unwrap();
    log.append(b"hello ").unwrap();
    log.append(b"world").unwrap();
    log.truncate(6).unwrap();
    log.append(b"there").unwrap();
    let mut bytes = [0; 32];
    assert_eq!(log.read_at(&mut bytes, 0).unwrap(), 11);
    assert_eq!(&bytes[..11], b"hello there");
}
