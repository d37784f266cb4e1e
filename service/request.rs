//! One request from its parsed form to its reply: observe, answer, write, say.
//!
//! Synchronous and without sockets, so that it runs in a simulator as it runs
//! here. Every round looks at the disk anew; when somebody else changed it in
//! between, it starts over, and after a few rounds the answer is LATER.

use crate::answer::{Answer, Data, Seen, Write, answer};
use crate::lock;
use crate::note::{For, Unnoted, note};
use crate::observe::{Unseen, observe, receipt, stock};
use crate::room::Room;
use spool::atomic::SICK;
use spool::clock::{Clock, boot};
use spool::fs::{Error, Fs};
use spool::home::{Peer, Settings};
use spool::layout::{ONETIME, Place, channels, log_out};
use spool::log::segments;
use spool::look::{CERT_MAX, has, mark};
use spool::name::MsgId;
use spool::outcome::Outcome;
use spool::phase::Mark;
use spool::url::{Ask, REPLY_MAX, Reply, Word};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

const ROUNDS: usize = 4;
/// What `Data::Logs` may take of a reply: the word and the MAC come on top.
const LOGS_MAX: usize = REPLY_MAX - 128;

/// Where requests are attended to.
pub struct Desk {
    fs: Arc<dyn Fs>,
    boot: String,
    room: Room,
    /// Hints of what a consumer has are read, compared and written one at a time.
    got: Mutex<()>,
    /// Messages for which a key is being set aside: it is visible before it is durable.
    claiming: Mutex<HashMap<MsgId, usize>>,
}

/// What became of a request.
#[derive(Debug)]
pub struct Attended {
    /// `None`: it is another peer's, so the answer is the stranger's.
    pub reply: Option<Reply>,
    /// What stood against it, for the log.
    pub trouble: Option<String>,
}

impl Attended {
    fn word(word: Word) -> Attended {
        Attended { reply: Some(Reply::word(word)), trouble: None }
    }

    fn later(trouble: impl ToString) -> Attended {
        Attended { trouble: Some(trouble.to_string()), ..Attended::word(Word::Later) }
    }
}

impl Desk {
    /// A desk in front of this spool.
    pub fn new(fs: Arc<dyn Fs>, settings: Settings, clock: Arc<dyn Clock>) -> Desk {
        let room = Room::new(settings, clock);
        Desk { fs, boot: boot(), room, got: Mutex::new(()), claiming: Mutex::new(HashMap::new()) }
    }

    /// Answers a request whose MAC has been verified, after noting what it says.
    pub fn attend(&self, peer: &Peer, ask: &Ask, msgid: MsgId) -> Attended {
        let fs = &*self.fs;
        if *ask == Ask::Hlo {
            return Attended::word(answer(&Seen::default(), ask).word);
        }
        let (mut no_key, mut full) = (false, None);
        for _ in 0..ROUNDS {
            let mut seen = match observe(fs, &peer.username, msgid) {
                Ok(seen) => seen,
                Err(Unseen::Disk(error)) => return Attended::later(error),
                Err(Unseen::Foreign) => {
                    return Attended { reply: None, trouble: Some("it speaks of another peer's message".into()) };
                }
            };
            if seen.job.is_none() && seen.incoming.is_none() && matches!(ask, Ask::Msg | Ask::Cxl) {
                full = self.room.full(fs, peer);
                seen.room = full.is_none();
                seen.stock = !no_key && !stock(fs).is_empty();
            }
            let said = answer(&seen, ask);
            match said.write.map(|write| self.note(peer, msgid, &write)) {
                None | Some(Ok(())) => {}
                Some(Err(Unnoted::Moved)) => continue,
                Some(Err(Unnoted::NoKey)) => {
                    no_key = true;
                    continue;
                }
                Some(Err(Unnoted::Disk(error))) => return Attended::later(error),
            }
            if let Err(error) = self.durable(msgid, &said) {
                return Attended::later(error);
            }
            let Some(data) = data(fs, msgid, said.data) else { continue };
            let trouble = full.filter(|_| said.word == Word::Later).map(|full| full.word().to_string());
            return Attended { reply: Some(Reply { word: said.word, data }), trouble };
        }
        Attended::later("its directories do not come to rest")
    }

