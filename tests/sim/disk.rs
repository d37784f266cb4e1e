//! A disk in memory, with the operations of which the real verbs consist.
//!
//! Each verb does, in the same order, what `spool/atomic.rs` does: make, write,
//! sync, rename, sync the directory. Each of those is one counted operation,
//! and a fault can be ordered at any of them. A handle belongs to a process;
//! killing a process makes its handles useless and frees its locks. What a
//! power cut leaves is decided in `cut.rs`, from what was synced.

use super::cut::{Change, Journal, Media};
use super::real::Real;
use spool::fs::{self, Entry, Error, Free, Fs, Held, Lock, LogFile, ODD, Result, Stat, is_hidden};
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

/// A file or directory, by its place in the table of nodes.
pub type Id = usize;
/// Every file with its content, every directory with none and a slash at its end.
pub type Tree = BTreeMap<String, Vec<u8>>;
/// A process of the machine that has the disk.
pub type Process = usize;
const ROOT: Id = 0;
const SICK: &str = "sick";
/// The process that looks at a disk from outside.
const OUTSIDE: Process = 0;
const EIO: i32 = 5;
const EMFILE: i32 = 24;

/// What is to happen at an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process that asked for it is killed before it is done.
    Kill,
    /// It is killed when a write is half done.
    KillHalfway,
    /// The machine loses its power before it is done.
    Cut,
    /// No space is left, this time.
    Full,
    /// A write takes half of the bytes, this time.
    Short,
    /// A sync fails, this time.
    Unsynced,
    /// No descriptor is left to make a file with, or to sync one, this time.
    Shortage,
    /// The disk cannot read, this time. Counts looks, not operations.
    Unread,
}

/// What becomes of one file, behind the back of all processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// One bit in the middle is flipped.
    Flip,
    /// The second half is gone.
    Cut,
    /// All bytes are zeros.
    Zero,
    /// It is removed.
    Gone,
    /// It is replaced: a file by a directory, a directory by a file.
    Odd,
}

impl Harm {
    /// What of a file's content is left.
    pub fn of(self, bytes: &mut Vec<u8>) {
        let half = bytes.len() / 2;
        match self {
            Harm::Flip => bytes.iter_mut().skip(half).take(1).for_each(|byte| *byte ^= 4),
            Harm::Cut => bytes.truncate(half),
            Harm::Zero => bytes.fill(0),
            Harm::Gone | Harm::Odd => {}
        }
    }
}

/// What one operation is, as far as faults are concerned.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Needs room.
    Make,
    /// Needs room, and may be done in part.
    Write,
    /// Opens what it syncs.
    Sync,
    /// Of what is open already.
    SyncOpen,
    /// Rename, unlink, truncate.
    Change,
}

#[derive(Clone)]
pub enum Node {
    File(Media),
    Dir { new: BTreeMap<String, Id>, durable: BTreeMap<String, Id> },
}

/// Which syncs and orders are left out, for the negative controls.
#[derive(Clone, Default)]
pub struct Broken {
    /// Syncs do nothing: those whose label has one of these in it.
    pub without_sync: Vec<String>,
    /// `commit_dir` renames first, and syncs the files after that.
    pub mark_first: bool,
    /// A file that cannot be read is said to be absent.
    pub blind: bool,
}

struct State {
    nodes: Vec<Node>,
    journal: Journal,
    locks: BTreeMap<Id, (Weak<()>, Process)>,
    dead: BTreeSet<Process>,
    processes: Process,
    operations: u64,
    looks: u64,
    fault: Option<(u64, Fault)>,
    /// A file, by its general path, and what is to become of it before an operation.
    harm: Option<(u64, String, Harm)>,
    /// All that lay here before each operation, if that is kept.
    kept: Option<Vec<(Instant, Tree)>>,
    /// The operation that was struck, in words.
    struck: Option<String>,
    cut: bool,
    broken: Broken,
    labels: BTreeSet<String>,
    names: u64,
}

/// The disk, as one process sees it; clones are the same process.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    process: Process,
    /// A real directory, which then has all the files.
    real: Option<Arc<Real>>,
}

fn gone(path: &str) -> Error {
    Error::io("reach", path, std::io::Error::other("the process is dead"))
}

