//! The Kaltstart boot server and its client.

fn main() {}
