//! One file of either side is damaged, or gone: the state that the product then sees.
//!
//! A damaged file is there and cannot be believed; one that is missing was
//! removed by somebody, or replaced by something that is no file of ours. Each
//! is turned into what `spool/look.rs` makes of it, or, where a rule is taken
//! out, into what a product would see that takes damage for an absence, or for
//! a sound file. Marks that count by their name alone do not change by damage.

use super::recipient::{Exit, Fetched, Job, Named, Recipient, Rqueue, Supply};
use super::rules::{CANCEL_BY_NAME, EXIT_BY_NAME, EXIT_UNREAD, RECEIPT_BY_NAME, Rules, SENT_BY_NAME, STARTED_BY_NAME};
use super::sender::{Asked, Input, Jobs, Letter, Log, Nameless, Queue, Ready, Sealed, Sender, Slip, Told};
use spool::phase::Belief;

/// A side after the loss of one file.
pub struct Harm<S> {
    /// The file, and its fate.
    pub what: &'static str,
    /// The side with it.
    pub state: S,
    /// What the other side holds of ours is no longer current.
    pub renewed: bool,
    /// The whole directory is gone, with all that it could say.
    pub forgot: bool,
}

impl<S> Harm<S> {
    fn new(what: &'static str, state: S) -> Harm<S> {
        Harm { what, state, renewed: false, forgot: false }
    }
}

impl Sender {
    /// This side with any one file damaged.
    pub fn damaged(self, rules: Rules) -> Vec<Harm<Sender>> {
        let mut harms = Vec::new();
        let mut queue = |what, change: fn(&mut Queue)| harms.push(Harm::new(what, self.in_queue(change)));
        queue("peer in the queue is damaged", |queue| queue.letter = Letter::Nameless);
        queue("message in the queue is damaged", |queue| {
            queue.letter = if queue.letter == Letter::Whole { Letter::Lost } else { queue.letter };
        });
        queue("send.rdy or onetime.pem is damaged", |queue| {
            queue.ready = if queue.ready == Ready::Absent { Ready::Absent } else { Ready::Doubted };
        });
        queue("send.ok is damaged", Queue::doubt);
        queue("ack.req is damaged", |queue| queue.ack_req = queue.ack_req.damaged());
        if self.queue.is_some_and(|queue| queue.sealed != Sealed::Absent) {
            harms.push(Harm { renewed: true, ..Harm::new("sealed is damaged", self.in_queue(Queue::lose_sealed)) });
        }
        if self.asked().is_some() {
            let nameless = Sender { jobs: Jobs::Nameless(Nameless::Fresh), ..self };
            harms.push(Harm::new("peer of the job is damaged", nameless));
        }
        let mut job = |what, change: &dyn Fn(&mut Asked)| harms.push(Harm::new(what, self.with(change)));
        job("key is damaged", &|asked| asked.key = false);
        job("receipt is damaged", &|asked| {
            let absent = rules.lacks(RECEIPT_BY_NAME);
            asked.receipt = if absent { Slip::Absent } else { asked.receipt.damaged() };
        });
        job("sent is damaged", &|asked| asked.sent &= !rules.lacks(SENT_BY_NAME));
        job("cancel is damaged", &|asked| asked.cancel &= !rules.lacks(CANCEL_BY_NAME));
        job("done is damaged", &|asked| asked.done = Told::Absent);
        job("out/1 is cut short", &|asked| {
            asked.log = if asked.input != Input::Open && asked.log == Log::Sound { Log::Cut } else { asked.log };
        });
        job("out/1 is damaged", &|asked| asked.log = if asked.log == Log::Tipped { Log::Tipped } else { Log::Spoilt });
        job("in/0 is damaged", &|asked| asked.control = false);
        job("in/2 is damaged", &|asked| asked.outputs = false);
        job("in/2 can never be completed", &|asked| asked.broken |= !(asked.outputs && asked.control));
        harms.retain(|harm| harm.state != self);
        harms
    }

    /// This side with any one file missing. A user's `cancel` that is removed is a wish that is taken back.
    pub fn missing(self) -> Vec<Harm<Sender>> {
        let mut harms = Vec::new();
        let mut queue = |what, change: fn(&mut Queue)| harms.push(Harm::new(what, self.in_queue(change)));
        queue("send.rdy is missing", |queue| queue.ready = Ready::Absent);
        queue("send.ok is missing", |queue| queue.ok = Belief::Absent);
        queue("ack.req is missing", |queue| queue.ack_req = Slip::Absent);
        queue("ack.ok is missing", |queue| queue.ack_ok = false);
        let mut job = |what, change: fn(&mut Asked)| harms.push(Harm::new(what, self.with(change)));
        job("receipt is missing", |asked| asked.receipt = Slip::Absent);
        job("sent is missing", |asked| asked.sent = false);
        if let Some(queue) = self.queue {
            let renewed = queue.sealed != Sealed::Absent;
            harms.push(Harm { renewed, ..Harm::new("queue/ID is missing", Sender { queue: None, ..self }) });
        }
        if self.jobs != Jobs::Absent {
            let gone = Sender { jobs: Jobs::Absent, ..self };
            harms.push(Harm { forgot: true, ..Harm::new("jobs/ID of the sender is no directory", gone) });
        }
        harms.retain(|harm| harm.state != self);
        harms
    }
}