fn absent(verb: &'static str, path: &str) -> Error {
    Error::io(verb, path, ErrorKind::NotFound)
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// A path without what differs from run to run: message ids, key ids, random suffixes, numbers.
pub fn general(path: &str) -> String {
    let part = |part: &str| match part {
        _ if part.starts_with('.') => ".hidden".into(),
        _ if part.len() >= 32 => "ID".into(),
        _ if part.parse::<u64>().is_ok() => "N".into(),
        _ => part.to_string(),
    };
    path.split('/').map(part).collect::<Vec<String>>().join("/")
}

impl State {
    fn find(&self, path: &str) -> Option<Id> {
        let mut id = ROOT;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let Node::Dir { new, .. } = &self.nodes[id] else { return None };
            id = *new.get(name)?;
        }
        Some(id)
    }

    fn dir(&self, verb: &'static str, path: &str) -> Result<(Id, &BTreeMap<String, Id>)> {
        match self.find(path).map(|id| (id, &self.nodes[id])) {
            Some((id, Node::Dir { new, .. })) => Ok((id, new)),
            _ => Err(absent(verb, path)),
        }
    }

    /// Harms a file, if its time has come.
    fn strike_file(&mut self) {
        let Some((_, path, harm)) = self.harm.take_if(|(at, _, _)| *at == self.operations) else { return };
        let tree = self.tree();
        let Some(found) = tree.keys().find(|found| general(found) == path) else { return };
        let found = found.trim_end_matches('/');
        self.struck = Some(format!("{harm:?} of {path}"));
        let (dir, name) = split(found);
        let (Some(id), Some(dir)) = (self.find(found), self.find(dir)) else { return };
        let other = match &mut self.nodes[id] {
            Node::File(media) => {
                harm.of(&mut media.new);
                media.sync();
                Node::Dir { new: BTreeMap::new(), durable: BTreeMap::new() }
            }
            Node::Dir { .. } => Node::File(Media::default()),
        };
        let fresh = self.nodes.len();
        let after = match harm {
            Harm::Flip | Harm::Cut | Harm::Zero => return,
            Harm::Gone => None,
            Harm::Odd => {
                self.nodes.push(other);
                Some(fresh)
            }
        };
        self.change(&[(dir, name, after)]);
        self.journal.settle(&mut self.nodes);
    }

    fn tree(&self) -> Tree {
        fn walk(state: &State, id: Id, path: &str, tree: &mut Tree) {
            match &state.nodes[id] {
                Node::File(media) => drop(tree.insert(path.to_string(), media.new.clone())),
                Node::Dir { new, .. } => {
                    tree.insert(format!("{path}/"), Vec::new());
                    for (name, inner) in new {
                        let slash = if path.is_empty() { "" } else { "/" };
                        walk(state, *inner, &format!("{path}{slash}{name}"), tree);
                    }
                }
            }
        }
        let mut tree = Tree::new();
        walk(self, ROOT, "", &mut tree);
        tree
    }

    /// Changes names, in one step of the journal.
    fn change(&mut self, slots: &[(Id, &str, Option<Id>)]) {
        for (dir, name, after) in slots {
            if let Node::Dir { new, .. } = &mut self.nodes[*dir] {
                match after {
                    Some(id) => new.insert(name.to_string(), *id),
                    None => new.remove(*name),
                };
            }
        }
        let slots = slots.iter().map(|(dir, name, after)| (*dir, name.to_string(), *after)).collect();
        self.journal.note(Change { slots });
    }
}

/// One operation of one process: this is where a fault strikes.
struct Op<'a> {
    state: MutexGuard<'a, State>,
    process: Process,
}

