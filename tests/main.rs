//! The integration tests: two or more homes, and everything that can go wrong between them.
//! One program, a module per promise. The long forms run with `-- --ignored`, and print their figures.

mod alive;
mod attach;
mod away;
mod bandwidth;
mod batch;
mod by_hand;
mod clients;
mod cuts;
mod damaged;
mod deaths;
mod descriptors;
mod edited;
mod endings;
mod exchange;
mod full;
mod harm;
mod hints;
mod homes;
mod image;
mod incomplete;
#[path = "../netplumb/link.rs"]
mod link;
mod locks;
mod mutations;
mod odd;
mod patience;
mod power;
mod quota;
mod reboots;
mod secrets;
mod sim;
mod states;
mod strangers;
mod tidy;
mod torment;
mod tracked;
mod tree;
mod turned;
mod zipped;
