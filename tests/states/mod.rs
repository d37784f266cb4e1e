//! Every state that can lie on two disks, and every state that can be reached.
//!
//! An abstract world of one message between two peers and of the job that it
//! asks for. What is next, what it changes, and what is answered is decided by
//! the product's own pure functions: `spool/phase.rs`, `loop/state.rs` and
//! `service/answer.rs`; only the files are abstract (`sender.rs`, `sending.rs`,
//! `recipient.rs`, `receiving.rs`), and the keeper's order of marks (`keeper.rs`).
//!
//! `every_state.rs`: from every content of both spools everything comes to rest
//! (`quotient.rs`, `converge.rs`). `reachable.rs`: from one message, whatever
//! goes wrong, nothing that must never be can be (`reach.rs`, `faults.rs`,
//! `history.rs`). Both begin with any file damaged or missing as well (`damage.rs`). `mutants.rs`: with any rule taken out one of them fails
//! (`rules.rs`).
//!
//! Left out: a `peer` file that is whole and names the other role, marks where
//! nobody makes them, a second message, and channels beyond the first four. Of
//! whoever carries the changes out it is assumed that what a promise rests on is
//! synced (the receipts, `over`, `run.started`, `run.exit`, a user's `cancel`),
//! that a message's lock is held from the look to the question and by a user's
//! `cancel`, and that a step is decided again after what is put down before its
//! question: `mutants.rs` shows what happens without that.

mod code;
mod converge;
mod damage;
mod every_state;
mod faults;
mod history;
mod keeper;
mod mutants;
mod quotient;
mod reach;
mod reachable;
mod receiving;
mod recipient;
mod rules;
mod sender;
mod sending;
mod words;
