//! What is remembered of an outgoing log while somebody pulls it.
//!
//! One puller at a time: a second one ends the first, which may be a
//! connection that died. What it holds is left as a hint, now and then. All of
//! it is in memory, and forgotten a minute after the last pull.

use crate::durable::Durable;
use crate::lock;
use crate::pool::Number;
use crate::watch::Watcher;
use spool::log::{HINTS_APART, WINDOW};
use spool::segment::HEADER;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// A channel that nobody has pulled for so long is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// Segments that are remembered: the present one, the next, and one before them.
const SEGMENTS_MAX: usize = 3;

struct Current {
    pull: u64,
    connection: Number,
    ended: Arc<Notify>,
    sending: bool,
}

#[derive(Default)]
struct Got {
    wanted: u64,
    noted: u64,
    noted_at: Option<Instant>,
    running: bool,
}

/// An outgoing log of a job.
pub(crate) struct Channel {
    /// `jobs/<msgid>/out/<chan>`
    pub dir: String,
    /// Something in the directory has changed.
    pub changed: Arc<Notify>,
    watcher: Arc<Watcher>,
    watched: Mutex<Option<i32>>,
    pulls: Mutex<(u64, Option<Current>)>,
    used: Mutex<Instant>,
    got: Mutex<Got>,
    got_more: Notify,
    segments: Mutex<BTreeMap<u64, Arc<Durable>>>,
    named: Arc<AtomicBool>,
}

impl Channel {
    /// Nothing is known of the log in `dir`.
    pub fn new(dir: String, watcher: Arc<Watcher>) -> Channel {
        Channel {
            dir,
            changed: Arc::new(Notify::new()),
            watcher,
            watched: Mutex::new(None),
            pulls: Mutex::new((0, None)),
            used: Mutex::new(Instant::now()),
            got: Mutex::new(Got::default()),
            got_more: Notify::new(),
            segments: Mutex::new(BTreeMap::new()),
            named: Arc::new(AtomicBool::new(false)),
        }
    }

    /// Begins a pull on this connection. The one before it ends: at once if it
    /// waits; if it is sending, `cut` is told its connection.
    pub fn pull(self: &Arc<Self>, connection: Number, cut: impl FnOnce(Number)) -> Pull {
        *lock(&self.used) = Instant::now();
        let mut pulls = lock(&self.pulls);
        pulls.0 += 1;
        let (number, ended) = (pulls.0, Arc::new(Notify::new()));
        let current = Current { pull: number, connection, ended: ended.clone(), sending: false };
        let before = pulls.1.replace(current);
        drop(pulls);
        if let Some(before) = before {
            before.ended.notify_one();
            if before.sending && before.connection != connection {
                cut(before.connection);
            }
        }
        Pull { channel: self.clone(), number, ended }
    }

    /// Has nobody pulled it for a while, or is there nothing to remember of it?
    pub fn is_forgotten(&self) -> bool {
        let unused = lock(&self.pulls).1.is_none();
        unused && (lock(&self.segments).is_empty() || lock(&self.used).elapsed() > FORGOTTEN_AFTER)
    }

    /// Watches the directory; false if it has to be looked at instead.
    pub fn watch(&self) -> bool {
        let mut watched = lock(&self.watched);
        let number = self.watcher.add(&self.dir, &self.changed);
        if let Some(before) = *watched
            && number != Some(before)
        {
            self.watcher.remove(before);
        }
        *watched = number;
        number.is_some()
    }

    /// What is known of segment `n` with this header.
    pub fn segment(&self, n: u64, header: &[u8; HEADER]) -> Arc<Durable> {
        let mut segments = lock(&self.segments);
        if let Some(known) = segments.get(&n).filter(|known| known.header == *header) {
            return known.clone();
        }
        let durable = Arc::new(Durable::new(&self.dir, n, *header, self.named.clone()));
        segments.insert(n, durable.clone());
        while segments.len() > SEGMENTS_MAX {
            // The farthest from the one that is wanted.
            let (first, last) = (segments.first_key_value(), segments.last_key_value());
            let ends = first.zip(last).map(|((first, _), (last, _))| (*first, *last));
            let Some((first, last)) = ends else { break };
            segments.remove(if n.abs_diff(first) > n.abs_diff(last) { &first } else { &last });
        }
        durable
    }

