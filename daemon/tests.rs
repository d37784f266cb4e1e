//! The daemon with real processes: a small shell script plays service, loop and
//! keeper, and writes down what it is told.

use super::*;
use crate::patience::PATIENCE;
use spool::atomic::Disk;
use spool::fs::Fs;
use spool::home::Home;
use spool::layout::{MESSAGE, Owner, PEER, Place, running};
use spool::name::{MsgId, Role, Username};
use spool::phase::Mark;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Writes into its own directory, and says every second that it lives; answers each order
/// with a report whose turn the file `turn` names.
const SCRIPT: &str = r#"#!/bin/bash
here=$(dirname "$0")
echo $$ >>"$here/$1.pids"
case $1 in
service) cat "$here/says" 2>/dev/null; until timeout 1 cat >/dev/null; do echo alive; done ;;
loop)
    turn=rest
    [ ! -e "$here/turn" ] || read -r turn <"$here/turn"
    while read -t 1 -r place id || [ $? -gt 128 ]; do
        [ -n "$place" ] || { echo alive; continue; }
        echo "$place $id" >&3
        case $place in queue|rqueue|jobs)
            echo "{\"place\":\"$place\",\"msgid\":\"$id\",\"turn\":\"$turn\",\"ceiling\":\"background\"}" ;;
        esac
    done 3>>"$here/orders" ;;
keeper)
    echo "$2" >>"$here/keepers"
    [ ! -e "$here/fail" ] || exit 1
    exec 9<>"$here/home/spool/running/$2"
    flock -n 9 || exit 1
    while [ ! -e "$here/go.$2" ]; do sleep 0.02; done
    : >"$here/home/spool/jobs/$2/over" ;;
esac
"#;

#[path = "measure_test.rs"]
mod measures;

struct World {
    directory: tempfile::TempDir,
    home: Home,
    disk: Disk,
    running: Option<(Remote, JoinHandle<Result<(), Error>>)>,
    inotify: bool,
}

