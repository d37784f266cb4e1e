//! What is said while a job is on its way: a line that changes, on a terminal;
//! elsewhere a line when it waits, and no other.

use crate::begin::Job;
use crate::health::Health;
use crate::screen::Screen;
use crate::why::{Patience, Why, wall_clock};
use indicatif::HumanBytes;
use spool::fs::Fs;
use spool::log::{hinted, segments};
use spool::name::Chan;
use spool::segment::HEADER;
use std::time::{Duration, Instant};

/// How often the line changes.
const TICK: Duration = Duration::from_millis(200);
/// How often one looks what is waited for, where nothing is drawn.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A command that is shorter shows no line.
const AFTER: Duration = Duration::from_secs(1);

/// Says how a job gets on.
pub struct Progress<'a> {
    job: &'a Job,
    peer: &'a str,
    screen: &'a Screen,
    started: Instant,
    looked: Option<Instant>,
    patience: Patience,
    health: Health,
    rate: Rate,
    input_ended: bool,
}

impl<'a> Progress<'a> {
    /// Begins with nothing said.
    pub fn new(job: &'a Job, peer: &'a str, screen: &'a Screen) -> Progress<'a> {
        let mut patience = Patience::default();
        if !crate::why::is_daemon_alive(&*job.fs) {
            // It was said when the job was queued.
            patience.told(Instant::now(), Why::because("no_daemon"));
        }
        let (started, rate) = (Instant::now(), Rate::default());
        let health = Health::new(started);
        Progress { job, peer, screen, started, looked: None, patience, health, rate, input_ended: false }
    }

    /// All input has been read.
    pub fn input_ended(&mut self) {
        self.input_ended = true;
    }

    /// When the next look is due, at most `wait` from here.
    pub fn next_tick(&self, wait: Duration) -> Duration {
        if self.screen.has_progress() { wait.min(TICK) } else { wait }
    }

    /// Looks, if it is time, and says what there is to say.
    pub fn tick(&mut self, live: bool, over: bool) {
        let now = Instant::now();
        let every = if self.screen.has_progress() { TICK } else { LOOK_EVERY };
        if self.looked.is_some_and(|at| now < at + every) {
            return;
        }
        self.looked = Some(now);
        let why = if over { None } else { self.why(live) };
        if !self.screen.has_progress() {
            if let Some(why) = self.patience.ask(now, why) {
                self.screen.note(why.text(self.peer, wall_clock()));
            }
        } else if now >= self.started + AFTER {
            let line = self.line(now, why);
            self.screen.show(Some(line));
        }
    }

    /// What it waits for: room on our disk before all else, for without it no
    /// other word may have been written; and a quota only when nothing else is in the way.
    fn why(&mut self, live: bool) -> Option<Why> {
        let is_low = self.job.fs.free().is_ok_and(|free| self.job.bounds.left(free, 4) == 0);
        match (is_low, self.job.blocked.cause()) {
            (true, _) | (_, Some("disk_full")) => Some(Why::because("disk_full")),
            (_, cause) => self.waits_for(live).or(cause.map(Why::because)),
        }
    }

    /// Says what the job waits for beyond our own disk.
    pub fn waits_for(&mut self, live: bool) -> Option<Why> {
        let trouble = self.health.look(&self.job.fs, Instant::now());
        Why::of(&*self.job.fs, self.job.msgid(), live, trouble)
    }

    fn line(&mut self, now: Instant, why: Option<Why>) -> String {
        let (dir, _) = self.job.outgoing(Chan::STDIN);
        let handed = offset(&*self.job.fs, &dir).unwrap_or(0);
        let safe = hinted(&*self.job.fs, &format!("{dir}/got")).unwrap_or(0).min(handed);
        let (out, _) = self.job.incoming(Chan::STDOUT);
        let came = hinted(&*self.job.fs, &format!("{out}/read")).unwrap_or(0);
        let rate = self.rate.at(now, safe.saturating_add(came));
        if let Some(why) = why {
            let text = why.text(self.peer, wall_clock());
            return if handed > safe { format!("{text}; {} wait here", HumanBytes(handed - safe)) } else { text };
        }
        let mut parts = Vec::new();
        if handed > 0 {
            let ended = if self.input_ended { "" } else { "…" };
            parts.push(format!("{}{ended} in, {} safe there", HumanBytes(handed), HumanBytes(safe)));
        }
        if came > 0 {
            parts.push(format!("{} out", HumanBytes(came)));
        }
        if parts.is_empty() {
            parts.push("running".into());
        } else {
            parts.push(format!("{}/s", HumanBytes(rate)));
        }
        format!("{}: {}", self.peer, parts.join(", "))
    }
}

/// The end of a log, roughly: sealed bytes, of which some may be half written.
fn offset(fs: &dyn Fs, dir: &str) -> Option<u64> {
    let last = segments(fs, dir).ok()?.pop()?;
    let file = fs.open_log(&format!("{dir}/{last}")).ok()?;
    let mut bytes = [0; HEADER];
    let filled = file.read_at(&mut bytes, 0).ok()?;
    let header = spool::segment::Header::parse(&bytes[..filled]).ok()?;
    header.base.checked_add(file.size().ok()?.saturating_sub(HEADER as u64))
}

/// A rate in bytes a second, smoothed over some seconds.
#[derive(Default)]
struct Rate {
    last: Option<(Instant, u64)>,
    smooth: f64,
}

impl Rate {
    fn at(&mut self, now: Instant, total: u64) -> u64 {
        if let Some((at, before)) = self.last.replace((now, total)) {
            let seconds = now.saturating_duration_since(at).as_secs_f64();
            let weight = 1.0 - (-seconds / 3.0).exp();
            let fresh = total.saturating_sub(before) as f64 / seconds.max(1e-3);
            self.smooth += weight * (fresh - self.smooth);
        }
        self.smooth as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_settles_on_what_flows() {
        let (mut rate, start) = (Rate::default(), Instant::now());
        let shown: Vec<u64> = (0..200u32).map(|n| rate.at(start + n * TICK, u64::from(n) * 200_000)).collect();
        assert!((990_000..=1_000_000).contains(shown.last().unwrap()), "{shown:?}");
    }
}
