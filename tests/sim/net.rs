//! The way between the two, and the service at each end of it.
//!
//! [`Service`] does with a request what the real one does: parse, check the
//! MAC, `Desk::attend`, seal the reply. A pull is answered as `service/pull.rs`
//! answers it, without waiting. Between the two anything can happen to a
//! message, by the seed ([`Weather`]). Whatever a side states to the other is
//! held against what is durable on its own disk at that moment.

use super::cut::Chance;
use super::disk::SimDisk;
use super::people::{people, settings};
use bytes::Bytes;
use r#loop::net::{Answer, Body, Get, Net, NetError, Remote};
use service::request::{Attended, Desk};
use spool::clock::Clock;
use spool::facts::Facts;
use spool::fs::{self, Error, Fs, LogFile};
use spool::layout::{Owner, Place, SEALED, log_in, log_out};
use spool::log::segments;
use spool::name::{Chan, MsgId};
use spool::phase::Mark;
use spool::segment::{HEADER, Header};
use spool::url::{Ask, Path, Reply, What, Word};
use std::collections::HashMap;
use std::future::{Future, ready};
use std::sync::{Arc, Mutex, MutexGuard};

/// How often something goes wrong on the way, of a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// The request is lost, before anybody handled it.
    pub lose_request: u64,
    /// The reply is lost, after it was handled.
    pub lose_reply: u64,
    /// An earlier request comes once more.
    pub replay: u64,
    /// The reply breaks off at some byte.
    pub cut: u64,
    /// The reply is another one: a bare status, or a flipped bit.
    pub forge: u64,
}

/// The network, and both services.
pub struct Wire {
    state: Mutex<State>,
    clock: Arc<dyn Clock>,
}

struct State {
    disks: [SimDisk; 2],
    services: [Option<Service>; 2],
    weather: Weather,
    chance: Chance,
    captured: Vec<(usize, Get)>,
    checked: bool,
    violations: Vec<String>,
}

impl Wire {
    /// A network between two machines, with fine weather.
    pub fn new(disks: [SimDisk; 2], clock: Arc<dyn Clock>, seed: u64) -> Arc<Wire> {
        let state = State {
            disks,
            services: [None, None],
            weather: Weather::default(),
            chance: Chance(seed),
            captured: Vec::new(),
            checked: true,
            violations: Vec::new(),
        };
        Arc::new(Wire { state: Mutex::new(state), clock })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Changes what happens on the way.
    pub fn set_weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    /// Leaves out the checks of what is told: for spools that are damaged from the start.
    pub fn unchecked(&self) {
        self.state().checked = false;
    }

    /// What was stated and was not so.
    pub fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    /// Starts the service of a machine, if it is not running.
    pub fn revive(&self, who: usize) {
        let mut state = self.state();
        if state.services[who].as_ref().is_none_or(|service| service.disk.is_dead()) {
            let disk = state.disks[who].process();
            state.services[who] = Service::start(who, disk, self.clock.clone());
        }
    }

    /// Ends the service of a machine.
    pub fn kill(&self, who: usize) {
        self.state().services[who].iter().for_each(|service| service.disk.kill());
    }

    fn get(&self, from: usize, get: Get) -> Result<Answer, NetError> {
        let mut state = self.state();
        let state = &mut *state;
        if state.checked {
            check_statement(&state.disks[from], &get.path, &mut state.violations);
        }
        let to = 1 - from;
        let weather = state.weather;
        if state.chance.happens(weather.replay) && !state.captured.is_empty() {
            let which = state.chance.below(state.captured.len() as u64) as usize;
            let (to, again) = state.captured[which].clone();
            let _ = state.serve(to, &again);
        }
        if state.chance.happens(weather.lose_request) {
            return Err(NetError::Http("the request was lost".into()));
        }
        if weather.replay > 0 {
            state.captured.push((to, get.clone()));
        }
        let (status, start, total, mut body) = state.serve(to, &get)?;
        if state.chance.happens(weather.lose_reply) {
            return Err(NetError::Http("the reply was lost".into()));
        }
        if state.chance.happens(weather.cut) {
            body.truncate(state.chance.below(body.len() as u64 + 1) as usize);
        }
        if state.chance.happens(weather.forge) {
            return Ok(state.forged(start, body));
        }
        Ok(answer(status, start, total, body))
    }
}

fn answer(status: u16, start: u64, total: Option<u64>, body: Vec<u8>) -> Answer {
    Answer { status, start, total, body: Body::Whole(Some(Bytes::from(body)).filter(|body| !body.is_empty())) }
}

type Served = (u16, u64, Option<u64>, Vec<u8>);

impl State {
    fn serve(&mut self, to: usize, get: &Get) -> Result<Served, NetError> {
        let unreachable = || NetError::Unreachable { address: "there".into(), reason: "nobody listens".into() };
        let service = self.services[to].as_mut().filter(|service| !service.disk.is_dead()).ok_or_else(unreachable)?;
        let mut said = None;
        let served = service.serve(get, &mut said);
        // What a process that died meanwhile had to say never left it.
        if service.disk.is_dead() {
            return Err(unreachable());
        }
        if let (Some((msgid, ask, reply)), true) = (said, self.checked) {
            check_reply(&self.disks[to], msgid, &ask, &reply, &mut self.violations);
        }
        Ok(served)
    }