impl World {
    fn new() -> World {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("home");
        let home = Home { config: root.join("config"), spool: root.join("spool") };
        for path in ["config/certs", "config/private", "config/peers/nas", "spool"] {
            std::fs::create_dir_all(root.join(path)).unwrap();
        }
        for path in [&home.config, &home.config.join("private"), &home.spool] {
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o700)).unwrap();
        }
        std::fs::write(home.config.join("certs/username"), Username::of_ca(b"us").as_str()).unwrap();
        let nas = home.config.join("peers/nas");
        std::fs::write(nas.join("username"), peer().as_str()).unwrap();
        std::fs::write(nas.join("request.key"), "00".repeat(32)).unwrap();
        std::fs::write(nas.join("peer.toml"), "[quota]\njobs = 2\n").unwrap();
        let mut script = std::fs::OpenOptions::new();
        let script = script.write(true).create_new(true).mode(0o700).open(directory.path().join("program"));
        std::io::Write::write_all(&mut script.unwrap(), SCRIPT.as_bytes()).unwrap();
        home.name_spool(&home.make_spool().unwrap()).unwrap();
        let disk = Disk::open(&home.spool).unwrap();
        World { directory, home, disk, running: None, inotify: true }
    }

    fn supervisor(&self) -> (Supervisor, Remote) {
        let (mut supervisor, remote) = Supervisor::new(self.path("program"), self.home.clone());
        supervisor.inotify = self.inotify;
        (supervisor, remote)
    }

    fn start(&mut self) {
        let (supervisor, remote) = self.supervisor();
        self.running = Some((remote, std::thread::spawn(|| supervisor.run())));
        let starts = |world: &World| (world.pids("service").len(), world.pids("loop").len());
        self.wait_for("hello", || self.orders().iter().any(|order| order.starts_with("hello")));
        self.wait_for("both children", || starts(self).0 > 0 && starts(self).1 > 0);
    }

    fn stop(&mut self) {
        if let Some((remote, thread)) = self.running.take() {
            remote.stop();
            thread.join().unwrap().unwrap();
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn lines(&self, name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.path(name)).unwrap_or_default();
        text.lines().map(|line| line.trim_end().to_string()).collect()
    }

    fn orders(&self) -> Vec<String> {
        self.lines("orders")
    }

    fn ordered(&self, place: Place, n: u8) -> usize {
        let order = format!("{} {}", place.word(), msgid(n));
        self.orders().iter().filter(|line| **line == order).count()
    }

    fn pids(&self, verb: &str) -> Vec<i32> {
        self.lines(&format!("{verb}.pids")).iter().filter_map(|line| line.parse().ok()).collect()
    }

    fn wait_for(&self, what: &str, is: impl Fn() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is() {
            assert!(Instant::now() < until, "{what}: not in {PATIENCE:?}; orders {:?}", self.orders());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Puts a message into a place, as whoever does it for real.
    fn put(&self, place: Place, n: u8, role: Role) {
        let temporary = spool::atomic::temporary(&place.dir(msgid(n)));
        self.disk.make_dir(&temporary).unwrap();
        let owner = Owner { born: n.into(), ..Owner::new(&self.disk, peer(), role, None).unwrap() };
        owner.facts().hint(&self.disk, &format!("{temporary}/{PEER}")).unwrap();
        if place == Place::Jobs && role == Role::Recipient {
            self.disk.hint(&format!("{temporary}/{MESSAGE}"), b"sealed").unwrap();
        }
        self.disk.commit_dir(&temporary, &place.dir(msgid(n)), &[PEER]).unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some((remote, thread)) = self.running.take() {
            remote.stop();
            let _ = thread.join();
        }
        // Keepers outlive the daemon; these end by themselves.
        (0..=u8::MAX).for_each(|n| drop(std::fs::write(self.path(&format!("go.{}", msgid(n))), "")));
        for pid in self.pids("keeper") {
            let until = Instant::now() + PATIENCE;
            while is_alive(pid) && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

fn msgid(n: u8) -> MsgId {
    MsgId([n; 20])
}

fn peer() -> Username {
    Username::of_ca(b"nas")
}

/// Does it run? (A zombie does not.)
fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn a_touch_becomes_an_order_and_hidden_names_do_not() {
    for inotify in [true, false] {
        let mut world = World::new();
        world.inotify = inotify;
        world.put(Place::Queue, 1, Role::Sender);
        world.start();
        world.wait_for("the first scan", || world.ordered(Place::Queue, 1) > 0);
        let before = world.ordered(Place::Queue, 1);
        spool::layout::touch(&world.disk, Place::Queue, msgid(1));
        world.wait_for("a touch", || world.ordered(Place::Queue, 1) > before);
        world.disk.make_dir("rqueue/.hidden").unwrap();
        world.put(Place::Rqueue, 2, Role::Recipient);
        world.wait_for("a new one", || world.ordered(Place::Rqueue, 2) > 0);
        assert!(!world.orders().iter().any(|order| order.contains('.')));
        world.stop();
        assert!(world.pids("loop").into_iter().chain(world.pids("service")).all(|pid| !is_alive(pid)));
    }
}

#[test]
fn a_killed_child_is_replaced_and_the_worker_told_everything_anew() {
    killed_children_are_replaced();
}

#[test]
#[ignore = "judges how long it takes, on a quiet machine"]
fn a_killed_child_is_replaced_within_a_second() {
    let took = killed_children_are_replaced();
    assert!(took < Duration::from_secs(1), "{took:?}");
}

/// Gives the time until a killed service was replaced.
fn killed_children_are_replaced() -> Duration {
    let mut world = World::new();
    (1..=5).for_each(|n| world.put(Place::Queue, n, Role::Sender));
    world.start();
    world.wait_for("the first scan", || (1..=5).all(|n| world.ordered(Place::Queue, n) == 1));
    kill(world.pids("service")[0]);
    let killed = Instant::now();
    world.wait_for("another service", || world.pids("service").len() == 2);
    let took = killed.elapsed();
    println!("another service after {took:?}");
    kill(world.pids("loop")[0]);
    world.wait_for("everything anew", || (1..=5).all(|n| world.ordered(Place::Queue, n) == 2));
    world.wait_for("hello again", || world.orders().iter().filter(|order| order.starts_with("hello")).count() >= 2);
    took
}

#[test]
fn a_child_that_dies_again_and_again_is_not_started_all_the_time() {
    let mut world = World::new();
    world.start();
    std::fs::write(world.path("program"), "#!/bin/sh\necho $$ >>\"$(dirname \"$0\")/$1.pids\"\n").unwrap();
    kill(world.pids("loop")[0]);
    world.wait_for("some starts", || world.pids("loop").len() >= 4);
    let before = world.pids("loop").len();
    std::thread::sleep(Duration::from_secs(2));
    let starts = world.pids("loop").len() - before;
    assert!(starts <= 4, "{starts} more starts in two seconds");
}

#[test]
fn a_step_that_waits_is_tried_less_and_less_and_says_why() {
    let mut world = World::new();
    std::fs::write(world.path("turn"), "later\n").unwrap();
    world.put(Place::Queue, 1, Role::Sender);
    world.start();
    let why = || spool::facts::Facts::read(&world.disk, &Place::Queue.file(msgid(1), "why")).unwrap();
    world.wait_for("some tries", || world.ordered(Place::Queue, 1) >= 2 && why().is_some());
    std::thread::sleep(Duration::from_secs(2));
    let why = why().expect("it says why");
    let tries = world.ordered(Place::Queue, 1);
    assert!(tries < 30, "{tries} tries in two seconds");
    assert!(why.value::<usize>("attempts").is_some_and(|attempts| attempts >= 1 && attempts <= tries));
    let (remote, _) = world.running.as_ref().unwrap();
    // USR1: once more, at once.
    world.wait_for("everything", || {
        remote.everything();
        world.ordered(Place::Queue, 1) > tries
    });
}

#[test]
fn a_renamed_spool_is_let_go_and_taken_again() {
    let mut world = World::new();
    world.put(Place::Queue, 1, Role::Sender);
    world.start();
    world.wait_for("the first scan", || world.ordered(Place::Queue, 1) == 1);
    let away = world.path("away");
    std::fs::rename(&world.home.spool, &away).unwrap();
    let (service, worker) = (world.pids("service")[0], world.pids("loop")[0]);
    world.wait_for("standby", || !is_alive(service) && !is_alive(worker));
    // An empty mount point is no spool, and must not become one.
    std::fs::create_dir(&world.home.spool).unwrap();
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(std::fs::read_dir(&world.home.spool).unwrap().count(), 0);
    std::fs::remove_dir(&world.home.spool).unwrap();
    std::fs::rename(&away, &world.home.spool).unwrap();
    world.wait_for("everything anew", || world.ordered(Place::Queue, 1) == 2);
    let before = world.ordered(Place::Queue, 1);
    spool::layout::touch(&world.disk, Place::Queue, msgid(1));
    world.wait_for("a touch", || world.ordered(Place::Queue, 1) > before);
}

#[test]
fn it_stops_also_while_the_spool_is_away() {
    let mut world = World::new();
    world.start();
    std::fs::rename(&world.home.spool, world.path("away")).unwrap();
    let (remote, thread) = world.running.take().unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    remote.stop();
    thread.join().unwrap().unwrap();
}

#[test]
fn a_second_daemon_and_a_loose_home_are_refused() {
    let mut world = World::new();
    world.start();
    assert!(matches!(world.supervisor().0.run(), Err(Error::Busy(_))));
    world.stop();
    std::fs::set_permissions(&world.home.spool, PermissionsExt::from_mode(0o750)).unwrap();
    assert!(matches!(world.supervisor().0.run(), Err(Error::Home(spool::home::Error::Loose { .. }))));
}

/// The lock was a file, and a daemon whose lock was unlinked let a second one begin; a FIFO blocked it.
#[test]
fn a_second_daemon_is_refused_whatever_becomes_of_the_names_in_the_spool() {
    let mut world = World::new();
    world.start();
    let old = world.home.spool.join("daemon");
    let make_fifo = || {
        let made = std::process::Command::new("mkfifo").arg(&old).status().unwrap();
        assert!(made.success());
    };
    let lose: [(&str, &dyn Fn()); 3] = [
        ("removed", &|| drop(std::fs::remove_file(&old))),
        ("a FIFO", &make_fifo),
        ("a directory", &|| std::fs::remove_file(&old).and_then(|()| std::fs::create_dir(&old)).unwrap()),
    ];
    for (what, lose) in lose {
        lose();
        let (supervisor, remote) = world.supervisor();
        let second = std::thread::spawn(|| supervisor.run());
        let until = Instant::now() + PATIENCE;
        while !second.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        remote.stop();
        assert!(second.is_finished(), "{what}: a second daemon runs, or is blocked");
        assert!(matches!(second.join().unwrap(), Err(Error::Busy(_))), "{what}");
    }
}

#[test]
fn a_reload_restarts_the_service_and_tells_the_worker() {
    let mut world = World::new();
    world.start();
    world.running.as_ref().unwrap().0.reload();
    world.wait_for("reload", || world.orders().iter().any(|order| order.starts_with("reload")));
    world.wait_for("another service", || world.pids("service").len() == 2);
    assert_eq!(world.pids("loop").len(), 1);
}

#[test]
fn whoever_asks_is_told_who_lives_also_when_the_socket_was_removed() {
    let mut world = World::new();
    let ask = |world: &World| spool::alive::ask(&world.disk, PATIENCE);
    world.start();
    let life = ask(&world).expect("an answer");
    assert_eq!((life.pid, life.troubles()), (std::process::id(), Vec::new()));
    let pids = |world: &World| ["service", "loop"].map(|verb| world.pids(verb).last().map(|pid| *pid as u32));
    assert_eq!([life.service.pid, life.r#loop.pid], pids(&world));
    world.disk.remove(spool::alive::SOCKET).unwrap();
    kill(world.pids("loop")[0]);
    world.wait_for("another loop", || world.pids("loop").len() == 2);
    world.wait_for("both live", || ask(&world).is_ok_and(|life| [life.service.pid, life.r#loop.pid] == pids(&world)));
    let life = ask(&world).unwrap();
    assert_eq!((life.service.restarts, life.r#loop.restarts), (0, 1));
    world.stop();
    assert!(spool::alive::ask(&world.disk, Duration::ZERO).is_err());
}

#[test]
fn a_word_heard_by_the_service_is_passed_on() {
    let mut world = World::new();
    std::fs::write(world.path("says"), format!("heard {}\nnonsense\n", peer())).unwrap();
    world.start();
    world.wait_for("heard", || world.orders().contains(&format!("heard {}", peer())));
}

#[test]
fn a_keeper_is_started_once_and_outlives_the_daemon() {
    let mut world = World::new();
    world.start();
    world.put(Place::Jobs, 1, Role::Recipient);
    world.wait_for("a keeper", || world.disk.is_locked(&running(msgid(1))).unwrap());
    for _ in 0..20 {
        spool::layout::touch(&world.disk, Place::Jobs, msgid(1));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(world.lines("keepers").len(), 1);
    let keeper = world.pids("keeper")[0];
    world.stop();
    assert!(is_alive(keeper), "it outlives the daemon");
    world.start();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(world.lines("keepers").len(), 1, "another daemon finds it by its lock");
    kill(keeper);
    world.wait_for("another keeper", || world.lines("keepers").len() == 2);
    world.wait_for("its lock", || world.disk.is_locked(&running(msgid(1))).unwrap());
    std::fs::write(world.path(&format!("go.{}", msgid(1))), "").unwrap();
    world.wait_for("the end", || !world.disk.is_locked(&running(msgid(1))).unwrap());
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(world.lines("keepers").len(), 2, "what is over needs no keeper");
}

/// A keeper whose job had lost its message was nobody's concern: when it died without
/// removing its lock's file, the job was looked at an hour later.
#[test]
fn the_death_of_a_keeper_is_noticed_whatever_is_left_of_its_job() {
    for emptied in [true, false] {
        let mut world = World::new();
        world.start();
        world.put(Place::Jobs, 1, Role::Recipient);
        world.wait_for("a keeper", || world.disk.is_locked(&running(msgid(1))).unwrap());
        let keeper = world.pids("keeper")[0];
        world.stop();
        let dir = Place::Jobs.dir(msgid(1));
        match emptied {
            true => ["peer", "message"].iter().for_each(|name| world.disk.remove(&format!("{dir}/{name}")).unwrap()),
            false => world.disk.remove(&dir).unwrap(),
        }
        let before = world.ordered(Place::Jobs, 1);
        world.start();
        world.wait_for("the first scan", || world.ordered(Place::Jobs, 1) > before);
        // Longer than a lock is not looked at.
        std::thread::sleep(Duration::from_millis(1500));
        let before = world.ordered(Place::Jobs, 1);
        kill(keeper);
        world.wait_for("a look after its death", || world.ordered(Place::Jobs, 1) > before);
        assert_eq!(world.lines("keepers").len(), 1, "what has no message needs no keeper");
    }
}

#[test]
fn jobs_beyond_the_quota_wait_in_order_of_birth() {
    let mut world = World::new();
    for n in [4, 2, 1, 3] {
        world.put(Place::Jobs, n, Role::Recipient);
    }
    world.start();
    world.wait_for("two keepers", || world.lines("keepers").len() == 2);
    std::thread::sleep(Duration::from_millis(300));
    let mut first = world.lines("keepers");
    first.sort();
    assert_eq!(first, [msgid(1).to_string(), msgid(2).to_string()]);
    std::fs::write(world.path(&format!("go.{}", msgid(2))), "").unwrap();
    world.wait_for("a third", || world.lines("keepers").len() == 3);
    assert_eq!(world.lines("keepers")[2], msgid(3).to_string());
}

#[test]
fn what_is_ours_cancelled_or_over_needs_no_keeper() {
    let mut world = World::new();
    world.put(Place::Jobs, 1, Role::Sender);
    for (n, mark) in [(2, Mark::Cancel), (3, Mark::Over)] {
        world.put(Place::Jobs, n, Role::Recipient);
        world.disk.commit(&Place::Jobs.file(msgid(n), mark.name()), b"").unwrap();
    }
    world.start();
    world.wait_for("the first scan", || (1..=3).all(|n| world.ordered(Place::Jobs, n) > 0));
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(world.lines("keepers"), [] as [&str; 0]);
}

#[test]
fn a_keeper_that_gets_nowhere_is_started_after_growing_pauses() {
    let mut world = World::new();
    std::fs::write(world.path("fail"), "").unwrap();
    world.put(Place::Jobs, 1, Role::Recipient);
    world.start();
    world.wait_for("some starts", || world.lines("keepers").len() >= 2);
    std::thread::sleep(Duration::from_secs(2));
    let starts = world.lines("keepers").len();
    assert!(starts < 30, "{starts} starts in two seconds");
}
