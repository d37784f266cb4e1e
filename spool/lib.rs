//! The disk, and what all of netplumb agrees on: names, marks, phases, the
//! grammar of requests, keys, sealed segments, and the dozen verbs that change
//! the file system.
//!
//! Nothing here talks to the network or decides what to do next; it imports
//! none of its siblings, and they meet through what it lays on the disk.
//! `layout.rs` is the map, `phase.rs` the meaning, doc/SPOOL.md the table of both.

pub mod alive;
pub mod atomic;
pub mod bucket;
pub mod clock;
pub mod control;
mod convert;
mod copy;
pub mod crypto;
pub mod damage;
pub mod facts;
pub mod fs;
pub mod home;
pub mod layout;
pub mod limit;
mod lock;
pub mod log;
pub mod look;
pub mod name;
pub mod outcome;
pub mod phase;
mod phase_job;
mod reader;
pub mod report;
pub mod retry;
pub mod roster;
pub mod segment;
pub mod size;
pub mod spool_id;
pub mod standing;
pub mod tap1;
pub mod timetable;
pub mod turned;
pub mod url;
pub mod usage;
pub mod wait;
mod writer;
mod zip;
