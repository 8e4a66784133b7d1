//! Exit codes of all commands.

/// What a command's exit means; the numbers are part of its contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// The token is missing or refused.
    Login = 4,
    /// What was named does not exist.
    NotFound = 5,
    /// It contradicts the state of things.
    Conflict = 6,
    /// The job that was waited for failed.
    JobFailed = 7,
    /// The job that was waited for still runs.
    WaitTimedOut = 8,
    /// The command line or configuration is wrong.
    Usage = 64,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
