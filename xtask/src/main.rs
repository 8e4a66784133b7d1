//! `cargo xtask NAME`: the repository's own tasks.

fn main() {
    println!("usage: cargo xtask demo|test|image|ramdisk");
}