impl Op<'_> {
    /// Counts an operation. `Ok(true)`: do half of it, and report what that means.
    fn operate(&mut self, kind: Kind, verb: &'static str, path: &str) -> Result<bool> {
        let state = &mut *self.state;
        if state.cut || state.dead.contains(&self.process) {
            return Err(gone(path));
        }
        state.operations += 1;
        state.strike_file();
        if state.kept.is_some() {
            let tree = state.tree();
            state.kept.iter_mut().for_each(|kept| kept.push((Instant::now(), tree.clone())));
        }
        let Some((_, fault)) = state.fault.filter(|(at, _)| *at == state.operations) else { return Ok(false) };
        let full = || Err(Error::io(verb, path, ErrorKind::StorageFull));
        let what = format!("{fault:?} at {verb} {}", general(path));
        let strike = |state: &mut State| state.struck = Some(what.clone());
        match (fault, kind) {
            (Fault::Kill, _) | (Fault::KillHalfway, Kind::Write) => {
                strike(state);
                self.kill();
                if fault == Fault::Kill { Err(gone(path)) } else { Ok(true) }
            }
            (Fault::Cut, _) => {
                strike(state);
                state.cut = true;
                Err(gone(path))
            }
            (Fault::Full, Kind::Make | Kind::Write) => {
                strike(state);
                full()
            }
            (Fault::Short, Kind::Write) => {
                strike(state);
                Ok(true)
            }
            (Fault::Unsynced, Kind::Sync | Kind::SyncOpen) => {
                strike(state);
                Err(Error::unsynced(path, std::io::Error::from_raw_os_error(EIO)))
            }
            (Fault::Shortage, Kind::Make | Kind::Sync) => {
                strike(state);
                Err(Error::io("open", path, std::io::Error::from_raw_os_error(EMFILE)))
            }
            (Fault::KillHalfway | Fault::Full | Fault::Short | Fault::Unsynced | Fault::Shortage, _) => Ok(false),
            (Fault::Unread, _) => Ok(false),
        }
    }

    /// Counts a look at what lies here, unless it is one from outside.
    fn look(&mut self, verb: &'static str, path: &str) -> Result<()> {
        self.up(path)?;
        let state = &mut *self.state;
        state.looks += u64::from(self.process != OUTSIDE);
        if self.process == OUTSIDE || state.fault != Some((state.looks, Fault::Unread)) {
            return Ok(());
        }
        state.struck = Some(format!("{:?} at {verb} {}", Fault::Unread, general(path)));
        if state.broken.blind {
            Err(absent(verb, path))
        } else {
            Err(Error::io(verb, path, std::io::Error::from_raw_os_error(EIO)))
        }
    }

    fn up(&self, path: &str) -> Result<()> {
        if self.state.cut || self.state.dead.contains(&self.process) { Err(gone(path)) } else { Ok(()) }
    }

    fn kill(&mut self) {
        let process = self.process;
        self.state.dead.insert(process);
        self.state.locks.retain(|_, (_, holder)| *holder != process);
    }

    fn make(&mut self, verb: &'static str, path: &str, node: Node) -> Result<Id> {
        self.up(path)?;
        let (dir, name) = split(path);
        let (dir, names) = self.state.dir(verb, dir)?;
        if names.contains_key(name) {
            return Err(Error::io(verb, path, ErrorKind::AlreadyExists));
        }
        // What changes nothing is no operation.
        self.operate(Kind::Make, verb, path)?;
        let id = self.state.nodes.len();
        self.state.nodes.push(node);
        self.state.change(&[(dir, name, Some(id))]);
        Ok(id)
    }

    fn write(&mut self, verb: &'static str, path: &str, id: Id, bytes: &[u8]) -> Result<()> {
        let half = self.operate(Kind::Write, verb, path)?;
        let bytes = if half { &bytes[..bytes.len() / 2] } else { bytes };
        if let Node::File(media) = &mut self.state.nodes[id] {
            media.new = bytes.to_vec();
        }
        if half {
            self.up(path)?;
            return Err(Error::io(verb, path, ErrorKind::StorageFull));
        }
        Ok(())
    }

    fn sync(&mut self, kind: Kind, label: &str, path: &str, id: Id) -> Result<()> {
        let label = format!("{label} {}", general(path));
        if let Err(error) = self.operate(kind, "sync", path) {
            if error.is_unsynced() && self.state.find(SICK).is_none() {
                let id = self.state.nodes.len();
                self.state.nodes.push(Node::File(Media::whole(format!("sync of {path} failed\n").into_bytes())));
                self.state.change(&[(ROOT, SICK, Some(id))]);
            }
            return Err(error);
        }
        let state = &mut *self.state;
        let left_out = state.broken.without_sync.iter().any(|part| label.contains(part.as_str()));
        state.labels.insert(label);
        if left_out {
            return Ok(());
        }
        if let Node::File(media) = &mut state.nodes[id] {
            media.sync();
        }
        state.journal.sync(id, &mut state.nodes);
        Ok(())
    }

    fn sync_dir(&mut self, kind: Kind, label: &str, path: &str) -> Result<()> {
        let (id, _) = self.state.dir("sync", path)?;
        self.sync(kind, label, path, id)
    }

    /// Several at once: all are tried, and the first trouble is told.
    fn sync_all(&mut self, kind: Kind, label: &str, paths: &[String]) -> Result<()> {
        let synced = paths.iter().map(|path| match self.state.find(path) {
            Some(id) => self.sync(kind, label, path, id),
            None => Err(absent("sync", path)),
        });
        synced.collect::<Vec<_>>().into_iter().fold(Ok(()), Result::and)
    }

    fn rename(&mut self, verb: &'static str, from: &str, to: &str, replace: bool) -> Result<()> {
        self.up(to)?;
        let ((from_dir, from_name), (to_dir, to_name)) = (split(from), split(to));
        let (from_id, names) = self.state.dir(verb, from_dir)?;
        let id = *names.get(from_name).ok_or_else(|| absent(verb, from))?;
        let (to_id, names) = self.state.dir(verb, to_dir)?;
        match names.get(to_name) {
            Some(_) if !replace => return Err(Error::io(verb, to, ErrorKind::AlreadyExists)),
            Some(_) | None => {}
        }
        // What cannot be ours makes way.
        let odd = names.get(to_name).copied().filter(|old| matches!(self.state.nodes[*old], Node::Dir { .. }));
        let aside = self.state.find(ODD).zip(odd);
        self.operate(if verb == "remove" { Kind::Change } else { Kind::Make }, verb, to)?;
        if let Some((aside, old)) = aside {
            self.state.change(&[(aside, &general(to).replace('/', "."), Some(old))]);
        }
        self.state.change(&[(from_id, from_name, None), (to_id, to_name, Some(id))]);
        Ok(())
    }

    fn unlink(&mut self, path: &str) -> Result<()> {
        let (dir, name) = split(path);
        let Ok((dir, names)) = self.state.dir("remove", dir) else { return Ok(()) };
        if !names.contains_key(name) {
            return Ok(());
        }
        self.operate(Kind::Change, "remove", path)?;
        self.state.change(&[(dir, name, None)]);
        Ok(())
    }

    fn temporary(&mut self, path: &str) -> String {
        self.state.names += 1;
        let (dir, name) = split(path);
        let slash = if dir.is_empty() { "" } else { "/" };
        format!("{dir}{slash}.{}.{:08x}", name.trim_start_matches('.'), self.state.names)
    }

    fn write_beside(&mut self, verb: &'static str, path: &str, bytes: &[u8], sync: bool) -> Result<String> {
        let temporary = self.temporary(path);
        let id = self.make(verb, &temporary, Node::File(Media::default()))?;
        let written = self.write(verb, path, id, bytes);
        let synced =
            written.and_then(|()| if sync { self.sync(Kind::SyncOpen, "commit: file", path, id) } else { Ok(()) });
        if synced.is_err() {
            let _ = self.unlink(&temporary);
        }
        synced.map(|()| temporary)
    }

    fn remove_tree(&mut self, path: &str) -> Result<()> {
        let names: Vec<(String, Id)> = match self.state.dir("remove", path) {
            Ok((_, names)) => names.clone().into_iter().collect(),
            Err(_) => Vec::new(),
        };
        for (name, id) in names {
            let inner = format!("{path}/{name}");
            match self.state.nodes[id] {
                Node::Dir { .. } => self.remove_tree(&inner)?,
                Node::File(_) => self.unlink(&inner)?,
            }
        }
        self.unlink(path)
    }
}

