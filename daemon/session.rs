//! The daemon's life with one spool, from its lock to the end of both children.
//!
//! Everything here is forgotten when the spool leaves its place. The order of a
//! turn: take in what happened, then give the worker what is due; no timer
//! stands between an event and its order.

use crate::Error;
use crate::child::{Kept, Word};
use crate::clerk::{self, Errand, Notice};
use crate::door::Door;
use crate::keepers::Keepers;
use crate::left::Left;
use crate::schedule::{Because, Schedule};
use crate::supervisor::{Event, Outcome};
use crate::waited::Waited;
use crate::watch::{Seen, Watch};
use crate::why::{self, Whys};
use spool::alive::Life;
use spool::atomic::Disk;
use spool::clock::{self, Clock, System};
use spool::facts::Facts;
use spool::fs::{Fs, Lock};
use spool::home::Home;
use spool::layout::{Owner, Place, SPOOL};
use spool::name::Username;
use spool::report::{Order, Report};
use spool::roster::Roster;
use spool::spool_id::ID;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

#[path = "session_upkeep.rs"]
mod upkeep;

/// Others ask for the lock only to see who has it: that is short.
const LOCK_WAIT: Duration = Duration::from_millis(500);
/// Events taken in before orders are given.
const EVENTS_MAX: usize = 4096;
/// Directories whose peer is read before orders are given.
const SORTED_MAX: usize = 128;
/// PIPE_BUF: as much as a pipe takes whole or not at all.
const ORDERS_MAX: usize = 4096;
/// The longest order line, and some more.
const ORDER: usize = 64;
/// A worker whose pipe is full is told again after this.
const FULL: Duration = Duration::from_millis(20);
/// A peer's word is passed on to the worker at most this often.
const HEARD_APART: Duration = Duration::from_secs(1);
/// Things that are looked at by the clock.
const BEAT: Duration = Duration::from_secs(1);
/// The observed uptime is noted this often.
const MINUTE: Duration = Duration::from_secs(60);

/// All that a daemon knows of one spool.
pub(crate) struct Session {
    program: PathBuf,
    home: Home,
    disk: Arc<Disk>,
    _lock: Lock,
    system: System,
    sender: Sender<Event>,
    watch: Watch,
    schedule: Schedule,
    keepers: Keepers,
    waited: Waited,
    /// Keepers of an earlier session, still to be waited for.
    orphans: Vec<Child>,
    whys: Whys,
    left: Left,
    clerk: Sender<Errand>,
    /// Where we are asked whether we live, or why nobody can.
    door: Result<Door, String>,
    service: Kept,
    worker: Kept,
    /// All that was heard has been taken in.
    caught_up: bool,
    /// Both children are to be told that they run.
    hello: bool,
    /// They ran before.
    ready: bool,
    full_until: Duration,
    passed_on: HashMap<Username, Duration>,
    beat_at: Duration,
    ticked_at: Duration,
    uptime: clock::Keeper,
    /// What names the spool; it is written again if it is lost.
    id: Facts,
    /// What was moved aside, as far as it was told.
    odd: HashSet<String>,
    roster: Roster,
}

impl Session {
    /// Takes the spool. Errors: another daemon has it, the configuration cannot be read.
    pub(crate) fn begin(
        program: &Path,
        home: &Home,
        disk: Arc<Disk>,
        inotify: bool,
        sender: &Sender<Event>,
    ) -> Result<Session, Error> {
        let lock = disk.lock_dir(SPOOL, LOCK_WAIT)?.ok_or_else(|| Error::Busy(home.spool.clone()))?;
        let settings = home.settings()?;
        disk.heal()?;
        let id = Facts::read(&*disk, ID)?.unwrap_or_default();
        tracing::info!(
            "netplumb {} is {}{}, listens on {}, spool {}",
            env!("CARGO_PKG_VERSION"),
            home.username()?,
            if settings.name.is_empty() { String::new() } else { format!(" ({})", settings.name) },
            if settings.listen.is_empty() { "nothing".to_string() } else { settings.listen.join(" ") },
            home.spool.display()
        );
        let seen = sender.clone();
        let watch = Watch::start(&home.spool, inotify, move |it| drop(seen.send(Event::Seen(it))));
        let fs: Arc<dyn Fs> = disk.clone();
        let mut session = Session {
            program: program.to_path_buf(),
            home: home.clone(),
            keepers: Keepers::new(program, settings.ages()),
            waited: Waited::default(),
            clerk: clerk::start(fs),
            disk,
            _lock: lock,
            system: System::default(),
            sender: sender.clone(),
            watch,
            schedule: Schedule::new(),
            orphans: Vec::new(),
            whys: Whys::default(),
            left: Left::default(),
            door: Err(String::new()),
            service: Kept::new("service"),
            worker: Kept::new("loop"),
            caught_up: false,
            hello: true,
            ready: false,
            full_until: Duration::ZERO,
            passed_on: HashMap::new(),
            beat_at: Duration::ZERO,
            ticked_at: Duration::ZERO,
            uptime: clock::Keeper::default(),
            id,
            odd: HashSet::new(),
            roster: Roster::default(),
        };
        session.open_door();
        session.configure();
        // A note that was lost is made again, before anything is measured by it.
        session.tick_clock(Duration::ZERO);
        Ok(session)
    }

