//! Whom we know, who has just spoken, and what is logged about whom.
//!
//! Peers are read again at most once a second, whoever asks, so a stranger
//! learns nothing from the time it takes and costs no more than that. Each
//! kind of log line has its limit: strangers one a minute in all, a peer one a
//! minute for each thing that went wrong.

use crate::lock;
use spool::alive::ALIVE;
use spool::home::{Home, Peer};
use spool::name::Username;
use spool::report::Order;
use spool::roster::Roster;
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tracing::{info, warn};

const LOOKS_APART: Duration = Duration::from_secs(1);
/// Reading the peers takes at most this part of the time.
const COST_PART: u32 = 50;
const HEARD_APART: Duration = Duration::from_secs(1);
const LINES_APART: Duration = Duration::from_secs(60);
/// Lines for the daemon that wait for it; more are dropped, and cost a retry interval.
const HEARD_WAITING: usize = 1024;

/// Which directory `config/peers` is. A sandbox lets us into that one only.
fn identity(home: &Home) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(home.config.join("peers")).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

struct Known {
    roster: Roster,
    next: Option<Instant>,
}

/// The peers of a home.
pub(crate) struct Peers {
    home: Home,
    directory: Option<(u64, u64)>,
    known: Mutex<Known>,
}

impl Peers {
    /// Reads nothing yet.
    pub fn new(home: Home) -> Peers {
        let known = Known { roster: Roster::default(), next: None };
        Peers { directory: identity(&home), home, known: Mutex::new(known) }
    }

    /// The peer with this username, as of at most a second ago.
    pub fn find(&self, from: &Username) -> Option<Arc<Peer>> {
        let mut known = lock(&self.known);
        let now = Instant::now();
        if known.next.is_none_or(|next| now >= next) {
            for trouble in known.roster.read(&self.home) {
                warn!("a peer stays as it was: {trouble}");
            }
            known.next = Some(Instant::now() + LOOKS_APART.max(now.elapsed() * COST_PART));
        }
        known.roster.get(from).cloned()
    }

    /// Has another directory come under the name `config/peers`? One that cannot be looked at has not.
    pub fn replaced(&self) -> bool {
        identity(&self.home).is_some_and(|identity| Some(identity) != self.directory)
    }
}

/// Tells the daemon whom we hear.
pub(crate) struct Heard {
    lines: SyncSender<String>,
    last: Mutex<HashMap<Username, Instant>>,
}

impl Heard {
    /// Writes to `output` on a thread of its own: a reader that is slow keeps nobody waiting.
    pub fn new(mut output: impl Write + Send + 'static) -> std::io::Result<Heard> {
        let (lines, waiting) = sync_channel::<String>(HEARD_WAITING);
        std::thread::Builder::new().name("heard".into()).spawn(move || {
            while let Ok(line) = waiting.recv() {
                // When the daemon is gone, our input ends as well.
                if output.write_all(line.as_bytes()).and_then(|()| output.flush()).is_err() {
                    return;
                }
            }
        })?;
        Ok(Heard { lines, last: Mutex::new(HashMap::new()) })
    }

    /// We live. Without room for the line the daemon does not read, and misses nothing.
    pub fn beat(&self) {
        let _ = self.lines.try_send(format!("{ALIVE}\n"));
    }

    /// An authentic word of this peer came; `now` if it says no more than that.
    pub fn note(&self, peer: &Username, now: bool) {
        let mut last = lock(&self.last);
        if !now && last.get(peer).is_some_and(|last| last.elapsed() < HEARD_APART) {
            return;
        }
        last.insert(peer.clone(), Instant::now());
        let _ = self.lines.try_send(format!("{}\n", Order::Heard(peer.clone())));
    }
}

/// What strangers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Strange {
    /// Not a GET of a plain path without a body.
    Form,
    /// A path that we would not have written.
    Grammar,
    /// Not for us, or from nobody we know.
    Unknown,
    /// A MAC that does not fit.
    Mac,
    /// Crowded out, or too slow.
    Dropped,
}

impl Strange {
    fn word(self) -> &'static str {
        match self {
            Strange::Form => "not a plain GET",
            Strange::Grammar => "bad path",
            Strange::Unknown => "unknown name",
            Strange::Mac => "wrong MAC",
            Strange::Dropped => "connection dropped",
        }
    }
}

/// Counts strangers, and logs them once a minute.
#[derive(Default)]
pub(crate) struct Strangers(Mutex<(Option<Instant>, BTreeMap<Strange, u64>)>);

impl Strangers {
    /// A stranger did this.
    pub fn note(&self, what: Strange) {
        let mut state = lock(&self.0);
        *state.1.entry(what).or_default() += 1;
        if state.0.is_some_and(|last| last.elapsed() < LINES_APART) {
            return;
        }
        let counts: Vec<String> = state.1.iter().map(|(what, count)| format!("{} {count}", what.word())).collect();
        info!("strangers: {}", counts.join(", "));
        *state = (Some(Instant::now()), BTreeMap::new());
    }
}

/// Logs what goes wrong with a peer, once a minute for each thing.
#[derive(Default)]
pub(crate) struct Troubles(Mutex<HashMap<(Username, String), Instant>>);

impl Troubles {
    /// Something was refused or failed. `what` names no message, so that equal things are equal.
    pub fn note(&self, peer: &Peer, doing: &str, what: &str) {
        let mut last = lock(&self.0);
        last.retain(|_, last| last.elapsed() < LINES_APART);
        if last.insert((peer.username.clone(), doing.to_string()), Instant::now()).is_none() {
            warn!(peer = %peer.name, "{doing}: {}", what.escape_debug());
        }
    }
}