impl SimDisk {
    /// An empty spool, and the process that looks at it from outside.
    pub fn new() -> SimDisk {
        let root = Node::Dir { new: BTreeMap::new(), durable: BTreeMap::new() };
        let state = State {
            nodes: vec![root],
            journal: Journal::default(),
            locks: BTreeMap::new(),
            dead: BTreeSet::new(),
            processes: 0,
            operations: 0,
            looks: 0,
            fault: None,
            harm: None,
            kept: None,
            struck: None,
            cut: false,
            broken: Broken::default(),
            labels: BTreeSet::new(),
            names: 0,
        };
        let disk = SimDisk { state: Arc::new(Mutex::new(state)), process: OUTSIDE, real: None };
        for directory in spool::layout::DIRECTORIES {
            disk.plant_dir(directory);
        }
        disk
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn op(&self) -> Op<'_> {
        Op { state: self.state(), process: self.process }
    }

    /// The same disk, for a new process.
    pub fn process(&self) -> SimDisk {
        let mut state = self.state();
        state.processes += 1;
        SimDisk { state: self.state.clone(), process: state.processes, real: self.real.clone() }
    }

    /// Is the process dead that has this handle?
    pub fn is_dead(&self) -> bool {
        self.op().up("").is_err()
    }

    /// Ends the process that has this handle: its locks are free.
    pub fn kill(&self) {
        self.op().kill();
        if let Some(real) = &self.real {
            real.unlock(self.process);
        }
    }

