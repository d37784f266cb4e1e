//! How a round ends: every job is let go, and what comes of it is judged.

use super::fault::SIDES;
use super::judge::{self, Broken, Promise, Seen};
use super::play::{self, Client};
use super::round::Round;
use super::zoo::{Before, Expect};
use crate::homes::NETPLUMB;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// A verb answers within this time.
const ANSWER: Duration = Duration::from_secs(10);

impl Round {
    /// Lets every job come to its end, waits for it, and judges the listings.
    pub fn let_end(&mut self) {
        let deadline = Instant::now() + judge::patience();
        for job in &mut self.jobs {
            job.release();
            if job.plan.before == Before::Hold {
                let ([_, held], [_, queued]) = (job.at(&self.peers, "hold", ""), job.at(&self.peers, "queue", ""));
                let _ = fs::rename(held, queued);
            }
        }
        let (mut waits, mut attached) = (BTreeMap::new(), BTreeSet::new());
        while Instant::now() < deadline && !self.all_ended(&mut waits, &mut attached) {
            self.keep_up();
            std::thread::sleep(Duration::from_millis(50));
        }
        let waited = waits.into_iter().map(|(n, mut client): (usize, Client)| {
            let ended = client.ended();
            client.kill();
            (n, ended, client.said())
        });
        for (n, ended, said) in waited.collect::<Vec<_>>() {
            self.judge_wait(n, ended.map(|ended| ended.status), &said);
        }
        let rows = loop {
            let rows = self.unfinished();
            if rows.is_empty() || Instant::now() > deadline {
                break rows;
            }
            self.keep_up();
            std::thread::sleep(Duration::from_millis(500));
        };
        for (side, id, what) in rows {
            let name = self.name_of(&id);
            self.note(Promise::Ends, format!("{name} at {}", SIDES[side]), what);
        }
        for (side, row) in self.rows() {
            let job = self.jobs.iter().find(|job| job.id.as_deref() == row["id"].as_str());
            let Some((name, lie)) = job.and_then(|job| Some((job.name(), judge::lies(&row, self.known_runs(job))?)))
            else {
                continue;
            };
            self.note(lie.0, format!("{name} at {}", SIDES[side]), lie.1);
        }
    }

    /// How often a command ran, as far as its spools can know of it.
    fn known_runs(&self, job: &play::Job) -> usize {
        let forgotten = job.id.as_ref().is_some_and(|id| self.may_rerun.contains(id));
        if forgotten { 0 } else { job.runs() }
    }

    /// Asks both sides for `netplumb jobs --all --json`; gives each row with its side.
    fn rows(&self) -> Vec<(usize, serde_json::Value)> {
        let of_side = |side: usize| {
            let files = self.directory.join("verbs").join(format!("rows-{}", SIDES[side]));
            let (_, said) = play::verb(&self.peers[side], &["jobs", "--all", "--json"], files, ANSWER);
            let text = String::from_utf8_lossy(&said.stdout).into_owned();
            let rows = text.lines().filter_map(|line| serde_json::from_str(line).ok());
            rows.map(|row| (side, row)).collect::<Vec<_>>()
        };
        [of_side(0), of_side(1)].concat()
    }

    /// Says whether all `plumb`s have ended. A job that was left is waited for, and then attached to.
    fn all_ended(&mut self, waits: &mut BTreeMap<usize, Client>, attached: &mut BTreeSet<usize>) -> bool {
        let mut all = true;
        for n in 0..self.jobs.len() {
            let job = &mut self.jobs[n];
            let ended = job.clients.iter_mut().filter_map(Client::ended).count() == job.clients.len();
            all &= ended;
            let (true, Some(id)) = (job.plan.is_left() && job.clients.len() == 1 && ended, job.id.clone()) else {
                continue;
            };
            let (peer, files) = (&self.peers[job.plan.from], self.directory.join("verbs").join(format!("wait-{n}")));
            let wait = waits.entry(n).or_insert_with(|| {
                let mut command = peer.command(NETPLUMB);
                command.args(["wait", &id]).stdin(Stdio::null());
                Client::start("wait", command, files, true)
            });
            all = false;
            if wait.ended().is_some() && attached.insert(n) {
                job.attach(&self.peers);
            }
        }
        all
    }

    fn name_of(&self, id: &str) -> String {
        let job = self.jobs.iter().find(|job| job.id.as_deref() == Some(id));
        job.map_or_else(|| format!("unknown {id}"), |job| job.name().to_string())
    }

