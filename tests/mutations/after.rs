//! After the blow, while the jobs that were there are held: new ones, verbs, and rest.

use super::fault::Blow;
use super::judge::Promise;
use super::play::{Client, Ended};
use super::rest;
use super::round::{Round, stop};
use super::verbs;
use crate::homes::PLUMB;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// New jobs work, and verbs answer, within this time.
const PROMPT: Duration = Duration::from_secs(10);
/// The same for new jobs where the daemon has to be started anew, and for all in a round that is not timed.
const AT_ALL: Duration = Duration::from_secs(60);
/// When our processes are to be at rest after a blow.
const REST_AFTER: Duration = Duration::from_secs(10);

impl Round {
    /// New jobs, verbs and rest, while the jobs that were there wait for us.
    pub fn look_after_the_blow(&mut self, blow: &Blow) {
        let struck_at = Instant::now();
        self.new_jobs(0);
        self.keep_up();
        let limit = if self.timed { PROMPT } else { AT_ALL };
        let (broken, asked) = verbs::all(&self.peers, &self.ground, blow, &self.directory.join("verbs"), limit);
        self.broken.extend(broken);
        self.notes.push(format!("{asked} verbs"));
        if self.timed {
            std::thread::sleep(REST_AFTER.saturating_sub(struck_at.elapsed()));
        }
        self.rest("after the blow", self.jobs.len());
    }

    /// Notes what our processes use when they are to rest, in a round that is timed.
    pub fn rest(&mut self, when: &str, open_jobs: usize) {
        if !self.timed {
            return;
        }
        match rest::comes_to_rest(&self.directory, open_jobs, Duration::from_secs(20)) {
            Ok(used) => self.notes.push(format!("{when} {:.1} % of a processor", used / 10.0)),
            Err(what) => self.note(Promise::Rest, when, what),
        }
    }

    /// A new job in each direction, at the same time.
    pub fn new_jobs(&mut self, time: usize) {
        let started = Instant::now();
        let begin = |from: usize| {
            let to = self.peers[1 - from].name;
            let mut command = self.peers[from].command(PLUMB);
            let word = format!("new-{time}-{from}");
            command.args([to, &format!("cat; echo {word}")]).stdin(Stdio::null());
            Client::start(&word, command, self.directory.join("work").join(&word), true)
        };
        let mut clients = [begin(0), begin(1)];
        let mut anew = false;
        while clients.iter_mut().any(|client| client.ended().is_none()) && started.elapsed() < AT_ALL {
            if started.elapsed() > PROMPT && self.home_wide && !anew {
                anew = true;
                for peer in &mut self.peers {
                    stop(peer);
                    peer.up_without_waiting();
                }
            }
            self.keep_up();
            std::thread::sleep(Duration::from_millis(20));
        }
        for mut client in clients {
            let (word, ended) = (client.label.clone(), client.ended());
            client.kill();
            let said = client.said();
            let text = String::from_utf8_lossy(&said.stderr).trim_end().to_string();
            let good = |ended: &Ended| ended.status == 0 && said.stdout == format!("{word}\n").into_bytes();
            match ended {
                Some(ended) if good(&ended) && ended.took > PROMPT && self.timed && !anew => {
                    self.note(Promise::NewJob, word, format!("late: {:.1} s; {text}", ended.took.as_secs_f64()));
                }
                Some(ended) if good(&ended) => {
                    let how = if anew { ", with new daemons" } else { "" };
                    self.notes.push(format!("{word} {:.1} s{how}", ended.took.as_secs_f64()));
                }
                Some(ended) => self.note(Promise::NewJob, word, format!("status {}: {text}", ended.status)),
                None => self.note(Promise::NewJob, word, format!("not within {AT_ALL:?}; {text}")),
            }
        }
    }
}