    /// Has the machine lost its power?
    pub fn is_cut(&self) -> bool {
        self.state().cut
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Looks of its processes so far.
    pub fn looks(&self) -> u64 {
        self.state().looks
    }

    /// Orders a fault at this operation, counted from the beginning.
    pub fn strike(&self, fault: Option<(u64, Fault)>) {
        self.state().fault = fault;
    }

    /// Orders harm to a file, named by its general path, before this operation.
    pub fn strike_file(&self, at: u64, path: &str, harm: Harm) {
        self.state().harm = Some((at, path.to_string(), harm));
    }

    /// Keeps what lies here before each operation from here on.
    pub fn keep(&self) {
        self.state().kept = Some(Vec::new());
    }

    /// What was kept, and when.
    pub fn kept(&self) -> Vec<(Instant, Tree)> {
        self.state().kept.take().unwrap_or_default()
    }

    /// The same machine with this real directory for a disk.
    pub fn on(real: Real) -> SimDisk {
        SimDisk { real: Some(Arc::new(real)), ..SimDisk::new() }
    }

    /// Does something with the real directory, if there is one; counted, if it changes something.
    fn really<T>(&self, act: impl FnOnce(&Real) -> Result<(T, bool)>) -> Option<Result<T>> {
        let real = self.real.as_ref()?;
        Some((|| {
            self.op().up("")?;
            let (done, changed) = act(real)?;
            self.state().operations += u64::from(changed);
            Ok(done)
        })())
    }

    /// Counts an operation on an open file of the real directory.
    pub fn counted(&self) -> Result<()> {
        let mut op = self.op();
        op.up("")?;
        op.state.operations += 1;
        Ok(())
    }

    /// What was struck, if a fault was.
    pub fn struck(&self) -> Option<String> {
        self.state().struck.clone()
    }

    /// Leaves things out from here on.
    pub fn break_it(&self, broken: &Broken) {
        self.state().broken = broken.clone();
    }

    /// All syncs that were done, by what they are for.
    pub fn labels(&self) -> BTreeSet<String> {
        self.state().labels.clone()
    }

    /// An independent disk with the same content, all of it durable.
    pub fn fork(&self) -> SimDisk {
        let mut nodes = self.state().nodes.clone();
        Journal::default().settle(&mut nodes);
        let disk = SimDisk::new();
        disk.state().nodes = nodes;
        disk
    }

    /// Comes up after a power cut, with what it left; every process is dead.
    pub fn restart(&self, seed: u64) {
        let mut state = self.state();
        let state = &mut *state;
        state.journal.cut(&mut state.nodes, seed);
        (state.cut, state.fault) = (false, None);
        state.locks.clear();
        state.dead.extend(1..=state.processes);
    }

    /// What a file is sure to hold, wherever the power goes now; `None` if its name may be lost.
    pub fn durable(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.state();
        match &state.nodes[durable_id(&state, path)?] {
            Node::File(media) => Some(media.durable.clone()),
            Node::Dir { .. } => Some(Vec::new()),
        }
    }

    /// The names that are sure to be in a directory.
    pub fn durable_names(&self, path: &str) -> Vec<String> {
        let state = self.state();
        match durable_id(&state, path).map(|id| &state.nodes[id]) {
            Some(Node::Dir { durable, .. }) => durable.keys().cloned().collect(),
            _ => Vec::new(),
        }
    }

    /// Writes a file as it is to be found, in place of any other, without the verbs' care.
    pub fn plant(&self, path: &str, bytes: &[u8]) {
        if let Some(real) = &self.real {
            return real.plant(path, bytes);
        }
        let (dir, name) = split(path);
        self.plant_dir(dir);
        self.plant_node(dir, name, Node::File(Media::whole(bytes.to_vec())));
    }

    /// Takes away what was planted, or anything else.
    pub fn unplant(&self, path: &str) {
        if let Some(real) = &self.real {
            return real.unplant(path);
        }
        let (dir, name) = split(path);
        let mut state = self.state();
        let Some(parent) = state.find(dir) else { return };
        if let Node::Dir { new, durable } = &mut state.nodes[parent] {
            new.remove(name);
            durable.remove(name);
        }
    }

    /// Makes a directory with its parents as it is to be found.
    pub fn plant_dir(&self, path: &str) {
        if let Some(real) = &self.real {
            return real.plant_dir(path);
        }
        if path.is_empty() || self.state().find(path).is_some() {
            return;
        }
        let (dir, name) = split(path);
        self.plant_dir(dir);
        self.plant_node(dir, name, Node::Dir { new: BTreeMap::new(), durable: BTreeMap::new() });
    }

    fn plant_node(&self, dir: &str, name: &str, node: Node) {
        let mut state = self.state();
        let id = state.nodes.len();
        state.nodes.push(node);
        let parent = state.find(dir).expect("just made");
        if let Node::Dir { new, durable } = &mut state.nodes[parent] {
            new.insert(name.to_string(), id);
            durable.insert(name.to_string(), id);
        }
    }

    /// Every file with its content, every directory with none.
    pub fn tree(&self) -> Tree {
        self.real.as_ref().map_or_else(|| self.state().tree(), |real| real.tree())
    }
}

fn durable_id(state: &State, path: &str) -> Option<Id> {
    path.split('/').filter(|name| !name.is_empty()).try_fold(ROOT, |id, name| match &state.nodes[id] {
        Node::Dir { durable, .. } => durable.get(name).copied(),
        Node::File(_) => None,
    })
}

impl Fs for SimDisk {
    fn commit(&self, path: &str, bytes: &[u8]) -> Result<()> {
        if let Some(done) = self.really(|real| Ok((real.disk.commit(path, bytes)?, true))) {
            return done;
        }
        let mut op = self.op();
        let temporary = op.write_beside("commit", path, bytes, true)?;
        if let Err(error) = op.rename("commit", &temporary, path, false) {
            let _ = op.unlink(&temporary);
            return Err(error);
        }
        op.sync_dir(Kind::SyncOpen, &format!("commit: name {}", general(path)), split(path).0)
    }