    /// Lists the jobs and messages of both sides that are not at their end.
    fn unfinished(&self) -> Vec<(usize, String, String)> {
        let mut rows = Vec::new();
        for side in [0, 1] {
            for words in [&["jobs", "--all", "--json"][..], &["queue", "--json"]] {
                let files = self.directory.join("verbs").join(format!("last-{}-{}", words[0], SIDES[side]));
                let (ended, said) = play::verb(&self.peers[side], words, files, ANSWER);
                let text = String::from_utf8_lossy(&said.stdout).into_owned();
                if ended.is_none_or(|ended| ended.status != 0) {
                    rows.push((side, words[0].into(), format!("netplumb {}: {ended:?} {text}", words[0])));
                }
                let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
                for row in lines.filter(|row| row["id"].is_string()) {
                    let id = row["id"].as_str().unwrap_or_default().to_string();
                    let job = self.jobs.iter().find(|job| job.id.as_deref() == Some(&id));
                    let kept = job.is_some_and(|job| {
                        job.plan.is_left() || job.plan.before == Before::Kill || self.touched.contains(&id)
                    });
                    let what = match words[0] {
                        "queue" => Some(format!("in a queue: {row}")),
                        _ => judge::row(&row, kept),
                    };
                    rows.extend(what.map(|what| (side, id, what)));
                }
            }
        }
        rows
    }

    fn judge_wait(&mut self, n: usize, status: Option<i32>, said: &play::Said) {
        let job = &self.jobs[n];
        let (name, runs) = (job.name(), self.known_runs(job));
        let Expect::Exit(right, ..) = job.plan.expect else { return };
        let id = job.id.clone().unwrap_or_default();
        let touched = self.touched.contains(&id);
        let text = format!("netplumb wait: {status:?}: {}", String::from_utf8_lossy(&said.stderr).trim_end());
        let attached = self.jobs[n].clients.get_mut(1).and_then(|client| {
            let status = client.ended()?.status;
            Some(judge::reason(&client.said().stderr).map_or(status, |(_, number)| number))
        });
        if let (Some(waited), Some(attached)) = (status, attached)
            && !judge::agree(waited, attached)
            // A job that an old copy put back may change its outcome between the two answers.
            && !self.may_rerun.contains(&id)
        {
            self.note(Promise::Agree, name, format!("netplumb wait: {waited}, plumb -attach: {attached}"));
        }
        match status {
            None => self.note(Promise::Ends, name, text),
            Some(status) if status == right => {}
            Some(_) if !touched => self.note(Promise::Unharmed, name, text),
            Some(66) if !self.removed.contains(&id) => self.note(Promise::NotForgotten, name, text),
            Some(75 | 77) if runs > 0 => {
                self.note(Promise::TrueNotStarted, name, format!("{text}; it ran {runs} times"))
            }
            Some(66 | 74 | 75 | 76 | 77) => {}
            Some(_) => self.note(Promise::TrueStatus, name, format!("{text} for {right}")),
        }
    }

    /// Judges the ending of every `plumb`, and how often each command ran.
    pub fn judge(&mut self) {
        let mut broken = Vec::new();
        for job in &mut self.jobs {
            let (name, id, runs) = (job.name(), job.id.clone().unwrap_or_default(), job.runs());
            let (touched, removed) = (self.touched.contains(&id), self.removed.contains(&id));
            if let Some(what) = judge::runs(runs, job.plan.may_repeat()) {
                if self.may_rerun.contains(&id) {
                    self.notes.push(format!("{name}: {what}, which is documented"));
                } else {
                    broken.push(Broken { promise: Promise::Once, of: name.into(), seen: what });
                }
            }
            // A `plumb` that left its job has done its part, and a killed one says nothing.
            let skipped = usize::from(job.plan.is_left() || job.plan.before == Before::Kill);
            for client in job.clients.iter_mut().skip(skipped) {
                let status = client.ended().map(|ended| ended.status);
                client.kill();
                let said = client.said();
                let (stdout, stderr) = (said.stdout.as_slice(), said.stderr.as_slice());
                let runs = if self.may_rerun.contains(&id) { 0 } else { runs };
                let seen = Seen { status, stdout, stderr, runs, touched, removed };
                for (promise, seen) in judge::plumb(&job.plan.expect, &seen) {
                    broken.push(Broken { promise, of: client.label.clone(), seen });
                }
            }
        }
        let worked = self.broken.iter().all(|it| it.promise != Promise::NewJob);
        self.broken.extend(broken);
        if worked {
            self.new_jobs(1);
        }
    }
}