    fn forged(&mut self, start: u64, mut body: Vec<u8>) -> Answer {
        match self.chance.below(4) {
            0 => answer(404, 0, None, Vec::new()),
            1 => answer(416, 0, Some(self.chance.below(2000)), Vec::new()),
            2 => answer(204, 0, None, Vec::new()),
            _ => {
                if !body.is_empty() {
                    let at = self.chance.below(body.len() as u64) as usize;
                    body[at] ^= 1 << self.chance.below(8);
                }
                answer(206, start, None, body)
            }
        }
    }
}

/// One side's way to the other.
#[derive(Clone)]
pub struct SimNet {
    pub wire: Arc<Wire>,
    pub from: usize,
}

impl Net for SimNet {
    fn get(&self, _remote: &Remote, get: Get) -> impl Future<Output = Result<Answer, NetError>> + Send {
        ready(self.wire.get(self.from, get))
    }
}

/// A service process.
struct Service {
    who: usize,
    disk: SimDisk,
    desk: Desk,
    channels: HashMap<(MsgId, Chan), Channel>,
}

/// What a service remembers of a log.
struct Channel {
    chan: Chan,
    got: u64,
    /// By segment: its header, and how much of it is durable.
    synced: HashMap<u64, ([u8; HEADER], u64)>,
    named: bool,
}

impl Service {
    /// As `Service::bind`: what a predecessor was killed over is made durable first.
    fn start(who: usize, disk: SimDisk, clock: Arc<dyn Clock>) -> Option<Service> {
        for place in Place::ALL {
            disk.sync_dir(place.word()).ok()?;
        }
        let desk = Desk::new(Arc::new(disk.clone()), settings(), clock);
        Some(Service { who, disk, desk, channels: HashMap::new() })
    }

    fn serve(&mut self, get: &Get, said: &mut Option<(MsgId, Ask, Reply)>) -> Served {
        let stranger = (404, 0, None, Vec::new());
        let person = &people()[self.who];
        let Some(path) = Path::parse(&get.path) else { return stranger };
        let known = path.from.as_ref() == Some(&person.peer.username) && path.verify(&person.peer.request_key);
        if path.to != *person.username() || !known {
            return stranger;
        }
        match path.what {
            What::Cert(_) | What::Turn(_) => stranger,
            What::Request(ask, msgid, _) => {
                let Attended { reply, .. } = self.desk.attend(&person.peer, &ask, msgid);
                let Some(reply) = reply else { return stranger };
                let body = reply.seal(&get.path, &person.peer.request_key);
                *said = Some((msgid, ask, reply));
                (200, 0, None, body)
            }
            What::Queue(msgid) => settled(self.message(msgid, get), stranger),
            What::Seg { msgid, chan, n, got } => settled(self.segment(msgid, chan, n, got, get), stranger),
        }
    }

