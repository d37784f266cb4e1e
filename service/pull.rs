//! What is pulled: sealed messages, and the segments of a job's outgoing logs.
//!
//! A pull gets bytes that verify by themselves, or a bare status that moves
//! nothing. A segment is offered as far as it is durable, and a pull at its end
//! waits for more. Whether a next segment exists is asked before the size is
//! read: then a closed segment's size is its last (doc/PROTOCOL.md#streams).

use crate::Shared;
use crate::body::{Body, Part};
use crate::channel::{Channel, Pull};
use crate::durable::{Disk, Durable, Lost};
use crate::observe::{offers_message, owns_job};
use crate::pool::Number;
use crate::throttle::Throttle;
use crate::watch::Watcher;
use hyper::header::{ACCEPT_RANGES, CACHE_CONTROL, CONTENT_RANGE, HeaderMap, RANGE};
use hyper::{Response, StatusCode};
use spool::fs::{Error, Fs, LogFile};
use spool::home::Peer;
use spool::layout::{Place, SEALED};
use spool::log::segments;
use spool::look::has;
use spool::name::{Chan, MsgId, decimal};
use spool::phase::Mark;
use spool::segment::HEADER;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// The longest wait that a puller may ask for.
const WAIT_MAX: Duration = Duration::from_secs(25);
/// How long a pull waits for a sync, though it did not ask to wait: less than
/// the second after which its puller gives it up.
const SYNC_WAIT: Duration = Duration::from_millis(900);

/// From which byte, and up to which if that is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    from: u64,
    last: Option<u64>,
}

impl Range {
    const ALL: Range = Range { from: 0, last: None };

    /// Reads `bytes=a-` or `bytes=a-b`, the only forms that we would have
    /// written; `None` for another one, or two.
    fn of(headers: &HeaderMap) -> Option<Range> {
        let mut ranges = headers.get_all(RANGE).iter();
        let Some(range) = ranges.next() else { return Some(Range::ALL) };
        let (from, last) = range.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
        let from = decimal(from)?;
        let last = if last.is_empty() { None } else { Some(decimal(last)?) };
        (ranges.next().is_none() && last.is_none_or(|last| last >= from)).then_some(Range { from, last })
    }

    /// The end of what is sent, if the file ends at `size`.
    fn end(self, size: u64) -> u64 {
        self.last.map_or(size, |last| size.min(last.saturating_add(1)))
    }
}

/// Reads `wait=N`; no wait if there is none.
fn wait(headers: &HeaderMap) -> Duration {
    let prefer = headers.get("prefer").and_then(|prefer| prefer.to_str().ok()?.strip_prefix("wait="));
    Duration::from_secs(prefer.and_then(decimal).unwrap_or(0)).min(WAIT_MAX)
}

fn bare(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response.headers_mut().insert(CACHE_CONTROL, hyper::header::HeaderValue::from_static("no-store"));
    response
}

fn with_range(status: StatusCode, range: String) -> Response<Body> {
    let mut response = bare(status);
    if let Ok(range) = range.try_into() {
        response.headers_mut().insert(CONTENT_RANGE, range);
    }
    response
}

/// Answers a pull of `queue/<msgid>`; `None` is the one 404.
pub(crate) fn message(shared: &Arc<Shared>, peer: &Peer, msgid: MsgId, headers: &HeaderMap) -> Option<Response<Body>> {
    let fs = &*shared.fs;
    match offers_message(fs, &peer.username, msgid) {
        Ok(true) => {}
        Ok(false) => return None,
        Err(error) => return Some(not_now(shared, peer, &error)),
    }
    let Some(range) = Range::of(headers) else { return Some(bare(StatusCode::BAD_REQUEST)) };
    let file: Arc<dyn LogFile> = match fs.open_log(&Place::Queue.file(msgid, SEALED)) {
        Ok(file) => file.into(),
        Err(error) if error.is_loss() => return None,
        Err(error) => return Some(not_now(shared, peer, &error)),
    };
    let size = file.size().ok()?;
    if range.from >= size {
        return Some(with_range(StatusCode::RANGE_NOT_SATISFIABLE, format!("bytes */{size}")));
    }
    let end = range.end(size);
    let mut response = match headers.contains_key(RANGE) {
        true => with_range(StatusCode::PARTIAL_CONTENT, format!("bytes {}-{}/{size}", range.from, end - 1)),
        false => bare(StatusCode::OK),
    };
    response.headers_mut().insert(ACCEPT_RANGES, hyper::header::HeaderValue::from_static("bytes"));
    let part = Part { file, from: range.from, end, buffers: shared.buffers.clone() };
    *response.body_mut() = Body::part(part, Throttle::new(shared, peer, msgid, Chan::CONTROL), None);
    Some(response)
}