    /// Takes over keepers of an earlier session, to wait for their end.
    pub(crate) fn adopt(&mut self, keepers: Vec<Child>) {
        self.orphans = keepers;
    }

    /// Works until it is told to stop, or the spool is gone.
    pub(crate) fn serve(&mut self, events: &Receiver<Event>) -> Outcome {
        loop {
            let now = self.system.now();
            self.start_children(now);
            if now >= self.beat_at {
                self.beat_at = now + BEAT;
                if !self.disk.is_still(&self.home.spool) {
                    return Outcome::Gone;
                }
                self.beat(now);
            }
            self.act(now);
            let wait = self.wake().saturating_sub(self.system.now());
            let (first, mut room) = (events.recv_timeout(wait).ok(), EVENTS_MAX);
            for event in first.into_iter().chain(events.try_iter().take(EVENTS_MAX)) {
                if let Event::Stop = event {
                    return Outcome::Stop;
                }
                self.take_in(event);
                room = room.saturating_sub(1);
            }
            self.caught_up = room > 0;
        }
    }

    /// Lets go: the children are told to go and waited for; gives back the
    /// keepers, which live on.
    pub(crate) fn end(mut self) -> Vec<Child> {
        let now = self.system.now();
        self.service.go(now);
        self.worker.go(now);
        while !(self.service.is_gone() && self.worker.is_gone()) {
            std::thread::sleep(Duration::from_millis(5));
            let now = self.system.now();
            self.service.check(now);
            self.worker.check(now);
        }
        if self.disk.is_still(&self.home.spool) {
            self.tick_clock(self.system.now());
        }
        let mut keepers = self.keepers.leave();
        keepers.append(&mut self.orphans);
        keepers
    }

    fn take_in(&mut self, event: Event) {
        let now = self.system.now();
        match event {
            Event::Seen(Seen::Look(place, msgid)) => self.look(place, msgid, Because::Event, now),
            Event::Seen(Seen::Changed(changes)) => {
                changes.into_iter().for_each(|(place, msgid)| self.look(place, msgid, Because::Event, now));
            }
            Event::Seen(Seen::Found(changes)) => {
                let jobs = || changes.iter().filter(|(place, _)| *place == Place::Jobs).map(|found| found.1);
                self.keepers.look_later(jobs());
                self.waited.look(jobs());
                for (place, msgid) in changes {
                    self.schedule.look(place, msgid, Because::Found, now, &self.system);
                }
            }
            Event::Seen(Seen::Say(text)) => tracing::warn!("{text}"),
            Event::Asked(caller) => caller.answer(&self.life()),
            Event::Worker(generation, word) if self.worker.is_generation(generation) => match word {
                Word::Alive => self.worker.is_alive(),
                Word::Line(line) => self.report(&line, now),
                Word::End => self.worker.ended(now),
            },
            Event::Service(generation, word) if self.service.is_generation(generation) => match word {
                Word::Alive => self.service.is_alive(),
                Word::Line(line) => self.heard(&line, now),
                Word::End => self.service.ended(now),
            },
            Event::Worker(..) | Event::Service(..) => {}
            Event::ChildEnded => self.reap(now),
            Event::Reload => {
                tracing::info!("reading the configuration again");
                self.configure();
                self.worker.tell(&format!("{}\n", Order::Reload));
                self.service.go(now);
            }
            Event::Everything => {
                tracing::info!("everything is due");
                self.schedule.everything();
            }
            Event::Stop => {}
        }
    }

    fn look(&mut self, place: Place, msgid: spool::name::MsgId, because: Because, now: Duration) {
        self.schedule.look(place, msgid, because, now, &self.system);
        if place == Place::Jobs {
            self.keepers.look(msgid);
            self.waited.look([msgid]);
        }
    }

    /// Takes in a line of the worker.
    fn report(&mut self, line: &str, now: Duration) {
        let Some(report) = Report::parse(line) else {
            return tracing::warn!("loop says what is no report: {}", line.escape_debug());
        };
        let Some((place, msgid)) = report.about() else {
            return tracing::warn!("loop reports on what is no message: {}", line.escape_debug());
        };
        tracing::debug!("{}", line.escape_debug());
        let known = self.schedule.was_reported(place, msgid);
        let next = self.schedule.report(&report, now, &self.system).unwrap_or_default();
        if self.whys.note(&report, next, known, now, clock::wall()) {
            self.watch.unseen(place, msgid, || why::clear(&*self.disk, place, msgid));
        }
        let lost = self.left.note(&report);
        if let Some(what) = report.notice.or(lost) {
            let notice = Notice { about: msgid.to_string(), what, peer: report.peer, at: clock::wall() };
            let _ = self.clerk.send(Errand::Notice(notice));
        }
    }

