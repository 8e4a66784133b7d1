//! The Kaltstart agent: `init` of the ramdisk, and `agent report`, `agent recall`, `agent boot-order` and `agent esp` in
//! the installed system, and `agent unlock` before it starts.

use std::path::Path;
use std::process::ExitCode;

use kaltstart_agent::{boot_order, esp, pid1, recall, report, run, unlock};

fn main() -> ExitCode {
    if std::process::id() == 1 {
        run::run();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["report"] => report::run(),
        ["recall"] => recall::run(),
        ["unlock"] => unlock::run(),
        ["boot-order"] => boot_order::run(Path::new(pid1::EFIVARS)),
        ["esp"] => esp::run(),
        ["--version"] => {
            println!("kaltstart-agent {}", run::VERSION);
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!(
                "kaltstart-agent {}: runs as init of Kaltstart's ramdisk.\n\
                 usage: kaltstart-agent report        tell the server once that this system is up\n\
                 \x20      kaltstart-agent recall        ask the server whether a job calls this system back\n\
                 \x20      kaltstart-agent boot-order    set the boot order of the installation again\n\
                 \x20      kaltstart-agent esp           keep the EFI system partitions of all disks alike\n\
                 \x20      kaltstart-agent unlock        open this system's encrypted partitions",
                run::VERSION
            );
            ExitCode::from(2)
        }
    }
}