/// Our own disk or system does not let us answer: the puller tries again.
fn not_now(shared: &Shared, peer: &Peer, error: &Error) -> Response<Body> {
    shared.troubles.note(peer, "cannot answer a pull", &error.to_string());
    bare(StatusCode::SERVICE_UNAVAILABLE)
}

/// Which segment is pulled, by whom.
pub(crate) struct Wanted<'a> {
    pub peer: &'a Arc<Peer>,
    pub connection: Number,
    pub msgid: MsgId,
    pub chan: Chan,
    pub n: u64,
    pub got: u64,
}

/// Answers a pull of a segment; `None` is the one 404.
pub(crate) async fn segment(shared: &Arc<Shared>, wanted: Wanted<'_>, headers: &HeaderMap) -> Option<Response<Body>> {
    let Wanted { peer, connection, msgid, chan, n, got } = wanted;
    match owns_job(&*shared.fs, &peer.username, msgid) {
        Ok(true) => {}
        Ok(false) => return None,
        Err(error) => return Some(not_now(shared, peer, &error)),
    }
    let Some(range) = Range::of(headers) else { return Some(bare(StatusCode::BAD_REQUEST)) };
    let channel = shared.channel(msgid, chan);
    let pull = channel.pull(connection, |number| shared.cut(number));
    if channel.holds(got) {
        tokio::spawn(tell_got(shared.clone(), peer.clone(), msgid, chan, channel.clone()));
    }
    let work = shared.work(&peer.username);
    let until = Instant::now() + wait(headers);
    let gone = pull.ended.clone();
    let mut ended = pin!(gone.notified());
    let mut watched = None;
    let mut found: Option<Found> = None;
    loop {
        // From here on no change is missed, although it comes before the waiting.
        let mut changed = pin!(channel.changed.notified());
        changed.as_mut().enable();
        found = match found.and_then(Found::again) {
            Some(found) => Some(found),
            None => match Found::look(&shared.fs, &channel, n, &work) {
                Ok(found) => found,
                Err(error) => return Some(not_now(shared, peer, &error)),
            },
        };
        match &found {
            None if will_not_come(&*shared.fs, msgid, &channel.dir, n) => return Some(bare(StatusCode::NOT_FOUND)),
            None => {}
            Some(found) if range.from < found.size => {
                let limit = until.max(Instant::now() + SYNC_WAIT);
                tokio::select! {
                    () = &mut ended => return Some(bare(StatusCode::NO_CONTENT)),
                    () = tokio::time::sleep_until(limit) => return Some(bare(StatusCode::NO_CONTENT)),
                    offered = found.durable.beyond(range.from, found.size, &found.disk) => match offered {
                        Err(Lost) => return None,
                        Ok(offered) if offered > range.from => {
                            let throttle = Throttle::new(shared, peer, msgid, chan);
                            return Some(found.send(shared, pull, throttle, range, offered));
                        }
                        Ok(_) => {}
                    }
                }
            }
            Some(Found { closed: true, size, .. }) => {
                return Some(with_range(StatusCode::RANGE_NOT_SATISFIABLE, format!("bytes */{size}")));
            }
            // The puller is ahead of us: that says nothing about where the segment ends.
            Some(Found { size, .. }) if range.from > *size => {
                return Some(with_range(StatusCode::RANGE_NOT_SATISFIABLE, "bytes */*".into()));
            }
            Some(_) => {}
        }
        let now = Instant::now();
        if now >= until {
            return Some(bare(if found.is_some() { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND }));
        }
        let Some(is_watched) = watched else {
            watched = Some(channel.watch());
            continue;
        };
        let _waiting = shared.watcher.waiting();
        tokio::select! {
            () = &mut ended => return Some(bare(StatusCode::NO_CONTENT)),
            () = changed => {}
            // It may be another directory by now.
            () = tokio::time::sleep_until(until.min(now + Watcher::patience(is_watched))) => watched = None,
        }
    }
}

/// Is there a later segment, or the job over, so that this one is not worth waiting for?
fn will_not_come(fs: &dyn Fs, msgid: MsgId, dir: &str, n: u64) -> bool {
    let later_exists = segments(fs, dir).is_ok_and(|numbers| numbers.last().is_some_and(|last| *last > n));
    later_exists || has(fs, &Place::Jobs.dir(msgid), Mark::Over)
}

/// Is there a next segment, so that this one grows no more?
fn is_closed(fs: &dyn Fs, dir: &str, n: u64) -> bool {
    n < u64::MAX && fs.exists(&format!("{dir}/{}", n + 1))
}