    /// Takes in a line of the service.
    fn heard(&mut self, line: &str, now: Duration) {
        let Ok(Order::Heard(username)) = line.parse() else {
            return tracing::warn!("service says what is no order: {}", line.escape_debug());
        };
        self.schedule.heard(&username, now);
        let last = self.passed_on.get(&username);
        if last.is_none_or(|at| now >= *at + HEARD_APART) && self.worker.tell(&format!("heard {username}\n")) {
            self.passed_on.insert(username, now);
        }
    }

    /// Gives the worker what is due, starts keepers, writes `why` files.
    fn act(&mut self, now: Duration) {
        let disk = self.disk.clone();
        // Keepers first: somebody waits for what a command says, and a process takes a while to begin.
        let lost = self.keepers.tick(&*disk, now, &self.system);
        for msgid in lost.into_iter().chain(self.waited.tick(&*disk, now)) {
            self.schedule.look(Place::Jobs, msgid, Because::Event, now, &self.system);
        }
        self.schedule.sort(SORTED_MAX, &mut |place, msgid| {
            Owner::read(&*disk, &place.dir(msgid)).ok().flatten().map(|owner| owner.username)
        });
        self.schedule.tick(now, &self.system);
        if self.worker.is_running() && now >= self.full_until {
            self.give_orders(now);
        }
        for (place, msgid) in self.whys.due(now) {
            let (watch, whys) = (&self.watch, &mut self.whys);
            watch.unseen(place, msgid, || whys.write(&*disk, (place, msgid), now));
        }
    }

    fn give_orders(&mut self, now: Duration) {
        loop {
            let (mut orders, mut lines) = (Vec::new(), String::new());
            while lines.len() + ORDER <= ORDERS_MAX
                && let Some((place, msgid)) = self.schedule.start(now, &self.system)
            {
                lines.push_str(&format!("{}\n", Order::Look(place, msgid)));
                orders.push((place, msgid));
            }
            if orders.is_empty() {
                return;
            }
            if !self.worker.tell(&lines) {
                orders.into_iter().for_each(|(place, msgid)| self.schedule.unstart(place, msgid));
                self.full_until = now + FULL;
                return;
            }
        }
    }

    fn start_children(&mut self, now: Duration) {
        let (to_worker, to_service) = (self.sender.clone(), self.sender.clone());
        let service = self.service.start(&self.program, now, move |generation, word| {
            let _ = to_service.send(Event::Service(generation, word));
        });
        let worker = self.worker.start(&self.program, now, move |generation, word| {
            let _ = to_worker.send(Event::Worker(generation, word));
        });
        if worker {
            self.schedule.anew();
            self.left.forget();
            self.full_until = Duration::ZERO;
        }
        self.hello |= worker || service;
        if self.hello && self.service.is_running() && self.worker.tell(&format!("{}\n", Order::Hello)) {
            self.hello = false;
            match std::mem::replace(&mut self.ready, true) {
                false => tracing::info!("ready: service and loop run"),
                true => tracing::debug!("service and loop run again"),
            }
        }
    }

    /// Looks which children have ended.
    fn reap(&mut self, now: Duration) {
        self.service.check(now);
        self.worker.check(now);
        self.orphans.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        for msgid in self.keepers.reap(&*self.disk, now, &self.system) {
            self.schedule.look(Place::Jobs, msgid, Because::Event, now, &self.system);
        }
    }

    /// Opens the door, and again where its socket was removed.
    fn open_door(&mut self) {
        let said = match &self.door {
            Ok(_) if Door::is_found(&self.disk) => return,
            Ok(_) => {
                tracing::warn!("{} was gone from the spool: made again", spool::alive::SOCKET);
                ""
            }
            Err(said) => said,
        };
        let sender = self.sender.clone();
        let opened = Door::open(&self.disk, move |caller| drop(sender.send(Event::Asked(caller))));
        self.door = opened.map_err(|error| error.to_string()).inspect_err(|error| {
            if error != said {
                tracing::warn!("{error}: whoever asks whether we live gets no answer");
            }
        });
    }

    /// The answer to whoever asks whether we live.
    fn life(&self) -> Life {
        Life { pid: std::process::id(), service: self.service.life(BEAT), r#loop: self.worker.life(BEAT) }
    }

    /// What is looked at by the clock.
    fn beat(&mut self, now: Duration) {
        if self.caught_up {
            self.service.beat(now);
            self.worker.beat(now);
        }
        self.reap(now);
        self.open_door();
        self.keep_spool();
        self.tell_odd();
        if now >= self.ticked_at + MINUTE {
            self.tick_clock(now);
        }
    }

    /// When there is something to do, if nothing happens.
    fn wake(&self) -> Duration {
        let now = self.system.now();
        let mut schedule = self.schedule.wake(now).map(|after| now + after);
        if self.full_until > now {
            schedule = schedule.map(|at| at.max(self.full_until));
        }
        let children = [self.service.wake(), self.worker.wake()].into_iter().flatten();
        let others = [
            schedule,
            self.keepers.wake(),
            self.waited.wake(),
            self.whys.wake(),
            Some(self.full_until).filter(|at| *at > now),
        ];
        others.into_iter().flatten().chain(children).fold(self.beat_at, Duration::min)
    }
}
