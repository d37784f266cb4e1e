//! Connections: accepting them, and ending those that are late.
//!
//! Each runs as a task of its own under a number in the pool. What hyper does
//! not bound is bounded here, by looking at all of them twice a second: a head
//! that does not come in time, a stranger that is idle, a peer that is idle for
//! long, bytes that the other side does not take (doc/PROTOCOL.md#bounds).

use crate::door::answer;
use crate::peers::Strange;
use crate::pool::{Number, Source};
use crate::turn::{self, Token, Turning};
use crate::{Shared, lock};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;
use spool::limit::Reserved;
use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// A request's head has to be here within this, and a stranger's request.
const HEAD: Duration = Duration::from_secs(5);
/// A peer's connection may be idle for this long.
const IDLE: Duration = Duration::from_secs(60);
/// Something of a response has to be taken within this.
const STALL: Duration = Duration::from_secs(20);
const SWEEPS_APART: Duration = Duration::from_millis(500);
/// Bytes of a head, and of what hyper keeps before it is written.
const BUFFER: usize = 8 << 10;
const HEADERS_MAX: usize = 16;
/// Without descriptors left, how long before the next try.
const EXHAUSTED: Duration = Duration::from_millis(50);
/// Descriptors that a connection needs: its own, and that of the segment which is pulled over it.
const EACH: usize = 2;

struct Times {
    /// A request is being answered, or its answer sent.
    busy: bool,
    /// Accepted, or the last answer was sent.
    since: Instant,
    /// The first bytes of a head came.
    head: Option<Instant>,
    /// The other side takes nothing.
    stalled: Option<Instant>,
}

/// What a connection is doing, and since when.
pub(crate) struct Activity(Mutex<Times>);

impl Activity {
    fn new() -> Activity {
        Activity(Mutex::new(Times { busy: false, since: Instant::now(), head: None, stalled: None }))
    }

    /// A request is here; until the guard is dropped it is being answered.
    pub fn busy(self: &Arc<Self>) -> Busy {
        let mut times = lock(&self.0);
        (times.busy, times.head) = (true, None);
        Busy(self.clone())
    }

    fn is_idle(&self) -> bool {
        !lock(&self.0).busy
    }

    fn read(&self) {
        let mut times = lock(&self.0);
        if !times.busy && times.head.is_none() {
            times.head = Some(Instant::now());
        }
    }

    fn wrote(&self, some: bool) {
        let mut times = lock(&self.0);
        times.stalled = if some { None } else { times.stalled.or_else(|| Some(Instant::now())) };
    }

    /// Has it taken longer than it may? A stranger's time runs from the accept.
    fn is_late(&self, known: bool) -> bool {
        let times = lock(&self.0);
        if let Some(stalled) = times.stalled {
            return stalled.elapsed() > STALL;
        }
        match (times.busy, times.head) {
            (true, _) => false,
            (false, _) if !known => times.since.elapsed() > HEAD,
            (false, Some(head)) => head.elapsed() > HEAD,
            (false, None) => times.since.elapsed() > IDLE,
        }
    }
}

/// A request is being answered.
pub(crate) struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        let mut times = lock(&self.0.0);
        (times.busy, times.since) = (false, Instant::now());
    }
}

/// What ends a connection.
pub(crate) struct Handle {
    task: AbortHandle,
    activity: Arc<Activity>,
}

impl Handle {
    /// Closes it, whatever it is doing.
    pub fn end(self) {
        self.task.abort();
    }

    /// Is it between two requests?
    pub fn is_idle(&self) -> bool {
        self.activity.is_idle()
    }
}

/// One connection, as its requests see it.
pub(crate) struct Visitor {
    pub shared: Arc<Shared>,
    pub number: Number,
    pub activity: Arc<Activity>,
    /// The loop has turned this connection, and hears of it.
    pub token: Option<Token>,
    /// It is to go to the loop.
    pub turning: Mutex<Option<Turning>>,
    /// What it needs of the system.
    _reserved: Reserved,
}

impl Drop for Visitor {
    fn drop(&mut self) {
        lock(&self.shared.pool).take(self.number);
    }
}

/// Accepts connections for as long as the service runs. None is accepted before
/// there are descriptors for what it will ask: until then the kernel holds it.
pub(crate) async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        let Some(reserved) = reserve(&shared) else {
            if has_caller(&listener) {
                make_room(&shared);
            }
            tokio::time::sleep(EXHAUSTED).await;
            continue;
        };
        match listener.accept().await {
            Ok((stream, address)) => enter(&shared, stream, Source::of(address.ip()), None, reserved),
            Err(error) if spool::fs::is_shortage(&error) => {
                make_room(&shared);
                tokio::time::sleep(EXHAUSTED).await;
            }
            // It was gone before it was accepted.
            Err(_) => {}
        }
        // The new connection comes to its first read before the next can crowd it out.
        tokio::task::yield_now().await;
    }
}