    fn is_theirs(&self, dir: &str) -> fs::Result<bool> {
        Ok(Owner::read(&self.disk, dir)?.is_some_and(|owner| owner.username == people()[self.who].peer.username))
    }

    fn message(&self, msgid: MsgId, get: &Get) -> fs::Result<Option<Served>> {
        let dir = Place::Queue.dir(msgid);
        if !self.is_theirs(&dir)? || !self.disk.is_there(&format!("{dir}/{}", Mark::SendOk.name()))? {
            return Ok(None);
        }
        let Some(file) = open(&self.disk, &Place::Queue.file(msgid, SEALED))? else { return Ok(None) };
        let size = file.size()?;
        if get.from >= size {
            return Ok(Some((416, 0, Some(size), Vec::new())));
        }
        Ok(Some((206, get.from, Some(size), read(&*file, get, size)?)))
    }

    fn segment(&mut self, msgid: MsgId, chan: Chan, n: u64, got: u64, get: &Get) -> fs::Result<Option<Served>> {
        if !self.is_theirs(&Place::Jobs.dir(msgid))? {
            return Ok(None);
        }
        let new = || Channel { chan, got: 0, synced: HashMap::new(), named: false };
        let channel = self.channels.entry((msgid, chan)).or_insert_with(new);
        if got > channel.got {
            channel.got = got;
            self.desk.got(&people()[self.who].peer, msgid, chan, got);
        }
        let dir = log_out(msgid, chan);
        let Some(next) = n.checked_add(1) else { return Ok(None) };
        let closed = self.disk.is_there(&format!("{dir}/{next}"))?;
        let Some(file) = open(&self.disk, &format!("{dir}/{n}"))? else { return Ok(None) };
        let size = file.size()?;
        let mut header = [0; HEADER];
        if file.read_at(&mut header, 0)? < HEADER && !closed {
            return Ok(None);
        }
        if get.from >= size {
            return Ok(Some(match closed {
                true => (416, 0, Some(size), Vec::new()),
                false if get.from > size => (416, 0, None, Vec::new()),
                false => (204, 0, None, Vec::new()),
            }));
        }
        let known = channel.synced.get(&n).filter(|(of, _)| *of == header).map_or(0, |(_, size)| *size);
        if known <= get.from {
            // A segment whose sync failed is removed, and never offered.
            match channel.sync(&self.disk, msgid, n, known == 0, &*file) {
                Err(Error::Unsynced { .. }) => {
                    let _ = self.disk.remove(&format!("{dir}/{n}"));
                    let reason = Facts::new().with("reason", "a sync has failed");
                    let _ = reason.hint(&self.disk, &Place::Jobs.file(msgid, Mark::Cancel.name()));
                    return Ok(None);
                }
                other => other?,
            }
            channel.synced.insert(n, (header, size));
        }
        let offered = channel.synced.get(&n).map_or(0, |(_, size)| *size).min(size);
        Ok(Some((206, get.from, closed.then_some(size), read(&*file, get, offered)?)))
    }
}

impl Channel {
    /// Makes a segment durable; the first time its name too, and those above a new log.
    fn sync(&mut self, disk: &SimDisk, msgid: MsgId, n: u64, first: bool, file: &dyn LogFile) -> fs::Result<()> {
        if !first {
            return file.sync();
        }
        let (dir, chan) = (Place::Jobs.dir(msgid), log_out(msgid, self.chan));
        let paths = [format!("{chan}/{n}"), chan, format!("{dir}/out"), dir];
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        disk.sync_all(if self.named { &paths[..2] } else { &paths })?;
        self.named = true;
        Ok(())
    }
}

fn open(disk: &SimDisk, path: &str) -> fs::Result<Option<Box<dyn LogFile>>> {
    match disk.open_log(path) {
        Err(error) if error.is_absent() => Ok(None),
        other => other.map(Some),
    }
}

/// What is answered: whoever has nothing to give is a stranger, and a disk that does not say may say it later.
fn settled(found: fs::Result<Option<Served>>, stranger: Served) -> Served {
    match found {
        Ok(served) => served.unwrap_or(stranger),
        Err(_) => (503, 0, None, Vec::new()),
    }
}

fn read(file: &dyn LogFile, get: &Get, size: u64) -> fs::Result<Vec<u8>> {
    let end = get.until.map_or(size, |until| size.min(until));
    let mut bytes = vec![0; end.saturating_sub(get.from) as usize];
    let count = file.read_at(&mut bytes, get.from)?;
    bytes.truncate(count);
    Ok(bytes)
}

/// What a request says must be durable at whoever says it.
fn check_statement(disk: &SimDisk, path: &str, violations: &mut Vec<String>) {
    let Some(path) = Path::parse(path) else { return };
    let held = |msgid, chan, got| durable_end(disk, &log_in(msgid, chan)) >= got;
    let so = match path.what {
        What::Request(Ask::Rcp(_), msgid, _) => is_delivered(disk, msgid),
        What::Request(Ask::Got(chan, got), msgid, _) | What::Seg { msgid, chan, got, .. } => held(msgid, chan, got),
        What::Request(..) | What::Cert(_) | What::Queue(_) | What::Turn(_) => true,
    };
    if !so {
        let what = path.what.to_string();
        let words: Vec<&str> = what.split('/').filter(|word| word.len() < 20).collect();
        violations.push(format!("said and not durable: {}", words.join(" ")));
    }
}

/// What a reply says must be durable at whoever says it.
fn check_reply(disk: &SimDisk, msgid: MsgId, ask: &Ask, reply: &Reply, violations: &mut Vec<String>) {
    let there = |path: String| disk.durable(&path).is_some_and(|bytes| !bytes.is_empty());
    let so = match (ask, reply.word) {
        (Ask::Msg, Word::Ok) => {
            let file = |name: &str| Place::Rqueue.file(msgid, name);
            there(file("onetime/key")) && there(file("onetime/cert.pem")) && there(file(Mark::PeerOk.name()))
        }
        (_, Word::Done) if reply.data.starts_with(b"receipt") => is_delivered(disk, msgid),
        (Ask::Cxl, Word::Done) => there(Place::Jobs.file(msgid, Mark::Over.name())),
        _ => true,
    };
    if !so {
        let what = String::from_utf8_lossy(&reply.data).chars().take(10).collect::<String>();
        violations.push(format!("answered and not durable: {} {:?} {what}", ask.verb(), reply.word));
    }
}

fn is_delivered(disk: &SimDisk, msgid: MsgId) -> bool {
    let there = |name: &str| disk.durable(&Place::Jobs.file(msgid, name)).is_some_and(|bytes| !bytes.is_empty());
    there("peer") && (there("message") || there(Mark::Over.name()))
}

/// Where the copy of a log ends that no power cut can take.
fn durable_end(disk: &SimDisk, dir: &str) -> u64 {
    let numbers = segments(disk, dir).unwrap_or_default();
    let names = disk.durable_names(dir);
    let ends = numbers.iter().filter(|n| names.contains(&n.to_string())).filter_map(|n| {
        let bytes = disk.durable(&format!("{dir}/{n}"))?;
        Some(Header::parse(&bytes).ok()?.base + (bytes.len() - HEADER) as u64)
    });
    ends.max().unwrap_or(0)
}
