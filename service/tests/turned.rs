//! Turned connections, with a loop that is played here.

mod common;

use common::patience::{PATIENCE, wait_until};
use common::{ALICE, Client, Running, path, seg, site, username};
use spool::atomic::Disk;
use spool::home::Home;
use spool::name::{Chan, MsgId, Nonce};
use spool::turned::{Given, Other, Way};
use spool::url::{Ask, What, Word};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

const UPGRADE: &str = "Connection: upgrade\r\nUpgrade: netplumb\r\n";

/// A loop that has met the service, and what it is given.
fn meet(home: &Home) -> (Arc<Other>, Receiver<Given>) {
    let (other, (give, given)) = (Arc::new(Other::default()), channel());
    let way = Way::connect(&Disk::open(&home.spool).unwrap()).unwrap();
    let attending = other.clone();
    std::thread::spawn(move || attending.attend(way, |it| drop(give.send(it))));
    wait_until("the loop is there", || other.is_there());
    (other, given)
}

fn turn(running: &Running, headers: &str) -> (Client, u16) {
    let mut client = running.client();
    let status = client.get(&path(ALICE, What::Turn(Nonce([1; 16]))), headers).status;
    (client, status)
}

#[test]
fn a_turned_connection_goes_to_the_loop_and_only_with_the_right_words() {
    let site = site(0);
    let running = site.serve();
    let (mut client, status) = turn(&running, UPGRADE);
    assert_eq!(status, 503, "there is no loop");
    assert!(client.is_closed());
    let (_other, given) = meet(&site.home);
    // The service knows of the loop as soon as it has accepted it.
    wait_until("it is turned", || turn(&running, UPGRADE).1 == 101);
    drop(given.recv().unwrap());
    for wrong in ["", "Connection: upgrade\r\n", "Connection: upgrade\r\nUpgrade: websocket\r\n"] {
        assert_eq!(turn(&running, wrong).1, 404, "{wrong}");
    }
    let (mut client, status) = turn(&running, UPGRADE);
    assert_eq!(status, 101);
    let mut given = given.recv_timeout(PATIENCE).unwrap();
    assert_eq!(given.peer, username(ALICE));
    given.token.write_all(b".").unwrap();
    given.stream.write_all(b"GET").unwrap();
    let mut three = [0; 3];
    client.stream.read_exact(&mut three).unwrap();
    assert_eq!(&three, b"GET", "it leads to the loop, with nothing in between");
    drop(given);
    assert!(client.is_closed(), "the service has kept no end of it");
}

#[test]
fn the_service_answers_over_what_the_loop_has_turned_and_tells_how_it_goes() {
    let site = site(0);
    let job = MsgId([4; 20]);
    site.job(job, Chan::STDOUT).append(b"output").unwrap();
    std::fs::write(site.home.config.join("netplumb.toml"), "listen = []\n").unwrap();
    let service = service::Service::bind(&site.home).unwrap();
    assert!(service.addresses().is_empty(), "it listens nowhere");
    let (input, _stop) = std::io::pipe().unwrap();
    std::thread::spawn(move || service.serve(input, std::io::sink()).unwrap());
    let (other, _given) = meet(&site.home);
    let hand_over = || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = Client::of(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        other.give(&username(ALICE), listener.accept().unwrap().0, theirs).unwrap();
        (client, ours)
    };
    let (mut client, mut token) = hand_over();
    let mut said = [0; 1];
    assert_eq!(client.ask(ALICE, Ask::Hlo, MsgId::NONE).unwrap().word, Word::Ok);
    token.read_exact(&mut said).expect("the first word is told");
    token.set_nonblocking(true).unwrap();
    assert_eq!(client.ask(ALICE, Ask::Hlo, MsgId::NONE).unwrap().word, Word::Ok);
    assert!(token.read_exact(&mut said).is_err(), "a greeting is no use");
    token.set_nonblocking(false).unwrap();
    assert_eq!(client.get(&path(ALICE, seg(job, Chan::STDOUT, 0, 0)), "").status, 206);
    token.read_exact(&mut said).expect("its use is told");
    drop(client);
    assert_eq!(token.read(&mut said).unwrap(), 0, "its end is told");

    let (mut client, token) = hand_over();
    assert_eq!(client.ask(ALICE, Ask::Hlo, MsgId::NONE).unwrap().word, Word::Ok);
    drop(token);
    assert!(client.is_closed(), "it goes with the loop that has turned it");
}
