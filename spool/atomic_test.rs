//! The verbs on a real disk.

use super::*;
use crate::fs::ODD;
use std::os::unix::fs::PermissionsExt;

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
    assert!(disk.hint("absent/hint", b"a hint").is_err());
    assert!(disk.hint(&format!("{}/hint", "x".repeat(300)), b"a hint").is_err());
    assert_eq!(disk.list("").unwrap(), []);
}

/// A directory named `clock` stopped the whole home.
#[test]
fn a_directory_in_the_place_of_a_hint_is_moved_aside() {
    let (_directory, disk) = disk();
    disk.make_dir("clock").unwrap();
    disk.make_dir("clock/full").unwrap();
    disk.hint("clock", b"a hint").unwrap();
    assert_eq!(disk.read("clock", 10).unwrap(), b"a hint");
    let odd = disk.list(crate::fs::ODD).unwrap();
    assert!(odd.len() == 1 && odd[0].is_dir && odd[0].name.starts_with("clock."), "{odd:?}");
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

/// A FIFO in the place of a log's directory refused its sync, so the home was `sick` and took no new work.
#[test]
fn a_thing_that_cannot_be_synced_is_damage_and_leaves_the_spool_sound() {
    let (_directory, disk) = disk();
    disk.hint("file", b"1").unwrap();
    rustix::fs::mknodat(&*disk.root, "fifo", rustix::fs::FileType::Fifo, FILE, 0).unwrap();
    rustix::fs::symlinkat("file", &*disk.root, "link").unwrap();
    for odd in ["fifo", "link"] {
        let error = disk.sync_all(&["file", odd]).unwrap_err();
        assert!(error.is_loss() && !error.is_unsynced(), "{odd}: {error}");
    }
    assert!(!disk.exists(SICK));
}

/// Each of these froze its job for good, and a FIFO blocked whoever looked for a lock.
#[test]
fn a_name_that_leads_to_no_file_of_ours_is_damage_and_blocks_nobody() {
    let (directory, disk) = disk();
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("real"), "x").unwrap();
    std::os::unix::fs::symlink("real", at("link")).unwrap();
    disk.make_dir("directory").unwrap();
    rustix::fs::mknodat(&*disk.root, "fifo", rustix::fs::FileType::Fifo, FILE, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    for name in ["link", "directory", "fifo", "socket"] {
        assert!(matches!(disk.read(name, 10), Err(Error::Damaged { .. })), "{name} is read");
        assert!(matches!(disk.open_log(name), Err(Error::Damaged { .. })), "{name} is opened");
        assert!(!disk.is_locked(name).unwrap(), "{name} is locked");
        assert_eq!(disk.list(name).unwrap(), [], "{name} is listed");
        assert!(disk.lock_file(name, Duration::ZERO).unwrap().is_some(), "{name} cannot be replaced by a lock");
    }
    assert!(disk.read("../etc/passwd", 10).is_err());
}

/// A copy of the spool with `cp -al` gives every file a second link, and froze every job.
#[test]
fn a_second_link_takes_nothing_from_a_file() {
    let (directory, disk) = disk();
    disk.hint("real", b"x").unwrap();
    std::fs::hard_link(directory.path().join("real"), directory.path().join("second")).unwrap();
    assert_eq!(disk.read("real", 10).unwrap(), b"x");
}

#[test]
fn whatever_stands_at_the_name_of_a_directory_is_moved_aside() {
    let (directory, disk) = disk();
    crate::layout::make_dirs(&disk, "jobs/a/out").unwrap();
    std::os::unix::fs::symlink("/nowhere", directory.path().join("jobs/a/in")).unwrap();
    disk.hint("jobs/b", b"a file").unwrap();
    for path in ["jobs/a/in/0", "jobs/b/out/1"] {
        crate::layout::make_dirs(&disk, path).unwrap();
        assert!(disk.is_dir(path).unwrap());
    }
    assert_eq!(disk.list(crate::fs::ODD).unwrap().len(), 2);
}

/// A directory with such a name in it could never be removed.
#[test]
fn a_directory_goes_with_names_that_are_no_text() {
    use std::os::unix::ffi::OsStrExt;
    let (directory, disk) = disk();
    crate::layout::make_dirs(&disk, "jobs/a/out").unwrap();
    std::fs::write(directory.path().join("jobs/a/out").join(std::ffi::OsStr::from_bytes(b"\xff\xfe")), "").unwrap();
    disk.remove("jobs/a").unwrap();
    assert_eq!(disk.list("jobs").unwrap(), []);
}

/// Runs this same test once more, in a process of its own that may set its own limits.
fn in_a_process_of_its_own(name: &str) -> bool {
    const INNER: &str = "NETPLUMB_TEST_INNER";
    if std::env::var_os(INNER).is_some() {
        return true;
    }
    let test = format!("atomic::tests::{name}");
    let run = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &test, "--test-threads", "1"])
        .env(INNER, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && said.contains("1 passed"), "{said}");
    false
}

/// A file that could not be opened to be synced counted as lost: a sound segment was removed.
#[test]
fn a_missing_descriptor_is_a_shortage_and_no_failed_sync() {
    if !in_a_process_of_its_own("a_missing_descriptor_is_a_shortage_and_no_failed_sync") {
        return;
    }
    let (_directory, disk) = disk();
    let names: Vec<String> = (0..8).map(|n| n.to_string()).collect();
    names.iter().for_each(|name| disk.hint(name, b"1").unwrap());
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let limit = rustix::process::Rlimit { current: Some(64), maximum: Some(64) };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let mut taken: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    taken.pop();
    disk.sync_all(&names).unwrap();
    taken.push(File::open("/dev/null").unwrap());
    let errors = [disk.sync_all(&names), disk.sync_dir(""), disk.hint("x", b"1"), disk.read("0", 9).map(drop)];
    drop(taken);
    for error in errors.map(Result::unwrap_err) {
        assert!(error.is_shortage() && !error.is_unsynced() && !error.is_loss(), "{error}");
    }
    assert!(!disk.exists(SICK));
}

