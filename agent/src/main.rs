//! The Kaltstart agent.

fn main() {}