impl Queue {
    fn doubt(&mut self) {
        self.ok = if self.ok == Belief::Absent { Belief::Absent } else { Belief::Doubted };
    }

    fn lose_sealed(&mut self) {
        self.doubt();
        self.sealed = Sealed::Absent;
    }
}

impl Slip {
    fn damaged(self) -> Slip {
        if self == Slip::Absent { Slip::Absent } else { Slip::Garbage }
    }
}

impl Recipient {
    /// This side with any one file damaged.
    pub fn damaged(self, rules: Rules) -> Vec<Harm<Recipient>> {
        let mut harms = Vec::new();
        if let Some(rqueue) = self.rqueue() {
            let keyed = |what, state| Harm { renewed: rqueue.key, ..Harm::new(what, state) };
            harms.push(keyed("peer in rqueue is damaged", Recipient::Rqueue(None)));
            harms.push(keyed("onetime/ in rqueue is damaged", self.in_rqueue(Rqueue::lose_key)));
        }
        let mut rqueue = |what, change: fn(&mut Rqueue)| harms.push(Harm::new(what, self.in_rqueue(change)));
        rqueue("peer.ok is damaged", Rqueue::doubt_key);
        rqueue("recv.req is damaged", |rqueue| {
            rqueue.req = if rqueue.req == Named::Absent { Named::Absent } else { Named::Doubted };
        });
        rqueue("recv.rdy or sealed is damaged", |rqueue| {
            rqueue.ready = if rqueue.ready == Fetched::Absent { Fetched::Absent } else { Fetched::Doubted };
        });
        let mut job = |what, change: &dyn Fn(&mut Job)| harms.push(Harm::new(what, self.in_job(change)));
        job("peer of the job is damaged", &|job| job.owner = false);
        job("message of the job is damaged", &|job| job.message = false);
        job("receipt of the job is damaged", &|job| job.receipt = job.receipt.damaged());
        job("run.started is damaged", &|job| job.started &= !rules.lacks(STARTED_BY_NAME));
        job("run.exit is damaged", &|job| {
            job.exit = match job.exit {
                Exit::Absent => Exit::Absent,
                _ if rules.lacks(EXIT_BY_NAME) => Exit::Absent,
                _ if rules.lacks(EXIT_UNREAD) => Exit::Ran,
                Exit::Ran | Exit::Interrupted | Exit::Idle => Exit::Interrupted,
            }
        });
        job("got is damaged", &|job| job.drained = false);
        if self.job().is_some_and(|job| job.remains) {
            job("out/2 is cut short", &|job| (job.outputs, job.drained) = (false, false));
            job("out/0 is cut short", &|job| (job.control, job.drained) = (false, false));
            job("out/2 is damaged", &Job::spoil);
            job("the end of out/2 is damaged", &|job| {
                (job.outputs, job.drained) = (false, false);
                job.spoil();
            });
            job("in/1 is damaged", &|job| job.input = Input::Open);
            job("in/1 can never be completed", &|job| job.input = Input::Aborted);
        }
        harms.retain(|harm| harm.state != self);
        harms
    }

    /// This side with any one file missing. A `cancel` that is removed is a word that is taken back.
    pub fn missing(self) -> Vec<Harm<Recipient>> {
        let mut harms = Vec::new();
        if let Some(rqueue) = self.rqueue() {
            let gone = Recipient::Nothing(Supply::Full);
            harms.push(Harm { renewed: rqueue.key, ..Harm::new("rqueue/ID is missing", gone) });
        }
        let mut rqueue = |what, change: fn(&mut Rqueue)| harms.push(Harm::new(what, self.in_rqueue(change)));
        rqueue("recv.req is missing", |rqueue| rqueue.req = Named::Absent);
        rqueue("recv.rdy is missing", |rqueue| rqueue.ready = Fetched::Absent);
        let mut job = |what, change: fn(&mut Job)| harms.push(Harm::new(what, self.in_job(change)));
        job("receipt of the job is missing", |job| job.receipt = Slip::Absent);
        job("recv.ok is missing", |job| job.unclean = true);
        job("acked is missing", |job| job.acked = false);
        job("run.started is missing", |job| job.started = false);
        job("run.exit is missing", |job| job.exit = Exit::Absent);
        job("over is missing", |job| job.over = false);
        if self.job().is_some() {
            let gone = Recipient::Nothing(Supply::Full);
            harms.push(Harm { forgot: true, ..Harm::new("jobs/ID of the recipient is no directory", gone) });
        }
        harms.retain(|harm| harm.state != self);
        harms
    }
}

impl Rqueue {
    /// Nothing vouches for the key any more, nor for what names it.
    fn doubt_key(&mut self) {
        if self.peer_ok != Belief::Absent {
            let key = self.key;
            self.lose_key();
            (self.key, self.peer_ok) = (key, Belief::Doubted);
        }
    }
}

impl Job {
    fn spoil(&mut self) {
        self.log = if self.log == Log::Tipped { Log::Tipped } else { Log::Spoilt };
    }
}
