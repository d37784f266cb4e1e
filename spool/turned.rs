//! Handing connections from the service to the loop, and from the loop to the service.
//!
//! A turned connection is dialled by one peer and asked over by the other: at
//! one end the loop has dialled it and the service answers on it, at the other
//! the service has accepted it and the loop asks. The two processes meet at a
//! socket in the spool that the service binds. With each connection goes one
//! end of a *token*, a stream of its own: the taker says on it what becomes of
//! the connection, and when either process is done with it, or dies, the other
//! sees the token end (doc/SPOOL.md#turned).

use crate::atomic::Disk;
use crate::fs::{Error, Result};
use crate::name::Username;
use rustix::cmsg_space;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The socket's name in the spool.
const TURNED: &str = "turned";
/// The longest line: a username is 52 characters.
const LINE_MAX: usize = 64;

/// What is handed over.
#[derive(Debug)]
pub struct Given {
    /// Whom the connection leads to. Nothing has been proved of that.
    pub peer: Username,
    /// The connection.
    pub stream: TcpStream,
    /// The taker's end of the token.
    pub token: UnixStream,
}

/// The socket at which the service waits for the loop.
pub struct Meeting(OwnedFd);

impl Meeting {
    /// Binds it, in the place of a dead predecessor's.
    pub fn bind(disk: &Disk) -> Result<Meeting> {
        let trouble = |errno| Error::io("listen at", TURNED, errno);
        let socket = socket().map_err(trouble)?;
        disk.bind_socket(TURNED, &socket)?;
        rustix::net::listen(&socket, 1).map_err(trouble)?;
        Ok(Meeting(socket))
    }

    /// Waits for the loop; one at a time.
    pub fn accept(&self) -> io::Result<Way> {
        Ok(Way(rustix::net::accept_with(&self.0, SocketFlags::CLOEXEC)?))
    }
}

/// What leads to the other process, until one of the two ends.
pub struct Way(OwnedFd);

impl Way {
    /// Goes to where the service waits.
    pub fn connect(disk: &Disk) -> Result<Way> {
        let trouble = |errno| Error::io("connect to", TURNED, errno);
        let socket = socket().map_err(trouble)?;
        rustix::net::connect(&socket, &disk.socket_address(TURNED)?).map_err(trouble)?;
        Ok(Way(socket))
    }

    fn give(&self, peer: &Username, stream: impl AsFd, token: impl AsFd) -> io::Result<()> {
        let fds = [stream.as_fd(), token.as_fd()];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(2))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        let line = [IoSlice::new(peer.as_str().as_bytes())];
        // Whoever does not take what is there gets no more: a caller never waits.
        rustix::net::sendmsg(&self.0, &line, &mut ancillary, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
        Ok(())
    }

    /// Waits for what the other process gives; `None` when it is gone.
    fn take(&self) -> Option<Given> {
        loop {
            let mut line = [0; LINE_MAX];
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(2))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut into = [IoSliceMut::new(&mut line)];
            let count = match rustix::net::recvmsg(&self.0, &mut into, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => continue,
                Ok(received) if received.bytes > 0 => received.bytes,
                Ok(_) | Err(_) => return None,
            };
            let fds = ancillary.drain().flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<OwnedFd>>(),
                _ => Vec::new(),
            });
            let mut fds = fds.fuse();
            let peer = std::str::from_utf8(&line[..count]).ok().and_then(|text| text.parse().ok());
            if let (Some(peer), Some(stream), Some(token)) = (peer, fds.next(), fds.next()) {
                return Some(Given { peer, stream: stream.into(), token: token.into() });
            }
        }
    }
}

fn socket() -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// The other process, while it is there.
#[derive(Default)]
pub struct Other(Mutex<Option<Arc<Way>>>);

impl Other {
    fn way(&self) -> MutexGuard<'_, Option<Arc<Way>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Is it there?
    pub fn is_there(&self) -> bool {
        self.way().is_some()
    }

    /// Hands a connection over, with the taker's end of its token; never waits.
    pub fn give(&self, peer: &Username, stream: impl AsFd, token: impl AsFd) -> io::Result<()> {
        let way = self.way().clone().ok_or(io::ErrorKind::NotConnected)?;
        way.give(peer, stream, token)
    }

    /// Takes what the other process gives for as long as it is there, and knows the way to it meanwhile.
    pub fn attend(&self, way: Way, take: impl Fn(Given)) {
        let way = Arc::new(way);
        *self.way() = Some(way.clone());
        while let Some(given) = way.take() {
            take(given);
        }
        *self.way() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::mpsc::channel;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (stream, listener.accept().unwrap().0)
    }

    /// The path of a socket is at most 108 bytes, and a home may lie deeper.
    #[test]
    fn a_connection_goes_both_ways_with_its_token_however_deep_the_spool_lies() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::make(&directory.path().join("d".repeat(200))).unwrap();
        drop(Meeting::bind(&disk).unwrap());
        let meeting = Meeting::bind(&disk).expect("in the place of one that is gone");
        let (peer, listening) = (Username::of_ca(b"peer"), Arc::new(Other::default()));
        assert!(listening.give(&peer, std::io::stdin(), std::io::stdin()).is_err(), "nobody is there");
        let way = Way::connect(&disk).unwrap();
        let (tell, told) = channel();
        let other = listening.clone();
        let thread = std::thread::spawn(move || {
            other.attend(meeting.accept().unwrap(), |given| {
                other.give(&given.peer, &given.stream, &given.token).unwrap();
                tell.send(given.peer).unwrap();
            });
            assert!(!other.is_there());
        });
        let ((mut near, far), (mut ours, theirs)) = (pair(), UnixStream::pair().unwrap());
        way.give(&peer, &far, &theirs).unwrap();
        drop((far, theirs));
        let mut back = way.take().expect("it comes back");
        assert_eq!((&back.peer, told.recv().unwrap()), (&peer, peer.clone()));
        back.stream.write_all(b"over").unwrap();
        back.token.write_all(b"!").unwrap();
        drop(back);
        let mut text = String::new();
        near.read_to_string(&mut text).unwrap();
        ours.read_to_string(&mut text).expect("the token ends with the taker");
        assert_eq!(text, "over!");
        drop(way);
        thread.join().unwrap();
    }
}
