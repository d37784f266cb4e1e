//! A large input to a remote command that throws it away.

use crate::account::{Account, Cost};
use crate::netplumb::Netplumb;
use crate::nncp::Nncp;
use crate::ssh::Ssh;
use crate::stage::{Stage, timed};
use crate::table;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

const REMOTE: &str = "cat >/dev/null";
const CIPHER: [&str; 2] = ["-c", "aes128-gcm@openssh.com"];
const SYSTEMS: [&str; 4] = ["plumb, spool on disk", "plumb, spool on tmpfs", "ssh, aes128-gcm", "NNCP, no compression"];
const STAGES: [&str; 3] = ["  nncp-exec", "  nncp-call", "  nncp-toss"];

/// One system, once.
struct Sample {
    stages: Vec<Duration>,
    cost: Cost,
}

impl Sample {
    fn wall(&self) -> f64 {
        self.stages.iter().sum::<Duration>().as_secs_f64()
    }
}

/// Measures so many rounds, and prints them.
pub fn measure(stage: &Stage, size: u64, rounds: usize) -> anyhow::Result<()> {
    let payload = stage.payload(size)?;
    let mut samples: [Vec<Sample>; 4] = Default::default();
    for round in 1..=rounds {
        for (system, samples) in samples.iter_mut().enumerate() {
            let name = SYSTEMS[system];
            // Everybody starts anew: what one system has up costs the others nothing.
            let sample = once(stage, system, &payload)?;
            let load = crate::load();
            println!("round {round}: {name:<22} {:7.2} s  load {load}", sample.wall());
            samples.push(sample);
        }
    }
    print(size, rounds, &samples);
    Ok(())
}

/// Puts one system up, sends the payload once, and ends it.
fn once(stage: &Stage, system: usize, payload: &Path) -> anyhow::Result<Sample> {
    let name = SYSTEMS[system];
    let directories = tempfile::Builder::new();
    match system {
        0 | 1 => {
            let parent = if system == 0 { stage.on_disk("bulk")? } else { stage.in_memory("bulk")? };
            let below = directories.tempdir_in(parent)?;
            let netplumb = Netplumb::up(name, below.path())?;
            timed(netplumb.plumb("true"))?;
            let sample = sample(stage, name, || {
                let mut plumb = netplumb.plumb(REMOTE);
                plumb.stdin(File::open(payload)?);
                Ok(vec![timed(plumb)?])
            });
            crate::account::end_all();
            sample
        }
        2 => {
            let below = directories.tempdir_in(stage.short("bulk")?)?;
            let ssh = Ssh::up(name, below.path())?;
            timed(ssh.new_connection(&[], "true"))?;
            let sample = sample(stage, name, || {
                let mut client = ssh.new_connection(&CIPHER, REMOTE);
                client.stdin(File::open(payload)?);
                Ok(vec![timed(client)?])
            });
            crate::account::end_all();
            sample
        }
        _ => {
            let below = directories.tempdir_in(stage.on_disk("bulk")?)?;
            let nncp = Nncp::up(name, below.path())?;
            let sample = sample(stage, name, || Ok(vec![nncp.exec(File::open(payload)?)?, nncp.call()?, nncp.toss()?]));
            crate::account::end_all();
            sample
        }
    }
}

fn sample(stage: &Stage, name: &str, run: impl Fn() -> anyhow::Result<Vec<Duration>>) -> anyhow::Result<Sample> {
    stage.quiet();
    let account = Account::open(name);
    let stages = run();
    let cost = account.close();
    Ok(Sample { stages: stages?, cost })
}

fn print(size: u64, rounds: usize, samples: &[Vec<Sample>; 4]) {
    let median =
        |samples: &[Sample], of: &dyn Fn(&Sample) -> f64| table::median(&samples.iter().map(of).collect::<Vec<f64>>());
    let mut rows = Vec::new();
    for (name, samples) in SYSTEMS.iter().zip(samples) {
        let wall = median(samples, &Sample::wall);
        rows.push(vec![
            name.to_string(),
            format!("{wall:.2}"),
            format!("{:.2}", median(samples, &|sample| sample.cost.cpu)),
            format!("{:.0}", median(samples, &|sample| sample.cost.peak_kib as f64 / 1024.0)),
            format!("{:.0}", size as f64 / f64::from(1 << 20) / wall),
        ]);
        let stages = samples.first().map_or(0, |sample| sample.stages.len());
        for stage in (0..stages).filter(|_| stages > 1) {
            let took = median(samples, &|sample| sample.stages[stage].as_secs_f64());
            rows.push(vec![STAGES[stage].into(), format!("{took:.2}")]);
        }
    }
    let title = format!(
        "{} MiB that do not compress, from stdin to a remote `{REMOTE}`; medians of {rounds} alternating rounds",
        size >> 20
    );
    table::print(&title, &["", "wall s", "CPU s", "peak RSS MiB", "MiB/s"], &rows);
    println!(
        "  CPU: all processes of both sides, until they rest. RSS: the largest process. ssh writes nothing to disk.\n"
    );
    let ratio = |one: usize, two: usize, of: &dyn Fn(&Sample) -> f64| -> Vec<f64> {
        samples[one].iter().zip(&samples[two]).map(|(one, two)| of(one) / of(two)).collect()
    };
    table::ratio("wall: plumb (disk) / NNCP", &ratio(0, 3, &Sample::wall), "≤ 0.35");
    table::ratio("CPU: plumb (disk) / NNCP", &ratio(0, 3, &|sample| sample.cost.cpu), "≤ 0.4");
    table::ratio("throughput: plumb (tmpfs) / ssh", &ratio(2, 1, &Sample::wall), "≥ 0.7");
    table::ratio("throughput: plumb (disk) / ssh", &ratio(2, 0, &Sample::wall), "none; the aim is 1");
}