/// Does somebody wait to be accepted?
fn has_caller(listener: &TcpListener) -> bool {
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

/// Descriptors for one more connection, if there are any.
pub(crate) fn reserve(shared: &Shared) -> Option<Reserved> {
    shared.descriptors.reserve(EACH)
}

/// Ends a connection that another one may need more: a stranger's, or one that is idle.
fn make_room(shared: &Shared) {
    let leaving = lock(&shared.pool).spare(Handle::is_idle);
    leaving.into_iter().for_each(Handle::end);
}

/// Answers on a connection: accepted, or turned by the loop.
pub(crate) fn enter(shared: &Arc<Shared>, stream: TcpStream, source: Source, token: Option<Token>, reserved: Reserved) {
    if prepare(&stream).is_err() {
        return;
    }
    // Held until it is counted: its first request may be here already.
    let mut pool = lock(&shared.pool);
    let number = pool.number();
    let activity = Arc::new(Activity::new());
    let (shared_too, activity_too, turning) = (shared.clone(), activity.clone(), Mutex::default());
    let visitor =
        Arc::new(Visitor { shared: shared_too, number, activity: activity_too, token, turning, _reserved: reserved });
    let task = tokio::spawn(serve(visitor, stream)).abort_handle();
    let leaving = pool.enter(number, source, Handle { task, activity });
    drop(pool);
    if let Some(leaving) = leaving {
        shared.strangers.note(Strange::Dropped);
        leaving.end();
    }
}

/// A link that is dead without a word is noticed within ten seconds.
fn prepare(stream: &TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(4))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(2))?;
    sockopt::set_tcp_keepcnt(stream, 2)?;
    sockopt::set_tcp_user_timeout(stream, 10_000)?;
    Ok(())
}

async fn serve(visitor: Arc<Visitor>, stream: TcpStream) {
    let stream = Observed { stream: TokioIo::new(stream), activity: visitor.activity.clone() };
    let mut http = http1::Builder::new();
    // The bounds on time are in `Activity`; hyper's own time-out, which is off
    // without a timer and counts idle time as a head's, stands behind them.
    http.timer(TokioTimer::new()).header_read_timeout(IDLE + HEAD);
    http.max_buf_size(BUFFER).max_headers(HEADERS_MAX).keep_alive(true).auto_date_header(false);
    let asked = visitor.clone();
    let serving = http.serve_connection(stream, service_fn(move |request| answer(asked.clone(), request)));
    // How a connection ends is the other side's business: it moves nothing here.
    match &visitor.token {
        None => drop(serving.with_upgrades().await),
        Some(token) => tokio::select! {
            _ = serving => {}
            () = token.ended() => {}
        },
    }
    let turning = lock(&visitor.turning).take();
    if let Some(turning) = turning {
        turn::hand_over(&visitor, turning).await;
    }
}

/// Ends connections that are late, for as long as the service runs.
pub(crate) async fn sweep(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(SWEEPS_APART);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (strangers, known) = {
            let mut pool = lock(&shared.pool);
            (pool.take_strangers(|one| one.activity.is_late(false)), pool.take_known(|one| one.activity.is_late(true)))
        };
        strangers.iter().for_each(|_| shared.strangers.note(Strange::Dropped));
        strangers.into_iter().chain(known).for_each(Handle::end);
        shared.forget_channels();
    }
}

/// A stream that notes what it does.
pub(crate) struct Observed {
    stream: TokioIo<TcpStream>,
    activity: Arc<Activity>,
}

impl Observed {
    /// The stream itself.
    pub fn into_stream(self) -> TcpStream {
        self.stream.into_inner()
    }

    fn wrote(&self, written: Poll<Result<usize>>) -> Poll<Result<usize>> {
        self.activity.wrote(written.is_ready());
        written
    }
}

impl Read for Observed {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context, buffer: ReadBufCursor) -> Poll<Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            self.activity.read();
        }
        read
    }
}

impl Write for Observed {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context, bytes: &[u8]) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context, slices: &[IoSlice]) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.wrote(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Is a connection late that has been like this for so many seconds?
    fn late(seconds: u64, known: bool, set: impl FnOnce(&mut Times, Instant)) -> bool {
        let then = Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
        let mut times = Times { busy: false, since: then, head: None, stalled: None };
        set(&mut times, then);
        Activity(Mutex::new(times)).is_late(known)
    }

    #[test]
    fn each_kind_of_delay_has_its_bound() {
        let idle = |_: &mut Times, _| {};
        assert!(!late(4, false, idle) && late(6, false, idle), "a stranger");
        assert!(!late(55, true, idle) && late(61, true, idle), "a peer that is idle");
        let head = |times: &mut Times, then| times.head = Some(then);
        assert!(!late(4, true, head) && late(6, true, head), "half a head");
        let fresh = |times: &mut Times, _| times.head = Some(Instant::now());
        assert!(late(6, false, fresh), "a stranger's first byte wins it no time");
        let busy = |times: &mut Times, _| times.busy = true;
        assert!(!late(1000, true, busy), "a pull that waits");
        let stalled = |times: &mut Times, then| (times.busy, times.stalled) = (true, Some(then));
        assert!(!late(19, true, stalled) && late(21, true, stalled), "bytes that nobody takes");
    }

    #[test]
    fn every_byte_that_is_taken_ends_a_stall() {
        let activity = Activity::new();
        activity.wrote(false);
        assert!(lock(&activity.0).stalled.is_some());
        activity.wrote(true);
        assert!(lock(&activity.0).stalled.is_none());
    }
}
