//! A confined service does its work, and nothing else.

mod common;

use common::{ALICE, seg, site};
use rustix::fs::{CWD, FileType, mknodat};
use service::sandbox::Confined;
use spool::fs::Fs;
use spool::layout::Place;
use spool::name::{Chan, MsgId};
use spool::url::{Ask, Word};
use std::net::{TcpListener, TcpStream};

/// Landlock confines a thread and what it starts, so a thread is enough of a
/// process here; the test's own thread stays free and is the peer.
#[test]
fn a_confined_service_works_and_reaches_neither_keys_nor_programs_nor_the_network() {
    let site = site(2);
    let job = MsgId([4; 20]);
    site.job(job, Chan::STDOUT).append(b"output").unwrap();
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    let outside = elsewhere.local_addr().unwrap();
    let service = service::Service::bind(&site.home).unwrap();
    let address = service.addresses()[0];
    let (input, stop) = std::io::pipe().unwrap();
    let (home, fs) = (site.home.clone(), site.fs.clone());
    let (tell, told) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let confined = service.confine();
        let tried = [
            ("read a private key", std::fs::read(home.config.join("private/sign.pem")).is_err()),
            ("list the private keys", std::fs::read_dir(home.config.join("private")).is_err()),
            ("write a certificate", std::fs::write(home.config.join("certs/ca.pem"), "x").is_err()),
            ("write beside the spool", std::fs::write(home.spool.join("../x"), "x").is_err()),
            ("run a program", std::process::Command::new("/bin/true").spawn().is_err()),
            ("dial", TcpStream::connect(outside).is_err()),
            ("listen", TcpListener::bind("127.0.0.1:0").is_err()),
            ("make a socket in the spool", std::os::unix::net::UnixListener::bind(home.spool.join("x.sock")).is_err()),
        ];
        assert!(fs.hint("x", b"x").is_ok());
        tell.send((confined.clone(), tried)).unwrap();
        service.serve(input, std::io::sink()).unwrap();
    });
    let (confined, tried) = told.recv().unwrap();
    println!("{confined}");
    if confined == Confined::Fully {
        for (what, refused) in tried {
            assert!(refused, "it could {what}");
        }
    }
    let (heard, beats) = Default::default();
    let running = common::Running { address, stop: Some(stop), thread: Some(thread), heard, beats };
    let reply = running.ask(ALICE, Ask::Msg, MsgId([5; 20])).unwrap();
    assert_eq!(reply.word, Word::Ok);
    assert!(site.fs.exists(&Place::Rqueue.file(MsgId([5; 20]), "peer.ok")));
    // A FIFO in the place of a message cannot be moved from here: nothing is left, and no key is lost for it.
    let keys = || site.fs.list("onetime").unwrap().len();
    let (before, odd) = (keys(), Place::Rqueue.dir(MsgId([6; 20])));
    mknodat(CWD, site.home.spool.join(&odd), FileType::Fifo, 0o600.into(), 0).unwrap();
    assert_eq!(running.ask(ALICE, Ask::Msg, MsgId([6; 20])).unwrap().word, Word::Later);
    let hidden = site.fs.list("rqueue").unwrap().into_iter().filter(|entry| entry.name.starts_with('.')).count();
    assert_eq!((keys(), hidden), (before, 0));
    assert_eq!(running.pull(seg(job, Chan::STDOUT, 0, 0), "").status, 206);
    assert_eq!(running.ask(ALICE, Ask::Cxl, job).unwrap().word, Word::Ok);
    let certificate = format!("/{}/certs/ca.pem", common::username("ours"));
    assert_eq!(running.client().get(&certificate, "").status, 200);
}