/// A segment as it is at this moment.
struct Found {
    n: u64,
    channel: Arc<Channel>,
    durable: Arc<Durable>,
    disk: Disk,
    closed: bool,
    size: u64,
}

impl Found {
    /// `None`: it is not there, or has no header yet.
    fn look(
        fs: &Arc<dyn Fs>,
        channel: &Arc<Channel>,
        n: u64,
        work: &Arc<Semaphore>,
    ) -> spool::fs::Result<Option<Found>> {
        let closed = is_closed(&**fs, &channel.dir, n);
        let file: Arc<dyn LogFile> = match fs.open_log(&format!("{}/{n}", channel.dir)) {
            Err(error) if error.is_loss() => return Ok(None),
            other => other?.into(),
        };
        let size = file.size()?;
        let mut header = [0; HEADER];
        // One that was cut to nothing is closed like any other: its puller goes past it.
        if file.read_at(&mut header, 0)? < HEADER && !closed {
            return Ok(None);
        }
        let disk = Disk { fs: fs.clone(), file, work: work.clone() };
        Ok(Some(Found { n, channel: channel.clone(), durable: channel.segment(n, &header), disk, closed, size }))
    }

    /// The same segment a while later; `None` if it was cut to nothing.
    fn again(mut self) -> Option<Found> {
        // It is closed when its size is read, as in `look`.
        self.closed = is_closed(&*self.disk.fs, &self.channel.dir, self.n);
        self.size = self.disk.file.size().ok().filter(|size| *size >= HEADER as u64)?;
        Some(self)
    }

    /// Sends what is durable, and has the next sync run meanwhile.
    fn send(&self, shared: &Shared, pull: Pull, throttle: Throttle, range: Range, offered: u64) -> Response<Body> {
        if !pull.sends() {
            return bare(StatusCode::NO_CONTENT);
        }
        let end = range.end(offered);
        self.durable.start(self.size, &self.disk);
        if self.closed
            && end == self.size
            && let Ok(Some(next)) = Found::look(&self.disk.fs, &self.channel, self.n + 1, &self.disk.work)
        {
            next.durable.start(next.size, &next.disk);
        }
        let total = if self.closed { self.size.to_string() } else { "*".into() };
        let range_sent = format!("bytes {}-{}/{total}", range.from, end - 1);
        let mut response = with_range(StatusCode::PARTIAL_CONTENT, range_sent);
        let file = self.disk.file.clone();
        let part = Part { file, from: range.from, end, buffers: shared.buffers.clone() };
        *response.body_mut() = Body::part(part, throttle, Some(Box::new(pull)));
        response
    }
}

/// Leaves the hints of what the consumer holds, as long as there are new ones.
async fn tell_got(shared: Arc<Shared>, peer: Arc<Peer>, msgid: MsgId, chan: Chan, channel: Arc<Channel>) {
    while let Some(offset) = channel.next_hint().await {
        let permit = shared.work(&peer.username).acquire_owned().await;
        let (desk, peer_there) = (shared.desk.clone(), peer.clone());
        let told = tokio::task::spawn_blocking(move || desk.got(&peer_there, msgid, chan, offset)).await;
        drop(permit);
        if let Ok(Some(trouble)) = told {
            shared.troubles.note(&peer, "cannot note what it holds", &trouble);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(range: &[&str]) -> HeaderMap {
        range.iter().map(|range| (RANGE, range.parse().unwrap())).collect()
    }

    #[test]
    fn only_ranges_that_we_would_write_are_read() {
        assert_eq!(Range::of(&headers(&[])), Some(Range::ALL));
        assert_eq!(Range::of(&headers(&["bytes=5-"])), Some(Range { from: 5, last: None }));
        assert_eq!(Range::of(&headers(&["bytes=5-5"])), Some(Range { from: 5, last: Some(5) }));
        for bad in ["bytes=-5", "bytes=5", "bytes=6-5", "bytes=1-2,4-5", "bytes=01-", "items=1-", "bytes=1 -2", ""] {
            assert_eq!(Range::of(&headers(&[bad])), None, "{bad}");
        }
        assert_eq!(Range::of(&headers(&["bytes=1-", "bytes=2-"])), None);
        assert_eq!(Range { from: 0, last: Some(u64::MAX) }.end(7), 7);
    }

    #[test]
    fn nobody_waits_longer_than_allowed() {
        let prefer = |text: &str| wait(&HeaderMap::from_iter([("prefer".parse().unwrap(), text.parse().unwrap())]));
        assert_eq!(prefer("wait=2"), Duration::from_secs(2));
        assert_eq!(prefer("wait=100000"), WAIT_MAX);
        assert_eq!(prefer("wait=-1"), Duration::ZERO);
        assert_eq!(wait(&HeaderMap::new()), Duration::ZERO);
    }
}