    /// What is told must be durable here. Others make it so before they go on,
    /// but a rename is seen before it is synced.
    fn durable(&self, msgid: MsgId, said: &Answer) -> Result<(), Error> {
        let fs = &*self.fs;
        let job = Place::Jobs.dir(msgid);
        let claiming = || lock(&self.claiming).contains_key(&msgid);
        let (parent, itself) = match said.data {
            Data::None | Data::Logs => return Ok(()),
            Data::Cert => ((said.write.is_none() && claiming()).then_some(Place::Rqueue.word()), None),
            // `recv.ok` is made after the delivery is durable.
            Data::Receipt => ((!has(fs, &job, Mark::RecvOk)).then_some(Place::Jobs.word()), None),
            Data::Outcome => ((!has(fs, &job, Mark::RecvOk)).then_some(Place::Jobs.word()), Some(job.as_str())),
        };
        if (parent.is_some() || itself.is_some()) && fs.exists(SICK) {
            // A sync that failed is not repeated: it might succeed, and mean nothing.
            return Err(Error::damaged(&job, "a sync has failed since the daemon started"));
        }
        for directory in itself.into_iter().chain(parent) {
            fs.sync_dir(directory)?;
        }
        Ok(())
    }

    fn note(&self, peer: &Peer, msgid: MsgId, write: &Write) -> Result<(), Unnoted> {
        let whose = For { from: &peer.username, msgid, boot: &self.boot };
        match write {
            Write::Got(..) => {
                let _one = lock(&self.got);
                note(&*self.fs, whose, write)
            }
            Write::Claim => {
                *lock(&self.claiming).entry(msgid).or_default() += 1;
                let noted = note(&*self.fs, whose, write).inspect(|()| self.room.made(&peer.username));
                if noted.is_err() && self.fs.exists(SICK) {
                    // It may be visible and never become durable: it stays in doubt.
                    return noted;
                }
                let mut claiming = lock(&self.claiming);
                if let Some(claims) = claiming.get_mut(&msgid) {
                    *claims -= 1;
                }
                claiming.retain(|_, claims| *claims > 0);
                noted
            }
            Write::Expect | Write::Bury => note(&*self.fs, whose, write).inspect(|()| self.room.made(&peer.username)),
            _ => note(&*self.fs, whose, write),
        }
    }

    /// Notes what a puller said in passing that it holds.
    pub fn got(&self, peer: &Peer, msgid: MsgId, chan: spool::name::Chan, offset: u64) -> Option<String> {
        match self.note(peer, msgid, &Write::Got(chan, offset)) {
            Err(Unnoted::Disk(error)) => Some(error.to_string()),
            _ => None,
        }
    }
}

/// What goes with the word; `None` if it is no longer there.
fn data(fs: &dyn Fs, msgid: MsgId, data: Data) -> Option<Vec<u8>> {
    match data {
        Data::None => Some(Vec::new()),
        Data::Cert => fs.read(&Place::Rqueue.file(msgid, &format!("{ONETIME}/cert.pem")), CERT_MAX).ok(),
        Data::Receipt => receipt(fs, msgid).map(|receipt| format!("receipt {receipt}").into_bytes()),
        Data::Outcome => {
            let said =
                |of| Ok::<_, Error>(mark(fs, &Place::Jobs.dir(msgid), of)?.and_then(|facts| facts.value("outcome")));
            // Where the tombstone is damaged, how the command ended may still be known.
            let outcome = said(Mark::Over).ok()?.or(said(Mark::RunExit).ok()?).unwrap_or(Outcome::Unknown);
            Some(format!("outcome {outcome}").into_bytes())
        }
        Data::Logs => logs(fs, msgid).ok().map(String::into_bytes),
    }
}

/// One line `<chan> <first> <last>` for each outgoing log that has segments. A
/// log that is left out is gone to whoever asked.
fn logs(fs: &dyn Fs, msgid: MsgId) -> Result<String, Error> {
    let mut text = String::new();
    for chan in channels(fs, msgid, "out")? {
        let numbers = segments(fs, &log_out(msgid, chan))?;
        if let (Some(first), Some(last)) = (numbers.first(), numbers.last())
            && text.len() < LOGS_MAX - 64
        {
            let _ = writeln!(text, "{chan} {first} {last}");
        }
    }
    Ok(text)
}