#[test]
fn a_log_that_somebody_cut_or_removed_is_not_written_on() {
    let (directory, disk) = disk();
    let change: [fn(&Path); 3] = [
        |path| File::options().write(true).open(path).unwrap().set_len(2).unwrap(),
        |path| std::fs::write(path, "more than was written").unwrap(),
        |path| std::fs::remove_file(path).unwrap(),
    ];
    for (n, change) in change.iter().enumerate() {
        let name = n.to_string();
        let mut log = disk.create_log(&name).unwrap();
        log.append(b"hello ").unwrap();
        change(&directory.path().join(&name));
        assert!(matches!(log.append(b"world"), Err(Error::Damaged { .. })), "change {n}");
    }
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
    let ways: [fn(&std::path::Path); 4] = [
        |path| std::fs::remove_file(path).unwrap(),
        |path| std::fs::rename(path, path.with_extension("away")).unwrap(),
        |path| drop(std::fs::remove_file(path).and_then(|()| std::fs::write(path, b""))),
        |path| drop(std::fs::remove_file(path).and_then(|()| std::fs::create_dir(path))),
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

/// `cp -al` gives every file a second name, and `chmod` may go wrong.
#[test]
fn a_lock_with_a_second_name_or_another_mode_is_held_as_before() {
    let (directory, disk) = disk();
    let at = |name: &str| directory.path().join(name);
    let held = disk.lock_file("lock", Duration::ZERO).unwrap().unwrap();
    std::fs::hard_link(at("lock"), at("second")).unwrap();
    std::fs::set_permissions(at("lock"), PermissionsExt::from_mode(0)).unwrap();
    assert!(held.is_at("lock").unwrap() && disk.is_locked("lock").unwrap());
    assert!(disk.lock_file("lock", Duration::ZERO).unwrap().is_none());
}

/// Takes root's leave to ignore modes from this thread; others have none.
fn heed_modes() {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    let mut sets = capabilities(None).unwrap();
    sets.effective -= CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
    set_capabilities(None, sets).unwrap();
}

/// With mode 0 on `jobs` no file in it could be read, and no job be made, until somebody listed it.
#[test]
fn a_mode_that_shuts_ourselves_out_is_mended_by_every_verb() {
    type Verb = fn(&Disk) -> bool;
    let verbs: [(&str, Verb); 16] = [
        ("commit", |disk| disk.commit("jobs/one/new", b"new").is_ok()),
        ("hint", |disk| disk.hint("jobs/one/file", b"new").is_ok()),
        ("make", |disk| disk.make_dir("jobs/two").is_ok()),
        ("make below", |disk| disk.make_dir("jobs/one/two").is_ok()),
        ("commit a directory", |disk| disk.commit_dir("jobs/one", "queue/one", &["file"]).is_ok()),
        ("rename", |disk| disk.rename("queue/full", "jobs/full").is_ok()),
        ("remove", |disk| disk.remove("jobs/one/file").is_ok()),
        ("remove a directory", |disk| disk.remove("jobs").is_ok() && !disk.exists("jobs")),
        ("read", |disk| disk.read("jobs/one/file", 10).is_ok()),
        ("look", |disk| disk.is_there("jobs/one/file").is_ok_and(|there| there)),
        ("list", |disk| disk.list("jobs/one").is_ok_and(|entries| entries.len() == 1)),
        ("make a log", |disk| disk.create_log("jobs/one/0").is_ok()),
        ("open a log", |disk| disk.open_log("jobs/one/file").is_ok()),
        ("lock", |disk| disk.lock_file("jobs/one/lock", Duration::ZERO).is_ok_and(|lock| lock.is_some())),
        ("look at a lock", |disk| disk.is_locked("jobs/one/file").is_ok()),
        ("touch", |disk| disk.touch("jobs/one/file").is_ok()),
    ];
    heed_modes();
    for (name, verb) in verbs {
        for shut in [&["jobs"][..], &["jobs/one"], &["jobs/one", "jobs", "queue"]] {
            for mode in [0, 0o100, 0o200, 0o400, 0o500, 0o600] {
                let (directory, disk) = disk();
                ["jobs", "jobs/one", "queue", "queue/full"].iter().for_each(|name| disk.make_dir(name).unwrap());
                disk.hint("jobs/one/file", b"old").unwrap();
                let path = |name: &&str| directory.path().join(name);
                let shut_it = |name| std::fs::set_permissions(path(name), PermissionsExt::from_mode(mode)).unwrap();
                shut.iter().for_each(shut_it);
                assert!(verb(&disk), "{name} with {shut:?} of mode {mode:o}");
            }
        }
    }
}

/// A FIFO in the place of a lock blocked whoever asked, for ever.
#[test]
fn what_can_be_no_lock_of_ours_counts_as_none_and_makes_way() {
    let (directory, disk) = disk();
    let at = |name: &str| directory.path().join(name);
    rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), rustix::fs::FileType::Fifo, FILE, 0).unwrap();
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
    assert_eq!(disk.list(ODD).unwrap().len(), 5, "each is kept");
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
