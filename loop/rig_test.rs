//! A real disk, and a peer that is a function: what the loop's own tests stand on.

use crate::World;
use crate::net::{Answer, Body, Get, Net, NetError, Remote};
use crate::patience::PATIENCE;
use crate::peers::Known;
use bytes::Bytes;
use keygen::{Identity, Pair};
use spool::atomic::Disk;
use spool::clock::System;
use spool::crypto::{Key, SpoolKey};
use spool::fs::{Entry, Free, Fs, Lock, LogFile, Result as Done, Stat};
use spool::home::Settings;
use spool::layout::{self, DIRECTORIES, KEY, MESSAGE, Owner, PEER, Place, rest_label};
use spool::name::{Chan, Digest, MsgId, Role, Username};
use spool::segment::{JobKeys, Stream};
use spool::url::{Ask, Path, Reply, What, Word};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub const MSGID: MsgId = MsgId([7; 20]);
const MESSAGE_TEXT: &[u8] = b"a message";

type Say = Arc<dyn Fn(&Get) -> Result<Answer, NetError> + Send + Sync>;

/// Waits until something is so; panics with what it was when the time is up.
pub async fn soon(what: &str, so: impl Fn() -> bool) {
    let started = Instant::now();
    while !so() {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A peer that answers as the function says, after so many milliseconds.
#[derive(Clone)]
pub struct Fake(pub Say, pub Arc<AtomicU64>);

impl Net for Fake {
    async fn get(&self, _remote: &Remote, get: Get) -> Result<Answer, NetError> {
        let answer = (self.0)(&get);
        match self.1.load(Ordering::Relaxed) {
            0 => {}
            millis => tokio::time::sleep(Duration::from_millis(millis)).await,
        }
        match answer {
            Ok(Answer { status: SILENCE, .. }) => std::future::pending().await,
            other => other,
        }
    }
}

/// The status of an answer that never comes.
pub const SILENCE: u16 = 0;

/// A status without anything.
pub fn bare(status: u16, total: Option<u64>) -> Answer {
    Answer { status, start: 0, total, body: Body::Whole(None) }
}

/// Bytes.
pub fn bytes(bytes: Vec<u8>) -> Answer {
    Answer { status: 206, start: 0, total: None, body: Body::Whole(Some(Bytes::from(bytes))) }
}

/// A disk that notes what is changed in the job while nobody has its lock.
pub struct Watched {
    disk: Disk,
    unlocked: Mutex<Vec<String>>,
}

impl Watched {
    fn note(&self, path: &str) {
        let dir = Place::Jobs.dir(MSGID);
        if path.starts_with(&dir) && !self.disk.is_locked(&dir).unwrap() {
            self.unlocked.lock().unwrap().push(path.to_string());
        }
    }

    /// What was changed since the last call while nobody had the lock.
    pub fn unlocked(&self) -> Vec<String> {
        std::mem::take(&mut *self.unlocked.lock().unwrap())
    }
}

impl Fs for Watched {
    fn commit(&self, path: &str, bytes: &[u8]) -> Done<()> {
        self.note(path);
        self.disk.commit(path, bytes)
    }
    fn hint(&self, path: &str, bytes: &[u8]) -> Done<()> {
        self.note(path);
        self.disk.hint(path, bytes)
    }
    fn make_dir(&self, path: &str) -> Done<()> {
        self.disk.make_dir(path)
    }
    fn commit_dir(&self, from: &str, to: &str, files: &[&str]) -> Done<()> {
        self.disk.commit_dir(from, to, files)
    }
    fn rename(&self, from: &str, to: &str) -> Done<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &str) -> Done<()> {
        self.note(path);
        self.disk.remove(path)
    }
    fn sync_dir(&self, path: &str) -> Done<()> {
        self.disk.sync_dir(path)
    }
    fn read(&self, path: &str, max: usize) -> Done<Vec<u8>> {
        self.disk.read(path, max)
    }
    fn stat(&self, path: &str) -> Done<Option<Stat>> {
        self.disk.stat(path)
    }
    fn list(&self, path: &str) -> Done<Vec<Entry>> {
        self.disk.list(path)
    }
    fn create_log(&self, path: &str) -> Done<Box<dyn LogFile>> {
        self.disk.create_log(path)
    }
    fn open_log(&self, path: &str) -> Done<Box<dyn LogFile>> {
        self.disk.open_log(path)
    }
    fn lock_dir(&self, path: &str, wait: Duration) -> Done<Option<Lock>> {
        self.disk.lock_dir(path, wait)
    }
    fn lock_file(&self, path: &str, wait: Duration) -> Done<Option<Lock>> {
        self.disk.lock_file(path, wait)
    }
    fn is_locked(&self, path: &str) -> Done<bool> {
        self.disk.is_locked(path)
    }
    fn touch(&self, path: &str) -> Done<()> {
        self.disk.touch(path)
    }
    fn free(&self) -> Done<Free> {
        self.disk.free()
    }
}

/// One home, as a loop sees it.
pub struct Rig {
    pub directory: tempfile::TempDir,
    pub disk: Arc<Watched>,
    pub world: Arc<World<Fake>>,
    pub known: Arc<Known>,
    pub keys: JobKeys,
    /// What the peer was asked, pulls apart.
    pub asks: Arc<Mutex<Vec<Ask>>>,
    /// How many milliseconds each answer takes.
    pub pace: Arc<AtomicU64>,
}

impl Rig {
    /// A home whose peer answers every request with this word and data, and
    /// pulls as `pulled` says, which is given the path and its offset.
    pub fn new(word: Word, data: &str, pulled: impl Fn(&Get) -> Answer + Send + Sync + 'static) -> Rig {
        let directory = tempfile::tempdir().unwrap();
        let disk = Arc::new(Watched { disk: Disk::open(directory.path()).unwrap(), unlocked: Mutex::default() });
        DIRECTORIES.iter().for_each(|name| disk.make_dir(name).unwrap());
        let [ours, theirs] = [0, 1].map(|_| Identity::generate().unwrap().0);
        let pair = Pair::new(&ours, theirs.chain()).unwrap();
        let (key, data) = (pair.request_out.clone(), data.to_string());
        let asks = Arc::<Mutex<Vec<Ask>>>::default();
        let asked = asks.clone();
        let say = move |get: &Get| match Path::parse(&get.path).map(|path| path.what) {
            Some(What::Request(ask, ..)) => {
                asked.lock().unwrap().push(ask);
                Ok(bytes(Reply { word, data: data.clone().into_bytes() }.seal(&get.path, &key)))
            }
            _ => Ok(pulled(get)),
        };
        let username = theirs.username().clone();
        let remote = Remote { username: username.clone(), addresses: Vec::new() };
        let known = Arc::new(Known { name: "them".parse().unwrap(), remote, pair, policy: Default::default() });
        let (clock, peers) = (Arc::new(System::default()), [(username.clone(), known.clone())].into());
        let (settings, sender) = (Settings::default(), ours.username().clone());
        let spool_key = SpoolKey(Key::random());
        let pace = Arc::new(AtomicU64::new(0));
        let net = Fake(Arc::new(say), pace.clone());
        let world = World::new(disk.clone(), clock.clone(), clock, net, ours, spool_key, settings, peers);
        let keys = JobKeys { secret: Key([5; 32]), sender, recipient: username, msgid: MSGID };
        Rig { directory, disk, world: Arc::new(world), known, keys, asks, pace }
    }

    /// What we pull on a channel of a job that we asked for.
    pub fn stream(&self, chan: Chan) -> Stream {
        Stream { chan, producer: Role::Recipient }
    }

    /// A job that we asked for, with its message still in `queue`.
    pub fn submitted(&self) -> &Rig {
        let digest = Some(Digest::of(MESSAGE_TEXT));
        let peer: Username = self.known.remote.username.clone();
        let owner = Owner::new(&*self.disk, peer, Role::Sender, digest).unwrap().facts();
        let sealed = |name: &str, text: &[u8]| self.world.spool_key.seal(&rest_label(name, MSGID), text);
        for (place, name, text) in [(Place::Jobs, KEY, &self.keys.secret.0[..]), (Place::Queue, MESSAGE, MESSAGE_TEXT)]
        {
            layout::make_dirs(&*self.disk, &place.dir(MSGID)).unwrap();
            owner.hint(&*self.disk, &place.file(MSGID, PEER)).unwrap();
            self.disk.hint(&place.file(MSGID, name), &sealed(name, text)).unwrap();
        }
        layout::make_dirs(&*self.disk, &Place::Jobs.file(MSGID, "out/1")).unwrap();
        // As a `plumb` leaves it that has died.
        self.disk.hint(&Place::Jobs.file(MSGID, layout::PLUMB), b"").unwrap();
        self
    }

    /// The receipt of the recipient for it, as the loop would have put it down.
    pub fn receipted(&self) -> &Rig {
        let given = keygen::pair::receipt(
            &self.known.pair.receipt_expected,
            self.world.ours(),
            &self.known.remote.username,
            MSGID,
            Digest::of(MESSAGE_TEXT),
        );
        let facts = spool::facts::Facts::new().with("receipt", given);
        facts.commit(&*self.disk, &Place::Jobs.file(MSGID, "receipt")).unwrap();
        self.disk.remove(&Place::Queue.dir(MSGID)).unwrap();
        self
    }

    /// Every name below the spool.
    pub fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        self.add_names("", &mut names);
        names.sort();
        names
    }

    fn add_names(&self, dir: &str, names: &mut Vec<String>) {
        for entry in self.disk.list(dir).unwrap() {
            let path = if dir.is_empty() { entry.name } else { format!("{dir}/{}", entry.name) };
            if entry.is_dir {
                self.add_names(&path, names);
            }
            names.push(path);
        }
    }
}
