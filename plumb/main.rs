//! `plumb HOST COMMAND`: what one types instead of ssh. All of it is in `lib.rs`,
//! so that `netplumb` called by the name `plumb` is the same program.

fn main() {
    job::run_and_exit(plumb::main)
}
