//! A home made by hand, a service in front of it, and the smallest of HTTP clients.
#![allow(dead_code)]

#[path = "../../../tests/patience.rs"]
pub mod patience;

use patience::PATIENCE;
use spool::atomic::Disk;
use spool::crypto::Key;
use spool::facts::Facts;
use spool::fs::Fs;
use spool::home::Home;
use spool::layout::{Owner, PEER, Place};
use spool::name::{Chan, Digest, KeyId, MsgId, Nonce, Role, Username};
use spool::segment::{JobKeys, Stream};
use spool::url::{Ask, Reply, What, sign};
use std::collections::BTreeMap;
use std::io::{BufRead, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// The peer that the tests speak for.
pub const ALICE: &str = "alice";
/// Another peer, who should see nothing of it.
pub const BOB: &str = "bob";

pub fn username(name: &str) -> Username {
    Username::of_ca(name.as_bytes())
}

pub fn key(name: &str) -> Key {
    Key(Digest::of(name.as_bytes()).0)
}

pub struct Site {
    pub directory: tempfile::TempDir,
    pub home: Home,
    pub fs: Arc<Disk>,
}

/// A home with two peers, some certificates, and keys in stock.
pub fn site(stock: usize) -> Site {
    let directory = tempfile::tempdir().unwrap();
    let home = Home { config: directory.path().join("config"), spool: directory.path().join("spool") };
    let write = |path: &str, text: &str| {
        let path = home.config.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("certs/username", username("ours").as_str());
    for cert in ["ca", "verify", "peer"] {
        write(&format!("certs/{cert}.pem"), &format!("certificate {cert}\n"));
    }
    write("private/sign.pem", "secret");
    write("netplumb.toml", "listen = [\"127.0.0.1:0\"]\nfree_bytes_min = 0\nfree_inodes_min = 0\n");
    for peer in [ALICE, BOB] {
        write(&format!("peers/{peer}/username"), username(peer).as_str());
        write(&format!("peers/{peer}/request.key"), &Digest(key(peer).0).to_string());
        write(&format!("peers/{peer}/peer.toml"), "");
    }
    home.name_spool(&home.make_spool().unwrap()).unwrap();
    let fs = home.open_spool().unwrap();
    for n in 0..stock {
        let dir = format!("onetime/{}", KeyId(std::array::from_fn(|at| if at == 0 { n as u8 } else { 7 })));
        fs.make_dir(&dir).unwrap();
        fs.hint(&format!("{dir}/cert.pem"), format!("one-time certificate {n}\n").as_bytes()).unwrap();
        fs.hint(&format!("{dir}/key"), format!("sealed key {n}").as_bytes()).unwrap();
    }
    Site { directory, home, fs }
}

impl Site {
    /// A directory of a message or job, with its `peer` file.
    pub fn directory(&self, place: Place, msgid: MsgId, peer: &str, role: Role) {
        self.fs.make_dir(&place.dir(msgid)).unwrap();
        let owner = Owner::new(&*self.fs, username(peer), role, None).unwrap();
        owner.facts().hint(&*self.fs, &place.file(msgid, PEER)).unwrap();
    }

    /// A file of a message or job; lines of facts get their checksum.
    pub fn file(&self, place: Place, msgid: MsgId, name: &str, text: &str) {
        let path = place.file(msgid, name);
        let content = if text.contains('=') { Facts::parse(text.as_bytes()).content(&path) } else { text.into() };
        self.fs.hint(&path, &content).unwrap();
    }

    /// A job of Alice's that we run, with an outgoing log for this channel.
    pub fn job(&self, msgid: MsgId, chan: Chan) -> spool::log::Writer {
        if !self.fs.exists(&Place::Jobs.dir(msgid)) {
            self.directory(Place::Jobs, msgid, ALICE, Role::Recipient);
        }
        let dir = spool::layout::log_out(msgid, chan);
        spool::layout::make_dirs(&*self.fs, &dir).unwrap();
        self.writer(msgid, chan)
    }

    pub fn keys(&self, msgid: MsgId) -> JobKeys {
        JobKeys { secret: key("job"), sender: username(ALICE), recipient: username("ours"), msgid }
    }

    pub fn writer(&self, msgid: MsgId, chan: Chan) -> spool::log::Writer {
        let keys = self.keys(msgid);
        let stream = Stream { chan, producer: Role::Recipient };
        spool::log::Writer::open(self.fs.clone(), &spool::layout::log_out(msgid, chan), keys, stream).unwrap()
    }

    /// Every file of the spool with its content.
    pub fn tree(&self) -> BTreeMap<String, Vec<u8>> {
        let mut tree = BTreeMap::new();
        collect(&self.home.spool, &self.home.spool, &mut tree);
        tree
    }

    pub fn serve(&self) -> Running {
        let service = service::Service::bind(&self.home).unwrap();
        let address = service.addresses()[0];
        let (input, stop) = std::io::pipe().unwrap();
        let (said, output) = std::io::pipe().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let beats = Arc::new(AtomicUsize::new(0));
        let (lines, alive) = (heard.clone(), beats.clone());
        std::thread::spawn(move || {
            for line in std::io::BufReader::new(said).lines().map_while(Result::ok) {
                match line == spool::alive::ALIVE {
                    true => drop(alive.fetch_add(1, Ordering::Relaxed)),
                    false => lines.lock().unwrap().push(line),
                }
            }
        });
        let thread = std::thread::spawn(move || service.serve(input, output).unwrap());
        Running { address, stop: Some(stop), thread: Some(thread), heard, beats }
    }
}

fn collect(root: &Path, at: &Path, tree: &mut BTreeMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(at).unwrap().map(Result::unwrap) {
        let path = entry.path();
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_string();
        if path.is_dir() {
            tree.insert(format!("{name}/"), Vec::new());
            collect(root, &path, tree);
        } else if path.is_file() {
            tree.insert(name, std::fs::read(&path).unwrap());
        }
    }
}

/// A service that ends when this is dropped.
pub struct Running {
    pub address: SocketAddr,
    pub stop: Option<std::io::PipeWriter>,
    pub thread: Option<std::thread::JoinHandle<()>>,
    pub heard: Arc<Mutex<Vec<String>>>,
    /// How often it said that it lives.
    pub beats: Arc<AtomicUsize>,
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

impl Running {
    pub fn client(&self) -> Client {
        Client::of(TcpStream::connect(self.address).unwrap())
    }

    /// Says something as this peer on a connection of its own.
    pub fn ask(&self, peer: &str, ask: Ask, msgid: MsgId) -> Option<Reply> {
        self.client().ask(peer, ask, msgid)
    }

    /// Pulls as Alice on a connection of its own.
    pub fn pull(&self, what: What, headers: &str) -> Response {
        self.client().get(&path(ALICE, what), headers)
    }
}

/// The signed path of a peer's word to us.
pub fn path(peer: &str, what: What) -> String {
    sign(&username("ours"), &what, &username(peer), &key(peer))
}

pub fn seg(msgid: MsgId, chan: Chan, n: u64, got: u64) -> What {
    What::Seg { msgid, chan, n, got }
}

pub struct Client {
    pub stream: TcpStream,
    read: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
    /// The connection ended before the body was whole.
    pub cut: bool,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

impl Client {
    pub fn of(stream: TcpStream) -> Client {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, read: Vec::new() }
    }

    pub fn send(&mut self, path: &str, headers: &str) {
        let _ = self.stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n").as_bytes());
    }

    pub fn get(&mut self, path: &str, headers: &str) -> Response {
        self.send(path, headers);
        self.receive().expect("an answer")
    }

    /// `None` if the connection ends first.
    pub fn receive(&mut self) -> Option<Response> {
        let end = loop {
            match self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                Some(at) => break at + 4,
                None if !self.more() => return None,
                None => {}
            }
        };
        let head = String::from_utf8(self.read.drain(..end).collect()).unwrap();
        let status = head[9..12].parse().unwrap();
        let mut response = Response { status, head, body: Vec::new(), cut: false };
        let length: usize = response.header("content-length").map_or(0, |length| length.parse().unwrap());
        while self.read.len() < length && !response.cut {
            response.cut = !self.more();
        }
        response.body = self.read.drain(..length.min(self.read.len())).collect();
        Some(response)
    }

    fn more(&mut self) -> bool {
        let mut buffer = vec![0; 256 << 10];
        let count = self.stream.read(&mut buffer).unwrap_or(0);
        self.read.extend_from_slice(&buffer[..count]);
        count > 0
    }

    /// Waits until the other side closes it; false if it does not.
    pub fn is_closed(&mut self) -> bool {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        }
    }

    pub fn ask(&mut self, peer: &str, ask: Ask, msgid: MsgId) -> Option<Reply> {
        let nonce = Nonce(std::array::from_fn(|at| at as u8));
        let path = path(peer, What::Request(ask, msgid, nonce));
        let response = self.get(&path, "");
        (response.status == 200).then(|| Reply::open(&response.body, &path, &key(peer)).expect("an authentic reply"))
    }
}