    /// Takes note that the consumer holds everything below `offset`; true if
    /// somebody has to run `tell` for it.
    pub fn holds(&self, offset: u64) -> bool {
        let mut got = lock(&self.got);
        if offset <= got.wanted {
            return false;
        }
        got.wanted = offset;
        self.got_more.notify_one();
        !std::mem::replace(&mut got.running, true)
    }

    /// Waits until the next hint is due, a quarter of a window or 20 ms after
    /// the last; gives its offset, or `None` when there is nothing more to hint.
    pub async fn next_hint(&self) -> Option<u64> {
        loop {
            let due = {
                let mut got = lock(&self.got);
                if got.wanted <= got.noted {
                    got.running = false;
                    return None;
                }
                let due = got.noted_at.map(|at| at + HINTS_APART).filter(|due| *due > Instant::now());
                match due.filter(|_| got.wanted - got.noted < WINDOW / 4) {
                    Some(due) => due,
                    None => {
                        (got.noted, got.noted_at) = (got.wanted, Some(Instant::now()));
                        return Some(got.noted);
                    }
                }
            };
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => {}
                () = self.got_more.notified() => {}
            }
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        if let Some(number) = lock(&self.watched).take() {
            self.watcher.remove(number);
        }
    }
}

/// A pull, from its request until its last byte has been handed to the socket.
pub(crate) struct Pull {
    /// Told when another pull has taken its place.
    pub ended: Arc<Notify>,
    channel: Arc<Channel>,
    number: u64,
}

impl Pull {
    /// It is about to send. False if another pull has taken its place.
    pub fn sends(&self) -> bool {
        let mut pulls = lock(&self.channel.pulls);
        let mine = pulls.1.as_mut().filter(|current| current.pull == self.number);
        mine.map(|current| current.sending = true).is_some()
    }
}

impl Drop for Pull {
    fn drop(&mut self) {
        let mut pulls = lock(&self.channel.pulls);
        pulls.1.take_if(|current| current.pull == self.number);
        *lock(&self.channel.used) = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel() -> Arc<Channel> {
        Arc::new(Channel::new("jobs/x/out/1".into(), Arc::new(Watcher::new(std::path::Path::new("/nowhere")))))
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn a_second_pull_ends_the_first_and_cuts_it_only_while_it_sends() {
        runtime().block_on(async {
            let (channel, cut) = (channel(), std::cell::Cell::new(None));
            let first = channel.pull(1, |number| cut.set(Some(number)));
            let second = channel.pull(2, |number| cut.set(Some(number)));
            first.ended.notified().await;
            assert!(!first.sends() && second.sends());
            assert_eq!(cut.get(), None);
            let third = channel.pull(3, |number| cut.set(Some(number)));
            assert_eq!(cut.get(), Some(2));
            drop((first, second));
            assert!(third.sends(), "the end of an old pull is not the end of the new one");
        });
    }

    #[test]
    fn hints_are_apart_but_the_last_one_is_never_lost() {
        runtime().block_on(async {
            let channel = channel();
            assert!(channel.holds(100));
            assert_eq!(channel.next_hint().await, Some(100));
            assert!(!channel.holds(200), "somebody is at it");
            let asked = Instant::now();
            assert_eq!(channel.next_hint().await, Some(200));
            assert!(asked.elapsed() >= HINTS_APART / 2);
            channel.holds(200 + WINDOW / 4);
            let at_once = tokio::time::timeout(Duration::ZERO, channel.next_hint()).await;
            assert_eq!(at_once, Ok(Some(200 + WINDOW / 4)), "a quarter of a window does not wait");
            channel.holds(5);
            assert_eq!(channel.next_hint().await, None);
            assert!(channel.holds(WINDOW));
        });
    }

    #[test]
    fn a_segment_that_was_written_anew_is_another_one() {
        runtime().block_on(async {
            let channel = channel();
            let one = channel.segment(0, &[1; HEADER]);
            assert!(Arc::ptr_eq(&one, &channel.segment(0, &[1; HEADER])));
            assert!(!Arc::ptr_eq(&one, &channel.segment(0, &[2; HEADER])));
            for n in 1..100 {
                channel.segment(n, &[1; HEADER]);
            }
            assert_eq!(lock(&channel.segments).len(), SEGMENTS_MAX);
        });
    }
}
