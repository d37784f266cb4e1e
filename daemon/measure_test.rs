//! How long it takes from an event to its order, and how much 100,000 messages cost.

use super::*;

#[test]
fn an_order_follows_each_touch() {
    touch_and_wait(20);
}

#[test]
#[ignore = "judges how long it takes, on a quiet machine"]
fn an_order_follows_a_touch_at_once() {
    let times = touch_and_wait(200);
    assert!(times[times.len() / 2] < Duration::from_millis(5), "no timer is in between: {times:?}");
}

/// The times from a touch to the line in the hands of the worker, over a FIFO that it writes into, sorted.
fn touch_and_wait(touches: usize) -> Vec<Duration> {
    let mut world = World::new();
    world.put(Place::Queue, 1, Role::Sender);
    world.start();
    world.wait_for("the first scan", || world.ordered(Place::Queue, 1) == 1);
    let mut times = Vec::new();
    for n in 0..touches {
        let before = world.path("orders").metadata().unwrap().len();
        let touched = Instant::now();
        spool::layout::touch(&world.disk, Place::Queue, msgid(1));
        while world.path("orders").metadata().unwrap().len() == before {
            assert!(touched.elapsed() < PATIENCE, "touch {n} is lost");
        }
        times.push(touched.elapsed());
        std::thread::sleep(Duration::from_millis(25));
    }
    times.sort();
    println!("touch to order: median {:?}, 99 % {:?}", times[times.len() / 2], times[times.len() * 99 / 100]);
    times
}

/// 100,000 queued messages: `cargo test --release -p daemon -- --ignored --nocapture hundred`.
#[test]
#[ignore = "makes 200,000 files"]
fn a_hundred_thousand_messages_are_scanned_in_a_second() {
    let world = World::new();
    let facts = Owner::new(&world.disk, peer(), Role::Sender, None).unwrap().facts();
    for n in 0..100_000u32 {
        let mut id = [0; 20];
        id[..4].copy_from_slice(&n.to_be_bytes());
        let dir = Place::Queue.dir(MsgId(id));
        world.disk.make_dir(&dir).unwrap();
        let peer = format!("{dir}/{PEER}");
        std::fs::write(world.home.spool.join(&peer), facts.content(&peer)).unwrap();
    }
    let before = resident();
    let (began, busy) = (Instant::now(), busy());
    let mut scan = scan::Scan::new(&world.home.spool);
    assert_eq!(scan.changes().len(), 100_000);
    let scanned = self::busy() - busy;
    println!("scan {:?}, {scanned:?} of processor", began.elapsed());
    assert!(scanned < Duration::from_secs(1));
    drop(scan);
    let mut world = world;
    world.start();
    let orders = |world: &World| world.orders().len();
    world.wait_for("orders", || orders(&world) > 1000);
    println!("first 1000 orders {:?}", began.elapsed());
    std::thread::sleep(Duration::from_secs(5));
    let grown = resident() - before;
    println!("orders {}, resident {grown} KiB more than before", orders(&world));
    assert!(grown < 64 << 10);
}

/// This thread's time on a processor: other programs do not count.
fn busy() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split_whitespace().next().unwrap().parse().unwrap())
}

/// The most memory that this process ever had, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