    fn hint(&self, path: &str, bytes: &[u8]) -> Result<()> {
        if let Some(done) = self.really(|real| Ok((real.disk.hint(path, bytes)?, true))) {
            return done;
        }
        let mut op = self.op();
        let temporary = op.write_beside("hint", path, bytes, false)?;
        op.rename("hint", &temporary, path, true)
    }

    fn make_dir(&self, path: &str) -> Result<()> {
        if let Some(done) = self.really(|real| Ok((real.disk.make_dir(path)?, true))) {
            return done;
        }
        let node = Node::Dir { new: BTreeMap::new(), durable: BTreeMap::new() };
        self.op().make("make", path, node).map(drop)
    }

    fn commit_dir(&self, from: &str, to: &str, files: &[&str]) -> Result<()> {
        if let Some(done) = self.really(|real| Ok((real.disk.commit_dir(from, to, files)?, true))) {
            return done;
        }
        let mut op = self.op();
        let to_general = general(to);
        let sync_files = |op: &mut Op, dir: &str| {
            let paths: Vec<String> = files.iter().map(|name| format!("{dir}/{name}")).collect();
            op.sync_all(Kind::Sync, &format!("commit_dir {to_general}: file"), &paths)
        };
        let mark_first = op.state.broken.mark_first;
        if !mark_first {
            sync_files(&mut op, from)?;
            op.sync_dir(Kind::Sync, &format!("commit_dir {to_general}: itself"), from)?;
        }
        op.rename("commit", from, to, false)?;
        let parents = [split(to).0.to_string(), split(from).0.to_string()];
        let parents = if parents[0] == parents[1] { &parents[..1] } else { &parents };
        op.sync_all(Kind::SyncOpen, &format!("commit_dir {to_general}: parent"), parents)?;
        if mark_first {
            sync_files(&mut op, to)?;
            op.sync_dir(Kind::Sync, &format!("commit_dir {to_general}: itself"), to)?;
        }
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        if let Some(done) = self.really(|real| Ok((real.disk.rename(from, to)?, true))) {
            return done;
        }
        self.op().rename("rename", from, to, false)
    }

