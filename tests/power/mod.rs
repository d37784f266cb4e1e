//! Power cuts: the power of one machine, or of both, is cut at any moment while
//! jobs of all kinds run. A report that was made stays true, no command runs
//! twice, no byte is wrong, and everything comes to rest. The homes lie on images
//! of real file systems, which lose whatever was not synced
//! (doc/ARCHITECTURE.md#invariants). Mounting them needs root.
//!
//! `site.rs` is one side and its power, `rounds.rs` a run of cuts, `promise.rs`
//! the promises to a job whose machines lost their power. A run prints its seed,
//! and `PLUMB_SEED` sets it: it decides jobs and pauses, not the scheduling of
//! processes.

mod promise;
mod rounds;
mod site;

use crate::homes::{Chance, seed};
use crate::image::Kind;
use nix::libc::{SYS_fdatasync, SYS_fsync};
use rounds::Run;
use std::collections::BTreeMap;
use std::time::Duration;

/// Everything comes to rest within this time after a cut, on a slow machine too.
const PATIENCE: Duration = Duration::from_secs(180);
/// A control run, whose syncs are left out, often comes to no rest.
const SHORT_PATIENCE: Duration = Duration::from_secs(60);

/// Cuts the power `count` times, or until `enough` promises are broken; gives the broken promises.
/// `None` where no image can be mounted.
fn cuts(kind: Kind, count: usize, enough: usize, name: &str) -> Option<Vec<String>> {
    let patience = if enough > 1 { PATIENCE } else { SHORT_PATIENCE };
    let mut run = Run::begin(kind, Chance(seed(name)), patience)?;
    while run.tally.cuts < count && run.broken.len() < enough && !run.is_stuck {
        run.cut();
        if run.is_time_to_rest() || run.tally.cuts == count {
            run.rest();
        }
    }
    println!("{name}: {}", run.tally);
    run.broken.iter().for_each(|what| println!("{name}: {what}"));
    Some(std::mem::take(&mut run.broken))
}

fn nothing_is_broken(kind: Kind, count: usize, name: &str) {
    let Some(broken) = cuts(kind, count, 20, name) else { return };
    assert!(broken.is_empty(), "{} promises are broken, see above", broken.len());
}

#[test]
fn a_few_power_cuts_on_ext4_break_no_promise() {
    nothing_is_broken(Kind::Ext4, 4, "a_few_power_cuts_on_ext4_break_no_promise");
}

#[test]
fn a_few_power_cuts_on_xfs_break_no_promise() {
    nothing_is_broken(Kind::Xfs, 4, "a_few_power_cuts_on_xfs_break_no_promise");
}

#[test]
#[ignore = "a hundred cuts"]
fn a_hundred_power_cuts_on_ext4_break_no_promise() {
    nothing_is_broken(Kind::Ext4, 100, "a_hundred_power_cuts_on_ext4_break_no_promise");
}

#[test]
#[ignore = "a hundred cuts"]
fn a_hundred_power_cuts_on_xfs_break_no_promise() {
    nothing_is_broken(Kind::Xfs, 100, "a_hundred_power_cuts_on_xfs_break_no_promise");
}

/// Has the kernel report success for these system calls without doing them, for this thread and its children.
fn leave_out(syncs: &[i64]) {
    use seccompiler::{SeccompAction, SeccompFilter};
    let rules: BTreeMap<i64, _> = syncs.iter().map(|number| (*number, Vec::new())).collect();
    let arch = std::env::consts::ARCH.try_into().expect("a filter for this machine");
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(0), arch).expect("a filter");
    let program: seccompiler::BpfProgram = filter.try_into().expect("a filter");
    seccompiler::apply_filter(&program).expect("the kernel filters");
}

/// Shows that the other tests would see a missing sync: without these, a promise breaks within `most` cuts.
fn without(syncs: &'static [i64], kind: Kind, most: usize, name: &'static str) {
    let control = std::thread::spawn(move || {
        leave_out(syncs);
        cuts(kind, most, 1, name)
    });
    let Some(broken) = control.join().expect("a run") else { return };
    assert!(!broken.is_empty(), "syncs are left out, and {most} cuts broke no promise");
}

#[test]
fn without_syncs_power_cuts_on_ext4_break_promises() {
    without(&[SYS_fsync, SYS_fdatasync], Kind::Ext4, 20, "without_syncs_power_cuts_on_ext4_break_promises");
}

#[test]
fn without_syncs_power_cuts_on_xfs_break_promises() {
    without(&[SYS_fsync, SYS_fdatasync], Kind::Xfs, 20, "without_syncs_power_cuts_on_xfs_break_promises");
}

#[test]
#[ignore = "each kind of sync on each file system"]
fn without_one_kind_of_sync_power_cuts_break_promises() {
    for kind in [Kind::Ext4, Kind::Xfs] {
        without(&[SYS_fsync], kind, 50, "without_fsync");
        without(&[SYS_fdatasync], kind, 50, "without_fdatasync");
    }
}