    fn remove(&self, path: &str) -> Result<()> {
        if let Some(done) = self.really(|real| {
            let there = real.disk.exists(path);
            Ok((real.disk.remove(path)?, there))
        }) {
            return done;
        }
        let mut op = self.op();
        op.up(path)?;
        match op.state.find(path).map(|id| &op.state.nodes[id]) {
            None => return Ok(()),
            Some(Node::File(_)) => return op.unlink(path),
            Some(Node::Dir { .. }) => {}
        }
        let leaving = if is_hidden(split(path).1) { path.to_string() } else { op.temporary(&format!("{path}.del")) };
        if leaving != path {
            op.rename("remove", path, &leaving, false)?;
        }
        op.remove_tree(&leaving)
    }

    fn sync_dir(&self, path: &str) -> Result<()> {
        if let Some(done) = self.really(|real| Ok((real.disk.sync_dir(path)?, false))) {
            return done;
        }
        let mut op = self.op();
        op.up(path)?;
        op.sync_dir(Kind::Sync, "sync_dir", path)
    }

    fn sync_all(&self, paths: &[&str]) -> Result<()> {
        if let Some(done) = self.really(|real| Ok((real.disk.sync_all(paths)?, false))) {
            return done;
        }
        let paths: Vec<String> = paths.iter().map(|path| path.to_string()).collect();
        self.op().sync_all(Kind::Sync, "sync_all", &paths)
    }

    fn read(&self, path: &str, max: usize) -> Result<Vec<u8>> {
        if let Some(done) = self.really(|real| Ok((real.disk.read(path, max)?, false))) {
            return done;
        }
        let mut op = self.op();
        op.look("read", path)?;
        match op.state.find(path).map(|id| &op.state.nodes[id]) {
            Some(Node::File(media)) if media.new.len() <= max => Ok(media.new.clone()),
            Some(_) => Err(Error::damaged(path, "not a file, or too long")),
            None => Err(absent("read", path)),
        }
    }

    fn stat(&self, path: &str) -> Result<Option<Stat>> {
        if let Some(done) = self.really(|real| Ok((real.disk.stat(path)?, false))) {
            return done;
        }
        let mut op = self.op();
        op.look("look at", path)?;
        Ok(op.state.find(path).map(|id| match &op.state.nodes[id] {
            Node::File(media) => Stat { kind: fs::Kind::File, size: media.new.len() as u64 },
            Node::Dir { .. } => Stat { kind: fs::Kind::Dir, size: 4096 },
        }))
    }

    fn list(&self, path: &str) -> Result<Vec<Entry>> {
        if let Some(done) = self.really(|real| Ok((real.disk.list(path)?, false))) {
            return done;
        }
        let mut op = self.op();
        op.look("list", path)?;
        let Ok((_, names)) = op.state.dir("list", path) else { return Ok(Vec::new()) };
        let entry = |(name, id): (&String, &Id)| Entry {
            name: name.clone(),
            is_dir: matches!(op.state.nodes[*id], Node::Dir { .. }),
        };
        Ok(names.iter().map(entry).collect())
    }

    fn create_log(&self, path: &str) -> Result<Box<dyn LogFile>> {
        if let Some(done) = self.really(|real| Ok((real.log(self, real.disk.create_log(path)?), true))) {
            return done;
        }
        let id = self.op().make("make", path, Node::File(Media::log()))?;
        Ok(Box::new(SimLog { disk: self.clone(), id, path: path.to_string(), end: 0 }))
    }

    fn open_log(&self, path: &str) -> Result<Box<dyn LogFile>> {
        if let Some(done) = self.really(|real| Ok((real.log(self, real.disk.open_log(path)?), false))) {
            return done;
        }
        let mut op = self.op();
        op.look("open", path)?;
        let id = op.state.find(path).ok_or_else(|| absent("open", path))?;
        let Node::File(media) = &op.state.nodes[id] else { return Err(Error::damaged(path, "not a file")) };
        let end = media.new.len();
        Ok(Box::new(SimLog { disk: self.clone(), id, path: path.to_string(), end }))
    }

    fn lock_dir(&self, path: &str, _wait: Duration) -> Result<Option<Lock>> {
        if let Some(done) =
            self.really(|real| Ok((real.lock(self.process, real.disk.lock_dir(path, Duration::ZERO)?), false)))
        {
            return done;
        }
        let mut op = self.op();
        op.up(path)?;
        let id = op.state.find(path).ok_or_else(|| absent("lock", path))?;
        if op.state.locks.get(&id).is_some_and(|(lock, _)| lock.strong_count() > 0) {
            return Ok(None);
        }
        let alive = Arc::new(());
        let process = op.process;
        op.state.locks.insert(id, (Arc::downgrade(&alive), process));
        Ok(Some(Box::new(SimLock { disk: self.clone(), id, _alive: alive })))
    }

    fn lock_file(&self, path: &str, wait: Duration) -> Result<Option<Lock>> {
        if let Some(done) = self.really(|real| {
            let there = real.disk.exists(path);
            Ok((real.lock(self.process, real.disk.lock_file(path, Duration::ZERO)?), !there))
        }) {
            return done;
        }
        let mut op = self.op();
        op.up(path)?;
        if op.state.find(path).is_none() {
            op.make("lock", path, Node::File(Media::default()))?;
        }
        drop(op);
        self.lock_dir(path, wait)
    }

    fn is_locked(&self, path: &str) -> Result<bool> {
        if let Some(done) = self.really(|real| Ok((real.disk.is_locked(path)?, false))) {
            return done;
        }
        let mut op = self.op();
        op.look("lock", path)?;
        let lock = op.state.find(path).and_then(|id| op.state.locks.get(&id));
        Ok(lock.is_some_and(|(lock, _)| lock.strong_count() > 0))
    }

    fn touch(&self, path: &str) -> Result<()> {
        self.op().up(path)
    }

    fn free(&self) -> Result<Free> {
        self.op().up("")?;
        Ok(Free { bytes: u64::MAX, inodes: u64::MAX })
    }
}

struct SimLock {
    disk: SimDisk,
    id: Id,
    /// Others see the lock for as long as this lives.
    _alive: Arc<()>,
}

impl Held for SimLock {
    fn is_at(&self, path: &str) -> Result<bool> {
        let op = self.disk.op();
        op.up(path)?;
        Ok(op.state.find(path) == Some(self.id))
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

struct SimLog {
    disk: SimDisk,
    id: Id,
    path: String,
    /// Where the next bytes go, as this handle believes.
    end: usize,
}

impl LogFile for SimLog {
    fn append(&mut self, bytes: &[u8]) -> Result<usize> {
        let mut op = self.disk.op();
        if matches!(&op.state.nodes[self.id], Node::File(media) if media.new.len() != self.end) {
            return Err(Error::damaged(&self.path, "somebody else changed its size"));
        }
        let half = op.operate(Kind::Write, "append to", &self.path)?;
        let count = if half { bytes.len() / 2 } else { bytes.len() };
        if let Node::File(media) = &mut op.state.nodes[self.id] {
            media.write_at(self.end, &bytes[..count]);
        }
        op.up(&self.path)?;
        self.end += count;
        if half && count == 0 {
            return Err(Error::io("append to", &self.path, ErrorKind::StorageFull));
        }
        Ok(count)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut op = self.disk.op();
        op.look("read", &self.path)?;
        let Node::File(media) = &op.state.nodes[self.id] else { return Err(absent("read", &self.path)) };
        let rest = media.new.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn size(&self) -> Result<u64> {
        let mut op = self.disk.op();
        op.look("look at", &self.path)?;
        let Node::File(media) = &op.state.nodes[self.id] else { return Err(absent("look at", &self.path)) };
        Ok(media.new.len() as u64)
    }

    fn is_at(&self, path: &str) -> Result<bool> {
        let op = self.disk.op();
        op.up(path)?;
        Ok(op.state.find(path) == Some(self.id))
    }

    fn sync(&self) -> Result<()> {
        self.disk.op().sync(Kind::SyncOpen, "log", &self.path, self.id)
    }

    fn truncate(&mut self, size: u64) -> Result<()> {
        let mut op = self.disk.op();
        op.operate(Kind::Change, "truncate", &self.path)?;
        if let Node::File(media) = &mut op.state.nodes[self.id] {
            media.truncate(size as usize);
        }
        self.end = size as usize;
        Ok(())
    }
}
